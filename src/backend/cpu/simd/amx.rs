//! Whether there are tiles: the processor and the system must have them, and the process ask for them.

use std::arch::asm;
use std::sync::LazyLock;

/// Whether this process may use the tiles of AMX.
pub(super) fn is_available() -> bool {
    static ASKED: LazyLock<bool> = LazyLock::new(request);
    *ASKED
}

/// Asks Linux for the tile registers (a process once; its threads inherit it); whether CPU and
/// system have them.
fn request() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u32 = 1 << 17 | 1 << 18;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if !is_x86_feature_detected!("avx512f") || __cpuid(0).eax < 7 {
        return false;
    }
    if __cpuid_count(7, 0).edx & BF16_AND_TILES != BF16_AND_TILES || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: `xgetbv` of register 0 exists where the system uses `xsave`, as was just seen.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack));
    }
    // SAFETY: a question to the system that changes nothing but what this process may use.
    enabled & TILE_STATE == TILE_STATE
        && unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        } == 0
}
