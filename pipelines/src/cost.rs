//! What the machine's hours cost, for `plan` and the report. Without a price nothing is said of money.

use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use crate::estimate::span;

/// The price of the machine that a recipe runs on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Price of one hour of the machine, 0 to 1,000,000; with `--units I/N`, of each machine.
    pub per_hour: f64,
    /// What the price is in, 1 to 12 characters; default USD.
    #[serde(default = "usd")]
    pub currency: String,
}

fn usd() -> String {
    "USD".to_owned()
}

impl Cost {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the field, its range and what it got.
    pub(crate) fn validate(&self) -> Result<()> {
        if !(0.0..=1e6).contains(&self.per_hour) {
            let message = format!("per_hour must lie in 0..=1000000, got {}", self.per_hour);
            return Err(Error::recipe(message));
        }
        let printable = self.currency.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if !printable || !(1..=12).contains(&self.currency.chars().count()) {
            let message = "currency must be 1 to 12 characters without blanks, such as USD";
            return Err(Error::recipe(message));
        }
        Ok(())
    }

    /// The price of so many seconds of the machine.
    pub(crate) fn of(&self, seconds: f64) -> f64 {
        seconds / 3600.0 * self.per_hour
    }

    /// `0.25 USD`, `1,250 USD`
    pub(crate) fn say(&self, money: f64) -> String {
        let amount = match money {
            m if m >= 100.0 => crate::results::thousands(m.round() as u64),
            m if m >= 0.01 || m == 0.0 => format!("{m:.2}"),
            _ => "less than 0.01".to_owned(),
        };
        format!("{amount} {}", self.currency)
    }

    /// The price of a range of seconds.
    pub(crate) fn span(&self, seconds: (f64, f64)) -> String {
        span((self.of(seconds.0), self.of(seconds.1)), &|money| self.say(money))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_costs_its_price_and_small_change_is_said_in_words() {
        let cost: Cost = serde_json::from_str(r#"{"per_hour": 2.5}"#).unwrap();
        assert_eq!((cost.of(3600.0), cost.currency.as_str()), (2.5, "USD"));
        assert_eq!(cost.span((0.0, 720.0)), "0.00 USD to 0.50 USD");
        assert_eq!(cost.span((1.0, 7200.0)), "less than 0.01 USD to 5.00 USD");
        assert_eq!(cost.span((3.6e6, 3.6e6)), "2,500 USD");
    }

    #[test]
    fn a_price_out_of_range_is_named() {
        for (cost, word) in [
            (Cost { per_hour: -1.0, currency: usd() }, "per_hour"),
            (Cost { per_hour: f64::NAN, currency: usd() }, "per_hour"),
            (Cost { per_hour: 1.0, currency: String::new() }, "currency"),
            (Cost { per_hour: 1.0, currency: "a b".to_owned() }, "currency"),
        ] {
            let message = cost.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{word} must")), "{message}");
        }
    }
}
