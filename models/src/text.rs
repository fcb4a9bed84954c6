//! The text tower: CLIP's causal transformer (`model.py`, `CLIP.encode_text`).
//!
//! A caption's feature is the state at the first place of its largest token id, the end token. The
//! mask is causal, so nothing behind that place can reach it: those positions are left out, which
//! changes no number and saves most of the work (captions fill a fraction of the context).

use candle_core::{Result, Tensor};

use crate::block::{Block, Norm, Pass, Source};
use crate::config::TextConfig;

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
        let lengths: Vec<usize> = rows.iter().map(|row| first_argmax(row) + 1).collect();
        let x = self.run(&rows, &lengths, quick, &mut |_, _| {})?;
        let ends: Vec<u32> = lengths
            .iter()
            .scan(0usize, |end, length| {
                *end += length;
                Some((*end - 1) as u32)
            })
            .collect();
        let ends = Tensor::new(ends, x.device())?;
        let pooled = self.ln_final.forward(&kernels::embedding(&x, &ends)?)?; // (B, C)
        pooled.matmul(&self.projection)
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
        let mut failed = None;
        let x = self.run(&rows, &vec![n; batch], quick, &mut |name, x| match x.reshape((
            batch,
            n,
            (),
        )) {
            Ok(x) => seen(name, &x),
            Err(error) => failed = Some(error),
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        seen("ln_final".to_owned(), &self.ln_final.forward(&x)?.reshape((batch, n, ()))?);
        Ok(())
    }

    /// The blocks over the first `lengths` tokens of each row: (ΣN, C).
    fn run(
        &self,
        rows: &[Vec<u32>],
        lengths: &[usize],
        quick: bool,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<Tensor> {
        let device = self.tokens.device();
        let parts = || rows.iter().zip(lengths);
        let ids: Vec<u32> = parts().flat_map(|(row, n)| row[..*n].iter().copied()).collect();
        let places: Vec<u32> = parts().flat_map(|(_, n)| 0..*n as u32).collect();
        let words = kernels::embedding(&self.tokens, &Tensor::new(ids, device)?)?;
        let places = kernels::embedding(&self.positions, &Tensor::new(places, device)?)?;
        let mut x = (words + places)?;
        let pass =
            Pass { train: false, quick, heads: self.heads, causal: true, lengths: Some(lengths) };
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, pass)?;
            seen(format!("resblocks.{i}"), &x);
        }
        Ok(x)
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
