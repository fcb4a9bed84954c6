//! The tokenizer against open_clip's: 300 strings of the shared data (`golden/tokenizer`), and 300 of
//! our own beside this file (`bench/interop/make_small_goldens.py tokens`).

mod shared_data;

use models::Tokenizer;

#[test]
fn three_hundred_strings_of_our_own_get_open_clips_ids() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/tokens_small.json")).unwrap();
    let cases: Vec<(String, String, String)> =
        serde_json::from_value(golden["cases"].clone()).unwrap();
    assert_eq!(cases.len(), 300);
    let tokenizer = Tokenizer::clip();
    let mut wrong = Vec::new();
    for (text, clean, ids) in &cases {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        // Start, ids, end, zeros; cut to the context with the end last.
        let mut context = [&[49406], &ids[..], &[49407]].concat();
        if context.len() > 77 {
            context.truncate(76);
            context.push(49407);
        }
        context.resize(77, 0);
        let ours = Tokenizer::clean(text);
        if ours != *clean || tokenizer.encode(text) != ids || tokenizer.context(text, 77) != context
        {
            wrong.push(format!("{text:?}: {ours:?}, expected {clean:?}"));
        }
    }
    assert!(cases.iter().any(|(.., ids)| ids.split_whitespace().count() > 75));
    assert!(wrong.is_empty(), "{} of 300:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn all_strings_get_open_clips_ids() {
    let Some(path) = shared_data::shared("data/golden/tokenizer/tokens.json") else { return };
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 300);
    let tokenizer = Tokenizer::clip();
    let ids = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let padded = |field: &str, length: usize| {
            let mut ids = ids(&case[field]);
            ids.resize(length, 0);
            ids
        };
        let right = Tokenizer::clean(text) == case["clean"].as_str().unwrap()
            && tokenizer.encode(text) == ids(&case["ids"])
            && tokenizer.context(text, 77) == padded("context77", 77)
            && tokenizer.context(text, 16) == padded("context16", 16);
        if !right {
            wrong.push(format!(
                "{text:?}: {:?}, expected {}",
                Tokenizer::clean(text),
                case["clean"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of 300:\n{}", wrong.len(), wrong.join("\n"));
}
