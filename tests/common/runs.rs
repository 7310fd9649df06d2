//! Runs on a small folder of images, and what may befall them.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub fn resnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resnet"));
    command
        .env("RAYON_NUM_THREADS", "2")
        .env_remove("AUTOASSIST_ISA");
    heed(&mut command);
    command
}

/// Makes a program heed signals although `nohup` or a shell's `&` may have started the tests: what is
/// ignored then is inherited.
pub fn heed(command: &mut Command) {
    // SAFETY: signal is async-signal-safe, and what it does is the child's alone.
    unsafe {
        command.pre_exec(|| {
            for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::signal(number, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

/// 128 images in batches of 16 at a budget of 0.65, a line on standard error after each 8 steps; 12
/// sweeps are 63 steps.
pub fn fresh(data: &Path, out: &Path, epochs: &str) -> Command {
    let mut command = resnet();
    command
        .args(["--data", "folder", "--batch", "16", "--deterministic"])
        .args([
            "--epochs",
            epochs,
            "--checkpoint-every",
            "3",
            "--rescale",
            "0.5",
            "--data-dir",
        ])
        .args([data.as_os_str(), "--out".as_ref(), out.as_os_str()]);
    command
}

/// Everything that a run leaves behind but times.
pub fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).unwrap()
}

pub fn finish(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a run says from now on, line by line.
pub type Said = Box<dyn Iterator<Item = String>>;

/// Starts a run and waits until it says something.
pub fn started(command: Command, report: &str) -> (Child, Said) {
    started_when(command, report, |line| line.contains(report))
}

/// The same, until a line says what is waited for.
fn started_when(mut command: Command, report: &str, says: impl Fn(&str) -> bool) -> (Child, Said) {
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| says(&line)), "it never said {report:?}");
    (child, Box::new(lines))
}

/// Sends a signal to a child that has not been waited for.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: `kill` only sends a signal; the child has not been waited for, so its number is its
    // own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Starts a run and sends it `signal` as soon as it reports the step; returns its exit code.
pub fn strike(command: Command, step: u64, signal: i32) -> Option<i32> {
    strike_at(command, &format!(" step {step}, "), signal)
}

/// The same, as soon as it says something.
pub fn strike_at(command: Command, report: &str, number: i32) -> Option<i32> {
    struck(started(command, report), number)
}

/// The same, as soon as it has done a share (in per cent) of full training's operations: a step may
/// be more than one.
pub fn strike_past(command: Command, share: u32, number: i32) -> Option<i32> {
    let report = " % of full training's operations";
    let past = |line: &str| {
        let done = line.split_once(report).and_then(|(before, _)| {
            let number = before.rsplit(' ').next()?;
            number.parse::<u32>().ok()
        });
        done.is_some_and(|done| done >= share)
    };
    let what = format!("{share}{report}");
    struck(started_when(command, &what, past), number)
}

fn struck((mut child, lines): (Child, Said), number: i32) -> Option<i32> {
    signal(&child, number);
    lines.for_each(drop);
    child.wait().unwrap().code()
}

/// What a program says on standard error but for what it is at, which slow machines show.
pub fn without_progress(error: &str) -> Vec<&str> {
    let is_progress = |line: &&str| {
        let ended = line
            .strip_suffix(" s")
            .and_then(|line| line.rsplit_once(", "));
        ended.is_some_and(|(_, seconds)| seconds.parse::<u64>().is_ok())
            || line.contains(": still running after ")
    };
    error.lines().filter(|line| !is_progress(line)).collect()
}

pub fn resume(out: &Path) -> Command {
    let mut command = resnet();
    command.args(["--quiet".as_ref(), "--resume".as_ref(), out.as_os_str()]);
    command
}
