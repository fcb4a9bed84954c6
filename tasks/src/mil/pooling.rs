//! The two simplest ways to see a bag, which the aggregator has to beat.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};

/// How instances become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// A linear classifier of the mean feature.
    Mean,
    /// The best score of a linear classifier of each instance.
    Max,
}

/// A linear classifier behind a pooling.
pub struct Pooling {
    pool: Pool,
    vars: BTreeMap<String, Var>,
}

impl Pooling {
    /// Zero weights: the problem is convex for the mean, and the maximum starts without a
    /// favourite.
    pub fn init(pool: Pool, features: usize, device: &Device) -> Result<Self> {
        let zeros = |shape: &[usize]| Var::zeros(shape, candle_core::DType::F32, device);
        let vars = BTreeMap::from([
            ("weight".to_owned(), zeros(&[1, features])?),
            ("bias".to_owned(), zeros(&[1])?),
        ]);
        Ok(Self { pool, vars })
    }

    /// The weights, by name.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Instance scores, (N, 1).
    pub fn instances(&self, bag: &Tensor) -> Result<Tensor> {
        kernels::linear(bag, &self.vars["weight"], Some(self.vars["bias"].as_tensor()))
    }

    /// The bag's logit, (1).
    pub fn forward(&self, bag: &Tensor) -> Result<Tensor> {
        match self.pool {
            Pool::Mean => self.instances(&bag.mean_keepdim(0)?)?.squeeze(1),
            Pool::Max => {
                let scores = self.instances(bag)?.squeeze(1)?;
                let values = scores.to_vec1::<f32>()?;
                let best = (0..values.len())
                    .fold(0, |best, i| if values[i] > values[best] { i } else { best });
                scores.narrow(0, best, 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_sends_its_gradient_to_one_instance() {
        let pooling = Pooling::init(Pool::Max, 2, &Device::Cpu).unwrap();
        let ones = Tensor::ones((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        pooling.vars()["weight"].set(&ones).unwrap();
        let bag = Tensor::new(&[[0.0_f32, 1.0], [3.0, 2.0]], &Device::Cpu).unwrap();
        let logit = pooling.forward(&bag).unwrap();
        assert_eq!(logit.to_vec1::<f32>().unwrap(), [5.0]);
        let gradients = logit.backward().unwrap();
        let gradient = gradients.get(&pooling.vars()["weight"]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[3.0, 2.0]]);
    }
}
