//! Where the kernels' code lies, and what its basic blocks, as the host's compiler has compiled
//! them, compute: read from the code itself.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use std::ffi::c_void;
use std::slice;

/// `SimtCode` of `kernels/simt/abi.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    origin: u64,
    image: u64,
    low: u64,
    size: u64,
    block: u64,
    special: u64,
    fused: u64,
}

unsafe extern "C" {
    fn simt_code(function: *const c_void) -> Raw;
}

/// Arithmetic of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// So many f32 additions or subtractions.
    Add(u64),
    /// So many f32 multiplications.
    Multiply(u64),
    /// A call of `fmaf`.
    Fused,
    /// A division, a root, or a call of an exponential and the like.
    Special,
}

/// The code that a function is part of: the program's, or that of a library.
#[derive(Clone, Copy)]
pub(super) struct Code(Raw);

/// More than any basic block has.
const LONGEST: usize = 1 << 16;

impl Code {
    /// # Safety
    /// The function is the program's or that of a library, which stays loaded.
    pub(super) unsafe fn of(function: *const c_void) -> Code {
        // SAFETY: it only looks where the function lies.
        Code(unsafe { simt_code(function) })
    }

    /// The address of the image's start, if a site is an address in it.
    pub(super) fn image_of(&self, site: u64) -> Option<u64> {
        let at = self.address(site).wrapping_sub(self.0.low);
        (at < self.0.size).then_some(self.0.image)
    }

    pub(super) fn address(&self, site: u64) -> u64 {
        self.0.origin.wrapping_add(site)
    }

    /// What the basic block does that begins behind the call at `site`: its instructions' sites, and
    /// the arithmetic there.
    ///
    /// The compiler marks each basic block with a call and may afterwards cut it into pieces that
    /// it jumps between; so it ends where the next mark is.
    pub(super) fn block(&self, site: u64) -> Vec<(u64, Option<Arithmetic>)> {
        let mut found = Vec::new();
        let mut decoder = self.decoder(self.address(site));
        let mut instruction = Instruction::default();
        for _ in 0..LONGEST {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            let target = target(&instruction);
            match instruction.flow_control() {
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => break,
                FlowControl::Call | FlowControl::IndirectCall if target == self.0.block => break,
                FlowControl::UnconditionalBranch => {
                    decoder = self.decoder(target);
                    continue;
                }
                _ => {}
            }
            let calls = instruction.is_call_near() || instruction.is_call_near_indirect();
            let arithmetic = match instruction.mnemonic() {
                _ if calls && target == self.0.special => Some(Arithmetic::Special),
                _ if calls && target == self.0.fused => Some(Arithmetic::Fused),
                Mnemonic::Addss | Mnemonic::Subss => Some(Arithmetic::Add(1)),
                Mnemonic::Addps | Mnemonic::Subps => Some(Arithmetic::Add(4)),
                Mnemonic::Mulss => Some(Arithmetic::Multiply(1)),
                Mnemonic::Mulps => Some(Arithmetic::Multiply(4)),
                Mnemonic::Divss | Mnemonic::Sqrtss => Some(Arithmetic::Special),
                _ => None,
            };
            found.push((instruction.ip().wrapping_sub(self.0.origin), arithmetic));
        }
        found
    }

    /// From an address of the code on; it has nothing to decode if there is no code.
    fn decoder(&self, address: u64) -> Decoder<'static> {
        // SAFETY: that is where the loader has put the code, readable, for as long as the program
        // runs; nothing writes to it.
        let bytes = unsafe { slice::from_raw_parts(self.0.low as *const u8, self.0.size as usize) };
        let at = address.wrapping_sub(self.0.low) as usize;
        let rest = bytes.get(at..).unwrap_or_default();
        Decoder::with_ip(64, rest, address, DecoderOptions::NONE)
    }
}

/// Where a call or jump goes, if that is known; in a library calls of the executor go through its
/// table of addresses.
fn target(instruction: &Instruction) -> u64 {
    if !(instruction.is_call_near_indirect() && instruction.is_ip_rel_memory_operand()) {
        return instruction.near_branch_target();
    }
    // SAFETY: the processor reads it there, too; the loader has filled the table.
    unsafe { *(instruction.ip_rel_memory_address() as *const u64) }
}
