//! Readers of published files on damaged input: an error in one line or a consistent data set,
//! never a panic, never memory on a header's word.

use autoassist::data::{DataError, Dataset, cifar10, cifar100, mnist};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest single piece of memory that was asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// The system's, watched.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call goes to `System` with the caller's arguments unchanged, and the caller keeps
// the contract that `System` asks for; counting touches nothing but an atomic.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the whole.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as for the whole; `ptr` came from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the whole.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as for the whole; `ptr` came from `System`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

/// More than any of these small files gives reason for, far less than a false header claims.
const ENOUGH: usize = 4 << 20;
/// Mutated files of each kind.
const CASES: u32 = 5000;

/// One way to damage a file; positions are taken modulo its length.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Append(Vec<u8>),
    Drop(usize, usize),
    /// Sixteen bytes from the start are where headers are.
    Header(usize, u32),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let any_bytes = || prop::collection::vec(any::<u8>(), 1..40);
    let interesting = prop_oneof![
        Just(0u32),
        Just(1),
        Just(u32::MAX),
        Just(4_000_000_000),
        Just(i32::MAX as u32),
        0u32..40,
        any::<u32>(),
    ];
    let one = prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), any_bytes()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        any_bytes().prop_map(Damage::Append),
        (any::<usize>(), 1usize..40).prop_map(|(at, n)| Damage::Drop(at, n)),
        (0usize..4, interesting).prop_map(|(word, value)| Damage::Header(word, value)),
    ];
    prop::collection::vec(one, 1..4)
}

fn apply(bytes: &mut Vec<u8>, damage: &[Damage]) {
    for one in damage {
        let within = |at: &usize| at % bytes.len().max(1);
        match one {
            Damage::Append(more) => bytes.extend(more),
            _ if bytes.is_empty() => {}
            Damage::Set(at, byte) => {
                let at = within(at);
                bytes[at] = *byte;
            }
            Damage::Flip(at, bit) => {
                let at = within(at);
                bytes[at] ^= 1 << bit;
            }
            Damage::Cut(at) => bytes.truncate(within(at)),
            Damage::Insert(at, more) => {
                let at = within(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Drop(at, n) => {
                let at = within(at);
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Damage::Header(word, value) => {
                let at = 4 * word;
                if let Some(place) = bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&value.to_be_bytes());
                }
            }
        }
    }
}

/// What must hold whatever the files are.
fn check(result: Result<Dataset, DataError>, dir: &Path) -> Result<(), TestCaseError> {
    let largest = LARGEST.load(Ordering::Relaxed);
    prop_assert!(largest < ENOUGH, "{largest} bytes at once");
    match result {
        Ok(data) => {
            for images in [&data.train, &data.test] {
                let pixels = images.len() * images.height * images.width * images.channels;
                prop_assert!(!images.is_empty() && images.pixels.len() == pixels);
                prop_assert!(
                    images
                        .labels
                        .iter()
                        .all(|&l| (l as usize) < data.classes.len())
                );
                prop_assert!(images.std.iter().all(|s| s.is_finite() && *s > 0.0));
            }
        }
        Err(error) => {
            let text = error.to_string();
            prop_assert!(!text.contains('\n'), "{text}");
            prop_assert!(text.contains(&*dir.to_string_lossy()), "{text}");
        }
    }
    Ok(())
}

/// Replaces a file. A new file, since some file systems flush one that is cut and written again.
fn put(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// Writes the files whole, then, case by case, one of them damaged, before or after `pack`, and
/// reads.
fn run(
    files: Vec<(&str, Vec<u8>)>,
    pack: fn(&[u8]) -> Vec<u8>,
    read: fn(&Path) -> Result<Dataset, DataError>,
) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for (name, bytes) in &files {
        put(&dir.join(name), &pack(bytes));
    }
    read(dir).unwrap();
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..ProptestConfig::default()
    };
    let which = 0..files.len();
    proptest!(config, |(which in which, inside in any::<bool>(), damage in damage())| {
        let (name, good) = &files[which];
        let mut bytes = if inside { good.clone() } else { pack(good) };
        apply(&mut bytes, &damage);
        put(&dir.join(name), &if inside { pack(&bytes) } else { bytes });
        let checked = check(read(dir), dir);
        put(&dir.join(name), &pack(good));
        checked?;
    });
}

fn idx_files() -> Vec<(&'static str, Vec<u8>)> {
    let file = |magic: u32, shape: &[u32]| {
        let header = [&[magic], shape].concat();
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend((0..shape.iter().product()).map(|i| (i % 10) as u8));
        bytes
    };
    vec![
        ("train-images-idx3-ubyte", file(0x803, &[12, 4, 3])),
        ("train-labels-idx1-ubyte", file(0x801, &[12])),
        ("t10k-images-idx3-ubyte", file(0x803, &[5, 4, 3])),
        ("t10k-labels-idx1-ubyte", file(0x801, &[5])),
    ]
}

#[test]
fn mutated_idx_files() {
    run(idx_files(), <[u8]>::to_vec, mnist);
}

#[test]
fn mutated_gzipped_idx_files() {
    let gzip = |bytes: &[u8]| {
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    run(idx_files(), gzip, mnist);
}

#[test]
fn mutated_cifar10_batches() {
    let batch = |n: u8| {
        let record = |label: u8| [vec![label], vec![label ^ n; 3072]].concat();
        (0..2).flat_map(record).collect::<Vec<u8>>()
    };
    let names = [
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
        "test_batch.bin",
    ];
    let mut files: Vec<_> = (0..).zip(names).map(|(n, name)| (name, batch(n))).collect();
    let classes: String = (0..10).map(|c| format!("class {c}\n")).collect();
    files.push(("batches.meta.txt", classes.into_bytes()));
    run(files, <[u8]>::to_vec, cifar10);
}

#[test]
fn mutated_cifar100_batches() {
    let record = |label: u8| [vec![label / 5, label], vec![label; 3072]].concat();
    let file = |n: u8| (0..n).flat_map(record).collect::<Vec<u8>>();
    let names: String = (0..100).map(|c| format!("class {c}\n")).collect();
    let files = vec![
        ("train.bin", file(3)),
        ("test.bin", file(2)),
        ("fine_label_names.txt", names.into_bytes()),
    ];
    run(files, <[u8]>::to_vec, cifar100);
}
