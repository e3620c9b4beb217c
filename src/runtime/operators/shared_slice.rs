//! A slice that several threads write concurrently, each thread at different indices.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that lends disjoint ranges to several threads.
pub(super) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: callers of `slice` and `slice_mut` guarantee that a mutably borrowed element has no other borrow. So this
// type is equivalent to disjoint `&mut [T]` and `&[T]`, which other threads may use if `T` is `Send` and `Sync`.
unsafe impl<T: Send + Sync> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        SharedSlice {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: PhantomData,
        }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Borrows the elements of `range` mutably.
    ///
    /// # Safety
    /// While the result lives, no element of `range` may be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "the caller guarantees that ranges are disjoint")]
    pub(super) unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "the range lies within the slice"
        );
        // SAFETY: the range lies within the slice that `new` borrowed for 'a. The caller guarantees that
        // no element of the range is borrowed elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Borrows the elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no element of `range` may be borrowed mutably.
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &[T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "the range lies within the slice"
        );
        // SAFETY: the range lies within the slice that `new` borrowed for 'a. The caller guarantees that
        // no element of the range is borrowed mutably.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }
}
