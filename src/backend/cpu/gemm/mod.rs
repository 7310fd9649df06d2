//! Matrix products: `matrix` is what is multiplied, `layout` how it is cut up, `pack` brings
//! it into the order in which `tile` reads it, `product` is the loop around both, `dot` what
//! is done instead with few rows and columns. All that is of `f32`; `tiled` is of bf16.

mod dot;
mod layout;
mod matrix;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;
mod tiled;

pub use matrix::{Epilogue, Matrix, Out, WIDEST};
pub use product::{Packed, gemm};
