//! The tokenizer against open_clip's on 300 strings (`golden/tokenizer`).

mod shared_data;

use models::Tokenizer;

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
