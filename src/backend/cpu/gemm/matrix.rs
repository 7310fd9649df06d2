//! The matrices of a product: what is read, and where it goes.

use crate::backend::cpu::simd::Simd;

/// A matrix to read: row-major floats, or the transpose of such.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) ld: usize,
    /// Rows of a group, and how far apart groups begin.
    groups: Option<[u32; 2]>,
    pub(super) transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of floats that begin `ld` apart.
    pub fn new(values: &'a [f32], ld: usize) -> Matrix<'a> {
        Matrix {
            values,
            ld,
            groups: None,
            transposed: false,
        }
    }

    /// Windows that slide over sequences: groups of `rows` rows, which begin `apart` apart, and rows
    /// within a group `ld`, so that a row may reach into the next ones.
    ///
    /// # Panics
    /// If groups begin within each other.
    pub fn windows(values: &'a [f32], ld: usize, rows: usize, apart: usize) -> Matrix<'a> {
        assert!(apart >= rows * ld, "{rows} rows of {ld} in {apart}");
        let groups = [rows, apart].map(|n| u32::try_from(n).expect("sequences fit into memory"));
        Matrix {
            groups: Some(groups),
            ..Matrix::new(values, ld)
        }
    }

    /// Whether all rows begin `ld` apart.
    pub(super) fn is_even(&self) -> bool {
        self.groups.is_none()
    }

    /// Where row `i` of the values begins.
    #[inline(always)]
    pub(super) fn start(&self, i: usize) -> usize {
        match self.groups {
            None => i * self.ld,
            Some([rows, apart]) => {
                let (group, row) = (i as u32 / rows, i as u32 % rows);
                group as usize * apart as usize + row as usize * self.ld
            }
        }
    }

    /// Its transpose.
    pub fn t(self) -> Matrix<'a> {
        Matrix {
            transposed: !self.transposed,
            ..self
        }
    }

    pub(super) fn check(&self, name: &str, rows: usize, cols: usize) {
        let (rows, cols) = match self.transposed {
            true => (cols, rows),
            false => (rows, cols),
        };
        if self.is_even() {
            return check(name, self.values, self.ld, rows, cols);
        }
        let least = rows
            .checked_sub(1)
            .map_or(0, |last| self.start(last) + cols);
        let len = self.values.len();
        assert!(len >= least, "{name}: {rows} windows of {cols} in {len}");
    }
}

pub(super) fn check(name: &str, values: &[f32], ld: usize, rows: usize, cols: usize) {
    assert!(cols <= ld || rows <= 1, "{name}: {cols} columns, ld {ld}");
    let least = match (rows, cols) {
        (0, _) | (_, 0) => Some(0),
        _ => (rows - 1).checked_mul(ld).and_then(|x| x.checked_add(cols)),
    };
    let len = values.len();
    let enough = least.is_some_and(|least| len >= least);
    assert!(enough, "{name}: {rows}x{cols}, ld {ld}, in {len}");
}

/// Where a product goes.
#[derive(Debug)]
pub struct Out<'a> {
    /// Row-major.
    pub c: &'a mut [f32],
    /// Row `i` of `c` (and of `before`) begins at `i·ld`.
    pub ld: usize,
    /// Add to what is in `c`, else what is there does not matter.
    pub accumulate: bool,
    /// Gets what the epilogue was given.
    pub before: Option<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// Overwrites rows that begin `ld` apart.
    pub fn new(c: &'a mut [f32], ld: usize) -> Out<'a> {
        Out {
            c,
            ld,
            accumulate: false,
            before: None,
        }
    }
}

/// What becomes of a product before it leaves the cache.
pub trait Epilogue: Sync {
    /// Changes `c`, at most 32 neighbours of a row from `column` on; called once for each element,
    /// after the sum over `k` and what was in `C` are in it. Mark it `#[inline(always)]`, which
    /// makes it vector code.
    fn finish<S: Simd>(&self, s: S, row: usize, column: usize, c: &mut [f32]);
}

/// Nothing.
impl Epilogue for () {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, _: usize, _: usize, _: &mut [f32]) {}
}

/// Rows of `C` in memory, or of it from some element on.
#[derive(Clone, Copy)]
pub(super) struct C {
    pub values: *mut f32,
    pub ld: usize,
}

impl C {
    /// From another element on.
    #[inline(always)]
    pub fn at(self, row: usize, column: usize) -> C {
        let values = self.values.wrapping_add(row * self.ld + column);
        C { values, ..self }
    }
}

/// [`Out`] for many writers.
pub(super) struct Shared {
    pub c: C,
    pub before: Option<*mut f32>,
    pub accumulate: bool,
}

// SAFETY: `gemm` holds the slices' exclusive borrows while tasks run, and tasks touch disjoint
// elements: `Cuts` covers rows × columns without overlap.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(mut out: Out) -> Shared {
        Shared {
            c: C {
                values: out.c.as_mut_ptr(),
                ld: out.ld,
            },
            before: out.before.as_mut().map(|before| before.as_mut_ptr()),
            accumulate: out.accumulate,
        }
    }

    /// Neighbours in a row of `C`.
    #[inline(always)]
    pub fn piece(&self, row: usize, column: usize, width: usize) -> *mut [f32] {
        std::ptr::slice_from_raw_parts_mut(self.c.at(row, column).values, width)
    }

    /// All that is left to do with finished sums.
    ///
    /// # Safety
    /// The piece of `C` must be within it and not accessed by others.
    #[inline(always)]
    pub unsafe fn finish<S: Simd, E: Epilogue>(
        &self,
        s: S,
        epilogue: &E,
        row: usize,
        column: usize,
        width: usize,
    ) {
        // SAFETY: the caller's; `before` is as large as `C` and cut the same way.
        unsafe {
            let piece = &mut *self.piece(row, column, width);
            if let Some(before) = self.before {
                let to = before.add(row * self.c.ld + column);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, width);
            }
            epilogue.finish(s, row, column, piece);
        }
    }
}
