//! The crate's architecture, as its front page has it: rooms on floors, and no arrow that runs up.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms, from the ground floor up: paths of modules, of which the longest that fits counts. A room
/// may know itself and the floors below its own.
const FLOORS: [&[&str]; 11] = [
    &[
        "files",
        "html",
        "rng",
        "backend::cpu::simd",
        "backend::gpu::sources",
        "backend::precision",
    ],
    &["data"],
    &["assist", "world::error"],
    &["backend::error"],
    &["backend::gpu::driver", "backend::wait"],
    &["world"],
    &["simt"],
    &["backend"],
    &["nn"],
    &["train", "workbench"],
    &["bin"],
];

/// The room of a module, and its floor.
fn room(module: &[String]) -> Option<(&'static str, usize)> {
    let inside = |room: &str| {
        let mut parts = room.split("::").zip(module);
        parts.all(|(a, b)| a == b) && room.split("::").count() <= module.len()
    };
    let floors = FLOORS.iter().enumerate();
    let rooms = floors.flat_map(|(floor, rooms)| rooms.iter().map(move |r| (*r, floor)));
    rooms
        .filter(|(room, _)| inside(room))
        .max_by_key(|(room, _)| room.len())
}

/// `src/backend/gpu/mod.rs` as `[backend, gpu]`.
fn module_of(file: &Path) -> Vec<String> {
    let inner = file.strip_prefix("src").expect("a file of the library");
    let parts = inner.with_extension("");
    let parts = parts.iter().map(|p| p.to_string_lossy().into_owned());
    parts.filter(|p| p != "mod" && p != "lib").collect()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Adds every path that `text` begins with: `a::{b, c::d}` is two of them. Returns the rest.
fn paths<'t>(mut text: &'t str, before: &[String], found: &mut Vec<Vec<String>>) -> &'t str {
    let mut path = before.to_vec();
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            while !group.trim_start().starts_with('}') {
                let rest = paths(group, &path, found).trim_start();
                group = rest.strip_prefix(',').unwrap_or(rest);
            }
            return &group.trim_start()[1..];
        }
        let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
        path.push(text[..end].to_string());
        text = &text[end..];
        let alias = text
            .strip_prefix(" as ")
            .map(|t| t.trim_start_matches(is_name));
        text = alias.unwrap_or(text);
        match text.strip_prefix("::") {
            Some(rest) if rest.starts_with(|c| is_name(c) || c == '{') => text = rest,
            _ => break,
        }
    }
    found.push(path);
    text.trim_start_matches('*')
}

/// Modules and items of this crate that a module's text names, each with its line.
fn known(module: &[String], text: &str) -> Vec<(usize, Vec<String>)> {
    // Tests may look anywhere, and comments point anywhere.
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let code: Vec<&str> = text
        .lines()
        .map(|l| l.split("//").next().unwrap_or(l))
        .collect();
    let code = code.join("\n");
    let mut known = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // Of `super::super::` the first one speaks for both, and `$crate` is a macro's.
            if code[..at].ends_with(|c| is_name(c) || c == ':' || c == '$') {
                continue;
            }
            let mut found = Vec::new();
            paths(&code[at..], &[], &mut found);
            let line = code[..at].matches('\n').count() + 1;
            for path in found {
                let ups = path.iter().take_while(|p| *p == "super").count();
                let base = match path[0].as_str() {
                    "crate" => &[],
                    _ => &module[..module.len().saturating_sub(ups)],
                };
                let rest = path.iter().skip(ups.max(1)).cloned();
                known.push((line, base.iter().cloned().chain(rest).collect()));
            }
        }
    }
    known
}

/// What a file knows and must not, a line each.
fn upward(file: &Path, text: &str) -> String {
    let module = module_of(file);
    let Some((from, floor)) = room(&module) else {
        return format!("{}: no room of FLOORS has it\n", file.display());
    };
    let mut wrong = String::new();
    for (line, path) in known(&module, text) {
        match room(&path) {
            Some((to, other)) if other >= floor && to != from => {
                let (file, path) = (file.display(), path.join("::"));
                let _ = writeln!(
                    wrong,
                    "{file}:{line}: {from} (floor {floor}) must not know {to} (floor {other}): \
                     {path}"
                );
            }
            _ => {}
        }
    }
    wrong
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut found = Vec::new();
    for path in entries.map(|e| e.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_arrow_runs_up() {
    let mut wrong = String::new();
    for file in files(Path::new("src")) {
        let stem = file.file_stem().expect("a name").to_string_lossy();
        let door = file == Path::new("src/lib.rs");
        if door || stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a text");
        wrong += &upward(&file, &text);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn an_arrow_that_runs_up_is_named() {
    let text = "use crate::rng::{self, Stream};\nuse super::{error::E, gpu::{driver::Arg, Gpu}};\n";
    let simt = Path::new("src/simt/stream.rs");
    assert_eq!(upward(simt, text), "");
    let named = |file: &str, text: &str| upward(Path::new(file), text);
    assert_eq!(
        named(
            "src/simt/stream.rs",
            "\nuse crate::{rng, nn::ResNet as Net, files};"
        ),
        "src/simt/stream.rs:2: simt (floor 6) must not know nn (floor 8): nn::ResNet\n"
    );
    assert_eq!(
        named(
            "src/backend/error.rs",
            "use super::gpu::Gpu; // crate::train"
        ),
        "src/backend/error.rs:1: backend::error (floor 3) must not know backend (floor 7): \
         backend::gpu::Gpu\n"
    );
    assert_eq!(
        named(
            "src/train/run.rs",
            "fn f() { crate::workbench::check::check(); }"
        ),
        "src/train/run.rs:1: train (floor 9) must not know workbench (floor 9): \
         workbench::check::check\n"
    );
    assert_eq!(
        named("src/new.rs", ""),
        "src/new.rs: no room of FLOORS has it\n"
    );
}
