//! How runs end early, and that each has its folder for itself.

use crate::images;
use crate::runs::{
    finish, fresh, heed, resnet, resume, signal, started, strike, strike_at, weights,
};
use crate::sentences;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Long enough that it cannot be over before a signal arrives.
const LONG: &str = "60";

fn place() -> (TempDir, PathBuf, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    images::write_folder(&data, &["blue", "green"], 64);
    (temp, data, out)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The code and the words of something that ends by itself.
fn output(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

/// Sends signals as soon as the run has begun.
fn strike_with(command: Command, signals: &[i32]) -> Option<i32> {
    let (mut child, lines) = started(command, " step 8, ");
    signals.iter().for_each(|number| signal(&child, *number));
    lines.for_each(drop);
    child.wait().unwrap().code()
}

#[test]
fn signals_that_come_together_are_one_request() {
    use libc::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
    let (temp, data, _) = place();
    let whole = temp.path().join("whole");
    finish(fresh(&data, &whole, LONG));
    for (i, together) in [
        &[SIGTERM, SIGHUP][..],
        &[SIGHUP, SIGCONT, SIGTERM],
        &[SIGTERM, SIGTERM, SIGCONT],
        &[SIGINT, SIGINT],
        &[SIGINT, SIGTERM, SIGHUP, SIGINT],
    ]
    .into_iter()
    .enumerate()
    {
        let out = temp.path().join(format!("stopped-{i}"));
        let code = strike_with(fresh(&data, &out, LONG), together);
        assert_eq!(code, Some(130), "{together:?}");
        assert!(!out.join("model.safetensors").exists(), "{together:?}");
        finish(resume(&out));
        assert!(weights(&out) == weights(&whole), "{together:?}");
    }
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    let (_temp, data, out) = place();
    let mut command = fresh(&data, &out, "12");
    // As nohup does, and a shell for jobs in the background.
    // SAFETY: between fork and exec only `signal` is called, which may be.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            Ok(())
        });
    }
    assert_eq!(strike_with(command, &[libc::SIGHUP, libc::SIGINT]), Some(0));
    assert!(out.join("summary.json").exists());
}

/// A pseudo-terminal: what the person has, and what the program has.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut its) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: fills in two numbers; all other arguments may be null.
    let made = unsafe { libc::openpty(&mut ours, &mut its, none, none.cast(), none.cast()) };
    assert_eq!(made, 0);
    // SAFETY: both are open and nobody else's.
    unsafe {
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(ours), OwnedFd::from_raw_fd(its))
    }
}

#[test]
fn a_closed_terminal_ends_a_run_with_a_checkpoint() {
    let (temp, data, out) = place();
    let (mut person, its) = terminal();
    let mut command = fresh(&data, &out, LONG);
    command
        .stdin(its.try_clone().unwrap())
        .stdout(its.try_clone().unwrap())
        .stderr(its);
    // SAFETY: between fork and exec only two calls to the system, which may be.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    // The program alone has the terminal now.
    drop(command);
    let (mut seen, mut more) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(" step 8, ") {
        let n = person.read(&mut more).unwrap();
        seen.extend(&more[..n]);
    }
    drop(person);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    finish(resume(&out));
    let whole = temp.path().join("whole");
    finish(fresh(&data, &whole, LONG));
    assert!(weights(&out) == weights(&whole));
}

#[test]
fn reading_ends_at_once_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    sentences::write_pairs(&data, 96);
    // A file whose end never comes.
    let endless = data.join("train.de");
    fs::remove_file(&endless).unwrap();
    let path = std::ffi::CString::new(endless.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut command = sentences::transformer(&data);
        heed(&mut command);
        command.current_dir(temp.path()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Waits for somebody to read.
        let mut writer = File::options().write(true).open(&endless).unwrap();
        writer.write_all(b"eins\n").unwrap();
        signal(&child, number);
        let mut text = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
        assert!(
            text.contains("transformer: stopped while the data were read"),
            "{text}"
        );
    }
    assert_eq!(names(temp.path()), ["data"]);
}

#[test]
fn a_reader_that_has_gone_is_no_reason_to_fail() {
    let (_temp, data, out) = place();
    let mut command = fresh(&data, &out, "3");
    let mut child = command
        .arg("--json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(out.join("summary.json").exists());
    // Nor is one of the other stream.
    let out = out.with_file_name("other");
    let mut command = fresh(&data, &out, "3");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn runs_that_start_together_have_folders_of_their_own() {
    let (temp, data, out) = place();
    let begin = |out: Option<&Path>| {
        let mut command = resnet();
        let flags = [
            "--data", "folder", "--batch", "16", "--epochs", "2", "--quiet",
        ];
        command
            .current_dir(temp.path())
            .args(flags)
            .arg("--data-dir")
            .arg(&data);
        command
            .args(out.map(|_| "--out"))
            .args(out)
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let several: Vec<_> = (0..4).map(|_| begin(None)).collect();
    for child in several {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let folders = names(&temp.path().join("runs"));
    assert_eq!(folders.len(), 4, "{folders:?}");
    for folder in folders {
        let inside = names(&temp.path().join("runs").join(folder));
        let events = inside.iter().filter(|n| n.starts_with("events."));
        assert_eq!(events.count(), 1, "{inside:?}");
        assert!(inside.contains(&"summary.json".into()), "{inside:?}");
        assert!(!inside.contains(&"run.lock".into()), "{inside:?}");
    }
    // Two in one: one has it, the other says who.
    let pair = [begin(Some(&out)), begin(Some(&out))].map(|c| c.wait_with_output().unwrap());
    let mut codes = pair.each_ref().map(|o| o.status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(2)], "{pair:?}");
    let refused = pair.iter().find(|o| o.status.code() == Some(2)).unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        text.contains("in use by pid") || text.contains("already holds"),
        "{text}"
    );
}

#[test]
fn a_running_run_cannot_be_resumed_and_a_killed_one_can() {
    let (temp, data, out) = place();
    let (mut child, _lines) = started(fresh(&data, &out, "2000"), " step 8, ");
    let owner = format!("in use by pid {} on ", child.id());
    for command in [
        resume(&out),
        fresh(&data, &out, "3"),
        fresh(&data, &out.join("x"), "3"),
    ] {
        let (code, text) = output(command);
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains(&owner) || text.contains("already holds"),
            "{text}"
        );
    }
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    assert!(
        out.join("run.lock").exists(),
        "a killed process tidies nothing up"
    );
    assert_eq!(strike_at(unquiet(&out), " step ", libc::SIGINT), Some(130));
    assert!(!out.join("run.lock").exists());

    // A comparison owns what is in it.
    let out = temp.path().join("comparison");
    let mut command = fresh(&data, &out, "2000");
    command.args(["--compare", "full,uniform"]);
    let (mut child, lines) = started(command, " step 8, ");
    let owner = format!("in use by pid {} on ", child.id());
    for dir in [&out, &out.join("full-seed0")] {
        let (code, text) = output(resume(dir));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(&owner), "{text}");
    }
    signal(&child, libc::SIGTERM);
    let last = lines.last().unwrap();
    assert!(
        last.ends_with(&format!("--resume {}", out.display())),
        "{last}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A run that goes on and says how far it is.
fn unquiet(out: &Path) -> Command {
    let mut command = resnet();
    command.arg("--resume").arg(out);
    command
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let (temp, data, out) = place();
    let begin = |flags: &[&str]| {
        let mut command = resnet();
        let always = ["--data", "folder", "--batch", "16", "--data-dir"];
        command
            .current_dir(temp.path())
            .args(always)
            .arg(&data)
            .args(flags);
        command
    };
    let named = out.to_str().unwrap();
    let deep = out.join("a/b").to_str().unwrap().to_string();
    for flags in [
        &["--device", "cuda:9999"][..],
        &["--device", "cuda:9999", "--out", named],
        &["--device", "cuda:9999", "--out", &deep],
        &["--device", "cuda:9999", "--compare", "all"],
        &["--batch", "5000"],
        &["--init", "no-such-file"],
    ] {
        let (code, text) = output(begin(flags));
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        assert_eq!(names(temp.path()), ["data"], "{flags:?}");
    }
    // Nothing but what it made itself.
    fs::create_dir(&out).unwrap();
    output(begin(&["--device", "cuda:9999", "--out", named]));
    assert!(out.is_dir() && names(&out).is_empty());
    fs::remove_dir(&out).unwrap();
    let (code, text) = output(begin(&["--overfit-one-batch"]));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(names(temp.path()), ["data"]);
}

#[test]
fn a_comparison_that_is_stopped_goes_on_where_it_was() {
    let (temp, data, out) = place();
    let compare = |out: &Path| {
        let mut command = fresh(&data, out, "12");
        command.args(["--compare", "full,uniform"]);
        command
    };
    assert_eq!(
        strike_at(compare(&out), "uniform seed 0 step 8, ", libc::SIGHUP),
        Some(130)
    );
    finish(resume(&out));
    let whole = temp.path().join("whole");
    finish(compare(&whole));
    for arm in ["full-seed0", "uniform-seed0"] {
        assert!(
            weights(&out.join(arm)) == weights(&whole.join(arm)),
            "{arm}"
        );
    }
    assert_eq!(
        strike(
            fresh(&data, &out.with_file_name("one"), LONG),
            8,
            libc::SIGHUP
        ),
        Some(130)
    );
}
