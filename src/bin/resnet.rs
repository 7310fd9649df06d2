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
    let matches = command.get_matches();
    match matches.subcommand() {
        Some((_, matches)) => {
            let flags = StudyFlags::from_arg_matches(matches).unwrap_or_else(|e| e.exit());
            study::main::<Resnet>(&flags)
        }
        None => program::main::<Resnet>(&matches),
    }
}
