//! Linear layers.

use super::case::{Case, case, tensor};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Act, Linear, LinearGrad, LinearInputGrad, Sequence};
use crate::backend::{DeviceError, Executor, Kind};
use crate::rng::Stream;

/// Rows, inputs, outputs, and what becomes of the outputs.
const LAYERS: [([usize; 3], Act); 8] = [
    ([1, 1, 1], Act::None),
    ([9, 24, 16], Act::None),
    ([3, 9, 5], Act::GeluErf),
    ([35, 16, 21], Act::Relu),
    ([137, 24, 72], Act::GeluTanh),
    // Tiles of 256, forward and of gradients, and several of 128.
    ([130, 72, 136], Act::GeluErf),
    ([130, 136, 200], Act::Relu),
    // Blocks with several tiles of dw, of several columns.
    ([130, 264, 200], Act::None),
];

/// Cases of this step of the ladders.
pub(super) fn cases(step: u32) -> Vec<Case> {
    if step > Ladder::Linear.last() {
        return Vec::new();
    }
    LAYERS
        .map(|(sizes, act)| case(move |gpu, random| layer(gpu, random, sizes, act)))
        .into()
}

fn layer(
    gpu: &mut Gpu,
    random: &mut Stream,
    [rows, inputs, outputs]: [usize; 3],
    act: Act,
) -> Result<(), DeviceError> {
    let x = tensor(gpu, random, Kind::Activation, [1, 1, rows, inputs])?;
    let w = tensor(gpu, random, Kind::Float, [1, 1, outputs, inputs])?;
    let b = tensor(gpu, random, Kind::Float, [1, 1, 1, outputs])?;
    let dz = tensor(gpu, random, Kind::Activation, [1, 1, rows, outputs])?;
    let [pre, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, dz.dims));
    let dx = gpu.alloc(Kind::Activation, x.dims);
    let dw = gpu.alloc(Kind::Float, w.dims);
    let db = gpu.alloc(Kind::Float, b.dims);

    gpu.linear(x, Linear { w, b: None }, Act::None, None, y);
    gpu.linear(x, Linear { w, b: Some(b) }, act, Some(pre), y);
    let grad = |db, accumulate| LinearGrad { dw, db, accumulate };
    let input = |through, accumulate| {
        Some(LinearInputGrad {
            dx,
            through,
            accumulate,
        })
    };
    gpu.linear_backward(x, w, dz, grad(None, false), None);
    gpu.linear_backward(
        x,
        w,
        dz,
        grad(Some(db), false),
        input(Some((act, x)), false),
    );
    gpu.linear_backward(x, w, dz, grad(Some(db), true), input(None, true));
    gpu.check()
}
