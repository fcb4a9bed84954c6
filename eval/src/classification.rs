//! Zero-shot classification: a classifier out of prompts, and how well it does.
//!
//! Source: LAION-AI/CLIP_benchmark `metrics/zeroshot_classification.py`.

use candle_core::Tensor;
use stage::Result;

use crate::matrix::{Matrix, tile};
use crate::measure::{Measure, share};
use crate::outcome::Shape;

/// Pictures that are scored at a time.
const BLOCK: usize = 1024;
/// The k of acc5.
const TOP: u32 = 5;

/// The classifier: one L2-normalised row a class.
///
/// `prompts[class]` holds the text features of that class's prompts; each is normalised, then
/// their mean, then that again.
#[must_use]
pub fn classifier(prompts: &[Vec<Vec<f32>>]) -> Matrix {
    let mut classifier = Matrix::default();
    for features in prompts {
        classifier.push_normalized(&mean(features));
    }
    classifier
}

/// Mean of the normalised features.
pub(crate) fn mean(features: &[Vec<f32>]) -> Vec<f32> {
    let width = features.first().map_or(0, Vec::len);
    let mut mean = vec![0.0_f32; width];
    for feature in features {
        for (sum, value) in mean.iter_mut().zip(normalized(feature)) {
            *sum += value / features.len() as f32;
        }
    }
    mean
}

/// Divided by its length; a zero vector stays zero.
#[must_use]
pub fn normalized(feature: &[f32]) -> Vec<f32> {
    let norm = feature.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    if norm == 0.0 { feature.to_vec() } else { feature.iter().map(|v| v / norm).collect() }
}

/// Gives each picture's scores (cosine with every class) to `each`, in order.
///
/// # Errors
/// When the widths differ.
pub fn score(
    images: &Matrix,
    classifier: &Matrix,
    mut each: impl FnMut(usize, &[f32]),
) -> Result<()> {
    if images.is_empty() || classifier.is_empty() {
        return Ok(());
    }
    let (pictures, classes): (Tensor, Tensor) = (images.tensor()?, classifier.tensor()?);
    let mut start = 0;
    while start < images.len() {
        let count = BLOCK.min(images.len() - start);
        let scores = tile(&pictures, &classes, (start, 0), (count, classifier.len()))?;
        for (i, row) in scores.chunks_exact(classifier.len()).enumerate() {
            each(start + i, row);
        }
        start += count;
    }
    Ok(())
}

/// Scores before this one; all, where it is no number. Of equal scores the lower number comes first.
pub(crate) fn rank(scores: &[f32], of: usize) -> usize {
    let own = scores[of];
    if own.is_nan() {
        return scores.len();
    }
    scores.iter().enumerate().filter(|&(i, &s)| s > own || (s == own && i < of)).count()
}

/// The class of the highest score.
pub(crate) fn best(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    best as u32
}

/// What a classifier said of each picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Classified {
    /// The class of each picture.
    pub labels: Vec<u32>,
    /// The class that scored highest.
    pub predicted: Vec<u32>,
    /// Place of the right class among the scores, from 0.
    pub ranks: Vec<u32>,
}

impl Classified {
    /// Classifies L2-normalised pictures; every label must be below the number of classes.
    ///
    /// # Errors
    /// When the widths differ.
    pub fn new(images: &Matrix, labels: Vec<u32>, classifier: &Matrix) -> Result<Self> {
        let mut found = Self { labels, ..Self::default() };
        let Self { labels, predicted, ranks } = &mut found;
        score(images, classifier, |i, scores| {
            predicted.push(best(scores));
            ranks.push(rank(scores, labels[i] as usize) as u32);
        })?;
        Ok(found)
    }

    /// acc1, acc5 and mean per class recall, with what guessing gives; then what `shape` asks for
    /// beyond them.
    #[must_use]
    pub fn measures<'a>(&'a self, shape: &'a Shape, metadata: &'a [Vec<i64>]) -> Vec<Measure<'a>> {
        let (ranks, classes) = (&self.ranks, shape.classes.len());
        let even = 1.0 / classes.max(1) as f64;
        let mut measures = vec![
            Measure::new("acc1", move |w| share(w, |i| ranks[i] == 0)).chance(even),
            Measure::new("acc5", move |w| {
                share(w, |i| ranks[i] < TOP).filter(|_| classes >= TOP as usize)
            })
            .chance((f64::from(TOP) * even).min(1.0)),
            Measure::new("mean_per_class_recall", move |w| self.mean_recall(w, classes))
                .chance(even),
        ];
        if shape.rules.macro_average {
            measures.push(Measure::new("acc_avg", move |w| share(w, |i| ranks[i] == 0)));
            measures.push(Measure::new("recall-macro_all", move |w| self.mean_recall(w, classes)));
            measures.push(Measure::new("F1-macro_all", move |w| self.mean_f1(w, classes)));
        }
        measures.extend(crate::groups::measures(
            &shape.rules,
            metadata,
            &|| move |i: usize| ranks[i] == 0,
            &|| move |i: usize| ranks[i] < TOP,
        ));
        measures
    }

    /// Mean over the classes that occur of the share of their pictures that are right.
    #[must_use]
    pub fn mean_recall(&self, weights: &[u32], classes: usize) -> Option<f64> {
        let tallies = self.tallies(weights, classes);
        mean_of(tallies.iter().filter(|t| t.truth > 0).map(|t| t.right as f64 / t.truth as f64))
    }

    /// Mean over the classes that occur of F1 = 2 right / (pictures + answers).
    #[must_use]
    pub fn mean_f1(&self, weights: &[u32], classes: usize) -> Option<f64> {
        let tallies = self.tallies(weights, classes);
        let f1 = |t: &Tally| 2.0 * t.right as f64 / (t.truth + t.answers) as f64;
        mean_of(tallies.iter().filter(|t| t.truth > 0).map(f1))
    }

    /// Pictures, answers and right answers of each class.
    pub(crate) fn tallies(&self, weights: &[u32], classes: usize) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); classes];
        for ((&label, &predicted), &weight) in
            self.labels.iter().zip(&self.predicted).zip(weights).filter(|(_, w)| **w > 0)
        {
            let weight = u64::from(weight);
            if let Some(tally) = tallies.get_mut(label as usize) {
                tally.truth += weight;
                tally.right += if label == predicted { weight } else { 0 };
            }
            if let Some(tally) = tallies.get_mut(predicted as usize) {
                tally.answers += weight;
            }
        }
        tallies
    }
}

/// Counts of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) truth: u64,
    pub(crate) answers: u64,
    pub(crate) right: u64,
}

fn mean_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_is_normalised_before_the_mean() {
        let classes = classifier(&[vec![vec![10.0, 0.0], vec![0.0, 1.0]]]);
        let half = 0.5_f32.sqrt();
        let row = classes.row(0);
        assert!((row[0] - half).abs() < 1e-6 && (row[1] - half).abs() < 1e-6);
    }

    fn three_classes() -> Classified {
        let axes: [&[f32]; 3] = [&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 0.0, 1.0]];
        let pictures = Matrix::of_normalized([axes[0], axes[0], axes[0], axes[1]]);
        Classified::new(&pictures, vec![0, 0, 1, 1], &Matrix::of_normalized(axes)).unwrap()
    }

    #[test]
    fn recall_is_averaged_over_the_classes_that_occur() {
        let shape = Shape { classes: vec![String::new(); 3], ..Shape::default() };
        let found = three_classes();
        let values: Vec<(String, Option<f64>)> = found
            .measures(&shape, &[])
            .iter()
            .map(|m| (m.name.clone(), m.value(&[1, 1, 1, 1])))
            .collect();
        assert_eq!(
            values,
            [
                ("acc1".into(), Some(0.75)),
                ("acc5".into(), None),
                ("mean_per_class_recall".into(), Some(0.75))
            ]
        );
        assert_eq!(found.predicted, [0, 0, 0, 1]);
    }

    #[test]
    fn f1_counts_wrong_answers_against_the_class_that_was_answered() {
        // Class 0: 2 pictures, 3 answers, 2 right: 4/5. Class 1: 2, 1, 1: 2/3. Class 2 never occurs.
        let got = three_classes().mean_f1(&[1, 1, 1, 1], 3).unwrap();
        assert!((got - f64::midpoint(0.8, 2.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn a_score_that_is_no_number_is_last() {
        assert_eq!(rank(&[f32::NAN, f32::NAN], 0), 2);
        assert_eq!(rank(&[0.1, f32::NAN], 0), 0);
    }

    #[test]
    fn of_equal_scores_the_lower_class_wins() {
        assert_eq!((rank(&[0.5, 0.5], 1), rank(&[0.5, 0.5], 0), best(&[0.5, 0.5])), (1, 0, 0));
    }
}
