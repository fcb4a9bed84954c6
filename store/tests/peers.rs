//! numpy and pyarrow open what we write, and we open what they write.
//!
//! Runs when `CLIPMILL_PYTHON` names a Python that has both.

use std::process::Command;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use half::f16;
use stage::Kind;
use store::parquet::{Layout, RowGroups};
use store::subset::Uid;
use store::{Blob, npy, read_parquet, subset, write_parquet};

const UIDS: [Uid; 3] =
    [Uid(1_413_649_363_202_610_295, 2_235_693_070_683_988_304), Uid(u64::MAX, 0), Uid(u64::MAX, 0)];

fn ours() -> RecordBatch {
    let uids: StringArray =
        (0..5000).map(|i| if i % 7 == 0 { None } else { Some(format!("{i:032x}")) }).collect();
    let scores: Float64Array = (0..5000).map(|i| f64::from(i) / 8.0).collect();
    let images = BinaryArray::from_iter_values((0..5000).map(|i| vec![(i % 256) as u8; i % 5]));
    RecordBatch::try_from_iter([
        ("uid", Arc::new(uids) as ArrayRef),
        ("score", Arc::new(scores)),
        ("image", Arc::new(images)),
    ])
    .unwrap()
}

#[test]
fn numpy_and_pyarrow_and_we_read_each_other() {
    let Ok(python) = std::env::var("CLIPMILL_PYTHON") else {
        eprintln!("skipped: no CLIPMILL_PYTHON");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let create = |name: &str| std::fs::File::create(path(name)).unwrap();

    subset::write(&mut create("subset.npy"), &UIDS).unwrap();
    let halves = [0.5, -2.0, 65504.0].map(f16::from_f32);
    npy::write(create("f2.npy"), &[3], &halves).unwrap();
    npy::write(create("i8.npy"), &[2], &[i64::MIN, i64::MAX]).unwrap();
    npy::write(create("u1.npy"), &[2], &[0u8, 255]).unwrap();
    npy::write(create("scalar.npy"), &[], &[1.5f32]).unwrap();
    for ones in 0..25 {
        for last in [1, 10, 100] {
            let shape: Vec<usize> = [0].into_iter().chain(vec![1; ones]).chain([last]).collect();
            npy::write::<f32>(create(&format!("empty-{ones}-{last}.npy")), &shape, &[]).unwrap();
        }
    }
    for rows in [1u16, 9, 10, 100] {
        let numbers: Vec<f32> = (0..rows * 3).map(f32::from).collect();
        let shape = [usize::from(rows), 3];
        npy::write(create(&format!("rows-{rows}.npy")), &shape, &numbers).unwrap();
    }
    let layout = Layout { row_groups: RowGroups::Every(2000), ..Layout::default() };
    let batch = ours();
    write_parquet(create("ours.parquet"), &batch.schema(), [Ok(batch.clone())], &layout).unwrap();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers.py");
    let run = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let open = |name: &str| Blob::open(path(name).to_str().unwrap()).unwrap();
    let array = npy::read::<f32>(&open("theirs.npy")).unwrap();
    assert_eq!((array.shape, array.data[11]), (vec![3, 4], 11.0));
    for name in ["theirs-v2.npy", "theirs-v3.npy"] {
        assert_eq!(npy::read::<u16>(&open(name)).unwrap().data, [0, 1, 2]);
    }
    for (name, word) in
        [("fortran.npy", "fortran_order"), ("object.npy", "dtype object"), ("big.npy", ">f4")]
    {
        let error = npy::read::<f32>(&open(name)).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains(word), "{error}");
    }
    for name in ["theirs-subset.npy", "theirs-subset.raw"] {
        assert_eq!(subset::read(&open(name)).unwrap(), UIDS);
    }
    let batches: Vec<RecordBatch> =
        read_parquet(&open("theirs.parquet")).unwrap().collect::<stage::Result<_>>().unwrap();
    assert_eq!((batches.len(), batches[0].num_rows()), (1, 3));
    let w = batches[0].column_by_name("w").unwrap();
    assert_eq!(w.as_any().downcast_ref::<Int64Array>().unwrap().values(), &[1, 2, 3]);
    assert_eq!(batches[0].column(1).null_count(), 1);
}
