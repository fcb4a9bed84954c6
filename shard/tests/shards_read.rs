//! A set of shards as a source of pairs.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PNG, shared, tar};
use shard::{Shards, Truncated};
use stage::{PairSource, Pairs};
use store::Blob;

fn open(blobs: &[Blob]) -> Shards {
    Shards::from_blobs(blobs, Truncated::Refuse).unwrap()
}

/// Keys with holes, another order of members, a sample without a picture, an empty shard.
fn two_and_an_empty_one() -> Shards {
    let json = br#"{"uid": "139e4a9b22a614771f06c700a8ebe150", "url": "http://a.example/1.jpg",
        "width": 7, "height": 9, "original_width": 70, "original_height": 90, "sha256": "ab",
        "category": "cats", "score": 0.5, "tags": ["a"]}"#;
    open(&[
        tar(
            "a/00000.tar",
            &[
                ("000000001.jpg", PNG),
                ("000000001.json", json),
                ("000000001.txt", b"a cat"),
                ("000000004.txt", b"no picture"),
                ("000000031.txt", b"a dog"),
                ("000000031.PNG", PNG),
            ],
        ),
        tar("a/00001.tar", &[]),
        tar("a/00002.tar", &[("000020000.webp", PNG), ("000020000.json", b"{\"caption\": \"c\"}")]),
    ])
}

fn texts(column: &arrow_array::StringArray) -> Vec<&str> {
    column.iter().map(Option::unwrap_or_default).collect()
}

#[test]
fn holes_in_keys_and_shards_without_a_picture_do_not_matter() {
    let shards = two_and_an_empty_one();
    assert_eq!((shards.len(), shards.without_picture()), (3, 1));
    let pairs = shards.read(&[0, 1, 2]).unwrap();
    assert_eq!(texts(pairs.keys()), ["000000001", "000000031", "000020000"]);
    assert_eq!(texts(pairs.captions()), ["a cat", "a dog", "c"]);
    assert_eq!(texts(pairs.urls()), ["http://a.example/1.jpg", "", ""]);
    assert_eq!(texts(pairs.statuses()), ["success"; 3]);
    assert!((0..3).all(|i| pairs.image(i) == Some(PNG)));
}

#[test]
fn sizes_come_from_the_json_or_else_from_the_picture() {
    let pairs = two_and_an_empty_one().read(&[0, 1]).unwrap();
    let column = |name| pairs.int(name).values().to_vec();
    assert_eq!(column("width"), [7, 1]);
    assert_eq!(column("height"), [9, 1]);
    assert_eq!(column("original_width"), [70, 1]);
    assert_eq!(column("original_height"), [90, 1]);
    assert_eq!(texts(pairs.text("sha256")), ["ab", ""]);
}

#[test]
fn a_picture_that_cannot_be_probed_has_no_size() {
    use arrow_array::Array;
    let pairs = open(&[tar("0.tar", &[("0.jpg", b"no picture")])]).read(&[0]).unwrap();
    assert!(pairs.int("width").is_null(0));
    assert_eq!(pairs.image(0), Some(&b"no picture"[..]));
}

#[test]
fn the_uid_is_the_jsons_or_made_from_shard_and_key() {
    let shards = two_and_an_empty_one();
    let expected = [
        "139e4a9b22a614771f06c700a8ebe150",
        // echo -n 00000/000000031 | md5sum
        "ab2d77046ca6f121fe1fd78ee1f171c6",
        // echo -n 00002/000020000 | md5sum
        "922523920ed38657cdf3e2d659e9bccf",
    ];
    assert_eq!(texts(shards.read(&[0, 1, 2]).unwrap().uids()), expected);
    let uids: Vec<String> = shards.uids().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(uids, expected);
}

#[test]
fn fields_of_the_json_become_columns_when_asked() {
    use arrow_array::Array;
    let names = ["category", "score", "tags"];
    let shards = two_and_an_empty_one().with_json_columns(&names).unwrap();
    let pairs = shards.read(&[0, 1]).unwrap();
    assert_eq!(texts(pairs.text("category")), ["cats", ""]);
    assert_eq!(texts(pairs.text("score")), ["0.5", ""]);
    assert!(pairs.text("tags").is_null(0) && pairs.text("category").is_null(1));
    let taken = two_and_an_empty_one().with_json_columns(&["url"]).unwrap_err();
    assert!(taken.to_string().contains("already have a column `url`"), "{taken}");
}

#[test]
fn members_become_binary_columns_when_asked() {
    use arrow_array::cast::AsArray;
    let blob = tar(
        "a/0.tar",
        &[
            ("s1.cls", b"3"),
            ("s1.npy", b"\x93N"),
            ("s1.png", PNG),
            ("s2.png", PNG),
            ("s2.txt", b"t"),
        ],
    );
    let shards = open(&[blob]).with_members(&["cls", "npy"]).unwrap();
    let pairs = shards.read(&[1, 0]).unwrap();
    let column = |name: &str| {
        let column = pairs.batch().column_by_name(name).unwrap().as_binary::<i32>();
        column.iter().map(|v| v.map(<[u8]>::to_vec)).collect::<Vec<_>>()
    };
    assert_eq!(column("cls"), [None, Some(b"3".to_vec())]);
    assert_eq!(column("npy"), [None, Some(b"\x93N".to_vec())]);
    assert_eq!(texts(pairs.captions()), ["t", ""]);
    assert!(two_and_an_empty_one().with_members(&["cls", "cls"]).is_err());
}

#[test]
fn samples_come_in_the_order_asked_for_and_as_often() {
    let pairs = two_and_an_empty_one().read(&[2, 0, 2]).unwrap();
    assert_eq!(texts(pairs.keys()), ["000020000", "000000001", "000020000"]);
}

#[test]
fn an_index_beyond_the_end_is_an_error() {
    let error = two_and_an_empty_one().read(&[3]).unwrap_err();
    assert!(error.to_string().contains("sample 3 of 3"), "{error}");
    assert_eq!(two_and_an_empty_one().read(&[]).unwrap().len(), 0);
}

#[test]
fn streaming_gives_what_random_access_gives() {
    let shards = two_and_an_empty_one();
    let all = shards.read(&[0, 1, 2]).unwrap();
    for batch_size in [1, 2, 3, 100] {
        let batches: Vec<Pairs> = shards.pairs(batch_size).map(Result::unwrap).collect();
        assert_eq!(batches.len(), 3_usize.div_ceil(batch_size));
        let mut row = 0;
        for batch in &batches {
            assert_eq!(*batch.batch(), all.batch().slice(row, batch.len()));
            row += batch.len();
        }
        assert_eq!(row, 3);
    }
}

#[test]
fn the_fingerprint_sees_names_sizes_and_order() {
    let shard = |name, text: &[u8]| tar(name, &[("0.jpg", PNG), ("0.txt", text)]);
    let base = open(&[shard("0.tar", b"a"), shard("1.tar", b"a")]).fingerprint();
    assert_eq!(base, open(&[shard("x/0.tar", b"a"), shard("x/1.tar", b"a")]).fingerprint());
    for other in [
        vec![shard("1.tar", b"a"), shard("0.tar", b"a")],
        vec![shard("0.tar", b"a"), shard("1.tar", b"ab")],
        vec![shard("0.tar", b"a")],
    ] {
        assert_ne!(base, open(&other).fingerprint());
    }
}

#[test]
fn a_truncated_shard_is_refused_or_read_as_far_as_it_is_whole() {
    let whole = tar("0.tar", &[("0.jpg", PNG), ("0.txt", b"a"), ("1.jpg", PNG), ("1.txt", b"b")]);
    let cut = Blob::from_bytes("0.tar", whole.read_all().unwrap().slice(..3584));
    let error = Shards::from_blobs(std::slice::from_ref(&cut), Truncated::Refuse).unwrap_err();
    assert!(error.to_string().contains("shard 0.tar: offset 3584: member 1.txt"), "{error}");
    let shards = Shards::from_blobs(&[cut], Truncated::KeepWhole).unwrap();
    assert_eq!(shards.len(), 1);
    assert!(shards.cuts()[0].contains("member 1.txt"), "{:?}", shards.cuts());
}

#[test]
fn a_folder_gives_its_tars_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let shard = tar("00000.tar", &[("0.jpg", PNG)]).read_all().unwrap();
    std::fs::write(folder.path().join("00001.tar"), &shard).unwrap();
    std::fs::write(folder.path().join("00000.tar"), &shard).unwrap();
    std::fs::write(folder.path().join("00000.parquet"), b"no tar").unwrap();
    let url = folder.path().to_str().unwrap().to_owned();
    assert_eq!(Shards::open(&[url]).unwrap().len(), 2);
    let empty = tempfile::tempdir().unwrap();
    let url = empty.path().to_str().unwrap().to_owned();
    assert_eq!(Shards::open(&[url]).unwrap_err().kind(), stage::Kind::Input);
}

#[test]
fn of_many_tars_on_a_server_without_ranges_each_comes_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    store::allow_private_host("127.0.0.1");
    let body = tar("x.tar", &[("0.png", PNG)]).read_all().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            if lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count() > 0 {
                counter.fetch_add(1, Ordering::SeqCst);
                let length = body.len();
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n").unwrap();
                stream.write_all(b"Connection: close\r\n\r\n").unwrap();
                stream.write_all(&body).unwrap();
            }
        }
    });
    // More than there are tars that stay open where they are files.
    let shards = Shards::open(&[format!("http://{server}/{{000..299}}.tar")]).unwrap();
    assert_eq!((shards.len(), asked.load(Ordering::SeqCst)), (300, 300));
    assert_eq!(shards.read(&[0, 299]).unwrap().image(1), Some(PNG));
    assert_eq!(asked.load(Ordering::SeqCst), 300);
}

#[test]
fn real_shards_have_their_known_counts() {
    for (name, samples, first_caption) in [
        ("data/emoji-pairs/noto-00000.tar", 1911, "hash key"),
        ("data/emoji-pairs/twemoji-00000.tar", 1911, "hash key"),
        ("data/openclipart-pairs/00000.tar", 3000, "2 dead frogs: kwaakwaa"),
        ("data/openclipart-pairs/00001.tar", 2132, ""),
    ] {
        let Some(path) = shared(name) else { return };
        let shards = Shards::open(&[path.to_str().unwrap().to_owned()]).unwrap();
        assert_eq!((shards.len(), shards.without_picture()), (samples, 0), "{name}");
        let shards = shards.with_json_columns(&["category"]).unwrap();
        let pairs = shards.read(&[0]).unwrap();
        assert!(pairs.captions().value(0).starts_with(first_caption), "{name}");
        assert!(!pairs.text("category").value(0).is_empty(), "{name}");
        let mut uids = shards.uids().unwrap().to_vec();
        uids.sort_unstable();
        uids.dedup();
        assert_eq!(uids.len(), samples, "{name}");
        let streamed: usize = shards.pairs(500).map(|batch| batch.unwrap().len()).sum();
        assert_eq!(streamed, samples);
    }
}
