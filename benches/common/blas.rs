//! The machine's BLAS libraries: what matrix products on the CPU are compared with.

use crate::product::{Library, Product};
use std::ffi::c_int;

/// `cblas_sgemm` with integers of the library's width.
type Sgemm<I> = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    I,
    I,
    I,
    f32,
    *const f32,
    I,
    *const f32,
    I,
    f32,
    *mut f32,
    I,
);

/// `CBLAS_LAYOUT` and `CBLAS_TRANSPOSE`.
const ROW_MAJOR: c_int = 101;
const NO_TRANS: c_int = 111;
const TRANS: c_int = 112;

enum Function {
    Narrow(Sgemm<i32>),
    Wide(Sgemm<i64>),
}

/// A library with `cblas_sgemm`. It has as many threads as it likes.
pub struct Blas {
    /// `libopenblas`.
    pub name: String,
    sgemm: Function,
}

impl Blas {
    /// Those of the usual names that can be loaded, or the one that `AUTOASSIST_PEER_BLAS` names.
    pub fn all() -> Vec<Blas> {
        let usual = || {
            let one_each: [&[&str]; 3] = [
                &["libopenblas.so.0", "libopenblas.so"],
                &["libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so"],
                &["libblis.so.4", "libblis.so"],
            ];
            let first = |names: &&[&str]| names.iter().find_map(|name| Blas::open(name));
            one_each.iter().filter_map(first).collect()
        };
        match std::env::var("AUTOASSIST_PEER_BLAS") {
            Ok(path) => match Blas::open(&path) {
                Some(blas) => vec![blas],
                None => {
                    eprintln!("AUTOASSIST_PEER_BLAS: {path} cannot be loaded as a CBLAS");
                    Vec::new()
                }
            },
            Err(_) => usual(),
        }
    }

    fn open(path: &str) -> Option<Blas> {
        let library = Library::open(path)?;
        // SAFETY: CBLAS's type, whose integers are of 64 bits where the name ends with it (the
        // prefix is that of the OpenBLAS in Python's wheels).
        let sgemm = unsafe {
            let narrow = ["cblas_sgemm", "scipy_cblas_sgemm"];
            let wide = ["cblas_sgemm64_", "cblas_sgemm_64", "scipy_cblas_sgemm64_"];
            let narrow = narrow.iter().find_map(|name| library.function(name));
            let wide = || wide.iter().find_map(|name| library.function(name));
            narrow
                .map(Function::Narrow)
                .or_else(|| wide().map(Function::Wide))?
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split(".so").next().unwrap_or(file).into();
        Some(Blas { name, sgemm })
    }

    /// Makes the product in `c`.
    ///
    /// # Panics
    /// If a slice is not as long as its matrix: a bug here.
    pub fn gemm(&self, product: Product, a: &[f32], b: &[f32], c: &mut [f32]) {
        let Product {
            sizes: [m, n, k],
            transposed: [a_transposed, b_transposed],
        } = product;
        assert_eq!([a.len(), b.len(), c.len()], [m * k, k * n, m * n]);
        let of = |transposed| if transposed { TRANS } else { NO_TRANS };
        let [lda, ldb] = [
            if a_transposed { m } else { k },
            if b_transposed { k } else { n },
        ];
        macro_rules! call {
            ($sgemm:expr, $int:ty) => {{
                let [m, n, k, lda, ldb] = [m, n, k, lda, ldb].map(|size| size as $int);
                // SAFETY: the slices are as long as their matrices, and rows have no gaps.
                unsafe {
                    $sgemm(
                        ROW_MAJOR,
                        of(a_transposed),
                        of(b_transposed),
                        m,
                        n,
                        k,
                        1.0,
                        a.as_ptr(),
                        lda,
                        b.as_ptr(),
                        ldb,
                        0.0,
                        c.as_mut_ptr(),
                        n,
                    );
                }
            }};
        }
        match self.sgemm {
            Function::Narrow(sgemm) => call!(sgemm, i32),
            Function::Wide(sgemm) => call!(sgemm, i64),
        }
    }
}
