//! GPUs that predictions are made for: what NVIDIA publishes of them.

use crate::backend::gpu::driver::Capability;
use crate::backend::gpu::models;

/// Peaks and sizes of a GPU. Rates are at boost clock.
#[derive(Debug, PartialEq)]
pub struct Specs {
    /// On the command line.
    pub key: &'static str,
    /// As people know it.
    pub name: &'static str,
    /// What launch code asks a device for.
    pub capability: Capability,
    /// The architecture among those that kernels are compiled for whose code it runs, or whose
    /// registers come nearest.
    pub code: &'static str,
    /// FP32 units of a multiprocessor.
    pub fp32_units: u32,
    /// FLOP/s of the FP32 units, two a multiply-add.
    pub fp32: f64,
    /// FLOP/s of the tensor cores: bf16, sums in f32, nothing sparse.
    pub tensor: f64,
    /// How much of that `mma.sync` reaches.
    pub mma_sync: f64,
    /// Bytes a second from and to memory.
    pub memory: f64,
    /// Bytes of L2.
    pub l2: u64,
    /// Bytes a second from L2, and as many to it, where somebody says how many.
    pub l2_rate: Option<f64>,
    /// Most threads and most blocks on a multiprocessor.
    pub threads: u32,
    /// See `threads`.
    pub blocks: u32,
}

/// Registers of a multiprocessor.
pub const REGISTERS: u32 = 65_536;

/// All of them. `threads`, `blocks`: CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability".
pub static GPUS: [Specs; 6] = [
    // NVIDIA H100 Tensor Core GPU Architecture (white paper); SXM5.
    Specs {
        key: "h100",
        name: "H100 SXM",
        capability: models::H100,
        code: "90a",
        fp32_units: 128,
        fp32: 66.9e12,
        tensor: 989.4e12,
        mma_sync: HOPPER_MMA_SYNC,
        memory: 3.35e12,
        l2: 50 << 20,
        l2_rate: Some(HOPPER_L2),
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA H200 Tensor Core GPU (data sheet); SXM. The chip is the H100's.
    Specs {
        key: "h200",
        name: "H200 SXM",
        capability: models::H100,
        code: "90a",
        fp32_units: 128,
        fp32: 66.9e12,
        tensor: 989.4e12,
        mma_sync: HOPPER_MMA_SYNC,
        memory: 4.8e12,
        l2: 50 << 20,
        l2_rate: Some(HOPPER_L2),
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA A100 Tensor Core GPU Architecture (white paper), and the data sheet of
    // the one with 80 GB; SXM4.
    Specs {
        key: "a100",
        name: "A100 SXM 80 GB",
        capability: models::A100,
        code: "80",
        fp32_units: 64,
        fp32: 19.5e12,
        tensor: 312e12,
        mma_sync: 1.0,
        memory: 2.039e12,
        l2: 40 << 20,
        l2_rate: Some(5120.0 * 1.41e9), // 5120 bytes a clock
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA Ampere GA102 GPU Architecture (white paper), and the RTX A6000's data sheet.
    Specs {
        key: "a6000",
        name: "RTX A6000",
        capability: models::RTX_A6000,
        code: "80",
        fp32_units: 128,
        fp32: 38.7e12,
        tensor: 154.8e12,
        mma_sync: 1.0,
        memory: 0.768e12,
        l2: 6 << 20,
        l2_rate: None,
        threads: 1536,
        blocks: 16,
    },
    // NVIDIA Ada GPU Architecture (white paper).
    Specs {
        key: "4090",
        name: "GeForce RTX 4090",
        capability: models::RTX_4090,
        code: "80",
        fp32_units: 128,
        fp32: 82.6e12,
        tensor: 165.2e12,
        mma_sync: 1.0,
        memory: 1.008e12,
        l2: 72 << 20,
        l2_rate: None,
        threads: 1536,
        blocks: 24,
    },
    // NVIDIA RTX Blackwell GPU Architecture (white paper).
    Specs {
        key: "5090",
        name: "GeForce RTX 5090",
        capability: models::RTX_5090,
        code: "120",
        fp32_units: 128,
        fp32: 104.8e12,
        tensor: 209.5e12,
        mma_sync: 1.0,
        memory: 1.792e12,
        l2: 96 << 20,
        l2_rate: None,
        threads: 1536,
        blocks: 24,
    },
];

/// Published by nobody; what those who measured it report, about two thirds.
const HOPPER_MMA_SYNC: f64 = 0.66;
/// Published by nobody: as many bytes a clock as the A100's, at some 1.6 GHz.
const HOPPER_L2: f64 = 8e12;

/// The one with this key, in any case.
pub fn find(key: &str) -> Option<&'static Specs> {
    GPUS.iter().find(|gpu| gpu.key.eq_ignore_ascii_case(key))
}

impl Specs {
    /// Clocks a second: what the FP32 peak is made of.
    pub fn clock(&self) -> f64 {
        self.fp32 / f64::from(2 * self.fp32_units * self.capability.multiprocessors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_those_on_the_data_sheets() {
        let clock = |key| (find(key).unwrap().clock() / 1e7).round() / 100.0;
        let clocks = ["h100", "A100", "a6000", "4090", "5090"].map(clock);
        assert_eq!(clocks, [1.98, 1.41, 1.8, 2.52, 2.41]);
        assert_eq!(find("3090"), None);
    }
}
