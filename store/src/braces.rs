//! Brace patterns after bash and webdataset: `{00..12}`, `{0..9..3}`, `{a,b}`, nested.

use stage::{Error, Result};

/// Braces within each other.
const MAX_DEPTH: usize = 32;

/// The names that a pattern stands for, in order, if they are at most `most`.
///
/// Braces that are neither a range nor a list stay as they are. The names are counted before the
/// first is made.
///
/// # Errors
/// [`stage::Kind::Recipe`] for more than `most` names, or braces nested deeper than 32.
pub(crate) fn expand(pattern: &str, most: u64) -> Result<Vec<String>> {
    let pieces = Parser::new(pattern).pieces(0, pattern.len(), 0)?;
    if count(&pieces) > most {
        return Err(Error::recipe(format!("stands for more than {most} names")).at(pattern));
    }
    Ok(names(&pieces))
}

enum Piece<'a> {
    Text(&'a str),
    List(Vec<Vec<Piece<'a>>>),
    Range { first: i64, down: bool, step: u64, last: u64, width: usize },
}

impl Piece<'_> {
    fn count(&self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::List(choices) => choices.iter().fold(0, |n, c| n.saturating_add(count(c))),
            Self::Range { last, .. } => last.saturating_add(1),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![(*text).to_owned()],
            Self::List(choices) => choices.iter().flat_map(|choice| names(choice)).collect(),
            Self::Range { first, down, step, last, width } => (0..=*last)
                .map(|i| {
                    let offset = i128::from(i) * i128::from(*step);
                    let value = i128::from(*first) + if *down { -offset } else { offset };
                    format!("{value:0width$}")
                })
                .collect(),
        }
    }
}

fn count(pieces: &[Piece<'_>]) -> u64 {
    pieces.iter().fold(1, |n, piece| n.saturating_mul(piece.count()))
}

fn names(pieces: &[Piece<'_>]) -> Vec<String> {
    pieces.iter().fold(vec![String::new()], |heads, piece| {
        if let Piece::Text(text) = piece {
            return heads.into_iter().map(|head| head + text).collect();
        }
        let tails = piece.names();
        heads
            .iter()
            .flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")))
            .collect()
    })
}

struct Parser<'a> {
    text: &'a str,
    /// For each byte that opens a brace, where it closes.
    closes: Vec<Option<usize>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut closes = vec![None; text.len()];
        let mut open = Vec::new();
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'{' => open.push(at),
                b'}' => {
                    if let Some(start) = open.pop() {
                        closes[start] = Some(at);
                    }
                }
                _ => {}
            }
        }
        Self { text, closes }
    }

    fn pieces(&self, from: usize, to: usize, depth: usize) -> Result<Vec<Piece<'a>>> {
        if depth > MAX_DEPTH {
            let message = format!("braces nested deeper than {MAX_DEPTH}");
            return Err(Error::recipe(message).at(self.text));
        }
        let mut pieces = Vec::new();
        let (mut start, mut at) = (from, from);
        while at < to {
            let Some(close) = self.closes[at] else {
                at += 1;
                continue;
            };
            let choices = self.split(at + 1, close);
            let piece = if choices.len() > 1 {
                let choices = choices.into_iter().map(|(a, b)| self.pieces(a, b, depth + 1));
                Some(Piece::List(choices.collect::<Result<_>>()?))
            } else {
                range(&self.text[at + 1..close])
            };
            match piece {
                Some(piece) => {
                    pieces.push(Piece::Text(&self.text[start..at]));
                    pieces.push(piece);
                    at = close + 1;
                    start = at;
                }
                // Neither a list nor a range: the brace stays, what it holds may still expand.
                None => at += 1,
            }
        }
        pieces.push(Piece::Text(&self.text[start..to]));
        Ok(pieces)
    }

    /// The ranges between the commas that lie in no inner brace.
    fn split(&self, from: usize, to: usize) -> Vec<(usize, usize)> {
        let (mut parts, mut start, mut at) = (Vec::new(), from, from);
        while at < to {
            if let Some(close) = self.closes[at] {
                at = close;
            } else if self.text.as_bytes()[at] == b',' {
                parts.push((start, at));
                start = at + 1;
            }
            at += 1;
        }
        parts.push((start, to));
        parts
    }
}

/// `00..12` or `0..12..3`; counts down when the second is smaller.
fn range(inside: &str) -> Option<Piece<'static>> {
    let parts: Vec<&str> = inside.split("..").collect();
    let (first, last, step) = match parts[..] {
        [first, last] => (first, last, "1"),
        [first, last, step] => (first, last, step),
        _ => return None,
    };
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| !text.starts_with('+'));
    let (a, b, step) = (number(first)?, number(last)?, number(step)?.unsigned_abs().max(1));
    let zeros = |text: &str| {
        let digits = text.trim_start_matches('-');
        digits.len() > 1 && digits.starts_with('0')
    };
    let padded = zeros(first) || zeros(last);
    let width = if padded { first.len().max(last.len()) } else { 0 };
    Some(Piece::Range { first: a, down: b < a, step, last: a.abs_diff(b) / step, width })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, names: &[&str]) {
        assert_eq!(expand(pattern, 100).unwrap(), names, "{pattern}");
    }

    #[test]
    fn ranges_count_and_keep_zeros() {
        check("{00008..00010}.tar", &["00008.tar", "00009.tar", "00010.tar"]);
        check("{8..10}", &["8", "9", "10"]);
        check("{08..10}", &["08", "09", "10"]);
        check("{3..1}", &["3", "2", "1"]);
        check("{0..9..4}", &["0", "4", "8"]);
        check("{-1..1}", &["-1", "0", "1"]);
    }

    #[test]
    fn lists_nest_and_multiply() {
        check("{a,b{1..2}}{x,}", &["ax", "a", "b1x", "b1", "b2x", "b2"]);
        check("{é,ü}-{,z}", &["é-", "é-z", "ü-", "ü-z"]);
    }

    #[test]
    fn other_braces_stay() {
        check("{a}-{b..}-{", &["{a}-{b..}-{"]);
        check("{{1..2}}", &["{1}", "{2}"]);
        check("}{{1..2}{", &["}{1{", "}{2{"]);
        check("", &[""]);
    }

    #[test]
    fn too_many_names_are_refused_before_one_is_made() {
        for pattern in [
            "{1..101}",
            "{0..9999999999999}",
            "{-9223372036854775808..9223372036854775807}",
            "{1..11}{1..10}",
            "{{1..50},{1..51}}",
            &"{a,b}".repeat(1000),
        ] {
            let error = expand(pattern, 100).unwrap_err();
            assert_eq!(error.kind(), stage::Kind::Recipe);
            assert!(error.to_string().ends_with("stands for more than 100 names"), "{error}");
        }
    }

    #[test]
    fn deep_braces_are_refused_or_stay() {
        let deep = format!("{}a{}", "{b,".repeat(100_000), "}".repeat(100_000));
        assert!(expand(&deep, 100).is_err());
        let open = "{".repeat(100_000);
        check(&open, &[&open]);
    }
}
