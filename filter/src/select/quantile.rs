//! Exact order statistics of a column of any length in bounded memory.
//!
//! Numbers become 64-bit keys in the same order; each scan counts them by their next 16 bits and
//! goes on with the bin that holds the wanted one, until what is left fits in memory. Counting is
//! independent of the order of the rows, so the value is the same at any partitioning; DataFusion's
//! own percentiles are t-digest sketches, which are not.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_schema::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::prelude::{Expr, SessionContext};
use stage::{Error, Result, ResultExt};

use super::expression::column_names;
use super::formula::{HINT, guarded, unsigned};
use crate::engine::query_error;
use crate::scan::{Compiled, Pool};

/// Keys that are kept instead of counted once more: 8 MiB.
const HOLD: usize = 1 << 20;

/// Which value of a sorted column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rank {
    /// The smallest value with at least the share `q` of all values at or below it: index
    /// `ceil(n*q - 1)`, at least 0, of the ascending sort. NumPy's `quantile(method="inverted_cdf")`.
    /// `n` counts values that are neither null nor NaN. With `q = 1 - f` it is the value of
    /// [`Rank::TopFraction`] only where every row has a value and `n*q` is not rounded.
    Quantile(f64),
    /// DataComp's threshold for a top share `f`: index `int(n*f)` of the descending sort, where `n`
    /// counts all rows and those without a value come last.
    TopFraction(f64),
}

impl Rank {
    /// Index in the ascending sort of `values` values, among `rows` rows.
    fn index(self, values: u64, rows: u64) -> Option<u64> {
        match self {
            _ if values == 0 => None,
            // In NumPy's order of operations, for its roundings.
            Self::Quantile(q) => {
                Some(((values as f64 * q - 1.0).ceil().max(0.0) as u64).min(values - 1))
            }
            Self::TopFraction(f) => (values - 1).checked_sub((rows as f64 * f) as u64),
        }
    }
}

/// The value of this rank among `number` over all rows of the pool that `selectable` names, in the
/// type of `number`.
///
/// # Errors
/// When `number` is no number; the pool's.
pub(crate) fn exact(
    context: &SessionContext,
    pool: &Pool,
    (selectable, number): (&Expr, &Expr),
    kind: &DataType,
    rank: Rank,
) -> Result<Option<ScalarValue>> {
    let keys = Keys::of(kind)
        .ok_or_else(|| Error::recipe(format!("a quantile needs numbers, this is {kind}")))?;
    let names = column_names([selectable, number]);
    let schema = pool.columns(&names)?;
    let known = DFSchema::try_from(schema.as_ref().clone());
    let known = known.map_err(|e| query_error(&e, "cannot read the columns"))?;
    let number = number.clone().transform_up(|part| guarded(part, &known));
    let number = number.map_err(|e| query_error(&e, "cannot read the quantile"))?.data;
    let number = Compiled::new(context, number, &schema)?;
    let selectable = Compiled::new(context, selectable.clone(), &schema)?;
    let key = select(
        HOLD,
        |values, rows| rank.index(values, rows),
        |count| {
            let counts = pool.scan(
                &names,
                || Ok(count.clone()),
                |count, part| {
                    let rows = selectable.evaluate(&part.batch)?;
                    let rows = rows.as_boolean_opt();
                    let rows = rows.ok_or_else(|| Error::internal("no boolean"))?;
                    // What is passed over cannot fail the number.
                    let mut batch = part.batch.clone();
                    if rows.null_count() > 0 || rows.true_count() < batch.num_rows() {
                        let left = arrow_select::filter::filter_record_batch(&batch, rows);
                        batch = left.internal("cannot leave rows out")?;
                    }
                    let numbers = number.evaluate(&unsigned(&batch)?);
                    let numbers = numbers.map_err(|e| e.at(part.path).hint(HINT))?;
                    count.rows += numbers.len() as u64;
                    keys.each(&numbers, count)
                },
            )?;
            let whole = counts.into_iter().reduce(Count::merge);
            whole.ok_or_else(|| Error::internal("a scan without threads"))
        },
    )?;
    key.map(|key| keys.value(key).cast_to(kind).internal("cannot give the quantile its type"))
        .transpose()
}

/// How many keys of a scan begin with the bits that are known, by their next 16.
#[derive(Debug, Clone)]
struct Count {
    prefix: u64,
    known_bits: u32,
    hold: usize,
    bins: Vec<u64>,
    /// The keys themselves, as long as they are few.
    held: Option<Vec<u64>>,
    rows: u64,
}

impl Count {
    fn new(prefix: u64, known_bits: u32, hold: usize) -> Self {
        let bins = vec![0; 1 << 16];
        Self { prefix, known_bits, hold, bins, held: Some(Vec::new()), rows: 0 }
    }

    fn take(&mut self, key: u64) {
        if self.known_bits > 0 && key >> (64 - self.known_bits) != self.prefix {
            return;
        }
        self.bins[usize::from((key >> (48 - self.known_bits)) as u16)] += 1;
        match &mut self.held {
            Some(keys) if keys.len() < self.hold => keys.push(key),
            _ => self.held = None,
        }
    }

    fn merge(mut self, other: Self) -> Self {
        for (bin, other) in self.bins.iter_mut().zip(other.bins) {
            *bin += other;
        }
        self.held = self.held.zip(other.held).and_then(|(mut keys, mut others)| {
            keys.append(&mut others);
            (keys.len() <= self.hold).then_some(keys)
        });
        self.rows += other.rows;
        self
    }
}

/// The key at an index of the ascending sort. `scan` hands all keys to copies of a count, each time
/// the same; `index` is asked once with the number of keys and of rows.
fn select(
    hold: usize,
    index: impl Fn(u64, u64) -> Option<u64>,
    mut scan: impl FnMut(Count) -> Result<Count>,
) -> Result<Option<u64>> {
    let (mut prefix, mut known_bits) = (0_u64, 0_u32);
    let mut wanted = None;
    loop {
        let Count { bins, held, rows, .. } = scan(Count::new(prefix, known_bits, hold))?;
        let count: u64 = bins.iter().sum();
        let at = match wanted {
            Some(at) => at,
            None => match index(count, rows) {
                Some(at) => at,
                None => return Ok(None),
            },
        };
        if at >= count {
            return Err(Error::internal("the rows changed between two scans"));
        }
        if let Some(mut keys) = held {
            return Ok(Some(*keys.select_nth_unstable(at as usize).1));
        }
        let mut before = 0;
        let bin = bins.iter().position(|&n| {
            before += n;
            at < before
        });
        let bin = bin.ok_or_else(|| Error::internal("an index beyond all bins"))?;
        prefix = prefix << 16 | bin as u64;
        known_bits += 16;
        if known_bits == 64 {
            return Ok(Some(prefix));
        }
        wanted = Some(at - (before - bins[bin]));
    }
}

/// How numbers of one kind become keys in the same order.
#[derive(Debug, Clone, Copy)]
enum Keys {
    Float,
    Int,
    UInt,
}

impl Keys {
    fn of(kind: &DataType) -> Option<Self> {
        match kind {
            DataType::UInt64 => Some(Self::UInt),
            kind if kind.is_integer() => Some(Self::Int),
            kind if kind.is_floating() => Some(Self::Float),
            _ => None,
        }
    }

    /// Hands over the key of every number of a column; null and NaN are none.
    fn each(self, column: &ArrayRef, count: &mut Count) -> Result<()> {
        let mut take = |key| count.take(key);
        let wide = match self {
            Self::Float => DataType::Float64,
            Self::Int => DataType::Int64,
            Self::UInt => DataType::UInt64,
        };
        let column = cast(column, &wide).internal("cannot widen numbers")?;
        let valid = |i: &usize| column.is_valid(*i);
        let rows = (0..column.len()).filter(valid);
        match self {
            Self::Float => {
                let values = column.as_primitive::<Float64Type>();
                rows.map(|i| values.value(i)).filter(|v| !v.is_nan()).for_each(|v| {
                    let bits = v.to_bits();
                    take(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 });
                });
            }
            Self::Int => {
                let values = column.as_primitive::<Int64Type>();
                rows.for_each(|i| take(values.value(i).cast_unsigned() ^ 1 << 63));
            }
            Self::UInt => {
                let values = column.as_primitive::<UInt64Type>();
                rows.for_each(|i| take(values.value(i)));
            }
        }
        Ok(())
    }

    fn value(self, key: u64) -> ScalarValue {
        match self {
            Self::Float => {
                let bits = if key >> 63 == 1 { key ^ 1 << 63 } else { !key };
                ScalarValue::Float64(Some(f64::from_bits(bits)))
            }
            Self::Int => ScalarValue::Int64(Some((key ^ 1 << 63).cast_signed())),
            Self::UInt => ScalarValue::UInt64(Some(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array};

    use super::*;

    fn quantile(values: &[f64], q: f64, hold: usize) -> Option<f64> {
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let key = select(
            hold,
            |n, rows| Rank::Quantile(q).index(n, rows),
            |mut count| {
                Keys::Float.each(&column, &mut count)?;
                count.rows = values.len() as u64;
                Ok(count)
            },
        );
        key.unwrap().map(|key| match Keys::Float.value(key) {
            ScalarValue::Float64(Some(value)) => value,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn quantiles_are_numpys_inverted_cdf() {
        // numpy 2: np.quantile([1, 2, 2, 3, 9], q, method="inverted_cdf")
        let values = [9.0, 2.0, 1.0, 3.0, 2.0];
        let expected =
            [(0.0, 1.0), (0.2, 1.0), (0.21, 2.0), (0.5, 2.0), (0.6, 2.0), (0.61, 3.0), (1.0, 9.0)];
        for (q, value) in expected {
            assert_eq!(quantile(&values, q, HOLD), Some(value), "q = {q}");
        }
    }

    #[test]
    fn counting_and_holding_find_the_same_value_among_negatives_ties_and_infinities() {
        let mut values = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-310];
        values.extend((0..500).map(|i| f64::from((i * 7919) % 83) / 7.0 - 5.0));
        for q in [0.0, 0.001, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0] {
            let held = quantile(&values, q, HOLD).unwrap();
            assert_eq!(held.to_bits(), quantile(&values, q, 0).unwrap().to_bits(), "q = {q}");
            assert_eq!(held.to_bits(), quantile(&values, q, 7).unwrap().to_bits(), "q = {q}");
        }
    }

    #[test]
    fn there_is_no_quantile_of_nothing() {
        assert_eq!(quantile(&[], 0.5, HOLD), None);
        assert_eq!(quantile(&[f64::NAN], 0.5, HOLD), None);
    }

    #[test]
    fn a_top_fraction_is_the_value_at_int_n_times_f_of_the_descending_sort() {
        // Ten rows, eight with a value: descending order is v7 .. v0, then the two without.
        let index = |f| Rank::TopFraction(f).index(8, 10);
        assert_eq!(index(0.0), Some(7));
        assert_eq!(index(0.3), Some(4));
        assert_eq!(index(0.79), Some(0));
        assert_eq!(index(0.8), None);
    }

    #[test]
    fn integers_keep_their_order_below_zero() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![3, -2, i64::MIN, i64::MAX, 0]));
        let at = |i| {
            let key = select(
                0,
                |_, _| Some(i),
                |mut count| {
                    Keys::Int.each(&column, &mut count)?;
                    Ok(count)
                },
            );
            Keys::Int.value(key.unwrap().unwrap())
        };
        let found: Vec<ScalarValue> = (0..5).map(at).collect();
        let expected = [i64::MIN, -2, 0, 3, i64::MAX].map(|v| ScalarValue::Int64(Some(v)));
        assert_eq!(found, expected);
    }

    proptest::proptest! {
        #[test]
        fn every_index_is_that_of_the_sorted_keys(
            keys in proptest::collection::vec(0_u64..=u64::MAX, 1..40),
            // Few distinct high bits, so that several scans are needed.
            shared in 0_u32..64,
            at in 0_usize..40,
            hold in 0_usize..8,
        ) {
            let keys: Vec<u64> = keys.into_iter().map(|key| key >> shared).collect();
            let at = at % keys.len();
            let found = select(hold, |_, _| Some(at as u64), |count| {
                // As two threads would count them.
                let (mut one, mut other) = (count.clone(), count);
                for (i, &key) in keys.iter().enumerate() {
                    if i % 2 == 0 { one.take(key) } else { other.take(key) }
                }
                Ok(one.merge(other))
            });
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            proptest::prop_assert_eq!(found.unwrap(), Some(sorted[at]));
        }
    }
}
