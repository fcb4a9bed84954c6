//! Every stage that a recipe can name: one row a kind.

use schemars::{Schema, SchemaGenerator};
use serde::de::MapAccess;
use stage::Result;

use crate::stages::Stage;

/// What passes between stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noun {
    /// Image links with alt texts (parquet).
    Links,
    /// Pictures with captions (WebDataset shards).
    Shards,
    /// Scores and reasons beside the pairs of some shards (parquet).
    Scores,
    /// The uids that were chosen (`subset.npy`).
    Subset,
    /// A trained model.
    Checkpoint,
    /// Embeddings of some shards (npy and parquet).
    Embeddings,
    /// What others get: shards or metadata with manifest and card.
    Release,
    /// Numbers.
    Report,
}

impl Noun {
    /// The word in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Shards => "shards",
            Self::Scores => "scores",
            Self::Subset => "a subset",
            Self::Checkpoint => "a checkpoint",
            Self::Embeddings => "embeddings",
            Self::Release => "a release",
            Self::Report => "a report",
        }
    }
}

/// What is known of a kind without a plan.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// The key in a recipe and the name of the command.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// What it takes; empty for a source.
    pub takes: &'static [Noun],
    /// Whether it can stand without an input (its plan names the data).
    pub optional: bool,
    /// Whether it takes several inputs.
    pub many: bool,
    /// What it gives.
    pub gives: Noun,
}

impl KindInfo {
    /// Whether its counts are of samples: what lists files or gives numbers counts none.
    #[must_use]
    pub fn counts_samples(&self) -> bool {
        let lists = self.takes.is_empty() && self.gives != Noun::Links;
        !lists && !matches!(self.gives, Noun::Checkpoint | Noun::Report)
    }
}

macro_rules! kinds {
    ($( $(#[doc = $about:literal])+ $name:literal => $variant:ident($plan:ty),
        takes $takes:expr, optional $optional:literal, many $many:literal, gives $gives:ident; )+) => {
        /// A stage's plan, whichever kind it is.
        #[derive(Debug, Clone)]
        pub enum Kind {
            $( $(#[doc = $about])+ $variant(Box<$plan>), )+
        }

        /// All kinds, in the order in which data meets them.
        pub const KINDS: &[KindInfo] = &[
            $( KindInfo {
                name: $name,
                about: concat!($($about),+),
                takes: &$takes,
                optional: $optional,
                many: $many,
                gives: Noun::$gives,
            }, )+
        ];

        const NAMES: &[&str] = &[$($name),+];

        impl Kind {
            /// Reads the plan that follows this key of a mapping.
            ///
            /// # Errors
            /// An unknown name, or what is wrong with the plan.
            pub(crate) fn from_map<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Self, A::Error> {
                match name {
                    $( $name => Ok(Self::$variant(Box::new(map.next_value::<$plan>()?))), )+
                    other => Err(serde::de::Error::unknown_variant(other, NAMES)),
                }
            }

            /// The plan as a stage.
            #[must_use]
            pub fn stage(&self) -> &dyn Stage {
                match self { $( Self::$variant(plan) => &**plan, )+ }
            }

            /// What is known of the kind.
            #[must_use]
            pub fn info(&self) -> &'static KindInfo {
                let index = match self { $( Self::$variant(_) => index_of($name), )+ };
                &KINDS[index]
            }

            /// The plan as JSON, defaults included.
            #[must_use]
            pub fn to_json(&self) -> serde_json::Value {
                match self { $( Self::$variant(plan) => serde_json::to_value(plan).unwrap_or_default(), )+ }
            }
        }

        /// The schema of each kind's plan, by name.
        pub(super) fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
            vec![$( ($name, generator.subschema_for::<$plan>()), )+]
        }
    };
}

const fn index_of(name: &str) -> usize {
    let mut i = 0;
    while i < NAMES.len() {
        if same(NAMES[i], name) {
            return i;
        }
        i += 1;
    }
    panic!("a kind without a row")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

kinds! {
    /// Image links out of Common Crawl WAT files.
    "links" => Links(ingest::links::LinksPlan),
        takes [], optional true, many false, gives Links;
    /// Image links out of csv, tsv, txt, json lines or parquet files.
    "link_list" => LinkList(ingest::link_list::LinkListPlan),
        takes [], optional true, many false, gives Links;
    /// Existing WebDataset shards as the source.
    "shards" => Shards(crate::stages::shards::ShardsPlan),
        takes [], optional true, many false, gives Shards;
    /// Existing metadata parquets as the source of a selection.
    "pool" => Pool(crate::stages::pool::PoolPlan),
        takes [], optional true, many false, gives Scores;
    /// Existing embeddings as the source.
    "embeddings" => Embeddings(crate::stages::embeddings::EmbeddingsPlan),
        takes [], optional true, many false, gives Embeddings;
    /// An existing model as the source.
    "checkpoint" => Checkpoint(crate::stages::checkpoint::CheckpointPlan),
        takes [], optional true, many false, gives Checkpoint;
    /// Removes exact duplicates.
    "dedup" => Dedup(filter::dedup::DedupPlan),
        takes [Noun::Links], optional false, many true, gives Links;
    /// Downloads, decodes, resizes and shards pictures.
    "fetch" => Fetch(ingest::fetch::FetchPlan),
        takes [Noun::Links, Noun::Shards], optional false, many true, gives Shards;
    /// Scores pairs and gives a reason to those that fail.
    "judge" => Judge(crate::stages::judge::JudgesPlan),
        takes [Noun::Shards], optional false, many false, gives Scores;
    /// Writes image and text embeddings.
    "embed" => Embed(filter::embed::EmbedPlan),
        takes [Noun::Shards], optional false, many false, gives Embeddings;
    /// Clusters pairs by their picture's embedding.
    "clusters" => Clusters(filter::near::ClustersPlan),
        takes [Noun::Embeddings], optional false, many true, gives Scores;
    /// Keeps one of each group of pictures that look alike.
    "near_duplicates" => NearDuplicates(filter::near::NearDuplicatesPlan),
        takes [Noun::Scores], optional false, many true, gives Subset;
    /// Removes pictures that stand in evaluation sets.
    "decontaminate" => Decontaminate(filter::near::DecontaminatePlan),
        takes [Noun::Embeddings, Noun::Scores], optional false, many true, gives Subset;
    /// Chooses pairs by an SQL expression or a DataComp baseline.
    "select" => Select(filter::select::SelectPlan),
        takes [Noun::Scores], optional false, many true, gives Subset;
    /// Copies the chosen pairs into training shards.
    "reshard" => Reshard(shard::ReshardPlan),
        takes [Noun::Subset, Noun::Scores, Noun::Shards], optional false, many false, gives Shards;
    /// Writes a release: metadata, shards, manifest, checksums, card and Croissant.
    "release" => Release(shard::ReleasePlan),
        takes [Noun::Shards, Noun::Subset, Noun::Scores], optional false, many false, gives Release;
    /// Trains a CLIP model.
    "train" => Train(train::TrainPlan),
        takes [Noun::Shards], optional true, many true, gives Checkpoint;
    /// Maps a model to a cheaper one.
    "compress" => Compress(compress::AnyCompressor),
        takes [Noun::Checkpoint], optional false, many false, gives Checkpoint;
    /// Zero-shot classification and retrieval.
    "eval" => Eval(eval::EvalPlan),
        takes [Noun::Checkpoint], optional false, many true, gives Report;
    /// A downstream task on a trained model.
    "task" => Task(tasks::AnyTask),
        takes [Noun::Checkpoint], optional false, many true, gives Report;
}

impl Kind {
    /// The key in a recipe.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.info().name
    }

    /// Checks the plan's ranges.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    pub fn validate(&self) -> Result<()> {
        self.stage().validate()
    }
}
