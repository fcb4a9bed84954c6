//! Limited-memory BFGS for smooth convex functions.
//!
//! Source: Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5, with
//! backtracking to the Armijo condition; a pair whose curvature is not positive is not kept.

use std::collections::VecDeque;

use stage::{Cancel, Result};

/// Pairs that are remembered.
const MEMORY: usize = 10;
/// Share of the predicted decrease that a step must reach.
const ARMIJO: f64 = 1e-4;
/// Halvings of a step before the function is at the floor of its rounding.
const HALVINGS: usize = 30;

/// Value and gradient at a point.
pub(crate) type Function<'a> = dyn Fn(&[f64]) -> Result<(f64, Vec<f64>)> + 'a;

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Minimum {
    pub(crate) point: Vec<f64>,
    pub(crate) iterations: usize,
    /// Whether the gradient is below the tolerance, or no step of its length decreases the function.
    pub(crate) converged: bool,
}

/// Minimises `function` from `point` until no component of the gradient exceeds `tolerance`.
///
/// # Errors
/// The function's, or an interruption.
pub(crate) fn minimise(
    function: &Function<'_>,
    mut point: Vec<f64>,
    tolerance: f64,
    most: usize,
    cancel: &Cancel,
) -> Result<Minimum> {
    let (mut value, mut gradient) = function(&point)?;
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    for iterations in 0..most {
        cancel.check()?;
        if gradient.iter().all(|g| g.abs() <= tolerance) {
            return Ok(Minimum { point, iterations, converged: true });
        }
        let mut direction = descent(&gradient, &pairs);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            pairs.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        // Without a history the scale is unknown: a first step of length one at most.
        let mut step = if pairs.is_empty() { (1.0 / (-slope).sqrt()).min(1.0) } else { 1.0 };
        let mut taken = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
            let (at, slopes) = function(&next)?;
            if at <= value + ARMIJO * step * slope {
                taken = Some((next, at, slopes));
                break;
            }
            step /= 2.0;
        }
        let Some((next, at, slopes)) = taken else {
            return Ok(Minimum { point, iterations, converged: true });
        };
        let moved: Vec<f64> = next.iter().zip(&point).map(|(a, b)| a - b).collect();
        let turned: Vec<f64> = slopes.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&moved, &turned);
        if curvature > 1e-12 * dot(&turned, &turned) {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back(Pair { moved, turned, curvature });
        }
        (point, value, gradient) = (next, at, slopes);
    }
    Ok(Minimum { point, iterations: most, converged: false })
}

struct Pair {
    moved: Vec<f64>,
    turned: Vec<f64>,
    curvature: f64,
}

/// The two-loop recursion.
fn descent(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let share = dot(&pair.moved, &direction) / pair.curvature;
        add(&mut direction, &pair.turned, -share);
        shares.push(share);
    }
    if let Some(last) = pairs.back() {
        let scale = last.curvature / dot(&last.turned, &last.turned);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, share) in pairs.iter().zip(shares.into_iter().rev()) {
        let back = dot(&pair.turned, &direction) / pair.curvature;
        add(&mut direction, &pair.moved, share - back);
    }
    direction
}

fn add(to: &mut [f64], what: &[f64], times: f64) {
    to.iter_mut().zip(what).for_each(|(a, b)| *a += times * b);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_of_a_badly_scaled_quadratic_is_found() {
        let scales: Vec<f64> = (0..8).map(|i| 10_f64.powi(i - 4)).collect();
        let function = |x: &[f64]| {
            let value = x.iter().zip(&scales).map(|(x, s)| 0.5 * s * (x - 1.0).powi(2)).sum();
            Ok((value, x.iter().zip(&scales).map(|(x, s)| s * (x - 1.0)).collect()))
        };
        let found = minimise(&function, vec![0.0; 8], 1e-10, 500, &Cancel::default()).unwrap();
        assert!(found.converged && found.iterations < 300, "{found:?}");
        assert!(found.point.iter().all(|x| (x - 1.0).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn a_minimum_is_left_where_it_is() {
        let function = |x: &[f64]| Ok((x[0] * x[0], vec![2.0 * x[0]]));
        let found = minimise(&function, vec![0.0], 1e-9, 10, &Cancel::default()).unwrap();
        assert_eq!((found.point, found.iterations), (vec![0.0], 0));
    }
}
