//! Language identification against fastText: small models trained by its Python package, and, where
//! the shared data lies, lid.176 over 10,000 captions.

use std::path::{Path, PathBuf};

use filter::asset::Asset;
use filter::fasttext::{Model, Scratch};
use filter::judge::language::Identifier;
use store::Blob;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fasttext").join(name)
}

/// A file under `shared/`, or `None` where it is not there and need not be.
fn shared(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("CLIPMILL_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let file = named.clone().unwrap_or(beside).join(name);
    if file.is_file() {
        return Some(file);
    }
    assert!(named.is_none(), "CLIPMILL_SHARED is set and {} is missing", file.display());
    None
}

/// The lines of `expected.tsv`: label and probability of each line by each model, as
/// `predict(line, k=1)` of fasttext-wheel 0.9.2 gave them; `bench/interop/fasttext_small.py` made
/// the models and the file.
#[test]
fn small_models_give_the_labels_and_probabilities_of_fasttext() {
    let expected = std::fs::read_to_string(data("expected.tsv")).unwrap();
    let mut scratch = Scratch::default();
    let mut lines = 0;
    for model in ["hs.bin", "hs.ftz", "softmax.bin"] {
        let file = Model::open(data(model).to_str().unwrap()).unwrap();
        for row in expected.lines().filter(|row| row.starts_with(model)) {
            let [_, label, score, line] = row.splitn(4, '\t').collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            let (found, probability) = file.predict(line, &mut scratch).unwrap();
            assert_eq!(file.labels()[found], label, "{model}: {line}");
            let score: f32 = score.parse().unwrap();
            assert!((probability - score).abs() < 1e-5, "{model}: {line}: {probability} {score}");
            lines += 1;
        }
    }
    assert_eq!(lines, 3 * 12);
}

#[test]
fn every_cut_and_every_changed_byte_of_a_model_is_an_error_or_another_model() {
    let whole = std::fs::read(data("hs.ftz")).unwrap();
    let mut scratch = Scratch::default();
    for end in (0..whole.len()).step_by(37) {
        let cut = Blob::from_bytes("cut.ftz", whole[..end].to_vec().into());
        assert!(Model::read(&cut).is_err(), "{end} bytes");
    }
    for at in (0..whole.len()).filter(|at| *at < 400 || at % 61 == 0) {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            if let Ok(model) = Model::read(&Blob::from_bytes("damaged.ftz", damaged.into())) {
                let _ = model.predict("the cat sat", &mut scratch);
            }
        }
    }
}

#[test]
fn a_mark_of_a_lines_end_that_is_written_out_ends_the_line() {
    // fasttext-wheel 0.9.2: predict("the cat </s> le chat") is predict("the cat").
    let model = Model::open(data("hs.bin").to_str().unwrap()).unwrap();
    let mut scratch = Scratch::default();
    let whole = model.predict("the cat", &mut scratch);
    assert_eq!(model.predict("the cat </s> le chat noir dort", &mut scratch), whole);
    assert_ne!(model.predict("the cat le chat noir dort", &mut scratch), whole);
}

#[test]
fn a_quantised_matrix_of_another_shape_is_refused_before_it_is_made() {
    let whole = std::fs::read(data("hs.ftz")).unwrap();
    // The width of the first matrix is the first such number of 64 bits.
    let dim = i32::from_le_bytes(whole[8..12].try_into().unwrap());
    let width = i64::from(dim).to_le_bytes();
    let at = whole.windows(8).position(|eight| eight == width).unwrap();
    let mut damaged = whole;
    damaged[at..at + 8].copy_from_slice(&4096_i64.to_le_bytes());
    let error = Model::read(&Blob::from_bytes("wide.ftz", damaged.into())).unwrap_err();
    assert!(error.to_string().contains("4096] where ["), "{error}");
}

#[test]
fn what_is_no_such_model_is_refused_by_name() {
    let refuse = |bytes: Vec<u8>| {
        Model::read(&Blob::from_bytes("x.bin", bytes.into())).unwrap_err().to_string()
    };
    assert_eq!(refuse(b"PK\x03\x04 a zip".to_vec()), "x.bin: not a fastText model");
    let mut other = std::fs::read(data("hs.bin")).unwrap();
    other[4..8].copy_from_slice(&9_i32.to_le_bytes());
    assert_eq!(refuse(other.clone()), "x.bin: a fastText model of version 9; 11 and 12 are read");
    other[4..8].copy_from_slice(&12_i32.to_le_bytes());
    other[8 + 7 * 4..8 + 8 * 4].copy_from_slice(&1_i32.to_le_bytes());
    assert_eq!(refuse(other), "x.bin: a model of kind 1; only supervised ones are read");
}

/// `lid176_labels.parquet` is fasttext-wheel 0.9.2's answer to `predict(caption, k=1)`.
#[test]
fn lid176_labels_ten_thousand_captions_as_fasttext_does() {
    let names = [
        "data/weights/lid176/lid.176.ftz",
        "data/url-captions/test_10000.parquet",
        "data/url-captions/lid176_labels.parquet",
    ];
    let [Some(model), Some(captions), Some(labels)] = names.map(shared) else {
        return eprintln!("skipped: no shared data");
    };
    let column = |path: &Path, name: &str| {
        let blob = Blob::open(path.to_str().unwrap()).unwrap();
        let batches: Vec<_> =
            store::parquet::read_parquet(&blob).unwrap().collect::<Result<_, _>>().unwrap();
        batches.iter().map(|batch| batch.column_by_name(name).unwrap().clone()).collect::<Vec<_>>()
    };
    let texts = |path: &Path, name: &str| -> Vec<String> {
        let arrays = column(path, name);
        let arrays = arrays
            .iter()
            .map(|array| arrow_cast::cast(array, &arrow_schema::DataType::Utf8).unwrap());
        arrays
            .flat_map(|array| {
                let array = arrow_array::cast::AsArray::as_string::<i32>(&array).clone();
                array.iter().map(|text| text.unwrap_or_default().to_owned()).collect::<Vec<_>>()
            })
            .collect()
    };
    let (captions, expected) = (texts(&captions, "TEXT"), texts(&labels, "label"));
    let scores: Vec<f32> = column(&labels, "score")
        .iter()
        .flat_map(|array| {
            arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Float32Type>(array)
                .values()
                .to_vec()
        })
        .collect();
    assert_eq!((captions.len(), expected.len(), scores.len()), (10_000, 10_000, 10_000));
    let model = Identifier::open(&Asset::Unchecked(model.to_str().unwrap().to_owned())).unwrap();
    let mut scratch = Scratch::default();
    let mut furthest = 0.0_f32;
    for ((caption, expected), score) in captions.iter().zip(&expected).zip(scores) {
        let (label, found) = model.language(caption, &mut scratch).unwrap();
        assert_eq!(label, expected, "{caption}");
        furthest = furthest.max((found - score).abs());
    }
    assert!(furthest < 1e-4, "{furthest}");
    eprintln!("largest difference of a probability: {furthest:e}");
}
