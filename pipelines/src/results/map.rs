//! The embeddings of an `embed` stage as a map: their first two principal components.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use report::{Block, Figure, Section, scatter};
use stage::Result;
use store::npy;

use super::collect::Scores;
use crate::stages::Done;

/// Points on the map; of more rows every k-th.
const POINTS: usize = 4000;
/// Steps of the power iteration for each component.
const STEPS: usize = 60;

/// The map of an `embed` stage; `judged` says which of its pairs were kept.
pub(super) fn map(done: &Arc<Done>, judged: Option<&Scores>) -> Result<Option<Section>> {
    let (images, tables) = (done.blobs(".npy")?, done.blobs(".parquet")?);
    let Some(image) = images.iter().find(|blob| blob.name().contains("img_emb")) else {
        return Ok(None);
    };
    let array = npy::File::open(image)?;
    let (rows, width) = (array.len(), array.row_len());
    if rows < 3 || width < 2 {
        return Ok(None);
    }
    let every = rows.div_ceil(POINTS);
    let mut vectors = Vec::new();
    for row in (0..rows).step_by(every) {
        vectors.push(array.rows_as_f32(row..row + 1)?);
    }
    let mut uids = Vec::new();
    if let Some(table) = tables.first() {
        for batch in store::read_parquet(table)? {
            let batch = batch?;
            if let Some(uid) = batch.column_by_name("uid").and_then(|c| c.as_string_opt::<i32>()) {
                uids.extend((0..uid.len()).map(|row| uid.value(row).to_owned()));
            }
        }
    }
    let (points, explained) = components(&vectors);
    let kept: HashMap<&str, bool> = judged
        .into_iter()
        .flat_map(|scores| &scores.rows)
        .map(|row| (row.uid.as_str(), row.reason.is_none()))
        .collect();
    let (mut good, mut other) = (Vec::new(), Vec::new());
    for (i, point) in points.into_iter().enumerate() {
        match uids.get(i * every).and_then(|uid| kept.get(uid.as_str())) {
            Some(false) => other.push(point),
            _ => good.push(point),
        }
    }
    let mut groups = vec![("kept".to_owned(), good)];
    if !other.is_empty() {
        groups.push(("dropped by a judge".to_owned(), other));
    }
    let mut section =
        Section::new(&format!("map-{}", done.id), &format!("Map of the pictures: {}", done.id));
    section.say(format!(
        "Image embeddings on their first two principal components, which have {:.0} % of their variance; {} of {rows} pairs.",
        explained * 100.0,
        rows.div_ceil(every)
    ));
    let svg = scatter("principal components of the image embeddings", &groups);
    section.push(Block::Figures(vec![Figure { title: String::new(), svg }]));
    Ok(Some(section))
}

/// The coordinates on the first two principal components, and their share of the variance. Power
/// iteration with deflation from a fixed start; each component points to where its largest entry is
/// positive.
fn components(vectors: &[Vec<f32>]) -> (Vec<(f64, f64)>, f64) {
    let width = vectors.first().map_or(0, Vec::len);
    let mut mean = vec![0.0_f64; width];
    for vector in vectors {
        mean.iter_mut().zip(vector).for_each(|(m, v)| *m += f64::from(*v));
    }
    let count = vectors.len().max(1) as f64;
    mean.iter_mut().for_each(|m| *m /= count);
    let centred: Vec<Vec<f64>> = vectors
        .iter()
        .map(|vector| vector.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let total: f64 = centred.iter().map(|row| dot(row, row)).sum();
    let mut axes: Vec<Vec<f64>> = Vec::new();
    let mut variance = 0.0;
    for _ in 0..2 {
        let mut axis: Vec<f64> = (0..width).map(|i| 1.0 / (i + 1) as f64).collect();
        let mut strength = 0.0;
        for _ in 0..STEPS {
            for known in &axes {
                let along = dot(&axis, known);
                axis.iter_mut().zip(known).for_each(|(a, k)| *a -= along * k);
            }
            let mut next = vec![0.0; width];
            for row in &centred {
                let along = dot(row, &axis);
                next.iter_mut().zip(row).for_each(|(n, r)| *n += along * r);
            }
            strength = dot(&next, &next).sqrt();
            if strength.is_normal() {
                axis = next.iter().map(|n| n / strength).collect();
            } else {
                break;
            }
        }
        let largest =
            axis.iter().copied().fold(0.0, |l: f64, v| if v.abs() > l.abs() { v } else { l });
        if largest < 0.0 {
            axis.iter_mut().for_each(|a| *a = -*a);
        }
        variance += strength;
        axes.push(axis);
    }
    let points = centred.iter().map(|row| (dot(row, &axes[0]), dot(row, &axes[1]))).collect();
    (points, if total > 0.0 { (variance / total).min(1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_is_the_longest_direction() {
        // Ten along the third axis, one along the first.
        let vectors: Vec<Vec<f32>> = [(-10.0, 1.0), (10.0, 1.0), (-10.0, -1.0), (10.0, -1.0)]
            .iter()
            .map(|(z, x)| vec![*x, 5.0, *z])
            .collect();
        let (points, explained) = components(&vectors);
        let rounded: Vec<(i64, i64)> =
            points.iter().map(|(x, y)| (x.round() as i64, y.round() as i64)).collect();
        assert_eq!(rounded, [(-10, 1), (10, 1), (-10, -1), (10, -1)]);
        assert!((explained - 1.0).abs() < 1e-9);
    }

    #[test]
    fn equal_vectors_are_one_point() {
        let (points, explained) = components(&[vec![1.0, 2.0], vec![1.0, 2.0], vec![1.0, 2.0]]);
        assert_eq!((points, explained), (vec![(0.0, 0.0); 3], 0.0));
    }
}
