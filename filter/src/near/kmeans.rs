//! k-means on our matrix product: seeded, the same at any number of threads.
//!
//! Lloyd's algorithm as faiss trains it for DataComp's `image_based`: centroids start as rows drawn
//! without putting back, a fixed number of iterations, nearest by Euclidean distance, centroids
//! not normalised. A cluster without rows takes the row that is farthest from its own centroid
//! (faiss splits a large cluster instead).

use models::inner_products;
use stage::{Context, Dice, Result};

/// Most rows that are assigned at once.
const BLOCK: usize = 2048;
/// Most products that are held at once: 64 MiB.
const PRODUCT: usize = 16 << 20;

/// Centroids, and the nearest one of each row.
pub(super) struct Clustering {
    /// `k` rows of `dim` numbers.
    pub(super) centroids: Vec<f32>,
    /// For each row its cluster.
    pub(super) nearest: Vec<u32>,
}

/// Clusters rows of `dim` numbers into `k`, at most as many as there are rows; `order` ranks the
/// rows independent of the files they came from, so that draws do not depend on those.
pub(super) fn kmeans(
    cx: &Context,
    rows: &[f32],
    dim: usize,
    order: &[usize],
    k: usize,
    iterations: u32,
) -> Result<Clustering> {
    let k = k.min(order.len());
    let drawn = Dice::new(cx.seed).choose(order, k);
    let mut centroids: Vec<f32> =
        drawn.iter().flat_map(|row| &rows[row * dim..(row + 1) * dim]).copied().collect();
    for iteration in 0..iterations {
        cx.cancel.check()?;
        cx.progress.update(u64::from(iteration), u64::from(iterations), "iterations");
        let assigned = assign(cx, rows, dim, &centroids)?;
        update(rows, dim, &assigned, &mut centroids, order);
    }
    let nearest = assign(cx, rows, dim, &centroids)?;
    let nearest = nearest.into_iter().map(|(cluster, _)| cluster).collect();
    Ok(Clustering { centroids, nearest })
}

/// The nearest centroid of each row and how far it is: `|c|² - 2 x·c`, without the row's own
/// length.
fn assign(cx: &Context, rows: &[f32], dim: usize, centroids: &[f32]) -> Result<Vec<(u32, f32)>> {
    let squares: Vec<f32> = centroids.chunks_exact(dim).map(square).collect();
    let mut nearest = Vec::with_capacity(rows.len() / dim);
    for block in rows.chunks(block_rows(squares.len()) * dim) {
        cx.cancel.check()?;
        let products = inner_products(block, centroids, dim)?;
        for products in products.chunks_exact(squares.len()) {
            let far = products.iter().zip(&squares).map(|(product, square)| square - 2.0 * product);
            let mut best = (0, f32::INFINITY);
            for (cluster, far) in far.enumerate() {
                if far < best.1 {
                    best = (cluster as u32, far);
                }
            }
            nearest.push(best);
        }
    }
    Ok(nearest)
}

/// Rows of a block for `k` centroids.
fn block_rows(k: usize) -> usize {
    (PRODUCT / k.max(1)).clamp(1, BLOCK)
}

fn square(row: &[f32]) -> f32 {
    row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() as f32
}

/// The mean of each cluster, in the order `order` of its rows.
fn update(
    rows: &[f32],
    dim: usize,
    assigned: &[(u32, f32)],
    centroids: &mut [f32],
    order: &[usize],
) {
    let k = centroids.len() / dim;
    let (mut sums, mut sizes) = (vec![0f64; k * dim], vec![0u64; k]);
    for &row in order {
        let cluster = assigned[row].0 as usize;
        sizes[cluster] += 1;
        let sum = &mut sums[cluster * dim..(cluster + 1) * dim];
        sum.iter_mut().zip(&rows[row * dim..]).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    for (cluster, size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
        let range = cluster * dim..(cluster + 1) * dim;
        for (out, sum) in centroids[range.clone()].iter_mut().zip(&sums[range]) {
            *out = (sum / *size as f64) as f32;
        }
    }
    let empty: Vec<usize> = (0..k).filter(|cluster| sizes[*cluster] == 0).collect();
    if empty.is_empty() {
        return;
    }
    // The rows' own lengths are 1, so that the distance without them ranks alike.
    let mut far: Vec<usize> = order.to_vec();
    far.sort_by(|a, b| assigned[*b].1.total_cmp(&assigned[*a].1));
    for (cluster, row) in empty.into_iter().zip(far) {
        centroids[cluster * dim..(cluster + 1) * dim]
            .copy_from_slice(&rows[row * dim..(row + 1) * dim]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_heaps_are_three_clusters_whatever_the_order_of_the_rows() {
        let heap = |x: f32, y: f32| [(x, y), (x + 0.01, y), (x, y + 0.01), (x + 0.01, y + 0.01)];
        let points: Vec<(f32, f32)> = [heap(1.0, 0.0), heap(0.0, 1.0), heap(-1.0, 0.0)].concat();
        let rows: Vec<f32> = points.iter().flat_map(|(x, y)| [*x, *y]).collect();
        let order: Vec<usize> = (0..12).collect();
        let cx = Context { seed: 3, ..Context::default() };
        let found = kmeans(&cx, &rows, 2, &order, 3, 20).unwrap();
        for heap in found.nearest.chunks_exact(4) {
            assert!(heap.iter().all(|cluster| *cluster == heap[0]), "{:?}", found.nearest);
        }
        let mut seen: Vec<u32> = found.nearest.iter().step_by(4).copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        let c = found.nearest[0] as usize;
        assert!((found.centroids[c * 2] - 1.005).abs() < 1e-6);

        // The rows turned round, ranked as before: the same clusters bit for bit.
        let turned: Vec<f32> = points.iter().rev().flat_map(|(x, y)| [*x, *y]).collect();
        let order: Vec<usize> = (0..12).rev().collect();
        let again = kmeans(&cx, &turned, 2, &order, 3, 20).unwrap();
        assert_eq!(again.centroids, found.centroids);
    }

    #[test]
    fn a_block_shrinks_as_clusters_grow_and_an_interruption_is_seen_between_blocks() {
        assert_eq!([1, 8192, 100_000, 1_000_000].map(block_rows), [2048, 2048, 167, 16]);
        let cx = Context::default();
        cx.cancel.cancel();
        let error = assign(&cx, &[1.0, 0.0], 2, &[1.0, 0.0]).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Interrupted);
    }

    #[test]
    fn more_clusters_than_rows_are_as_many_as_rows_and_none_stays_empty() {
        let rows = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let cx = Context::default();
        let found = kmeans(&cx, &rows, 2, &[0, 1, 2], 9, 5).unwrap();
        assert_eq!(found.centroids.len(), 6);
    }
}
