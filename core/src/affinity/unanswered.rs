//! Sessions that were asked about without an answer: for a while they go where they were last, and no request asks again.
//!
//! Their pins stay as they are. What the store once answered is still what it must have, and is said to it as soon as it answers.

use crate::owners::PROVISIONAL;
use crate::pins::PinKey;
use crate::time::Millis;

/// The latest count. Of more each request asks, as far as the breaker lets it.
const MAX: usize = 1_000;

/// The latest of them, and when each was asked about.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    sessions: Vec<(PinKey, Millis)>,
}

impl Unanswered {
    pub(super) fn note(&mut self, key: PinKey, now: Millis) {
        self.forget(key);
        self.sessions.retain(|(_, at)| !PROVISIONAL.is_over(*at, now));
        if self.sessions.len() >= MAX {
            self.sessions.remove(0);
        }
        self.sessions.push((key, now));
    }

    pub(super) fn holds(&self, key: PinKey, now: Millis) -> bool {
        self.sessions.iter().any(|(other, at)| *other == key && !PROVISIONAL.is_over(*at, now))
    }

    /// The state cluster has answered.
    pub(super) fn forget(&mut self, key: PinKey) {
        self.sessions.retain(|(other, _)| *other != key);
    }

    /// There may be another answer now.
    pub(super) fn clear(&mut self) {
        self.sessions.clear();
    }
}
