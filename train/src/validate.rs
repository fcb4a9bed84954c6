//! Validation while training: open_clip's `evaluate` on pairs (`open_clip_train/train.py`).

use candle_core::Tensor;
use models::{Clip, Mode};
use serde_json::{Map, Value, json};
use stage::{Cancel, Result, ResultExt};

use crate::data::{Input, Loader};
use crate::joint::floats;
use crate::loss::clip_loss;

/// `clip_val_loss`, the mean of the loss over batches weighted by their size, and for both
/// directions mean rank, median rank and recall at 1, 5 and 10 among all pairs, the first rank
/// being 1. Pairs whose picture is broken are left out; `num_samples` says how many are left.
///
/// # Errors
/// The source's, the model's, or an interruption.
pub(crate) fn validate(
    clip: &Clip,
    loader: &mut Loader<'_>,
    input: &Input,
    samples: usize,
    cancel: &Cancel,
) -> Result<Map<String, Value>> {
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    let (mut loss, mut count) = (0.0, 0);
    let indices: Vec<u64> = (0..samples as u64).collect();
    for indices in indices.chunks(input.batch_size) {
        cancel.check()?;
        let rows = loader.in_order(indices)?;
        let rows_here = rows.uids.len();
        if rows_here == 0 {
            continue;
        }
        let batch = rows.batch(input)?;
        let image = models::normalize(&clip.encode_image(&batch.pixels, Mode::Eval)?)?;
        let text = models::normalize(&clip.encode_text(&batch.tokens, Mode::Eval)?)?;
        let value = clip_loss(&image, &text, &clip.logit_scale().detach());
        let value: f32 = value.and_then(|loss| loss.to_scalar()).model("validation")?;
        loss += f64::from(value) * rows_here as f64;
        count += rows_here;
        images.push(image);
        texts.push(text);
    }
    let mut row = Map::new();
    row.insert("num_samples".to_owned(), json!(count));
    if count == 0 {
        return Ok(row);
    }
    row.insert("clip_val_loss".to_owned(), json!(loss / count as f64));
    let all = |parts: &[Tensor]| Tensor::cat(parts, 0).model("validation");
    let (images, texts) = (all(&images)?, all(&texts)?);
    for (name, from, to) in [("image_to_text", &images, &texts), ("text_to_image", &texts, &images)]
    {
        let ranks = ranks(from, to, cancel)?;
        for (key, value) in summary(ranks) {
            row.insert(format!("{name}_{key}"), json!(value));
        }
    }
    Ok(row)
}

/// Rows of a similarity matrix that are in memory at once.
const BLOCK: usize = 256;

/// For each row of `from` (N, E): how many rows of `to` (N, E) are nearer than the one of the same
/// number.
fn ranks(from: &Tensor, to: &Tensor, cancel: &Cancel) -> Result<Vec<usize>> {
    let inside = "validation";
    let count = from.dim(0).model(inside)?;
    let all = to.t().model(inside)?;
    let mut ranks = Vec::with_capacity(count);
    for first in (0..count).step_by(BLOCK) {
        cancel.check()?;
        let rows = BLOCK.min(count - first);
        let block = from.narrow(0, first, rows).and_then(|rows| rows.matmul(&all));
        let scores = block.and_then(|block| floats(&block)).model(inside)?;
        for (i, row) in scores.chunks(count).enumerate() {
            let own = row[first + i];
            ranks.push(row.iter().filter(|score| **score > own).count());
        }
    }
    Ok(ranks)
}

fn summary(mut ranks: Vec<usize>) -> Vec<(String, f64)> {
    let count = ranks.len() as f64;
    let mean = ranks.iter().sum::<usize>() as f64 / count + 1.0;
    ranks.sort_unstable();
    let middle = ranks.len() / 2;
    let median = match ranks.len() % 2 {
        1 => ranks[middle],
        _ => usize::midpoint(ranks[middle - 1], ranks[middle]), // numpy's median, rounded down
    };
    let mut all =
        vec![("mean_rank".to_owned(), mean), ("median_rank".to_owned(), median as f64 + 1.0)];
    for k in [1, 5, 10] {
        let within = ranks.iter().filter(|rank| **rank < k).count() as f64;
        all.push((format!("R@{k}"), within / count));
    }
    all
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_rank_is_the_number_of_nearer_rows() {
        let eye = Tensor::new(&[[1.0_f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let crossed = Tensor::new(&[[0.0_f32, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let cancel = Cancel::default();
        assert_eq!(ranks(&eye, &eye, &cancel).unwrap(), [0, 0]);
        assert_eq!(ranks(&eye, &crossed, &cancel).unwrap(), [1, 1]);
    }

    #[test]
    fn the_summary_is_open_clips() {
        // get_clip_metrics of open_clip_train 3.3.0 for predictions 0, 3, 6, 20.
        let expected = [
            ("mean_rank", 8.25),
            ("median_rank", 5.0),
            ("R@1", 0.25),
            ("R@5", 0.5),
            ("R@10", 0.75),
        ];
        let expected: Vec<(String, f64)> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        assert_eq!(summary(vec![20, 0, 6, 3]), expected);
    }
}
