//! Which units of a run are this process's.

use stage::Result;

/// One share of the units: `3/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: u32,
    /// How many there are.
    pub of: u32,
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if of > 0 && index < of => Ok(Self { index, of }),
            _ => Err(format!(
                "`{text}` is no share; write `3/16` for units 3, 19, 35, ... counted from 0"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_an_index_and_a_count() {
        assert_eq!("3/16".parse::<Share>().unwrap(), Share { index: 3, of: 16 });
        assert!("16/16".parse::<Share>().unwrap_err().contains("3/16"));
        assert!("x".parse::<Share>().is_err());
        // Numbers that no cluster has are refused, not cut to ones that it has.
        assert!("4294967296/4294967297".parse::<Share>().is_err());
    }
}
