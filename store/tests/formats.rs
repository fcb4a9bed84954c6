//! Subset files and parquet: our bytes, foreign bytes, hostile bytes.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Float32Array, RecordBatch, StringArray};
use parquet::file::metadata::RowGroupMetaData;
use proptest::prelude::*;
use stage::Kind;
use store::parquet::{Compression, File, Layout, Pick, RowGroups, Writer};
use store::subset::Uid;
use store::{Blob, Output, npy, read_parquet, subset, write_parquet};

fn blob(bytes: &[u8]) -> Blob {
    Blob::from_bytes("x", bytes.to_vec().into())
}

const VECTOR: &str = "139e4a9b22a614771f06c700a8ebe150";

#[test]
fn the_test_vector_of_datacomp_is_written_byte_by_byte() {
    let uid = Uid::parse(VECTOR).unwrap();
    assert_eq!(uid, Uid(1_413_649_363_202_610_295, 2_235_693_070_683_988_304));
    assert_eq!(uid.to_string(), VECTOR);
    let mut file = Vec::new();
    subset::write(&mut file, &[uid]).unwrap();
    assert_eq!(&file[..10], b"\x93NUMPY\x01\x00v\x00");
    let dict =
        b"{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (1,), }";
    assert_eq!(&file[10..10 + dict.len()], dict);
    assert!(file[10 + dict.len()..127].iter().all(|byte| *byte == b' '));
    assert_eq!(file[127], b'\n');
    assert_eq!(
        file[128..],
        [0x77, 0x14, 0xa6, 0x22, 0x9b, 0x4a, 0x9e, 0x13, 0x50, 0xe1, 0xeb, 0xa8, 0, 0xc7, 6, 0x1f]
    );
}

#[test]
fn a_uid_is_exactly_32_hex_digits() {
    for text in ["", "139e", &VECTOR[1..], &format!("{VECTOR}0"), &VECTOR.replace('1', "g")] {
        assert_eq!(Uid::parse(text), None, "{text}");
    }
    // from_str_radix alone would take a sign.
    assert_eq!(Uid::parse("+39e4a9b22a614771f06c700a8ebe150"), None);
    assert_eq!(Uid::parse(&VECTOR.to_uppercase()), Uid::parse(VECTOR));
}

#[test]
fn duplicates_of_a_uid_are_kept_and_both_containers_are_read() {
    let uids = [Uid(1, 2), Uid(1, 2), Uid(1, 3), Uid(u64::MAX, 0)];
    let mut file = Vec::new();
    subset::write(&mut file, &uids).unwrap();
    assert_eq!(subset::read(&blob(&file)).unwrap(), uids);
    assert_eq!(subset::read(&blob(&file[128..])).unwrap(), uids);
    assert_eq!(subset::read(&blob(b"")).unwrap(), []);
}

#[test]
fn rows_out_of_order_are_refused_both_ways() {
    assert_eq!(
        subset::write(&mut Vec::new(), &[Uid(2, 0), Uid(1, 0)]).unwrap_err().kind(),
        Kind::Internal
    );
    let mut raw = Vec::new();
    for half in [2u64, 0, 1, 0] {
        raw.extend(half.to_le_bytes());
    }
    let error = subset::read(&blob(&raw)).unwrap_err();
    assert!(error.to_string().contains("row 1 ("), "{error}");
    assert!(subset::read(&blob(&raw[..31])).unwrap_err().to_string().contains("31 bytes"));
}

#[test]
fn another_array_is_no_subset() {
    let mut file = Vec::new();
    npy::write(&mut file, &[4], &[1u64, 2, 3, 4]).unwrap();
    let error = subset::read(&blob(&file)).unwrap_err();
    assert!(error.to_string().contains("dtype <u8 of shape [4]"), "{error}");
}

fn rows(from: usize, to: usize) -> RecordBatch {
    let text = |i: usize| (!i.is_multiple_of(7)).then(|| format!("caption {}", i * i % 1000));
    let image = |i: usize| vec![i as u8; i % 50];
    let captions: ArrayRef = Arc::new((from..to).map(text).collect::<StringArray>());
    let scores: ArrayRef = Arc::new((from..to).map(|i| i as f32 / 7.0).collect::<Float32Array>());
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values((from..to).map(image)));
    let columns = [("text", captions, true), ("score", scores, false), ("image", images, false)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn written(batches: &[RecordBatch], layout: &Layout) -> Vec<u8> {
    let mut file = Vec::new();
    let schema = batches[0].schema();
    write_parquet(&mut file, &schema, batches.iter().cloned().map(Ok), layout).unwrap();
    file
}

fn read(bytes: &[u8]) -> RecordBatch {
    let batches: Vec<RecordBatch> =
        read_parquet(&blob(bytes)).unwrap().collect::<stage::Result<_>>().unwrap();
    arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[test]
fn the_bytes_do_not_show_how_the_rows_arrived() {
    for layout in [
        Layout::default(),
        Layout { row_groups: RowGroups::Every(1000), compression: Compression::Zstd },
        Layout { row_groups: RowGroups::At(vec![0, 300, 300, 5000]), ..Layout::default() },
    ] {
        let whole = written(&[rows(0, 7000)], &layout);
        for piece in [1, 7, 255, 256, 257, 999, 4096] {
            let batches: Vec<RecordBatch> =
                (0..7000).step_by(piece).map(|at| rows(at, (at + piece).min(7000))).collect();
            assert!(written(&batches, &layout) == whole, "pieces of {piece}, {layout:?}");
        }
        assert_eq!(read(&whole), rows(0, 7000));
    }
}

#[test]
fn row_groups_end_where_the_layout_says() {
    let groups = |layout: RowGroups| -> Vec<i64> {
        let layout = Layout { row_groups: layout, ..Layout::default() };
        let file = File::open(&blob(&written(&[rows(0, 1000)], &layout))).unwrap();
        assert_eq!(file.rows(), 1000);
        file.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect()
    };
    assert_eq!(groups(RowGroups::Every(400)), [400, 400, 200]);
    assert_eq!(groups(RowGroups::Every(500)), [500, 500]);
    assert_eq!(groups(RowGroups::At(vec![0, 10, 10, 990, 2000])), [10, 980, 10]);
    assert_eq!(groups(RowGroups::ByHand), [1000]);
    let layout = Layout { row_groups: RowGroups::Every(0), ..Layout::default() };
    assert!(write_parquet(Vec::new(), &rows(0, 1).schema(), [], &layout).is_err());
}

#[test]
fn a_group_is_cut_by_hand() {
    let layout = Layout { row_groups: RowGroups::ByHand, ..Layout::default() };
    let mut writer = Writer::new(Vec::new(), &rows(0, 1).schema(), &layout).unwrap();
    writer.write(&rows(0, 300)).unwrap();
    writer.cut().unwrap();
    writer.cut().unwrap();
    writer.write(&rows(300, 310)).unwrap();
    assert_eq!(writer.rows(), 310);
    let bytes = writer.finish().unwrap();
    let file = File::open(&blob(&bytes)).unwrap();
    let sizes: Vec<i64> =
        file.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
    assert_eq!(sizes, [300, 10]);
    assert_eq!(file.metadata().file_metadata().created_by(), Some("clipmill"));
}

#[test]
fn columns_and_row_groups_are_picked() {
    let layout = Layout { row_groups: RowGroups::Every(100), ..Layout::default() };
    let file = File::open(&blob(&written(&[rows(0, 250)], &layout))).unwrap();
    let pick = Pick { columns: Some(&["score"]), row_groups: Some(&[2, 0]), ..Pick::default() };
    let batches: Vec<RecordBatch> =
        file.batches(&pick).unwrap().collect::<stage::Result<_>>().unwrap();
    let rows_read: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!((rows_read, batches[0].num_columns()), (150, 1));
    let scores = batches[0].column(0);
    assert_eq!(scores.slice(0, 50).as_ref(), rows(200, 250).column(1).as_ref());
    assert_eq!(scores.slice(50, 100).as_ref(), rows(0, 100).column(1).as_ref());

    let pick = Pick { columns: Some(&["scor"]), ..Pick::default() };
    let error = file.batches(&pick).unwrap_err();
    assert_eq!(error.to_string(), "x: no column `scor`; the columns are text, score, image");
}

#[test]
fn a_file_without_rows_is_a_file() {
    let bytes = written(&[rows(0, 0)], &Layout::default());
    let file = File::open(&blob(&bytes)).unwrap();
    assert_eq!((file.rows(), file.schema().fields().len()), (0, 3));
    assert_eq!(read_parquet(&blob(&bytes)).unwrap().count(), 0);
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let mut writer = Writer::new(Vec::new(), &rows(0, 1).schema(), &Layout::default()).unwrap();
    let error = writer.write(&rows(0, 1).project(&[0]).unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

#[test]
fn a_remote_file_is_read_like_a_local_one() {
    let layout = Layout { row_groups: RowGroups::Every(20_000), compression: Compression::None };
    let bytes = written(&[rows(0, 100_000)], &layout);
    assert!(bytes.len() > 1 << 20, "{} bytes are a single block", bytes.len());
    let output = Output::in_memory();
    output.put("links/a.parquet", bytes.clone().into()).unwrap();
    let remote = output.stage("links").blob("a.parquet").unwrap();
    let batches: Vec<RecordBatch> =
        read_parquet(&remote).unwrap().collect::<stage::Result<_>>().unwrap();
    let remote = arrow_select::concat::concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(remote, read(&bytes));
}

#[test]
fn a_full_disk_under_the_parquet_writer_is_a_store_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let mut attempt = output.stage("links").begin("00000").unwrap();
    let error = store::fail::with("file.before_write=enospc", || {
        let file = attempt.file("00000.parquet").unwrap();
        let batches = [Ok(rows(0, 100_000))];
        write_parquet(file, &rows(0, 1).schema(), batches, &Layout::default()).unwrap_err()
    });
    assert_eq!(error.kind(), Kind::Store);
    assert!(error.to_string().contains("00000.parquet"), "{error}");
    assert!(error.hint_text().unwrap().contains("free space"));
}

/// Reads a file to its end or to its first error; never panics, never takes much memory.
fn read_hostile(bytes: &[u8]) {
    if let Ok(batches) = read_parquet(&blob(bytes)) {
        for batch in batches {
            if let Err(error) = batch {
                assert_eq!(error.kind(), Kind::Input);
                assert!(error.to_string().starts_with("x: "), "{error}");
                return;
            }
        }
    }
}

#[test]
fn every_cut_of_a_parquet_file_is_refused() {
    let bytes = written(&[rows(0, 50)], &Layout::default());
    for len in 0..bytes.len() {
        assert!(read_parquet(&blob(&bytes[..len])).is_err(), "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_parquet_is_an_error_or_other_rows(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(&[rows(0, 50)], &Layout::default());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_hostile(&bytes);
    }

    #[test]
    fn damaged_npy_is_an_error_or_other_numbers(
        damage in proptest::collection::vec((0usize..128, any::<u8>()), 1..4),
    ) {
        let mut bytes = Vec::new();
        npy::write(&mut bytes, &[3, 2], &[0f32; 6]).unwrap();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Ok(array) = npy::read_as_f32(&blob(&bytes)) {
            prop_assert_eq!(array.shape.iter().product::<usize>(), array.data.len());
        }
        let _ = subset::read(&blob(&bytes));
    }

    #[test]
    fn sorted_uids_come_back(mut halves in proptest::collection::vec(any::<(u64, u64)>(), 0..50)) {
        halves.sort_unstable();
        let uids: Vec<Uid> = halves.into_iter().map(|(a, b)| Uid(a, b)).collect();
        let mut file = Vec::new();
        subset::write(&mut file, &uids).unwrap();
        prop_assert_eq!(subset::read(&blob(&file)).unwrap(), uids);
    }
}
