//! The words of `out.log` and of the live line.

use std::time::{SystemTime, UNIX_EPOCH};

/// What a log line says of the training, in open_clip's units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Epoch, from 0.
    pub(crate) epoch: u64,
    /// Samples seen in this epoch, and of a whole one.
    pub(crate) seen: (u64, u64),
    /// Mean seconds a step waited for data, and took, in this epoch.
    pub(crate) data_time: f64,
    pub(crate) batch_time: f64,
    /// Of all ranks and of one.
    pub(crate) samples_per_second: (f64, f64),
    pub(crate) lr: f64,
    /// After exp.
    pub(crate) logit_scale: f64,
    /// Of this step, and the epoch's mean.
    pub(crate) loss: (f64, f64),
}

/// open_clip's line (`open_clip_train/train.py`), which people's scripts read.
pub(crate) fn train_line(m: &Moment) -> String {
    let (seen, all) = m.seen;
    let digits = all.to_string().len();
    let loss = format!("{} ({})", general(m.loss.0, 5), general(m.loss.1, 5));
    format!(
        "Train Epoch: {} [{seen:>digits$}/{all} ({:.0}%)] Data (t): {:.3} Batch (t): {:.3}, {}/s, \
         {}/s/gpu LR: {:.6} Logit Scale: {:.3} Contrastive_loss: {loss} Loss: {loss}",
        m.epoch,
        100.0 * seen as f64 / all as f64,
        m.data_time,
        m.batch_time,
        general(m.samples_per_second.0, 6),
        general(m.samples_per_second.1, 6),
        m.lr,
        m.logit_scale,
    )
}

/// The head of a line as Python's logging writes it for open_clip; the time is UTC.
pub(crate) fn stamped(now: f64, text: &str) -> String {
    let seconds = now as u64;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02},{hour:02}:{minute:02}:{second:02} | INFO | {text}")
}

/// Unix time in seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Year, month and day of a day since 1970 (Gregorian; Richards, "Mapping time", 1998, ch. 25).
fn date(days: u64) -> (u64, u64, u64) {
    let f = days + 2_440_588 + 1401 + (4 * (days + 2_440_588) + 274_277) / 146_097 * 3 / 4 - 38;
    let e = 4 * f + 3;
    let h = 5 * (e % 1461 / 4) + 2;
    let (day, month) = (h % 153 / 5 + 1, (h / 153 + 2) % 12 + 1);
    (e / 1461 - 4716 + (14 - month) / 12, month, day)
}

/// C's `%#.{digits}g`: so many significant digits, trailing zeros kept.
fn general(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let exponent: i32 =
        scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    if (-4..digits as i32).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent) as usize;
        let fixed = format!("{value:.decimals$}");
        return if decimals == 0 { fixed + "." } else { fixed };
    }
    let mantissa = scientific.split_once('e').map_or("", |(mantissa, _)| mantissa);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_open_clips() {
        // As open_clip_train 3.3.0 formats these numbers.
        let line = train_line(&Moment {
            epoch: 2,
            seen: (1280, 20_000),
            data_time: 0.0123,
            batch_time: 0.4567,
            samples_per_second: (280.25, 140.125),
            lr: 0.000_123_4,
            logit_scale: 14.285_7,
            loss: (2.345_678, 2.5),
        });
        assert_eq!(
            line,
            "Train Epoch: 2 [ 1280/20000 (6%)] Data (t): 0.012 Batch (t): 0.457, 280.250/s, \
             140.125/s/gpu LR: 0.000123 Logit Scale: 14.286 Contrastive_loss: 2.3457 (2.5000) \
             Loss: 2.3457 (2.5000)"
        );
    }

    #[test]
    fn general_is_pythons_hash_g() {
        for (value, digits, text) in [
            (280.25, 6, "280.250"),
            (1_234_567.0, 6, "1.23457e+06"),
            (123_456.0, 6, "123456."),
            (0.000_012_345, 6, "1.23450e-05"),
            (0.000_123_45, 5, "0.00012345"),
            (9.999_99, 5, "10.000"),
            (0.0, 5, "0.0000"),
            (f64::NAN, 5, "nan"),
        ] {
            assert_eq!(general(value, digits), text);
        }
    }

    #[test]
    fn the_date_is_the_calendars() {
        assert_eq!(stamped(0.0, "x"), "1970-01-01,00:00:00 | INFO | x");
        assert_eq!(stamped(951_782_399.9, "x"), "2000-02-28,23:59:59 | INFO | x");
        assert_eq!(stamped(951_782_400.0, "x"), "2000-02-29,00:00:00 | INFO | x");
        assert_eq!(stamped(1_795_305_600.0, "x"), "2026-11-22,00:00:00 | INFO | x");
    }
}
