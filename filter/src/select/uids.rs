//! Uids in buckets by their first byte: gathered by several threads, sorted bucket by bucket.

use std::sync::Mutex;

use stage::{Error, Result};
use store::subset::Uid;

const BUCKETS: usize = 256;
/// Uids of a chunk. Chunks do not move when more come, so that memory never holds a list twice.
const CHUNK: usize = 1 << 12;

/// Uids in no order.
#[derive(Debug)]
pub(super) struct Uids {
    buckets: Vec<Vec<Vec<Uid>>>,
}

impl Default for Uids {
    fn default() -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS] }
    }
}

impl Uids {
    pub(super) fn push(&mut self, uid: Uid) {
        let bucket = &mut self.buckets[(uid.0 >> 56) as usize];
        match bucket.last_mut() {
            Some(chunk) if chunk.len() < chunk.capacity() => chunk.push(uid),
            _ => {
                // Small pools stay small: the first chunks double.
                let room = (4 << (2 * bucket.len()).min(30)).min(CHUNK);
                let mut chunk = Vec::with_capacity(room);
                chunk.push(uid);
                bucket.push(chunk);
            }
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        for (bucket, mut other) in self.buckets.iter_mut().zip(other.buckets) {
            bucket.append(&mut other);
        }
    }

    /// Each bucket sorted and then changed by `shape`, which may take uids out of it; in order, so
    /// that the lists one behind the other ascend.
    pub(super) fn into_sorted(
        self,
        threads: usize,
        shape: impl Fn(&mut Vec<Uid>) + Sync,
    ) -> Result<Vec<Vec<Uid>>> {
        let buckets: Vec<Mutex<Vec<Vec<Uid>>>> = self.buckets.into_iter().map(Mutex::new).collect();
        stage::in_parallel(threads, BUCKETS, |i| {
            let chunks =
                buckets.get(i).map(|bucket| bucket.lock().map(|mut b| std::mem::take(&mut *b)));
            let Some(Ok(chunks)) = chunks else { return Err(Error::internal("a bucket is lost")) };
            let mut uids = Vec::with_capacity(chunks.iter().map(Vec::len).sum());
            for chunk in chunks {
                uids.extend_from_slice(&chunk);
            }
            uids.sort_unstable();
            let before = uids.len();
            shape(&mut uids);
            if uids.len() < before / 4 * 3 {
                uids.shrink_to_fit();
            }
            Ok(uids)
        })
    }
}

/// Leaves the uids that the sorted `others` has too, or those that it has not; both ascend.
pub(super) fn meet(uids: &mut Vec<Uid>, others: &[Uid], keep_common: bool) {
    let Some(&first) = uids.first() else { return };
    let mut others = others[others.partition_point(|other| *other < first)..].iter().peekable();
    uids.retain(|uid| {
        while others.next_if(|other| *other < uid).is_some() {}
        (others.peek() == Some(&uid)) == keep_common
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(i: u64) -> Uid {
        Uid(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i)
    }

    #[test]
    fn buckets_behind_each_other_are_the_sorted_list() {
        let (mut one, mut other) = (Uids::default(), Uids::default());
        let mut expected: Vec<Uid> = (0..50_000).map(|i| uid(i % 40_000)).collect();
        for (i, &uid) in expected.iter().enumerate() {
            if i % 3 == 0 { one.push(uid) } else { other.push(uid) }
        }
        one.append(other);
        expected.sort_unstable();
        let sorted: Vec<Uid> = one.into_sorted(2, |_| ()).unwrap().into_iter().flatten().collect();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn repeated_uids_stay_together_in_a_meeting() {
        let list = |numbers: &[u64]| -> Vec<Uid> { numbers.iter().map(|&i| Uid(0, i)).collect() };
        let (mut common, mut rest) = (list(&[1, 2, 2, 3, 5]), list(&[1, 2, 2, 3, 5]));
        let others = list(&[0, 2, 3, 3, 4]);
        meet(&mut common, &others, true);
        meet(&mut rest, &others, false);
        assert_eq!((common, rest), (list(&[2, 2, 3]), list(&[1, 5])));
        let mut none = list(&[]);
        meet(&mut none, &others, true);
        assert!(none.is_empty());
    }
}
