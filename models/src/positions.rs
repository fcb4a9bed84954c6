//! Position tables for pictures of another size and captions of another length.
//!
//! open_clip's `resize_pos_embed` (bicubic with antialiasing, as Pillow's; the class token's row
//! stays) and `resize_text_pos_embed` (linear, without); timm's `resample_abs_pos_embed` for a
//! ViTamin. Sums are f64.

use candle_core::{Result, Tensor};

use crate::config::{ClipConfig, VisionConfig};
use crate::shapes;

/// How a table is read between its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Keys' cubic with a = -1/2, widened where places are taken away.
    Cubic,
    /// The two nearest places.
    Linear,
}

/// Fits the tables of positions among `tensors` to the sizes of `config`, in place; returns what
/// was changed, as `name: old places → new places`. Other tensors stay as they are.
///
/// A ViTamin without positions (XL) takes any multiple of 16 as it is.
///
/// # Errors
/// A table that is no square grid.
pub(crate) fn fit(
    tensors: &mut std::collections::BTreeMap<String, Tensor>,
    config: &ClipConfig,
) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    let (name, grid, first) = match &config.vision {
        VisionConfig::Vit(vit) => ("visual.positional_embedding", vit.grid(), 1),
        VisionConfig::Vitamin(vitamin) => ("visual.trunk.pos_embed", vitamin.grid(), 0),
    };
    if let Some(table) = tensors.get(name) {
        let rows = if first == 1 { table.clone() } else { table.flatten_to(1)? };
        let (places, width) = rows.dims2()?;
        if places != grid * grid + first {
            let old = (((places - first) as f64).sqrt()).round() as usize;
            if old * old + first != places {
                candle_core::bail!("`{name}` has {places} places, which are no square grid");
            }
            let values = rows.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            let (kept, values) = values.split_at(first * width);
            let columns = along(values, (old, old, width), grid, Filter::Cubic);
            let both = along(&columns, (1, old, grid * width), grid, Filter::Cubic);
            let all: Vec<f64> = kept.iter().chain(&both).copied().collect();
            let new = Tensor::from_vec(all, (grid * grid + first, width), table.device())?;
            let new = if first == 1 { new } else { new.unsqueeze(0)? };
            tensors.insert(name.to_owned(), new.to_dtype(table.dtype())?);
            changed.push(format!("{name}: {old} x {old} → {grid} x {grid}"));
        }
    }
    let name = format!("{}positional_embedding", shapes::text_prefix(config));
    let length = config.text.context_length;
    if let Some(table) = tensors.get(&name)
        && let Ok((places, width)) = table.dims2()
        && places != length
    {
        let values = table.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let new = along(&values, (1, places, width), length, Filter::Linear);
        let new =
            Tensor::from_vec(new, (length, width), table.device())?.to_dtype(table.dtype())?;
        tensors.insert(name.clone(), new);
        changed.push(format!("{name}: {places} → {length}"));
    }
    Ok(changed)
}

/// Resamples the middle axis of (outer, places, width) to `to` places.
fn along(
    values: &[f64],
    (outer, places, width): (usize, usize, usize),
    to: usize,
    filter: Filter,
) -> Vec<f64> {
    let mut all = vec![0.0; outer * to * width];
    for i in 0..to {
        let weights = weights(places, to, i, filter);
        for o in 0..outer {
            let into = &mut all[(o * to + i) * width..][..width];
            for (place, weight) in &weights {
                let from = &values[(o * places + place) * width..][..width];
                for (into, from) in into.iter_mut().zip(from) {
                    *into += weight * from;
                }
            }
        }
    }
    all
}

/// The places that make up place `i` of `to`, with their weights, whose sum is 1.
fn weights(places: usize, to: usize, i: usize, filter: Filter) -> Vec<(usize, f64)> {
    let scale = places as f64 / to as f64;
    let centre = scale * (i as f64 + 0.5);
    if filter == Filter::Linear {
        let at = (centre - 0.5).clamp(0.0, (places - 1) as f64);
        let (low, share) = (at as usize, at.fract());
        return vec![(low, 1.0 - share), ((low + 1).min(places - 1), share)];
    }
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let first = (centre - support + 0.5).max(0.0) as usize;
    let end = ((centre + support + 0.5) as usize).min(places);
    let weight = |place: usize| cubic((place as f64 - centre + 0.5) / stretch);
    let sum: f64 = (first..end).map(weight).sum();
    (first..end).map(|place| (place, weight(place) / sum)).collect()
}

/// Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(values: &[f64], old: usize, new: usize) -> Vec<f64> {
        let columns = along(values, (old, old, 1), new, Filter::Cubic);
        along(&columns, (1, old, new), new, Filter::Cubic)
    }

    fn close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{got:?}");
    }

    #[test]
    fn grids_equal_torchs_bicubic_with_antialiasing() {
        // torch 2.15: F.interpolate(x, mode="bicubic", antialias=True, align_corners=False) of
        // x = [[0, .4, .8], [.1, .5, .9], [.2, .6, 1]]
        let x = [0.0, 0.4, 0.8, 0.1, 0.5, 0.9, 0.2, 0.6, 1.0];
        close(&grid(&x, 3, 2), &[0.15489560, 0.70706254, 0.29293737, 0.84510434]);
        let five = [
            -0.03773583,
            0.11484088,
            0.39245284,
            0.67006475,
            0.82264143,
            0.00040834784,
            0.15298508,
            0.43059701,
            0.70820898,
            0.86078566,
            0.06981133,
            0.22238806,
            0.5,
            0.77761197,
            0.93018860,
            0.13921432,
            0.29179105,
            0.56940299,
            0.84701496,
            0.99959159,
            0.17735848,
            0.32993522,
            0.60754716,
            0.88515913,
            1.03773582,
        ];
        close(&grid(&x, 3, 5), &five);
        close(&grid(&x, 3, 3), &x);
    }

    #[test]
    fn lines_equal_torchs_linear_interpolation() {
        let x = [0.0, 1.0, 4.0, 9.0, 16.0];
        close(&along(&x, (1, 5, 1), 3, Filter::Linear), &[0.33333333, 4.0, 13.66666667]);
        let eight = [0.0, 0.4375, 1.1875, 3.0625, 5.5625, 8.6875, 12.9375, 16.0];
        close(&along(&x, (1, 5, 1), 8, Filter::Linear), &eight);
    }
}
