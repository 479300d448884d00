//! Whether to ask the state cluster at all: after some failures in a row, not for a while.
//!
//! Closed, every call is allowed. Open, no call is, until the backoff is over; then half open: one call may try, and its
//! outcome decides. A probe that never answers is given up, so nothing can hold the breaker half open. Results are not matched
//! with permits: what was asked before the breaker opened has answered or timed out before the shortest backoff ends,
//! and a late success is as good a sign of life as any. What a denied request gets is not decided here.

use crate::time::Millis;

/// When a breaker opens and how it tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it; 0 never does.
    pub failures: u32,
    /// The first backoff. Its half must be longer than a call's timeout.
    pub backoff: Millis,
    /// Where the doubling after each failed probe ends.
    pub max_backoff: Millis,
    /// A probe that has not answered by then is given up for another.
    pub probe_timeout: Millis,
}

impl Default for BreakerPolicy {
    /// Twice the lookup's timeout of 50 ms for a probe; half the first backoff is as long.
    fn default() -> Self {
        Self { failures: 5, backoff: Millis(200), max_backoff: Millis(5_000), probe_timeout: Millis(100) }
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may.
    Allow,
    /// It may, and all others wait for what becomes of it.
    Probe,
    /// It may not.
    Deny,
}

/// The breaker of one cluster that is called.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { since: Millis, wait: Millis, backoff: Millis },
    HalfOpen { probed: Millis, backoff: Millis },
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed { failures: 0 } }
    }

    /// Whether a call may be made at `now`. A caller that gets [`Permit::Probe`] must call, and report the outcome.
    pub fn allow(&mut self, now: Millis) -> Permit {
        let backoff = match self.state {
            State::Closed { .. } => return Permit::Allow,
            State::Open { since, wait, backoff } if wait.is_over(since, now) => backoff,
            State::HalfOpen { probed, backoff } if self.policy.probe_timeout.is_over(probed, now) => backoff,
            State::Open { .. } | State::HalfOpen { .. } => return Permit::Deny,
        };
        self.state = State::HalfOpen { probed: now, backoff };
        Permit::Probe
    }

    /// Takes over what another breaker has learned of the same service.
    pub fn succeed(&mut self, former: &Self) {
        self.state = former.state;
    }

    /// A call was answered. True if that closed the breaker.
    pub fn succeeded(&mut self) -> bool {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open
    }

    /// Calls failed for so long that one more failure would say nothing new: open, as after a series of failures.
    pub fn trip(&mut self, now: Millis, random: u64) -> bool {
        if self.policy.failures > 0 && !self.is_open() {
            self.state = State::Closed { failures: self.policy.failures - 1 };
        }
        self.failed(now, random)
    }

    /// A call failed. True if that opened the breaker, for the first time or again. `random` spreads the proxies' probes.
    pub fn failed(&mut self, now: Millis, random: u64) -> bool {
        let backoff = match self.state {
            State::Closed { failures }
                if self.policy.failures == 0 || failures + 1 < self.policy.failures =>
            {
                self.state = State::Closed { failures: failures.saturating_add(1) };
                return false;
            }
            State::Closed { .. } => self.policy.backoff,
            State::HalfOpen { backoff, .. } => backoff.doubled(),
            // Asked before it opened: no news.
            State::Open { .. } => return false,
        };
        let backoff = backoff.min(self.policy.max_backoff);
        // Between half of it and all of it.
        let half = backoff.0 / 2;
        let wait = Millis(backoff.0 - random % (half + 1));
        self.state = State::Open { since: now, wait, backoff };
        true
    }

    /// True unless closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Millis = Millis(1_000_000);

    fn opened(policy: BreakerPolicy) -> Breaker {
        let mut breaker = Breaker::new(policy);
        for failure in 1..=policy.failures {
            assert_eq!(breaker.failed(START, 0), failure == policy.failures);
        }
        breaker
    }

    fn at(millis: u64) -> Millis {
        START + Millis(millis)
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        for _ in 0..4 {
            assert!(!breaker.failed(START, 0));
        }
        assert!(!breaker.succeeded());
        for _ in 0..4 {
            assert!(!breaker.failed(START, 0));
        }
        assert_eq!(breaker.allow(START), Permit::Allow);

        assert!(breaker.failed(START, 0));

        assert_eq!(breaker.allow(START), Permit::Deny);
    }

    #[test]
    fn one_probe_tries_and_its_success_lets_everybody_in() {
        let mut breaker = opened(BreakerPolicy::default());
        assert_eq!(breaker.allow(at(199)), Permit::Deny);

        assert_eq!(breaker.allow(at(200)), Permit::Probe);
        assert_eq!(breaker.allow(at(200)), Permit::Deny);
        assert!(breaker.succeeded());

        assert_eq!(breaker.allow(at(201)), Permit::Allow);
    }

    #[test]
    fn each_failed_probe_doubles_the_backoff_up_to_its_maximum() {
        let mut breaker = opened(BreakerPolicy::default());
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..7 {
            let wait = (0..).find(|wait| breaker.allow(at(now + wait)) == Permit::Probe).unwrap();
            now += wait;
            waits.push(wait);
            assert!(breaker.failed(at(now), 0));
        }

        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        breaker.succeeded();
        assert!((0..5).any(|_| breaker.failed(at(now), 0)));
        assert_eq!(
            breaker.allow(at(now + 200)),
            Permit::Probe,
            "after a recovery the backoff starts at its shortest again"
        );
    }

    #[test]
    fn randomness_shortens_a_wait_by_no_more_than_half() {
        for random in [0, 1, 100, 101, 12_345_678, u64::MAX] {
            let mut breaker = Breaker::new(BreakerPolicy { failures: 1, ..BreakerPolicy::default() });
            breaker.failed(START, random);
            let wait = (0..).find(|wait| breaker.allow(at(*wait)) == Permit::Probe).unwrap();
            assert!((100..=200).contains(&wait), "{random}: {wait}");
        }
    }

    #[test]
    fn a_probe_that_never_answers_is_followed_by_another() {
        let mut breaker = opened(BreakerPolicy::default());
        assert_eq!(breaker.allow(at(200)), Permit::Probe);

        assert_eq!(breaker.allow(at(299)), Permit::Deny);
        assert_eq!(breaker.allow(at(300)), Permit::Probe);
        assert_eq!(breaker.allow(at(301)), Permit::Deny);
    }

    #[test]
    fn late_results_of_earlier_calls_do_no_harm() {
        let mut breaker = opened(BreakerPolicy::default());

        assert!(!breaker.failed(at(50), 0));
        assert_eq!(breaker.allow(at(200)), Permit::Probe, "a late failure prolongs nothing");

        let mut breaker = opened(BreakerPolicy::default());
        assert!(breaker.succeeded());
        assert_eq!(breaker.allow(at(50)), Permit::Allow, "a late success is a sign of life");
    }

    #[test]
    fn a_clock_set_back_does_not_keep_it_open() {
        let mut breaker = opened(BreakerPolicy::default());

        assert_eq!(breaker.allow(Millis(5)), Permit::Probe);
        assert_eq!(breaker.allow(Millis(0)), Permit::Probe);
    }

    #[test]
    fn tripped_it_is_open_at_once_and_tries_again_as_ever() {
        let mut breaker = Breaker::new(BreakerPolicy::default());

        assert!(breaker.trip(START, 0));

        assert_eq!(breaker.allow(at(199)), Permit::Deny);
        assert!(!breaker.trip(at(199), 0), "it is open already");
        assert_eq!(breaker.allow(at(200)), Permit::Probe);
        assert!(!Breaker::new(BreakerPolicy { failures: 0, ..BreakerPolicy::default() }).trip(START, 0));
    }

    #[test]
    fn zero_failures_switch_it_off() {
        let mut breaker = Breaker::new(BreakerPolicy { failures: 0, ..BreakerPolicy::default() });

        assert!((0..1_000).all(|_| !breaker.failed(START, 7)));
        assert_eq!(breaker.allow(START), Permit::Allow);
    }
}
