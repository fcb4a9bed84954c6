//! Small networks on embeddings: linear layers one after another, as aesthetic predictors are.
//!
//! Source of the form: LAION-AI/aesthetic-predictor (one linear layer on the normalised features
//! of CLIP ViT-L/14) and christophschuhmann/improved-aesthetic-predictor (five linear layers with
//! dropout between them and no activation).

use std::path::Path;

use candle_core::DType;
use stage::{Error, Result, ResultExt};

use crate::Weights;

/// Most numbers of a head.
const MOST_NUMBERS: u64 = 1 << 26;

/// What stands between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing.
    Nothing,
    /// max(x, 0).
    Relu,
}

/// Linear layers that end in one number.
#[derive(Debug, Clone)]
pub struct Head {
    layers: Vec<Layer>,
    between: Between,
}

#[derive(Debug, Clone)]
struct Layer {
    /// `[out, in]`, row by row.
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Head {
    /// Opens a file of tensors `<layer>.weight` and `<layer>.bias`, layers in the order of the
    /// numbers in their names; `weight` and `bias` alone are one layer.
    ///
    /// # Errors
    /// [`stage::Kind::Model`] for tensors of other shapes, layers that do not fit, or a last layer of
    /// more than one output; what [`Weights::open`] says.
    pub fn open(path: &Path, between: Between) -> Result<Self> {
        let weights = Weights::open(path)?;
        let at = |e: Error| e.at(path.display().to_string());
        let tensors = weights.tensors(MOST_NUMBERS)?;
        let mut names: Vec<&str> =
            tensors.keys().filter_map(|n| n.strip_suffix("weight")).collect();
        names.sort_by_key(|name| (numbers(name), (*name).to_owned()));
        let mut layers: Vec<Layer> = Vec::new();
        for name in names {
            let get = |part: &str| -> Result<(Vec<usize>, Vec<f32>)> {
                let full = format!("{name}{part}");
                let tensor = tensors.get(&full);
                let tensor = tensor.ok_or_else(|| Error::model(format!("there is no `{full}`")))?;
                let flat = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1());
                Ok((tensor.dims().to_vec(), flat.model("a tensor of the head")?))
            };
            let ((shape, weight), (_, bias)) =
                (get("weight").map_err(at)?, get("bias").map_err(at)?);
            let before = layers.last().map(|layer| layer.bias.len());
            match shape[..] {
                [out, inputs]
                    if out == bias.len() && before.is_none_or(|b| b == inputs) && inputs > 0 =>
                {
                    layers.push(Layer { weight, bias, inputs });
                }
                _ => {
                    let message = format!(
                        "`{name}weight` is {shape:?} with {} biases, behind a layer of {} outputs",
                        bias.len(),
                        before.map_or("any number of".to_owned(), |b| b.to_string())
                    );
                    return Err(at(Error::model(message)));
                }
            }
        }
        match layers.last() {
            Some(last) if last.bias.len() == 1 => Ok(Self { layers, between }),
            Some(last) => {
                Err(at(Error::model(format!("it ends in {} numbers, not one", last.bias.len()))))
            }
            None => Err(at(Error::model("there is no `weight` in it"))),
        }
    }

    /// Numbers of an embedding that it takes.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// Its number for an embedding of [`Self::inputs`] numbers, NaN for one with a NaN; sums in f64 in the order of the
    /// numbers, so that it is the same on every machine.
    #[must_use]
    pub fn score(&self, embedding: &[f32]) -> f32 {
        let mut values: Vec<f64> = embedding.iter().map(|x| f64::from(*x)).collect();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 && self.between == Between::Relu {
                // NaN stays, so that a broken embedding has no score.
                values.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x });
            }
            let rows = layer.weight.chunks_exact(layer.inputs).zip(&layer.bias);
            values = rows
                .map(|(row, bias)| {
                    let sum: f64 = row.iter().zip(&values).map(|(w, x)| f64::from(*w) * x).sum();
                    sum + f64::from(*bias)
                })
                .collect();
        }
        values.first().map_or(f32::NAN, |x| *x as f32)
    }
}

/// The numbers in a name, in their order: `layers.10.` comes behind `layers.2.`.
fn numbers(name: &str) -> Vec<u64> {
    let digits = name.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    digits.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedding_with_a_nan_has_no_score() {
        let layer = || Layer { weight: vec![1.0], bias: vec![0.0], inputs: 1 };
        for between in [Between::Nothing, Between::Relu] {
            let head = Head { layers: vec![layer(), layer()], between };
            assert!(head.score(&[f32::NAN]).is_nan());
            assert_eq!(head.score(&[2.0]), 2.0);
        }
        let head = Head { layers: vec![layer(), layer()], between: Between::Relu };
        assert_eq!(head.score(&[-2.0]), 0.0);
    }
}
