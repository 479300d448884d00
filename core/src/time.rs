//! Time as core sees it: a number of milliseconds that the caller read from its own clock.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// A point in time or a length of time, in milliseconds. Points count from the Unix epoch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// Reads a length such as `250ms`, `30s`, `5m` or `1h`: a whole number with a unit.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at_checked(digits)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        Some(Self(number.parse::<u64>().ok()?.checked_mul(factor)?))
    }

    /// The length from `earlier` to this point; zero if the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// True if this length has passed from `since` to `now`. A clock that was set back ends every wait: nobody knows how
    /// long it would be.
    #[must_use]
    pub fn is_over(self, since: Self, now: Self) -> bool {
        now < since || now.since(since) >= self
    }

    /// Twice this length, without overflow.
    #[must_use]
    pub fn doubled(self) -> Self {
        Self(self.0.saturating_mul(2))
    }
}

impl Add for Millis {
    type Output = Self;

    fn add(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}
