//! Area under the ROC curve.

/// The probability that a positive scores above a negative, ties counting half: scikit-learn's
/// `roc_auc_score`. None where only one label occurs.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn roc_auc(scores: &[f32], labels: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), labels.len(), "one label a score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let positives = labels.iter().filter(|l| **l).count() as u64;
    let negatives = labels.len() as u64 - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    // Twice the number of (negative, positive) pairs in the right order, ties once.
    let (mut twice, mut below, mut i) = (0_u64, 0_u64, 0);
    while i < order.len() {
        let tied = order[i..].iter().take_while(|&&j| scores[j] == scores[order[i]]).count().max(1);
        let group = &order[i..i + tied];
        let p = group.iter().filter(|&&j| labels[j]).count() as u64;
        let n = tied as u64 - p;
        twice += p * (2 * below + n);
        below += n;
        i += tied;
    }
    Some(twice as f64 / (2 * positives * negatives) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_order_is_one_and_a_tie_is_a_half() {
        assert_eq!(roc_auc(&[0.1, 0.2, 0.8, 0.9], &[false, false, true, true]), Some(1.0));
        assert_eq!(roc_auc(&[0.5, 0.5], &[false, true]), Some(0.5));
        assert_eq!(roc_auc(&[0.9, 0.1], &[false, true]), Some(0.0));
    }

    #[test]
    fn it_is_the_share_of_pairs_in_order_with_ties_half() {
        // 3 positives, 3 negatives: of 9 pairs 6 in order, 1 tied.
        let scores = [0.2, 0.4, 0.4, 0.6, 0.7, 0.1];
        let labels = [false, false, true, true, false, true];
        let mut pairs = 0.0;
        for (p, _) in labels.iter().enumerate().filter(|(_, l)| **l) {
            for (n, _) in labels.iter().enumerate().filter(|(_, l)| !**l) {
                pairs += if scores[p] > scores[n] {
                    1.0
                } else if scores[p] == scores[n] {
                    0.5
                } else {
                    0.0
                };
            }
        }
        assert_eq!(roc_auc(&scores, &labels), Some(pairs / 9.0));
    }

    #[test]
    fn one_label_alone_has_no_area() {
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
    }
}
