//! The names that a wrong name may mean.

/// Names that are shown, at most.
const SHOWN: usize = 4;
/// Characters of a wrong name that are looked at.
const LONGEST: usize = 64;

/// The nearest of these names, nearest first; none where all are far. Case and the signs between
/// parts do not count: `ViT-B/32` and `vit_b_32` are `ViT-B-32`.
pub(super) fn nearest(word: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let word = plain(word);
    let most = 1 + word.len() / 3;
    let mut found: Vec<(usize, String)> = names
        .map(|name| (distance(&word, &plain(&name)), name))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    // Beside the very name others are of no use.
    let exact = found.first().is_some_and(|(distance, _)| *distance == 0);
    found.into_iter().take(if exact { 1 } else { SHOWN }).map(|(_, name)| name).collect()
}

fn plain(name: &str) -> Vec<char> {
    let letters = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
    letters.take(LONGEST).collect()
}

/// Insertions, removals and replacements between two words (Levenshtein, 1965).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b) {
            let here = (corner + usize::from(x != y)).min(left + 1).min(*slot + 1);
            corner = std::mem::replace(slot, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_edits() {
        let of = |a: &str, b: &str| distance(&plain(a), &plain(b));
        assert_eq!((of("kitten", "sitting"), of("", "abc"), of("abc", "")), (3, 3, 3));
        assert_eq!((of("tiny-32", "Tiny 32"), of("tiny-33", "tiny-32")), (0, 1));
    }
}
