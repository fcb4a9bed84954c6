//! Names of shards and samples, as img2dataset gives them (`downloader.py`).

use super::FetchPlan;

impl FetchPlan {
    /// The name of a shard without its ending: `00042`.
    #[must_use]
    pub fn shard_name(&self, shard: u32) -> String {
        format!("{shard:0width$}", width = self.oom_shard_count as usize)
    }

    /// The key of row `row` of a shard: `10^d · shard + row` with `d` digits for the row, so that
    /// row 31 of shard 42 is `000420031` where a shard has 10,000 rows.
    #[must_use]
    pub fn sample_key(&self, shard: u32, row: u32) -> String {
        let digits = row_digits(self.number_sample_per_shard);
        let number = u64::from(shard) * 10_u64.pow(digits) + u64::from(row);
        format!("{number:0width$}", width = (digits + self.oom_shard_count) as usize)
    }
}

/// `ceil(log10(rows))`.
fn row_digits(rows: u32) -> u32 {
    rows.saturating_sub(1).checked_ilog10().map_or(0, |digits| digits + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rows: u32, oom_shard_count: u32) -> FetchPlan {
        FetchPlan { number_sample_per_shard: rows, oom_shard_count, ..FetchPlan::default() }
    }

    #[test]
    fn keys_are_img2datasets() {
        assert_eq!(plan(10_000, 5).sample_key(42, 31), "000420031");
        assert_eq!(plan(10_000, 8).sample_key(42, 31), "000000420031");
        assert_eq!(plan(1000, 5).sample_key(0, 999), "00000999");
        assert_eq!(plan(10_000, 5).shard_name(42), "00042");
    }

    #[test]
    fn a_row_has_as_many_digits_as_the_logarithm_rounded_up() {
        let sizes = [1, 2, 9, 10, 11, 99, 100, 101, 10_000, 10_001];
        assert_eq!(sizes.map(row_digits), [0, 1, 1, 1, 2, 2, 2, 3, 4, 5]);
    }
}
