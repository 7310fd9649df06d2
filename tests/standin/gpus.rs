//! The GPUs that can be posed as, and limits that are the same for all (CUDA C++ Programming Guide,
//! "Technical Specifications per Compute Capability").

use autoassist::backend::gpu::driver::Capability;
use autoassist::backend::gpu::models;

/// One of them.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// What `STANDIN_GPU` calls it.
    pub name: String,
    pub capability: Capability,
}

/// Before the oldest that the kernels are compiled for.
const T4: Capability = Capability {
    arch: (7, 5),
    hopper: false,
    multiprocessors: 40,
    block_shared: 64 << 10,
    shared: 64 << 10,
};

/// After all that the kernels are compiled for.
const FUTURE: Capability = Capability {
    arch: (90, 0),
    ..models::RTX_5090
};

impl Gpu {
    /// What `STANDIN_GPU` asks for.
    pub fn posed() -> Gpu {
        let name = std::env::var("STANDIN_GPU").unwrap_or_else(|_| "h100".into());
        let more = [("t4", T4), ("future", FUTURE)];
        let more = more.into_iter().find(|(known, _)| *known == name);
        let found = models::find(&name).or(more.map(|(_, capability)| capability));
        let choices = || format!("STANDIN_GPU={name}: choose {}, t4, future", models::names());
        let capability = found.unwrap_or_else(|| panic!("{}", choices()));
        Gpu { name, capability }
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
