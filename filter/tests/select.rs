//! Selection: expressions, quantiles, baselines, the subset file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use filter::select::{SelectPlan, Selection};
use parquet::arrow::ArrowWriter;
use stage::{Context, Kind, Result};
use store::subset::Uid;

/// Writes a parquet file of these columns.
fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) -> String {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path.to_str().unwrap().to_owned()
}

fn uid(i: u64) -> String {
    format!("{:016x}{i:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn uids(n: u64) -> ArrayRef {
    Arc::new((0..n).map(|i| Some(uid(i))).collect::<StringArray>())
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn floats(values: &[Option<f32>]) -> ArrayRef {
    Arc::new(Float32Array::from(values.to_vec()))
}

fn plan(yaml_as_json: &str) -> SelectPlan {
    serde_json::from_str(yaml_as_json).unwrap()
}

/// Numbers of the selected rows, in the order of the rows.
fn numbers(selected: &[Uid], n: u64) -> Vec<u64> {
    assert!(selected.is_sorted());
    (0..n).filter(|&i| selected.contains(&Uid::parse(&uid(i)).unwrap())).collect()
}

fn pick(plan: &SelectPlan, pool: &[String]) -> Result<(Vec<Uid>, Selection)> {
    plan.pick(&Context { threads: 2, ..Context::default() }, pool)
}

/// Ten rows: scores 0.1 .. 0.9 with one tie, a NaN, a null; rows 8 and 9 were turned away.
fn judged(folder: &Path) -> Vec<String> {
    let success = Some("success");
    let mut status = vec![success; 10];
    status[7] = Some("failed_to_download");
    let mut errors = vec![None; 10];
    errors[7] = Some("http_404");
    let mut reasons = vec![None; 10];
    reasons[7] = Some("http_404");
    reasons[8] = Some("caption_words");
    reasons[9] = Some("image_side");
    let scores = [0.1, 0.5, 0.3, 0.5, f32::NAN, 0.2, 0.0, 0.0, 0.8, 0.9];
    let mut scores: Vec<Option<f32>> = scores.into_iter().map(Some).collect();
    (scores[6], scores[7]) = (None, None);
    let words: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let columns = vec![
        ("uid", uids(10)),
        ("status", texts(&status)),
        ("error_message", texts(&errors)),
        ("caption_words", words),
        ("clip_score", floats(&scores)),
        ("reason", texts(&reasons)),
    ];
    vec![write(&folder.join("scores.parquet"), columns)]
}

#[test]
fn without_a_condition_every_pair_that_no_judge_turned_away_is_selected() {
    let folder = tempfile::tempdir().unwrap();
    let (selected, selection) = pick(&SelectPlan::default(), &judged(folder.path())).unwrap();
    assert_eq!(numbers(&selected, 10), [0, 1, 2, 3, 4, 5, 6]);
    let expected = r#"{"in": 10, "kept": 7, "dropped": {"caption_words": 1, "image_side": 1},
                       "failed": {"http_404": 1}}"#;
    assert_eq!(selection.counts, serde_json::from_str(expected).unwrap());
}

#[test]
fn a_quantile_is_exact_over_rows_that_can_be_selected_and_keeps_ties() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    // Values that count: 0.1 0.2 0.3 0.5 0.5 of rows 0 5 2 1 3; neither NaN, null nor dropped rows.
    let median = plan(r#"{"where": "clip_score >= quantile(clip_score, 0.5)"}"#);
    let (selected, selection) = pick(&median, &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [1, 2, 3]);
    let expected = ("quantile(clip_score, 0.5)".to_owned(), Some(f64::from(0.3_f32)));
    assert_eq!(selection.thresholds, [expected]);
    assert_eq!(selection.counts.dropped["not_selected"], 3);
    assert_eq!(selection.counts.dropped["nonfinite"], 1);
    let top = plan(r#"{"where": "clip_score >= quantile(clip_score, 0.7)"}"#);
    assert_eq!(numbers(&pick(&top, &pool).unwrap().0, 10), [1, 3]);
}

#[test]
fn a_nan_score_is_never_selected_and_a_null_score_only_by_asking() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    // SQL alone would say that NaN is larger than every number.
    let (selected, _) = pick(&plan(r#"{"where": "clip_score > 0.4"}"#), &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [1, 3]);
    let (selected, _) = pick(&plan(r#"{"where": "NOT clip_score > 0.4"}"#), &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [0, 2, 5]);
    let (selected, _) = pick(&plan(r#"{"where": "clip_score IS NULL"}"#), &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [6]);
}

#[test]
fn dropped_rows_are_selected_only_when_told_and_failed_rows_never() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    let all = plan(r#"{"where": "caption_words >= 6"}"#);
    assert_eq!(numbers(&pick(&all, &pool).unwrap().0, 10), [6]);
    let told = plan(r#"{"where": "caption_words >= 6", "keep_dropped": true}"#);
    let (selected, selection) = pick(&told, &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [6, 8, 9]);
    selection.counts.check().unwrap();
    // And then quantiles look at them too.
    let top =
        plan(r#"{"where": "clip_score >= quantile(clip_score, 0.99)", "keep_dropped": true}"#);
    assert_eq!(numbers(&pick(&top, &pool).unwrap().0, 10), [9]);
}

#[test]
fn an_unknown_column_is_named_with_what_is_meant_and_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    let error = pick(&plan(r#"{"where": "clip_scor > 0.3"}"#), &pool).unwrap_err();
    assert_eq!(error.kind(), Kind::Recipe);
    assert_eq!(
        error.to_string(),
        "where: no column `clip_scor`; there are uid, status, error_message, caption_words, \
         clip_score, reason"
    );
    assert_eq!(error.hint_text(), Some("write `clip_score` if that is meant"));
}

#[test]
fn what_is_no_condition_on_a_row_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    let check = |condition: &str, expected: &str| {
        let plan = SelectPlan { condition: Some(condition.to_owned()), ..SelectPlan::default() };
        let error = pick(&plan, &pool).unwrap_err();
        assert_eq!(error.kind(), Kind::Recipe, "{condition}: {error}");
        assert!(error.to_string().contains(expected), "{condition}: {error}");
    };
    check("clip_score", "is of type Float32, a condition is true or false");
    check("clip_score >", "is no SQL expression");
    check("clip_score > 0.3 0.4", "is no SQL expression");
    check("clip_score > 0.3; DROP TABLE x", "is no SQL expression");
    check("clip_score > avg(clip_score)", "looks at many rows");
    check("clip_score > (SELECT 1)", "no condition on the columns of one row");
    check("row_number() OVER () > 3", "row_number");
    check("random() < 0.3", "random takes a share");
    check("random(30)", "random: takes a number in 0..=1");
    check("random(0.3, -1)", "random: takes a whole number");
    check("clip_score > quantile(clip_score, 70)", "quantile: takes a number in 0..=1");
    check("clip_score > quantile(clip_score, clip_score)", "quantile: takes a number in 0..=1");
    check("clip_score > quantile(uid, 0.5)", "a quantile needs numbers, this is Utf8");
    check(
        "clip_score > quantile(quantile(clip_score, 0.5), 0.5)",
        "cannot contain another function of the whole pool",
    );
    check("no_such_function(uid)", "no_such_function");
}

#[test]
fn the_grammar_is_checked_before_anything_runs() {
    plan(r#"{"where": "clip_score >= quantile(clip_score, 0.7)"}"#).validate().unwrap();
    let error = plan(r#"{"where": "clip_score >= "}"#).validate().unwrap_err();
    assert!(
        error.to_string().starts_with("where: `clip_score >= ` is no SQL expression"),
        "{error}"
    );
    assert!(serde_json::from_str::<SelectPlan>(r#"{"were": "x"}"#).is_err());
}

#[test]
fn a_random_share_is_the_same_uids_in_every_run_and_for_any_files() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(&folder.path().join("one.parquet"), vec![("uid", uids(1000))]);
    let share = plan(r#"{"where": "random(0.25, 7)"}"#);
    let (selected, _) = pick(&share, &[one]).unwrap();
    assert!((200..300).contains(&selected.len()), "{}", selected.len());
    let parts: Vec<String> = [(0, 400), (400, 1000)]
        .map(|(from, to)| {
            let column: ArrayRef =
                Arc::new((from..to).map(|i| Some(uid(i))).collect::<StringArray>());
            write(&folder.path().join(format!("{from}.parquet")), vec![("uid", column)])
        })
        .to_vec();
    assert_eq!(pick(&share, &parts).unwrap().0, selected);
    // Without a seed the recipe's decides.
    let unseeded = plan(r#"{"where": "random(0.25)"}"#);
    let with = |seed| unseeded.pick(&Context { seed, ..Context::default() }, &parts).unwrap().0;
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

/// DataComp's pool with ten rows; similarity of row i is `values[i]`.
fn pool(folder: &Path, values: &[Option<f32>]) -> Vec<String> {
    let columns = vec![
        ("uid", uids(values.len() as u64)),
        ("clip_b32_similarity_score", floats(values)),
        ("clip_l14_similarity_score", floats(values)),
    ];
    vec![write(&folder.join("pool.parquet"), columns)]
}

#[test]
fn clip_score_keeps_what_datacomps_code_keeps_on_ten_rows() {
    // np.sort(-scores): 0.9 0.8 0.7 0.6 0.6 0.5 0.4 0.3 0.2 0.1; int(10 * 0.3) = 3 names 0.6, and
    // both ties stay: five rows for a share of three.
    let values = [0.1, 0.6, 0.3, 0.9, 0.6, 0.2, 0.8, 0.5, 0.7, 0.4].map(Some);
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), &values);
    let fraction = |f: f64| {
        plan(&format!(r#"{{"baseline": {{"clip_score": {{"arch": "l14", "fraction": {f}}}}}}}"#))
    };
    let (selected, selection) = pick(&fraction(0.3), &pool).unwrap();
    assert_eq!(numbers(&selected, 10), [1, 3, 4, 6, 8]);
    let name = "top_fraction(clip_l14_similarity_score, 0.3)".to_owned();
    assert_eq!(selection.thresholds, [(name, Some(f64::from(0.6_f32)))]);
    assert_eq!(numbers(&pick(&fraction(0.0), &pool).unwrap().0, 10), [3]);
    assert_eq!(numbers(&pick(&fraction(0.95), &pool).unwrap().0, 10).len(), 10);
    // The same share as a quantile.
    let quantile =
        r#"{"where": "clip_l14_similarity_score >= quantile(clip_l14_similarity_score, 0.7)"}"#;
    assert_eq!(numbers(&pick(&plan(quantile), &pool).unwrap().0, 10), [1, 3, 4, 6, 8]);
}

#[test]
fn clip_score_compares_with_the_threshold_as_float32() {
    // The float32 nearest to 0.29 is smaller than 0.29; pandas keeps it.
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), &[Some(0.29), Some(0.289_999), Some(0.3)]);
    let b32 = plan(r#"{"baseline": {"clip_score": {"arch": "b32", "threshold": 0.29}}}"#);
    assert_eq!(numbers(&pick(&b32, &pool).unwrap().0, 3), [0, 2]);
}

#[test]
fn rows_without_a_score_come_last_in_the_top_share() {
    let folder = tempfile::tempdir().unwrap();
    let values = [Some(0.9), None, Some(0.5), Some(f32::NAN), Some(0.7)];
    let pool = pool(folder.path(), &values);
    let fraction = |f: f64| {
        plan(&format!(r#"{{"baseline": {{"clip_score": {{"arch": "b32", "fraction": {f}}}}}}}"#))
    };
    // Descending: 0.9 0.7 0.5 - -; int(5 * 0.4) = 2 names 0.5.
    assert_eq!(numbers(&pick(&fraction(0.4), &pool).unwrap().0, 5), [0, 2, 4]);
    // int(5 * 0.7) = 3 names no value, and nothing is at or above that.
    let error = pick(&fraction(0.7), &pool).unwrap_err();
    assert_eq!(
        error.to_string(),
        "select: none of 5 pairs was selected: not_selected 4, nonfinite 1"
    );
}

#[test]
fn basic_filter_without_language_counts_words_and_sides_as_datacomp_does() {
    let folder = tempfile::tempdir().unwrap();
    let captions = ["a red car", "red car", "a b c", "a red car", "a red car", "a\u{a0}red car"];
    let sizes: [(i64, i64); 6] =
        [(200, 600), (500, 500), (500, 500), (199, 300), (200, 601), (0, 0)];
    let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let columns = vec![
        ("uid", uids(6)),
        ("text", texts(&captions.map(Some))),
        ("original_width", column(sizes.map(|s| s.0).to_vec())),
        ("original_height", column(sizes.map(|s| s.1).to_vec())),
    ];
    let pool = [write(&folder.path().join("pool.parquet"), columns)];
    let basic = plan(r#"{"baseline": "basic_filter_without_language"}"#);
    assert_eq!(numbers(&pick(&basic, &pool).unwrap().0, 6), [0]);
    let both = plan(r#"{"baseline": "no_filter", "where": "words(text) = 3"}"#);
    assert_eq!(numbers(&pick(&both, &pool).unwrap().0, 6), [0, 2, 3, 4, 5]);
}

#[test]
fn a_baseline_names_the_column_that_the_pool_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let pool = judged(folder.path());
    let clip = plan(r#"{"baseline": {"clip_score": {"arch": "b32", "threshold": 0.28}}}"#);
    let message = pick(&clip, &pool).unwrap_err().to_string();
    let expected = "baseline: the pool has no column `clip_b32_similarity_score`; there are uid";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn an_empty_pool_and_an_empty_selection_are_said_with_the_stage() {
    let folder = tempfile::tempdir().unwrap();
    let empty = [write(&folder.path().join("empty.parquet"), vec![("uid", uids(0))])];
    let error = pick(&SelectPlan::default(), &empty).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_eq!(error.to_string(), format!("select: no pair in {}", empty[0]));
    let error = pick(&SelectPlan::default(), &[]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Input, "select: no file is given")
    );

    let pool = judged(folder.path());
    let nothing = plan(r#"{"where": "clip_score > 2"}"#);
    let error = pick(&nothing, &pool).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_eq!(
        error.to_string(),
        "select: none of 10 pairs was selected: \
         not_selected 6, caption_words 1, image_side 1, nonfinite 1, http_404 1"
    );
    let allowed = plan(r#"{"where": "clip_score > 2", "allow_empty": true}"#);
    assert!(pick(&allowed, &pool).unwrap().0.is_empty());
}

#[test]
fn a_uid_that_is_none_is_counted_and_a_repeated_uid_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (uid(1), uid(2));
    let column = texts(&[Some(&b), Some("nonsense"), None, Some(&a), Some(&b)]);
    let pool = [write(&folder.path().join("pool.parquet"), vec![("uid", column)])];
    let (selected, selection) = pick(&SelectPlan::default(), &pool).unwrap();
    let (a, b) = (Uid::parse(&a).unwrap(), Uid::parse(&b).unwrap());
    let mut expected = vec![a, b, b];
    expected.sort_unstable();
    assert_eq!(selected, expected);
    assert_eq!(selection.counts.failed["bad_uid"], 2);
}

#[test]
fn files_of_one_pool_may_differ_in_columns_widths_and_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let narrow: ArrayRef = Arc::new(arrow_array::LargeStringArray::from(vec![uid(0)]));
    let first = write(&folder.path().join("0.parquet"), vec![("uid", narrow)]);
    let column: ArrayRef = Arc::new(StringArray::from(vec![uid(1)]));
    let scores: ArrayRef = Arc::new(arrow_array::Float64Array::from(vec![0.5]));
    let second = write(&folder.path().join("1.parquet"), vec![("uid", column), ("score", scores)]);
    let column: ArrayRef = Arc::new(StringArray::from(vec![uid(2)]));
    let third = write(
        &folder.path().join("2.parquet"),
        vec![("score", floats(&[Some(0.25)])), ("uid", column)],
    );
    let files = [first, second, third];
    assert_eq!(pick(&SelectPlan::default(), &files).unwrap().0.len(), 3);
    let scored = plan(r#"{"where": "score >= quantile(score, 0.5)"}"#);
    assert_eq!(numbers(&pick(&scored, &files).unwrap().0, 3), [1, 2]);

    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let wrong = write(&folder.path().join("3.parquet"), vec![("uid", column)]);
    let message = pick(&SelectPlan::default(), &[files[0].clone(), wrong.clone()]).unwrap_err();
    let expected = format!("{wrong}: column `uid` is Int64, and LargeUtf8 before");
    assert_eq!(message.to_string(), expected);
}

#[test]
fn the_subset_file_is_datacomps_test_vector() {
    let folder = tempfile::tempdir().unwrap();
    let column = texts(&[
        Some("fe0000000000000000000000000000ff"),
        Some("139e4a9b22a614771f06c700a8ebe150"),
    ]);
    let pool = [write(&folder.path().join("pool.parquet"), vec![("uid", column)])];
    let output = store::Output::in_memory();
    let stage = output.stage("select");
    let mut attempt = stage.begin("0").unwrap();
    let selection = SelectPlan::default().run(&Context::default(), &pool, &mut attempt).unwrap();
    attempt.commit("key", selection.counts, serde_json::Value::Null).unwrap();
    let bytes = stage.blob("subset.npy").unwrap().read_all().unwrap();
    let header = b"\x93NUMPY\x01\x00v\x00{'descr': [('f0', '<u8'), ('f1', '<u8')], \
                   'fortran_order': False, 'shape': (2,), }";
    assert!(bytes.starts_with(header));
    assert_eq!(bytes.len(), 128 + 32);
    let expected = [
        0x77, 0x14, 0xa6, 0x22, 0x9b, 0x4a, 0x9e, 0x13, 0x50, 0xe1, 0xeb, 0xa8, 0x00, 0xc7, 0x06,
        0x1f, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes[128..], expected);
}

#[test]
fn a_pool_in_another_store_is_read_like_a_local_one() {
    let folder = tempfile::tempdir().unwrap();
    let values = [0.1, 0.6, 0.3].map(Some);
    let local = pool(folder.path(), &values);
    let output = store::Output::in_memory();
    output.put("pool.parquet", std::fs::read(&local[0]).unwrap().into()).unwrap();
    let remote = format!("{}/pool.parquet", output.url());
    assert!(remote.starts_with("memory://"), "{remote}");
    let top = plan(
        r#"{"where": "clip_b32_similarity_score >= quantile(clip_b32_similarity_score, 0.5)"}"#,
    );
    let (selected, _) = pick(&top, &[remote]).unwrap();
    assert_eq!(numbers(&selected, 3), [1, 2]);
}

/// A pool of five pairs with scores 0.1, NaN, infinite, none and 0.5.
fn scored(folder: &Path) -> Vec<String> {
    let scores = [Some(0.1), Some(f32::NAN), Some(f32::INFINITY), None, Some(0.5)];
    let counts: ArrayRef = Arc::new(Int64Array::from_iter_values([2, 1, 1, 0, 3]));
    let columns = vec![("uid", uids(5)), ("score", floats(&scores)), ("times", counts)];
    vec![write(&folder.join("scored.parquet"), columns)]
}

fn subset_of(folder: &Path, name: &str, numbers: &[u64]) -> String {
    let mut uids: Vec<Uid> = numbers.iter().map(|&i| Uid::parse(&uid(i)).unwrap()).collect();
    uids.sort_unstable();
    let path = folder.join(name);
    store::subset::write(&mut File::create(&path).unwrap(), &uids).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_number_that_is_none_or_infinite_is_dropped_as_nonfinite() {
    let folder = tempfile::tempdir().unwrap();
    let (selected, selection) =
        pick(&plan(r#"{"where": "score >= 0.0"}"#), &scored(folder.path())).unwrap();
    assert_eq!(numbers(&selected, 5), [0, 4]);
    let expected =
        r#"{"in": 5, "kept": 2, "dropped": {"nonfinite": 2, "not_selected": 1}, "failed": {}}"#;
    assert_eq!(selection.counts, serde_json::from_str(expected).unwrap());
    // Of a column that the condition does not name nothing is asked.
    let (selected, _) = pick(&SelectPlan::default(), &scored(folder.path())).unwrap();
    assert_eq!(selected.len(), 5);
}

#[test]
fn a_selection_meets_other_subsets_and_says_what_they_took() {
    let folder = tempfile::tempdir().unwrap();
    let one = subset_of(folder.path(), "one.npy", &[0, 1, 2, 3]);
    let other = subset_of(folder.path(), "other.npy", &[3, 4]);
    let pool = scored(folder.path());
    let with = |intersect: &[&String], subtract: &[&String]| {
        let text = serde_json::json!({"intersect": intersect, "subtract": subtract}).to_string();
        let (selected, selection) = pick(&plan(&text), &pool).unwrap();
        (numbers(&selected, 5), selection.counts.dropped)
    };
    let dropped = |reason: &str, count| [(reason.to_owned(), count)].into_iter().collect();
    assert_eq!(with(&[&one], &[]), (vec![0, 1, 2, 3], dropped("not_in_intersect", 1)));
    assert_eq!(with(&[], &[&other]), (vec![0, 1, 2], dropped("in_subtract", 2)));
    assert_eq!(with(&[&one, &other], &[]).0, [3]);
    assert_eq!(with(&[&one], &[&other]).0, [0, 1, 2]);
    let gone = plan(r#"{"subtract": ["no/such.npy"]}"#);
    assert!(pick(&gone, &pool).unwrap_err().to_string().contains("no/such.npy"));
}

#[test]
fn a_weight_repeats_a_uid_and_a_weight_of_none_leaves_it_out() {
    let folder = tempfile::tempdir().unwrap();
    let pool = scored(folder.path());
    let (selected, selection) = pick(&plan(r#"{"weight": "times"}"#), &pool).unwrap();
    let times = |i| selected.iter().filter(|&&u| u == Uid::parse(&uid(i)).unwrap()).count();
    assert_eq!([0, 1, 2, 3, 4].map(times), [2, 1, 1, 0, 3]);
    assert!(selected.is_sorted());
    assert_eq!((selection.counts.kept, selection.rows), (4, 7));
    assert_eq!(selection.counts.dropped["weight_zero"], 1);
    let refuse = |text: &str| pick(&plan(text), &pool).unwrap_err().to_string();
    assert!(refuse(r#"{"weight": "score"}"#).contains("a weight is a whole number"));
    let message = refuse(r#"{"weight": "times - 1"}"#);
    assert!(
        message.contains("a weight must lie in 0..=1000") && message.contains("has -1"),
        "{message}"
    );
    assert!(refuse(r#"{"weight": "times", "distinct": true}"#).contains("does not go together"));
}

#[test]
fn distinct_leaves_one_of_equal_uids_across_files() {
    let folder = tempfile::tempdir().unwrap();
    let pool = [
        write(&folder.path().join("a.parquet"), vec![("uid", uids(300))]),
        write(&folder.path().join("b.parquet"), vec![("uid", uids(500))]),
    ];
    let (all, _) = pick(&SelectPlan::default(), &pool).unwrap();
    assert_eq!(all.len(), 800);
    let (selected, selection) = pick(&plan(r#"{"distinct": true}"#), &pool).unwrap();
    assert_eq!(numbers(&selected, 500).len(), 500);
    assert_eq!((selected.len(), selection.counts.dropped["duplicate"]), (500, 300));
}

/// A pool in DataComp's columns with embeddings beside it.
fn datacomp_pool(folder: &Path, captions: &[&str], embeddings: &[[f32; 2]]) -> Vec<String> {
    let captions: Vec<Option<&str>> = captions.iter().map(|caption| Some(*caption)).collect();
    let n = captions.len() as u64;
    let size = || -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..n).map(|_| 512))) };
    let scores: Vec<Option<f32>> = (0..n).map(|i| Some(0.2 + i as f32 / 50.0)).collect();
    let columns = vec![
        ("uid", uids(n)),
        ("text", texts(&captions)),
        ("original_width", size()),
        ("original_height", size()),
        ("clip_b32_similarity_score", floats(&scores)),
        ("clip_l14_similarity_score", floats(&scores)),
    ];
    let path = write(&folder.join("pool.parquet"), columns);
    std::fs::write(folder.join("pool.npz"), npz(embeddings)).unwrap();
    vec![path]
}

/// A zip of one stored member `l14_img.npy`.
fn npz(rows: &[[f32; 2]]) -> Vec<u8> {
    let mut member = Vec::new();
    store::npy::write(&mut member, &[rows.len(), 2], &rows.concat()).unwrap();
    zip(&member)
}

fn zip(member: &[u8]) -> Vec<u8> {
    let name = b"l14_img.npy";
    let length = (member.len() as u32).to_le_bytes();
    let sizes = [&[0; 4][..], &length, &length, &11_u16.to_le_bytes(), &[0, 0]].concat();
    let mut file = [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &sizes[..], name, member].concat();
    let start = file.len() as u32;
    let entry = [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0", &sizes[..], &[0; 14], name].concat();
    let end = [
        b"PK\x05\x06\0\0\0\0\x01\0\x01\0",
        &(entry.len() as u32).to_le_bytes()[..],
        &start.to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    file.extend([entry, end].concat());
    file
}

/// The small English, German, French and Russian model of `tests/data/fasttext`.
fn model() -> String {
    format!("{}/tests/data/fasttext/hs.ftz", env!("CARGO_MANIFEST_DIR"))
}

const CAPTIONS: [&str; 6] = [
    "the cat sat on a red mat",
    "die alte Stadt am Fluss",
    "blue birds over old town",
    "the cat",
    "red mat by river",
    "un tapis rouge près du château",
];

#[test]
fn the_baselines_of_datacomp_are_there_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let embeddings = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0]];
    let pool = datacomp_pool(folder.path(), &CAPTIONS, &embeddings);
    let dictionary = folder.path().join("wordnet");
    std::fs::create_dir(&dictionary).unwrap();
    for (name, text) in [
        ("index.noun", "mat n 1 0 1 0 00000007\ncat n 1 1 @ 1 0 00000005\n"),
        ("index.verb", "sit v 1 0 1 0 00000009\n"),
        ("index.adj", "red a 1 0 1 0 00000011\n"),
        ("index.adv", "by r 1 0 1 0 00000012\n"),
        ("noun.exc", ""),
        ("verb.exc", "sat sit\n"),
        ("adj.exc", ""),
        ("adv.exc", ""),
    ] {
        std::fs::write(dictionary.join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("synsets.txt"), "n00000005\nn00000012\n").unwrap();
    let mut matrix = Vec::new();
    store::npy::write(&mut matrix, &[2, 2], &[1.0_f32, 0.0, 0.0, 1.0]).unwrap();
    std::fs::write(folder.path().join("centroids.npy"), matrix).unwrap();
    let mut matrix = Vec::new();
    store::npy::write(&mut matrix, &[1, 2], &[7.0_f32, 1.0]).unwrap();
    std::fs::write(folder.path().join("targets.npy"), matrix).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let select = |baseline: serde_json::Value| {
        let plan: SelectPlan =
            serde_json::from_value(serde_json::json!({"baseline": baseline})).unwrap();
        plan.validate().unwrap();
        numbers(&pick(&plan, &pool).unwrap().0, 6)
    };
    let language = serde_json::json!({"language_model": model()});
    let image = serde_json::json!({
        "language_model": model(),
        "centroids": path("centroids.npy"),
        "targets": [path("targets.npy")],
    });
    let both = serde_json::json!({
        "image_based": image,
        "clip_score": {"arch": "l14", "fraction": 0.5},
    });
    let text = serde_json::json!({
        "language_model": model(),
        "wordnet": path("wordnet"),
        "synsets": path("synsets.txt"),
    });
    assert_eq!(select(serde_json::json!("no_filter")), [0, 1, 2, 3, 4, 5]);
    assert_eq!(select(serde_json::json!({"basic_filter": language})), [0, 2, 4]);
    assert_eq!(select(serde_json::json!("basic_filter_without_language")), [0, 1, 2, 4, 5]);
    assert_eq!(select(serde_json::json!({"laion2b": language})), [4]);
    assert_eq!(select(serde_json::json!({"text_based": text})), [0, 3, 4]);
    assert_eq!(select(serde_json::json!({"image_based": image})), [0, 3, 4]);
    // Index int(6 * 0.5) of the descending sort is row 2.
    assert_eq!(select(serde_json::json!({"image_based_intersect_clip_score": both})), [3, 4]);
}

#[test]
fn embeddings_that_do_not_fit_their_parquet_are_named_with_both_counts() {
    let folder = tempfile::tempdir().unwrap();
    let pool = datacomp_pool(folder.path(), &CAPTIONS, &[[1.0, 0.0]; 5]);
    let mut matrix = Vec::new();
    store::npy::write(&mut matrix, &[1, 2], &[1.0_f32, 0.0]).unwrap();
    std::fs::write(folder.path().join("c.npy"), matrix).unwrap();
    let centroids = folder.path().join("c.npy");
    let plan: SelectPlan = serde_json::from_value(serde_json::json!({"baseline": {"image_based": {
        "language_model": model(), "centroids": centroids, "targets": [centroids],
    }}}))
    .unwrap();
    let refuse = || pick(&plan, &pool).unwrap_err();
    let message = refuse().to_string();
    assert!(message.contains("5 embeddings in") && message.contains("pool.npz"), "{message}");
    assert!(message.contains("for 6 rows in") && message.contains("pool.parquet"), "{message}");

    // A header of a gibibyte inside the archive, an array in another order, no archive, no file.
    let huge = [&b"\x93NUMPY\x02\0"[..], &(1_u32 << 30).to_le_bytes(), &[0, 0]].concat();
    std::fs::write(folder.path().join("pool.npz"), zip(&huge)).unwrap();
    assert!(refuse().to_string().contains("l14_img: a header of 1073741824 bytes"), "{}", refuse());
    let mut fortran = Vec::new();
    store::npy::write(&mut fortran, &[6, 2], &[0.0_f32; 12]).unwrap();
    let at = fortran.windows(5).position(|word| word == b"False").unwrap();
    fortran.splice(at..at + 5, *b"True ");
    std::fs::write(folder.path().join("pool.npz"), zip(&fortran)).unwrap();
    assert!(refuse().to_string().contains("l14_img: fortran_order: True"), "{}", refuse());
    std::fs::write(folder.path().join("pool.npz"), b"<html>").unwrap();
    assert!(refuse().to_string().contains("pool.npz: not a zip archive"), "{}", refuse());
    std::fs::remove_file(folder.path().join("pool.npz")).unwrap();
    assert!(refuse().hint_text().unwrap().contains("<name>.npz"), "{}", refuse());
}

/// Five pairs: 1/2, 0/0, 1/0, -1/-0.0 and none/1, with a text that is a number only in the first.
fn ratios(folder: &Path) -> Vec<String> {
    let columns = vec![
        ("uid", uids(5)),
        ("a", floats(&[Some(1.0), Some(0.0), Some(1.0), Some(-1.0), None])),
        ("b", floats(&[Some(2.0), Some(0.0), Some(0.0), Some(-0.0), Some(1.0)])),
        ("text", texts(&[Some("1"), Some("x"), Some("x"), Some("x"), Some("1")])),
    ];
    vec![write(&folder.join("ratios.parquet"), columns)]
}

#[test]
fn a_number_that_the_expression_makes_and_that_is_none_is_nonfinite_too() {
    let folder = tempfile::tempdir().unwrap();
    let pool = ratios(folder.path());
    let check = |condition: &str| {
        let plan = SelectPlan {
            condition: Some(condition.to_owned()),
            allow_empty: true,
            ..SelectPlan::default()
        };
        let (selected, selection) = pick(&plan, &pool).unwrap();
        let nonfinite = selection.counts.dropped.get("nonfinite").copied().unwrap_or(0);
        (numbers(&selected, 5), nonfinite)
    };
    // 0/0 has its sign bit set on x86 and not on ARM, and SQL orders NaN by it.
    assert_eq!(check("a / b > 0.1"), (vec![0], 3));
    assert_eq!(check("a / b < 0.1"), (vec![], 3));
    assert_eq!(check("NOT (a / b > 0.6)"), (vec![0], 3));
    assert_eq!(check("exp(a * 1000.0) >= 0.0"), (vec![1, 3], 2));
    // SQL's greatest passes over null.
    assert_eq!(check("greatest(a / b, 0.1) > 0.0"), (vec![0, 4], 3));
    // The root of -1 would be an error; that row is out before.
    assert_eq!(check("a / b > 0.1 AND sqrt(a) < 2.0"), (vec![0], 3));
    // A finite number of one that is not.
    assert_eq!(check("1.0 / (a / b) >= 0.0"), (vec![0], 3));
    // What a divisor of null gives is null, and no branch that is not taken counts.
    assert_eq!(check("a / nullif(b, 0.0) > 0.1"), (vec![0], 0));
    assert_eq!(check("CASE WHEN b = 0.0 THEN a = 1.0 ELSE a / b > 0.1 END"), (vec![0, 2], 0));
    assert_eq!(check("CASE WHEN a < 5.0 THEN a / b > 0.1 ELSE false END"), (vec![0], 0));
    assert_eq!(check("CASE WHEN a < 5.0 THEN a / b ELSE 1.0 END > 0.1"), (vec![0, 4], 0));
}

#[test]
fn functions_that_stand_for_a_case_or_a_cast_and_second_names_are_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let pool = ratios(folder.path());
    let check = |condition: &str| {
        let plan = SelectPlan { condition: Some(condition.to_owned()), ..SelectPlan::default() };
        let (selected, selection) = pick(&plan, &pool).unwrap();
        assert_eq!(selection.counts.dropped.get("nonfinite"), None, "{condition}");
        numbers(&selected, 5)
    };
    for (condition, rows) in [
        ("coalesce(a, 5.0) > 0.5", &[0, 2, 4][..]),
        ("coalesce(a > 0.5, true)", &[0, 2, 4]),
        ("coalesce(text, 'y') = 'x'", &[1, 2, 3]),
        ("nvl(a, 5) > 2", &[4]),
        ("ifnull(a, 5) > 2", &[4]),
        ("nvl2(a, 1, 0) = 0", &[4]),
        ("arrow_cast(a, 'Int64') = 1", &[0, 2]),
        ("length(text) = 1", &[0, 1, 2, 3, 4]),
        ("char_length(text) = 1", &[0, 1, 2, 3, 4]),
        ("pow(a, 2.0) = 1.0", &[0, 2, 3]),
        // What a branch makes and is not finite is null there.
        ("coalesce(a / b, 9.0) > 8.0", &[1, 2, 3, 4]),
        ("coalesce(try_cast(text AS DOUBLE), 7.0) > 6.0", &[1, 2, 3]),
        ("coalesce(a, 0.0) >= quantile(coalesce(a, 0.0), 0.5)", &[0, 1, 2, 4]),
        ("coalesce(nvl(a, NULL), coalesce(NULL, 3)) = 3", &[4]),
    ] {
        assert_eq!(check(condition), rows, "{condition}");
    }
    let bad = plan(r#"{"where": "coalesce(CAST(text AS DOUBLE), 0.0) > 0.0"}"#);
    let error = pick(&bad, &pool).unwrap_err();
    assert!(error.hint_text().unwrap().contains("try_cast"), "{error}");
    let bad = plan(r#"{"where": "coalesce() > 0.0"}"#);
    assert_eq!(pick(&bad, &pool).unwrap_err().kind(), Kind::Recipe);
}

#[test]
fn zeros_have_no_sign() {
    let folder = tempfile::tempdir().unwrap();
    let pool = ratios(folder.path());
    let selected = |condition: &str| {
        let plan = SelectPlan { condition: Some(condition.to_owned()), ..SelectPlan::default() };
        numbers(&pick(&plan, &pool).unwrap().0, 5)
    };
    assert_eq!(selected("b = 0.0"), [1, 2, 3]);
    assert_eq!(selected("b >= 0.0"), [0, 1, 2, 3, 4]);
    assert_eq!(selected("b = -0.0"), [1, 2, 3]);
    assert_eq!(selected("b * 2.0 IN (0.0)"), [1, 2, 3]);
    assert_eq!(selected("b <= quantile(b, 0.1)"), [1, 2, 3]);
    assert_eq!(selected("CASE WHEN b = 0.0 THEN true ELSE false END"), [1, 2, 3]);
}

#[test]
fn rows_that_are_passed_over_cannot_fail_a_condition_or_a_weight() {
    let folder = tempfile::tempdir().unwrap();
    let some = |reason: &'static str| Some(reason);
    let columns = vec![
        ("uid", uids(4)),
        ("text", texts(&[Some("1.5"), Some("x"), Some("2.5"), Some("3.5")])),
        ("reason", texts(&[None, some("caption_words"), None, None])),
        ("score", floats(&[Some(0.5), Some(0.5), Some(f32::NAN), Some(0.9)])),
    ];
    let pool = [write(&folder.path().join("pool.parquet"), columns)];
    let text = r#"{"where": "CAST(text AS DOUBLE) >= quantile(CAST(text AS DOUBLE), 0.1) AND score < 0.8",
                   "weight": "CAST(text AS BIGINT)"}"#;
    let error = pick(&plan(text), &pool).unwrap_err();
    assert!(error.to_string().contains("pool.parquet") && error.to_string().contains("weight"));
    assert!(error.hint_text().unwrap().contains("try_cast"), "{error}");
    let weighed =
        text.replace("CAST(text AS BIGINT)", "CAST(round(CAST(text AS DOUBLE)) AS BIGINT)");
    let (selected, selection) = pick(&plan(&weighed), &pool).unwrap();
    assert_eq!((numbers(&selected, 4), selection.rows), (vec![0], 2));

    // A row that is looked at fails it, with the file and a way out.
    let kept = r#"{"where": "CAST(text AS DOUBLE) > 1.0", "keep_dropped": true}"#;
    let error = pick(&plan(kept), &pool).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("pool.parquet"), "{error}");
    let tried = kept.replace("CAST", "try_cast");
    assert_eq!(numbers(&pick(&plan(&tried), &pool).unwrap().0, 4), [0, 2, 3]);
}

#[test]
fn a_column_of_two_types_is_refused_where_it_is_asked_for_and_whole_numbers_widen() {
    let folder = tempfile::tempdir().unwrap();
    let whole: ArrayRef = Arc::new(Int64Array::from(vec![3, 1]));
    let words = texts(&[Some("a"), Some("b")]);
    let one = vec![("uid", uids(2)), ("size", whole), ("note", words)];
    let one = write(&folder.path().join("one.parquet"), one);
    let uid: ArrayRef = Arc::new(StringArray::from(vec![uid(2)]));
    let other = vec![("uid", uid), ("size", floats(&[Some(2.5)])), ("note", floats(&[None]))];
    let other = write(&folder.path().join("other.parquet"), other);
    let pool = [one, other.clone()];
    assert_eq!(pick(&SelectPlan::default(), &pool).unwrap().0.len(), 3);
    let sized = plan(r#"{"where": "size >= quantile(size, 0.5)"}"#);
    assert_eq!(numbers(&pick(&sized, &pool).unwrap().0, 3), [0, 2]);
    let error = pick(&plan(r#"{"where": "note = 'a'"}"#), &pool).unwrap_err();
    let expected = format!("where: {other}: column `note` is Float32, and Utf8 before");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_draw_of_none_is_an_empty_selection() {
    let folder = tempfile::tempdir().unwrap();
    let pool = scored(folder.path());
    let message = pick(&plan(r#"{"sample": 0}"#), &pool).unwrap_err().to_string();
    assert_eq!(message, "select: none of 5 pairs was selected: not_drawn 5");
    let allowed = plan(r#"{"sample": 0, "allow_empty": true}"#);
    assert!(pick(&allowed, &pool).unwrap().0.is_empty());
    // Other subsets are read before the pool is.
    let gone = plan(r#"{"intersect": ["no/such.npy"]}"#);
    let message = pick(&gone, &["no/such.parquet".to_owned()]).unwrap_err().to_string();
    assert!(message.starts_with("intersect: ") && message.contains("no/such.npy"), "{message}");
    let weight = plan(r#"{"weight": "times >"}"#).validate().unwrap_err().to_string();
    assert!(weight.starts_with("weight: `times >` is no SQL expression"), "{weight}");
}

#[test]
fn a_reason_of_another_program_is_cut_and_their_number_does_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let reasons: StringArray =
        (0..3000).map(|i| Some(format!("{i:04}{}", "x".repeat(200)))).collect();
    let mut pool = Vec::new();
    for (file, from) in [("a", 0), ("b", 1500)] {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("uid", uids(1500)), ("reason", Arc::new(reasons.slice(from, 1500)))];
        pool.push(write(&folder.path().join(format!("{file}.parquet")), columns));
    }
    let select = |threads: usize, pool: &[String]| {
        let plan = SelectPlan { allow_empty: true, ..SelectPlan::default() };
        plan.pick(&Context { threads, ..Context::default() }, pool).unwrap().1.counts
    };
    let counts = select(1, &pool);
    assert_eq!((counts.dropped.len(), counts.dropped["other"]), (1001, 2000));
    assert!(counts.dropped.keys().all(|reason| reason.len() <= 100));
    assert_eq!(select(2, &pool), counts);
    pool.reverse();
    assert_eq!(select(3, &pool), counts);
}
