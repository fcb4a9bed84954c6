//! Image-text retrieval: recall@k both ways, in memory that grows with the pictures and not with
//! their square.
//!
//! Source: LAION-AI/CLIP_benchmark `metrics/zeroshot_retrieval.py`: a query is a hit when at least
//! one of its positives is among the best k. There all scores are held at once; here a block of
//! captions meets a block of pictures, and every query keeps its best k so far.

use stage::{Cancel, Result};

use crate::matrix::{Matrix, tile};
use crate::measure::Measure;

/// Captions of a block.
const TEXTS: usize = 1024;
/// Pictures of a block: a tile of scores is 16 MiB.
const IMAGES: usize = 4096;

/// Where the first positive of each query came; none where it is not among the best k.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retrieved {
    /// For each picture, the place of its best caption.
    pub images: Vec<Option<u32>>,
    /// For each caption, its picture.
    pub owners: Vec<u32>,
    /// For each caption, the place of its picture.
    pub texts: Vec<Option<u32>>,
}

/// Ranks L2-normalised pictures and captions against each other, down to place `most` (at least 1).
/// `owners[caption]` is the picture that the caption belongs to. Of equal scores the candidate of
/// the lower number comes first.
///
/// # Errors
/// When the widths differ, or an interruption.
pub fn retrieve(
    images: &Matrix,
    texts: &Matrix,
    owners: Vec<u32>,
    most: usize,
    cancel: &Cancel,
) -> Result<Retrieved> {
    if images.is_empty() || texts.is_empty() {
        let (images, texts) = (vec![None; images.len()], vec![None; texts.len()]);
        return Ok(Retrieved { images, owners, texts });
    }
    let (pictures, captions) = (images.tensor()?, texts.tensor()?);
    let mut best_images = Best::new(texts.len(), most.min(images.len()));
    let mut best_texts = Best::new(images.len(), most.min(texts.len()));
    for text in (0..texts.len()).step_by(TEXTS) {
        cancel.check()?;
        let rows = TEXTS.min(texts.len() - text);
        for image in (0..images.len()).step_by(IMAGES) {
            let columns = IMAGES.min(images.len() - image);
            let scores = tile(&captions, &pictures, (text, image), (rows, columns))?;
            for (row, scores) in scores.chunks_exact(columns).enumerate() {
                let caption = text + row;
                for (column, &score) in scores.iter().enumerate() {
                    best_images.offer(caption, image + column, score);
                    best_texts.offer(image + column, caption, score);
                }
            }
        }
    }
    let place = |of: Vec<u32>, right: &dyn Fn(u32) -> bool| {
        of.into_iter().position(right).map(|place| place as u32)
    };
    let of_images = (0..images.len())
        .map(|i| place(best_texts.of(i), &|text| owners[text as usize] as usize == i));
    let of_texts = owners.iter().enumerate();
    let of_texts = of_texts.map(|(t, owner)| place(best_images.of(t), &|image| image == *owner));
    let (of_images, of_texts) = (of_images.collect(), of_texts.collect());
    Ok(Retrieved { images: of_images, texts: of_texts, owners })
}

/// The best candidates of each query so far, worst first.
struct Best {
    k: usize,
    /// Score and candidate, `k` places a query.
    places: Vec<(f32, u32)>,
    /// Score of each query's worst place: what a candidate must beat.
    bars: Vec<f32>,
}

impl Best {
    fn new(queries: usize, k: usize) -> Self {
        let k = k.max(1);
        let places = vec![(f32::NEG_INFINITY, u32::MAX); queries * k];
        Self { k, places, bars: vec![f32::NEG_INFINITY; queries] }
    }

    /// Candidates come in ascending order, so that an equal score never displaces an earlier one.
    #[inline]
    fn offer(&mut self, query: usize, candidate: usize, score: f32) {
        if score > self.bars[query] {
            self.insert(query, candidate, score);
        }
    }

    fn insert(&mut self, query: usize, candidate: usize, score: f32) {
        let places = &mut self.places[query * self.k..(query + 1) * self.k];
        let mut at = 0;
        while at + 1 < places.len() && score > places[at + 1].0 {
            places[at] = places[at + 1];
            at += 1;
        }
        places[at] = (score, candidate as u32);
        self.bars[query] = places[0].0;
    }

    /// Candidates of a query, best first.
    fn of(&self, query: usize) -> Vec<u32> {
        let places = &self.places[query * self.k..(query + 1) * self.k];
        places.iter().rev().map(|(_, candidate)| *candidate).collect()
    }
}

impl Retrieved {
    /// `image_retrieval_recall@k` (captions find their picture), `text_retrieval_recall@k` (pictures
    /// find a caption) for each k, and the mean of the two at 1. A unit is a picture with its
    /// captions; the candidates stay whole in a bootstrap sample. Guessing finds one of n with
    /// probability k / n, and a picture's captions in proportion to their number.
    #[must_use]
    pub fn measures<'a>(&'a self, ks: &[usize]) -> Vec<Measure<'a>> {
        let (pictures, captions) =
            (self.images.len().max(1) as f64, self.texts.len().max(1) as f64);
        let mut measures = Vec::new();
        for &k in ks {
            let chance = (k as f64 / pictures).min(1.0);
            measures.push(
                Measure::new(format!("image_retrieval_recall@{k}"), move |w| {
                    self.image_recall(w, k)
                })
                .chance(chance),
            );
            let chance = (k as f64 * (captions / pictures) / captions).min(1.0);
            measures.push(
                Measure::new(format!("text_retrieval_recall@{k}"), move |w| self.text_recall(w, k))
                    .chance(chance),
            );
        }
        if ks.contains(&1) {
            measures.push(
                Measure::new("mean_recall@1", |w| {
                    Some(f64::midpoint(self.image_recall(w, 1)?, self.text_recall(w, 1)?))
                })
                .chance(1.0 / pictures),
            );
        }
        measures
    }

    fn image_recall(&self, weights: &[u32], k: usize) -> Option<f64> {
        let (mut hits, mut all) = (0_u64, 0_u64);
        for (owner, place) in self.owners.iter().zip(&self.texts) {
            let weight = u64::from(weights[*owner as usize]);
            all += weight;
            hits += if within(*place, k) { weight } else { 0 };
        }
        (all > 0).then(|| hits as f64 / all as f64)
    }

    fn text_recall(&self, weights: &[u32], k: usize) -> Option<f64> {
        crate::measure::share(weights, |i| within(self.images[i], k))
    }
}

fn within(place: Option<u32>, k: usize) -> bool {
    place.is_some_and(|place| (place as usize) < k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalls(
        images: &[&[f32]],
        texts: &[&[f32]],
        owners: &[u32],
        ks: &[usize],
    ) -> Vec<(String, f64, f64)> {
        let (images, texts) = (
            Matrix::of_normalized(images.iter().copied()),
            Matrix::of_normalized(texts.iter().copied()),
        );
        let most = ks.iter().copied().max().unwrap();
        let found = retrieve(&images, &texts, owners.to_vec(), most, &Cancel::default()).unwrap();
        let ones = vec![1; images.len()];
        let values = found.measures(ks).into_iter();
        values.map(|m| (m.name.clone(), m.value(&ones).unwrap(), m.chance.unwrap())).collect()
    }

    #[test]
    fn one_hit_among_several_captions_is_enough() {
        // Picture 0 has captions 0 (wrong way) and 1 (right); picture 1 has caption 2.
        let got = recalls(
            &[&[1.0, 0.0], &[0.0, 1.0]],
            &[&[0.0, 1.0], &[1.0, 0.0], &[0.1, 0.9]],
            &[0, 0, 1],
            &[1],
        );
        assert_eq!(got[0].0, "image_retrieval_recall@1");
        assert!((got[0].1 - 2.0 / 3.0).abs() < 1e-12 && got[0].2 == 0.5);
        // Picture 1 finds caption 0, which is not its own.
        assert_eq!(got[1], ("text_retrieval_recall@1".to_owned(), 0.5, 0.5));
        assert!((got[2].1 - f64::midpoint(0.5, 2.0 / 3.0)).abs() < 1e-12);
        assert_eq!(got[2].0, "mean_recall@1");
    }

    #[test]
    fn of_equal_scores_the_candidate_of_the_lower_number_comes_first() {
        let same: &[f32] = &[1.0, 0.0];
        let got = recalls(&[same, same], &[same, same], &[0, 1], &[1, 2]);
        let values: Vec<f64> = got.iter().map(|(_, value, _)| *value).collect();
        assert_eq!(values, [0.5, 0.5, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn a_picture_without_a_caption_is_a_miss() {
        let got = recalls(&[&[1.0, 0.0], &[0.0, 1.0]], &[&[1.0, 0.0]], &[0], &[1]);
        assert_eq!((got[0].1, got[1].1), (1.0, 0.5));
    }

    #[test]
    fn blocks_give_what_the_whole_matrix_gives() {
        // More than one block both ways, against all scores at once.
        let mut dice = stage::Dice::new(3);
        let mut row = || -> Vec<f32> { (0..4).map(|_| dice.unit() as f32 - 0.5).collect() };
        let images: Vec<Vec<f32>> = (0..IMAGES + 7).map(|_| row()).collect();
        let texts: Vec<Vec<f32>> = (0..TEXTS + 5).map(|_| row()).collect();
        let owners: Vec<u32> =
            (0..texts.len() as u32).map(|t| t * 4 % images.len() as u32).collect();
        let images = Matrix::of_normalized(images.iter().map(Vec::as_slice));
        let texts = Matrix::of_normalized(texts.iter().map(Vec::as_slice));
        let found = retrieve(&images, &texts, owners.clone(), 10, &Cancel::default()).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        for t in (0..texts.len()).step_by(37) {
            let scores: Vec<f32> = images.rows().map(|image| dot(texts.row(t), image)).collect();
            let rank = crate::classification::rank(&scores, owners[t] as usize);
            assert_eq!(found.texts[t], (rank < 10).then_some(rank as u32), "caption {t}");
        }
    }
}
