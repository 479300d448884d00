//! A hand that goes round a number of slots once per interval, a few with each tick.

use crate::time::Millis;

/// Where it has got to: it earns a step for each `interval / slots` that passes.
#[derive(Debug, Default, Clone)]
pub(super) struct Hand {
    interval: Millis,
    slot: u32,
    /// In slots × milliseconds; a step costs an interval.
    credit: u64,
    wound: Option<Millis>,
}

impl Hand {
    pub(super) fn new(interval: Millis) -> Self {
        Self { interval, ..Self::default() }
    }

    pub(super) fn go_round_in(&mut self, interval: Millis) {
        self.interval = interval;
    }

    pub(super) fn wind(&mut self, now: Millis, slots: u32) {
        let elapsed = now.since(self.wound.replace(now).unwrap_or(now));
        let round = self.interval.0.max(1).saturating_mul(u64::from(slots));
        self.credit = elapsed.0.saturating_mul(u64::from(slots)).saturating_add(self.credit).min(round);
    }

    pub(super) fn next(&mut self, slots: u32) -> Option<u32> {
        self.credit = self.credit.checked_sub(self.interval.0.max(1))?;
        let slot = if self.slot < slots { self.slot } else { 0 };
        self.slot = slot + 1;
        Some(slot)
    }
}
