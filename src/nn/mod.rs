//! Networks, written once against the op set of [`crate::backend`].

mod beam;
mod convs2s;
mod lstm;
mod network;
mod params;
mod resnet;
mod transformer;
mod weights;

pub use beam::{BeamSearch, Hypothesis, SearchSpec, longest_translation};
pub use convs2s::ConvS2SConfig;
pub use lstm::LstmConfig;
pub use network::{Bound, Network, NetworkConfig, Optimiser, Results, Room, TABLE, TrainSpec};
pub use params::{Entry, Init, ParamList, Params};
pub use resnet::{Architecture, InputShape, ResNet};
pub use transformer::{NormPlace, TransformerConfig};
pub use weights::{About, MODEL, WeightFile, WeightsError, export, import};
