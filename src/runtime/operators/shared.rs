//! A slice that several threads write at once, each in places of its own.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are lent to threads by range.
pub(super) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever borrows a part through a shared reference promises that it is nobody else's (`part`,
// `part_mut`); so this hands out what disjoint `&mut [T]`, and then `&[T]`, would,
// which may go to other threads if T may.
unsafe impl<T: Send + Sync> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        SharedSlice {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: PhantomData,
        }
    }

    /// Elements of the whole slice.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The elements of `range`, to be written.
    ///
    /// # Safety
    /// While the answer lives, nobody else borrows an element of `range`.
    #[expect(clippy::mut_from_ref, reason = "that the parts are disjoint is the caller's promise")]
    pub(super) unsafe fn part_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part lies within its slice"
        );
        // SAFETY: the range lies within the slice that `new` borrowed for 'a; the caller promises that it
        // is borrowed only here.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The elements of `range`, to be read.
    ///
    /// # Safety
    /// While the answer lives, nobody borrows an element of `range` to write it.
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &[T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part lies within its slice"
        );
        // SAFETY: the range lies within the slice that `new` borrowed for 'a; the caller promises that
        // nobody writes it.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }
}
