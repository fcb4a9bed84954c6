//! Embeddings out of files, row by row beside their metadata: clip-retrieval's layout, or DataComp's
//! metadata folders with `<name>.npz` beside `<name>.parquet`.

use std::collections::{BTreeMap, HashSet};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_cast::cast;
use arrow_schema::DataType;
use stage::{Error, Result, ResultExt};
use store::parquet::{File, Pick};
use store::{Blob, npy, npz};

/// DataComp's array of a picture's embedding by OpenAI's ViT-L/14.
pub const L14_IMG: &str = "l14_img";

/// One partition: `img_emb_<p>.npy` and its `metadata_<p>.parquet`, or `<name>.npz` and
/// `<name>.parquet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The npy or npz file of features.
    pub features: String,
    /// The array in an npz file.
    pub array: Option<String>,
    /// The parquet file of what the rows are.
    pub metadata: String,
}

/// Matches files by folder and partition's name: `img_emb_<p>.npy` with `metadata_<p>.parquet` in one
/// folder, or in its folders `img_emb` and `metadata`; where there is no such npy, `<name>.npz`, of
/// which `array` is read, with `<name>.parquet` beside it.
///
/// # Errors
/// When there is neither, one has no metadata, metadata have no features (they would be lost without
/// a word), or a folder has two of one name.
pub fn partitions(files: &[String], array: &str) -> Result<Vec<Partition>> {
    let of = |start: &str, end: &str, own: &str| -> Result<BTreeMap<(String, String), String>> {
        let mut found: BTreeMap<(String, String), String> = BTreeMap::new();
        for file in files {
            let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
            let part = name.strip_prefix(start).and_then(|name| name.strip_suffix(end));
            let Some(part) = part else { continue };
            let folder = match folder.strip_suffix(own) {
                Some("") => "",
                Some(above) => above.strip_suffix('/').unwrap_or(folder),
                None => folder,
            };
            let key = (folder.to_owned(), part.to_owned());
            if let Some(before) = found.insert(key, file.clone()) {
                let message = format!("a second partition `{part}` beside {before}");
                return Err(Error::input(message).at(file.clone()).hint(
                    "name each folder once; partitions of one folder need names of their own",
                ));
            }
        }
        Ok(found)
    };
    let features = of("img_emb_", ".npy", "img_emb")?;
    let mut metadata = of("metadata_", ".parquet", "metadata")?;
    if features.is_empty() {
        return archives(files, array);
    }
    let pair = |(key, features): ((String, String), String)| match metadata.remove(&key) {
        Some(metadata) => Ok(Partition { features, array: None, metadata }),
        None => Err(Error::input(format!("no metadata_{}.parquet", key.1)).at(features)),
    };
    let found = features.into_iter().map(pair).collect::<Result<_>>()?;
    let archive = |file: &&String| {
        let parquet = file.strip_suffix(".npz").map(|stem| format!("{stem}.parquet"));
        parquet.is_some_and(|parquet| files.contains(&parquet))
    };
    if let Some(archive) = files.iter().find(archive) {
        let message =
            "an npz with its parquet beside img_emb_*.npy: one of the two would be left out";
        return Err(Error::input(message).at(archive.clone()).hint("name folders of one kind"));
    }
    match metadata.into_iter().next() {
        None => Ok(found),
        Some(((folder, part), metadata)) => {
            let folder = if folder.is_empty() { folder } else { format!("{folder}/") };
            let wanted = format!("{folder}img_emb_{part}.npy, or img_emb/ in its folder");
            Err(without_features(&metadata, &wanted))
        }
    }
}

/// Metadata whose rows have no features.
fn without_features(metadata: &str, features: &str) -> Error {
    Error::input(format!("no features for it: no {features}")).at(metadata.to_owned()).hint(
        "its pairs would be left out without a word: get the missing file, or take the parquet out of the folder",
    )
}

/// DataComp's pairs of files, each of them beside the other.
fn archives(files: &[String], array: &str) -> Result<Vec<Partition>> {
    let mut found: Vec<&String> = files.iter().filter(|file| file.ends_with(".npz")).collect();
    found.sort();
    if found.is_empty() {
        return Err(Error::input("no img_emb_*.npy and no *.npz among these files").hint(
            "embeddings are made by `embed` or clip-retrieval's inference, or lie in a DataComp pool's npz",
        ));
    }
    let pair = |features: &String| {
        let metadata = format!("{}.parquet", features.strip_suffix(".npz").unwrap_or(features));
        if !files.contains(&metadata) {
            return Err(Error::input(format!("no {metadata}")).at(features.clone()));
        }
        Ok(Partition { features: features.clone(), array: Some(array.to_owned()), metadata })
    };
    let partitions = found.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
    let taken: HashSet<&str> = partitions.iter().map(|part| &*part.metadata).collect();
    let parquets = files.iter().filter(|file| file.ends_with(".parquet"));
    match parquets.filter(|file| !taken.contains(&***file)).min() {
        None => Ok(partitions),
        Some(metadata) => {
            let stem = metadata.strip_suffix(".parquet").unwrap_or(metadata);
            Err(without_features(metadata, &format!("{stem}.npz")))
        }
    }
}

/// Features of length 1 with the names of their rows.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// What a row is: its uid, or `image_path` where there is none.
    pub names: Vec<String>,
    /// Numbers in a row.
    pub dim: usize,
    /// The rows, one after another.
    pub numbers: Vec<f32>,
    /// Rows without direction (zero or not finite), left out.
    pub nonfinite: u64,
}

impl Features {
    /// Reads partitions into memory: `4 * dim` bytes a row.
    ///
    /// # Errors
    /// A file that is broken, rows of another length than in the file before, or another number of
    /// rows than the metadata has (both files and both counts are named).
    pub fn read(partitions: &[Partition]) -> Result<Self> {
        let mut all = Self::default();
        for partition in partitions {
            all.add(partition)?;
        }
        Ok(all)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// One row.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        self.numbers.get(i * self.dim..(i + 1) * self.dim).unwrap_or(&[])
    }

    fn add(&mut self, partition: &Partition) -> Result<()> {
        let names = names(&partition.metadata)?;
        let blob = Blob::open(&partition.features)?;
        let file = match &partition.array {
            None => npy::File::open(&blob)?,
            Some(array) => npz::File::open(&blob)?.array(array)?,
        };
        let at = |e: Error| e.at(partition.features.clone());
        if file.header().shape().len() != 2 || file.row_len() == 0 {
            let message = format!("shape {:?} where [rows, dim] belongs", file.header().shape());
            return Err(at(Error::input(message)));
        }
        if file.len() != names.len() {
            let message =
                format!("{} rows, but {} in {}", file.len(), names.len(), partition.metadata);
            return Err(at(Error::input(message).hint("the two are not of one run: embed again")));
        }
        if self.dim != 0 && self.dim != file.row_len() {
            let message = format!("rows of {}, but of {} before", file.row_len(), self.dim);
            return Err(at(Error::input(message).hint("embeddings of one model only")));
        }
        self.dim = file.row_len();
        let total = names.len().saturating_mul(self.dim);
        self.numbers.try_reserve(total).map_err(|_| {
            at(Error::new(
                stage::Kind::Memory,
                format!("no memory for {total} numbers of features"),
            ))
        })?;
        let mut names = names.into_iter();
        for start in (0..file.len()).step_by(8192) {
            let end = file.len().min(start + 8192);
            for row in file.rows_as_f32(start..end)?.chunks_exact(self.dim) {
                let Some(name) = names.next() else { break };
                match unit(row) {
                    Some(row) => {
                        self.numbers.extend(row);
                        self.names.push(name);
                    }
                    None => self.nonfinite += 1,
                }
            }
        }
        Ok(())
    }
}

/// The row at length 1; `None` where it has no direction.
fn unit(row: &[f32]) -> Option<impl Iterator<Item = f32>> {
    let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    (norm.is_finite() && norm > 0.0).then(|| row.iter().map(move |x| (f64::from(*x) / norm) as f32))
}

fn names(metadata: &str) -> Result<Vec<String>> {
    let file = File::open(&Blob::open(metadata)?)?;
    let has = |name: &str| file.schema().field_with_name(name).is_ok();
    let column = ["uid", "image_path"]
        .into_iter()
        .find(|name| has(name))
        .ok_or_else(|| Error::input("no column `uid` or `image_path`").at(metadata.to_owned()))?;
    let pick = Pick { columns: Some(&[column]), ..Pick::default() };
    let mut names = Vec::new();
    for batch in file.batches(&pick)? {
        let values = cast(batch?.column(0), &DataType::Utf8).input("names that are no text")?;
        let values = values.as_string::<i32>();
        names.extend((0..values.len()).map(|i| values.value(i).to_owned()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_partition_belong_together_by_name() {
        let files = [
            "a/img_emb/img_emb_1.npy",
            "a/text_emb/text_emb_1.npy",
            "a/metadata/metadata_1.parquet",
        ];
        let files: Vec<String> = files.map(str::to_owned).to_vec();
        let found = partitions(&files, L14_IMG).unwrap();
        let (features, metadata) = (files[0].clone(), files[2].clone());
        assert_eq!(found, [Partition { features, array: None, metadata }]);
        let error = partitions(&files[..2], L14_IMG).unwrap_err();
        assert_eq!(error.to_string(), "a/img_emb/img_emb_1.npy: no metadata_1.parquet");
        assert!(partitions(&files[1..], L14_IMG).is_err());
    }

    #[test]
    fn without_npy_files_the_archives_of_a_datacomp_pool_are_taken_each_with_its_parquet() {
        let files = ["p/b.npz", "p/a.npz", "p/a.parquet", "p/b.parquet"].map(str::to_owned);
        let found = partitions(&files, "b32_img").unwrap();
        let of = |name: &str| Partition {
            features: format!("p/{name}.npz"),
            array: Some("b32_img".to_owned()),
            metadata: format!("p/{name}.parquet"),
        };
        assert_eq!(found, [of("a"), of("b")]);
        let error = partitions(&files[..3], "b32_img").unwrap_err();
        assert_eq!(error.to_string(), "p/b.npz: no p/b.parquet");
    }

    #[test]
    fn metadata_without_features_is_refused_and_both_files_are_named() {
        let files = ["p/a.npz", "p/a.parquet", "p/b.parquet"].map(str::to_owned);
        let error = partitions(&files, L14_IMG).unwrap_err();
        assert_eq!(error.to_string(), "p/b.parquet: no features for it: no p/b.npz");
        let files = [
            "a/img_emb/img_emb_0.npy",
            "a/metadata/metadata_0.parquet",
            "a/metadata/metadata_1.parquet",
        ];
        let files = files.map(str::to_owned);
        let error = partitions(&files, L14_IMG).unwrap_err().to_string();
        let expected = "a/metadata/metadata_1.parquet: no features for it: no a/img_emb_1.npy, or \
                        img_emb/ in its folder";
        assert_eq!(error, expected);
        let mixed = [&files[..2], &["p/a.npz".to_owned(), "p/a.parquet".to_owned()]].concat();
        let error = partitions(&mixed, L14_IMG).unwrap_err().to_string();
        assert!(
            error.starts_with("p/a.npz: an npz with its parquet beside img_emb_*.npy"),
            "{error}"
        );
    }

    #[test]
    fn partitions_of_one_name_in_two_folders_are_two_and_in_one_folder_an_error() {
        let files = [
            "a/img_emb/img_emb_0.npy",
            "a/metadata/metadata_0.parquet",
            "b/img_emb_0.npy",
            "b/metadata_0.parquet",
        ];
        let files: Vec<String> = files.map(str::to_owned).to_vec();
        let found = partitions(&files, L14_IMG).unwrap();
        let expected = [
            Partition { features: files[0].clone(), array: None, metadata: files[1].clone() },
            Partition { features: files[2].clone(), array: None, metadata: files[3].clone() },
        ];
        assert_eq!(found, expected);
        let twice = [&files[..], &files[..2]].concat();
        let error = partitions(&twice, L14_IMG).unwrap_err().to_string();
        let expected =
            "a/img_emb/img_emb_0.npy: a second partition `0` beside a/img_emb/img_emb_0.npy";
        assert_eq!(error, expected);
        // The metadata of another folder is none of this one's.
        assert!(partitions(&[files[0].clone(), files[3].clone()], L14_IMG).is_err());
    }

    #[test]
    fn a_row_without_direction_is_none() {
        assert_eq!(unit(&[3.0, -4.0]).unwrap().collect::<Vec<_>>(), [0.6, -0.8]);
        assert!(unit(&[0.0, 0.0]).is_none() && unit(&[f32::NAN, 1.0]).is_none());
        assert!(unit(&[f32::INFINITY, 1.0]).is_none());
    }
}
