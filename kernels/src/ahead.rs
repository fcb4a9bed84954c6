//! Requests for numbers before they are used (prefetches).

/// Steps of the inner dimension from one request of [`Ahead`] to the next.
pub(crate) const BETWEEN: usize = 4;

/// Asks for numbers that are read soon, a line at a time, so that they are in the second-level cache
/// when they are wanted. A panel of the right factor is read once for many rows: without this the
/// first of its tiles waits for main memory, which costs a tenth of a product.
pub(crate) struct Ahead<'a, T>(std::slice::Chunks<'a, T>);

impl<'a, T> Ahead<'a, T> {
    pub(crate) fn new(numbers: &'a [T]) -> Self {
        /// Bytes of a line.
        const LINE: usize = 64;
        Self(numbers.chunks(LINE / size_of::<T>()))
    }

    /// Asks for the next line.
    #[inline(always)]
    pub(crate) fn one(&mut self) {
        if let Some(line) = self.0.next() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch reads nothing; and the line is there.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        }
    }
}

/// Asks for the line of an element that is added to soon; it need not be there.
#[inline(always)]
pub(crate) fn near<T>(numbers: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(numbers.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (numbers, at);
}
