//! Device memory, and host memory that is mapped into it. No address is ever given out twice, so
//! that whoever keeps one too long is noticed; host and device find mapped memory at different
//! addresses, so that whoever mixes them up is, too.

use super::codes::{Code, INVALID_VALUE, OUT_OF_MEMORY};
use std::collections::BTreeMap;
use std::ptr::null_mut;

/// What new memory holds: nothing that anyone could take for a zero.
const JUNK: u8 = 0xa5;
/// More than this is not filled, to spare the machine.
const FILLED: usize = 64 << 20;
const PAGE: usize = 4096;

/// A range of device addresses.
struct Block {
    bytes: usize,
    /// Where the host finds it, if it is the host's.
    host: Option<u64>,
    freed: bool,
}

/// All memory that was ever given out, by device address.
pub struct Memory {
    blocks: BTreeMap<u64, Block>,
    limit: usize,
    used: usize,
}

/// What is wrong with an address.
#[derive(Debug, PartialEq)]
pub enum Misuse {
    Freed,
    Host,
}

fn map(bytes: usize, file: i32) -> Result<u64, Code> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = match file {
        -1 => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        _ => libc::MAP_SHARED,
    };
    // SAFETY: a new mapping at an address of the system's choice.
    let start = unsafe { libc::mmap(null_mut(), bytes, access, kind, file, 0) };
    match start == libc::MAP_FAILED {
        true => Err(OUT_OF_MEMORY),
        false => Ok(start as u64),
    }
}

/// Takes the pages away and keeps the addresses.
fn unmap(start: u64, bytes: usize) {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: replaces a mapping of ours, which nobody may use any more.
    unsafe { libc::mmap(start as *mut _, bytes, libc::PROT_NONE, kind, -1, 0) };
}

fn fill(start: u64, bytes: usize) {
    // SAFETY: a new mapping of that size at least.
    unsafe { std::ptr::write_bytes(start as *mut u8, JUNK, bytes.min(FILLED)) };
}

impl Memory {
    pub fn new(limit: usize) -> Memory {
        Memory {
            blocks: BTreeMap::new(),
            limit,
            used: 0,
        }
    }

    /// Bytes that are free, and all.
    pub fn info(&self) -> (usize, usize) {
        (self.limit - self.used, self.limit)
    }

    pub fn alloc(&mut self, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes > self.limit - self.used {
            return Err(OUT_OF_MEMORY);
        }
        let start = map(bytes.next_multiple_of(PAGE), -1)?;
        fill(start, bytes);
        self.used += bytes;
        self.keep(start, bytes, None);
        Ok(start)
    }

    /// Pinned memory: where the host finds it.
    pub fn alloc_host(&mut self, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let size = bytes.next_multiple_of(PAGE);
        // SAFETY: a literal for a name; the file is closed once both mappings hold it.
        let file = unsafe { libc::memfd_create(c"pinned".as_ptr(), 0) };
        // SAFETY: a file descriptor, or -1, which fails.
        let sized = unsafe { libc::ftruncate(file, size as i64) } == 0;
        let mapped = match sized {
            true => map(size, file).and_then(|host| Ok((host, map(size, file)?))),
            false => Err(OUT_OF_MEMORY),
        };
        // SAFETY: ours, or -1, which does nothing.
        unsafe { libc::close(file) };
        let (host, device) = mapped?;
        fill(host, bytes);
        self.keep(device, bytes, Some(host));
        Ok(host)
    }

    fn keep(&mut self, start: u64, bytes: usize, host: Option<u64>) {
        let freed = false;
        self.blocks.insert(start, Block { bytes, host, freed });
    }

    /// Frees device memory, or none.
    pub fn free(&mut self, address: u64) -> Result<(), Code> {
        match self.blocks.get_mut(&address) {
            Some(block) if block.host.is_none() && !block.freed => {
                block.freed = true;
                self.used -= block.bytes;
                unmap(address, block.bytes.next_multiple_of(PAGE));
                Ok(())
            }
            _ => Err(INVALID_VALUE),
        }
    }

    fn pinned(&mut self, host: u64) -> Result<(u64, &mut Block), Code> {
        let live = |block: &Block| block.host == Some(host) && !block.freed;
        let mut all = self.blocks.iter_mut();
        let found = all.find(|(_, block)| live(block)).ok_or(INVALID_VALUE)?;
        Ok((*found.0, found.1))
    }

    /// Where the device finds pinned memory.
    pub fn device_address(&mut self, host: u64) -> Result<u64, Code> {
        self.pinned(host).map(|(address, _)| address)
    }

    /// Frees pinned memory.
    pub fn free_host(&mut self, host: u64) -> Result<(), Code> {
        let (address, block) = self.pinned(host)?;
        block.freed = true;
        let size = block.bytes.next_multiple_of(PAGE);
        unmap(host, size);
        unmap(address, size);
        Ok(())
    }

    /// Whether so many bytes from an address on are in one live block.
    pub fn holds(&self, address: u64, bytes: usize) -> bool {
        let before = self.blocks.range(..=address).next_back();
        before.is_some_and(|(start, block)| {
            !block.freed && address - start + bytes as u64 <= block.bytes as u64
        })
    }

    /// What is wrong with eight bytes of an argument, if they are an address at all.
    pub fn misuse(&self, word: u64) -> Option<Misuse> {
        if let Some((start, block)) = self.blocks.range(..=word).next_back()
            && word - start < block.bytes as u64
        {
            return block.freed.then_some(Misuse::Freed);
        }
        let of_host = |block: &Block| {
            let host = block.host?;
            (word >= host && word - host < block.bytes as u64).then_some(block.freed)
        };
        let freed = self.blocks.values().find_map(of_host)?;
        Some(if freed { Misuse::Freed } else { Misuse::Host })
    }

    /// All of it goes with its context.
    pub fn forget(&mut self) {
        self.blocks
            .values_mut()
            .for_each(|block| block.freed = true);
        self.used = 0;
    }

    /// Blocks that nobody has freed: of device memory, and of pinned memory.
    pub fn alive(&self) -> (usize, usize) {
        let live = || self.blocks.values().filter(|block| !block.freed);
        let pinned = live().filter(|block| block.host.is_some()).count();
        (live().count() - pinned, pinned)
    }
}
