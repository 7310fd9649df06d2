//! Networks, written once against the op set of [`crate::backend`].

mod params;
mod resnet;
mod transformer;
mod weights;

pub use params::{Entry, Init, ParamList, Params};
pub use resnet::{Architecture, InputShape, ResNet};
pub use transformer::{
    BeamSearch, Bound, Hypothesis, NormPlace, Results, Room, SearchSpec, TABLE, TrainSpec,
    Transformer, TransformerConfig, longest_translation,
};
pub use weights::{About, MODEL, WeightFile, WeightsError, export, import};
