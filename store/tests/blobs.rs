//! Blobs and patterns over real files.

use std::io::Read;

use stage::Kind;
use store::{Blob, Output, expand};

#[test]
fn a_range_outside_the_file_is_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    std::fs::write(&path, "0123456789").unwrap();
    let blob = Blob::open(path.to_str().unwrap()).unwrap();
    assert_eq!(blob.read_at(3, 4).unwrap(), "3456");
    assert_eq!(blob.read_at(10, 0).unwrap(), "");
    for (offset, len) in [(11, 0), (0, 11), (u64::MAX, 1), (0, usize::MAX)] {
        let error = blob.read_at(offset, len).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains("the file has 10"), "{error}");
    }
}

#[test]
fn a_file_is_opened_by_path_and_by_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.txt");
    std::fs::write(&path, "abc").unwrap();
    let url = format!("file://{}", path.to_str().unwrap().replace(' ', "%20"));
    for name in [path.to_str().unwrap(), &url] {
        let blob = Blob::open(name).unwrap();
        assert_eq!((blob.name(), blob.len()), (name, 3));
        assert_eq!(blob.local_path().unwrap(), path);
        let mut text = String::new();
        blob.reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }
}

#[test]
fn what_is_not_a_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.tar");
    let error = Blob::open(missing.to_str().unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().ends_with("missing.tar: no such file"), "{error}");
    let error = Blob::open(folder.path().to_str().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("not a regular file"), "{error}");
    let error = Blob::open("gopher://a/b").unwrap_err();
    assert_eq!(error.kind(), Kind::Recipe);
    assert_eq!(Blob::open("").unwrap_err().kind(), Kind::Recipe);
}

#[test]
fn a_file_that_was_cut_while_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "0123456789").unwrap();
    let blob = Blob::open(path.to_str().unwrap()).unwrap();
    std::fs::write(&path, "0").unwrap();
    let error = blob.read_all().unwrap_err();
    assert!(error.to_string().contains("became shorter"), "{error}");
    assert!(blob.sha256().is_err());
}

#[test]
fn lists_and_braces_give_names_in_order() {
    let names = expand("s3://b/{00009..00010}.tar::c::d{1,2}").unwrap();
    assert_eq!(names, ["s3://b/00009.tar", "s3://b/00010.tar", "c", "d1", "d2"]);
    assert_eq!(expand("http://h/x*?q={1,2}").unwrap(), ["http://h/x*?q=1", "http://h/x*?q=2"]);
    assert_eq!(expand("http://h/x*").unwrap(), ["http://h/x*"]);
    let error = expand("{0..10000000}").unwrap_err();
    assert!(error.to_string().ends_with("more than 10000000 names"), "{error}");
    assert_eq!(expand("::").unwrap_err().kind(), Kind::Input);
}

#[test]
fn a_folder_is_its_files_in_order_and_a_star_picks_among_them() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["00001.tar", "00000.tar", "00000.parquet", ".hidden"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::create_dir(folder.path().join("inner.tar")).unwrap();
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    let all = [at("00000.parquet"), at("00000.tar"), at("00001.tar")];
    assert_eq!(expand(folder.path().to_str().unwrap()).unwrap(), all);
    assert_eq!(expand(&at("")).unwrap(), all);
    assert_eq!(expand(&at("*.tar")).unwrap(), all[1..]);
    assert_eq!(expand(&at("0*0.*r")).unwrap(), [at("00000.tar")]);
    assert_eq!(expand(&at("00001.tar")).unwrap(), [at("00001.tar")]);
    assert_eq!(expand(&at("*.zip")).unwrap_err().kind(), Kind::Input);
}

#[test]
fn a_folder_in_a_bucket_is_its_files_in_order() {
    let output = Output::in_memory();
    for name in ["s/b.tar", "s/a.tar", "s/a.json", "s/deep/c.tar"] {
        output.put(name, "x".into()).unwrap();
    }
    let at = |name: &str| output.locate(&format!("s/{name}"));
    assert_eq!(expand(&output.locate("s")).unwrap(), [at("a.json"), at("a.tar"), at("b.tar")]);
    assert_eq!(expand(&at("*.tar")).unwrap(), [at("a.tar"), at("b.tar")]);
    assert_eq!(expand(&at("a.tar")).unwrap(), [at("a.tar")]);
}

#[test]
fn a_file_named_with_braces_is_meant_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("{1..2}*.tar");
    std::fs::write(&path, "").unwrap();
    assert_eq!(expand(path.to_str().unwrap()).unwrap(), [path.to_str().unwrap()]);
}
