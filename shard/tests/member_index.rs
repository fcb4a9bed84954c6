//! The index beside shards.

mod common;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use common::{PNG, tar};
use shard::{
    INDEX_STAGE, IndexSummary, ListedShard, MEMBERS, SHARD_LIST, Shards, read_shard_list,
    write_index,
};
use stage::{Context, Counts, PairSource};
use store::{Blob, Output};

/// Two shards in a folder, and an index of them made with so many threads.
fn indexed(folder: &std::path::Path, threads: usize) -> (Output, IndexSummary) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let first: [(&str, &[u8]); 2] = [("0.png", PNG), ("0.txt", b"a cat")];
    let second: [(&str, &[u8]); 2] = [("1.png", PNG), ("0.txt", b"again")];
    std::fs::write(path("0.tar"), tar("0.tar", &first).read_all().unwrap()).unwrap();
    std::fs::write(path("1.tar"), tar("1.tar", &second).read_all().unwrap()).unwrap();
    let output = Output::open(folder.to_str().unwrap()).unwrap();
    let stage = output.stage(INDEX_STAGE);
    stage.clear().unwrap();
    let mut attempt = stage.begin("index").unwrap();
    let shards = ["0.tar", "1.tar"].map(|name| (path(name), format!("../{name}")));
    let cx = Context { threads, ..Context::default() };
    let summary = write_index(&cx, "pets", &shards, &mut attempt).unwrap();
    attempt.commit("key", Counts::default(), serde_json::Value::Null).unwrap();
    (output, summary)
}

#[test]
fn every_member_is_found_where_its_bytes_are() {
    let folder = tempfile::tempdir().unwrap();
    let (output, summary) = indexed(folder.path(), 2);
    assert_eq!(summary, IndexSummary { shards: 2, samples: 3, members: 4, bytes: 2 * 3072 });
    let stage = output.stage(INDEX_STAGE);
    let table = stage.blob(MEMBERS).unwrap();
    let mut rows = Vec::new();
    for batch in store::read_parquet(&table).unwrap() {
        let batch = batch.unwrap();
        let text = |i: usize, row| batch.column(i).as_string::<i32>().value(row).to_owned();
        let number = |i: usize, row| batch.column(i).as_primitive::<UInt64Type>().value(row);
        for row in 0..batch.num_rows() {
            let tar = folder.path().join(text(0, row).strip_prefix("../").unwrap());
            let tar = Blob::open(tar.to_str().unwrap()).unwrap();
            let data = tar.read_at(number(3, row), number(4, row) as usize).unwrap();
            assert_eq!(text(5, row), Blob::from_bytes("", data).sha256().unwrap());
            rows.push(format!("{} {} {}", text(0, row), text(1, row), text(2, row)));
        }
    }
    let expected = ["../0.tar 0 0.png", "../0.tar 0 0.txt", "../1.tar 1 1.png", "../1.tar 0 0.txt"];
    assert_eq!(rows, expected);
}

#[test]
fn the_list_is_what_wids_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (output, _) = indexed(folder.path(), 1);
    let list = output.stage(INDEX_STAGE).blob(SHARD_LIST).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&list.read_all().unwrap()).unwrap();
    assert_eq!(json["__kind__"], "wids-shard-index-v1");
    assert_eq!((&json["wids_version"], &json["name"]), (&1.into(), &"pets".into()));
    let shards = read_shard_list(&list).unwrap();
    let names: Vec<_> = shards.iter().map(|s| (s.url.as_str(), s.nsamples, s.filesize)).collect();
    assert_eq!(names, [("../0.tar", 1, 3072), ("../1.tar", 2, 3072)]);
    let ListedShard { md5sum, .. } = &shards[0];
    assert!(md5sum.len() == 32 && shards[1].md5sum != *md5sum);
}

#[test]
fn the_bytes_are_the_same_at_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let files = |threads| {
        let (output, _) = indexed(folder.path(), threads);
        [MEMBERS, SHARD_LIST]
            .map(|name| output.stage(INDEX_STAGE).blob(name).unwrap().read_all().unwrap())
    };
    assert!(files(1) == files(3));
}

#[test]
fn over_a_network_the_index_stands_for_the_headers_while_it_is_of_this_very_tar() {
    let output = Output::in_memory();
    let url = |name: &str| output.locate(&format!("pool/{name}"));
    let put = |name: &str, bytes: &[u8]| {
        output.put(&format!("pool/{name}"), bytes.to_vec().into()).unwrap();
    };
    let first = tar("0.tar", &[("0.png", PNG), ("0.txt", b"a cat")]).read_all().unwrap();
    put("0.tar", &first);
    let pool = Output::open(&url("")).unwrap();
    let mut attempt = pool.stage(INDEX_STAGE).begin("index").unwrap();
    let shards = [(url("0.tar"), "../0.tar".to_owned())];
    write_index(&Context::default(), "pool", &shards, &mut attempt).unwrap();
    attempt.commit("key", Counts::default(), serde_json::Value::Null).unwrap();

    let open = || Shards::open(&[url("0.tar")]);
    let with_index = open().unwrap();
    assert_eq!(
        (with_index.len(), with_index.read(&[0]).unwrap().captions().value(0)),
        (1, "a cat")
    );
    // The same bytes without the first header: only the index can say what is where.
    let mut blank = first.to_vec();
    blank[..512].fill(b'x');
    put("0.tar", &blank);
    assert_eq!(open().unwrap().read(&[0]).unwrap().captions().value(0), "a cat");
    assert_eq!(open().unwrap().fingerprint(), with_index.fingerprint());
    // A tar of this length whose members lie elsewhere is another tar, and so is one of another.
    let swapped = tar("0.tar", &[("0.txt", b"a dog"), ("0.png", PNG)]).read_all().unwrap();
    assert_eq!(swapped.len(), first.len());
    put("0.tar", &swapped);
    assert_eq!(open().unwrap().read(&[0]).unwrap().captions().value(0), "a dog");
    put("0.tar", &tar("0.tar", &[("7.png", PNG)]).read_all().unwrap());
    assert_eq!(open().unwrap().read(&[0]).unwrap().keys().value(0), "7");
    // An index that cannot be read is none.
    put("index/shardindex.json", b"{");
    assert_eq!(open().unwrap().len(), 1);
}
