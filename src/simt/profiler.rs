//! Profiled launches on the SIMT executor: what warps ask of memory and what threads compute is
//! counted, by line of the source. How it works is in `kernels/simt/profile.h`.

use super::abi::{Kernel, RawLaunch, text};
use super::checker::out_of_memory;
use super::code::{Arithmetic, Code};
use super::counts::{
    Chain, Counts, Done, Event, Footprint, LaunchProfile, Line, PRIMITIVES, Request, Trace,
    Traffic, asking, file_of,
};
use super::symbols::{SYMBOLS, Site, Symbols};
use crate::backend::error::DeviceError;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Device memory that a profiler has room for.
const CAPACITY: usize = 4 << 30;

/// FLOPs of a warp's largest instruction for tensor cores: 16 x 8 x 16.
const MMA_FLOPS: u64 = 2 * 16 * 8 * 16;

/// Bytes of a sector.
const SECTOR: u64 = 32;

/// `SimtProfiler` of `kernels/simt/abi.h`.
#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

/// `SimtTally`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tally {
    kind: u32,
    size: u32,
    site: u64,
    requests: u64,
    bytes: u64,
    units: u64,
    ideal: u64,
}

/// `SimtFootprint`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawFootprint {
    read_by_blocks: u64,
    written_by_blocks: u64,
    read: u64,
    written: u64,
    waits: u64,
    run: u64,
    static_shared: u32,
}

/// `SimtRequest`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawRequest {
    kind: u32,
    block: u32,
    warp: u32,
    turn: u32,
    lanes: u32,
    size: u32,
    address: [u64; 32],
}

unsafe extern "C" {
    fn simt_profiler_new(capacity: usize, budget: u64, most_blocks: u64) -> *mut Raw;
    fn simt_profiler_delete(profiler: *mut Raw);
    fn simt_profiler_alloc(profiler: *mut Raw, bytes: usize) -> *mut u8;
    fn simt_launch_profiled(
        profiler: *mut Raw,
        kernel: *const Kernel,
        launch: *const RawLaunch,
        args: *mut *mut c_void,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    fn simt_profiler_tallies(
        profiler: *const Raw,
        footprint: *mut RawFootprint,
        tallies: *mut *const Tally,
    ) -> usize;
    fn simt_profiler_keep(profiler: *mut Raw);
    fn simt_profiler_requests(profiler: *const Raw, requests: *mut *const RawRequest) -> usize;
}

/// A launch as it was counted.
struct Counted {
    kernel: &'static str,
    file: &'static str,
    grid: [u32; 3],
    threads: u32,
    dynamic_shared: u32,
    footprint: RawFootprint,
    tallies: Vec<Tally>,
    code: Code,
    requests: Vec<RawRequest>,
}

/// Memory for profiled launches, and what they did.
pub struct Profiler {
    inner: Mutex<Inner>,
}

struct Inner {
    raw: NonNull<Raw>,
    launches: Vec<Counted>,
}

// SAFETY: the profiler's memory belongs to no thread, and the mutex around it lets in one at a
// time.
unsafe impl Send for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by simt_profiler_new, deleted once.
        unsafe { simt_profiler_delete(self.raw.as_ptr()) }
    }
}

impl Profiler {
    /// With nothing allocated and nothing counted. Every block of every launch is run.
    ///
    /// # Errors
    /// The system refuses the address space (some GiB, of which what is used becomes memory). A
    /// build by clang: memory is accessed there as in one by g++, but FLOPs are read from basic
    /// blocks, which are others.
    pub fn new() -> Result<Arc<Profiler>, DeviceError> {
        Profiler::limited(u64::MAX, u64::MAX)
    }

    /// The same, but of a launch that takes more accesses and basic blocks than `budget` only a
    /// sample of the blocks is run, and the others are taken to do the same:
    /// `kernels/simt/sample.h` says how they are chosen. What is not run is not written either, so
    /// later launches read zeros there.
    ///
    /// # Errors
    /// As [`new`](Profiler::new).
    pub fn sampling(budget: u64) -> Result<Arc<Profiler>, DeviceError> {
        Profiler::limited(budget, u64::MAX)
    }

    /// The same, of at most so many blocks a launch (but 3), whatever they cost and however they
    /// differ.
    ///
    /// # Errors
    /// As [`new`](Profiler::new).
    pub fn of_blocks(most: u64) -> Result<Arc<Profiler>, DeviceError> {
        Profiler::limited(u64::MAX, most)
    }

    fn limited(budget: u64, most_blocks: u64) -> Result<Arc<Profiler>, DeviceError> {
        if !cfg!(simt_counted) {
            return Err(DeviceError::NotCounted);
        }
        // SAFETY: has no preconditions.
        let raw = NonNull::new(unsafe { simt_profiler_new(CAPACITY, budget, most_blocks) });
        let raw = raw.ok_or_else(|| out_of_memory(CAPACITY))?;
        let launches = Vec::new();
        Ok(Arc::new(Profiler {
            inner: Mutex::new(Inner { raw, launches }),
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    /// Zeroed device memory that lives as long as the profiler.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError> {
        let inner = self.lock();
        // SAFETY: the profiler lives.
        let start = unsafe { simt_profiler_alloc(inner.raw.as_ptr(), bytes) };
        NonNull::new(start).ok_or_else(|| out_of_memory(bytes))
    }

    /// `simt_launch_profiled`.
    ///
    /// # Safety
    /// `kernel` is one of [`checker::kernels`](super::checker::kernels), and `args` are as many as
    /// it has parameters, each of their sizes.
    pub(crate) unsafe fn launch(
        &self,
        kernel: *const Kernel,
        raw: &RawLaunch,
        args: &mut [*mut c_void],
        error: &mut [u8],
    ) -> i32 {
        let mut inner = self.lock();
        let profiler = inner.raw.as_ptr();
        // SAFETY: the profiler lives and is ours alone as long as the lock is; the caller vouches
        // for the rest.
        let failed = unsafe {
            simt_launch_profiled(
                profiler,
                kernel,
                raw,
                args.as_mut_ptr(),
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        let mut kept = std::ptr::null();
        // SAFETY: so many requests lie there until the next launch, which waits for the lock.
        let requests = unsafe {
            match simt_profiler_requests(profiler, &mut kept) {
                0 => &[],
                count => std::slice::from_raw_parts(kept, count),
            }
        };
        let mut footprint = RawFootprint::default();
        let mut start = std::ptr::null();
        // SAFETY: so many tallies lie there until the next launch, which waits for the lock; there
        // is always an array, if only of none.
        let tallies = unsafe {
            let count = simt_profiler_tallies(profiler, &mut footprint, &mut start);
            if count == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(start, count)
            }
        };
        // SAFETY: kernels and their names are constants of the program, or of a library that stays.
        let (name, file, code) = unsafe {
            let kernel = &*kernel;
            (
                text(kernel.name),
                text(kernel.file),
                Code::of(kernel.code()),
            )
        };
        inner.launches.push(Counted {
            kernel: name,
            file,
            grid: raw.grid,
            threads: raw.block.iter().product(),
            dynamic_shared: raw.dynamic_shared,
            footprint,
            tallies: tallies.to_vec(),
            code,
            requests: requests.to_vec(),
        });
        failed
    }

    /// Keeps every request of the launches from here on, some 300 bytes each: for small launches.
    pub fn keep_requests(&self) {
        let inner = self.lock();
        // SAFETY: the profiler lives, and is ours alone as long as the lock is.
        unsafe { simt_profiler_keep(inner.raw.as_ptr()) }
    }

    /// The kernels launched since the last [`forget`](Profiler::forget), each with its requests in
    /// the order of its blocks and, within a warp, of its instructions. The driver must be idle.
    pub fn requests(&self) -> Vec<(&'static str, Vec<Request>)> {
        let inner = self.lock();
        let all = |l: &Counted| (l.kernel, l.requests.iter().map(Request::new).collect());
        inner.launches.iter().map(all).collect()
    }

    /// Forgets the launches so far.
    pub fn forget(&self) {
        self.lock().launches.clear();
    }

    /// What the launches since the last [`forget`](Profiler::forget) did. The driver must be idle.
    pub fn profiles(&self) -> Vec<LaunchProfile> {
        let inner = self.lock();
        let symbols = SYMBOLS.lock().expect("no holder panics");
        let mut reader = Reader {
            symbols: &symbols,
            sites: HashMap::new(),
            chains: HashMap::new(),
        };
        inner.launches.iter().map(|l| reader.profile(l)).collect()
    }
}

impl Request {
    fn new(raw: &RawRequest) -> Request {
        let lanes = (0..32).filter(|lane| raw.lanes >> lane & 1 == 1);
        Request {
            shared: raw.kind >= 3,
            write: raw.kind % 3 == 1,
            block: raw.block,
            warp: raw.warp,
            turn: raw.turn,
            size: u64::from(raw.size),
            lanes: lanes.map(|lane| (lane, raw.address[lane])).collect(),
        }
    }
}

/// Makes lines of addresses.
struct Reader<'a> {
    symbols: &'a Symbols,
    sites: HashMap<(u64, &'static str), Site>,
    chains: HashMap<u64, Chain>,
}

impl Reader<'_> {
    fn profile(&mut self, launch: &Counted) -> LaunchProfile {
        let mut lines: BTreeMap<Place, Counts> = BTreeMap::new();
        let mut trace = Trace::default();
        let warps = u64::from(launch.threads.div_ceil(32));
        for tally in &launch.tallies {
            if tally.kind == BASIC_BLOCK {
                let block = launch.code.block(tally.site);
                for (address, _) in &block {
                    let times = trace.lines.entry(self.chain(*address)).or_default();
                    *times = tally.units.max(*times);
                }
                self.add_block(&mut lines, tally, &block, launch);
            } else {
                if let Some((event, times)) = event(tally, warps) {
                    let chain = self.chain(tally.site);
                    let bytes = times * u64::from(tally.size);
                    *trace.events.entry((event, chain)).or_default() += Done { times, bytes };
                }
                let site = self.site(tally.site, launch.file);
                add(lines.entry(Place::new(site)).or_default(), tally);
            }
        }
        let footprint = Footprint {
            read_by_blocks: SECTOR * launch.footprint.read_by_blocks,
            written_by_blocks: SECTOR * launch.footprint.written_by_blocks,
            read: SECTOR * launch.footprint.read,
            written: SECTOR * launch.footprint.written,
        };
        let mut counts = Counts::default();
        lines.values().for_each(|line| counts += *line);
        LaunchProfile {
            kernel: launch.kernel,
            file: launch.file,
            grid: launch.grid,
            threads: launch.threads,
            dynamic_shared: launch.dynamic_shared,
            static_shared: launch.footprint.static_shared,
            run: launch.footprint.run,
            waits: launch.footprint.waits,
            counts,
            footprint,
            lines: lines
                .into_iter()
                .map(|(place, counts)| Line {
                    site: place.site,
                    counts,
                })
                .collect(),
            trace,
            issued: None,
        }
    }

    fn chain(&mut self, address: u64) -> Chain {
        let find = || self.symbols.chain(address);
        self.chains.entry(address).or_insert_with(find).clone()
    }

    fn site(&mut self, address: u64, file: &'static str) -> Site {
        let symbols = self.symbols;
        let find = || symbols.site_outside(address, file, &PRIMITIVES);
        self.sites
            .entry((address, file))
            .or_insert_with(find)
            .clone()
    }

    fn add_block(
        &mut self,
        lines: &mut BTreeMap<Place, Counts>,
        tally: &Tally,
        block: &[(u64, Option<Arithmetic>)],
        launch: &Counted,
    ) {
        // Additions and multiplications of each line.
        let mut work: BTreeMap<Place, [u64; 2]> = BTreeMap::new();
        for &(address, arithmetic) in block {
            let Some(arithmetic) = arithmetic else {
                continue;
            };
            let place = Place::new(self.site(address, launch.file));
            let times = tally.requests;
            if let Arithmetic::Add(n) | Arithmetic::Multiply(n) = arithmetic {
                let kind = usize::from(matches!(arithmetic, Arithmetic::Multiply(_)));
                work.entry(place).or_default()[kind] += times * n;
                continue;
            }
            let counts = lines.entry(place).or_default();
            match arithmetic {
                Arithmetic::Special => counts.special += times,
                _ => {
                    counts.flops += 2 * times;
                    counts.fusable += times;
                }
            }
        }
        // Pairs of one line first. What is left over of a statement that stands in several goes to
        // the line that multiplies.
        let left = |[adds, multiplies]: [u64; 2]| {
            let pairs = adds.min(multiplies);
            [adds - pairs, multiplies - pairs]
        };
        let sums = work
            .values()
            .map(|n| left(*n))
            .fold([0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        let mut taken = [sums[0].min(sums[1]); 2];
        for (place, done) in work {
            let [adds, multiplies] = [0, 1].map(|kind| {
                let moved = left(done)[kind].min(taken[kind]);
                taken[kind] -= moved;
                moved
            });
            let counts = lines.entry(place).or_default();
            counts.flops += done[0] + done[1] + multiplies - adds;
            counts.fusable += done[0].min(done[1]) + multiplies;
        }
    }
}

const BASIC_BLOCK: u32 = 11;

/// What a tally has of warps' instructions, of blocks of so many warps, and how many.
fn event(tally: &Tally, warps: u64) -> Option<(Event, u64)> {
    let event = match tally.kind {
        0 => Event::GlobalRead,
        1 => Event::GlobalWrite,
        2 => Event::GlobalAtomic,
        3 => Event::SharedRead,
        4 => Event::SharedWrite,
        5 => Event::SharedAtomic,
        7 => return Some((Event::Mma, tally.units / MMA_FLOPS)),
        8 => Event::Wgmma,
        9 => return Some((Event::Barrier, warps * tally.requests)),
        _ => return None,
    };
    Some((event, tally.requests))
}

/// Adds what is no basic block.
fn add(counts: &mut Counts, tally: &Tally) {
    let traffic = Traffic {
        requests: tally.requests,
        bytes: tally.bytes,
        units: tally.units,
        ideal: tally.ideal,
    };
    match tally.kind {
        0 => counts.global_read += traffic,
        1 => counts.global_write += traffic,
        2 => counts.global_atomic += traffic,
        3 => counts.shared_read += traffic,
        4 => counts.shared_write += traffic,
        5 => counts.shared_atomic += traffic,
        6 => counts.tma_bytes += tally.bytes,
        7 => counts.mma_flops += tally.units,
        8 => counts.wgmma_flops += tally.units,
        9 => counts.barriers += tally.requests,
        _ => counts.warp_ops += tally.requests,
    }
}

/// The site of a chain in a kernel of this file: as [`Line::site`] has it; none of a chain of nothing.
pub fn site(chain: &Chain, kernel_file: &str) -> Option<Site> {
    let mut places = asking(chain).split(' ').filter(|place| !place.is_empty());
    let place = places.next()?;
    let own = places.find(|place| file_of(place) == kernel_file);
    let caller = own.filter(|_| file_of(place) != kernel_file);
    Some(Site {
        place: place.into(),
        caller: caller.map(String::from),
    })
}

/// Puts lines in the order of files and lines.
pub fn sort(lines: &mut [Line]) {
    lines.sort_by_cached_key(|line| Place::new(line.site.clone()));
}

/// A site in the order of files and lines.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: String,
    line: u32,
    site: Site,
}

impl Place {
    fn new(site: Site) -> Place {
        let (file, line) = site.place.rsplit_once(':').unwrap_or((&site.place, "0"));
        Place {
            file: file.into(),
            line: line.parse().unwrap_or(0),
            site,
        }
    }
}
