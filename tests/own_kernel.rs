//! The worked example of `kernels/README.md`, "Add your own kernel in ten minutes".
#![cfg(simt)]

use autoassist::backend::DeviceError;
use autoassist::backend::gpu::driver::{Arg, Driver, Launch};
use autoassist::simt::checker::Checker;
use autoassist::simt::{Landing, Schedule, Simt};
use std::fs;
use std::path::Path;

#[test]
fn copies_every_element() -> Result<(), DeviceError> {
    for n in [1, 255, 256, 1000] {
        let checker = Checker::new()?;
        let mut device = Simt::checked(Schedule::Random(1), Landing::Late, checker.clone());
        let (from, to) = (device.alloc(4 * n)?, device.alloc(4 * n)?);
        let values: Vec<f32> = (1..=n).map(|i| i as f32).collect();
        device.upload(from, bytemuck::cast_slice(&values))?;
        device.launch(&Launch {
            kernel: "copy_elements",
            grid: [n.div_ceil(256) as u32, 1, 1],
            threads: 256,
            shared: 0,
            args: vec![Arg::Ptr(from), Arg::Ptr(to), Arg::U32(n as u32)],
            scratch: None,
        })?;
        let mut copied = vec![0.0_f32; n];
        device.download(to, bytemuck::cast_slice_mut(&mut copied))?;
        assert_eq!(copied, values);
        assert!(checker.findings().is_empty(), "{:?}", checker.findings());
    }
    Ok(())
}

/// Every block below the name of a file is in that file, as it stands.
#[test]
fn the_text_quotes_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| {
        let text = fs::read_to_string(root.join(file));
        text.unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    let readme = read("kernels/README.md");
    let (_, section) = readme
        .split_once("\n## Add your own kernel")
        .expect("a section");
    let section = section.split("\n## ").next().expect("it has a text");
    let parts: Vec<&str> = section.split("\n```").collect();
    let mut quoted = 0;
    for part in parts.chunks_exact(2) {
        let (heading, block) = (part[0].lines().last(), part[1].split_once('\n'));
        let file = heading.and_then(|line| line.strip_prefix("**`")?.strip_suffix("`**"));
        let (Some(file), Some((_, block))) = (file, block) else {
            continue;
        };
        assert!(read(file).contains(block), "not in {file}:\n{block}");
        quoted += 1;
    }
    assert_eq!(quoted, 8);
}

/// Links to lines of a file are to whole pieces of it: what is before and behind is something else.
#[test]
fn lines_to_read_are_whole_pieces() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let readme = fs::read_to_string(kernels.join("README.md")).expect("a README");
    let links = readme.split("](").skip(1).filter_map(|link| {
        let (link, _) = link.split_once(')')?;
        link.split_once("#L")
    });
    let mut all = 0;
    for (file, lines) in links {
        let text = fs::read_to_string(kernels.join(file));
        let text = text.unwrap_or_else(|e| panic!("{file}: {e}"));
        let text: Vec<&str> = text.lines().collect();
        let ends = lines.split_once("-L").expect("a range");
        let number = |n: &str| n.parse::<usize>().expect("a number");
        let (first, last) = (number(ends.0), number(ends.1));
        let apart = |line: Option<&&str>| {
            line.is_none_or(|l| l.is_empty() || *l == "//" || l.starts_with('#'))
        };
        let before = first.checked_sub(2).and_then(|at| text.get(at));
        assert!(
            apart(before),
            "{file}:{first} is in the middle of something"
        );
        assert!(
            last <= text.len() && apart(text.get(last)),
            "{file}:{last} as well"
        );
        let ends = [first, last].map(|n| text[n - 1]);
        assert!(
            ends.iter().all(|l| !l.is_empty()),
            "{file}: {lines} has empty ends"
        );
        all += last + 1 - first;
    }
    assert!((100..400).contains(&all), "{all} lines in all");
}
