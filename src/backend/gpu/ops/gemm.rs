//! Launches of `kernels/gemm`.

use crate::backend::gpu::driver::{Arg, TensorMap};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "gemm_tests.rs"]
mod tests;

/// What a step asks of the product and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Rows of the factors that start at multiples of 16 bytes.
    Vectors,
    /// And TMA and wgmma.
    Hopper,
}

/// One step of the ladder: its kernel's name, and the tile and launch shape that its source has.
struct Step {
    number: u32,
    kernel: &'static str,
    /// Rows and columns of a block's tile.
    tile: [usize; 2],
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: u32,
    needs: Needs,
}

/// Of steps that suit, the last is taken.
const STEPS: [Step; 9] = [
    Step {
        number: 1,
        kernel: "gemm_naive",
        tile: [8, 32],
        threads: 256,
        shared: 0,
        needs: Needs::Nothing,
    },
    Step {
        number: 2,
        kernel: "gemm_tiles",
        tile: [32, 32],
        threads: 1024,
        shared: 0,
        needs: Needs::Nothing,
    },
    Step {
        number: 3,
        kernel: "gemm_registers",
        tile: [128, 128],
        threads: 256,
        shared: 0,
        needs: Needs::Nothing,
    },
    Step {
        number: 4,
        kernel: "gemm_tensor_cores",
        tile: [128, 128],
        threads: 256,
        shared: 0,
        needs: Needs::Vectors,
    },
    Step {
        number: 5,
        kernel: "gemm_swizzle",
        tile: [128, 128],
        threads: 256,
        shared: 0,
        needs: Needs::Vectors,
    },
    Step {
        number: 6,
        kernel: "gemm_pipeline_x3",
        tile: [128, 128],
        threads: 128,
        shared: 3 * (128 + 128) * 64,
        needs: Needs::Vectors,
    },
    Step {
        number: 6,
        kernel: "gemm_pipeline",
        tile: [128, 128],
        threads: 128,
        shared: 4 * (128 + 128) * 64,
        needs: Needs::Vectors,
    },
    Step {
        number: 7,
        kernel: "gemm_hopper_128",
        tile: [128, 128],
        threads: 384,
        shared: 6 * (128 + 128) * 128 + 1024,
        needs: Needs::Hopper,
    },
    Step {
        number: 7,
        kernel: "gemm_hopper_256",
        tile: [128, 256],
        threads: 384,
        shared: 4 * (128 + 256) * 128 + 1024,
        needs: Needs::Hopper,
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
            [b.dims[3], rows(c), c.dims[3]],
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

    /// Of both factors, for copies of a tile's rows and of its columns.
    fn maps(&self, tile: [usize; 2]) -> [Arg; 2] {
        let factors = [(self.a, self.m, tile[0]), (self.b, self.n, tile[1])];
        factors.map(|(base, rows, box_rows)| {
            Arg::Map(TensorMap {
                base,
                rows: rows as u64,
                columns: self.k as u64,
                box_rows: box_rows as u32,
            })
        })
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

    /// The step that [`gemm`](Gpu::gemm) takes for these tensors, which something has been written
    /// to or read from.
    ///
    /// # Panics
    /// As [`gemm`](Gpu::gemm).
    pub fn gemm_step(&self, a: Tensor, b: Tensor, c: Tensor) -> u32 {
        choose(self, &Product::new(self, a, b, c)).number
    }
}

fn launch(gpu: &mut Gpu, product: &Product) {
    let step = choose(gpu, product);
    let sizes = [product.m, product.n, product.k].map(|size| Arg::I32(size as i32));
    let tiles = product.tiles(step.tile);
    let (factors, blocks) = match step.needs {
        Needs::Nothing | Needs::Vectors => ([product.a, product.b].map(Arg::Ptr), tiles),
        Needs::Hopper => {
            // Blocks stay, and take tile after tile.
            let blocks = tiles.min(gpu.stream.capability().multiprocessors);
            (product.maps(step.tile), blocks)
        }
    };
    let args = [&factors[..], &[Arg::Ptr(product.c)], &sizes].concat();
    let grid = [blocks, 1, 1];
    gpu.launch(step.kernel, grid, step.threads, step.shared, &args);
}

/// The step to take. The first three suit every device and shape.
fn choose(gpu: &Gpu, product: &Product) -> &'static Step {
    let device = gpu.stream.capability();
    // Columns of tiles that a multiprocessor computes, one after the other.
    let time = |step: &Step| {
        let turns = product.tiles(step.tile).div_ceil(device.multiprocessors);
        turns as usize * step.tile[1]
    };
    // Four warps hide nothing from one another's waits.
    let alone = |step: &Step| gpu.blocks_by_shared(step.kernel, step.shared as usize) < 2;
    let suits = |step: &&Step| {
        let able = match step.needs {
            Needs::Nothing => true,
            Needs::Vectors => product.has_vectors(),
            Needs::Hopper => product.has_vectors() && device.hopper,
        };
        able && gpu.fits(step.kernel, step.shared as usize) && gpu.allows(Ladder::Gemm, step.number)
    };
    let best = STEPS.iter().filter(suits).reduce(|best, step| {
        // Of two for the same step the one with larger tiles, or more stages, unless it leaves more
        // of the device, or of a multiprocessor, idle.
        let idle = |step| (time(step), alone(step));
        let slower = best.number == step.number && idle(step) > idle(best);
        if slower { best } else { step }
    });
    best.unwrap_or(&STEPS[0])
}
