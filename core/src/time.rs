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

    /// The point in time that lies so much earlier.
    #[must_use]
    pub fn earlier(self, by: Self) -> Self {
        Self(self.0.saturating_sub(by.0))
    }

    /// True if this length has passed from `since` to `now`. A clock that was set back ends every wait:
    /// its length is then not known.
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

/// When something is due next.
///
/// A clock that was set back would put it off for as long: so what is due in more than the longest pause is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    next: Millis,
    longest: Millis,
}

impl Timer {
    /// Due at once. `longest` is the longest pause that it will ever be set to.
    #[must_use]
    pub fn new(longest: Millis) -> Self {
        Self { next: Millis(0), longest }
    }

    /// Due after this pause.
    pub fn set(&mut self, now: Millis, pause: Millis) {
        self.next = now + pause.min(self.longest);
    }

    /// Due after this pause at the latest.
    pub fn hasten(&mut self, now: Millis, pause: Millis) {
        self.next = self.next.min(now + pause);
    }

    /// True once its time has come.
    #[must_use]
    pub fn is_due(&self, now: Millis) -> bool {
        now >= self.next || self.next.since(now) > self.longest
    }
}

impl Add for Millis {
    type Output = Self;

    fn add(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_waits_for_its_pause_and_not_for_a_clock_that_was_set_back() {
        let mut timer = Timer::new(Millis(1_000));
        assert!(timer.is_due(Millis(0)));
        timer.set(Millis(50_000), Millis(700));
        assert!(!timer.is_due(Millis(50_699)));
        assert!(timer.is_due(Millis(50_700)));

        assert!(!timer.is_due(Millis(49_900)), "set back a little, it waits a little longer");
        assert!(timer.is_due(Millis(40_000)), "set back far, it waits no longer");
    }
}
