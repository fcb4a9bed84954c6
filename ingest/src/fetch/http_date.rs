//! Dates as HTTP writes them (RFC 9110, 5.6.7).

/// Seconds since 1970 of a date in any of the three forms, the two obsolete ones included.
pub(super) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let mut parts = text.split([' ', '-', ',']).filter(|part| !part.is_empty());
    let _weekday = parts.next()?;
    let parts: Vec<&str> = parts.collect();
    // Sun, 06 Nov 1994 08:49:37 GMT and Sunday, 06-Nov-94 08:49:37 GMT; Sun Nov  6 08:49:37 1994
    let ([day, month, year, time, "GMT"] | [month, day, time, year]) = parts.as_slice() else {
        return None;
    };
    let day: i64 = number(day)?;
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as i64 + 1;
    let year = match number(year)? {
        two @ 0..70 => two + 2000,
        two @ 70..100 => two + 1900,
        year @ 1601..10_000 => year,
        _ => return None,
    };
    let clock: Vec<i64> = time.split(':').map(number).collect::<Option<_>>()?;
    let &[hour @ 0..24, minute @ 0..60, second @ 0..61] = clock.as_slice() else { return None };
    if !(1..=31).contains(&day) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn number(text: &str) -> Option<i64> {
    let digits = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Years begin in March, so that the day that leap years add is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let leaps = year / 4 - year / 100 + year / 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + leaps + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse("Thu, 29 Feb 2024 23:59:60 GMT"), Some(1_709_251_200));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
