//! Which issued cookies this worker has set lately, so that the cookie of a session in use is set again in time.
//!
//! A browser sends a cookie without its age. So a worker sets it again unless it has done so within a quarter of `max_age`. A
//! session that has a request at least so often keeps its cookie, through whichever workers they come: a quarter and not a
//! half, since an answer may be lost.
//!
//! The memory is fixed and forgetful: two sessions may share a slot. Then a cookie is set more often than it has to be, and
//! never too seldom.

use crate::time::Millis;

/// 65,536 sessions per worker and rule in 512 KB, allocated with the first.
const SLOTS: usize = 1 << 16;
/// Times are kept in steps of 128 ms: in 32 bits that is 17 years.
const STEP_SHIFT: u32 = 7;

/// The renewals of one rule.
#[derive(Debug)]
pub(super) struct Renewals {
    /// In steps.
    interval: u32,
    /// The upper half of the session's hash, then the step in which its cookie was set.
    slots: Vec<u64>,
}

impl Renewals {
    pub(super) fn new(max_age: Millis) -> Self {
        let interval = u32::try_from((max_age.0 / 4) >> STEP_SHIFT).unwrap_or(u32::MAX);
        Self { interval: interval.max(1), slots: Vec::new() }
    }

    /// True if the cookie of the session with this hash is to be set. A clock that was set back makes it so.
    pub(super) fn is_due(&self, hash: u64, now: Millis) -> bool {
        let Some(slot) = self.slots.get(place(hash)) else { return true };
        let is_other = (slot ^ hash) >> 32 != 0;
        is_other || step(now).wrapping_sub(*slot as u32) >= self.interval
    }

    /// It was set.
    pub(super) fn note(&mut self, hash: u64, now: Millis) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, 0);
        }
        if let Some(slot) = self.slots.get_mut(place(hash)) {
            *slot = (hash >> 32) << 32 | u64::from(step(now));
        }
    }
}

fn place(hash: u64) -> usize {
    hash as usize % SLOTS
}

fn step(time: Millis) -> u32 {
    (time.0 >> STEP_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);
    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_cookie_is_due_again_after_a_quarter_of_its_age() {
        let mut renewals = Renewals::new(Millis(4 * HOUR));
        assert!(renewals.is_due(7, NOW), "this worker has never set it");

        renewals.note(7, NOW);

        assert!(!renewals.is_due(7, NOW + Millis(HOUR - 1_000)));
        assert!(renewals.is_due(7, NOW + Millis(HOUR + 1_000)));
        assert!(renewals.is_due(7, NOW + Millis(4 * HOUR)));
        assert!(renewals.is_due(7, Millis(NOW.0 - HOUR)), "the clock was set back");
    }

    #[test]
    fn sessions_that_share_a_slot_renew_too_often_rather_than_too_seldom() {
        let mut renewals = Renewals::new(Millis(4 * HOUR));
        let (one, other) = (1 << 32 | 7, 2 << 32 | 7);

        renewals.note(one, NOW);
        assert!(renewals.is_due(other, NOW));
        renewals.note(other, NOW);

        assert!(renewals.is_due(one, NOW));
        assert!(!renewals.is_due(other, NOW));
    }

    #[test]
    fn the_longest_and_the_shortest_ages_count() {
        let year = Millis(400 * 24 * HOUR);
        for age in [Millis(1_000), year] {
            let mut renewals = Renewals::new(age);
            renewals.note(7, NOW);
            assert!(!renewals.is_due(7, NOW), "{age:?}");
            assert!(renewals.is_due(7, NOW + Millis(age.0 / 4)), "{age:?}");
        }
    }
}
