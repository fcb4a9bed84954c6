//! Unicode's subgroups of emoji, which the crate `emojis` keeps in order and does not name.
//!
//! Source: Unicode emoji-test.txt. Each row is the first emoji of a subgroup and the subgroup's
//! words; it holds until the next row.

/// First emoji and words, in Unicode's order.
pub(super) const SUBGROUPS: &[(&str, &str)] = &[
    ("😀", "smiling face"),
    ("🥰", "affection face"),
    ("😋", "tongue face"),
    ("🤗", "hand face"),
    ("🤐", "neutral skeptical face"),
    ("😌", "sleepy face"),
    ("😷", "unwell face"),
    ("🤠", "hat face"),
    ("😎", "glasses face"),
    ("😕", "concerned face"),
    ("😤", "negative face"),
    ("💩", "costume face"),
    ("😺", "cat face"),
    ("🙈", "monkey face"),
    ("💌", "heart"),
    ("💋", "emotion"),
    ("👋", "open hand fingers"),
    ("👌", "partial hand fingers"),
    ("👈", "single hand finger"),
    ("👍", "closed hand fingers"),
    ("👏", "hands"),
    ("✍️", "hand prop"),
    ("💪", "body parts"),
    ("👶", "person"),
    ("🙍", "person gesture"),
    ("🧑‍⚕️", "person role"),
    ("👼", "person fantasy"),
    ("💆", "person activity"),
    ("🤺", "person sport"),
    ("🧘", "person resting"),
    ("🧑‍🤝‍🧑", "family"),
    ("🗣️", "person symbol"),
    ("🐵", "mammal animal"),
    ("🦃", "bird animal"),
    ("🐸", "amphibian animal"),
    ("🐊", "reptile animal"),
    ("🐳", "marine animal"),
    ("🐌", "bug animal"),
    ("💐", "flower plant"),
    ("🌱", "plant"),
    ("🍇", "fruit food"),
    ("🍅", "vegetable food"),
    ("🍞", "prepared food"),
    ("🍱", "asian food"),
    ("🍦", "sweet food"),
    ("🍼", "drink"),
    ("🥢", "dishware"),
    ("🌍", "map place"),
    ("🏔️", "geographic place"),
    ("🏟️", "building place"),
    ("⛪", "religious place"),
    ("⛲", "other place"),
    ("🚂", "ground transport"),
    ("⚓", "water transport"),
    ("✈️", "air transport"),
    ("🛎️", "hotel"),
    ("⌛", "time"),
    ("🌑", "sky weather"),
    ("🎃", "event"),
    ("🎖️", "award medal"),
    ("⚽", "sport"),
    ("🎯", "game"),
    ("🎭", "arts crafts"),
    ("👓", "clothing"),
    ("🔇", "sound"),
    ("🎼", "music"),
    ("🎷", "musical instrument"),
    ("📱", "phone"),
    ("🔋", "computer"),
    ("🎥", "light video"),
    ("📔", "book paper"),
    ("💰", "money"),
    ("✉️", "mail"),
    ("✏️", "writing"),
    ("💼", "office"),
    ("🔒", "lock"),
    ("🔨", "tool"),
    ("⚗️", "science"),
    ("💉", "medical"),
    ("🚪", "household"),
    ("🚬", "other object"),
    ("🏧", "transport sign"),
    ("⚠️", "warning"),
    ("⬆️", "arrow"),
    ("🛐", "religion"),
    ("♈", "zodiac"),
    ("🔀", "audio video symbol"),
    ("♀️", "gender"),
    ("✖️", "math"),
    ("‼️", "punctuation"),
    ("💱", "currency"),
    ("⚕️", "other symbol"),
    ("#️⃣", "keycap"),
    ("🔠", "alphanumeric"),
    ("🔴", "geometric"),
    ("🏁", "flag"),
    ("🇦🇨", "country flag"),
    ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", "subdivision flag"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subgroup_begins_where_the_table_says() {
        let all: Vec<&str> = emojis::iter().map(emojis::Emoji::as_str).collect();
        let mut last = None;
        for (first, words) in SUBGROUPS {
            let at = all.iter().position(|e| e == first);
            assert!(at.is_some(), "{first} ({words}) is no emoji");
            assert!(at > last, "{first} ({words}) is out of order");
            last = at;
        }
    }
}
