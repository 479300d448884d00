//! Who keeps forged headers of Berth's own away from nodes and clients, for one pool in one worker.
//!
//! A client may send the request headers that the filter sets, and a backend the response headers. Either the filter
//! removes them from each request, or Envoy's listener and routes do so before the filter sees them, which costs a hit no
//! call. A listener can be configured wrongly, so its work is checked where a check is cheap in comparison, and on one hit
//! in 256. After the first forged header that is found the filter does the work itself.

use std::cell::Cell;

use crate::config;

/// A check reads all headers of a request, so on a hit it must be rare. A client that makes a worker busy is found out
/// within a fraction of a second.
const HITS_PER_CHECK: u8 = 255;

/// What is to be done about headers that may be forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarding {
    /// Remove them, whether they are there or not.
    Remove,
    /// See whether they are there, remove them, and say so with [`Guard::note_forged`].
    Check,
    /// Nothing: they were removed before.
    Trust,
}

/// The headers' guard.
#[derive(Debug, Default)]
pub struct Guard {
    by: config::Guard,
    /// Forged headers came through the listener.
    is_breached: Cell<bool>,
    /// Hits since the last check, of requests and of responses.
    hits: [Cell<u8>; 2],
}

/// A half of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// What a client may forge.
    Request,
    /// What a backend may forge.
    Response,
}

impl Guard {
    /// A guard as it is configured.
    #[must_use]
    pub fn new(by: config::Guard) -> Self {
        Self { by, ..Self::default() }
    }

    /// What is to be done with the headers at hand.
    #[must_use]
    pub fn guarding(&self, half: Half, is_hit: bool) -> Guarding {
        if self.by == config::Guard::Filter || self.is_breached.get() {
            return Guarding::Remove;
        }
        if !is_hit {
            return Guarding::Check;
        }
        let [requests, responses] = &self.hits;
        let hits = if half == Half::Request { requests } else { responses };
        if hits.get() < HITS_PER_CHECK {
            hits.set(hits.get() + 1);
            return Guarding::Trust;
        }
        hits.set(0);
        Guarding::Check
    }

    /// A check found a forged header. True for the first time: it is to be logged.
    pub fn note_forged(&self) -> bool {
        !self.is_breached.replace(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Half; 2] = [Half::Request, Half::Response];

    #[test]
    fn the_filter_removes_on_each_path() {
        let guard = Guard::new(config::Guard::Filter);
        for half in BOTH {
            assert!([true, false].iter().all(|hit| guard.guarding(half, *hit) == Guarding::Remove));
        }
    }

    #[test]
    fn behind_a_listener_one_hit_in_256_is_checked_and_all_else() {
        let guard = Guard::new(config::Guard::Listener);
        for half in BOTH {
            let checks = (0..1024).filter(|_| guard.guarding(half, true) == Guarding::Check).count();
            assert_eq!(checks, 4);
            assert!((0..10).all(|_| guard.guarding(half, false) == Guarding::Check));
        }
    }

    #[test]
    fn after_a_forged_header_the_filter_removes_on_each_path_and_says_so_once() {
        let guard = Guard::new(config::Guard::Listener);
        assert!(guard.note_forged());
        assert!(!guard.note_forged());
        for half in BOTH {
            assert!([true, false].iter().all(|hit| guard.guarding(half, *hit) == Guarding::Remove));
        }
    }
}
