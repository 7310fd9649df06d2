//! The ops as launches: one file or folder an op, each with the choice among its kernels.

pub mod adam;
pub mod attention;
pub mod conv;
pub mod copy;
pub mod embedding;
pub mod gather;
pub mod gather_pairs;
pub mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod linear_layer;
pub mod loss;
pub mod move_rows;
pub mod norm;
pub mod optim;
pub mod sentence_loss;
pub mod share;
