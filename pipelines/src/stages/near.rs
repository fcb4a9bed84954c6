//! `near_duplicates`, `decontaminate`, `clusters`: stages over the whole pool at once, one unit.

use filter::near::features::{Features, L14_IMG, partitions};
use filter::near::{ClustersPlan, DecontaminatePlan, Found, NearDuplicatesPlan};
use serde_json::{Value, json};
use stage::{Context, Error, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, embeddings, fingerprint, pool};
use crate::recipe::{Kind, Noun};

impl Stage for NearDuplicatesPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2: rows of one uid stay or go together.
    fn code(&self) -> u32 {
        2
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.embeddings.iter().map(|name| (name.clone(), Noun::Embeddings)).collect()
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        self.embeddings.iter().map(|name| fingerprint_if_there(name)).collect()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Whole(move |out: &mut Attempt| {
            let features = self.embeddings.as_ref().map(|name| features_named(site, name));
            self.run(&site.context, &tables(site)?, features.transpose()?.as_ref(), out)
        })))
    }
}

impl Stage for DecontaminatePlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2: rows of one uid stay or go together; all pictures of an evaluation set count.
    fn code(&self) -> u32 {
        2
    }

    fn references(&self) -> Vec<(String, Noun)> {
        let of = |names: &[String], noun: Noun| -> Vec<(String, Noun)> {
            names.iter().map(|name| (name.clone(), noun)).collect()
        };
        [of(&self.against, Noun::Embeddings), of(&self.against_hashes, Noun::Scores)].concat()
    }

    fn check_inputs(&self, inputs: &[&Kind]) -> Result<()> {
        let wanted = if self.against.is_empty() { Noun::Scores } else { Noun::Embeddings };
        match inputs.iter().map(|kind| kind.info().gives).find(|noun| *noun != wanted) {
            None => Ok(()),
            Some(noun) => Err(Error::recipe(format!(
                "it takes {}, but what it compares with are {}",
                noun.word(),
                wanted.word()
            ))
            .hint("`against` goes with an embed stage, `against_hashes` with a judge stage")),
        }
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let sets = self.against.iter().chain(&self.against_hashes);
        sets.map(|name| fingerprint_if_there(name)).collect()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Whole(move |out: &mut Attempt| {
            if self.against.is_empty() {
                let sets = self.against_hashes.iter();
                let sets = sets.map(|name| Ok((name.clone(), tables_named(site, name)?)));
                let sets = sets.collect::<Result<Vec<_>>>()?;
                return self.by_hashes(&site.context, &tables(site)?, &sets, out);
            }
            let sets = self.against.iter();
            let sets = sets.map(|name| Ok((name.clone(), features_named(site, name)?)));
            let sets = sets.collect::<Result<Vec<_>>>()?;
            self.by_features(&site.context, &features_of(site)?, &sets, out)
        })))
    }
}

impl Stage for ClustersPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Whole(move |out: &mut Attempt| {
            self.run(&site.context, &features_of(site)?, out)
        })))
    }
}

/// The one unit of a stage that sees the whole pool.
struct Whole<F>(F);

impl<F: FnMut(&mut Attempt) -> Result<Found>> Worker for Whole<F> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let Found { counts, info } = (self.0)(out)?;
        Ok(Outcome { counts, info })
    }
}

/// The score tables that a stage takes.
fn tables(site: &Site) -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for input in &site.inputs {
        tables.extend(pool::parquets(input)?);
    }
    Ok(tables)
}

fn tables_named(site: &Site, name: &str) -> Result<Vec<String>> {
    match site.references.get(name) {
        Some(done) => pool::parquets(done),
        None => Ok(store::expand(name)?.into_iter().filter(|f| f.ends_with(".parquet")).collect()),
    }
}

/// The embeddings that a stage takes.
fn features_of(site: &Site) -> Result<Features> {
    let mut all = Vec::new();
    for input in &site.inputs {
        all.extend(embeddings::of(input)?);
    }
    Features::read(&all)
}

fn features_named(site: &Site, name: &str) -> Result<Features> {
    let found = match site.references.get(name) {
        Some(done) => embeddings::of(done),
        None => embeddings::folder_files(name).and_then(|files| partitions(&files, L14_IMG)),
    };
    Features::read(&found.map_err(|e| e.at(name.to_owned()))?)
}

/// Fingerprints of a folder or of parquets that no stage made; a stage's id has that stage's key.
fn fingerprint_if_there(name: &str) -> Result<Value> {
    if name.ends_with(".parquet") {
        return fingerprint(&[name.to_owned()]);
    }
    // In an object store a folder is what its listing says.
    if name.contains('/') || std::path::Path::new(name).is_dir() {
        return fingerprint(&embeddings::folder_files(name).or_else(|_| store::expand(name))?);
    }
    Ok(json!(null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_embeddings_in_an_object_store_is_fingerprinted_file_by_file() {
        let store = store::Output::in_memory();
        for file in ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"] {
            store.put(&format!("emb/{file}"), file.into()).unwrap();
        }
        store.put("scores/00000.parquet", "scores".into()).unwrap();
        let names = |name: &str| -> Vec<String> {
            let found = fingerprint_if_there(&format!("{}/{name}", store.url())).unwrap();
            let files = found.as_array().unwrap().iter();
            files.map(|file| file["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("emb"), ["img_emb_0.npy", "metadata_0.parquet"]);
        assert_eq!(names("scores"), ["00000.parquet"]);
        assert_eq!(names("scores/00000.parquet"), ["00000.parquet"]);
        assert_eq!(fingerprint_if_there("a-stage").unwrap(), Value::Null);
    }
}
