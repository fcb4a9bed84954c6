//! The residual attention block of both towers, in every form of its FFN.

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor, Var};
use kernels::{Half, HalfForm, HalfOf, Products};

use crate::linear::{Layout, Linear};
use crate::repavit::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, BatchNorm, IdleFfn};
use crate::shapes::Ffn;

/// LayerNorm's eps (`torch.nn.LayerNorm`), everywhere in a plain CLIP.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;

/// A weight and its bias.
pub(crate) type Pair = (Tensor, Tensor);

/// Tensors by name, to build a tower from.
pub(crate) struct Source<'a> {
    pub(crate) tensors: &'a BTreeMap<String, Tensor>,
    pub(crate) buffers: &'a BTreeMap<String, Var>,
    /// How the weights of the blocks' linear layers lie.
    pub(crate) layout: Layout,
}

impl Source<'_> {
    pub(crate) fn get(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("no tensor `{name}`"),
        }
    }

    fn buffer(&self, name: &str) -> Result<Var> {
        match self.buffers.get(name) {
            Some(var) => Ok(var.clone()),
            None => candle_core::bail!("no buffer `{name}`"),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A trained tensor, or one that is not.
    pub(crate) fn any(&self, name: &str) -> Result<Tensor> {
        match self.buffers.get(name) {
            Some(var) => Ok(var.as_tensor().detach()),
            None => self.get(name),
        }
    }

    pub(crate) fn pair(&self, at: &str) -> Result<Pair> {
        Ok((self.get(&format!("{at}.weight"))?, self.get(&format!("{at}.bias"))?))
    }

    pub(crate) fn linear(&self, at: &str) -> Result<Linear> {
        self.linear_of(&format!("{at}.weight"), &format!("{at}.bias"))
    }

    fn linear_of(&self, weight: &str, bias: &str) -> Result<Linear> {
        Linear::new(self.get(weight)?, self.get(bias)?, self.layout)
    }

    /// A layer that has no bias in the checkpoint.
    fn without_bias(&self, at: &str) -> Result<Linear> {
        let weight = self.get(&format!("{at}.weight"))?;
        let bias = Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?;
        Linear::new(weight, bias, self.layout)
    }

    pub(crate) fn norm(&self, at: &str, eps: f64) -> Result<Norm> {
        let (weight, bias) = self.pair(at)?;
        Ok(Norm { weight, bias, eps })
    }

    fn batch_norm(&self, at: &str) -> Result<BatchNormLayer> {
        Ok(BatchNormLayer {
            weight: self.get(&format!("{at}.weight"))?,
            bias: self.get(&format!("{at}.bias"))?,
            mean: self.buffer(&format!("{at}.running_mean"))?,
            variance: self.buffer(&format!("{at}.running_var"))?,
        })
    }
}

/// LayerNorm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    /// (.., C) → (.., C)
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    /// The same with the next two tensors.
    pub(crate) fn replaced(&self, tensors: &mut Replaced) -> Result<Self> {
        let (weight, bias) = tensors.pair()?;
        Ok(Self { weight, bias, eps: self.eps })
    }
}

/// Tensors that take the places of a block's own, in the order of its `tensors`.
pub(crate) struct Replaced<'a>(std::slice::Iter<'a, Tensor>);

impl<'a> Replaced<'a> {
    pub(crate) fn new(tensors: &'a [Tensor]) -> Self {
        Self(tensors.iter())
    }

    pub(crate) fn one(&mut self) -> Result<Tensor> {
        match self.0.next() {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("a block has more tensors than were kept"),
        }
    }

    pub(crate) fn pair(&mut self) -> Result<Pair> {
        Ok((self.one()?, self.one()?))
    }
}

/// What a forward pass must know beside its input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// Whether BatchNorm takes the batch's statistics and updates the running ones.
    pub(crate) train: bool,
    /// x·σ(1.702 x) instead of the exact GELU.
    pub(crate) quick: bool,
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// Format of the products of the linear layers.
    pub(crate) products: Products,
    /// For (ΣN, C) inputs the length of each sequence; for (B, N, C) inputs nothing.
    pub(crate) lengths: Option<&'a [usize]>,
}

/// `x + attention(ln_1 x)`, then the FFN with its residual.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    ln_1: Norm,
    in_proj: Linear,
    out_proj: Linear,
    /// The learned scales of both halves.
    scales: Option<Pair>,
    ffn: FfnLayer,
}

#[derive(Debug, Clone)]
enum FfnLayer {
    Plain { ln_2: Norm, fc: Linear, proj: Linear },
    Idle(Box<IdleLayer>),
    Folded(Box<FoldedLayer>),
}

/// `R x + r`, and `V GELU(U x + u)` where channels are active.
#[derive(Debug, Clone)]
struct FoldedLayer {
    idle: Linear,
    active: Option<(Linear, Linear)>,
}

#[derive(Debug, Clone)]
struct IdleLayer {
    bn_1: BatchNormLayer,
    fc: Linear,
    bn_2: BatchNormLayer,
    proj: Linear,
    active: usize,
}

#[derive(Debug, Clone)]
struct BatchNormLayer {
    weight: Tensor,
    bias: Tensor,
    mean: Var,
    variance: Var,
}

impl Block {
    pub(crate) fn new(source: &Source, at: &str, ffn: Option<Ffn>) -> Result<Self> {
        let linear = |name: &str| source.linear(&format!("{at}.{name}"));
        let layer = match ffn {
            None => FfnLayer::Plain {
                ln_2: source.norm(&format!("{at}.ln_2"), LAYER_NORM_EPS)?,
                fc: linear("mlp.c_fc")?,
                proj: linear("mlp.c_proj")?,
            },
            Some(Ffn::Idle { active }) => FfnLayer::Idle(Box::new(IdleLayer {
                bn_1: source.batch_norm(&format!("{at}.mlp.bn_1"))?,
                fc: linear("mlp.c_fc")?,
                bn_2: source.batch_norm(&format!("{at}.mlp.bn_2"))?,
                proj: linear("mlp.c_proj")?,
                active,
            })),
            Some(Ffn::Folded { active }) => {
                let active = match active {
                    0 => None,
                    _ => Some((
                        linear("mlp.c_fc")?,
                        source.without_bias(&format!("{at}.mlp.c_proj"))?,
                    )),
                };
                FfnLayer::Folded(Box::new(FoldedLayer { idle: linear("mlp.c_idle")?, active }))
            }
        };
        Ok(Self {
            ln_1: source.norm(&format!("{at}.ln_1"), LAYER_NORM_EPS)?,
            in_proj: source.linear_of(
                &format!("{at}.attn.in_proj_weight"),
                &format!("{at}.attn.in_proj_bias"),
            )?,
            out_proj: linear("attn.out_proj")?,
            scales: match source.has(&format!("{at}.ls_1.gamma")) {
                true => Some((
                    source.get(&format!("{at}.ls_1.gamma"))?,
                    source.get(&format!("{at}.ls_2.gamma"))?,
                )),
                false => None,
            },
            ffn: layer,
        })
    }

    /// (B, N, C) → (B, N, C), or (ΣN, C) → (ΣN, C) with `pass.lengths`
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let x = self.attend(x, pass, false)?;
        self.feed(&x, pass, false)
    }

    /// [`Block::forward`] for these rows of (.., C) alone, counted through: (rows, C). What follows
    /// the attention works row by row, so the last block of a tower need not go on with tokens that
    /// nobody looks at.
    pub(crate) fn forward_rows(&self, x: &Tensor, rows: &Tensor, pass: Pass) -> Result<Tensor> {
        let pick = |t: &Tensor| kernels::embedding(&t.reshape(((), t.dim(D::Minus1)?))?, rows);
        let y = pick(&self.look(x, pass)?)?;
        let x = self.join(&pick(x)?, &y, pass)?;
        self.feed(&x, pass, false)
    }

    /// Whether every row of the result depends on its own token after the attention; batch
    /// statistics see all of them.
    pub(crate) fn works_by_rows(&self, pass: Pass) -> bool {
        !(pass.train && matches!(self.ffn, FfnLayer::Idle(_)))
    }

    /// All blocks one after the other; on a GPU, where they are plain, as one operator.
    pub(crate) fn forward_all(
        blocks: &[Self],
        x: &Tensor,
        pass: Pass,
        again: bool,
    ) -> Result<Tensor> {
        let each;
        let lengths = match pass.lengths {
            Some(lengths) => lengths,
            None => {
                let (batch, tokens, _) = x.dims3()?;
                each = vec![tokens; batch];
                &each
            }
        };
        let halves: Option<Vec<[HalfOf; 2]>> =
            blocks.iter().map(|block| block.halves(pass, lengths, again)).collect();
        match halves {
            Some(halves) if !halves.is_empty() && !x.device().is_cpu() => {
                kernels::halves_in_turn(x, halves.as_flattened())
            }
            _ => blocks
                .iter()
                .try_fold(x.clone(), |x, block| block.forward_or_again(&x, pass, again)),
        }
    }

    /// Both halves, where the block is plain.
    fn halves<'a>(
        &'a self,
        pass: Pass,
        lengths: &'a [usize],
        again: bool,
    ) -> Option<[HalfOf<'a>; 2]> {
        let FfnLayer::Plain { ln_2, fc, proj } = &self.ffn else { return None };
        let Pass { quick, heads, causal, products, .. } = pass;
        let form = |norm: &Norm| HalfForm { eps: norm.eps, products, again };
        let half = self.half(&self.ln_1, &self.in_proj, &self.out_proj)?;
        let first = HalfOf::Attention { half, lengths, heads, causal, form: form(&self.ln_1) };
        let second = HalfOf::Mlp { half: self.half(ln_2, fc, proj)?, quick, form: form(ln_2) };
        Some([first, second])
    }

    /// The attention half, with its residual.
    fn attend(&self, x: &Tensor, pass: Pass, again: bool) -> Result<Tensor> {
        if let Some(half) = self.half(&self.ln_1, &self.in_proj, &self.out_proj) {
            let each;
            let lengths = match pass.lengths {
                Some(lengths) => lengths,
                None => {
                    let (batch, tokens, _) = x.dims3()?;
                    each = vec![tokens; batch];
                    &each
                }
            };
            let form = HalfForm { eps: self.ln_1.eps, products: pass.products, again };
            return kernels::attention_half(x, half, lengths, pass.heads, pass.causal, form);
        }
        self.join(x, &self.look(x, pass)?, pass)
    }

    /// A half of the block as one operator, where its weights are f32 and it has no learned scale.
    fn half<'a>(
        &'a self,
        norm: &'a Norm,
        first: &'a Linear,
        second: &'a Linear,
    ) -> Option<Half<'a>> {
        match (&self.scales, first.full(), second.full()) {
            (None, Some(first), Some(second)) => Some(Half { norm: norm.tensors(), first, second }),
            _ => None,
        }
    }

    /// The heads' outputs, side by side.
    fn look(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let qkv = self.in_proj.forward(&self.ln_1.forward(x)?, pass.products)?;
        match pass.lengths {
            Some(lengths) => {
                kernels::attention_ragged_in(&qkv, lengths, pass.heads, pass.causal, pass.products)
            }
            None => kernels::attention_in(&qkv, pass.heads, pass.causal, pass.products),
        }
    }

    fn join(&self, x: &Tensor, y: &Tensor, pass: Pass) -> Result<Tensor> {
        let y = self.out_proj.forward(y, pass.products)?;
        match &self.scales {
            Some((scale, _)) => kernels::add(x, &y.broadcast_mul(scale)?),
            None => kernels::add_over(y, x),
        }
    }

    /// [`Block::forward`], or where `again` the same with all but its input forgotten until the
    /// backward pass. A block with batch statistics is kept: computing it twice would count the
    /// batch twice.
    pub(crate) fn forward_or_again(&self, x: &Tensor, pass: Pass, again: bool) -> Result<Tensor> {
        let Some(tensors) = self.tensors().filter(|_| again) else {
            return self.forward(x, pass);
        };
        if self.scales.is_none() && self.in_proj.full().is_some() {
            // The halves forget by themselves.
            return self.feed(&self.attend(x, pass, true)?, pass, true);
        }
        let mut inputs = vec![x];
        inputs.extend(tensors);
        let (block, lengths) = (self.clone(), pass.lengths.map(<[usize]>::to_vec));
        let Pass { train, quick, heads, causal, products, .. } = pass;
        kernels::recompute(&inputs, move |tensors| {
            let Some((x, rest)) = tensors.split_first() else {
                candle_core::bail!("a block without input")
            };
            let lengths = lengths.as_deref();
            let pass = Pass { train, quick, heads, causal, products, lengths };
            block.replaced(&mut Replaced::new(rest))?.forward(x, pass)
        })
    }

    /// Its tensors, in the order of [`Block::replaced`]; None where it has statistics or is folded.
    fn tensors(&self) -> Option<Vec<&Tensor>> {
        let FfnLayer::Plain { ln_2, fc, proj } = &self.ffn else { return None };
        let mut all = Vec::from(self.ln_1.tensors());
        all.extend(self.in_proj.tensors().into_iter().chain(self.out_proj.tensors()));
        all.extend(self.scales.iter().flat_map(|(a, b)| [a, b]));
        all.extend(ln_2.tensors());
        all.extend(fc.tensors().into_iter().chain(proj.tensors()));
        Some(all)
    }

    fn replaced(&self, tensors: &mut Replaced) -> Result<Self> {
        let FfnLayer::Plain { ln_2, .. } = &self.ffn else {
            candle_core::bail!("a block with statistics cannot be computed again")
        };
        Ok(Self {
            ln_1: self.ln_1.replaced(tensors)?,
            in_proj: Linear::taken(tensors)?,
            out_proj: Linear::taken(tensors)?,
            scales: self.scales.as_ref().map(|_| tensors.pair()).transpose()?,
            ffn: FfnLayer::Plain {
                ln_2: ln_2.replaced(tensors)?,
                fc: Linear::taken(tensors)?,
                proj: Linear::taken(tensors)?,
            },
        })
    }

    /// The FFN half, with its residual.
    fn feed(&self, x: &Tensor, pass: Pass, again: bool) -> Result<Tensor> {
        let gelu = |h: Tensor| kernels::gelu_over(h, pass.quick);
        let products = pass.products;
        match &self.ffn {
            FfnLayer::Plain { ln_2, fc, proj } => {
                if let Some(half) = self.half(ln_2, fc, proj) {
                    let form = HalfForm { eps: ln_2.eps, products, again };
                    return kernels::mlp_half(x, half, pass.quick, form);
                }
                let h = gelu(fc.forward(&ln_2.forward(x)?, products)?)?;
                let y = proj.forward(&h, products)?;
                match &self.scales {
                    Some((_, scale)) => kernels::add(x, &y.broadcast_mul(scale)?),
                    None => kernels::add_over(y, x),
                }
            }
            FfnLayer::Idle(ffn) => {
                let h = ffn.fc.forward(&ffn.bn_1.forward(x, pass)?, products)?;
                let h = kernels::gelu_first(&h, ffn.active, pass.quick)?;
                let h = ffn.bn_2.forward(&h, pass)?;
                kernels::add_over(ffn.proj.forward(&h, products)?, x)
            }
            FfnLayer::Folded(ffn) => {
                let y = ffn.idle.forward(x, products)?;
                match &ffn.active {
                    None => Ok(y),
                    Some((fc, proj)) => {
                        let h = gelu(fc.forward(x, products)?)?;
                        kernels::add_over(proj.forward(&h, products)?, &y)
                    }
                }
            }
        }
    }

    /// The FFN with idle channels, to fold it.
    pub(crate) fn idle_ffn(&self) -> Option<IdleFfn> {
        let FfnLayer::Idle(ffn) = &self.ffn else { return None };
        Some(IdleFfn {
            bn_1: ffn.bn_1.values(),
            fc_weight: ffn.fc.weight().clone(),
            fc_bias: ffn.fc.bias().clone(),
            bn_2: ffn.bn_2.values(),
            proj_weight: ffn.proj.weight().clone(),
            proj_bias: ffn.proj.bias().clone(),
            active: ffn.active,
        })
    }
}

impl BatchNormLayer {
    /// (.., C) → (.., C)
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        if !pass.train {
            return kernels::batch_norm(
                x,
                &self.weight,
                &self.bias,
                &self.mean,
                &self.variance,
                BATCH_NORM_EPS,
            );
        }
        let (y, batch) = kernels::batch_norm_train(x, &self.weight, &self.bias, BATCH_NORM_EPS)?;
        // The running variance takes the unbiased one; of a single row there is none.
        let count = batch.count as f64;
        let unbiased = (batch.variance * (count / (count - 1.0).max(1.0)))?;
        blend(&self.mean, &batch.mean)?;
        blend(&self.variance, &unbiased)?;
        Ok(y)
    }

    fn values(&self) -> BatchNorm {
        BatchNorm {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            mean: self.mean.as_tensor().clone(),
            variance: self.variance.as_tensor().clone(),
        }
    }
}

/// running = (1 - momentum)·running + momentum·batch
fn blend(running: &Var, batch: &Tensor) -> Result<()> {
    let kept = (running.as_tensor().detach() * (1.0 - BATCH_NORM_MOMENTUM))?;
    running.set(&(kept + (batch * BATCH_NORM_MOMENTUM)?)?)
}
