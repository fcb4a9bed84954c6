//! What a plan may say: every range, before anything runs.

use stage::{Error, Result};

use super::{EncodeFormat, FetchPlan};

/// Columns that img2dataset and `Pairs` write themselves.
const TAKEN: [&str; 14] = [
    "key",
    "caption",
    "url",
    "width",
    "height",
    "original_width",
    "original_height",
    "status",
    "error_message",
    "exif",
    "md5",
    "sha256",
    "sha512",
    "image",
];

impl FetchPlan {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the field, its range and what was given.
    pub fn validate(&self) -> Result<()> {
        whole("image_size", self.image_size, 1, 8192)?;
        whole("retries", self.retries, 0, 10)?;
        whole("thread_count", self.thread_count, 1, 10_000)?;
        whole("number_sample_per_shard", self.number_sample_per_shard, 1, 1_000_000)?;
        whole("oom_shard_count", self.oom_shard_count, 1, 9)?;
        whole("max_redirects", self.max_redirects, 0, 20)?;
        whole("max_per_host", self.max_per_host, 1, 1000)?;
        whole("max_per_ip", self.max_per_ip, 1, 10_000)?;
        whole("max_crawl_delay", self.max_crawl_delay, 0.0, 300.0)?;
        whole("min_success_rate", self.min_success_rate, 0.0, 1.0)?;
        whole("alarm_window", self.alarm_window, 10, 1_000_000)?;
        whole("max_bytes", self.max_bytes, 1, 1 << 30)?;
        whole("decode.memory", self.decode.memory, 256 << 20, 1 << 40)?;
        self.validate_encoding()?;
        let times = [
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("total_timeout", self.total_timeout),
            ("min_rate_window", self.min_rate_window),
            ("max_retry_wait", self.max_retry_wait),
            ("max_host_wait", self.max_host_wait),
            ("hooks.timeout", self.hooks.timeout),
            ("decode.timeout", self.decode.timeout),
        ];
        for (field, seconds) in times {
            // A day is longer than any answer and short enough for every clock.
            if !(seconds > 0.0 && seconds <= 86_400.0) {
                return refuse(format!(
                    "{field} must lie above 0 and at most at 86400 seconds, got {seconds}"
                ));
            }
        }
        at_least(
            "first_byte_timeout",
            self.first_byte_timeout,
            "connect_timeout",
            self.connect_timeout,
        )?;
        at_least(
            "total_timeout",
            self.total_timeout,
            "first_byte_timeout",
            self.first_byte_timeout,
        )?;
        if let Some(ratio) = self.max_aspect_ratio
            && (ratio.is_nan() || ratio < 1.0)
        {
            return refuse(format!("max_aspect_ratio must be at least 1, got {ratio}"));
        }
        if self.ports.is_empty() || self.ports.contains(&0) {
            return refuse("ports must name at least one port, each from 1 to 65535".to_owned());
        }
        if let Some(token) = &self.user_agent_token
            && (token.is_empty()
                || token.len() > 64
                || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        {
            return refuse(format!(
                "user_agent_token must be 1 to 64 letters, digits, `-` or `_`, got `{token}`"
            ));
        }
        for column in &self.save_additional_columns {
            if TAKEN.contains(&column.as_str()) {
                return refuse(format!(
                    "save_additional_columns: `{column}` is a column of the output already"
                ));
            }
        }
        Ok(())
    }

    fn validate_encoding(&self) -> Result<()> {
        let quality = self.encode_quality;
        match self.encode_format {
            EncodeFormat::Jpg => whole("encode_quality of jpg", u32::from(quality), 1, 100),
            EncodeFormat::Png => whole("encode_quality of png", u32::from(quality), 0, 9),
            EncodeFormat::Webp if quality > 100 => Ok(()),
            EncodeFormat::Webp => Err(Error::recipe(format!(
                "encode_format webp with encode_quality {quality} is lossy webp, which clipmill \
                 cannot write"
            ))
            .hint("set encode_quality: 101 for lossless webp, or encode_format: jpg")),
        }
    }
}

fn whole<N: PartialOrd + Copy + std::fmt::Display>(
    field: &str,
    got: N,
    min: N,
    max: N,
) -> Result<()> {
    if !(min..=max).contains(&got) {
        return refuse(format!("{field} must lie in {min}..={max}, got {got}"));
    }
    Ok(())
}

fn at_least(field: &str, value: f64, floor_field: &str, floor: f64) -> Result<()> {
    if value < floor {
        return refuse(format!("{field} must be at least {floor_field} ({floor}), got {value}"));
    }
    Ok(())
}

fn refuse(message: String) -> Result<()> {
    Err(Error::recipe(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut FetchPlan)) -> String {
        let mut plan = FetchPlan::default();
        change(&mut plan);
        plan.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_number_names_its_field_and_range() {
        assert_eq!(refusal(|p| p.image_size = 0), "image_size must lie in 1..=8192, got 0");
        assert_eq!(
            refusal(|p| p.encode_quality = 101),
            "encode_quality of jpg must lie in 1..=100, got 101"
        );
        assert_eq!(
            refusal(|p| p.max_aspect_ratio = Some(0.5)),
            "max_aspect_ratio must be at least 1, got 0.5"
        );
        assert_eq!(
            refusal(|p| p.total_timeout = 3.0),
            "total_timeout must be at least first_byte_timeout (10), got 3"
        );
        assert!(refusal(|p| p.timeout = f64::NAN).starts_with("timeout must lie above 0"));
        assert!(refusal(|p| p.ports.clear()).starts_with("ports must name"));
        assert!(refusal(|p| p.user_agent_token = Some("a b".into())).ends_with("got `a b`"));
    }

    #[test]
    fn lossy_webp_is_refused_by_name_and_lossless_accepted() {
        let message = refusal(|p| p.encode_format = EncodeFormat::Webp);
        assert!(message.contains("lossy webp"), "{message}");
        let plan = FetchPlan {
            encode_format: EncodeFormat::Webp,
            encode_quality: 101,
            ..FetchPlan::default()
        };
        plan.validate().unwrap();
    }

    #[test]
    fn a_column_of_the_output_cannot_be_carried_along() {
        let message = refusal(|p| p.save_additional_columns = vec!["sha256".into()]);
        assert!(message.contains("`sha256` is a column of the output already"), "{message}");
    }
}
