//! What the basic blocks of the kernels, as the host's compiler has compiled them, compute: read
//! from the running program's own code.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

/// `SimtCode` of `kernels/simt/abi.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    image: u64,
    low: u64,
    size: u64,
    block: u64,
    special: u64,
    fused: u64,
}

unsafe extern "C" {
    fn simt_code() -> Raw;
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

/// The code of this program.
pub(super) struct Code {
    raw: Raw,
    bytes: &'static [u8],
}

/// More than any basic block has.
const LONGEST: usize = 1 << 16;

impl Code {
    /// Of the running program.
    pub(super) fn of_program() -> Code {
        // SAFETY: has no preconditions.
        let raw = unsafe { simt_code() };
        // SAFETY: that is where the loader has put the program's code, readable, for as long as it
        // runs; nothing writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(raw.low as *const u8, raw.size as usize) };
        Code { raw, bytes }
    }

    /// What the basic block does that begins behind the call at `site`: addresses, counted from the
    /// start of the image, and the arithmetic there.
    ///
    /// The compiler marks each basic block with a call and may afterwards cut it into pieces that
    /// it jumps between; so it ends where the next mark is.
    pub(super) fn arithmetic(&self, site: u64) -> Vec<(u64, Arithmetic)> {
        let mut found = Vec::new();
        let mut decoder = self.decoder(self.raw.image + site);
        let mut instruction = Instruction::default();
        for _ in 0..LONGEST {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => break,
                FlowControl::Call if target == self.raw.block => break,
                FlowControl::UnconditionalBranch => {
                    decoder = self.decoder(target);
                    continue;
                }
                _ => {}
            }
            let calls = instruction.flow_control() == FlowControl::Call;
            let arithmetic = match instruction.mnemonic() {
                _ if calls && target == self.raw.special => Arithmetic::Special,
                _ if calls && target == self.raw.fused => Arithmetic::Fused,
                Mnemonic::Addss | Mnemonic::Subss => Arithmetic::Add(1),
                Mnemonic::Addps | Mnemonic::Subps => Arithmetic::Add(4),
                Mnemonic::Mulss => Arithmetic::Multiply(1),
                Mnemonic::Mulps => Arithmetic::Multiply(4),
                Mnemonic::Divss | Mnemonic::Sqrtss => Arithmetic::Special,
                _ => continue,
            };
            found.push((instruction.ip() - self.raw.image, arithmetic));
        }
        found
    }

    /// From an address of the code on; it has nothing to decode if there is no code.
    fn decoder(&self, address: u64) -> Decoder<'static> {
        let at = address.wrapping_sub(self.raw.low) as usize;
        let rest = self.bytes.get(at..).unwrap_or_default();
        Decoder::with_ip(64, rest, address, DecoderOptions::NONE)
    }
}
