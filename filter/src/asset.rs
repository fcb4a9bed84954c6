//! Files that a filter needs and that are not ours to ship: models, word lists, centroids.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};
use store::Blob;

/// A file by path or URL, with its sha256 where it is to be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path or URL, or {path, sha256} with the sha256 as text")]
pub enum Asset {
    /// Path or URL.
    Unchecked(String),
    /// Path or URL, and what the file must be.
    Checked(Checked),
}

/// A file that must have this content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// Path or URL.
    pub path: String,
    /// 64 hex digits.
    pub sha256: String,
}

impl Default for Asset {
    fn default() -> Self {
        Self::Unchecked(String::new())
    }
}

impl Asset {
    /// Path or URL.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Unchecked(path) => path,
            Self::Checked(asset) => &asset.path,
        }
    }

    /// Checks that there is a path, and that the checksum is one. `field` names the asset.
    pub fn validate(&self, field: &str) -> Result<()> {
        if self.path().is_empty() {
            return Err(Error::recipe(format!("{field} must name a file")));
        }
        match self {
            Self::Checked(Checked { sha256, .. })
                if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) =>
            {
                Err(Error::recipe(format!("{field}: sha256 must be 64 hex digits, got `{sha256}`")))
            }
            _ => Ok(()),
        }
    }

    /// The file, after its checksum.
    ///
    /// # Errors
    /// When it is missing, or is not what the checksum says.
    pub fn open(&self) -> Result<Blob> {
        let blob = Blob::open(self.path())?;
        if let Self::Checked(Checked { sha256, .. }) = self {
            let found = blob.sha256()?;
            if !found.eq_ignore_ascii_case(sha256) {
                let message = format!("its sha256 is {found} and not {sha256}");
                let hint = "fetch the file again, or correct the checksum in the recipe";
                return Err(Error::input(message).at(blob.name()).hint(hint));
            }
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_names_a_file_alone_or_with_its_checksum() {
        let asset: Asset = serde_json::from_str(r#""lid.176.ftz""#).unwrap();
        assert_eq!(asset.path(), "lid.176.ftz");
        let message = serde_json::from_str::<Asset>(r#"{"path": "a"}"#).unwrap_err().to_string();
        assert!(message.contains("{path, sha256} with the sha256 as text"), "{message}");
        let text = r#"{"path": "a", "sha256": "abc"}"#;
        let asset: Asset = serde_json::from_str(text).unwrap();
        let message = asset.validate("model").unwrap_err().to_string();
        assert_eq!(message, "model: sha256 must be 64 hex digits, got `abc`");
        assert!(Asset::default().validate("model").is_err());
    }

    #[test]
    fn another_content_is_refused_with_both_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.txt").to_str().unwrap().to_owned();
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let checked = |sha256: &str| {
            Asset::Checked(Checked { path: path.clone(), sha256: sha256.to_owned() })
        };
        assert_eq!(checked(&abc.to_uppercase()).open().unwrap().len(), 3);
        let message = checked(&"0".repeat(64)).open().unwrap_err().to_string();
        assert!(message.contains(abc) && message.contains("words.txt"), "{message}");
    }
}
