//! Inline PTX: instructions become statements over variables (`kernels/cuda/ptx.h`), which the
//! operands are copied to and from.

use super::tokens::Kind;
use super::{Result, Unit};
use std::fmt::Write as _;
use std::ops::Range;

/// An operand of an `asm` statement: `"=r"(expression)`.
struct Bound {
    constraint: String,
    expression: String,
}

impl Bound {
    /// The type of its register.
    fn kind(&self) -> Option<&'static str> {
        Some(match self.constraint.trim_start_matches(['=', '+', '&']) {
            "r" => "uint32_t",
            "l" => "uint64_t",
            "h" => "uint16_t",
            "f" => "float",
            "d" => "double",
            "n" => "int64_t",
            _ => return None,
        })
    }

    fn is_written(&self) -> bool {
        self.constraint.starts_with(['=', '+'])
    }
}

/// An operand of an instruction, as C++.
enum Operand {
    Value(String),
    Vector(Vec<String>),
    Address(String),
}

impl Unit<'_> {
    pub(super) fn ptx(&mut self) -> Result {
        for position in 0..self.len() {
            let is_asm = matches!(self.at(position), "asm" | "__asm__" | "__asm");
            let mut open = position + 1;
            while matches!(self.at(open), "volatile" | "__volatile__" | "__volatile") {
                open += 1;
            }
            let close = self.closed(open).filter(|_| is_asm && self.at(open) == "(");
            let Some(close) = close else { continue };
            let sections = self.sections(open + 1..close - 1);
            let text = self.string(sections[0].clone());
            if !is_ptx(&text) {
                continue; // for the host
            }
            let mut operands = Vec::new();
            for section in sections[1..].iter().take(2) {
                for part in self.parts(section.clone()) {
                    let Some(expression) = (part.start..part.end).find(|at| self.at(*at) == "(")
                    else {
                        continue;
                    };
                    operands.push(Bound {
                        constraint: self.string(part.start..expression),
                        expression: self.moved(expression + 1..part.end - 1)?,
                    });
                }
            }
            match statements(&text, &operands) {
                Ok(code) => {
                    self.erase(position..close);
                    self.replace(position, code);
                }
                Err(what) => {
                    return self.refused(
                        position,
                        format!(
                            "inline PTX {what:?} is not run here; use the CUDA function of the \
                             instruction"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// The parts of an `asm` statement between colons.
    fn sections(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let (mut sections, mut from, mut at) = (Vec::new(), range.start, range.start);
        while at < range.end {
            if matches!(self.at(at), "(" | "[" | "{") {
                at = self.closed(at).unwrap_or(range.end);
                continue;
            }
            if self.at(at) == ":" {
                sections.push(from..at);
                from = at + 1;
            }
            at += 1;
        }
        sections.push(from..range.end);
        sections
    }

    /// What string literals say together.
    fn string(&self, range: Range<usize>) -> String {
        let literals = range.filter(|at| self.is(*at, Kind::Literal));
        let inner = |at: usize| {
            let text = self.at(at);
            let (from, to) = (text.find('"')?, text.rfind('"')?);
            text.get(from + 1..to)
        };
        let text: String = literals.filter_map(inner).collect();
        text.replace("\\n", "\n")
            .replace("\\t", " ")
            .replace("\\r", "")
    }
}

/// Whether that is for a GPU: opcodes with dots, or a block of its own.
fn is_ptx(text: &str) -> bool {
    let first = text.trim_start().trim_start_matches('{').trim_start();
    let word = first.split([' ', ';', '\n']).next().unwrap_or("");
    let dotted =
        word.contains('.') && word.starts_with(|c: char| c.is_ascii_lowercase() || c == '.');
    dotted || word.starts_with('@') || matches!(word, "trap" | "exit" | "brkpt")
}

/// All of it as one statement; or the instruction that is not known.
fn statements(text: &str, operands: &[Bound]) -> std::result::Result<String, String> {
    let mut code = "do { ".to_string();
    for (i, bound) in operands.iter().enumerate() {
        let kind = bound.kind().ok_or_else(|| bound.constraint.clone())?;
        let expression = &bound.expression;
        let _ = match bound.constraint.starts_with('=') {
            true => write!(code, "{kind} simt_p{i} = 0; "),
            false => write!(
                code,
                "{kind} simt_p{i} = simt::ptx::as<{kind}>({expression}); "
            ),
        };
    }
    let text = text.trim().trim_start_matches('{');
    let text = match text.matches('{').count() < text.matches('}').count() {
        true => text.trim_end().trim_end_matches('}'),
        false => text,
    };
    for line in text
        .split(';')
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let statement = instruction(line).ok_or_else(|| line.to_string())?;
        code += &statement;
        code += "; ";
    }
    for (i, bound) in operands.iter().enumerate().filter(|(_, b)| b.is_written()) {
        let _ = write!(code, "simt::ptx::set({}, simt_p{i}); ", bound.expression);
    }
    code += "} while (0)";
    Ok(code)
}

/// One instruction, or a declaration of registers.
fn instruction(line: &str) -> Option<String> {
    if let Some(guard) = line.strip_prefix('@') {
        let (predicate, rest) = guard.split_once(char::is_whitespace)?;
        let (not, name) = match predicate.strip_prefix('!') {
            Some(name) => ("!", name),
            None => ("", predicate),
        };
        return Some(format!(
            "if ({not}{}) {{ {}; }}",
            register(name)?,
            instruction(rest.trim())?
        ));
    }
    let (opcode, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let parts: Vec<&str> = opcode.split('.').collect();
    if parts == ["", "reg"] {
        let (kind, names) = rest.trim().split_once(char::is_whitespace)?;
        let kind = match kind {
            ".pred" => "bool",
            kind => type_of(kind.strip_prefix('.')?)?,
        };
        let names: Option<Vec<String>> = names.split(',').map(|n| register(n.trim())).collect();
        return Some(format!("{kind} {}", names?.join(", ")));
    }
    let operands = operands(rest)?;
    let site = "__builtin_LINE(), __builtin_FILE()";
    let values: Vec<&str> = operands.iter().filter_map(Operand::value).collect();
    match (parts.as_slice(), operands.as_slice()) {
        (["bar" | "barrier", "sync", ..], [Operand::Value(id)]) if id == "0" => {
            Some("__syncthreads()".into())
        }
        (["bar", "warp", "sync"], [Operand::Value(mask)]) => Some(format!("__syncwarp({mask})")),
        (["membar" | "fence", ..], []) => Some("__threadfence()".into()),
        (["trap" | "brkpt"], []) => Some("__trap()".into()),
        (["exit"], []) => Some("return".into()),
        (["prefetch" | "prefetchu" | "discard" | "applypriority", ..] | ["nanosleep", ..], _) => {
            Some("(void)0".into())
        }
        (["cp", "async", "commit_group"], []) => Some("simt_copy_commit()".into()),
        (["cp", "async", "wait_all"], []) => Some("simt_copy_commit(), simt_copy_wait(0)".into()),
        (["cp", "async", "wait_group"], [Operand::Value(n)]) => {
            Some(format!("simt_copy_wait({n})"))
        }
        (
            [
                "cp",
                "async",
                "ca" | "cg",
                "shared" | "shared::cta",
                "global",
                ..,
            ],
            [
                Operand::Address(to),
                Operand::Address(from),
                Operand::Value(size),
                rest @ ..,
            ],
        ) if size == "16" => {
            let there = match rest {
                [] => "true".to_string(),
                // Bytes to copy: all or none.
                [Operand::Value(bytes)] => format!("({bytes}) != 0"),
                _ => return None,
            };
            Some(format!("simt::ptx::copy({to}, {from}, {there}, {site})"))
        }
        (
            [
                "ldmatrix",
                "sync",
                "aligned",
                "m8n8",
                "x1" | "x2" | "x4",
                rest @ ..,
                "b16",
            ],
            [to, Operand::Address(row)],
        ) => {
            let trans = rest.contains(&"trans");
            let to = to.registers().join(", ");
            Some(format!(
                "simt::ptx::ldmatrix<{trans}>(simt::ptx::at<const void>({row}), {site}, {to})"
            ))
        }
        (
            [
                "mma",
                "sync",
                "aligned",
                "m16n8k16",
                "row",
                "col",
                "f32",
                "bf16",
                "bf16",
                "f32",
            ],
            [
                Operand::Vector(d),
                Operand::Vector(a),
                Operand::Vector(b),
                Operand::Vector(c),
            ],
        ) if (d.len(), a.len(), b.len(), c.len()) == (4, 4, 2, 4) => {
            let all = [&d[..], a, b, c].concat().join(", ");
            Some(format!("simt::ptx::mma({all}, {site})"))
        }
        (["ld" | "ldu", .., last], [to, Operand::Address(address)]) => {
            let kind = type_of(last)?;
            let read = |(i, to): (usize, &&str)| format!("simt::ptx::set({to}, simt_v.v[{i}])");
            let to = to.registers();
            let count = to.len();
            let sets: Vec<String> = to.iter().enumerate().map(read).collect();
            Some(format!(
                "{{ struct alignas(sizeof({kind}) * {count}) simt_w {{ {kind} v[{count}]; }}; \
                 const simt_w simt_v = *simt::ptx::at<const simt_w>({address}); {}; }}",
                sets.join("; ")
            ))
        }
        (["st", .., last], [Operand::Address(address), from]) => {
            let kind = type_of(last)?;
            let value = |from: &&str| format!("simt::ptx::as<{kind}>({from})");
            let from = from.registers();
            let count = from.len();
            let values: Vec<String> = from.iter().map(value).collect();
            Some(format!(
                "{{ struct alignas(sizeof({kind}) * {count}) simt_w {{ {kind} v[{count}]; }}; \
                 *simt::ptx::at<simt_w>({address}) = simt_w{{{{{}}}}}; }}",
                values.join(", ")
            ))
        }
        (["mov", last], [Operand::Vector(to), Operand::Value(from)]) => {
            let (kind, half) = (type_of(last)?, type_of(&format!("b{}", width(last)? / 2))?);
            let [low, high] = to.as_slice() else {
                return None;
            };
            let shift = width(last)? / 2;
            Some(format!(
                "simt::ptx::set({low}, {half}(simt::ptx::as<{kind}>({from}))); \
                 simt::ptx::set({high}, {half}(simt::ptx::as<{kind}>({from}) >> {shift}))"
            ))
        }
        (["mov", last], [Operand::Value(to), Operand::Vector(from)]) => {
            let (kind, half) = (type_of(last)?, type_of(&format!("b{}", width(last)? / 2))?);
            let [low, high] = from.as_slice() else {
                return None;
            };
            let shift = width(last)? / 2;
            Some(format!(
                "simt::ptx::set({to}, {kind}({kind}(simt::ptx::as<{half}>({low})) | \
                 {kind}(simt::ptx::as<{half}>({high})) << {shift}))"
            ))
        }
        (["setp", compare, .., last], [Operand::Value(to), ..]) if values.len() == 3 => {
            let sign = match *compare {
                "eq" => "==",
                "ne" => "!=",
                "lt" | "lo" => "<",
                "le" | "ls" => "<=",
                "gt" | "hi" => ">",
                "ge" | "hs" => ">=",
                _ => return None,
            };
            let kind = type_of(last)?;
            let value = |v| format!("simt::ptx::as<{kind}>({v})");
            Some(format!(
                "{to} = {} {sign} {}",
                value(values[1]),
                value(values[2])
            ))
        }
        (_, [Operand::Value(to), ..]) if values.len() == operands.len() => {
            let value = computed(&parts, &values[1..])?;
            Some(format!("simt::ptx::set({to}, {value})"))
        }
        _ => None,
    }
}

/// What an instruction gives that only computes.
fn computed(parts: &[&str], from: &[&str]) -> Option<String> {
    let (name, last) = (*parts.first()?, *parts.last()?);
    let kind = type_of(last)?;
    let has = |what: &str| parts.contains(&what);
    let is_float = matches!(kind, "float" | "double");
    let value = |i: usize| from.get(i).map(|v| format!("simt::ptx::as<{kind}>({v})"));
    let rounds = has("rz") || has("rm") || has("rp") || has("sat") || has("hi") || has("cc");
    if rounds {
        return None;
    }
    if has("wide") {
        let wide = type_of(&format!("{}{}", &last[..1], 2 * width(last)?))?;
        let product = format!("{wide}({}) * {wide}({})", value(0)?, value(1)?);
        return match (name, from) {
            ("mul", [_, _]) => Some(product),
            ("mad", [_, _, c]) => Some(format!("{product} + simt::ptx::as<{wide}>({c})")),
            _ => None,
        };
    }
    let binary = match name {
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        "and" => "&",
        "or" => "|",
        "xor" => "^",
        _ => "",
    };
    Some(match (name, from.len()) {
        (_, 2) if !binary.is_empty() => format!("{kind}({} {binary} {})", value(0)?, value(1)?),
        ("mov" | "cvta", 1) => value(0)?,
        ("not", 1) => format!("{kind}(~{})", value(0)?),
        ("neg", 1) => format!("{kind}(-{})", value(0)?),
        ("abs", 1) if is_float => format!("std::fabs({})", value(0)?),
        ("min", 2) if is_float => format!("std::fmin({}, {})", value(0)?, value(1)?),
        ("max", 2) if is_float => format!("std::fmax({}, {})", value(0)?, value(1)?),
        ("min", 2) => format!("({0} < {1} ? {0} : {1})", value(0)?, value(1)?),
        ("max", 2) => format!("({0} > {1} ? {0} : {1})", value(0)?, value(1)?),
        ("mad", 3) if !is_float => format!("{kind}({} * {} + {})", value(0)?, value(1)?, value(2)?),
        ("fma" | "mad", 3) if is_float => {
            format!("std::fma({}, {}, {})", value(0)?, value(1)?, value(2)?)
        }
        ("shl" | "shr", 2) => format!("simt::ptx::{name}<{kind}>({}, {})", value(0)?, from[1]),
        ("lop3", 4) => format!("simt::ptx::lop3({})", from.join(", ")),
        ("bfind", 1) if kind == "uint32_t" => format!("simt::ptx::bfind({})", value(0)?),
        ("popc", 1) if last == "b32" => format!("uint32_t(__popc({}))", value(0)?),
        ("clz", 1) if last == "b32" => format!("uint32_t(__clz({}))", value(0)?),
        ("brev", 1) if last == "b32" => format!("__brev({})", value(0)?),
        ("ex2", 1) if is_float => format!("std::exp2({})", value(0)?),
        ("lg2", 1) if is_float => format!("std::log2({})", value(0)?),
        ("sqrt" | "sin" | "cos" | "tanh", 1) if is_float => format!("std::{name}({})", value(0)?),
        ("rcp", 1) if is_float => format!("({kind}(1) / {})", value(0)?),
        ("rsqrt", 1) if is_float => format!("({kind}(1) / std::sqrt({}))", value(0)?),
        _ => return None,
    })
}

impl Operand {
    fn value(&self) -> Option<&str> {
        match self {
            Operand::Value(value) => Some(value),
            _ => None,
        }
    }

    fn registers(&self) -> Vec<&str> {
        match self {
            Operand::Vector(all) => all.iter().map(String::as_str).collect(),
            Operand::Value(one) | Operand::Address(one) => vec![one],
        }
    }
}

/// What follows an opcode.
fn operands(text: &str) -> Option<Vec<Operand>> {
    let (mut found, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (operand, after) = if let Some(inner) = rest.strip_prefix('{') {
            let (inner, after) = inner.split_once('}')?;
            let all: Option<Vec<String>> = inner.split(',').map(|v| register(v.trim())).collect();
            (Operand::Vector(all?), after)
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (inner, after) = inner.split_once(']')?;
            let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
            let (base, offset) = (register(base.trim())?, register(offset.trim())?);
            (Operand::Address(format!("{base} + {offset}")), after)
        } else {
            let (value, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            (Operand::Value(register(value.trim())?), after)
        };
        found.push(operand);
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some(found)
}

/// A register, an operand of the statement, or a number.
fn register(text: &str) -> Option<String> {
    if let Some(name) = text.strip_prefix("%%").or_else(|| text.strip_prefix('%')) {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let number: usize = name.parse().ok()?;
            return Some(format!("simt_p{number}"));
        }
        return special(name);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_name)
    {
        return Some(format!("simt_r_{text}"));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let float = digits
        .strip_prefix("0f")
        .or_else(|| digits.strip_prefix("0F"));
    if let Some(bits) = float {
        u32::from_str_radix(bits, 16).ok()?;
        return Some(format!("__uint_as_float(0x{bits})"));
    }
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.');
    is_number.then(|| text.to_string())
}

/// A register that says where the thread is.
fn special(name: &str) -> Option<String> {
    let (register, axis) = name.split_once('.').unwrap_or((name, ""));
    let built_in = match register {
        "tid" => "threadIdx",
        "ntid" => "blockDim",
        "ctaid" => "blockIdx",
        "nctaid" => "gridDim",
        _ => "",
    };
    Some(match register {
        _ if !built_in.is_empty() && matches!(axis, "x" | "y" | "z") => {
            format!("{built_in}.{axis}")
        }
        "laneid" | "warpid" => format!("simt::ptx::{register}()"),
        "smid" => "0u".into(),
        "clock" | "clock_hi" | "clock64" | "globaltimer" => "clock64()".into(),
        "lanemask_eq" => "(1u << simt::ptx::laneid())".into(),
        "lanemask_lt" => "((1u << simt::ptx::laneid()) - 1)".into(),
        "lanemask_le" => "((2u << simt::ptx::laneid()) - 1)".into(),
        "lanemask_gt" => "~((2u << simt::ptx::laneid()) - 1)".into(),
        "lanemask_ge" => "~((1u << simt::ptx::laneid()) - 1)".into(),
        _ => return None,
    })
}

/// The bits of a type.
fn width(name: &str) -> Option<u32> {
    name.get(1..)?.parse().ok()
}

/// PTX's types as C++'s.
fn type_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "u8" | "b8" => "uint8_t",
        "s8" => "int8_t",
        "u16" | "b16" => "uint16_t",
        "s16" => "int16_t",
        "u32" | "b32" => "uint32_t",
        "s32" => "int32_t",
        "u64" | "b64" => "uint64_t",
        "s64" => "int64_t",
        "f32" => "float",
        "f64" => "double",
        _ => return None,
    })
}
