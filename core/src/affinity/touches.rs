//! Touches: sessions that were used keep their pins alive in the store.

use crate::pins::{Pins, Touched};
use crate::time::Millis;
use crate::wire::MAX_TOUCHED;

/// The touches of one pool.
#[derive(Debug)]
pub(super) struct Touches {
    /// How long pins live in the store, as it last said.
    ttl: Millis,
    /// The shortest time that any rule lets a session live unused.
    shortest_ttl: Option<Millis>,
    pub(super) call: Option<u32>,
    /// In the call, or to be called again.
    pub(super) batch: Vec<Touched>,
}

impl Touches {
    pub(super) fn new(shortest_ttl: Option<Millis>) -> Self {
        Self { ttl: Millis(0), shortest_ttl, call: None, batch: Vec::new() }
    }

    /// The store says how long pins live. If that is news: how often a session in use is to be touched from now on.
    pub(super) fn learn_ttl(&mut self, ttl: Millis, longest: Millis) -> Option<Millis> {
        if std::mem::replace(&mut self.ttl, ttl) == ttl {
            return None;
        }
        // Three chances to be touched in that time.
        let shortest = self.shortest_ttl.map_or(ttl, |shortest| shortest.min(ttl));
        Some(longest.min(Millis(shortest.0 / 4)))
    }

    /// Gathers what a call is to touch, unless one is under way. False if there is nothing to call for.
    pub(super) fn gather(&mut self, pins: &mut Pins, now: Millis) -> bool {
        if self.call.is_some() {
            return false;
        }
        if self.batch.is_empty() {
            self.batch = pins.due_for_touch(now, MAX_TOUCHED);
        }
        !self.batch.is_empty()
    }
}
