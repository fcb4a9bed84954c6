//! Shards of others: both readers, samples, and the way into shards of ours.

use std::collections::HashSet;

use shard::{
    Member, ReshardPlan, Selection, Shards, TarReader, Truncated, index, index_whole, write_tar,
};
use stage::{Context, PairSource};
use store::Blob;

/// Both readers see the same members with the same bytes, every sample can be read, and what is
/// written from them is a tar of as many samples.
pub fn run(data: &[u8]) {
    let blob = Blob::from_bytes("00000.tar", data.to_vec().into());
    let by_header = index_whole(&blob);
    let mut stream = TarReader::new("00000.tar", data).keep_whole();
    let streamed: Vec<_> = stream.by_ref().collect();
    match by_header {
        Ok((members, cut)) => {
            assert_eq!(cut.is_some(), stream.cut().is_some(), "one reader sees a cut");
            let both: Result<Vec<_>, _> = streamed.into_iter().collect();
            let both = both.expect("what one reader takes");
            assert_eq!(both.len(), members.len());
            for ((other, bytes), member) in both.iter().zip(&members) {
                check_member(member, other, bytes, data);
            }
        }
        Err(_) => assert!(streamed.iter().any(Result::is_err), "one reader refuses"),
    }
    samples(&blob);
}

fn check_member(member: &Member, streamed: &Member, bytes: &[u8], tar: &[u8]) {
    assert_eq!(member, streamed);
    let start = usize::try_from(member.offset).expect("an offset in memory");
    assert_eq!(bytes, &tar[start..start + bytes.len()]);
    assert_eq!(bytes.len() as u64, member.len);
}

fn samples(blob: &Blob) {
    let Ok(shards) = Shards::from_blobs(std::slice::from_ref(blob), Truncated::KeepWhole) else {
        return;
    };
    assert_eq!(shards.uids().expect("uids of what was indexed").len(), shards.len());
    for sample in 0..shards.len() {
        let pairs = shards.read(&[sample]).expect("a sample that was indexed");
        assert_eq!(pairs.len(), 1);
    }
    let none = HashSet::new();
    // One thread: a thread an input would cost more than the input.
    let cx = Context { threads: 1, ..Context::default() };
    let plan = ReshardPlan { samples_per_shard: 2, ..ReshardPlan::default() };
    let Ok(planned) = plan.plan(&cx, &shards, Selection::AllBut(&none)) else { return };
    for shard in &planned.shards {
        let mut tar = Vec::new();
        write_tar(&cx, shard, &shards, &mut tar).expect("a shard that was planned");
        let tar = Blob::from_bytes("out.tar", tar.into());
        let members = index(&tar).expect("our own tar");
        assert!(members.len() >= shard.picks.len());
        let again = Shards::from_blobs(&[tar], Truncated::Refuse).expect("our own tar");
        assert_eq!(again.len(), shard.picks.len());
        let bytes: u64 = members.iter().map(|member| member.len).sum();
        assert_eq!(bytes, shard.bytes);
    }
}
