//! Trains a Transformer to translate with AutoAssist and says whether it was worth it; translates
//! with what it has trained.

use autoassist::train::faults::Memory;
use autoassist::train::program;
use autoassist::train::translation::{TransformerProgram, TranslateFlags, translate};
use clap::{ArgMatches, Args, FromArgMatches};
use std::process::ExitCode;

#[global_allocator]
static MEMORY: Memory = Memory;

fn main() -> ExitCode {
    let subcommand = TranslateFlags::augment_args(clap::Command::new("translate"));
    let command = program::command::<TransformerProgram>().subcommand(subcommand);
    let parsed = command.try_get_matches();
    match parsed.as_ref().map(ArgMatches::subcommand) {
        Ok(Some((_, matches))) => {
            let flags = TranslateFlags::from_arg_matches(matches).unwrap_or_else(|e| e.exit());
            program::exit_code("transformer", translate(&flags))
        }
        _ => program::main::<TransformerProgram>(parsed),
    }
}
