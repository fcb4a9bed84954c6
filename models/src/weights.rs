//! safetensors files, both ways.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use stage::{Error, Result, ResultExt};

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
    safetensors::serialize(views, Some(metadata)).model("cannot write safetensors")
}

fn le_bytes(tensor: &Tensor) -> candle_core::Result<(Dtype, Vec<u8>)> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => {
            (Dtype::F64, flat.to_vec1::<f64>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        _ => {
            let flat = flat.to_dtype(DType::F32)?;
            (Dtype::F32, flat.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
    })
}

/// The bytes of a file of at most `most` bytes.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let at = |e: Error| e.at(path.display());
    let file = File::open(path).input("cannot open").map_err(at)?;
    let length = file.metadata().input("cannot read").map_err(at)?.len();
    if length > most {
        return Err(at(Error::input(format!("{length} bytes, more than the {most} expected"))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(most + 1).read_to_end(&mut bytes).input("cannot read").map_err(at)?;
    if bytes.len() as u64 > most {
        return Err(at(Error::input(format!("grew beyond the {most} bytes expected"))));
    }
    Ok(bytes)
}

/// The tensors of a safetensors file, f16 and bf16 widened to f32.
///
/// The header is checked before anything is allocated: its length against the file, and every
/// tensor's offsets against its shape and dtype, without gaps or overlaps.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes)
        .model("not a whole safetensors file")
        .map_err(|e| e.hint("fetch or convert the file again; a .pt file is not safetensors"))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if let Some(tensor) = tensor(name, &view)? {
            tensors.insert(name.to_owned(), tensor);
        }
    }
    Ok(plain_names(tensors))
}

fn tensor(name: &str, view: &TensorView) -> Result<Option<Tensor>> {
    let data = view.data();
    let shape = view.shape();
    let four = || data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let pairs = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => four().collect(),
        Dtype::F16 => pairs().map(|b| half::f16::from_bits(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| half::bf16::from_bits(b).to_f32()).collect(),
        Dtype::F64 => {
            let values: Vec<f64> = data
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu);
            return tensor.model("a shape that does not fit").map_err(|e| e.at(name)).map(Some);
        }
        // OpenAI's archives carry three sizes among the tensors; open_clip drops them too.
        _ if matches!(name, "input_resolution" | "context_length" | "vocab_size") => {
            return Ok(None);
        }
        other => {
            return Err(Error::model(format!(
                "tensor `{name}` has dtype {other:?}, expected F32, F16, BF16 or F64"
            )));
        }
    };
    Tensor::from_vec(values, shape, &Device::Cpu)
        .model("a shape that does not fit")
        .map_err(|e| e.at(name))
        .map(Some)
}

/// Names without the `module.` that distributed training leaves before every one.
fn plain_names(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    if tensors.is_empty() || !tensors.keys().all(|name| name.starts_with("module.")) {
        return tensors;
    }
    let strip = |name: String| name["module.".len()..].to_owned();
    tensors.into_iter().map(|(name, tensor)| (strip(name), tensor)).collect()
}
