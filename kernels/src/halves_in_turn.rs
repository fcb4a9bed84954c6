//! Halves of blocks, one after the other.

use candle_core::{Result, Tensor};

use crate::halves::{Half, HalfForm, attention_half, mlp_half};

/// A half of a block with all that it is computed with.
#[derive(Debug, Clone, Copy)]
pub enum HalfOf<'a> {
    /// [`attention_half()`]
    Attention {
        /// Its tensors.
        half: Half<'a>,
        /// Of the sequences.
        lengths: &'a [usize],
        /// Of the attention.
        heads: usize,
        /// Whether tokens see only those before them.
        causal: bool,
        /// How it is computed.
        form: HalfForm,
    },
    /// [`mlp_half()`]
    Mlp {
        /// Its tensors.
        half: Half<'a>,
        /// Whether its function is [`crate::quick_gelu()`].
        quick: bool,
        /// How it is computed.
        form: HalfForm,
    },
}

/// The halves one after the other: the same as each alone, but on a GPU one node of the graph, whose
/// nodes each cost some passes over the gradient between them.
///
/// # Shapes
/// `x` (.., C) → the same
///
/// # Errors
/// As [`attention_half()`] and [`mlp_half()`].
pub fn halves_in_turn(x: &Tensor, all: &[HalfOf]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let mut tensors = vec![x];
        for half in all {
            half.check(x)?;
            let (HalfOf::Attention { half, .. } | HalfOf::Mlp { half, .. }) = half;
            tensors.extend(half.norm.iter().chain(&half.first).chain(&half.second));
        }
        if !all.is_empty() && crate::cuda::takes(&tensors) {
            return crate::cuda::halves_in_turn(x, all);
        }
    }
    let mut x = x.clone();
    for half in all {
        x = match *half {
            HalfOf::Attention { half, lengths, heads, causal, form } => {
                attention_half(&x, half, lengths, heads, causal, form)?
            }
            HalfOf::Mlp { half, quick, form } => mlp_half(&x, half, quick, form)?,
        };
    }
    Ok(x)
}

#[cfg(feature = "cuda")]
impl HalfOf<'_> {
    fn check(&self, x: &Tensor) -> Result<()> {
        match *self {
            Self::Attention { half, lengths, heads, .. } => {
                crate::halves::check_attention(x, half, lengths, heads)
            }
            Self::Mlp { half, .. } => crate::halves::check_mlp(x, half),
        }
    }
}
