//! The text tower: CLIP's causal transformer (`model.py`, `CLIP.encode_text`).
//!
//! A caption's feature is the state of one token: in CLIP at the first place of its largest token
//! id, the end token. Where the mask is causal nothing behind that place can reach it: those
//! positions are left out, which changes no number and saves most of the work (captions fill a
//! fraction of the context).

use candle_core::{Device, Result, Tensor, Var};
use kernels::Products;

use crate::block::{Block, LAYER_NORM_EPS, Norm, Pass, Source};
use crate::config::{TextConfig, TextPool};
use crate::vision::Run;

/// The rows of `token_embedding.weight` that a batch uses, as a variable of their own.
///
/// A batch uses a few hundred of 49,408 rows; a dense gradient of the table costs more than the
/// text tower of a small model.
#[derive(Debug, Clone)]
pub struct TokenRows {
    /// The rows, ascending, each once.
    pub ids: Vec<u32>,
    /// Their values (`ids.len()`, width) at the time of the forward pass. The gradient store of the
    /// backward pass holds the gradient of these rows under this variable; all other rows of the
    /// table have gradient zero.
    pub values: Var,
}

#[derive(Debug, Clone)]
pub(crate) struct Text {
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    ln_final: Norm,
    projection: Tensor,
    heads: usize,
    causal: bool,
    pool: TextPool,
}

/// The captions of a batch, as far as their features depend on them.
struct Captions {
    rows: Vec<Vec<u32>>,
    /// The place in each row whose state is the feature.
    places: Vec<usize>,
}

impl Captions {
    fn new(mut rows: Vec<Vec<u32>>, pool: TextPool, causal: bool) -> Self {
        let places: Vec<usize> = rows.iter().map(|row| place(row, pool)).collect();
        if causal {
            for (row, place) in rows.iter_mut().zip(&places) {
                row.truncate(place + 1);
            }
        }
        Self { rows, places }
    }

    /// All as long as the longest: a GPU takes them as one tensor, and what a causal mask hides is
    /// there anyway.
    fn padded(mut self) -> Self {
        let longest = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        for row in &mut self.rows {
            row.resize(longest, 0);
        }
        self
    }

    fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Vec::len).collect()
    }
}

impl Text {
    pub(crate) fn new(source: &Source, config: &TextConfig, prefix: &str) -> Result<Self> {
        let get = |name: &str| source.get(&format!("{prefix}{name}"));
        let blocks = (0..config.layers)
            .map(|i| Block::new(source, &format!("{prefix}transformer.resblocks.{i}"), None))
            .collect::<Result<_>>()?;
        Ok(Self {
            tokens: get("token_embedding.weight")?,
            positions: get("positional_embedding")?,
            blocks,
            ln_final: source.norm(&format!("{prefix}ln_final"), LAYER_NORM_EPS)?,
            projection: get("text_projection")?,
            heads: config.heads,
            causal: !config.no_causal_mask,
            pool: config.pool,
        })
    }

    /// (B, N) u32, N ≤ context → (B, E)
    pub(crate) fn forward(&self, tokens: &Tensor, run: Run) -> Result<Tensor> {
        self.encode(&self.captions(tokens)?, &self.tokens, run)
    }

    /// The same, with the rows of the token table that these captions use as a variable of their
    /// own, which gets the gradient in place of the table.
    pub(crate) fn forward_rows(&self, tokens: &Tensor, run: Run) -> Result<(Tensor, TokenRows)> {
        let mut captions = self.captions(tokens)?;
        let mut ids: Vec<u32> = captions.rows.iter().flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let wanted = Tensor::new(ids.as_slice(), &Device::Cpu)?;
        let values = Var::from_tensor(&kernels::embedding(&self.tokens.detach(), &wanted)?)?;
        for id in captions.rows.iter_mut().flatten() {
            *id = ids.partition_point(|known| known < id) as u32;
        }
        let features = self.encode(&captions, &values, run)?;
        Ok((features, TokenRows { ids, values }))
    }

    fn captions(&self, tokens: &Tensor) -> Result<Captions> {
        let captions = Captions::new(tokens.to_vec2::<u32>()?, self.pool, self.causal);
        Ok(if self.tokens.device().is_cpu() { captions } else { captions.padded() })
    }

    fn encode(&self, captions: &Captions, table: &Tensor, run: Run) -> Result<Tensor> {
        let lengths = captions.lengths();
        let pass = self.pass(run.quick, run.step.products, &lengths);
        let x = self.embed(&captions.rows, &lengths, table)?; // (ΣN, C)
        let Some((last, blocks)) = self.blocks.split_last() else {
            candle_core::bail!("a tower without blocks")
        };
        let x = Block::forward_all(blocks, &x, pass, run.step.recompute)?;
        let rows: Vec<u32> = lengths
            .iter()
            .zip(&captions.places)
            .scan(0usize, |start, (length, place)| {
                let row = *start + place;
                *start += length;
                Some(row as u32)
            })
            .collect();
        let rows = Tensor::new(rows, &Device::Cpu)?;
        let pooled = self.ln_final.forward(&last.forward_rows(&x, &rows, pass)?)?; // (B, C)
        kernels::project(&pooled, &self.projection)
    }

    /// Shows the tokens (B, N, C) of all positions after each step, by name.
    pub(crate) fn states(
        &self,
        tokens: &Tensor,
        quick: bool,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<()> {
        let rows = tokens.to_vec2::<u32>()?;
        let (batch, n) = tokens.dims2()?;
        let lengths = vec![n; batch];
        let mut x = self.embed(&rows, &lengths, &self.tokens)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, self.pass(quick, Products::F32, &lengths))?;
            seen(format!("resblocks.{i}"), &x.reshape((batch, n, ()))?);
        }
        seen("ln_final".to_owned(), &self.ln_final.forward(&x)?.reshape((batch, n, ()))?);
        Ok(())
    }

    fn pass<'a>(&self, quick: bool, products: Products, lengths: &'a [usize]) -> Pass<'a> {
        let (heads, causal, lengths) = (self.heads, self.causal, Some(lengths));
        Pass { train: false, quick, heads, causal, products, lengths }
    }

    /// The first `lengths` tokens of each row with their positions: (ΣN, C).
    fn embed(&self, rows: &[Vec<u32>], lengths: &[usize], table: &Tensor) -> Result<Tensor> {
        let device = &Device::Cpu; // where indices are looked at before they are used
        let parts = || rows.iter().zip(lengths);
        let ids: Vec<u32> = parts().flat_map(|(row, n)| row[..*n].iter().copied()).collect();
        let words = kernels::embedding(table, &Tensor::new(ids, device)?)?;
        if let (false, Some(first)) = (words.device().is_cpu(), lengths.first()) {
            // All as long: a GPU sums the gradient of the places over captions faster than by index.
            let (rows, width) = words.dims2()?;
            let words = words.reshape((lengths.len(), *first, width))?;
            let places = self.positions.narrow(0, 0, *first)?;
            return kernels::add_row(&words, &places)?.reshape((rows, width));
        }
        let places: Vec<u32> = parts().flat_map(|(_, n)| 0..*n as u32).collect();
        words + kernels::embedding(&self.positions, &Tensor::new(places, device)?)?
    }
}

/// The place whose state is the caption's feature (open_clip's `text_global_pool`).
fn place(row: &[u32], pool: TextPool) -> usize {
    match pool {
        TextPool::Argmax => {
            row.iter()
                .enumerate()
                .fold((0, 0), |best, (i, id)| if *id > best.1 { (i, *id) } else { best })
                .0
        }
        TextPool::End(end) => row.iter().position(|id| *id == end).unwrap_or(0),
        TextPool::First => 0,
        TextPool::Last => row.len().saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_end_tokens_is_the_end() {
        assert_eq!(place(&[3, 9, 1, 9, 0], TextPool::Argmax), 1);
        assert_eq!(place(&[0, 0], TextPool::Argmax), 0);
        assert_eq!(place(&[3, 9, 2, 9, 2], TextPool::End(2)), 2);
    }

    #[test]
    fn a_caption_without_its_end_token_is_pooled_at_its_first() {
        assert_eq!(place(&[3, 9, 1], TextPool::End(2)), 0);
        assert_eq!(place(&[3, 9, 1], TextPool::First), 0);
        assert_eq!(place(&[3, 9, 1], TextPool::Last), 2);
    }

    #[test]
    fn captions_of_a_gpu_are_as_long_as_the_longest() {
        let rows = vec![vec![3, 9, 1, 0, 0], vec![4, 5, 6, 9, 0]];
        let captions = Captions::new(rows, TextPool::Argmax, true).padded();
        assert_eq!(captions.rows, [vec![3, 9, 0, 0], vec![4, 5, 6, 9]]);
        assert_eq!(captions.places, [1, 3]);
    }

    #[test]
    fn what_a_causal_feature_cannot_see_is_left_out() {
        let rows = vec![vec![3, 9, 1, 0], vec![4, 5, 6, 9]];
        let captions = Captions::new(rows.clone(), TextPool::Argmax, true);
        assert_eq!(captions.rows, [vec![3, 9], vec![4, 5, 6, 9]]);
        assert_eq!(Captions::new(rows.clone(), TextPool::Argmax, false).rows, rows);
    }
}
