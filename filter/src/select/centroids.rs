//! `image_based`: the picture's nearest centroid is one that is nearest to a wanted picture.
//!
//! Rule: `get_centroid_ids_gpu` and `image_filter_helper` of DataComp's `baselines/apply_filter.py`:
//! the largest inner product in f32, nothing normalised; of equal ones the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use candle_core::{Device, Tensor};
use stage::{Error, Result, ResultExt};
use store::{Blob, npy, npz};

use super::tally::{Fate, RowTest, Scratch};
use crate::scan::Part;

/// Numbers of a product that is held at once: 64 MiB.
const PRODUCT: usize = 16 << 20;
/// The array of the npz that DataComp looks at.
const ARRAY: &str = "l14_img";

/// Centroids of a pool.
#[derive(Debug)]
pub(super) struct Centroids {
    /// (K, D)
    rows: Tensor,
    count: usize,
    width: usize,
}

impl Centroids {
    /// Reads a matrix (K, D) of f16, f32 or f64.
    pub(super) fn read(blob: &Blob) -> Result<Self> {
        let array = npy::read_as_f32(blob)?;
        let [count, width] = array.shape[..] else {
            let message = format!("shape {:?} where centroids (K, D) are needed", array.shape);
            return Err(Error::input(message).at(blob.name()));
        };
        if count == 0 || width == 0 {
            return Err(Error::input("no centroid").at(blob.name()));
        }
        let rows = Tensor::from_vec(array.data, (count, width), &Device::Cpu);
        Ok(Self { rows: rows.internal("cannot hold the centroids")?, count, width })
    }

    /// The nearest centroid of each row; `None` where a product is no number.
    pub(super) fn nearest(&self, rows: &[f32]) -> Result<Vec<Option<usize>>> {
        let mut nearest = Vec::with_capacity(rows.len() / self.width);
        let block = (PRODUCT / self.count).max(1) * self.width;
        for rows in rows.chunks(block) {
            let count = rows.len() / self.width;
            let products = Tensor::from_slice(rows, (count, self.width), &Device::Cpu)
                .and_then(|rows| kernels::linear(&rows, &self.rows, None))
                .and_then(|products| products.flatten_all()?.to_vec1::<f32>());
            let products = products.internal("cannot compare with the centroids")?;
            nearest.extend(products.chunks_exact(self.count).map(largest));
        }
        Ok(nearest)
    }

    /// Which centroids are nearest to a row of these files, (N, D) each.
    pub(super) fn wanted(&self, files: &[Blob]) -> Result<Vec<bool>> {
        let mut wanted = vec![false; self.count];
        for blob in files {
            let file = npy::File::open(blob)?;
            self.check(&file, blob.name())?;
            let step = (PRODUCT / self.width).max(1);
            for start in (0..file.len()).step_by(step) {
                let rows = file.rows_as_f32(start..file.len().min(start + step))?;
                for (row, centroid) in self.nearest(&rows)?.into_iter().enumerate() {
                    let centroid = centroid.ok_or_else(|| {
                        let message = format!("row {} is not finite", start + row);
                        Error::input(message).at(blob.name())
                    })?;
                    wanted[centroid] = true;
                }
            }
        }
        Ok(wanted)
    }

    fn check(&self, file: &npy::File, name: &str) -> Result<()> {
        let shape = file.header().shape();
        if shape.len() == 2 && file.row_len() == self.width {
            return Ok(());
        }
        let message = format!(
            "shape {shape:?} where rows of {} numbers are needed, as the centroids have",
            self.width
        );
        Err(Error::input(message).at(name))
    }
}

/// Index of the largest number, the first of equal ones.
fn largest(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &product) in row.iter().enumerate() {
        if !product.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, best)| product > best) {
            best = Some((i, product));
        }
    }
    best.map(|(i, _)| i)
}

/// The test of `image_based`.
pub(super) struct NearWanted {
    centroids: Centroids,
    wanted: Vec<bool>,
    /// What threads have open, so that a compressed file is inflated once.
    open: Mutex<HashMap<String, Weak<Embeddings>>>,
}

/// The embeddings beside a parquet file, shared by the threads that read its row groups and
/// forgotten (with the inflated copy) when none does.
#[derive(Debug, Default)]
pub(super) struct Embeddings {
    path: String,
    /// Held by the thread that opens it.
    opening: Mutex<()>,
    file: OnceLock<npy::File>,
}

impl Embeddings {
    fn get(&self, open: impl FnOnce() -> Result<npy::File>) -> Result<&npy::File> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = open()?;
        Ok(self.file.get_or_init(|| file))
    }
}

impl RowTest for NearWanted {
    fn columns(&self) -> Vec<String> {
        Vec::new()
    }

    fn test(&self, part: &Part<'_>, fates: &mut [Fate], scratch: &mut Scratch) -> Result<()> {
        let embeddings = match scratch.embeddings.take().filter(|last| last.path == part.path) {
            Some(last) => last,
            None => self.shared(part.path),
        };
        let embeddings = scratch.embeddings.insert(embeddings);
        let file = embeddings.get(|| self.embeddings(part.path))?;
        let first = usize::try_from(part.first_row).internal("a row beyond memory")?;
        let selected: Vec<usize> =
            (0..fates.len()).filter(|&i| fates[i] == Fate::Selected).collect();
        let (Some(&start), Some(&end)) = (selected.first(), selected.last()) else { return Ok(()) };
        let read = file.rows_as_f32(first + start..first + end + 1)?;
        let mut rows = Vec::with_capacity(selected.len() * self.centroids.width);
        for i in &selected {
            let at = (i - start) * self.centroids.width;
            rows.extend_from_slice(read.get(at..at + self.centroids.width).unwrap_or_default());
        }
        for (&i, nearest) in selected.iter().zip(self.centroids.nearest(&rows)?) {
            fates[i] = match nearest {
                None => Fate::Nonfinite,
                Some(centroid) if self.wanted[centroid] => Fate::Selected,
                Some(_) => Fate::NotSelected,
            };
        }
        Ok(())
    }
}

impl NearWanted {
    pub(super) fn new(centroids: Centroids, wanted: Vec<bool>) -> Self {
        Self { centroids, wanted, open: Mutex::default() }
    }

    /// What a thread has open for this parquet file, or else a place to open it in.
    fn shared(&self, path: &str) -> Arc<Embeddings> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = open.get(path).and_then(Weak::upgrade) {
            return there;
        }
        open.retain(|_, embeddings| embeddings.strong_count() > 0);
        let new = Arc::new(Embeddings { path: path.to_owned(), ..Embeddings::default() });
        open.insert(path.to_owned(), Arc::downgrade(&new));
        new
    }

    /// The embeddings beside a parquet file.
    fn embeddings(&self, path: &str) -> Result<npy::File> {
        let beside = format!("{}.npz", path.strip_suffix(".parquet").unwrap_or(path));
        let archive = Blob::open(&beside).and_then(|blob| npz::File::open(&blob)).map_err(|e| {
            e.hint("DataComp puts the embeddings of <name>.parquet into <name>.npz beside it")
        })?;
        let file = archive.array(ARRAY)?;
        self.centroids.check(&file, &format!("{beside}: {ARRAY}"))?;
        let rows = store::parquet::File::open(&Blob::open(path)?)?.rows();
        if file.len() as u64 != rows {
            let message =
                format!("{} embeddings in {beside} for {rows} rows in {path}", file.len());
            let hint = "the two files belong to different versions of the pool: fetch both again";
            return Err(Error::input(message).hint(hint));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(shape: &[usize], data: &[f32]) -> Blob {
        let mut file = Vec::new();
        npy::write(&mut file, shape, data).unwrap();
        Blob::from_bytes("x.npy", file.into())
    }

    #[test]
    fn the_nearest_centroid_has_the_largest_inner_product_and_of_two_the_first() {
        let centroids = Centroids::read(&matrix(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, 0.0])).unwrap();
        let rows = vec![1.0, 0.5, 0.0, 3.0, 0.0, 0.0, f32::NAN, 1.0];
        assert_eq!(centroids.nearest(&rows).unwrap(), [Some(2), Some(1), Some(0), None]);
        let wanted = centroids.wanted(&[matrix(&[1, 2], &[0.0, 9.0])]).unwrap();
        assert_eq!(wanted, [false, true, false]);
    }

    #[test]
    fn threads_share_the_embeddings_of_a_file_and_the_last_one_forgets_them() {
        let centroids = Centroids::read(&matrix(&[1, 2], &[1.0, 0.0])).unwrap();
        let test = NearWanted::new(centroids, vec![true]);
        let file = || npy::File::open(&matrix(&[1, 2], &[3.0, 4.0]));
        let (one, other) = (test.shared("a.parquet"), test.shared("a.parquet"));
        assert!(one.get(|| Err(Error::input("a full disk"))).is_err());
        assert_eq!(one.get(file).unwrap().len(), 1);
        other.get(|| panic!("opened twice")).unwrap();
        drop((one, other));
        let again = test.shared("a.parquet");
        assert!(again.file.get().is_none());
        test.shared("b.parquet");
        assert_eq!(test.open.lock().unwrap().len(), 2);
        drop(again);
        test.shared("c.parquet");
        assert_eq!(test.open.lock().unwrap().len(), 1);
    }

    #[test]
    fn another_width_and_a_target_that_is_no_number_are_named() {
        let centroids = Centroids::read(&matrix(&[1, 2], &[1.0, 0.0])).unwrap();
        let message = centroids.wanted(&[matrix(&[1, 3], &[0.0; 3])]).unwrap_err().to_string();
        assert!(message.starts_with("x.npy: shape [1, 3] where rows of 2 numbers"), "{message}");
        let message = centroids.wanted(&[matrix(&[1, 2], &[f32::INFINITY, 0.0])]).unwrap_err();
        assert_eq!(message.to_string(), "x.npy: row 0 is not finite");
        assert!(Centroids::read(&matrix(&[2], &[1.0, 0.0])).is_err());
    }
}
