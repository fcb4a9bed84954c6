//! Passes over shards: repeatable, resumable, in shares without loss or repeat.

mod common;

use common::{PNG, tar};
use shard::{Cursor, Epoch, EpochPlan, Shards, Share, Truncated};
use stage::{Kind, PairSource};

/// Shards of so many samples each; the key of a sample is its shard and its number there.
fn set(sizes: &[usize]) -> Shards {
    let blobs: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(shard, &count)| {
            let names: Vec<String> = (0..count).map(|i| format!("{shard}-{i}")).collect();
            let suffixes: [(&str, &[u8]); 2] = [(".png", PNG), (".txt", b"a cat")];
            let members: Vec<(String, &[u8])> = names
                .iter()
                .flat_map(|name| suffixes.map(|(suffix, data)| (format!("{name}{suffix}"), data)))
                .collect();
            let members: Vec<(&str, &[u8])> =
                members.iter().map(|(name, data)| (&**name, *data)).collect();
            tar(&format!("{shard:05}.tar"), &members)
        })
        .collect();
    Shards::from_blobs(&blobs, Truncated::Refuse).unwrap()
}

fn plan(window: u64) -> EpochPlan {
    EpochPlan { seed: 3, window, share: Share::default() }
}

fn order(plan: EpochPlan, shards: &Shards, epoch: u64) -> Vec<usize> {
    plan.epoch(shards, epoch).unwrap().collect()
}

#[test]
fn every_pass_has_every_sample_once_whatever_the_window() {
    let shards = set(&[3, 0, 5, 1, 7]);
    for window in [0, 1, 2, 5, 16, 1000] {
        for epoch in 0..3 {
            let mut seen = order(plan(window), &shards, epoch);
            seen.sort_unstable();
            assert_eq!(seen, (0..16).collect::<Vec<_>>(), "window {window}, epoch {epoch}");
        }
    }
}

#[test]
fn the_order_is_written_down() {
    // A change of these figures is a change of what every cursor means.
    let shards = set(&[3, 0, 5, 1, 7]);
    assert_eq!(order(plan(0), &shards, 0), (0..16).collect::<Vec<_>>());
    assert_eq!(order(plan(1), &shards, 1), [0, 1, 2, 9, 10, 11, 12, 13, 14, 15, 8, 3, 4, 5, 6, 7]);
    assert_eq!(order(plan(4), &shards, 1), [9, 0, 2, 1, 11, 12, 13, 10, 14, 3, 8, 15, 7, 5, 6, 4]);
    let cursor = plan(4).epoch(&shards, 2).unwrap().cursor().to_string();
    assert!(cursor.starts_with("2:0:") && cursor.len() == 4 + 16, "{cursor}");
}

#[test]
fn a_window_of_one_permutes_shards_and_keeps_their_samples_together() {
    let shards = set(&[4, 4, 4, 4, 4, 4]);
    let order = order(plan(1), &shards, 0);
    for shard in order.chunks(4) {
        assert_eq!(shard[0] % 4, 0);
        assert!(shard.windows(2).all(|pair| pair[1] == pair[0] + 1), "{order:?}");
    }
    assert_ne!(order, (0..24).collect::<Vec<_>>());
}

#[test]
fn passes_and_seeds_differ_and_the_same_pass_is_the_same() {
    let shards = set(&[10, 10, 10]);
    let first = order(plan(8), &shards, 0);
    assert_eq!(first, order(plan(8), &shards, 0));
    assert_ne!(first, order(plan(8), &shards, 1));
    assert_ne!(first, order(EpochPlan { seed: 4, ..plan(8) }, &shards, 0));
}

#[test]
fn ranks_and_workers_share_a_pass_without_loss_or_repeat() {
    let shards = set(&[3, 0, 5, 1, 7, 11]);
    for (ranks, workers) in [(1, 1), (1, 3), (2, 2), (3, 4), (5, 1), (40, 1)] {
        let mut all = Vec::new();
        let mut lengths = Vec::new();
        for rank in 0..ranks {
            for worker in 0..workers {
                let share = Share::of_worker(rank, ranks, worker, workers);
                let part = order(EpochPlan { share, ..plan(4) }, &shards, 1);
                lengths.push(part.len());
                all.extend(part);
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..27).collect::<Vec<_>>(), "{ranks} ranks of {workers} workers");
        let spread = lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
        assert!(spread <= 1, "{lengths:?}");
    }
}

#[test]
fn every_cursor_leads_to_the_same_remainder_in_every_share() {
    let shards = set(&[3, 0, 5, 1, 7]);
    for window in [0, 1, 4, 100] {
        for index in 0..2 {
            let plan = EpochPlan { share: Share { index, of: 2 }, ..plan(window) };
            let whole = order(plan, &shards, 5);
            let mut epoch = plan.epoch(&shards, 5).unwrap();
            for given in 0..=whole.len() {
                let cursor: Cursor = epoch.cursor().to_string().parse().unwrap();
                let rest: Vec<usize> = plan.resume(&shards, &cursor).unwrap().collect();
                assert_eq!(rest, whole[given..], "window {window}, {cursor}");
                epoch.next();
            }
            assert_eq!(epoch.next(), None);
        }
    }
}

#[test]
fn samples_come_in_the_order_of_the_indices_and_the_cursor_counts_what_was_given() {
    let shards = set(&[300, 0, 400]);
    let plan = plan(64);
    let expected = order(plan, &shards, 0);
    let mut epoch = plan.epoch(&shards, 0).unwrap();
    for (given, &index) in expected.iter().enumerate() {
        assert_eq!(epoch.cursor().position, given as u64);
        let (found, sample) = epoch.next_sample().unwrap().unwrap();
        assert_eq!(found, index);
        let pairs = shards.read(&[index]).unwrap();
        assert_eq!(sample.key, pairs.keys().value(0));
        assert_eq!(sample.part("txt").unwrap(), "a cat");
        assert_eq!(sample.part("png").unwrap(), PNG);
        if given == 100 {
            // Indices may be taken in between; what was read ahead is not lost.
            assert_eq!(epoch.cursor().position, 101);
        }
    }
    assert!(epoch.next_sample().is_none());
    let mut epoch: Epoch<'_> = plan.epoch(&shards, 0).unwrap();
    epoch.next_sample().unwrap().unwrap();
    assert_eq!(epoch.next(), Some(expected[1]));
    let pairs = epoch.next_pairs(3).unwrap().unwrap();
    assert_eq!(pairs.keys().value(0), shards.read(&expected[2..3]).unwrap().keys().value(0));
    assert_eq!(epoch.cursor().position, 5);
}

#[test]
fn a_cursor_of_another_reading_is_refused() {
    let shards = set(&[3, 5]);
    let cursor = plan(4).epoch(&shards, 0).unwrap().cursor();
    let other = set(&[3, 6]);
    let refused = [
        plan(4).resume(&other, &cursor),
        plan(5).resume(&shards, &cursor),
        EpochPlan { seed: 4, ..plan(4) }.resume(&shards, &cursor),
        EpochPlan { share: Share { index: 0, of: 2 }, ..plan(4) }.resume(&shards, &cursor),
        plan(4).resume(&shards, &Cursor { position: 9, ..cursor }),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().kind(), Kind::Conflict);
    }
    for text in ["", "1:2", "1:2:xyz", "a:2:0000000000000000", "1:2:3:4"] {
        assert_eq!(text.parse::<Cursor>().unwrap_err().kind(), Kind::Recipe, "{text}");
    }
    let share = Share { index: 2, of: 2 };
    let error = EpochPlan { share, ..plan(4) }.epoch(&shards, 0).unwrap_err();
    assert_eq!(error.kind(), Kind::Recipe);
}
