//! PyTorch's archives: what is read, and what is refused and how that is said.

mod archive;

use std::collections::BTreeMap;

use archive::{Member, Pickle, archive, floats, member, put, zip};
use candle_core::DType;
use models::Weights;
use proptest::prelude::*;
use stage::Kind;

fn open(bytes: &[u8]) -> stage::Result<Weights> {
    let folder = tempfile::tempdir().unwrap();
    Weights::open(&put(folder.path(), "x.pt", bytes))
}

fn values(weights: &Weights, name: &str) -> Vec<f32> {
    let tensor = weights.tensor(name).unwrap();
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// One tensor `w` of the storage 0..6, with this view.
fn one(offset: i64, dims: &[i64], strides: &[i64]) -> Vec<u8> {
    let of = ("FloatStorage", "0", 6);
    let pickle = Pickle::new().dict(|p| p.text("w").tensor(of, offset, dims, strides)).end();
    archive(&pickle, &[("0", &floats(&[0., 1., 2., 3., 4., 5.]))])
}

fn refused(bytes: &[u8], expected: &str) {
    let error = open(bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{error}");
    let message = error.to_string();
    assert!(message.contains("x.pt: ") && message.contains(expected), "{message}");
    assert!(error.hint_text().is_some(), "{message}");
}

#[test]
fn a_state_dict_gives_its_tensors_by_name() {
    let weights = open(&one(0, &[2, 3], &[3, 1])).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(weights.dims("w").unwrap(), [2, 3]);
    assert_eq!(
        weights.tensor("w").unwrap().to_vec2::<f32>().unwrap(),
        [[0., 1., 2.], [3., 4., 5.]]
    );
    assert_eq!(weights.summary(), "PyTorch archive, 1 tensors, names: open_clip");
}

#[test]
fn offsets_and_strides_are_followed() {
    let check = |offset, dims: &[i64], strides: &[i64], expected: &[f32]| {
        assert_eq!(values(&open(&one(offset, dims, strides)).unwrap(), "w"), expected);
    };
    check(2, &[3], &[1], &[2., 3., 4.]);
    check(0, &[3, 2], &[1, 3], &[0., 3., 1., 4., 2., 5.]);
    check(1, &[2], &[4], &[1., 5.]);
    check(5, &[], &[], &[5.]);
    check(5, &[1, 1], &[9, 7], &[5.]);
    check(6, &[0, 4], &[4, 1], &[]);
}

#[test]
fn one_storage_can_serve_several_tensors() {
    let pickle = Pickle::new().dict(|p| {
        let p = p.text("a").tensor(("FloatStorage", "0", 4), 0, &[2], &[1]);
        p.text("b").tensor(("FloatStorage", "0", 4), 2, &[2], &[1])
    });
    let weights = open(&archive(&pickle.end(), &[("0", &floats(&[1., 2., 3., 4.]))])).unwrap();
    assert_eq!(values(&weights, "a"), [1., 2.]);
    assert_eq!(values(&weights, "b"), [3., 4.]);
}

#[test]
fn halves_widen_to_f32_and_doubles_stay() {
    let pickle = Pickle::new().dict(|p| {
        let p = p.text("bf16").tensor(("BFloat16Storage", "0", 2), 0, &[2], &[1]);
        let p = p.text("f16").tensor(("HalfStorage", "1", 2), 0, &[2], &[1]);
        p.text("f64").tensor(("DoubleStorage", "2", 1), 0, &[1], &[1])
    });
    let bytes = archive(
        &pickle.end(),
        &[
            ("0", &[0x80, 0x3f, 0x40, 0xc0]), // 1, -3
            ("1", &[0x00, 0x3c, 0x01, 0x00]), // 1, the smallest subnormal
            ("2", &0.1f64.to_le_bytes()),
        ],
    );
    let weights = open(&bytes).unwrap();
    assert_eq!(values(&weights, "bf16"), [1., -3.]);
    assert_eq!(values(&weights, "f16"), [1., 5.960_464_5e-8]);
    assert_eq!(weights.tensor("f64").unwrap().to_vec1::<f64>().unwrap(), [0.1]);
}

#[test]
fn of_a_training_checkpoint_only_the_model_is_read() {
    // The optimiser's storage 1 is not even in the archive.
    let pickle = Pickle::new().raw(b"}(").text("epoch").int(3).text("name").text("run");
    let pickle = pickle
        .text("state_dict")
        .dict(|p| p.text("module.w").tensor(("FloatStorage", "0", 1), 0, &[1], &[1]));
    let pickle = pickle.text("optimizer").raw(b"}(").text("state").raw(b"}(").int(0).raw(b"}(");
    let pickle = pickle.text("exp_avg").tensor(("FloatStorage", "1", 1), 0, &[1], &[1]);
    let pickle = pickle.raw(b"uu").text("lr").raw(b"G?\xf0\0\0\0\0\0\0uu");
    let weights = open(&archive(&pickle.end(), &[("0", &floats(&[7.]))])).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(values(&weights, "w"), [7.]);
}

#[test]
fn what_is_no_weight_is_left_out_and_said() {
    let pickle = Pickle::new().dict(|p| {
        let p = p.text("w").tensor(("FloatStorage", "0", 1), 0, &[1], &[1]);
        let p = p.text("bn.num_batches_tracked").tensor(("LongStorage", "1", 1), 0, &[], &[]);
        p.text("version").int(2)
    });
    let bytes = archive(&pickle.end(), &[("0", &floats(&[7.])), ("1", &[0; 8])]);
    let weights = open(&bytes).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["w"]);
    assert!(weights.summary().ends_with("left out: bn.num_batches_tracked, version"));
}

#[test]
fn whole_numbers_where_weights_should_be_are_refused_by_name() {
    let pickle = Pickle::new().dict(|p| p.text("w").tensor(("LongStorage", "0", 1), 0, &[1], &[1]));
    let weights = open(&archive(&pickle.end(), &[("0", &[0; 8])])).unwrap();
    let message = weights.tensor("w").unwrap_err().to_string();
    assert!(message.contains("tensor `w` has dtype I64, expected F32, F16, BF16 or F64"));
}

#[test]
fn modules_of_torchscript_give_their_tensors_by_path() {
    let new = |p: Pickle, name: &str| {
        p.raw(format!("c__torch__.{name}\nModule\n)").as_bytes()).raw(b"\x81}(")
    };
    let p = new(Pickle::new(), "clip.Clip").text("training").raw(b"\x89").text("visual");
    let p = new(p, "clip.Visual").text("proj");
    let p = p.tensor(("HalfStorage", "0", 2), 0, &[2], &[1]).raw(b"ub");
    let p = p.text("input_resolution").tensor(("LongStorage", "1", 1), 0, &[], &[]).raw(b"ub");
    let mut members = vec![
        member("x/data.pkl", &p.end()),
        member("x/code/__torch__.py", b""),
        member("x/data/0", &[0x00, 0x3c, 0x00, 0xbc]),
        member("x/data/1", &[0; 8]),
    ];
    let weights = open(&zip(&members)).unwrap();
    assert_eq!(values(&weights, "visual.proj"), [1., -1.]);
    assert_eq!(
        weights.summary(),
        "TorchScript archive, 1 tensors, names: open_clip; left out: input_resolution"
    );
    // Outside TorchScript the same class is no name of the list.
    members.remove(1);
    refused(&zip(&members), "the name `__torch__.clip.Clip.Module`");
}

#[test]
fn a_module_inside_itself_is_refused() {
    let p = Pickle::new().raw(b"c__torch__.A\nModule\n)\x81q\x01}(").text("me").raw(b"h\x01ub");
    let bytes = zip(&[member("x/data.pkl", &p.end()), member("x/code/a.py", b"")]);
    refused(&bytes, "stands inside itself");
}

#[test]
fn modules_that_stand_in_many_places_stop_at_a_limit() {
    // 24 modules, each twice in the next: the innermost stands in 2²³ places.
    let mut p = Pickle::new().raw(b"c__torch__.A\nModule\n)\x81}bq\x000");
    for above in 1..24_u8 {
        let p2 = p.raw(b"c__torch__.A\nModule\n)\x81}(").text("a").raw(&[b'h', above - 1]);
        p = p2.text("b").raw(&[b'h', above - 1]).raw(b"ub").raw(&[b'q', above, b'0']);
    }
    let bytes = p.raw(&[b'h', 23]).end();
    let bytes = zip(&[member("x/data.pkl", &bytes), member("x/code/a.py", b"")]);
    refused(&bytes, "more than 1048576 attributes");
}

#[test]
fn a_name_that_every_tensor_would_repeat_is_refused() {
    let p = Pickle::new().raw(b"c__torch__.A\nModule\n)\x81}(").text(&"x".repeat(5000));
    let p = p.raw(b"c__torch__.A\nModule\n)\x81}(").text("w");
    let p = p.tensor(("FloatStorage", "0", 1), 0, &[1], &[1]).raw(b"ubub");
    let bytes = zip(&[
        member("x/data.pkl", &p.end()),
        member("x/code/a.py", b""),
        member("x/data/0", &[0; 4]),
    ]);
    refused(&bytes, "a name of more than 4096 bytes");
}

#[test]
fn names_that_would_run_code_are_refused_with_the_way_to_convert() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch.jit._script", "unpackage_script_module"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v3"),
    ] {
        let call = format!("c{module}\n{name}\n");
        let pickle = Pickle::new().raw(call.as_bytes()).raw(b"(").text("id").raw(b"tR").end();
        refused(
            &archive(&pickle, &[]),
            &format!("the name `{module}.{name}`, which is not on the"),
        );
        let short = |text: &str| {
            let mut bytes = vec![0x8c, u8::try_from(text.len()).unwrap()];
            bytes.extend(text.bytes());
            bytes
        };
        let pickle = Pickle(b"\x80\x04".to_vec()).raw(&short(module)).raw(&short(name));
        let pickle = pickle.raw(b"\x93)R").end();
        refused(&archive(&pickle, &[]), &format!("the name `{module}.{name}`"));
    }
    let error = open(&archive(b"\x80\x02cos\nsystem\n.", &[])).unwrap_err();
    assert!(error.hint_text().unwrap().contains("save_file("), "{error}");
    assert!(error.to_string().contains("data.pkl: pickle byte 2: the pickle uses"), "{error}");
}

#[test]
fn other_opcodes_are_refused_by_name() {
    for (opcode, name) in [
        (&b"(ios\nsystem\n"[..], "0x69 (INST)"),
        (b"(o", "0x6f (OBJ)"),
        (b"\x82\x01", "0x82 (EXT1)"),
        (b"\x92", "0x92 (NEWOBJ_EX)"),
        (b"Pid\n", "0x50 (PERSID)"),
        (b"\x97", "0x97 (NEXT_BUFFER)"),
        (b"\x00", "0x00 (of no protocol)"),
    ] {
        refused(&archive(&Pickle::new().raw(opcode).end(), &[]), &format!("the opcode {name}"));
    }
    refused(&archive(b"\x80\x05N.", &[]), "protocol 5, expected 2 to 4");
}

#[test]
fn older_formats_are_refused_with_the_way_to_convert() {
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    refused(legacy, "written by torch before 1.6");
    assert!(open(legacy).unwrap_err().hint_text().unwrap().contains("torch.save(torch.load("));
    refused(b"\x80\x02}q\x00.", "a pickle without the archive of torch.save");
    refused(&zip(&[member("word/document.xml", b"<x/>")]), "a zip file without data.pkl");
    refused(&archive(b"\x80\x02K\x01.", &[]), "neither a state dict nor a module");
}

#[test]
fn a_view_beyond_its_storage_is_refused_with_both_sizes() {
    for (offset, dims, strides) in [
        (1, &[2, 3][..], &[3, 1][..]),
        (6, &[1], &[1]),
        (0, &[2, 2], &[5, 1]),
        (i64::MAX, &[1], &[1]),
        (0, &[i64::MAX, i64::MAX], &[1, 1]),
        (0, &[2, 2], &[i64::MAX, i64::MAX]),
        (0, &[1 << 40], &[1]),
    ] {
        refused(&one(offset, dims, strides), "tensor `w`: shape");
        refused(&one(offset, dims, strides), "reaches beyond its storage of 6 elements");
    }
    refused(&one(0, &[1 << 40], &[0]), "repeats its storage of 6 elements");
    refused(&one(0, &[1 << 31, 1 << 31], &[0, 0]), "repeats its storage of 6 elements");
    refused(&one(-1, &[1], &[1]), "a tensor at offset -1");
    refused(&one(0, &[-1], &[1]), "no whole number from 0 on");
    refused(&one(0, &[1], &[-1]), "no whole number from 0 on");
    refused(&one(0, &[1, 1], &[1]), "2 sizes and 1 strides");
    refused(&one(0, &[1; 10], &[1; 10]), "dimensions of a tensor");
}

#[test]
fn storages_that_do_not_fit_their_members_are_refused() {
    let of = |count, storages: &[(&str, &[u8])]| {
        let view = ("FloatStorage", "0", count);
        let pickle = Pickle::new().dict(|p| p.text("w").tensor(view, 0, &[1], &[1])).end();
        archive(&pickle, storages)
    };
    refused(&of(2, &[("0", &[0; 4])]), "`data/0` has 4 bytes, expected 2 numbers of 4 bytes");
    refused(&of(i64::MAX, &[("0", &[0; 4])]), "has 4 bytes, expected");
    refused(&of(-1, &[("0", &[0; 4])]), "a storage of negative size");
    refused(&of(1, &[("1", &[0; 4])]), "its storage `data/0` is not in the archive");
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let twice = Pickle::new().dict(|p| {
        let p = p.text("w").tensor(("FloatStorage", "0", 1), 0, &[1], &[1]);
        p.text("w").tensor(("FloatStorage", "0", 1), 0, &[1], &[1])
    });
    refused(&archive(&twice.end(), &[("0", &[0; 4])]), "two tensors are called `w`");
}

fn members() -> Vec<Member> {
    let pickle = Pickle::new().dict(|p| {
        let p = p.text("a").tensor(("FloatStorage", "0", 1), 0, &[1], &[1]);
        p.text("b").tensor(("FloatStorage", "1", 1), 0, &[1], &[1])
    });
    vec![
        member("a/data.pkl", &pickle.end()),
        member("a/data/0", &[0; 4]),
        member("a/data/1", &[0; 4]),
    ]
}

#[test]
fn hostile_zip_directories_are_refused() {
    let check = |change: &dyn Fn(&mut Vec<Member>), expected: &str| {
        let mut members = members();
        change(&mut members);
        refused(&zip(&members), expected);
    };
    check(&|m| m[2].name = "a/data/0".into(), "two members are called `a/data/0`");
    check(&|m| m[1].method = 8, "member `a/data/0`: the member is compressed (method 8)");
    check(&|m| m[0].method = 8, "member `a/data.pkl`: the member is compressed");
    check(&|m| m[2].length = 1 << 30, "not a whole zip file");
    // The first storage claims the bytes of the second.
    check(&|m| m[1].length = 44, "the storages `data/0` and `data/1` overlap");
    check(&|m| m.push(member("a/byteorder", b"big")), "not in little-endian order");
    let good = zip(&members());
    let end = good.len() - 22;
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused(&patched(end + 16, &[0xff; 4]), "not a whole zip file: a directory of 3 members");
    refused(&patched(end + 12, &[0xff; 4]), "not a whole zip file: a directory of 3 members");
    refused(&patched(end + 8, &[4, 0, 4, 0]), "bytes are announced where 0 are left");
    refused(&patched(end + 4, &[1, 0]), "spread over several files");
    refused(&patched(end, b"QK"), "there is no end record");
    refused(&patched(0, b"PK\0\0"), "no local header at 0");
}

#[test]
fn large_archives_have_their_lengths_in_64_bits() {
    let good = zip(&members());
    let end = good.len() - 22;
    let (size, at) = (&good[end + 12..end + 16], &good[end + 16..end + 20]);
    let wide =
        |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes();
    let with = |offset: [u8; 8], record: u64| {
        let mut file = good[..end].to_vec();
        file.extend(b"PK\x06\x06");
        file.extend([0; 28]);
        file.extend(3u64.to_le_bytes());
        file.extend(wide(size));
        file.extend(offset);
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(record.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(&good[end..end + 8]);
        file.extend([0xff; 12]);
        file.extend([0; 2]);
        file
    };
    assert_eq!(open(&with(wide(at), end as u64)).unwrap().names().count(), 2);
    refused(&with([0xff; 8], end as u64), "not a whole zip file: a directory of 3 members");
    refused(&with(wide(at), u64::MAX), "a 64-bit end record at");
    refused(&with(wide(at), 0), "no 64-bit end record at 0");
}

#[test]
fn an_archive_that_was_cut_off_anywhere_is_refused() {
    let good = one(0, &[2, 3], &[3, 1]);
    for length in 0..good.len() {
        assert!(open(&good[..length]).is_err(), "{length} of {} bytes", good.len());
    }
}

#[test]
fn malformed_pickles_are_refused() {
    for (bytes, expected) in [
        (&b"\x80\x02."[..], "the stack is empty"),
        (b"\x80\x02", "1 bytes are announced where 0 are left"),
        (b"\x80\x02u.", "there is no mark"),
        (b"\x80\x02N(u.", "there is no object on the stack"),
        (b"\x80\x02](NNu.", "items are set in what is no dict"),
        (b"\x80\x02}(Nu.", "a key without a value"),
        (b"\x80\x02}NNR.", "a call of what is no name of the list"),
        (b"\x80\x02h\x07.", "value 7 was never remembered"),
        (b"\x80\x02q\x07.", "the stack is empty"),
        (b"\x80\x02X\xff\xff\xff\xffab", "bytes are announced where 2 are left"),
        (b"\x80\x02cno line feed", "a line has no end"),
        (b"\x80\x02NQ.", "something else stands in the place of a tuple"),
        (b"\x80\x02)Q.", "a persistent id that is no storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "a tensor needs storage, offset"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "made by a call"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.", "a call without arguments"),
        (b"\x80\x02}(K\x01Nu.", "a key that is no text"),
        (b"\x80\x02N(\x85.", "the stack is empty"),
    ] {
        refused(&archive(bytes, &[]), expected);
    }
}

#[test]
fn floods_stop_at_their_limits() {
    let of = |unit: &[u8], count: usize| {
        archive(&Pickle::new().raw(&unit.repeat(count)).raw(b".").0, &[])
    };
    refused(&of(b"(", (1 << 20) + 1), "more than 1048576 marks");
    refused(&of(b"N", (1 << 20) + 1), "more than 1048576 values on the stack");
    refused(&of(b"}0", (1 << 20) + 1), "more than 1048576 objects");
    refused(&of(b"N\x850", (1 << 20) + 1), "more than 1048576 objects");
    // Half a million tuples, each inside the next: nothing walks them.
    let deep = Pickle::new().raw(b"N").raw(&b"\x85".repeat(1 << 19)).end();
    refused(&archive(&deep, &[]), "neither a state dict nor a module");
    let own = Pickle::new().raw(b"}q\x00(").text("state_dict").raw(b"h\x00u").end();
    assert_eq!(open(&archive(&own, &[])).unwrap().names().count(), 0);
    let mut pickle = b"\x80\x02".to_vec();
    pickle.resize((32 << 20) + 1, b'N');
    refused(&archive(&pickle, &[]), "data.pkl has 33554433 bytes, more than the 33554432");
}

#[test]
fn scalars_of_numpy_and_flags_of_trainers_are_passed_over() {
    let p = Pickle::new().raw(b"}(").text("args").raw(b"cargparse\nNamespace\n)\x81}(");
    let p = p.text("lr").raw(b"G?\xf0\0\0\0\0\0\0ub").text("best");
    let p = p.raw(b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(").text("f8");
    let p = p.raw(b"\x89\x88tR(K\x03").text("<").raw(b"NNtbc_codecs\nencode\n(").text("x");
    let p = p.text("latin1").raw(b"tRtR").text("model");
    let p = p.dict(|p| p.text("w").tensor(("FloatStorage", "0", 1), 0, &[1], &[1])).raw(b"u");
    let weights = open(&archive(&p.end(), &[("0", &floats(&[7.]))])).unwrap();
    assert_eq!(values(&weights, "w"), [7.]);
}

fn whole() -> Vec<u8> {
    let pickle =
        Pickle::new().raw(b"}(").text("epoch").raw(b"K\x01").text("state_dict").dict(|p| {
            let p = p.text("a").tensor(("FloatStorage", "0", 6), 0, &[2, 3], &[1, 2]);
            p.text("b").tensor(("HalfStorage", "1", 2), 0, &[2], &[1])
        });
    archive(&pickle.raw(b"u").end(), &[("0", &[1; 24]), ("1", &[2; 4])])
}

/// Opens and reads everything; whatever happens is an answer, not a panic.
fn read_all(bytes: &[u8]) -> Option<BTreeMap<String, usize>> {
    let weights = open(bytes).ok()?;
    let tensors = weights.tensors(1 << 20).ok()?;
    Some(tensors.into_iter().map(|(name, t)| (name, t.elem_count())).collect())
}

#[test]
fn the_unchanged_file_of_the_next_test_is_read() {
    let expected = BTreeMap::from([("a".to_owned(), 6), ("b".to_owned(), 2)]);
    assert_eq!(read_all(&whole()), Some(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_changed_file_is_read_or_refused_without_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = whole();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn any_pickle_is_read_or_refused_without_panic(ops in proptest::collection::vec(
        prop_oneof![
            prop::sample::select(&b"(.0NGJKMXCB)]}\x85\x86\x87taesuqrhjcQRb\x81\x93\x94\x8a\x8c"[..]),
            any::<u8>(),
        ],
        0..200,
    )) {
        let mut bytes = Pickle::new().raw(b"ccollections\nOrderedDict\n)R").0;
        bytes.extend(ops);
        read_all(&archive(&bytes, &[("0", &[0; 8])]));
    }
}
