//! The same work on many things, on several threads, with results in order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// `work(0)`, `work(1)`, ..., `work(count - 1)`, at most `threads` of them at a time; the first
/// error in that order if there is one. After an error nothing more is begun.
///
/// # Errors
/// The first of `work`.
pub fn in_parallel<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let run = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let result = work(i);
            if result.is_err() {
                // Lower numbers are under way already; higher ones can only be later errors.
                next.store(count, Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(run);
        }
        run();
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    let results = done.into_iter().map(|(_, result)| result).collect::<Result<Vec<T>>>()?;
    if results.len() == count {
        return Ok(results);
    }
    Err(Error::internal("work in parallel was lost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_first_error_wins() {
        assert_eq!(in_parallel(3, 100, |i| Ok(i * i)).unwrap()[99], 99 * 99);
        assert_eq!(in_parallel(3, 0, Ok).unwrap(), Vec::<usize>::new());
        for _ in 0..20 {
            let failing = |i| {
                if i < 3 { Ok(i) } else { Err(Error::input(format!("number {i}"))) }
            };
            assert_eq!(in_parallel(4, 100, failing).unwrap_err().to_string(), "number 3");
        }
    }
}
