//! Trains a ResNet on images with AutoAssist and says whether it was worth it.

use autoassist::train::faults::Memory;
use autoassist::train::images::Resnet;
use autoassist::train::program;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: Memory = Memory;

fn main() -> ExitCode {
    program::main::<Resnet>(program::command::<Resnet>().try_get_matches())
}
