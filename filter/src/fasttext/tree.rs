//! From a line's vector to its best label.

use stage::{Error, Result};

use super::matrix::Matrix;

/// Huffman's tree over the labels, by their counts (`HierarchicalSoftmaxLoss::buildTree`).
#[derive(Debug)]
pub(super) struct Tree {
    labels: usize,
    /// Children of the inner nodes, left and right; below `labels` a node is a leaf.
    children: Vec<(u32, u32)>,
}

/// fastText's guard against the logarithm of 0; added in f64.
const GUARD: f64 = 1e-5;
/// What `tree_[i].count` is before a node is made.
const UNMADE: i64 = 1_000_000_000_000_000;

impl Tree {
    pub(super) fn new(counts: &[i64]) -> Result<Self> {
        let labels = counts.len();
        if labels == 0 || labels > 1 << 24 {
            return Err(Error::input(format!("{labels} labels")));
        }
        let mut all = counts.to_vec();
        let mut children = Vec::with_capacity(labels - 1);
        // Leaves from the last on, made nodes from the first on: both ascend in count.
        let (mut leaf, mut node) = (labels, labels);
        for _ in 1..labels {
            let mut smallest = || {
                let made = all.get(node).copied().unwrap_or(UNMADE);
                if leaf > 0 && all[leaf - 1] < made {
                    leaf -= 1;
                    Some(leaf)
                } else {
                    node += 1;
                    Some(node - 1).filter(|&node| node < all.len())
                }
            };
            let pair = smallest().zip(smallest());
            let (left, right) =
                pair.ok_or_else(|| Error::input("counts of labels that make no tree"))?;
            children.push((left as u32, right as u32));
            all.push(all[left].saturating_add(all[right]));
        }
        Ok(Self { labels, children })
    }

    /// The leaf of the highest probability. The likelier child is looked at first, so that most of
    /// the tree is below the best leaf found and need not be.
    pub(super) fn best(
        &self,
        output: &Matrix,
        vector: &[f32],
        stack: &mut Vec<(u32, f32)>,
    ) -> Option<(usize, f32)> {
        let mut best: Option<(usize, f32)> = None;
        // `predict` leaves out what is below the logarithm of its threshold, 0.
        let floor = log(0.0);
        stack.clear();
        stack.push(((self.labels + self.children.len() - 1) as u32, 0.0));
        while let Some((node, score)) = stack.pop() {
            // A number that is none ends here: there is nothing to compare it with.
            if score.is_nan() || score < floor || best.is_some_and(|(_, best)| score <= best) {
                continue;
            }
            let Some(inner) = (node as usize).checked_sub(self.labels) else {
                best = Some((node as usize, score));
                continue;
            };
            let Some(&(left, right)) = self.children.get(inner) else { continue };
            let odds = libm::expf(-output.dot(inner, vector));
            let right_share = (1.0 / f64::from(1.0 + odds)) as f32;
            let left = (left, score + log((1.0 - f64::from(right_share)) as f32));
            let right = (right, score + log(right_share));
            let (first, second) = if left.1 > right.1 { (left, right) } else { (right, left) };
            stack.extend([second, first]);
        }
        best.map(|(label, score)| (label, libm::expf(score)))
    }
}

fn log(x: f32) -> f32 {
    libm::log(f64::from(x) + GUARD) as f32
}

/// The best label of a softmax (`SoftmaxLoss::computeOutput`), with fastText's guard.
pub(super) fn softmax(output: &Matrix, vector: &[f32]) -> Option<(usize, f32)> {
    let products = || (0..output.rows()).map(|row| output.dot(row, vector));
    let (label, largest) = products().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let sum: f32 = products().map(|product| libm::expf(product - largest)).sum();
    largest.is_finite().then(|| (label, libm::expf(log(1.0 / sum))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_joins_the_two_rarest_first() {
        // Leaves 0..4 with counts 5 3 2 1: 3+2 make 4 (3), 1+4 make 5 (6), 0+5 make the root.
        let tree = Tree::new(&[5, 3, 2, 1]).unwrap();
        assert_eq!(tree.children, [(3, 2), (4, 1), (0, 5)]);
    }

    #[test]
    fn a_vector_that_is_no_number_has_no_label() {
        let tree = Tree::new(&[5, 3, 2, 1]).unwrap();
        let mut file = [3_i64, 1].map(i64::to_le_bytes).concat();
        file.extend([0.5_f32, 0.5, f32::NAN].map(f32::to_le_bytes).concat());
        let output =
            |rows: &[u8]| Matrix::read(&mut super::super::Bytes::new(rows), false, [3, 1]).unwrap();
        let mut stack = Vec::new();
        // The root is the last row.
        assert_eq!(tree.best(&output(&file), &[1.0], &mut stack), None);
        file[24..28].copy_from_slice(&0.5_f32.to_le_bytes());
        assert!(tree.best(&output(&file), &[1.0], &mut stack).is_some());
        assert_eq!(tree.best(&output(&file), &[f32::NAN], &mut stack), None);
    }

    #[test]
    fn counts_beyond_what_fasttext_knows_make_no_tree() {
        assert!(Tree::new(&[]).is_err());
        assert!(Tree::new(&[UNMADE, UNMADE]).is_err());
        assert!(Tree::new(&[1]).unwrap().children.is_empty());
    }
}
