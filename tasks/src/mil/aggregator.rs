//! The global-attention aggregator: DSMIL with linear queries and values, single scale.
//!
//! Li et al., "Dual-stream multiple instance learning" (binli123/dsmil-wsi), in the form that
//! Self-ViT-MIL uses.

use std::collections::BTreeMap;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};

/// Width of queries.
const QUERY: usize = 128;

/// The aggregator's weights, by the reference's names.
pub struct Aggregator {
    vars: BTreeMap<String, Var>,
}

/// What the aggregator says of one bag.
pub struct Aggregated {
    /// Instance scores, (N, C).
    pub instances: Tensor,
    /// Bag logits, (1, C).
    pub bag: Tensor,
    /// Attention over instances, (N, C); each column adds up to 1.
    pub attention: Tensor,
    /// Bag representation, (1, C, K).
    pub representation: Tensor,
}

impl Aggregator {
    /// Weights from a seed: uniform in ±1/√fan_in, as torch initialises Linear and Conv1d.
    ///
    /// `features` is K, `classes` is C.
    pub fn init(features: usize, classes: usize, seed: u64, device: &Device) -> Result<Self> {
        let (k, c) = (features, classes);
        let shapes: [(&str, Vec<usize>, usize); 8] = [
            ("i_classifier.fc.0.weight", vec![c, k], k),
            ("i_classifier.fc.0.bias", vec![c], k),
            ("b_classifier.q.weight", vec![QUERY, k], k),
            ("b_classifier.q.bias", vec![QUERY], k),
            ("b_classifier.v.1.weight", vec![k, k], k),
            ("b_classifier.v.1.bias", vec![k], k),
            ("b_classifier.fcc.weight", vec![c, c, k], c * k),
            ("b_classifier.fcc.bias", vec![c], c * k),
        ];
        let mut dice = stage::Dice::new(seed);
        let mut vars = BTreeMap::new();
        for (name, shape, fan_in) in shapes {
            let bound = 1.0 / (fan_in as f64).sqrt();
            let count: usize = shape.iter().product();
            let values: Vec<f32> =
                (0..count).map(|_| ((2.0 * dice.unit() - 1.0) * bound) as f32).collect();
            vars.insert(
                name.to_owned(),
                Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?,
            );
        }
        Ok(Self { vars })
    }

    /// From weights of these names; the shapes give K and C.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let vars = tensors.into_iter().map(|(name, t)| Ok((name, Var::from_tensor(&t)?)));
        Ok(Self { vars: vars.collect::<Result<_>>()? })
    }

    /// The weights, by name.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// # Shapes
    /// `bag` (N, K) f32, N at least 1. Of equal instance scores the first instance is critical.
    pub fn forward(&self, bag: &Tensor) -> Result<Aggregated> {
        let (n, k) = bag.dims2()?;
        let instances = self.linear(bag, "i_classifier.fc.0")?; // (N, C)
        let values = self.linear(bag, "b_classifier.v.1")?; // (N, K)
        let queries = self.linear(bag, "b_classifier.q")?; // (N, 128)
        let critical = argmax_rows(&instances)?;
        let critical = Tensor::from_vec(critical.clone(), critical.len(), bag.device())?;
        let q_critical = queries.index_select(&critical, 0)?; // (C, 128)
        let scores = (queries.matmul(&q_critical.t()?)? * (1.0 / (QUERY as f64).sqrt()))?; // (N, C)
        let attention = kernels::softmax(&scores.t()?.contiguous()?)?.t()?.contiguous()?;
        let representation = attention.t()?.contiguous()?.matmul(&values)?; // (C, K)
        let weight = self.var("b_classifier.fcc.weight")?;
        let classes = weight.dim(0)?;
        let flat = representation.reshape((1, classes * k))?;
        let bag = flat.matmul(&weight.reshape((classes, classes * k))?.t()?)?;
        let bag = bag.broadcast_add(self.var("b_classifier.fcc.bias")?)?; // (1, C)
        debug_assert_eq!(attention.dims(), [n, classes]);
        Ok(Aggregated { instances, bag, attention, representation: representation.unsqueeze(0)? })
    }

    /// Half the cross-entropy of the bag's logit and half that of its best instance, mean over
    /// classes.
    pub fn loss(&self, aggregated: &Aggregated, label: &Tensor) -> Result<Tensor> {
        let best = argmax_rows(&aggregated.instances)?;
        let picked: Vec<Tensor> = best
            .iter()
            .enumerate()
            .map(|(class, &row)| aggregated.instances.i((row as usize, class)))
            .collect::<Result<_>>()?;
        let best = Tensor::stack(&picked, 0)?;
        let bag = bce_with_logits(&aggregated.bag.squeeze(0)?, label)?;
        (bag + bce_with_logits(&best, label)?)? * 0.5
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.var(&format!("{name}.weight"))?;
        kernels::linear(x, weight, Some(self.var(&format!("{name}.bias"))?))
    }

    fn var(&self, name: &str) -> Result<&Tensor> {
        let missing = || candle_core::Error::Msg(format!("the aggregator has no tensor `{name}`"));
        self.vars.get(name).map(Var::as_tensor).ok_or_else(missing)
    }
}

/// Mean of `max(x, 0) - x y + ln(1 + exp(-|x|))`.
pub(super) fn bce_with_logits(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let soft = ((logits.abs()?.neg()?.exp()? + 1.0)?).log()?;
    ((logits.relu()? - (logits * labels)?)? + soft)?.mean_all()
}

/// For each column the row of its largest value, the first of equal ones.
fn argmax_rows(scores: &Tensor) -> Result<Vec<u32>> {
    let rows = scores.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let columns = rows.first().map_or(0, Vec::len);
    let best = |column: usize| {
        let mut best = 0;
        for (row, values) in rows.iter().enumerate() {
            if values[column] > rows[best][column] {
                best = row;
            }
        }
        best as u32
    };
    Ok((0..columns).map(best).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregator() -> Aggregator {
        Aggregator::init(6, 1, 1, &Device::Cpu).unwrap()
    }

    fn bag(rows: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * 6).map(|i| ((i * 37 % 19) as f32 - 9.0) / 7.0).collect();
        Tensor::from_vec(values, (rows, 6), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_papers_feature_width_gives_its_parameter_count() {
        // systems of this size: ViT-S (K = 1920) and ViT-B (K = 3840) features, one class
        let count = |k: usize| (k + 1) + QUERY * k + QUERY + k * k + k + (k + 1);
        assert_eq!(count(1920), 3_938_050);
        assert_eq!(count(3840), 15_248_770);
        assert_eq!(aggregator().parameters(), count(6));
    }

    #[test]
    fn attention_over_a_bag_adds_up_to_one() {
        for rows in [1, 2, 9] {
            let out = aggregator().forward(&bag(rows)).unwrap();
            let sum = out.attention.sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!((sum - 1.0).abs() < 1e-6, "{rows}: {sum}");
        }
    }

    #[test]
    fn the_order_of_instances_does_not_matter() {
        let model = aggregator();
        let order = Tensor::new(&[3_u32, 0, 4, 2, 1], &Device::Cpu).unwrap();
        let value = |x: &Tensor| model.forward(x).unwrap().bag.to_vec2::<f32>().unwrap()[0][0];
        let (a, b) = (value(&bag(5)), value(&bag(5).index_select(&order, 0).unwrap()));
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn every_weight_receives_a_gradient() {
        let model = aggregator();
        let out = model.forward(&bag(5)).unwrap();
        let loss = model.loss(&out, &Tensor::new(&[1_f32], &Device::Cpu).unwrap()).unwrap();
        let gradients = loss.backward().unwrap();
        for (name, var) in model.vars() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has none"));
            let size = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 0.0, "{name}");
        }
    }

    #[test]
    fn the_loss_is_torchs_with_logits() {
        let logits = Tensor::new(&[2.0_f32, -3.0], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1.0_f32, 0.0], &Device::Cpu).unwrap();
        let loss = bce_with_logits(&logits, &labels).unwrap().to_scalar::<f32>().unwrap();
        // (ln(1 + e⁻²) + ln(1 + e⁻³)) / 2
        assert!((loss - 0.087_757_68).abs() < 1e-6, "{loss}");
    }
}
