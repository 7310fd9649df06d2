//! Memory of vectors: on cache lines, and in huge pages where it is much.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::Element;

/// A growable slice of `f32`, or of bf16, that starts on a cache line, so that no aligned vector in
/// it straddles two.
#[derive(Clone, Debug)]
pub struct Buffer<E = f32> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<E>,
}

/// A cache line, and as many elements as it holds.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeros; in huge pages, if they are many and the system gives them. Rows of large matrices each
/// lie on pages of their own, and looking those up takes a tenth of a product's time.
fn zeroed_lines(count: usize) -> Vec<Line> {
    let mut lines = Vec::<Line>::with_capacity(count);
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        const HUGE: usize = 2 << 20;
        let (start, bytes) = (lines.as_mut_ptr(), count * size_of::<Line>());
        let skip = start.addr().wrapping_neg() % PAGE;
        if bytes >= 2 * HUGE {
            let inside = (bytes - skip) / PAGE * PAGE;
            // SAFETY: whole pages of the vector's own memory; advice changes no contents, and
            // where it is refused all goes on with small pages.
            unsafe { libc::madvise(start.byte_add(skip).cast(), inside, libc::MADV_HUGEPAGE) };
        }
    }
    lines.resize(count, Line::zeroed());
    lines
}

impl<E: Element> Buffer<E> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Buffer<E> {
        Buffer {
            lines: zeroed_lines(lines(size_of::<E>(), len)),
            len,
            element: PhantomData,
        }
    }

    /// Makes it `len` long, with unspecified values; allocates only if it never was as long.
    pub fn resize(&mut self, len: usize) -> &mut [E] {
        let count = lines(size_of::<E>(), len);
        if self.lines.len() < count {
            self.lines = Vec::new(); // So that growing does not copy.
            self.lines = zeroed_lines(count);
        }
        self.len = len;
        self
    }

    /// How long it can be made without an allocation.
    pub fn capacity(&self) -> usize {
        self.lines.len() * size_of::<Line>() / size_of::<E>()
    }
}

/// Lines that hold `len` elements of a size.
fn lines(size: usize, len: usize) -> usize {
    (len * size).div_ceil(size_of::<Line>())
}

impl<E> Default for Buffer<E> {
    fn default() -> Buffer<E> {
        Buffer {
            lines: Vec::new(),
            len: 0,
            element: PhantomData,
        }
    }
}

impl<E: Element> std::ops::Deref for Buffer<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<E: Element> std::ops::DerefMut for Buffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn grows_and_shrinks<E: Element>() {
        let mut buffer = Buffer::<E>::zeroed(5);
        assert_eq!(&buffer[..], [E::ZERO; 5]);
        assert_eq!(buffer.resize(1000).len(), 1000);
        assert_eq!(buffer.as_ptr().align_offset(64), 0);
        assert_eq!(buffer.resize(3).len(), 3);
    }

    #[test]
    fn buffers_start_on_a_cache_line() {
        grows_and_shrinks::<f32>();
        grows_and_shrinks::<bf16>();
    }
}
