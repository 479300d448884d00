//! How many new sessions a pool may begin: ids are free for clients to invent, and each new one takes memory of the store for its
//! whole life.
//!
//! A token bucket for each pool (ITU-T I.371's leaky bucket as a meter) that holds a second's worth. Sessions that are known anywhere are
//! found as always: only what would begin one costs a token.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use berth_core::wire::{Outcome, Pin, PoolName, ResolveRequest};

use crate::lock::lock;

/// Buckets kept; of more, those that are full are dropped, which says the same.
const POOLS: usize = 1_024;

pub(super) struct Admission {
    per_second: f64,
    buckets: Mutex<BTreeMap<PoolName, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, per_second: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens, self.at) = ((self.tokens + passed * per_second).min(per_second), now);
    }
}

impl Admission {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Takes a token for each session of a request, and marks those that may not begin. All are asked about alike: whether one is new
    /// is known once the store has answered.
    pub(super) fn take(&self, request: &mut ResolveRequest, now: Instant) {
        let wanted = request.sessions.len() as f64;
        let taken = self.with(&request.pool, now, |bucket| {
            let taken = bucket.tokens.floor().min(wanted);
            bucket.tokens -= taken;
            taken
        });
        for ask in request.sessions.iter_mut().skip(taken as usize) {
            ask.find_only = true;
        }
    }

    /// What came of it: only those that have begun keep their tokens.
    pub(super) fn give_back(&self, request: &ResolveRequest, pins: &[Pin]) {
        let taken = request.sessions.iter().filter(|ask| !ask.find_only).count();
        let begun = pins.iter().filter(|pin| pin.outcome == Outcome::Claimed).count();
        let left = taken.saturating_sub(begun);
        if left > 0 {
            let mut buckets = lock(&self.buckets);
            if let Some(bucket) = buckets.get_mut(&request.pool) {
                bucket.tokens = (bucket.tokens + left as f64).min(self.per_second);
            }
        }
    }

    fn with<T>(&self, pool: &PoolName, now: Instant, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= POOLS && !buckets.contains_key(pool) {
            buckets.retain(|_, bucket| {
                bucket.fill(self.per_second, now);
                bucket.tokens < self.per_second
            });
        }
        let full = || Bucket { tokens: self.per_second, at: now };
        let bucket = buckets.entry(pool.clone()).or_insert_with(full);
        bucket.fill(self.per_second, now);
        act(bucket)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_core::wire::{SessionAsk, SessionKey};

    use super::*;

    fn request(pool: &str, sessions: u8) -> ResolveRequest {
        let node = || "10.0.0.1:80".parse().unwrap();
        let ask = |id| SessionAsk::new(SessionKey::new(pool, &[id]), vec![node()], vec![]);
        let sessions = (0..sessions).map(ask).collect();
        ResolveRequest {
            pool: pool.parse().unwrap(),
            region: None,
            panic: false,
            correlation_id: None,
            sessions,
        }
    }

    fn claimed(count: usize) -> Vec<Pin> {
        let json =
            r#"{"key": "00000000000000000000000000000000", "node": "a", "version": 1, "outcome": "claimed"}"#;
        vec![serde_json::from_str(json).unwrap(); count]
    }

    fn may_begin(request: &ResolveRequest) -> usize {
        request.sessions.iter().filter(|ask| !ask.find_only).count()
    }

    #[test]
    fn each_pool_begins_so_many_a_second() {
        let (admission, start) = (Admission::new(10), Instant::now());
        let ask = |pool: &str, count, at: u64| {
            let mut request = request(pool, count);
            admission.take(&mut request, start + Duration::from_millis(at));
            let begun = may_begin(&request);
            admission.give_back(&request, &claimed(begun));
            begun
        };

        assert_eq!(ask("a", 8, 0), 8);
        assert_eq!(ask("a", 8, 0), 2);
        assert_eq!((ask("a", 8, 50), ask("b", 8, 50)), (0, 8));
        assert_eq!(ask("a", 8, 350), 3);
        assert_eq!(ask("a", 40, 60_000), 10, "no more than a second's worth is saved");
    }

    #[test]
    fn calls_at_once_share_what_there_is_and_leave_no_debt() {
        let (admission, now) = (Admission::new(10), Instant::now());
        let mut requests: Vec<_> = (0..50).map(|_| request("a", 9)).collect();
        for request in &mut requests {
            admission.take(request, now);
        }
        assert_eq!(requests.iter().map(may_begin).sum::<usize>(), 10);
        for request in &requests {
            admission.give_back(request, &claimed(may_begin(request)));
        }

        let mut next = request("a", 9);
        admission.take(&mut next, now + Duration::from_millis(500));
        assert_eq!(may_begin(&next), 5);
    }

    #[test]
    fn what_is_found_costs_nothing() {
        let (admission, now) = (Admission::new(1), Instant::now());
        for _ in 0..50 {
            let mut request = request("a", 1);
            admission.take(&mut request, now);
            assert_eq!(may_begin(&request), 1);
            admission.give_back(&request, &[]);
        }
    }

    #[test]
    fn made_up_pools_are_not_kept() {
        let (admission, start) = (Admission::new(5), Instant::now());
        for pool in 0..10_000_u64 {
            admission.take(&mut request(&format!("p{pool}"), 1), start + Duration::from_millis(pool));
        }
        assert!(admission.buckets.lock().unwrap().len() <= POOLS + 1);
    }
}
