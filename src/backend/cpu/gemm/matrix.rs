//! The matrices of a product: what is read, and where it goes.

use crate::backend::cpu::simd::{Element, LANES, Simd};
use crate::backend::cpu::slice::{Slice, SliceMut};

/// A matrix to read: row-major numbers, or the transpose of such.
///
/// Where it is of bf16, so is the whole product: see [`gemm`](super::gemm).
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a>(pub(super) Lying<Slice<'a>>);

/// Numbers, and how a matrix lies in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lying<V> {
    pub values: V,
    pub ld: usize,
    /// Rows of a group, and how far apart groups begin.
    groups: Option<[u32; 2]>,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of numbers that begin `ld` apart.
    pub fn new(values: impl Into<Slice<'a>>, ld: usize) -> Matrix<'a> {
        Matrix(Lying::new(values.into(), ld))
    }

    /// Windows that slide over sequences: groups of `rows` rows, which begin `apart` apart, and rows
    /// within a group `ld`, so that a row may reach into the next ones.
    ///
    /// # Panics
    /// If groups begin within each other.
    pub fn windows(
        values: impl Into<Slice<'a>>,
        ld: usize,
        rows: usize,
        apart: usize,
    ) -> Matrix<'a> {
        assert!(apart >= rows * ld, "{rows} rows of {ld} in {apart}");
        let groups = [rows, apart].map(|n| u32::try_from(n).expect("sequences fit into memory"));
        let Matrix(even) = Matrix::new(values, ld);
        Matrix(Lying {
            groups: Some(groups),
            ..even
        })
    }

    /// Its transpose.
    pub fn t(self) -> Matrix<'a> {
        Matrix(self.0.t())
    }

    pub(super) fn check(&self, name: &str, rows: usize, cols: usize) {
        let (rows, cols) = match self.0.transposed {
            true => (cols, rows),
            false => (rows, cols),
        };
        let len = self.0.values.len();
        if self.0.is_even() {
            return check(name, len, self.0.ld, rows, cols);
        }
        let least = rows
            .checked_sub(1)
            .map_or(0, |last| self.0.start(last) + cols);
        assert!(len >= least, "{name}: {rows} windows of {cols} in {len}");
    }
}

impl<V> Lying<V> {
    /// Rows that begin `ld` apart.
    pub fn new(values: V, ld: usize) -> Lying<V> {
        Lying {
            values,
            ld,
            groups: None,
            transposed: false,
        }
    }

    /// The same of other numbers, or of the same of a known kind.
    pub fn of<W>(self, values: W) -> Lying<W> {
        let Lying {
            ld,
            groups,
            transposed,
            ..
        } = self;
        Lying {
            values,
            ld,
            groups,
            transposed,
        }
    }

    /// Its transpose.
    pub fn t(self) -> Lying<V> {
        Lying {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Whether all rows begin `ld` apart.
    pub fn is_even(&self) -> bool {
        self.groups.is_none()
    }

    /// Whether it is rows that begin `ld` apart.
    pub fn is_rows(&self) -> bool {
        self.is_even() && !self.transposed
    }

    /// Where row `i` of the values begins.
    #[inline(always)]
    pub fn start(&self, i: usize) -> usize {
        match self.groups {
            None => i * self.ld,
            Some([rows, apart]) => {
                let (group, row) = (i as u32 / rows, i as u32 % rows);
                group as usize * apart as usize + row as usize * self.ld
            }
        }
    }
}

/// Asserts that so many rows and columns lie in `len` numbers.
pub(super) fn check(name: &str, len: usize, ld: usize, rows: usize, cols: usize) {
    assert!(cols <= ld || rows <= 1, "{name}: {cols} columns, ld {ld}");
    let least = match (rows, cols) {
        (0, _) | (_, 0) => Some(0),
        _ => (rows - 1).checked_mul(ld).and_then(|x| x.checked_add(cols)),
    };
    let enough = least.is_some_and(|least| len >= least);
    assert!(enough, "{name}: {rows}x{cols}, ld {ld}, in {len}");
}

/// Where a product goes.
#[derive(Debug)]
pub struct Out<'a> {
    /// Row-major.
    pub c: SliceMut<'a>,
    /// Row `i` of `c` (and of `before`) begins at `i·ld`.
    pub ld: usize,
    /// Add to what is in `c`, else what is there does not matter.
    pub accumulate: bool,
    /// A row that is added to all, before the epilogue; not where `accumulate` is set.
    pub bias: Option<&'a [f32]>,
    /// Gets what the epilogue was given; of the same kind as `c`.
    pub before: Option<SliceMut<'a>>,
}

impl<'a> Out<'a> {
    /// Overwrites rows that begin `ld` apart.
    pub fn new(c: impl Into<SliceMut<'a>>, ld: usize) -> Out<'a> {
        Out {
            c: c.into(),
            ld,
            accumulate: false,
            bias: None,
            before: None,
        }
    }

    pub(super) fn check(&self, rows: usize, cols: usize) {
        check("C", self.c.shared().len(), self.ld, rows, cols);
        if let Some(before) = &self.before {
            let len = before.shared().len();
            check("C before the epilogue", len, self.ld, rows, cols);
        }
        if let Some(bias) = self.bias {
            assert!(!self.accumulate, "a bias is added once");
            assert_eq!(bias.len(), cols, "a bias for each column");
        }
    }
}

/// Most elements that an [`Epilogue`] gets at once.
pub const WIDEST: usize = 32;

/// What becomes of a product before it leaves the cache.
pub trait Epilogue: Sync {
    /// Changes `c`, at most [`WIDEST`] neighbours of a row from `column` on; called once for each element,
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
pub(super) struct C<T = f32> {
    pub values: *mut T,
    pub ld: usize,
}

impl<T> C<T> {
    /// From another element on.
    #[inline(always)]
    pub fn at(self, row: usize, column: usize) -> C<T> {
        let values = self.values.wrapping_add(row * self.ld + column);
        C { values, ..self }
    }
}

/// [`Out`] for many writers.
pub(super) struct Shared<'a, T = f32> {
    pub c: C<T>,
    pub accumulate: bool,
    /// Only for [`Shared::put`].
    pub bias: Option<&'a [f32]>,
    pub before: Option<*mut T>,
}

// SAFETY: `gemm` holds the slices' exclusive borrows while tasks run, and tasks touch disjoint
// elements: those of their own rows and columns.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<T: Element> Shared<'_, T> {
    /// Overwrites rows of `c` that begin `ld` apart.
    pub fn new(c: &mut [T], ld: usize, before: Option<&mut [T]>) -> Self {
        let values = c.as_mut_ptr();
        Shared {
            c: C { values, ld },
            accumulate: false,
            bias: None,
            before: before.map(|before| before.as_mut_ptr()),
        }
    }

    /// Neighbours in a row of `C`.
    #[inline(always)]
    pub fn piece(&self, row: usize, column: usize, width: usize) -> *mut [T] {
        std::ptr::slice_from_raw_parts_mut(self.c.at(row, column).values, width)
    }

    /// Puts sums, with all that is added to them, through the epilogue into `C`: [`WIDEST`] of them,
    /// which stay in registers where the epilogue leaves them there.
    ///
    /// # Safety
    /// As many elements of `C` must be within it from `row`, `column` on, and not accessed by others.
    #[inline(always)]
    pub unsafe fn put<S: Simd, E: Epilogue>(
        &self,
        s: S,
        epilogue: &E,
        row: usize,
        column: usize,
        sums: [&[f32; LANES]; 2],
    ) {
        let mut piece = [[0.0; LANES]; 2];
        for (i, piece) in piece.iter_mut().enumerate() {
            let mut sum = s.load(sums[i]);
            let at = column + i * LANES;
            if self.accumulate {
                // SAFETY: the caller's.
                sum = s.add(
                    T::load(s, unsafe { &*self.c.at(row, at).values.cast() }),
                    sum,
                );
            }
            if let Some(bias) = self.bias {
                sum = s.add(s.load(bias[at..].first_chunk().expect("one a column")), sum);
            }
            if let Some(before) = self.before {
                let before = C {
                    values: before,
                    ..self.c
                }
                .at(row, at);
                // SAFETY: the caller's; `before` is as large as `C` and cut the same way.
                T::store(s, unsafe { &mut *before.values.cast() }, sum);
            }
            s.store(piece, sum);
        }
        epilogue.finish(s, row, column, piece.as_flattened_mut());
        for (i, piece) in piece.iter().enumerate() {
            // SAFETY: the caller's.
            let c = unsafe { &mut *self.c.at(row, column + i * LANES).values.cast() };
            T::store(s, c, s.load(piece));
        }
    }

    /// The same of fewer.
    ///
    /// # Safety
    /// That of [`Shared::put`].
    #[inline(always)]
    pub unsafe fn put_some<S: Simd, E: Epilogue>(
        &self,
        s: S,
        epilogue: &E,
        row: usize,
        column: usize,
        sums: &mut [f32],
    ) {
        // SAFETY: the caller's; `before` is as large as `C` and cut the same way.
        let (c, before) = unsafe {
            let c = self.piece(row, column, sums.len());
            let before = self.before.map(|before| {
                let to = before.add(row * self.c.ld + column);
                &mut *std::ptr::slice_from_raw_parts_mut(to, sums.len())
            });
            (&mut *c, before)
        };
        for (i, sum) in sums.chunks_mut(LANES).enumerate() {
            let at = i * LANES..i * LANES + sum.len();
            let mut total = s.load_first(sum);
            if self.accumulate {
                total = s.add(T::load_first(s, &c[at.clone()]), total);
            }
            if let Some(bias) = self.bias {
                total = s.add(s.load_first(&bias[column..][at]), total);
            }
            s.store_first(sum, total);
        }
        if let Some(before) = before {
            store(s, before, sums);
        }
        epilogue.finish(s, row, column, sums);
        store(s, c, sums);
    }
}

impl Shared<'_> {
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

/// As many numbers as there are.
#[inline(always)]
fn store<S: Simd, T: Element>(s: S, to: &mut [T], from: &[f32]) {
    for (to, from) in to.chunks_mut(LANES).zip(from.chunks(LANES)) {
        T::store_first(s, to, s.load_first(from));
    }
}
