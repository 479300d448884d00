//! Sessions that were asked about in vain: for a while they go where they were last, and no request asks again.
//!
//! Their pins stay as they are. What the store once answered is still what it must have, and is said to it as soon as it answers.

use std::collections::BTreeMap;

use crate::pins::PinKey;
use crate::time::Millis;

/// Beyond that each request asks.
const MAX: usize = 10_000;

/// Until when.
#[derive(Debug, Default)]
pub(super) struct Vain {
    until: BTreeMap<PinKey, Millis>,
}

impl Vain {
    pub(super) fn note(&mut self, key: PinKey, until: Millis, now: Millis) {
        if self.until.len() >= MAX {
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < MAX {
            self.until.insert(key, until);
        }
    }

    pub(super) fn holds(&self, key: PinKey, now: Millis) -> bool {
        self.until.get(&key).is_some_and(|until| now < *until)
    }

    /// The state cluster has answered.
    pub(super) fn forget(&mut self, key: PinKey) {
        self.until.remove(&key);
    }

    /// There may be another answer now.
    pub(super) fn clear(&mut self) {
        self.until.clear();
    }
}
