//! The pending queue: requests that are paused until their worker has learned something that they cannot be decided without.
//!
//! It decides how long each need is waited for, and by which requests. Whenever the worker has learned something, and on each tick,
//! the adapter takes the requests that may go on and has them decided again, from the start. A need that was not met in its
//! time is not waited for again until it has been met: what stays away delays the requests that came first, and none after
//! them.

use crate::time::Millis;

/// Of one worker's requests, for each need: each keeps a connection and its headers. The bound is not shared, so that those who wait
/// for one issuer's keys leave others their places.
const CAPACITY: usize = 1_024;

/// What a request cannot be decided without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The first members of the pool with this index: without them no pin can be followed.
    Snapshot(usize),
    /// Newer keys of the token provider with this index.
    Keys(usize),
}

impl Need {
    /// Its bit in [`Waited`]; none for what is waited for until it is there, or does not come in time.
    fn bit(self) -> u16 {
        match self {
            Self::Snapshot(_) => 0,
            Self::Keys(provider) => {
                u32::try_from(provider).ok().and_then(|index| 1u16.checked_shl(index)).unwrap_or(0)
            }
        }
    }
}

/// What a request has waited for already: it does not wait for it twice.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Waited {
    /// The providers whose keys it has waited for, by their bits.
    keys: u16,
    /// What came of its wait for the check of its token.
    pub(crate) check: Turn,
}

/// What came of the wait for the check of a token.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has not waited.
    #[default]
    NotYet,
    /// It is its turn.
    Granted,
    /// Its turn did not come.
    Denied,
}

impl Waited {
    pub(crate) fn granted(self) -> Self {
        Self { check: Turn::Granted, ..self }
    }

    pub(crate) fn denied(self) -> Self {
        Self { check: Turn::Denied, ..self }
    }
}

/// Whether a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It does.
    Waits,
    /// It has waited for this already, or it would be of no use: it does without.
    Useless,
    /// Too many wait for the same.
    Full,
}

/// All requests that wait, by what for.
#[derive(Debug, Default)]
pub struct Pending {
    queues: Vec<Queue>,
}

/// Requests that wait for the same.
#[derive(Debug)]
struct Queue {
    need: Need,
    since: Millis,
    has_timed_out: bool,
    waiters: Vec<(u32, Waited)>,
}

impl Pending {
    /// A request is to wait from now on, if it may.
    pub fn enter(&mut self, stream: u32, waited: Waited, need: Need, now: Millis) -> Entry {
        let bit = need.bit();
        if bit != 0 && waited.keys & bit != 0 {
            return Entry::Useless;
        }
        let waiter = (stream, Waited { keys: waited.keys | bit, ..waited });
        match self.queues.iter_mut().find(|queue| queue.need == need) {
            Some(queue) if queue.has_timed_out => return Entry::Useless,
            Some(queue) if queue.waiters.len() >= CAPACITY => return Entry::Full,
            Some(queue) => queue.waiters.push(waiter),
            None => {
                self.queues.push(Queue { need, since: now, has_timed_out: false, waiters: vec![waiter] });
            }
        }
        Entry::Waits
    }

    /// Goes on from where another root of the same worker was: what it has waited for members without success is not waited for again.
    /// `pool` tells the index here of a pool by its index there.
    pub fn succeed(&mut self, former: &Self, pool: impl Fn(usize) -> Option<usize>) {
        self.queues.extend(former.queues.iter().filter_map(|queue| {
            let Need::Snapshot(index) = queue.need else { return None };
            let need = Need::Snapshot(pool(index)?);
            Some(Queue { need, since: queue.since, has_timed_out: queue.has_timed_out, waiters: Vec::new() })
        }));
    }

    /// A request ended while it waited.
    pub fn leave(&mut self, stream: u32) {
        for queue in &mut self.queues {
            queue.waiters.retain(|(waiter, _)| *waiter != stream);
        }
    }

    /// True if no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Takes the requests whose need is met, or was not met in its time, which counts from the first request that waits.
    pub fn take_ready(
        &mut self,
        now: Millis,
        is_met: impl Fn(Need) -> bool,
        timeout: impl Fn(Need) -> Millis,
    ) -> Vec<(u32, Waited)> {
        let mut ready = Vec::new();
        self.queues.retain_mut(|queue| {
            let is_met = is_met(queue.need);
            queue.has_timed_out |= timeout(queue.need).is_over(queue.since, now);
            if is_met || queue.has_timed_out {
                ready.append(&mut queue.waiters);
            }
            !is_met
        });
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Millis = Millis(500);

    fn enters(pending: &mut Pending, stream: u32, need: Need, now: u64) -> bool {
        pending.enter(stream, Waited::default(), need, Millis(now)) == Entry::Waits
    }

    fn ready(pending: &mut Pending, now: u64, met: Option<Need>) -> Vec<u32> {
        let ready = pending.take_ready(Millis(now), |need| Some(need) == met, |_| TIMEOUT);
        ready.into_iter().map(|(stream, _)| stream).collect()
    }

    #[test]
    fn what_another_root_of_the_worker_has_waited_for_is_not_waited_for_again() {
        let mut former = Pending::default();
        assert!(enters(&mut former, 1, Need::Snapshot(3), 0));
        let begun = |former: &Pending| {
            let mut pending = Pending::default();
            pending.succeed(former, |index| (index == 3).then_some(0));
            pending
        };

        let mut pending = begun(&former);
        assert!(pending.is_empty());
        assert!(enters(&mut pending, 2, Need::Snapshot(0), 400));
        assert_eq!(ready(&mut pending, 500, None), [2]);

        assert_eq!(ready(&mut former, 500, None), [1]);
        assert!(!enters(&mut begun(&former), 3, Need::Snapshot(0), 600));
    }

    #[test]
    fn those_whose_need_is_met_go_on_and_the_others_wait() {
        let mut pending = Pending::default();
        assert!(enters(&mut pending, 1, Need::Snapshot(0), 0));
        assert!(enters(&mut pending, 2, Need::Keys(3), 0));

        assert_eq!(ready(&mut pending, 10, Some(Need::Keys(3))), [2]);
        assert_eq!(ready(&mut pending, 11, None), [0; 0]);
        pending.leave(1);
        assert!(pending.is_empty());
    }

    #[test]
    fn what_stays_away_delays_only_the_requests_that_came_first() {
        let mut pending = Pending::default();
        assert!(enters(&mut pending, 1, Need::Snapshot(0), 0));
        assert!(enters(&mut pending, 2, Need::Snapshot(0), 400));

        assert_eq!(ready(&mut pending, 499, None), [0; 0]);
        assert_eq!(ready(&mut pending, 500, None), [1, 2]);
        assert!(!enters(&mut pending, 3, Need::Snapshot(0), 501));
        assert!(enters(&mut pending, 4, Need::Snapshot(1), 501), "another pool's may come");

        ready(&mut pending, 600, Some(Need::Snapshot(0)));
        assert!(enters(&mut pending, 5, Need::Snapshot(0), 700), "it was met since");
    }

    #[test]
    fn no_request_waits_twice_for_the_same_keys() {
        let mut pending = Pending::default();
        assert!(enters(&mut pending, 1, Need::Keys(0), 0));
        let waited = pending.take_ready(Millis(1), |_| true, |_| TIMEOUT);
        let (_, waited) = waited[0];

        assert_eq!(pending.enter(1, waited, Need::Keys(0), Millis(1)), Entry::Useless);
        assert_eq!(pending.enter(1, waited, Need::Keys(1), Millis(1)), Entry::Waits);
        assert_eq!(pending.enter(2, waited, Need::Snapshot(0), Millis(1)), Entry::Waits);
    }

    #[test]
    fn no_more_wait_for_one_thing_than_there_is_room_for_and_others_have_theirs() {
        let needs = [Need::Keys(0), Need::Keys(1), Need::Snapshot(0), Need::Snapshot(1)];
        for (crowded, need) in needs.into_iter().enumerate() {
            let mut pending = Pending::default();
            assert!((0..1_024).all(|stream| enters(&mut pending, stream, need, 0)));
            assert_eq!(pending.enter(1_024, Waited::default(), need, Millis(0)), Entry::Full);

            for (index, other) in needs.into_iter().enumerate().filter(|(index, _)| *index != crowded) {
                assert!(enters(&mut pending, 2_000 + index as u32, other, 0), "{need:?} fills {other:?}");
            }
            pending.leave(7);
            assert!(enters(&mut pending, 1_025, need, 0));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_nothing() {
        let mut pending = Pending::default();
        enters(&mut pending, 1, Need::Snapshot(0), 10_000);

        assert_eq!(ready(&mut pending, 9_000, None), [1]);
    }
}
