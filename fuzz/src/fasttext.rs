//! fastText models from elsewhere.

use filter::fasttext::{Model, Scratch};
use store::Blob;

/// Captions that are asked about.
const LINES: [&str; 5] =
    ["", "a red car on the road", "ein rotes Auto", "赤い車 \u{1f697}", "\0\n\t"];

/// A model that is read answers with a label that it has, and with the same one when asked again.
pub fn run(data: &[u8]) {
    let Ok(model) = Model::read(&Blob::from_bytes("fuzz.bin", data.to_vec().into())) else {
        return;
    };
    let mut scratch = Scratch::default();
    for line in LINES {
        let answer = model.predict(line, &mut scratch);
        if let Some((label, _)) = answer {
            assert!(label < model.labels().len(), "label {label} of {}", model.labels().len());
        }
        let again = model.predict(line, &mut Scratch::default());
        let bits = |answer: Option<(usize, f32)>| answer.map(|(label, p)| (label, p.to_bits()));
        assert_eq!(bits(answer), bits(again), "{line:?}");
    }
}
