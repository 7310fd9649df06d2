//! Trains a ResNet on images with AutoAssist and says whether it was worth it, for one comparison or
//! for a whole study.

use autoassist::train::faults::Memory;
use autoassist::train::images::Resnet;
use autoassist::train::program;
use autoassist::train::study::{self, StudyFlags};
use clap::FromArgMatches;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: Memory = Memory;

fn main() -> ExitCode {
    let command = program::command::<Resnet>().subcommand(study::command());
    let parsed = command.try_get_matches();
    if let Ok(matches) = &parsed
        && let Some((_, matches)) = matches.subcommand()
    {
        let flags = StudyFlags::from_arg_matches(matches).unwrap_or_else(|e| e.exit());
        return study::main::<Resnet>(&flags);
    }
    program::main::<Resnet>(parsed)
}
