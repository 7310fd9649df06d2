//! Matrix products: `matrix` is what is multiplied, `layout` how it is cut up, `pack` brings
//! it into the order in which `tile` reads it, `product` is the loop around both, `dot` what
//! is done instead with few rows and columns.

mod dot;
mod layout;
mod matrix;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;

pub use matrix::{Epilogue, Matrix, Out};
pub use product::{Packed, gemm};
