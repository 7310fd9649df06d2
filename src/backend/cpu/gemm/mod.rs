//! Matrix products.

mod dot;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;

pub use product::*;
