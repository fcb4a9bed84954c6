//! Checkpoints cut into several files: `*.index.json` with a `weight_map` from name to file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;
use stage::{Error, Result, ResultExt};

use super::MOST_TENSORS;

/// Most files of one checkpoint.
const MOST_SHARDS: usize = 4096;

/// Which file holds which tensor.
#[derive(Debug)]
pub(super) struct Index {
    /// Name of the tensor → place of its file in `shards`.
    pub(super) shard_of: BTreeMap<String, usize>,
    /// Names of the files beside the index.
    pub(super) shards: Vec<String>,
}

#[derive(Deserialize)]
struct Json {
    weight_map: Pairs,
}

/// The entries of an object, repeated keys and all.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Index {
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let json: Json = serde_json::from_slice(text)
            .model("not an index of shards")
            .map_err(|e| e.hint("an index has a `weight_map` from tensor names to file names"))?;
        let Pairs(pairs) = json.weight_map;
        let names: BTreeSet<&str> = pairs.iter().map(|(_, file)| file.as_str()).collect();
        if pairs.is_empty() || pairs.len() > MOST_TENSORS || names.len() > MOST_SHARDS {
            return Err(Error::model(format!(
                "{} tensors in {} shards; expected 1..={MOST_TENSORS} in at most {MOST_SHARDS}",
                pairs.len(),
                names.len()
            )));
        }
        if let Some(name) = names.iter().find(|name| !is_plain(name)) {
            return Err(Error::input(format!("the shard `{name}` is not a file beside the index"))
                .hint("put all shards into the folder of the index and name them without a path"));
        }
        let shards: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut shard_of = BTreeMap::new();
        for (name, file) in pairs {
            let place = shards.binary_search(&file).unwrap_or(0);
            if shard_of.contains_key(&name) {
                return Err(Error::model(format!("the index places `{name}` twice")));
            }
            shard_of.insert(name, place);
        }
        Ok(Self { shard_of, shards })
    }

    /// Holds the tensors that a shard has against those that the index places there.
    pub(super) fn check(&self, shard: usize, found: &BTreeSet<&str>) -> Result<()> {
        let hint = "fetch index and shards again; they belong to different checkpoints";
        for name in found {
            let problem = match self.shard_of.get(*name) {
                Some(place) if *place == shard => continue,
                Some(place) => format!("which the index places in {}", self.shards[*place]),
                None => "which the index lacks".to_owned(),
            };
            return Err(Error::model(format!("it holds `{name}`, {problem}")).hint(hint));
        }
        let expected = self.shard_of.iter().filter(|(_, place)| **place == shard);
        match expected.map(|(name, _)| name).find(|name| !found.contains(name.as_str())) {
            Some(name) => {
                Err(Error::model(format!("it lacks `{name}`, which the index places here"))
                    .hint(hint))
            }
            None => Ok(()),
        }
    }
}

/// Whether a name is a plain file name: no folder, no way up, no root.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain && !name.contains(['/', '\\', '\0'])
}
