//! Stops asking a store that does not answer, but for one probe now and then.
//!
//! The same for replicas that do not confirm: a call that waits for one holds up the connection.
//!
//! A request that is given up is still queued in the connection. With a store that hangs, each would wait its full time
//! and leave one more behind; the circuit breaker bounds both.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use berth_core::breaker::{Breaker, BreakerPolicy, Permit};
use berth_core::time::Millis;

const POLICY: BreakerPolicy = BreakerPolicy {
    // More than a moment's trouble, less than a tenth of a second of load.
    failures: 8,
    // One probe in this time. A quarter of the time in which a stale pin has to be gone, so recovery is seen soon.
    backoff: Millis(100),
    max_backoff: Millis(100),
    // Shorter than a call may take: what fails later counts as the next probe's failure, and an answer closes it.
    probe_timeout: Millis(100),
};

/// Core's breaker, shared by the requests of a service.
pub(super) struct CircuitBreaker {
    since: Instant,
    breaker: Mutex<Breaker>,
}

impl CircuitBreaker {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), breaker: Mutex::new(Breaker::new(POLICY)) }
    }

    /// Whether the store may be asked.
    pub(super) fn allow(&self) -> Permit {
        let now = self.now();
        self.with(|breaker| breaker.allow(now))
    }

    /// True if only probes are allowed.
    pub(super) fn is_open(&self) -> bool {
        self.with(|breaker| breaker.is_open())
    }

    /// What came of asking.
    pub(super) fn report(&self, answered: bool) {
        let now = self.now();
        // Each service has a store of its own to probe, so nothing is to be spread by chance.
        self.with(|breaker| if answered { breaker.succeeded() } else { breaker.failed(now, 0) });
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_with_an_answer() {
        let breaker = CircuitBreaker::new();
        for _ in 0..POLICY.failures - 1 {
            breaker.report(false);
        }
        assert_eq!(breaker.allow(), Permit::Allow);
        breaker.report(false);
        assert_eq!(breaker.allow(), Permit::Deny);

        breaker.report(true);
        assert_eq!(breaker.allow(), Permit::Allow);
    }
}
