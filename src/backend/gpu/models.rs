//! GPUs that there are, as launch code sees them. Sizes: CUDA C++ Programming Guide, "Technical
//! Specifications per Compute Capability"; multiprocessors: NVIDIA's white papers and data sheets.

use super::driver::Capability;

/// Multiprocessors, and KiB of shared memory of each and of a block at most.
const fn model(arch: (u32, u32), multiprocessors: u32, [shared, block]: [u32; 2]) -> Capability {
    Capability {
        arch,
        hopper: arch.0 == 9,
        multiprocessors,
        block_shared: block << 10,
        shared: shared << 10,
    }
}

const AMPERE: [u32; 2] = [164, 163];
const CONSUMER: [u32; 2] = [100, 99];
const HOPPER: [u32; 2] = [228, 227];

/// A100, SXM.
pub const A100: Capability = model((8, 0), 108, AMPERE);
/// H100, SXM; H200, too.
pub const H100: Capability = model((9, 0), 132, HOPPER);
/// RTX A6000.
pub const RTX_A6000: Capability = model((8, 6), 84, CONSUMER);
/// GeForce RTX 4090.
pub const RTX_4090: Capability = model((8, 9), 128, CONSUMER);
/// GeForce RTX 5090.
pub const RTX_5090: Capability = model((12, 0), 170, CONSUMER);

/// One for each kind that differs, and the most common ones, by the name on command lines.
pub static MODELS: [(&str, Capability); 8] = [
    ("a100", A100),
    ("3090", model((8, 6), 82, CONSUMER)),
    ("4090", RTX_4090),
    ("h100", H100),
    ("h200", H100),
    ("h100-mig", model((9, 0), 16, HOPPER)), // a seventh of one
    ("b200", model((10, 0), 148, HOPPER)),
    ("5090", RTX_5090),
];

/// The one with that name, in any case.
pub fn find(name: &str) -> Option<Capability> {
    let named = |(known, _): &&(&str, Capability)| known.eq_ignore_ascii_case(name);
    MODELS.iter().find(named).map(|(_, capability)| *capability)
}

/// All names, for people.
pub fn names() -> String {
    MODELS.map(|(name, _)| name).join(", ")
}
