//! Mean average precision of multi-label classification.
//!
//! Source: LAION-AI/CLIP_benchmark `metrics/zeroshot_classification.py`: pictures in descending order
//! of a class's score; precision at each that has the class, averaged over those. A class without
//! such a picture counts as 0 in the mean.

use crate::measure::Measure;

/// Scores and labels of pictures that have any number of classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled {
    /// Number of classes.
    pub classes: usize,
    /// Cosine of every picture with every class, picture by picture.
    pub scores: Vec<f32>,
    /// 1 where the picture has the class, in the same order.
    pub targets: Vec<u8>,
}

impl Labelled {
    /// Number of pictures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scores.len().checked_div(self.classes).unwrap_or(0)
    }

    /// Whether there is no picture.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// `mean_average_precision`; guessing gives the mean share of pictures that have a class.
    #[must_use]
    pub fn measures(&self) -> Vec<Measure<'_>> {
        let positive = self.targets.iter().filter(|t| **t > 0).count();
        let chance = positive as f64 / self.targets.len().max(1) as f64;
        // Sorted once: a bootstrap sample changes how often a picture counts, not its place.
        let orders: Vec<Vec<u32>> = (0..self.classes).map(|class| self.order(class)).collect();
        let mean = move |weights: &[u32]| {
            let each = orders.iter().enumerate();
            let sum: f64 = each.map(|(class, order)| self.precision(class, order, weights)).sum();
            (self.classes > 0).then(|| sum / self.classes as f64)
        };
        vec![Measure::new("mean_average_precision", mean).chance(chance)]
    }

    /// Average precision of each class.
    #[must_use]
    pub fn average_precisions(&self) -> Vec<f64> {
        let ones = vec![1; self.len()];
        (0..self.classes).map(|class| self.precision(class, &self.order(class), &ones)).collect()
    }

    /// Pictures by descending score of a class; of equal scores the lower number comes first.
    fn order(&self, class: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        let score = |i: &u32| self.scores[*i as usize * self.classes + class];
        order.sort_by(|a, b| score(b).total_cmp(&score(a)));
        order
    }

    fn precision(&self, class: usize, order: &[u32], weights: &[u32]) -> f64 {
        let (mut seen, mut right, mut sum) = (0_u64, 0_u64, 0.0);
        for &i in order {
            let i = i as usize;
            let has = self.targets[i * self.classes + class] > 0;
            for _ in 0..weights[i] {
                seen += 1;
                if has {
                    right += 1;
                    sum += right as f64 / seen as f64;
                }
            }
        }
        sum / right.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_taken_at_every_picture_that_has_the_class() {
        // Class 0: order 1, 0, 2; pictures 1 and 2 have it: (1/1 + 2/3) / 2. Class 1: nobody has it.
        let labelled = Labelled {
            classes: 2,
            scores: vec![0.5, 0.0, 0.9, 0.0, 0.1, 0.0],
            targets: vec![0, 0, 1, 0, 1, 0],
        };
        let precisions = labelled.average_precisions();
        assert!((precisions[0] - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(precisions[1], 0.0);
        let measure = &labelled.measures()[0];
        assert_eq!(measure.value(&[1, 1, 1]), Some(precisions[0] / 2.0));
        // Picture 2 never drawn: only picture 1 has the class, and it is first.
        assert_eq!(measure.value(&[1, 1, 0]), Some(0.5));
    }
}
