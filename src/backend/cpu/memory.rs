//! The executor's buffers, and how an op borrows several tensors of them at once.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use super::simd::{Buffer, Isa};
use super::slice::{Slice, SliceMut, Store};
use crate::backend::Tensor;

/// All buffers of `f32` and of bf16. A tensor is a range of one; networks lay many tensors into one
/// buffer (parameters, gradients), so an op may write some ranges of a buffer that it also reads.
///
/// An op that knows bf16 takes tensors [as they are](Memory::write_native); for one that knows `f32`
/// only, those of bf16 are [converted](Memory::write) before and after.
pub struct Memory {
    isa: Isa,
    buffers: Vec<Store>,
    /// For copies in `f32`, kept from op to op.
    spare: Vec<Buffer>,
}

impl Memory {
    /// No buffers yet; conversions run on an instruction set, which changes no result.
    pub fn new(isa: Isa) -> Memory {
        Memory {
            isa,
            buffers: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Keeps a new buffer; returns its number.
    pub fn add(&mut self, buffer: Store) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    fn slice(&self, t: Tensor) -> Slice<'_> {
        let all = self.buffers[t.buffer].all();
        all.get(t.range()).expect("a tensor lies in its buffer")
    }

    /// A tensor's elements.
    pub fn read(&self, t: Tensor) -> Vec<f32> {
        let mut values = vec![0.0; t.len()];
        self.slice(t).read(self.isa, &mut values);
        values
    }

    /// Where an `f32` tensor's elements are, for as long as there is the memory.
    ///
    /// # Panics
    /// If it is bf16: a bug in the network.
    pub fn pointer(&mut self, t: Tensor) -> *mut [f32] {
        &raw mut self.buffers[t.buffer].all_mut().f32()[t.range()]
    }

    /// Overwrites a tensor, with values rounded to bf16 if it is of that.
    pub fn set(&mut self, t: Tensor, values: &[f32]) {
        let isa = self.isa;
        self.write_native([t], |_, [mut to]| to.write(isa, values));
    }

    /// Runs `op` with the tensors that it writes, as they lie in memory; it may borrow all that does
    /// not overlap them from [`Others`].
    ///
    /// # Panics
    /// If two outputs overlap, or `op` asks for what it writes: a bug in the network.
    pub fn write_native<const N: usize, R>(
        &mut self,
        out: [Tensor; N],
        op: impl FnOnce(&Others, [SliceMut; N]) -> R,
    ) -> R {
        // Taken out of the table, the buffers that are written can be split while the rest of the
        // table is shared.
        let mut written: Vec<(usize, Store)> = Vec::with_capacity(N);
        for t in &out {
            if written.iter().all(|(number, _)| *number != t.buffer) {
                written.push((t.buffer, std::mem::take(&mut self.buffers[t.buffer])));
            }
        }
        let mut slices: [SliceMut; N] = std::array::from_fn(|_| SliceMut::default());
        let mut gaps = Vec::new();
        for (number, buffer) in &mut written {
            let mut here: Vec<usize> = (0..N).filter(|i| out[*i].buffer == *number).collect();
            here.sort_by_key(|i| out[*i].offset);
            let (mut rest, mut at) = (buffer.all_mut(), 0);
            for i in here {
                let range = out[i].range();
                assert!(
                    at <= range.start,
                    "an op writes overlapping tensors: {out:?}"
                );
                let [gap, tail] = rest.split_at(range.start - at);
                let [slice, tail] = tail.split_at(range.len());
                gaps.push((*number, at, gap.into()));
                slices[i] = slice;
                (rest, at) = (tail, range.end);
            }
            gaps.push((*number, at, rest.into()));
        }
        let others = Others {
            isa: self.isa,
            buffers: &self.buffers,
            gaps,
            copies: Copies::default(),
            spare: RefCell::new(std::mem::take(&mut self.spare)),
        };
        let result = op(&others, slices);
        let (copies, spare) = (others.copies, others.spare);
        self.spare = spare.into_inner();
        self.spare.extend(copies.into_buffers());
        for (number, buffer) in written {
            self.buffers[number] = buffer;
        }
        result
    }

    /// The same for an op that knows `f32` only. Of bf16 tensors it gets copies: of those that it
    /// writes with what was in them before, since ops also update in place, and with its results
    /// rounded back afterwards.
    ///
    /// # Panics
    /// As [`Memory::write_native`].
    pub fn write<const N: usize, R>(
        &mut self,
        out: [Tensor; N],
        op: impl FnOnce(&Others, [&mut [f32]; N]) -> R,
    ) -> R {
        let isa = self.isa;
        self.write_native(out, |others, mut out| {
            let mut copies: [Option<Buffer>; N] = std::array::from_fn(|i| match &out[i] {
                SliceMut::F32(_) => None,
                SliceMut::Bf16(_) => Some(others.copy(out[i].shared())),
            });
            let mut places = out.iter_mut().zip(&mut copies);
            let slices = std::array::from_fn(|_| match places.next() {
                Some((_, Some(copy))) => &mut copy[..],
                Some((SliceMut::F32(x), None)) => &mut x[..],
                _ => unreachable!("each output is f32, or has a copy"),
            });
            let result = op(others, slices);
            for (out, copy) in out.iter_mut().zip(copies) {
                if let Some(copy) = copy {
                    out.write(isa, &copy);
                    others.spare.borrow_mut().push(copy);
                }
            }
            result
        })
    }
}

/// What an op may read while it writes.
pub struct Others<'a> {
    isa: Isa,
    buffers: &'a [Store],
    /// Of the buffers that are being written: number, first element, and what lies between outputs.
    gaps: Vec<(usize, usize, Slice<'a>)>,
    /// Of bf16 tensors that were asked for in `f32`.
    copies: Copies,
    spare: RefCell<Vec<Buffer>>,
}

impl Others<'_> {
    /// A tensor's elements as they lie in memory.
    ///
    /// # Panics
    /// If the op writes some of them: a bug in the network.
    pub fn slice(&self, t: Tensor) -> Slice<'_> {
        let range = t.range();
        let mut in_gaps = self.gaps.iter().filter(|(n, ..)| *n == t.buffer).peekable();
        if in_gaps.peek().is_none() {
            let all = self.buffers[t.buffer].all();
            return all.get(range).expect("a tensor lies in its buffer");
        }
        in_gaps
            .find_map(|(_, first, gap)| {
                gap.get(range.start.checked_sub(*first)?..range.end - first)
            })
            .unwrap_or_else(|| panic!("an op reads what it writes: {t:?}"))
    }

    /// A tensor's elements in `f32`: of a bf16 one a copy, made when it is first asked for.
    ///
    /// # Panics
    /// If the op writes some of them: a bug in the network.
    pub fn get(&self, t: Tensor) -> &[f32] {
        match self.slice(t) {
            Slice::F32(x) => x,
            Slice::Bf16(_) => self.copies.of(t, || self.copy(self.slice(t))),
        }
    }

    /// A copy in spare memory.
    fn copy(&self, from: Slice) -> Buffer {
        let len = from.len();
        let mut spare = self.spare.borrow_mut();
        // The smallest that is large enough, or else the largest, which then grows: there are never
        // more than an op once needed.
        let best = (0..spare.len()).min_by_key(|i| match spare[*i].capacity() {
            capacity if capacity >= len => (false, capacity),
            capacity => (true, usize::MAX - capacity),
        });
        let mut copy = best.map_or_else(Buffer::default, |i| spare.swap_remove(i));
        from.read(self.isa, copy.resize(len));
        copy
    }
}

/// Copies of tensors. It only grows while it is shared, so that what is borrowed from it stays: a
/// list.
#[derive(Default)]
struct Copies(OnceCell<Box<Copied>>);

struct Copied {
    buffer: usize,
    range: Range<usize>,
    values: Buffer,
    others: Copies,
}

impl Copies {
    /// That of a tensor, made if there is none.
    fn of(&self, t: Tensor, make: impl FnOnce() -> Buffer) -> &[f32] {
        let mut end = &self.0;
        while let Some(copied) = end.get() {
            if (copied.buffer, &copied.range) == (t.buffer, &t.range()) {
                return &copied.values;
            }
            end = &copied.others.0;
        }
        let copied = end.get_or_init(|| {
            Box::new(Copied {
                buffer: t.buffer,
                range: t.range(),
                values: make(),
                others: Copies::default(),
            })
        });
        &copied.values
    }

    /// The memory of all.
    fn into_buffers(self) -> impl Iterator<Item = Buffer> {
        let mut rest = self.0.into_inner();
        std::iter::from_fn(move || {
            let copied = *rest.take()?;
            rest = copied.others.0.into_inner();
            Some(copied.values)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(Isa::PORTABLE)
    }

    fn tensor(memory: &mut Memory, buffer: Store, values: &[f32]) -> Tensor {
        let t = Tensor {
            buffer: memory.add(buffer),
            offset: 0,
            dims: [1, 1, 1, values.len()],
        };
        memory.set(t, values);
        t
    }

    fn f32s(memory: &mut Memory, values: &[f32]) -> Tensor {
        tensor(memory, Store::F32(Buffer::zeroed(values.len())), values)
    }

    fn bf16s(memory: &mut Memory, values: &[f32]) -> Tensor {
        tensor(memory, Store::Bf16(Buffer::zeroed(values.len())), values)
    }

    fn flat() -> (Memory, Tensor, Tensor) {
        let mut memory = memory();
        let a = f32s(&mut memory, &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        let b = f32s(&mut memory, &[0.; 4]);
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
        assert_eq!(memory.read(a), [0., -1., -1., 3., 4., -5., -5., 7., 8., 9.]);
        assert_eq!(memory.read(b), [0., 7., 8., 9.]);
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

    /// Just above 1, and too near it for bf16.
    const FINE: f32 = 1.001;

    #[test]
    fn an_op_that_knows_f32_only_writes_and_reads_both_kinds() {
        let mut memory = memory();
        let a = bf16s(&mut memory, &[0., 1., 2., 3., 4., 5., 6., 7., 8., FINE]);
        let b = f32s(&mut memory, &[FINE; 3]);
        let c = bf16s(&mut memory, &[3.; 2]);
        assert_eq!(memory.read(part(a, 9, 1)), [1.0], "rounded when written");
        for _ in 0..2 {
            // Updates in place, out of order, between inputs, some of them read twice.
            let out = [part(a, 5, 2), b, part(a, 2, 2)];
            memory.write(out, |others, [five, b, two]| {
                assert_eq!(others.get(part(a, 0, 2)), [0., 1.]);
                assert_eq!(others.get(part(a, 0, 1)), [0.]);
                assert_eq!(others.get(part(a, 7, 3)), [7., 8., 1.]);
                let (once, again) = (others.get(c), others.get(c));
                assert_eq!((once, once.as_ptr()), (&[3., 3.][..], again.as_ptr()));
                b[0] += 1.0;
                five[1] += FINE;
                two[0] *= 2.0;
            });
        }
        assert_eq!(memory.read(a), [0., 1., 8., 3., 4., 5., 8., 7., 8., 1.]);
        assert_eq!(memory.read(b), [FINE + 1.0 + 1.0, FINE, FINE]);
        assert_eq!(memory.spare.len(), 6, "copies' memory is kept");
    }

    #[test]
    fn an_op_that_knows_bf16_has_it_as_it_lies_there() {
        let mut memory = memory();
        let a = bf16s(&mut memory, &[0., 1., 2., 3.]);
        let b = f32s(&mut memory, &[0.; 2]);
        memory.write_native([part(a, 2, 2), b], |others, [two, b]| {
            let ones = others.slice(part(a, 0, 2)).bf16();
            let two = two.bf16();
            b.f32()[1] = two[1].to_f32();
            two.copy_from_slice(ones);
        });
        assert_eq!(memory.read(a), [0., 1., 0., 1.]);
        assert_eq!(memory.read(b), [0., 3.]);
        assert!(memory.spare.is_empty(), "nothing was converted");
    }

    #[test]
    #[should_panic(expected = "reads what it writes")]
    fn reading_a_bf16_output_panics() {
        let mut memory = memory();
        let a = bf16s(&mut memory, &[0.; 4]);
        memory.write([part(a, 1, 2)], |others, _| {
            others.get(a);
        });
    }

    #[test]
    #[should_panic(expected = "of the other kind")]
    fn bf16_has_no_f32_to_point_at() {
        let mut memory = memory();
        let a = bf16s(&mut memory, &[0.; 4]);
        memory.pointer(a);
    }
}
