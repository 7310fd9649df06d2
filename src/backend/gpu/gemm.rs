//! Launches of `kernels/gemm`.

use super::driver::Arg;
use super::{Gpu, Ladder};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "gemm_tests.rs"]
mod tests;

/// One step of the ladder: its kernel's name, and the tile and launch shape that its source has.
struct Step {
    kernel: &'static str,
    /// Rows and columns of a block's tile.
    tile: [usize; 2],
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: u32,
    /// Rows of the factors must start at multiples of 16 bytes.
    vectors: bool,
}

const STEPS: [Step; 5] = [
    Step {
        kernel: "gemm_naive",
        tile: [8, 32],
        threads: 256,
        shared: 0,
        vectors: false,
    },
    Step {
        kernel: "gemm_tiles",
        tile: [32, 32],
        threads: 1024,
        shared: 0,
        vectors: false,
    },
    Step {
        kernel: "gemm_registers",
        tile: [128, 128],
        threads: 256,
        shared: 0,
        vectors: false,
    },
    Step {
        kernel: "gemm_tensor_cores",
        tile: [128, 128],
        threads: 256,
        shared: 0,
        vectors: true,
    },
    Step {
        kernel: "gemm_pipeline",
        tile: [128, 128],
        threads: 128,
        shared: 4 * 2 * 128 * 64,
        vectors: true,
    },
];

/// Both factors and the product.
struct Product {
    a: u64,
    b: u64,
    c: u64,
    m: usize,
    n: usize,
    k: usize,
}

impl Product {
    fn new(gpu: &Gpu, a: Tensor, b: Tensor, c: Tensor) -> Product {
        let rows = |t: Tensor| t.dims[..3].iter().product::<usize>();
        let (m, n, k) = (rows(a), rows(b), a.dims[3]);
        assert!(m > 0 && n > 0 && k > 0, "{m} x {n} products of length {k}");
        assert_eq!(
            ([b.dims[3], rows(c), c.dims[3]]),
            [k, m, n],
            "second factor and product for factors of {:?} and {:?}",
            a.dims,
            b.dims
        );
        let bf16 = |t: Tensor| gpu.buffers[t.buffer].kind == Kind::Activation;
        assert!([a, b, c].into_iter().all(bf16), "factors in bf16");
        // The kernels count in 32 bits, and up to some tiles past the last element.
        let limit = i32::MAX as usize / 2;
        assert!([m, n, k].iter().all(|size| *size <= limit), "{m} {n} {k}");
        let [a, b, c] = [a, b, c].map(|t| gpu.locate(t));
        Product { a, b, c, m, n, k }
    }

    fn has_vectors(&self) -> bool {
        self.k.is_multiple_of(8) && (self.a | self.b).is_multiple_of(16)
    }

    fn tiles(&self, [rows, columns]: [usize; 2]) -> u32 {
        let tiles = self.m.div_ceil(rows) * self.n.div_ceil(columns);
        u32::try_from(tiles).expect("no product of that size fits into memory")
    }
}

impl Gpu {
    /// Matrix product c\[m,n\] = Σ_k a\[m,k\] · b\[n,k\], in f32, rounded once: a linear layer whose
    /// weights are `b`. `a` is `[M, K]`, `b` `[N, K]`, `c` `[M, N]`, all activations; the last
    /// dimension is the row's length, the others together are the rows. Any positive sizes. Takes
    /// the highest step of [`Ladder::Gemm`] that the limit, the device and the shape allow.
    ///
    /// # Panics
    /// If the shapes do not fit together or are empty.
    pub fn gemm(&mut self, a: Tensor, b: Tensor, c: Tensor) {
        self.op(|gpu| {
            let product = Product::new(gpu, a, b, c);
            launch(gpu, &product);
        });
    }
}

fn launch(gpu: &mut Gpu, product: &Product) {
    let step = choose(gpu, product);
    let pointers = [product.a, product.b, product.c].map(Arg::Ptr);
    let sizes = [product.m, product.n, product.k].map(|size| Arg::I32(size as i32));
    let args = [pointers, sizes].concat();
    let grid = [product.tiles(step.tile), 1, 1];
    gpu.launch(step.kernel, grid, step.threads, step.shared, &args);
}

/// The highest step that may be taken. The first three suit every device and shape.
fn choose(gpu: &Gpu, product: &Product) -> &'static Step {
    let device = gpu.stream.capability();
    let suits = |step: &Step| {
        step.shared <= device.block_shared && (!step.vectors || product.has_vectors())
    };
    let steps = STEPS.iter().zip(1..);
    let allowed = steps.filter(|(step, number)| gpu.allows(Ladder::Gemm, *number) && suits(step));
    allowed.last().map_or(&STEPS[0], |(step, _)| step)
}
