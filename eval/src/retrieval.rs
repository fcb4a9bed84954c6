//! Image-text retrieval: recall@k both ways.
//!
//! Source: LAION-AI/CLIP_benchmark `metrics/zeroshot_retrieval.py`: a query is a hit when at least
//! one of its positives is among the best k.

use crate::classification::rank;

/// Share of queries with a positive among their best `k`.
///
/// `scores[query][candidate]`; `positives[query]` lists the candidates that are right. Of equal
/// scores the candidate of the lower number comes first. A query without a positive is a miss.
#[must_use]
pub fn recall_at_k(scores: &[Vec<f32>], positives: &[Vec<usize>], k: usize) -> f64 {
    let ranks = scores.iter().zip(positives).map(|(scores, right)| best_rank(scores, right));
    share(ranks, k)
}

/// The two ways of one set of pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Recall {
    /// The k.
    pub k: usize,
    /// Captions that find their picture.
    pub image_retrieval: f64,
    /// Pictures that find one of their captions.
    pub text_retrieval: f64,
    /// What guessing gives for captions: k / pictures.
    pub image_chance: f64,
    /// What guessing gives for pictures with the mean number of captions: about k / captions each.
    pub text_chance: f64,
}

/// Recall of L2-normalised features; `owner[text]` is the picture of each caption.
///
/// Rows of scores are made one at a time, so the memory is that of the features, not their square.
#[must_use]
pub fn recalls(
    images: &[Vec<f32>],
    texts: &[Vec<f32>],
    owner: &[usize],
    ks: &[usize],
) -> Vec<Recall> {
    let mut captions: Vec<Vec<usize>> = vec![Vec::new(); images.len()];
    for (text, &image) in owner.iter().enumerate() {
        captions[image].push(text);
    }
    let by_text = ranks(texts, images, |text| vec![owner[text]]);
    let by_image = ranks(images, texts, |image| captions[image].clone());
    let each = texts.len() as f64 / images.len().max(1) as f64;
    ks.iter()
        .map(|&k| Recall {
            k,
            image_retrieval: share(by_text.iter().copied(), k),
            text_retrieval: share(by_image.iter().copied(), k),
            image_chance: (k as f64 / images.len().max(1) as f64).min(1.0),
            text_chance: (k as f64 * each / texts.len().max(1) as f64).min(1.0),
        })
        .collect()
}

fn ranks(
    queries: &[Vec<f32>],
    candidates: &[Vec<f32>],
    positives: impl Fn(usize) -> Vec<usize>,
) -> Vec<usize> {
    queries
        .iter()
        .enumerate()
        .map(|(i, query)| {
            let scores: Vec<f32> = candidates.iter().map(|c| dot(query, c)).collect();
            best_rank(&scores, &positives(i))
        })
        .collect()
}

/// Rank of the best positive, from 0.
fn best_rank(scores: &[f32], positives: &[usize]) -> usize {
    positives.iter().map(|&p| rank(scores, p)).min().unwrap_or(usize::MAX)
}

fn share(ranks: impl ExactSizeIterator<Item = usize>, k: usize) -> f64 {
    let count = ranks.len().max(1) as f64;
    ranks.filter(|rank| *rank < k).count() as f64 / count
}

/// Inner product; equal lengths.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hit_among_several_captions_is_enough() {
        let images = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        let texts = vec![vec![0.0, 1.0], vec![1.0, 0.0], vec![0.1, 0.9]];
        // Picture 0 has captions 0 (wrong way) and 1 (right); picture 1 has caption 2.
        let got = &recalls(&images, &texts, &[0, 0, 1], &[1])[0];
        assert_eq!(got.text_retrieval, 0.5); // picture 1 finds caption 0, which is not its own
        assert!((got.image_retrieval - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(got.image_chance, 0.5);
    }

    #[test]
    fn a_query_without_a_positive_is_a_miss() {
        assert_eq!(recall_at_k(&[vec![1.0]], &[vec![]], 1), 0.0);
    }
}
