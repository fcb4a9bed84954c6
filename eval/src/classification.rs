//! Zero-shot classification: a classifier out of prompts, and how well it does.
//!
//! Source: LAION-AI/CLIP_benchmark `metrics/zeroshot_classification.py`.

use crate::retrieval::dot;

/// The classifier: one L2-normalised row a class.
///
/// `prompts[class]` holds the text features of that class's prompts; each is normalised, then
/// their mean, then that again.
#[must_use]
pub fn classifier(prompts: &[Vec<Vec<f32>>]) -> Vec<Vec<f32>> {
    prompts.iter().map(|features| class_embedding(features)).collect()
}

fn class_embedding(features: &[Vec<f32>]) -> Vec<f32> {
    let width = features.first().map_or(0, Vec::len);
    let mut mean = vec![0.0_f32; width];
    for feature in features {
        for (sum, value) in mean.iter_mut().zip(normalized(feature)) {
            *sum += value / features.len() as f32;
        }
    }
    normalized(&mean)
}

/// Divided by its length; a zero vector stays zero.
#[must_use]
pub fn normalized(feature: &[f32]) -> Vec<f32> {
    let norm = feature.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    if norm == 0.0 { feature.to_vec() } else { feature.iter().map(|v| v / norm).collect() }
}

/// What a classifier got right.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Share of pictures whose best class is theirs.
    pub acc1: f64,
    /// Share of pictures whose class is among the best five; none with fewer than five classes.
    pub acc5: Option<f64>,
    /// Mean over the classes that occur of the share of their pictures that are right.
    pub mean_per_class_recall: f64,
    /// Share of the commonest class: what answering always the same gives.
    pub majority: f64,
}

/// Scores L2-normalised image features against a classifier.
///
/// Of equal scores the class of the lower number wins.
#[must_use]
pub fn accuracy(images: &[Vec<f32>], labels: &[usize], classifier: &[Vec<f32>]) -> Accuracy {
    let classes = classifier.len();
    let (mut right, mut total) = (vec![0_u64; classes], vec![0_u64; classes]);
    let mut top5 = 0_u64;
    for (image, &label) in images.iter().zip(labels) {
        let scores: Vec<f32> = classifier.iter().map(|class| dot(image, class)).collect();
        let rank = rank(&scores, label);
        total[label] += 1;
        right[label] += u64::from(rank == 0);
        top5 += u64::from(rank < 5);
    }
    let count = images.len().max(1) as f64;
    let recalls: Vec<f64> = right
        .iter()
        .zip(&total)
        .filter(|(_, t)| **t > 0)
        .map(|(r, t)| *r as f64 / *t as f64)
        .collect();
    Accuracy {
        acc1: right.iter().sum::<u64>() as f64 / count,
        acc5: (classes >= 5).then(|| top5 as f64 / count),
        mean_per_class_recall: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
        majority: total.iter().max().copied().unwrap_or(0) as f64 / count,
    }
}

/// How many scores come before this one; all, where it is no number.
pub(crate) fn rank(scores: &[f32], of: usize) -> usize {
    let own = scores[of];
    if own.is_nan() {
        return scores.len();
    }
    scores.iter().enumerate().filter(|&(i, &s)| s > own || (s == own && i < of)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_is_normalised_before_the_mean() {
        let classes = classifier(&[vec![vec![10.0, 0.0], vec![0.0, 1.0]]]);
        let half = 0.5_f32.sqrt();
        assert!((classes[0][0] - half).abs() < 1e-6 && (classes[0][1] - half).abs() < 1e-6);
    }

    #[test]
    fn recall_is_averaged_over_the_classes_that_occur() {
        let classifier = vec![vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]];
        let images = vec![
            vec![1.0, 0.0, 0.0],
            vec![1.0, 0.0, 0.0],
            vec![1.0, 0.0, 0.0],
            vec![0.0, 1.0, 0.0],
        ];
        let got = accuracy(&images, &[0, 0, 1, 1], &classifier);
        assert_eq!(got.acc1, 0.75);
        assert_eq!(got.mean_per_class_recall, 0.75);
        assert_eq!(got.acc5, None);
        assert_eq!(got.majority, 0.5);
    }

    #[test]
    fn a_score_that_is_no_number_is_last() {
        assert_eq!(rank(&[f32::NAN, f32::NAN], 0), 2);
        assert_eq!(rank(&[0.1, f32::NAN], 0), 0);
    }

    #[test]
    fn of_equal_scores_the_lower_class_wins() {
        assert_eq!(rank(&[0.5, 0.5], 1), 1);
        assert_eq!(rank(&[0.5, 0.5], 0), 0);
    }
}
