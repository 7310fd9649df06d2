//! Machine code of kernels, as nvdisasm writes it: instructions with what the compiler says of each,
//! the lines of the source that they come from, and basic blocks.

pub mod clocks;
pub mod flow;
pub mod issue;
pub mod tools;

use super::gpus::Specs;
use crate::simt::counts::{Chain, LaunchProfile};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// An instruction of a warp.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// `LDG.E.128`.
    pub opcode: String,
    /// Operands, as nvdisasm writes them.
    pub operands: String,
    /// Whether a predicate may keep lanes, or all of them, from doing it. It is issued all the same.
    pub predicated: bool,
    /// The line that it comes from: which of [`Code::chains`].
    pub chain: usize,
    /// Clocks after which the next may be issued.
    pub stall: u32,
    /// The scoreboard that its result releases, if it takes an unknown time.
    pub writes: Option<usize>,
    /// And the one that is released when its operands were read.
    pub reads: Option<usize>,
    /// Scoreboards that have to be released before, a bit each.
    pub waits: u32,
}

/// Instructions that are issued one after the other, and where it goes on from there.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Of [`Code::instructions`].
    pub instructions: Range<usize>,
    /// Blocks that may follow.
    pub next: Vec<usize>,
    /// Whether the warp may end there.
    pub ends: bool,
}

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    /// In their order, without the padding at the end.
    pub instructions: Vec<Instruction>,
    /// The first is where warps begin.
    pub blocks: Vec<Block>,
    /// Lines of the source with those that call them.
    pub chains: Vec<Chain>,
    /// Registers of a thread.
    pub registers: Option<u32>,
}

impl Instruction {
    /// `LDG` of `LDG.E.128`.
    pub fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or(&self.opcode)
    }

    /// Bytes of a lane, where it reads or writes global or shared memory: `LDG.E.128` 16.
    pub fn width(&self) -> Option<f64> {
        let is_plain = matches!(self.base(), "LDG" | "STG" | "LDS" | "STS");
        let of_part = |part| match part {
            "U8" | "S8" => Some(1.0),
            "U16" | "S16" => Some(2.0),
            "64" => Some(8.0),
            "128" => Some(16.0),
            _ => None,
        };
        let part = self.opcode.split('.').find_map(of_part);
        is_plain.then_some(part.unwrap_or(4.0))
    }

    /// Labels in its operands: `(.L_x_3)`.
    fn labels(&self) -> impl Iterator<Item = &str> {
        let is_name = |c: char| c.is_alphanumeric() || "._$".contains(c);
        let starts = self.operands.match_indices(".L_").map(|(at, _)| at);
        starts.map(move |at| {
            let text = &self.operands[at..];
            let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
            &text[..end]
        })
    }
}

/// Adds to launches what their warps issue on a GPU.
///
/// # Errors
/// Why it has no machine code of theirs to read, in words.
pub fn read(launches: &mut [LaunchProfile], specs: &Specs) -> Result<(), String> {
    let files: BTreeSet<&str> = launches.iter().map(|launch| launch.file).collect();
    let files: Vec<&str> = files.into_iter().collect();
    let code = tools::machine_code(&files, specs.code)?;
    for launch in launches {
        if let Some(code) = code.get(launch.kernel) {
            let times = flow::executions(code, &launch.trace, launch.warps());
            issue::add(launch, code, specs.capability.arch, &times);
        }
    }
    Ok(())
}

/// All kernels of what `nvdisasm -c -gi -hex` prints, by name. Lines are of those files for which there is
/// a name; registers what `ptxas -v` has said before it, if it has.
pub fn parse(text: &str, file: &dyn Fn(&str) -> Option<String>) -> HashMap<String, Code> {
    let sections = text.split("\n//--------------------- .text.").skip(1);
    // Said where it changes, also from one kernel to the next.
    let mut places = Vec::new();
    let kernel = |section: &str| {
        let (name, body) = section.split_once(' ')?;
        let parser = Parser {
            file,
            code: Code::default(),
            labels: HashMap::new(),
            known: HashMap::new(),
        };
        Some((name.to_string(), parser.read(body, &mut places)))
    };
    let mut kernels: HashMap<String, Code> = sections.filter_map(kernel).collect();
    let mut entry = "";
    for line in text.lines().filter(|line| line.starts_with("ptxas info")) {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            entry = rest.split('\'').next().unwrap_or_default();
        } else if let (Some((_, rest)), Some(code)) =
            (line.split_once(": Used "), kernels.get_mut(entry))
        {
            let count = rest.split(' ').next().unwrap_or_default();
            code.registers = count.parse().ok();
        }
    }
    kernels
}

struct Parser<'a> {
    file: &'a dyn Fn(&str) -> Option<String>,
    code: Code,
    /// Numbers of the instructions that labels stand before.
    labels: HashMap<String, usize>,
    known: HashMap<Chain, usize>,
}

impl Parser<'_> {
    fn read(mut self, text: &str, places: &mut Vec<String>) -> Code {
        let mut in_places = false;
        for line in text.lines() {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("//## File ") {
                if !in_places {
                    places.clear();
                }
                in_places = true;
                places.extend(self.place(rest));
                continue;
            }
            if let Some(label) = line.strip_suffix(':') {
                self.labels
                    .insert(label.into(), self.code.instructions.len());
            } else if let Some((low, rest)) =
                line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
            {
                in_places = false;
                match rest.trim() {
                    // The second half of an instruction's encoding.
                    "" => self.encoding(low),
                    rest => self.instruction(rest, places),
                }
            }
        }
        // Behind the last jump, which is to itself and never reached, there is nothing but padding.
        let all = &mut self.code.instructions;
        let last = all.iter().rposition(|i| i.base() != "NOP");
        all.truncate(last.map_or(0, |last| last + 1));
        self.blocks();
        self.code
    }

    /// `kernels/sgd/2_vectors.cu:17` of `"/tmp/x/kernels/sgd/2_vectors.cu", line 17 inlined at ...`.
    fn place(&self, text: &str) -> Option<String> {
        let (file, rest) = text.strip_prefix('"')?.split_once('"')?;
        let digits = rest.trim_start_matches(", line ");
        let end = digits.find(|c: char| !c.is_ascii_digit());
        let line = &digits[..end.unwrap_or(digits.len())];
        Some(format!("{}:{line}", (self.file)(file)?))
    }

    fn instruction(&mut self, text: &str, places: &[String]) {
        let text = text.split("/*").next().unwrap_or(text);
        let text = text.trim().trim_end_matches(';').trim_end();
        let (predicate, text) = match text.strip_prefix('@') {
            Some(rest) => rest
                .split_once(' ')
                .map_or((true, rest), |(_, t)| (true, t)),
            None => (false, text),
        };
        let text = text.trim_start();
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        let chain: Chain = places.join(" ");
        let fresh = self.code.chains.len();
        let at = *self.known.entry(chain.clone()).or_insert(fresh);
        if at == fresh {
            self.code.chains.push(chain);
        }
        self.code.instructions.push(Instruction {
            opcode: opcode.into(),
            operands: operands.trim().into(),
            predicated: predicate,
            chain: at,
            stall: 1,
            writes: None,
            reads: None,
            waits: 0,
        });
    }

    /// The compiler's part of an encoding, bits 105 to 121: clocks to the next instruction, a hint, the
    /// scoreboards that are set when results and operands were dealt with (7: none), and those to
    /// wait for.
    fn encoding(&mut self, hex: &str) {
        let word = u64::from_str_radix(hex.trim().trim_start_matches("0x"), 16);
        let (Ok(word), Some(last)) = (word, self.code.instructions.last_mut()) else {
            return;
        };
        let field = |at: u32, bits: u32| (word >> at & ((1 << bits) - 1)) as u32;
        let scoreboard = |n: u32| (n < 7).then_some(n as usize);
        last.stall = field(41, 4).max(1);
        last.writes = scoreboard(field(46, 3));
        last.reads = scoreboard(field(49, 3));
        last.waits = field(52, 6);
    }

    fn blocks(&mut self) {
        let all = &self.code.instructions;
        let mut starts: Vec<usize> = self.labels.values().copied().collect();
        starts.push(0);
        let leaves = |i: &Instruction| {
            matches!(i.base(), "BRA" | "BRX" | "EXIT" | "RET" | "BSYNC") || is_trap(i)
        };
        let after = all.iter().enumerate().filter(|(_, i)| leaves(i));
        starts.extend(after.map(|(at, _)| at + 1));
        starts.retain(|start| *start < all.len());
        starts.sort_unstable();
        starts.dedup();
        let block_at = |instruction: usize| starts.binary_search(&instruction).ok();
        let target = |label: &str| block_at(*self.labels.get(label)?);
        // Where lanes meet again that part behind it, by the register that keeps them.
        let mut meeting: HashMap<&str, usize> = HashMap::new();
        let mut blocks = Vec::new();
        for (number, &start) in starts.iter().enumerate() {
            let end = starts.get(number + 1).copied().unwrap_or(all.len());
            for i in all[start..end].iter().filter(|i| i.base() == "BSSY") {
                let register = i.operands.split(',').next().unwrap_or_default();
                if let Some(to) = i.labels().find_map(target) {
                    meeting.insert(register, to);
                }
            }
            let last = &all[end - 1];
            let conditional = last.predicated || last.operands.contains(',');
            let falls = |yes: bool| (yes && end < all.len()).then_some(number + 1);
            let (ends, next): (bool, Vec<Option<usize>>) = match last.base() {
                // Taken where lanes do not all come, which they do as a rule.
                "BRA" if last.opcode.contains("DIV") => (false, vec![falls(true)]),
                "BRA" => {
                    let to = last.labels().find_map(target);
                    (false, vec![to, falls(conditional)])
                }
                "BRX" => (false, last.labels().map(target).collect()),
                "EXIT" | "RET" => (true, vec![falls(last.predicated)]),
                "BSYNC" => {
                    let to = meeting.get(last.operands.as_str()).copied();
                    (false, vec![to.or(falls(true)), falls(last.predicated)])
                }
                _ if is_trap(last) => (true, vec![falls(last.predicated)]),
                _ => (false, vec![falls(true)]),
            };
            let mut next: Vec<usize> = next.into_iter().flatten().collect();
            next.dedup();
            blocks.push(Block {
                instructions: start..end,
                ends: ends || next.is_empty(),
                next,
            });
        }
        self.code.blocks = blocks;
    }
}

fn is_trap(i: &Instruction) -> bool {
    i.opcode.starts_with("BPT.TRAP")
}

/// `kernels/sgd/2_vectors.cu` of `/tmp/x/kernels/sgd/2_vectors.cu`; none of a header that is not in the
/// repository.
fn in_repository(file: &str) -> Option<String> {
    let inner = &file[file.rfind("/kernels/")? + 1..];
    // `kernels/gemm/../include/mma.cuh`
    let mut parts: Vec<&str> = Vec::new();
    for part in inner.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests;
