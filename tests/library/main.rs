//! The library by itself: what the crate exports, against plain computations and its own rules.

#[path = "../common/boss.rs"]
mod boss;
#[cfg(simt)]
#[path = "../common/standin.rs"]
mod standin;

mod assistant;
#[cfg(simt)]
mod check;
mod launches;
mod network;
#[cfg(simt_counted)]
mod profile;
mod rooms;
#[cfg(simt)]
mod standin_rules;
mod transformer;
