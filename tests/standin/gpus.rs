//! The GPUs that can be posed as. Limits: the CUDA programming guide's table of technical
//! specifications per compute capability.

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    /// What `STANDIN_GPU` calls it.
    pub name: &'static str,
    /// Compute capability.
    pub arch: (u32, u32),
    pub multiprocessors: u32,
    /// Most shared memory of a block that has asked for it, in bytes.
    pub block_shared: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared: u32,
}

const fn gpu(name: &'static str, arch: (u32, u32), multiprocessors: u32, kib: (u32, u32)) -> Gpu {
    Gpu {
        name,
        arch,
        multiprocessors,
        block_shared: kib.0 << 10,
        shared: kib.1 << 10,
    }
}

const ALL: [Gpu; 8] = [
    gpu("a100", (8, 0), 108, (163, 164)),
    gpu("3090", (8, 6), 82, (99, 100)),
    gpu("4090", (8, 9), 128, (99, 100)),
    gpu("h100", (9, 0), 132, (227, 228)),
    gpu("h100-mig", (9, 0), 16, (227, 228)),
    gpu("b200", (10, 0), 148, (227, 228)),
    gpu("5090", (12, 0), 170, (99, 100)),
    gpu("t4", (7, 5), 40, (64, 64)),
];

impl Gpu {
    /// What `STANDIN_GPU` asks for.
    pub fn posed() -> Gpu {
        let wish = std::env::var("STANDIN_GPU").unwrap_or_else(|_| "h100".into());
        let found = ALL.into_iter().find(|gpu| gpu.name == wish);
        found.unwrap_or_else(|| {
            let names = ALL.map(|gpu| gpu.name).join(", ");
            panic!("STANDIN_GPU={wish}: choose one of {names}")
        })
    }

    /// Most registers of a block, and of a thread.
    pub const REGISTERS: u32 = 65_536;
    /// Most threads of a block.
    pub const THREADS: u32 = 1024;
    /// Most blocks in each direction.
    pub const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
    /// Bytes of a kernel's parameters: what every architecture takes.
    pub const PARAMETERS: u32 = 4096;
    /// Shared memory that a block may have without asking, in bytes.
    pub const DEFAULT_SHARED: u32 = 48 << 10;
}
