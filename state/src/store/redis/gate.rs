//! Stops asking a store that does not answer, but for one probe now and then.
//!
//! The same for replicas that do not confirm: a call that waits for one holds up the connection.
//!
//! A request that is given up is still queued in the connection. With a store that hangs, each would wait its full time
//! and leave one more behind; the gate bounds both.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures in a row that close the gate: more than a moment's trouble, less than a tenth of a second of load.
const FAILURES: u32 = 8;
/// One probe in this time. A quarter of the time in which a stale pin has to be gone, so recovery is seen soon.
const PROBE_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Gate {
    since: Instant,
    failures: AtomicU32,
    next_probe_ms: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), failures: AtomicU32::new(0), next_probe_ms: AtomicU64::new(0) }
    }

    /// True if the store may be asked.
    pub(super) fn admits(&self) -> bool {
        if !self.is_closed() {
            return true;
        }
        let now = self.now_ms();
        let next = self.next_probe_ms.load(Ordering::Relaxed);
        let later = now + PROBE_EVERY.as_millis() as u64;
        now >= next
            && self.next_probe_ms.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// True if only probes are admitted.
    pub(super) fn is_closed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES
    }

    /// What came of asking.
    pub(super) fn report(&self, answered: bool) {
        if answered {
            self.failures.store(0, Ordering::Relaxed);
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            // Wraps only after four billion failures without an answer.
            self.next_probe_ms.fetch_max(self.now_ms() + PROBE_EVERY.as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_after_failures_in_a_row_and_opens_with_an_answer() {
        let gate = Gate::new();
        for _ in 0..FAILURES - 1 {
            gate.report(false);
        }
        assert!(gate.admits());
        gate.report(false);
        assert!(!gate.admits());

        gate.report(true);
        assert!(gate.admits());
    }
}
