//! Turns away captions that no person wrote of a picture.
//!
//! Four rules, each with a score of its own. The share of repeated words is the unigram case of
//! the repetition rules of Rae et al., "Scaling Language Models" (arXiv 2112.11446, table A1); the
//! others are rules of thumb whose thresholds are the recipe's to set.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{Array, ArrayRef, Float32Array, UInt32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Error, Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};
use crate::words::split_words;

/// Repetition, capitals, addresses and boilerplate. Scores: `text_repetition` (share of words that
/// stood before, 0..1; 0 below 4 words), `text_capitals` (share of capitals among the letters that
/// have a case, 0..=1; 0 below 8 such letters), `text_urls` (number of web addresses),
/// `text_boilerplate` (1 where the whole caption is a phrase that pages put on any picture, or the
/// name of a file; else 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextRules {
    /// Largest share of repeated words, 0..=1, default 0.5. Reason: `text_repetition`.
    pub max_repetition: f64,
    /// Largest share of capitals, 0..=1, default 0.8. Reason: `text_capitals`.
    pub max_capitals: f64,
    /// Most web addresses, default 0. Reason: `text_urls`.
    pub max_urls: u32,
    /// Whether boilerplate is kept, default no. Reason: `text_boilerplate`.
    pub keep_boilerplate: bool,
    /// Further phrases that are boilerplate where a caption says nothing else; case, punctuation
    /// and numbers do not count. Default none.
    pub phrases: Vec<String>,
}

impl Default for TextRules {
    fn default() -> Self {
        Self {
            max_repetition: 0.5,
            max_capitals: 0.8,
            max_urls: 0,
            keep_boilerplate: false,
            phrases: Vec::new(),
        }
    }
}

/// What a caption says when it says nothing of the picture; lower case, without punctuation and
/// numbers.
const PHRASES: &[&str] = &[
    "",
    "advertisement",
    "alt",
    "alt text",
    "arrow",
    "avatar",
    "background",
    "background image",
    "banner",
    "blank",
    "button",
    "click for larger image",
    "click here",
    "click image to enlarge",
    "click on image to enlarge",
    "click to enlarge",
    "close",
    "cover image",
    "default image",
    "enlarge",
    "enlarge image",
    "feature image",
    "featured image",
    "full size image",
    "gallery image",
    "header image",
    "hero image",
    "icon",
    "image",
    "image coming soon",
    "image description",
    "image may contain",
    "image not available",
    "image not found",
    "image placeholder",
    "image unavailable",
    "img",
    "large image",
    "loading",
    "logo",
    "main image",
    "menu",
    "navigation",
    "navigation image",
    "next",
    "no image",
    "no image available",
    "no photo",
    "no photo available",
    "null",
    "photo",
    "photo gallery",
    "photo not available",
    "photograph",
    "pic",
    "picture",
    "pin it",
    "placeholder",
    "placeholder image",
    "post image",
    "post thumbnail",
    "preview",
    "previous",
    "product image",
    "product photo",
    "profile image",
    "profile photo",
    "profile picture",
    "read more",
    "related image",
    "screenshot",
    "search",
    "share",
    "site logo",
    "slide",
    "slider",
    "slideshow image",
    "spacer",
    "stock photo",
    "thumb",
    "thumbnail",
    "thumbnail image",
    "undefined",
    "unnamed",
    "untitled",
    "user avatar",
    "view larger image",
    "website logo",
];

/// Endings of names of picture files.
const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "gif", "webp", "bmp", "svg", "tif", "tiff"];

impl JudgePlan for TextRules {
    fn name(&self) -> &'static str {
        "text_rules"
    }

    fn validate(&self) -> Result<()> {
        for (field, value) in
            [("max_repetition", self.max_repetition), ("max_capitals", self.max_capitals)]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::recipe(format!("{field} must lie in 0..=1, got {value}")));
            }
        }
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        vec![
            Field::new("text_repetition", DataType::Float32, true),
            Field::new("text_capitals", DataType::Float32, true),
            Field::new("text_urls", DataType::UInt32, true),
            Field::new("text_boilerplate", DataType::UInt32, true),
        ]
    }

    fn scoring(&self) -> Value {
        json!({"phrases": self.phrases})
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let [repetition, capitals] = [0, 1].map(|i| scores[i].as_primitive::<Float32Type>());
        let [urls, boilerplate] = [2, 3].map(|i| scores[i].as_primitive::<UInt32Type>());
        let reason = |i: usize| {
            if repetition.is_null(i) {
                None
            } else if boilerplate.value(i) > 0 && !self.keep_boilerplate {
                Some("text_boilerplate")
            } else if urls.value(i) > self.max_urls {
                Some("text_urls")
            } else if repetition.value(i) > self.max_repetition as f32 {
                Some("text_repetition")
            } else if capitals.value(i) > self.max_capitals as f32 {
                Some("text_capitals")
            } else {
                None
            }
        };
        (0..repetition.len()).map(reason).collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        let phrases = PHRASES.iter().map(|phrase| bare(phrase));
        let phrases = phrases.chain(self.phrases.iter().map(|phrase| bare(phrase))).collect();
        Ok(Box::new(Rules { phrases }))
    }
}

struct Rules {
    phrases: HashSet<String>,
}

impl Judge for Rules {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let captions = pairs.captions();
        let caption = |i: usize| is_success(pairs, i).then(|| captions.value(i));
        let rows = || (0..pairs.len()).map(caption);
        let repetitions: Float32Array = rows().map(|c| c.map(repetition)).collect();
        let capitals: Float32Array = rows().map(|c| c.map(capitals)).collect();
        let urls: UInt32Array = rows().map(|c| c.map(urls)).collect();
        let boilerplate: UInt32Array =
            rows().map(|c| c.map(|c| u32::from(self.is_boilerplate(c)))).collect();
        Ok(Scored::of(vec![
            Arc::new(repetitions),
            Arc::new(capitals),
            Arc::new(urls),
            Arc::new(boilerplate),
        ]))
    }
}

impl Rules {
    fn is_boilerplate(&self, caption: &str) -> bool {
        self.phrases.contains(&bare(caption)) || is_file_name(caption.trim())
    }
}

/// Lower case, words of letters alone with one blank between them.
fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        if !bare.is_empty() {
            bare.push(' ');
        }
        bare.extend(word.chars().flat_map(char::to_lowercase));
    }
    bare
}

/// `photo-17.JPG`, and what cameras call a picture: one word of letters, digits and joining signs
/// with at least four digits in a row, such as `IMG_0042` or `DSC-1234_edit`.
fn is_file_name(caption: &str) -> bool {
    if caption.chars().any(char::is_whitespace) {
        return false;
    }
    let ending = caption.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    if ending.is_some_and(|ending| EXTENSIONS.contains(&ending.as_str())) {
        return true;
    }
    let joined = caption.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    joined && caption.as_bytes().windows(4).any(|four| four.iter().all(u8::is_ascii_digit))
}

/// Share of words that stood before in the caption, whatever their case.
fn repetition(caption: &str) -> f32 {
    let words: Vec<String> = split_words(caption).map(str::to_lowercase).collect();
    if words.len() < 4 {
        return 0.0;
    }
    let distinct: HashSet<&String> = words.iter().collect();
    (words.len() - distinct.len()) as f32 / words.len() as f32
}

/// Share of capitals among the letters that have a case.
fn capitals(caption: &str) -> f32 {
    let upper = caption.chars().filter(|c| c.is_uppercase()).count();
    let lower = caption.chars().filter(|c| c.is_lowercase()).count();
    if upper + lower < 8 { 0.0 } else { upper as f32 / (upper + lower) as f32 }
}

/// Words that are addresses: with a scheme, with `www.`, or a host name under a frequent ending.
fn urls(caption: &str) -> u32 {
    let is_url = |word: &&str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation()).to_ascii_lowercase();
        if word.contains("://") || word.starts_with("www.") {
            return true;
        }
        let host = word.split(['/', '?', '#', ':']).next().unwrap_or_default();
        let sound = host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        let under = |ending: &str| {
            host.strip_suffix(ending).is_some_and(|name| name.len() > 1 && name.ends_with('.'))
        };
        sound && ["com", "net", "org", "info", "co.uk"].into_iter().any(under)
    };
    u32::try_from(split_words(caption).filter(is_url).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::{check, failed_row, row};

    fn reasons(plan: &TextRules, captions: &[&str]) -> Vec<Option<&'static str>> {
        let rows: Vec<_> = captions.iter().map(|caption| row(caption, None)).collect();
        check(plan, &rows).1
    }

    #[test]
    fn each_rule_has_its_score_and_its_reason() {
        let rows = [
            row("red shoes red shoes red shoes", None),
            row("BUY RED SHOES TODAY", None),
            row("red shoes from www.shoes.example", None),
            row("Navigation Image 17", None),
            row("a red car in Rome", None),
            failed_row(),
        ];
        let (scores, reasons) = check(&TextRules::default(), &rows);
        let expected = [
            Some("text_repetition"),
            Some("text_capitals"),
            Some("text_urls"),
            Some("text_boilerplate"),
            None,
            None,
        ];
        assert_eq!(reasons, expected);
        assert_eq!(scores[0].as_primitive::<Float32Type>().value(0), 4.0 / 6.0);
        assert_eq!(scores[1].as_primitive::<Float32Type>().value(1), 1.0);
        assert_eq!(scores[2].as_primitive::<UInt32Type>().value(2), 1);
        assert!(scores.iter().all(|column| column.is_null(5)));
    }

    #[test]
    fn names_of_files_are_boilerplate_and_sentences_that_hold_one_are_not() {
        let boilerplate = Some("text_boilerplate");
        let captions =
            ["IMG_0042", "sunset.jpeg", "DSC-1234_edit", "no image available!", "", "2014"];
        assert_eq!(reasons(&TextRules::default(), &captions), [boilerplate; 6]);
        let captions = ["photo of a cat", "the IMG_0042 series", "A380", "café", "image of a menu"];
        assert_eq!(reasons(&TextRules::default(), &captions), [None; 5]);
    }

    #[test]
    fn short_captions_are_not_called_repeated_or_shouted() {
        assert_eq!(reasons(&TextRules::default(), &["no no no", "NASA USA"]), [None, None]);
        assert_eq!(capitals("СТАРЫЙ ГОРОД"), 1.0);
        assert_eq!(capitals("夏の花火大会の写真です"), 0.0);
    }

    #[test]
    fn addresses_are_counted_by_words() {
        assert_eq!(urls("see https://a.example/x (www.b.example) and shop.example.com/9?x=1."), 3);
        assert_eq!(urls("tea at shop.co.uk, Shop.Co.Uk/tea or co.uk"), 2);
        assert_eq!(urls("St. Paul at 10.30 a.m. in e.g. Rome.net profit"), 1);
    }

    #[test]
    fn phrases_of_the_recipe_are_added_and_rules_can_be_switched_off() {
        let plan = TextRules { phrases: vec!["Our Shop".into()], ..TextRules::default() };
        assert_eq!(reasons(&plan, &["our shop #12", "logo"]), [Some("text_boilerplate"); 2]);
        let lenient = TextRules {
            max_repetition: 1.0,
            max_capitals: 1.0,
            max_urls: 9,
            keep_boilerplate: true,
            phrases: Vec::new(),
        };
        assert_eq!(reasons(&lenient, &["LOGO LOGO LOGO LOGO", "www.a.example"]), [None, None]);
    }
}
