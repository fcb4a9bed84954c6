//! What resharding changes on the way: personal data in captions, faces in pictures.

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use common::tar;
use pixels::{Limits, Picture, decode, encode_jpeg, encode_png, probe};
use shard::{
    Edited, Edits, FaceBoxes, ReshardPlan, Resharding, Selection, Shards, TarReader, Truncated,
    run_unit, write_edited_tar, write_tar,
};
use stage::Context;
use stage::pii::PiiKind;
use store::parquet::{Layout, write_parquet};
use store::{Blob, Output};

fn uid(number: usize) -> String {
    format!("{number:032x}")
}

fn json(number: usize, caption: &str) -> String {
    format!("{{\n    \"uid\": \"{}\",\n    \"caption\": \"{caption}\"\n}}", uid(number))
}

fn planned(plan: &ReshardPlan, sources: &Shards, edits: &Edits) -> Resharding {
    let none = HashSet::new();
    plan.plan_edited(&Context::default(), sources, Selection::AllBut(&none), edits).unwrap()
}

fn members(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let entries = TarReader::new("out.tar", tar).map(Result::unwrap);
    entries.map(|(entry, data)| (entry.name, data.to_vec())).collect()
}

#[test]
fn captions_are_masked_in_txt_and_json_and_all_other_samples_and_members_keep_their_bytes() {
    // More samples than one block of the copy holds; every seventh has something to mask.
    let large = vec![7; 60_000];
    let caption = |i: usize| match i % 7 {
        3 => format!("photo {i} by me@site.example"),
        _ => format!("photo {i}"),
    };
    let sources: Vec<_> = (0..60).map(|i| (json(i, &caption(i)), caption(i))).collect();
    let names: Vec<[String; 3]> =
        (0..60).map(|i| ["jpg", "json", "txt"].map(|suffix| format!("{i:04}.{suffix}"))).collect();
    let all: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&sources)
        .flat_map(|([a, b, c], (json, text))| {
            [(&**a, &large[..]), (&**b, json.as_bytes()), (&**c, text.as_bytes())]
        })
        .collect();
    let sources = Shards::from_blobs(&[tar("0.tar", &all)], Truncated::Refuse).unwrap();
    let plan = ReshardPlan { mask_pii: PiiKind::ALL.to_vec(), ..ReshardPlan::default() };
    let edits = Edits::new(&Context::default(), &plan, None);
    let planned = planned(&plan, &sources, &edits);
    let mut plain = Vec::new();
    write_tar(&Context::default(), &planned.shards[0], &sources, &mut plain).unwrap();
    let mut tars = Vec::new();
    for threads in [1, 2, 5] {
        let (cx, mut tar) = (Context { threads, ..Context::default() }, Vec::new());
        let (counts, edited) =
            write_edited_tar(&cx, &planned.shards[0], &sources, &edits, &mut tar).unwrap();
        assert_eq!((counts.entered, counts.kept), (60, 60));
        // Nine samples, in each the text and the json.
        assert_eq!(edited, Edited { masked: [18, 0, 0, 0, 0], captions: 9, blurred: 0 });
        tars.push(tar);
    }
    assert!(tars[0] == tars[1] && tars[0] == tars[2], "the number of threads changes nothing");
    let (before, after) = (members(&plain), members(&tars[0]));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        let text = String::from_utf8_lossy(&before.1).replace("me@site.example", "[EMAIL]");
        assert!(after.0 == before.0 && after.1 == text.into_bytes(), "{}", before.0);
    }
}

#[test]
fn where_nothing_is_found_the_tar_is_that_of_a_plain_resharding() {
    let text = json(1, "a red car, 1967");
    let blob = tar("0.tar", &[("0.jpg", common::PNG), ("0.json", text.as_bytes())]);
    let sources = Shards::from_blobs(&[blob], Truncated::Refuse).unwrap();
    let plan = ReshardPlan { mask_pii: PiiKind::ALL.to_vec(), ..ReshardPlan::default() };
    let edits = Edits::new(&Context::default(), &plan, None);
    let planned = planned(&plan, &sources, &edits);
    let (cx, mut plain, mut edited) = (Context::default(), Vec::new(), Vec::new());
    write_tar(&cx, &planned.shards[0], &sources, &mut plain).unwrap();
    write_edited_tar(&cx, &planned.shards[0], &sources, &edits, &mut edited).unwrap();
    assert!(plain == edited);
}

/// Noise, in which a blur is seen.
fn noise() -> Picture {
    let mut state = 1_u64;
    let mut picture = Picture::filled(96, 64, [0, 0, 0]);
    for value in &mut picture.rgb {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *value = (state >> 56) as u8;
    }
    picture
}

/// Largest difference of neighbours in a square of the first channel.
fn roughness(picture: &Picture, left: usize, top: usize) -> u8 {
    let at = |x: usize, y: usize| picture.rgb[(y * picture.width as usize + x) * 3];
    let pairs = (0..64).map(|i| (left + i % 8, top + i / 8));
    pairs.map(|(x, y)| at(x, y).abs_diff(at(x + 1, y))).max().unwrap()
}

/// A parquet with boxes: of `None` nobody knows.
fn boxes(path: &std::path::Path, rows: &[(usize, Option<Vec<[f64; 4]>>)]) -> String {
    let mut lists = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for (_, faces) in rows {
        for face in faces.iter().flatten() {
            lists.values().values().append_slice(face);
            lists.values().append(true);
        }
        lists.append(faces.is_some());
    }
    let uids: StringArray = rows.iter().map(|(number, _)| Some(uid(*number))).collect();
    let columns: [(&str, ArrayRef); 2] =
        [("uid", Arc::new(uids)), ("face_bboxes", Arc::new(lists.finish()))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut file = Vec::new();
    write_parquet(&mut file, &batch.schema(), [Ok(batch.clone())], &Layout::default()).unwrap();
    std::fs::write(path, file).unwrap();
    path.to_str().unwrap().to_owned()
}

/// 0: a JPEG with a face, 1: the same without, 2: a PNG with a face, 3: nobody looked, 4: cut off.
fn faces() -> (tempfile::TempDir, Shards, FaceBoxes) {
    let (jpeg, png) = (encode_jpeg(&noise(), 95), encode_png(&noise(), 6));
    let cut = &jpeg[..jpeg.len() / 2];
    let jsons: Vec<String> = (0..5).map(|i| json(i, "x")).collect();
    let pictures = [&jpeg[..], &jpeg, &png, &jpeg, cut];
    let names: Vec<[String; 2]> = (0..5)
        .map(|i| [format!("{i}.{}", if i == 2 { "png" } else { "jpg" }), format!("{i}.json")])
        .collect();
    let all: Vec<(&str, &[u8])> = (0..5)
        .flat_map(|i| [(&*names[i][0], pictures[i]), (&*names[i][1], jsons[i].as_bytes())])
        .collect();
    let sources = Shards::from_blobs(&[tar("0.tar", &all)], Truncated::Refuse).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let face = || Some(vec![[0.0, 0.0, 0.4, 0.6]]);
    let rows = [(0, face()), (1, Some(vec![])), (2, face()), (3, None), (4, face()), (9, face())];
    let file = boxes(&folder.path().join("boxes.parquet"), &rows);
    let faces = FaceBoxes::read(&sources, &[file]).unwrap();
    (folder, sources, faces)
}

#[test]
fn faces_are_blurred_and_pictures_without_a_face_are_copied_byte_for_byte() {
    let (_folder, sources, faces) = faces();
    let plan = ReshardPlan { blur_faces: Some("faces".to_owned()), ..ReshardPlan::default() };
    let edits = Edits::new(&Context::default(), &plan, Some(faces));
    let planned = planned(&plan, &sources, &edits);
    assert_eq!(planned.counts.dropped, [("faces_unknown".to_owned(), 1)].into());
    let mut tar = Vec::new();
    let cx = Context { threads: 2, ..Context::default() };
    let (counts, edited) =
        write_edited_tar(&cx, &planned.shards[0], &sources, &edits, &mut tar).unwrap();
    let dropped = [("faces_undecodable".to_owned(), 1), ("faces_unknown".to_owned(), 1)];
    assert_eq!((counts.entered, counts.kept, &counts.dropped), (5, 3, &dropped.into()));
    assert_eq!(edited, Edited { masked: [0; 5], captions: 0, blurred: 2 });
    let (members, limits) = (members(&tar), Limits::default());
    let name = |i: usize, suffix: &str| format!("{}-0.{suffix}", uid(i));
    let names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
    let expected = [(0, "jpg"), (0, "json"), (1, "jpg"), (1, "json"), (2, "json"), (2, "png")];
    assert_eq!(names, expected.map(|(i, suffix)| name(i, suffix)));
    assert_eq!(members[2].1, encode_jpeg(&noise(), 95));
    for (member, mime) in [(0, pixels::Format::Jpeg), (5, pixels::Format::Png)] {
        assert_eq!(probe(&members[member].1, &limits).unwrap().format, mime);
        let picture = decode(&members[member].1, &limits).unwrap();
        assert_eq!((picture.width, picture.height), (96, 64));
        assert!(roughness(&picture, 12, 12) < 40, "{}", roughness(&picture, 12, 12));
        assert!(roughness(&picture, 80, 50) > 100, "{}", roughness(&picture, 80, 50));
    }
    assert_eq!(members[4].1, json(2, "x").into_bytes());
}

#[test]
fn a_sample_with_a_second_picture_does_not_go_out_while_faces_are_blurred() {
    let (jpeg, png) = (encode_jpeg(&noise(), 95), encode_png(&noise(), 6));
    let jsons: Vec<String> = (0..5).map(|i| json(i, "x")).collect();
    let all: Vec<(&str, &[u8])> = vec![
        ("0.jpg", &jpeg),
        ("0.json", jsons[0].as_bytes()),
        ("1.jpg", &jpeg),
        ("1.json", jsons[1].as_bytes()),
        ("1.orig.jpg", &jpeg),
        ("2.gif", b"GIF89a"),
        ("2.jpg", &jpeg),
        ("2.json", jsons[2].as_bytes()),
        // A picture under another name.
        ("3.jpg", &jpeg),
        ("3.json", jsons[3].as_bytes()),
        ("3.thumb", &png),
        ("4.jpg", &jpeg),
        ("4.json", jsons[4].as_bytes()),
        ("4.png", &png),
    ];
    let sources = Shards::from_blobs(&[tar("0.tar", &all)], Truncated::Refuse).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..5).map(|i| (i, Some(vec![]))).collect();
    let file = boxes(&folder.path().join("boxes.parquet"), &rows);
    let plan = ReshardPlan { blur_faces: Some("faces".to_owned()), ..ReshardPlan::default() };
    let faces = FaceBoxes::read(&sources, &[file]).unwrap();
    let edits = Edits::new(&Context::default(), &plan, Some(faces));
    let planned = planned(&plan, &sources, &edits);
    assert_eq!(planned.counts.dropped, [("faces_other_picture".to_owned(), 3)].into());
    let mut tar = Vec::new();
    let (counts, _) =
        write_edited_tar(&Context::default(), &planned.shards[0], &sources, &edits, &mut tar)
            .unwrap();
    let dropped = [("faces_other_picture".to_owned(), 4)].into();
    assert_eq!((counts.entered, counts.kept, &counts.dropped), (5, 1, &dropped));
    assert_eq!(members(&tar).len(), 2);
}

#[test]
fn of_rows_of_one_uid_one_that_nobody_looked_at_counts_most() {
    let (folder, sources, _) = faces();
    let face = || Some(vec![[0.0, 0.0, 0.4, 0.6]]);
    let rows = [(0, None), (0, Some(vec![])), (1, face()), (1, None), (2, face()), (4, face())];
    let file = boxes(&folder.path().join("twice.parquet"), &rows);
    let plan = ReshardPlan { blur_faces: Some("faces".to_owned()), ..ReshardPlan::default() };
    let faces = FaceBoxes::read(&sources, &[file]).unwrap();
    let edits = Edits::new(&Context::default(), &plan, Some(faces));
    let dropped = planned(&plan, &sources, &edits).counts.dropped;
    assert_eq!(dropped, [("faces_unknown".to_owned(), 3)].into());
}

#[test]
fn a_picture_of_which_no_pixel_is_in_a_box_is_copied_and_not_counted() {
    let (folder, sources, _) = faces();
    let point = || Some(vec![[0.5, 0.5, 0.5, 0.5]]);
    let rows = [(0, point()), (1, point()), (2, Some(vec![]))];
    let file = boxes(&folder.path().join("points.parquet"), &rows);
    let plan = ReshardPlan { blur_faces: Some("faces".to_owned()), ..ReshardPlan::default() };
    let faces = FaceBoxes::read(&sources, &[file]).unwrap();
    let edits = Edits::new(&Context::default(), &plan, Some(faces));
    let planned = planned(&plan, &sources, &edits);
    let (mut tar, mut plain) = (Vec::new(), Vec::new());
    let cx = Context::default();
    let (_, edited) =
        write_edited_tar(&cx, &planned.shards[0], &sources, &edits, &mut tar).unwrap();
    write_tar(&cx, &planned.shards[0], &sources, &mut plain).unwrap();
    assert_eq!(edited, Edited::default());
    assert!(tar == plain);
}

#[test]
fn statistics_and_meta_tell_what_was_changed() {
    let (_folder, sources, faces) = faces();
    let plan = ReshardPlan {
        mask_pii: vec![PiiKind::Phone],
        blur_faces: Some("faces".to_owned()),
        ..ReshardPlan::default()
    };
    let edits = Edits::new(&Context::default(), &plan, Some(faces));
    let planned = planned(&plan, &sources, &edits);
    let folder = tempfile::tempdir().unwrap();
    let stage = Output::open(folder.path().to_str().unwrap()).unwrap().stage("reshard");
    let mut attempt = stage.begin("00000000").unwrap();
    let cx = Context::default();
    let (counts, edited) =
        run_unit(&cx, &planned.shards[0], &sources, &edits, &mut attempt).unwrap();
    assert_eq!(edited.blurred, 2);
    attempt.commit("key", counts, serde_json::Value::Null).unwrap();
    let stats = stage.blob("00000000_stats.json").unwrap().read_all().unwrap();
    let expected = r#"{"successes": 3, "masked": {}, "masked_samples": 0, "blurred_samples": 2}"#;
    assert_eq!(String::from_utf8_lossy(&stats), expected);
    let mut attempt = stage.begin("beside").unwrap();
    shard::finish(&planned, &sources, None, &mut attempt).unwrap();
    attempt.commit("key", stage::Counts::default(), serde_json::Value::Null).unwrap();
    let meta = stage.blob("meta.json").unwrap().read_all().unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    assert_eq!(meta["blur_count"], 3, "planned: one of them cannot be decoded");
}

#[test]
fn a_box_that_is_none_and_a_missing_column_are_named() {
    let (folder, sources, _) = faces();
    let rows = [(7, Some(vec![])), (1, Some(vec![[0.5, 0.0, 0.1, 1.0]]))];
    let file = boxes(&folder.path().join("bad.parquet"), &rows);
    let message = FaceBoxes::read(&sources, &[file]).unwrap_err().to_string();
    assert!(message.contains("bad.parquet, row 1: face_bboxes[0] is no box"), "{message}");
    let rows = [(1, Some(vec![[10.0, 20.0, 50.0, 60.0]]))];
    let file = boxes(&folder.path().join("pixels.parquet"), &rows);
    let message = FaceBoxes::read(&sources, &[file]).unwrap_err().to_string();
    let expected = "pixels.parquet, row 0: face_bboxes[0] is no box `[x_min, y_min, x_max, y_max]` \
                    in shares of the picture's sides: [10.0, 20.0, 50.0, 60.0]";
    assert!(message.contains(expected), "{message}");
    let batch = RecordBatch::try_from_iter([(
        "uid",
        Arc::new(StringArray::from(vec![uid(1)])) as ArrayRef,
    )]);
    let (batch, mut file) = (batch.unwrap(), Vec::new());
    write_parquet(&mut file, &batch.schema(), [Ok(batch.clone())], &Layout::default()).unwrap();
    let path = folder.path().join("none.parquet");
    std::fs::write(&path, file).unwrap();
    let error = FaceBoxes::read(&sources, &[path.to_str().unwrap().to_owned()]).unwrap_err();
    assert!(error.to_string().contains("no column `face_bboxes`"), "{error}");
    assert!(error.hint_text().unwrap().contains("`faces`"));
}

#[test]
fn a_tar_that_was_masked_is_read_under_the_same_uids() {
    let text = json(1, "call 555-123-4567");
    let blob = tar("0.tar", &[("0.jpg", common::PNG), ("0.json", text.as_bytes())]);
    let sources = Shards::from_blobs(&[blob], Truncated::Refuse).unwrap();
    let plan = ReshardPlan { mask_pii: vec![PiiKind::Phone], ..ReshardPlan::default() };
    let edits = Edits::new(&Context::default(), &plan, None);
    let planned = planned(&plan, &sources, &edits);
    let mut tar = Vec::new();
    write_edited_tar(&Context::default(), &planned.shards[0], &sources, &edits, &mut tar).unwrap();
    let again = Blob::from_bytes("x.tar", tar.into());
    let again = Shards::from_blobs(&[again], Truncated::Refuse).unwrap();
    assert_eq!(again.uids().unwrap(), sources.uids().unwrap());
    assert_eq!(stage::PairSource::read(&again, &[0]).unwrap().captions().value(0), "call [PHONE]");
}
