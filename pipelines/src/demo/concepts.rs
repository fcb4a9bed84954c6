//! The demo's pictures: Twemoji, with the words that are known of each, grouped by concept.
//!
//! Graphics: Twemoji, copyright Twitter, Inc and other contributors, CC-BY-4.0, from the crate
//! `twemoji-assets`. Names, shortcodes and groups: the crate `emojis`;
//! subgroups: Unicode.

use std::collections::BTreeMap;

use emojis::Group;
use twemoji_assets::png::PngTwemojiAsset;

use super::subgroups::SUBGROUPS;

/// One picture and its words.
#[derive(Debug, Clone)]
pub(crate) struct Emoji {
    /// Lower-case hex code points joined by `-`: the picture's file name.
    pub(crate) code: String,
    /// The true caption.
    pub(crate) caption: String,
    /// One of nine categories: `food and drink`.
    pub(crate) category: &'static str,
    /// A 72 px PNG.
    pub(crate) png: &'static [u8],
    /// Pictures of one concept (a person running, whoever runs) share this word, and never stand
    /// on two sides of a split.
    pub(crate) concept: String,
}

/// Every emoji that has a picture, in Unicode's order, skin-tone variants left out.
pub(crate) fn all() -> Vec<Emoji> {
    let mut subgroup = "";
    emojis::iter()
        .filter_map(|emoji| {
            if let Some((_, words)) = SUBGROUPS.iter().find(|(first, _)| *first == emoji.as_str()) {
                subgroup = words;
            }
            let asset = picture(emoji.as_str())?;
            let category = category(emoji.group());
            Some(Emoji {
                code: code(emoji.as_str()),
                caption: caption(emoji, subgroup, category),
                category,
                png: asset,
                concept: concept(emoji.as_str()),
            })
        })
        .collect()
}

/// The names of the nine categories.
pub(crate) fn categories() -> Vec<&'static str> {
    Group::iter().map(category).collect()
}

/// Emoji by concept, in the order of the concept's word.
pub(crate) fn by_concept(emoji: Vec<Emoji>) -> BTreeMap<String, Vec<Emoji>> {
    let mut concepts: BTreeMap<String, Vec<Emoji>> = BTreeMap::new();
    for one in emoji {
        concepts.entry(one.concept.clone()).or_default().push(one);
    }
    concepts
}

/// Assets are filed with and without the variation selector that asks for colour.
fn picture(emoji: &str) -> Option<&'static [u8]> {
    let plain: String = emoji.chars().filter(|c| *c != VARIATION).collect();
    let asset =
        PngTwemojiAsset::from_emoji(emoji).or_else(|| PngTwemojiAsset::from_emoji(&plain))?;
    Some(asset.data.0)
}

const VARIATION: char = '\u{fe0f}';

fn code(emoji: &str) -> String {
    let points: Vec<String> = emoji.chars().map(|c| format!("{:x}", c as u32)).collect();
    points.join("-")
}

/// Name, then the words of the shortcodes that the name lacks, then subgroup and category.
fn caption(emoji: &emojis::Emoji, subgroup: &str, category: &str) -> String {
    let mut words: Vec<String> = split(emoji.name());
    for shortcode in emoji.shortcodes() {
        for word in split(shortcode) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    format!("{}, {subgroup}, {category}", words.join(" "))
}

fn split(text: &str) -> Vec<String> {
    let clean = text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
    clean.split_whitespace().map(str::to_owned).collect()
}

fn category(group: Group) -> &'static str {
    match group {
        Group::SmileysAndEmotion => "smileys and emotion",
        Group::PeopleAndBody => "people and body",
        Group::AnimalsAndNature => "animals and nature",
        Group::FoodAndDrink => "food and drink",
        Group::TravelAndPlaces => "travel and places",
        Group::Activities => "activities",
        Group::Objects => "objects",
        Group::Symbols => "symbols",
        Group::Flags => "flags",
    }
}

/// What a sequence shows, whoever shows it: gender and skin are left out.
fn concept(emoji: &str) -> String {
    let is_skin = |c: char| ('\u{1f3fb}'..='\u{1f3ff}').contains(&c);
    let is_gender = |c: char| matches!(c, '\u{2640}' | '\u{2642}');
    // man, woman, boy, girl, person, child
    let is_person = |c: char| {
        matches!(
            c,
            '\u{1f468}' | '\u{1f469}' | '\u{1f466}' | '\u{1f467}' | '\u{1f9d1}' | '\u{1f9d2}'
        )
    };
    let parts: Vec<char> = emoji
        .chars()
        .filter(|&c| c != VARIATION && c != '\u{200d}' && !is_skin(c) && !is_gender(c))
        .collect();
    let shown: Vec<char> = parts.iter().copied().filter(|&c| !is_person(c)).collect();
    if shown.is_empty() { "people".to_owned() } else { code(&shown.iter().collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_does_not_make_another_concept() {
        assert_eq!(concept("🏃‍♂️"), concept("🏃"));
        assert_eq!(concept("👩‍🍳"), concept("🧑‍🍳"));
        assert_eq!(concept("👨‍👩‍👧"), concept("👩"));
        assert_ne!(concept("🍎"), concept("🍏"));
    }

    #[test]
    fn nearly_all_emoji_have_a_picture_and_a_caption() {
        let all = all();
        assert!(all.len() > 1_700, "{}", all.len());
        assert!(all.iter().all(|e| e.caption.split_whitespace().count() >= 2 && e.png.starts_with(b"\x89PNG")));
    }

    #[test]
    fn a_caption_has_name_shortcodes_and_category() {
        let rocket = all().into_iter().find(|e| e.code == "1f680").unwrap();
        assert_eq!(rocket.caption, "rocket, air transport, travel and places");
    }
}
