//! Draws by chance that depend on uid and seed alone: a share of the pool, or a number of pairs.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray};
use arrow_schema::DataType;
use datafusion::common::exec_datafusion_err;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use store::subset::Uid;

/// `true` for about this share of uids; the same uids on every machine, and for a larger share
/// under the same seed all of them and more. Rows of equal uid go together.
pub(crate) fn is_drawn(uid: Uid, share: f64, seed: u64) -> bool {
    // 53 bits: as many as an f64 holds exactly.
    ((hash(uid, seed) >> 11) as f64) < share * (1_u64 << 53) as f64
}

/// Leaves `count` of these uids, in no order: those of the smallest hash. `None` when there are
/// fewer.
pub(crate) fn draw(uids: &mut Vec<Uid>, count: u64, seed: u64) -> Option<()> {
    let count = usize::try_from(count).ok().filter(|&count| count <= uids.len())?;
    if count > 0 {
        // The uid too, so that two of equal hash have an order.
        uids.select_nth_unstable_by_key(count - 1, |&uid| (hash(uid, seed), uid));
    }
    uids.truncate(count);
    Some(())
}

fn hash(Uid(high, low): Uid, seed: u64) -> u64 {
    mix(mix(mix(seed) ^ high) ^ low)
}

/// The finaliser of SplitMix64 after its increment (Steele, Lea, Flood 2014, "Fast Splittable
/// Pseudorandom Number Generators", figure 19's variant 13 constants).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// [`is_drawn`] as a function of a column of uids; what is no uid is not drawn.
pub(crate) fn drawn(share: f64, seed: u64) -> ScalarUDF {
    let draw = move |arguments: &[ColumnarValue]| {
        let [uids] = arguments else {
            return Err(exec_datafusion_err!("random works on uids"));
        };
        let uids = uids.to_array(1)?;
        let uids = uids
            .as_string_opt::<i32>()
            .ok_or_else(|| exec_datafusion_err!("random works on a string column uid"))?;
        let one = |i: usize| {
            let uid = uids.is_valid(i).then(|| Uid::parse(uids.value(i))).flatten();
            Some(uid.is_some_and(|uid| is_drawn(uid, share, seed)))
        };
        let drawn: BooleanArray = (0..uids.len()).map(one).collect();
        Ok(ColumnarValue::Array(Arc::new(drawn)))
    };
    let types = vec![DataType::Utf8];
    create_udf("random", types, DataType::Boolean, Volatility::Immutable, Arc::new(draw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixer_is_splitmix64() {
        // First outputs of SplitMix64 from state 1234567 (the reference implementation's values).
        let golden = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(1_234_567_u64.wrapping_add(golden)), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_draw_has_exactly_as_many_whatever_the_order() {
        let uids: Vec<Uid> = (0..1_000).map(|i| Uid(mix(i), i)).collect();
        let drawn = |mut uids: Vec<Uid>, count, seed| {
            draw(&mut uids, count, seed).unwrap();
            uids.sort_unstable();
            uids
        };
        let forward = drawn(uids.clone(), 317, 1);
        assert_eq!(forward.len(), 317);
        assert_eq!(drawn(uids.iter().rev().copied().collect(), 317, 1), forward);
        assert_ne!(drawn(uids.clone(), 317, 2), forward);
        assert!(drawn(uids.clone(), 0, 1).is_empty());
        assert_eq!(draw(&mut uids.clone(), 1_001, 1), None);
    }

    #[test]
    fn a_larger_share_contains_the_smaller_one_and_seeds_differ() {
        let uids: Vec<Uid> = (0..10_000).map(|i| Uid(mix(i), mix(!i))).collect();
        let draw = |share, seed| -> Vec<bool> {
            uids.iter().map(|&uid| is_drawn(uid, share, seed)).collect()
        };
        let (small, large) = (draw(0.3, 1), draw(0.4, 1));
        assert!(small.iter().zip(&large).all(|(&s, &l)| !s || l));
        let count = small.iter().filter(|&&drawn| drawn).count();
        assert!((2_800..3_200).contains(&count), "{count}");
        assert_ne!(small, draw(0.3, 2));
        assert!(draw(1.0, 3).iter().all(|&drawn| drawn));
        assert!(!draw(0.0, 3).iter().any(|&drawn| drawn));
    }
}
