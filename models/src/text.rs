//! The text tower: CLIP's causal transformer (`model.py`, `CLIP.encode_text`).
//!
//! A caption's feature is the state at the first place of its largest token id, the end token. The
//! mask is causal, so nothing behind that place can reach it: those positions are left out, which
//! changes no number and saves most of the work (captions fill a fraction of the context).

use candle_core::{Result, Tensor, Var};

use crate::block::{Block, Norm, Pass, Source};
use crate::config::TextConfig;

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
}

impl Text {
    pub(crate) fn new(source: &Source, config: &TextConfig) -> Result<Self> {
        let blocks = (0..config.layers)
            .map(|i| Block::new(source, &format!("transformer.resblocks.{i}"), None))
            .collect::<Result<_>>()?;
        Ok(Self {
            tokens: source.get("token_embedding.weight")?,
            positions: source.get("positional_embedding")?,
            blocks,
            ln_final: source.norm("ln_final")?,
            projection: source.get("text_projection")?,
            heads: config.heads,
        })
    }

    /// (B, N) u32, N ≤ context → (B, E)
    pub(crate) fn forward(&self, tokens: &Tensor, quick: bool) -> Result<Tensor> {
        let rows = tokens.to_vec2::<u32>()?;
        self.encode(&rows, &self.tokens, quick)
    }

    /// The same, with the rows of the token table that these captions use as a variable of their
    /// own, which gets the gradient in place of the table.
    pub(crate) fn forward_rows(&self, tokens: &Tensor, quick: bool) -> Result<(Tensor, TokenRows)> {
        let mut rows = tokens.to_vec2::<u32>()?;
        let mut ids: Vec<u32> =
            rows.iter().flat_map(|row| row[..=first_argmax(row)].iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        let wanted = Tensor::new(ids.as_slice(), self.tokens.device())?;
        let values = Var::from_tensor(&kernels::embedding(&self.tokens.detach(), &wanted)?)?;
        // In ascending order the end token stays the largest, and its first place the first.
        for row in &mut rows {
            let end = first_argmax(row);
            for id in &mut row[..=end] {
                *id = ids.partition_point(|known| known < id) as u32;
            }
            row.truncate(end + 1);
        }
        let features = self.encode(&rows, &values, quick)?;
        Ok((features, TokenRows { ids, values }))
    }

    fn encode(&self, rows: &[Vec<u32>], table: &Tensor, quick: bool) -> Result<Tensor> {
        let lengths: Vec<usize> = rows.iter().map(|row| first_argmax(row) + 1).collect();
        let pass = self.pass(quick, &lengths);
        let mut x = self.embed(rows, &lengths, table)?; // (ΣN, C)
        let Some((last, blocks)) = self.blocks.split_last() else {
            candle_core::bail!("a tower without blocks")
        };
        for block in blocks {
            x = block.forward(&x, pass)?;
        }
        let ends: Vec<u32> = lengths
            .iter()
            .scan(0usize, |end, length| {
                *end += length;
                Some((*end - 1) as u32)
            })
            .collect();
        let ends = Tensor::new(ends, x.device())?;
        let pooled = self.ln_final.forward(&last.forward_rows(&x, &ends, pass)?)?; // (B, C)
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
            x = block.forward(&x, self.pass(quick, &lengths))?;
            seen(format!("resblocks.{i}"), &x.reshape((batch, n, ()))?);
        }
        seen("ln_final".to_owned(), &self.ln_final.forward(&x)?.reshape((batch, n, ()))?);
        Ok(())
    }

    fn pass<'a>(&self, quick: bool, lengths: &'a [usize]) -> Pass<'a> {
        Pass { train: false, quick, heads: self.heads, causal: true, lengths: Some(lengths) }
    }

    /// The first `lengths` tokens of each row with their positions: (ΣN, C).
    fn embed(&self, rows: &[Vec<u32>], lengths: &[usize], table: &Tensor) -> Result<Tensor> {
        let device = self.tokens.device();
        let parts = || rows.iter().zip(lengths);
        let ids: Vec<u32> = parts().flat_map(|(row, n)| row[..*n].iter().copied()).collect();
        let places: Vec<u32> = parts().flat_map(|(_, n)| 0..*n as u32).collect();
        let words = kernels::embedding(table, &Tensor::new(ids, device)?)?;
        words + kernels::embedding(&self.positions, &Tensor::new(places, device)?)?
    }
}

/// The first place of the largest id.
fn first_argmax(row: &[u32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, 0), |best, (i, id)| if *id > best.1 { (i, *id) } else { best })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_end_tokens_is_the_end() {
        assert_eq!(first_argmax(&[3, 9, 1, 9, 0]), 1);
        assert_eq!(first_argmax(&[0, 0]), 0);
    }
}
