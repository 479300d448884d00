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

    /// Marks the sessions of a request that may not begin. One that a proxy knows lives already.
    pub(super) fn mark(&self, request: &mut ResolveRequest, now: Instant) {
        let mut left = self.with(&request.pool, now, |bucket| bucket.tokens);
        for ask in request.sessions.iter_mut().filter(|ask| ask.known.is_none()) {
            ask.find_only = left < 1.0;
            left -= 1.0;
        }
    }

    /// What came of it.
    pub(super) fn note(&self, pool: &PoolName, pins: &[Pin], now: Instant) {
        let begun = pins.iter().filter(|pin| pin.outcome == Outcome::Claimed).count();
        if begun > 0 {
            self.with(pool, now, |bucket| bucket.tokens -= begun as f64);
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

    use berth_core::wire::{KnownPin, SessionAsk, SessionKey};

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

    #[test]
    fn each_pool_begins_so_many_a_second_and_finds_all() {
        let (admission, start) = (Admission::new(10), Instant::now());
        let ask = |pool: &str, count, at: u64| {
            let mut request = request(pool, count);
            admission.mark(&mut request, start + Duration::from_millis(at));
            let admitted = request.sessions.iter().filter(|ask| !ask.find_only).count();
            admission.note(&request.pool, &claimed(admitted), start + Duration::from_millis(at));
            admitted
        };

        assert_eq!(ask("a", 8, 0), 8);
        assert_eq!(ask("a", 8, 0), 2);
        assert_eq!((ask("a", 8, 50), ask("b", 8, 50)), (0, 8));
        assert_eq!(ask("a", 8, 350), 3);
        assert_eq!(ask("a", 40, 60_000), 10, "no more than a second's worth is saved");
    }

    #[test]
    fn what_is_found_costs_nothing_and_what_is_known_passes() {
        let (admission, now) = (Admission::new(1), Instant::now());
        for _ in 0..50 {
            let mut request = request("a", 1);
            admission.mark(&mut request, now);
            assert!(!request.sessions[0].find_only);
            admission.note(&request.pool, &[], now);
        }
        admission.note(&"a".parse().unwrap(), &claimed(1), now);
        let mut request = request("a", 2);
        request.sessions[1].known = Some(KnownPin { version: 5, node: "b".parse().unwrap() });
        admission.mark(&mut request, now);
        assert_eq!(request.sessions.iter().map(|ask| ask.find_only).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn made_up_pools_are_not_kept() {
        let (admission, start) = (Admission::new(5), Instant::now());
        for pool in 0..10_000_u64 {
            let now = start + Duration::from_millis(pool);
            admission.note(&format!("p{pool}").parse().unwrap(), &claimed(1), now);
        }
        assert!(admission.buckets.lock().unwrap().len() <= POOLS + 1);
    }
}
