//! Files of tensors: safetensors, sharded safetensors and PyTorch's archives, read without running
//! anything; safetensors, written.
//!
//! A file is opened in two steps. First its header, index or pickle says which tensor lies where,
//! and every claim is held against the file's length. Then tensors are read one by one, so that
//! memory holds one copy of the model and the bytes of one tensor.

mod bytes;
mod globals;
mod pickle;
mod safetensors;
mod sharded;
mod torch;
mod zip;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::TensorView;
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};

use crate::names::Names;

/// Most tensors of one checkpoint.
const MOST_TENSORS: usize = 1 << 16;
/// Largest index of shards, bytes.
const MOST_INDEX: u64 = 32 << 20;
/// Tensors of whole numbers that belong to no model: positions, counts, masks, OpenAI's sizes.
const NOT_WEIGHTS: &[&str] = &[
    "position_ids",
    "num_batches_tracked",
    "relative_position_index",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
];

/// The tensors of a checkpoint by their names in the file; numbers are read when they are asked for.
///
/// Opens safetensors, PyTorch's zip archives (`torch.save` of a state dict or of a training
/// checkpoint, TorchScript) and `*.index.json` of several such files. The kind is told by content.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    format: &'static str,
    names: Names,
    entries: BTreeMap<String, Entry>,
    left_out: BTreeSet<String>,
}

/// What a reader finds in one file.
struct Read {
    format: &'static str,
    entries: BTreeMap<String, Entry>,
    /// Names of what is no tensor.
    left_out: BTreeSet<String>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    file: usize,
    /// First byte of its storage.
    start: u64,
    /// Elements of its storage.
    count: u64,
    /// Its first element.
    offset: u64,
    dims: Vec<usize>,
    strides: Vec<usize>,
    dtype: Dtype,
}

/// The numbers of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    F16,
    BF16,
    F32,
    F64,
    /// Numbers that no weight has: the name, and bytes of one.
    Other(&'static str, u64),
}

impl Weights {
    /// Opens a file, or the index of several, and reads what it says of its tensors.
    ///
    /// # Errors
    /// A format that is not read, with how to convert it; a file that is cut off; claims that do not
    /// fit the file; shards outside the folder, missing, or with tensors of others.
    pub fn open(path: &Path) -> Result<Self> {
        let at = |e: Error| e.at(path.display());
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            return Self::open_shards(path).map_err(at);
        }
        let (file, read) = open(path).map_err(at)?;
        Ok(Self::of(path, vec![(path.to_owned(), file)], read))
    }

    fn open_shards(path: &Path) -> Result<Self> {
        let index = sharded::Index::parse(&read_whole(path, MOST_INDEX)?)?;
        let mut files = Vec::new();
        let mut all = Read { format: "", entries: BTreeMap::new(), left_out: BTreeSet::new() };
        for (place, name) in index.shards.iter().enumerate() {
            let shard = path.with_file_name(name);
            let at = |e: Error| e.at(format!("shard {name}"));
            let (file, read) = open(&shard).map_err(at)?;
            let found = read.entries.keys().map(String::as_str).collect();
            index.check(place, &found).map_err(at)?;
            all.format = read.format;
            all.left_out.extend(read.left_out);
            let moved = |(name, entry)| (name, Entry { file: place, ..entry });
            all.entries.extend(read.entries.into_iter().map(moved));
            files.push((shard, file));
        }
        Ok(Self::of(path, files, all))
    }

    fn of(path: &Path, files: Vec<(PathBuf, File)>, read: Read) -> Self {
        let Read { format, entries, mut left_out } = read;
        let mut entries = without_prefix(entries);
        let extra = |name: &str, entry: &Entry| {
            let last = name.rsplit('.').next().unwrap_or(name);
            NOT_WEIGHTS.contains(&last)
                && (matches!(entry.dtype, Dtype::Other(..))
                    || entry.dims.is_empty()
                    || last == "attn_mask")
        };
        let names = Names::detect(entries.keys().map(String::as_str));
        entries.retain(|name, entry| {
            let extra = extra(name, entry);
            if extra {
                left_out.insert(name.clone());
            }
            !extra
        });
        Self { path: path.to_owned(), files, format, names, entries, left_out }
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Shape of a tensor, if there is one of this name.
    #[must_use]
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.dims.as_slice())
    }

    /// Whose names the tensors have.
    #[must_use]
    pub fn naming(&self) -> Names {
        self.names
    }

    /// One line for people: format, number of tensors, whose names, what is left out.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text =
            format!("{}, {} tensors, names: {}", self.format, self.entries.len(), self.names);
        if self.files.len() > 1 {
            let _ = write!(text, ", {} shards", self.files.len());
        }
        if !self.left_out.is_empty() {
            let shown: Vec<&str> = self.left_out.iter().take(4).map(String::as_str).collect();
            let _ = write!(text, "; left out: {}", shown.join(", "));
            if self.left_out.len() > shown.len() {
                let _ = write!(text, " and {} more", self.left_out.len() - shown.len());
            }
        }
        text
    }

    /// A tensor on the CPU: f64 as it is, f16 and bf16 widened to f32.
    ///
    /// # Errors
    /// No such tensor, a dtype that no weight has, or a file that cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let at = |e: Error| e.at(self.path.display());
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| at(Error::model(format!("there is no tensor `{name}`"))))?;
        entry.read(name, &self.files[entry.file].1).map_err(at)
    }

    /// All tensors, if they have at most `most` elements together.
    ///
    /// # Errors
    /// More elements, or as [`Weights::tensor`].
    pub fn tensors(&self, most: u64) -> Result<BTreeMap<String, Tensor>> {
        self.fits(self.names(), most)?;
        self.names().map(|name| Ok((name.to_owned(), self.tensor(name)?))).collect()
    }

    /// Whether these tensors have at most `most` elements, before any is read.
    pub(crate) fn fits<'a>(&self, names: impl Iterator<Item = &'a str>, most: u64) -> Result<()> {
        let count = |name| self.entries.get(name).map_or(0, Entry::elements);
        let sum = names.map(count).fold(0u64, u64::saturating_add);
        if sum <= most {
            return Ok(());
        }
        Err(Error::input(format!("the tensors have {sum} numbers, more than the {most} expected"))
            .hint("name the configuration that belongs to these weights")
            .at(self.path.display()))
    }

    /// Hex sha256: of the one file, or of the index and all shards one after the other.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn sha256(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let index = (self.files.len() != 1 || self.files[0].0 != self.path).then_some(&self.path);
        for path in index.into_iter().chain(self.files.iter().map(|(path, _)| path)) {
            let at = |e: Error| e.at(path.display());
            let mut file = File::open(path).input("cannot open").map_err(at)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = file.read(&mut buffer).input("cannot read").map_err(at)?;
                if count == 0 {
                    break;
                }
                digest.update(&buffer[..count]);
            }
        }
        Ok(format!("{:x}", digest.finalize()))
    }

    /// The files that hold the tensors, in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Bytes of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        let length = |(_, file): &(PathBuf, File)| file.metadata().map_or(0, |m| m.len());
        self.files.iter().map(length).fold(0, u64::saturating_add)
    }

    /// Whether the file can hold more than the model, such as an optimiser's state.
    pub(crate) fn is_archive(&self) -> bool {
        self.format != "safetensors"
    }
}

/// Tells the format by the first bytes and reads the header.
fn open(path: &Path) -> Result<(File, Read)> {
    let file = File::open(path).input("cannot open")?;
    let metadata = file.metadata().input("cannot read")?;
    if !metadata.is_file() {
        return Err(Error::input("not a file"));
    }
    let length = metadata.len();
    let head = bytes::read_at(&file, 0, length.min(16))?;
    let read = if head.starts_with(b"PK") {
        torch::read(&file, length)?
    } else if head.starts_with(torch::LEGACY) {
        return Err(torch::legacy());
    } else if head.starts_with(&[0x80, 2]) && head.get(2).is_some_and(|op| *op != 0) {
        return Err(
            Error::model("a pickle without the archive of torch.save").hint(pickle::CONVERT)
        );
    } else {
        safetensors::read(&file, length)?
    };
    Ok((file, read))
}

impl Entry {
    fn elements(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).fold(1, u64::saturating_mul)
    }

    /// Strides of a tensor without gaps.
    fn packed(dims: &[usize]) -> Vec<usize> {
        let mut strides = vec![1usize; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(dims[i]);
        }
        strides
    }

    /// Elements from the first to the last, both counted; nothing if that overflows.
    fn span(&self) -> Option<u64> {
        if self.dims.contains(&0) {
            return Some(0);
        }
        let steps = self.dims.iter().zip(&self.strides);
        steps
            .map(|(d, s)| (*d as u64 - 1).checked_mul(*s as u64))
            .try_fold(1u64, |sum, step| sum.checked_add(step?))
    }

    /// Holds the view against its storage.
    fn check(&self) -> Result<()> {
        let end = self.span().and_then(|span| span.checked_add(self.offset));
        if end.is_some_and(|end| end <= self.count) {
            // An expanded tensor repeats its storage: no weight does, and it could ask for all memory.
            if self.elements() <= self.count.saturating_add(1 << 16) {
                return Ok(());
            }
            return Err(Error::model(format!(
                "shape {:?} with strides {:?} repeats its storage of {} elements",
                self.dims, self.strides, self.count
            ))
            .hint(pickle::CONVERT));
        }
        Err(Error::model(format!(
            "shape {:?} with strides {:?} from element {} reaches beyond its storage of {} elements",
            self.dims, self.strides, self.offset, self.count
        ))
        .hint("copy the file again; it is damaged"))
    }

    fn read(&self, name: &str, file: &File) -> Result<Tensor> {
        let at = |e: Error| e.at(format!("tensor `{name}`"));
        if let Dtype::Other(dtype, _) = self.dtype {
            return Err(Error::model(format!(
                "tensor `{name}` has dtype {dtype}, expected F32, F16, BF16 or F64"
            )));
        }
        let span = self.span().ok_or_else(|| at(Error::model("its shape overflows")))?;
        let elements = self.elements();
        // A view of every n-th number of a large storage is read whole; no model has n in the
        // thousands, and a hostile file could ask for all memory.
        if span > elements.saturating_mul(256).saturating_add(1 << 20) {
            return Err(at(Error::model(format!(
                "{elements} numbers out of {span} of its storage"
            ))
            .hint(pickle::CONVERT)));
        }
        let size = self.dtype.size();
        let bytes =
            bytes::read_at(file, self.start + self.offset * size, span * size).map_err(at)?;
        let tensor = match self.dtype {
            Dtype::F64 => {
                let values = self.gather(&bytes, |b: [u8; 8]| f64::from_le_bytes(b));
                Tensor::from_vec(values, self.dims.as_slice(), &Device::Cpu)
            }
            _ => {
                let values = match self.dtype {
                    Dtype::F16 => self.gather(&bytes, |b| half::f16::from_le_bytes(b).to_f32()),
                    Dtype::BF16 => self.gather(&bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
                    _ => self.gather(&bytes, f32::from_le_bytes),
                };
                Tensor::from_vec(values, self.dims.as_slice(), &Device::Cpu)
            }
        };
        tensor.model("a shape that does not fit").map_err(at)
    }

    /// The view's numbers in row-major order.
    fn gather<const N: usize, T>(&self, bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (numbers, _) = bytes.as_chunks::<N>();
        if self.dims.contains(&0) {
            return Vec::new();
        }
        if self.strides == Self::packed(&self.dims) {
            return numbers.iter().map(|number| of(*number)).collect();
        }
        let mut values = Vec::with_capacity(self.elements() as usize);
        let mut index = vec![0usize; self.dims.len()];
        'all: loop {
            let place: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            values.push(of(numbers[place]));
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.dims[axis] {
                    continue 'all;
                }
                index[axis] = 0;
            }
            return values;
        }
    }
}

impl Dtype {
    /// Bytes of a number.
    fn size(self) -> u64 {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Other(_, size) => size,
        }
    }
}

/// Names without what wrappers leave before every one: distributed training `module.`,
/// `torch.compile` `_orig_mod.`.
fn without_prefix(mut entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    while let Some(prefix) = ["module.", "_orig_mod."]
        .into_iter()
        .find(|prefix| !entries.is_empty() && entries.keys().all(|name| name.starts_with(prefix)))
    {
        let strip = |(name, entry): (String, Entry)| (name[prefix.len()..].to_owned(), entry);
        entries = entries.into_iter().map(strip).collect();
    }
    entries
}

/// The bytes of a small file.
pub(crate) fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).input("cannot open")?;
    let length = file.metadata().input("cannot read")?.len();
    if length > most {
        return Err(Error::input(format!("{length} bytes, more than the {most} expected")));
    }
    bytes::read_at(&file, 0, length)
}

/// The bytes of a safetensors file; the same for the same tensors.
pub(crate) fn to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (dtype, bytes) =
            le_bytes(tensor).model("cannot read a tensor").map_err(|e| e.at(name))?;
        data.push((name.as_str(), dtype, tensor.dims().to_vec(), bytes));
    }
    let views = data
        .iter()
        .map(|(name, dtype, dims, bytes)| {
            let view =
                TensorView::new(*dtype, dims.clone(), bytes).model("cannot view a tensor")?;
            Ok((*name, view))
        })
        .collect::<Result<Vec<_>>>()?;
    // One entry, so that the order of a hash map cannot show; transformers and open_clip look for it.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    ::safetensors::serialize(views, Some(metadata)).model("cannot write safetensors")
}

fn le_bytes(tensor: &Tensor) -> candle_core::Result<(::safetensors::Dtype, Vec<u8>)> {
    use ::safetensors::Dtype::{F32, F64};
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => (F64, flat.to_vec1::<f64>()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => {
            let flat = flat.to_dtype(DType::F32)?;
            (F32, flat.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
    })
}
