//! The executor's buffers, and how an op borrows several tensors of them at once.

use super::simd::Buffer;
use crate::backend::Tensor;

/// All `f32` buffers. A tensor is a range of one; networks lay many tensors into one buffer
/// (parameters, gradients), so an op may write some ranges of a buffer that it also reads.
#[derive(Default)]
pub struct Memory {
    buffers: Vec<Buffer>,
}

impl Memory {
    /// A new buffer of `len` zeros; returns its number.
    pub fn alloc(&mut self, len: usize) -> usize {
        self.buffers.push(Buffer::zeroed(len));
        self.buffers.len() - 1
    }

    /// A tensor's elements.
    pub fn get(&self, t: Tensor) -> &[f32] {
        &self.buffers[t.buffer][t.range()]
    }

    /// Where a tensor's elements are, for as long as there is the memory.
    pub fn pointer(&mut self, t: Tensor) -> *mut [f32] {
        &raw mut self.buffers[t.buffer][t.range()]
    }

    /// Overwrites a tensor.
    pub fn set(&mut self, t: Tensor, values: &[f32]) {
        self.buffers[t.buffer][t.range()].copy_from_slice(values);
    }

    /// Runs `op` with the tensors that it writes; it may borrow all that does not overlap them from
    /// [`Others`].
    ///
    /// # Panics
    /// If two outputs overlap, or `op` asks for what it writes: a bug in the network.
    pub fn write<const N: usize, R>(
        &mut self,
        out: [Tensor; N],
        op: impl FnOnce(&Others, [&mut [f32]; N]) -> R,
    ) -> R {
        // Taken out of the table, the buffers that are written can be split while the rest of the
        // table is shared.
        let mut written: Vec<(usize, Buffer)> = Vec::with_capacity(N);
        for t in &out {
            if written.iter().all(|(number, _)| *number != t.buffer) {
                written.push((t.buffer, std::mem::take(&mut self.buffers[t.buffer])));
            }
        }
        let mut slices: [&mut [f32]; N] = std::array::from_fn(|_| Default::default());
        let mut gaps = Vec::new();
        for (number, buffer) in &mut written {
            let mut here: Vec<usize> = (0..N).filter(|i| out[*i].buffer == *number).collect();
            here.sort_by_key(|i| out[*i].offset);
            let (mut rest, mut at) = (&mut buffer[..], 0);
            for i in here {
                let range = out[i].range();
                assert!(
                    at <= range.start,
                    "an op writes overlapping tensors: {out:?}"
                );
                let (gap, tail) = rest.split_at_mut(range.start - at);
                let (slice, tail) = tail.split_at_mut(range.len());
                gaps.push((*number, at, &*gap));
                slices[i] = slice;
                (rest, at) = (tail, range.end);
            }
            gaps.push((*number, at, &*rest));
        }
        let others = Others {
            buffers: &self.buffers,
            gaps,
        };
        let result = op(&others, slices);
        for (number, buffer) in written {
            self.buffers[number] = buffer;
        }
        result
    }
}

/// What an op may read while it writes.
pub struct Others<'a> {
    buffers: &'a [Buffer],
    /// Of the buffers that are being written: number, first element, and what lies between outputs.
    gaps: Vec<(usize, usize, &'a [f32])>,
}

impl Others<'_> {
    /// A tensor's elements.
    ///
    /// # Panics
    /// If the op writes some of them: a bug in the network.
    pub fn get(&self, t: Tensor) -> &[f32] {
        let range = t.range();
        let mut in_gaps = self.gaps.iter().filter(|(n, ..)| *n == t.buffer).peekable();
        if in_gaps.peek().is_none() {
            return &self.buffers[t.buffer][range];
        }
        in_gaps
            .find_map(|(_, first, gap)| {
                gap.get(range.start.checked_sub(*first)?..range.end - first)
            })
            .unwrap_or_else(|| panic!("an op reads what it writes: {t:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> (Memory, Tensor, Tensor) {
        let mut memory = Memory::default();
        let [a, b] = [10, 4].map(|len| Tensor {
            buffer: memory.alloc(len),
            offset: 0,
            dims: [1, 1, 1, len],
        });
        memory.set(a, &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        (memory, a, b)
    }

    fn part(t: Tensor, start: usize, len: usize) -> Tensor {
        t.view(start, [1, 1, 1, len])
    }

    #[test]
    fn outputs_and_inputs_may_share_a_buffer() {
        let (mut memory, a, b) = flat();
        // In any order, side by side, and with inputs before, between and after.
        let out = [part(a, 5, 2), b, part(a, 1, 2), part(a, 3, 1)];
        memory.write(out, |others, [five, b, one, three]| {
            assert_eq!([&*five, &*one, &*three].concat(), [5., 6., 1., 2., 3.]);
            assert_eq!(others.get(part(a, 0, 1)), [0.]);
            assert_eq!(others.get(part(a, 4, 1)), [4.]);
            assert_eq!(others.get(part(a, 8, 2)), [8., 9.]);
            b[1..].copy_from_slice(others.get(part(a, 7, 3)));
            five.fill(-5.0);
            one.fill(-1.0);
        });
        assert_eq!(memory.get(a), [0., -1., -1., 3., 4., -5., -5., 7., 8., 9.]);
        assert_eq!(memory.get(b), [0., 7., 8., 9.]);
    }

    #[test]
    #[should_panic(expected = "reads what it writes")]
    fn reading_an_output_panics() {
        let (mut memory, a, _) = flat();
        memory.write([part(a, 2, 3)], |others, _| {
            others.get(part(a, 4, 2));
        });
    }

    #[test]
    #[should_panic(expected = "overlapping tensors")]
    fn overlapping_outputs_panic() {
        let (mut memory, a, _) = flat();
        memory.write([part(a, 2, 3), part(a, 4, 2)], |_, _| ());
    }
}
