//! How much of a worker's time the checks of unknown tokens take, and which token that waits is checked next.
//!
//! A signature costs its forger nothing and its worker up to some milliseconds, during which no other request of the worker goes on.
//! So checks by public keys have a budget, a quarter of the worker's time. Once it is spent they wait, and each that becomes possible is
//! drawn: first a source address that has tokens waiting, then an issuer among its tokens, then a token. So a sender of
//! forgeries waits as long as anybody, and the forgeries of one address delay those of others by one check each. What is not drawn in its time,
//! or finds no place, is answered "cannot tell now". Tokens that are known need no check, and never come here.

use std::cell::Cell;
use std::rc::Rc;

use crate::attributes::Attributes;
use crate::pending::{Entry, Waited};
use crate::ring::session_hash;
use crate::time::Millis;

/// Microseconds of checks in a millisecond: 25 %.
const SHARE: u64 = 250;
/// What may be spent at once after a rest, in microseconds: some sixty logins by RS256.
const BURST: i64 = 50_000;
/// A check that seems to have taken longer was interrupted, or the clock was set.
const LONGEST: Millis = Millis(100);
/// Requests that wait for their check in one worker: each keeps a connection and its headers.
const CAPACITY: usize = 1_024;
/// As long as a full queue of RS256 takes, and shorter than clients wait.
const PATIENCE: Millis = Millis(5_000);

/// What is left of the worker's time for checks. The configurations of one worker share it.
#[derive(Debug)]
struct Budget {
    /// In microseconds; below zero after a check that took more than was left.
    left: Cell<i64>,
    at: Cell<Millis>,
}

/// The checks of one worker.
#[derive(Debug)]
pub(super) struct Checks {
    budget: Rc<Budget>,
    /// Those that have tokens waiting.
    sources: Vec<Source>,
    waiting: usize,
    /// Their place was given to others.
    turned_away: Vec<(u32, Waited)>,
    random: u64,
}

/// A source address with its requests, in the order in which they came.
#[derive(Debug)]
struct Source {
    id: u64,
    waiters: Vec<Waiter>,
}

/// A request whose token waits to be checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) stream: u32,
    pub(super) provider: usize,
    pub(super) waited: Waited,
    pub(super) since: Millis,
}

impl Checks {
    /// With a full budget. `seed` must be random.
    pub(super) fn new(seed: u64, now: Millis) -> Self {
        Self {
            budget: Rc::new(Budget { left: Cell::new(BURST), at: Cell::new(now) }),
            sources: Vec::new(),
            waiting: 0,
            turned_away: Vec::new(),
            random: seed,
        }
    }

    /// A former configuration of the worker goes on for a while, with the same budget.
    pub(super) fn succeed(&mut self, former: &Self) {
        self.budget = Rc::clone(&former.budget);
    }

    /// True if a token may be checked at once.
    pub(super) fn may_run(&self, now: Millis) -> bool {
        self.waiting == 0 && self.budget.has_some(now)
    }

    /// A check was made between these times, and took no less than `least` microseconds.
    pub(super) fn spend(&self, from: Millis, to: Millis, least: u64) {
        let took = to.since(from).min(LONGEST).0 * 1000;
        let left = &self.budget.left;
        left.set(left.get().saturating_sub_unsigned(took.max(least)));
    }

    /// A request is to wait for its check. If there is no place, one of the source with most of them is given up.
    pub(super) fn enter(&mut self, id: u64, waiter: Waiter) -> Entry {
        if self.waiting >= CAPACITY {
            let counts = self.sources.iter().enumerate().map(|(at, source)| (source.waiters.len(), at));
            let Some((count, largest)) = counts.max() else { return Entry::Full };
            let own = self.sources.iter().find(|source| source.id == id);
            // Its own source has the most: then each of them, and itself, has one chance.
            let itself = usize::from(own.is_some_and(|own| own.waiters.len() == count));
            let place = self.draw(count + itself);
            let Some(victim) = self.take(largest, place) else { return Entry::Full };
            self.turned_away.push((victim.stream, victim.waited.denied()));
        }
        match self.sources.iter_mut().find(|source| source.id == id) {
            Some(source) => source.waiters.push(waiter),
            None => self.sources.push(Source { id, waiters: vec![waiter] }),
        }
        self.waiting += 1;
        Entry::Waits
    }

    /// The next request to be decided again: it is to be checked now, or is waited for no longer.
    pub(super) fn poll(&mut self, now: Millis) -> Option<(u32, Waited)> {
        if let Some(turned_away) = self.turned_away.pop() {
            return Some(turned_away);
        }
        let is_late = |waiter: &Waiter| PATIENCE.is_over(waiter.since, now);
        let late = self.sources.iter().position(|source| source.waiters.first().is_some_and(is_late));
        if let Some(late) = late.and_then(|source| self.take(source, 0)) {
            return Some((late.stream, late.waited.denied()));
        }
        if self.waiting == 0 || !self.budget.has_some(now) {
            return None;
        }
        let source = self.draw(self.sources.len());
        let waiters = &self.sources.get(source)?.waiters;
        // The providers that these wait for, one bit each.
        let providers = waiters.iter().fold(0, |all, waiter| all | waiter.provider_bit());
        let mut bit = 1_u32;
        let mut left = self.draw(providers.count_ones() as usize);
        while providers & bit == 0 || left > 0 {
            left -= usize::from(providers & bit != 0);
            bit = bit.checked_shl(1)?;
        }
        let is_its = |waiter: &Waiter| waiter.provider_bit() == bit;
        let count = self.sources.get(source)?.waiters.iter().filter(|waiter| is_its(waiter)).count();
        let drawn = self.draw(count);
        let mut places = self.sources.get(source)?.waiters.iter().enumerate();
        let (place, _) = places.by_ref().filter(|(_, waiter)| is_its(waiter)).nth(drawn)?;
        let waiter = self.take(source, place)?;
        Some((waiter.stream, waiter.waited.granted()))
    }

    /// True if no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.turned_away.is_empty()
    }

    /// A request ended.
    pub(super) fn leave(&mut self, stream: u32) {
        self.turned_away.retain(|(waiter, _)| *waiter != stream);
        let place = |source: &Source| source.waiters.iter().position(|waiter| waiter.stream == stream);
        let mut found = self.sources.iter().enumerate();
        if let Some((at, place)) = found.find_map(|(at, source)| Some((at, place(source)?))) {
            self.take(at, place);
        }
    }

    fn take(&mut self, source: usize, place: usize) -> Option<Waiter> {
        let waiters = &mut self.sources.get_mut(source)?.waiters;
        if place >= waiters.len() {
            return None;
        }
        let waiter = waiters.remove(place);
        if waiters.is_empty() {
            self.sources.swap_remove(source);
        }
        self.waiting -= 1;
        Some(waiter)
    }

    /// A number below `bound` (splitmix64, Steele et al. 2014).
    fn draw(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let wide = u128::from(mixed ^ (mixed >> 31)) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

impl Budget {
    /// Whether anything is left. A clock that was set back adds nothing.
    fn has_some(&self, now: Millis) -> bool {
        let earned = now.since(self.at.replace(now)).0.saturating_mul(SHARE);
        self.left.set(self.left.get().saturating_add_unsigned(earned).min(BURST));
        self.left.get() > 0
    }
}

impl Waiter {
    /// There are no more than sixteen.
    fn provider_bit(&self) -> u32 {
        1 << (self.provider % 32)
    }
}

/// Who sent a request, as far as budgets go: an address, or the network of an IPv6 host, which has as many addresses as it likes.
pub(super) fn source(attributes: &dyn Attributes) -> u64 {
    let address = attributes.property(&["source", "address"]).unwrap_or_default();
    session_hash(network(&address))
}

/// Of an address as Envoy writes it: without its port, and of IPv6 only the first four groups, as far as they are not zero.
fn network(address: &[u8]) -> &[u8] {
    let port = address.iter().rposition(|byte| *byte == b':');
    let host = port.and_then(|port| address.get(..port)).unwrap_or_default();
    let Some(host) = host.strip_prefix(b"[") else { return host };
    let host = host.strip_suffix(b"]").unwrap_or(host);
    // IPv4 within IPv6.
    if let Some(last) = host.rsplit(|byte| *byte == b':').next().filter(|last| last.contains(&b'.')) {
        return last;
    }
    let mut end = 0;
    for (index, group) in host.split(|byte| *byte == b':').enumerate() {
        if index == 4 || group.is_empty() && index > 0 {
            break;
        }
        end += group.len() + usize::from(index > 0);
    }
    let mut network = host.get(..end).unwrap_or_default();
    while let Some(shorter) = network.strip_suffix(b":0") {
        network = shorter;
    }
    network
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A worker in simulated time, with requests that come and are drawn.
    struct Worker {
        checks: Checks,
        now: Millis,
        next: u32,
        /// The time in checks, in microseconds.
        spent: u64,
        granted: BTreeSet<u32>,
        denied: BTreeSet<u32>,
    }

    impl Worker {
        fn new(seed: u64) -> Self {
            Self {
                checks: Checks::new(seed, Millis(1_000)),
                now: Millis(1_000),
                next: 0,
                spent: 0,
                granted: BTreeSet::new(),
                denied: BTreeSet::new(),
            }
        }

        /// A token whose check takes `cost` milliseconds comes from `source`.
        fn comes(&mut self, source: u64, provider: usize, cost: u64) -> u32 {
            self.next += 1;
            let stream = self.next;
            if self.checks.may_run(self.now) {
                self.check(stream, cost);
            } else {
                let waiter = Waiter { stream, provider, waited: Waited::default(), since: self.now };
                if self.checks.enter(source, waiter) != Entry::Waits {
                    self.denied.insert(stream);
                }
            }
            stream
        }

        fn check(&mut self, stream: u32, cost: u64) {
            let from = self.now;
            self.now = self.now + Millis(cost);
            self.spent += cost * 1000;
            self.checks.spend(from, self.now, 1);
            assert!(self.granted.insert(stream), "checked once");
        }

        /// Time passes, and what may be checked is.
        fn tick(&mut self, cost: u64) {
            self.now = self.now + Millis(10);
            while let Some((stream, waited)) = self.checks.poll(self.now) {
                if waited == Waited::default().granted() {
                    self.check(stream, cost);
                } else {
                    assert_eq!(waited, Waited::default().denied());
                    assert!(self.denied.insert(stream), "answered once");
                }
            }
        }
    }

    #[test]
    fn checks_take_a_quarter_of_the_time_whatever_comes_and_whatever_they_cost() {
        for cost in [1, 6, 24] {
            let mut worker = Worker::new(cost);
            for _ in 0..1_000 {
                (0..50).for_each(|source| _ = worker.comes(source, 0, cost));
                worker.tick(cost);
            }
            let passed = (worker.now.0 - 1_000) * 1000;
            let share = worker.spent as f64 / passed as f64;
            assert!((0.24..0.27).contains(&share), "checks of {cost} ms took {share:.3} of the time");
            assert!(worker.checks.waiting <= CAPACITY);
        }
    }

    #[test]
    fn a_check_that_costs_less_than_the_clock_shows_costs_its_least() {
        let checks = Checks::new(1, Millis(0));
        let count = (0..10_000).take_while(|_| {
            let runs = checks.may_run(Millis(0));
            checks.spend(Millis(0), Millis(0), 175);
            runs
        });
        assert_eq!(count.count(), 286);
        // A clock that jumps by hours costs no more than the longest check, and earns no more than a burst.
        checks.may_run(Millis(86_400_000));
        checks.spend(Millis(86_400_000), Millis(99_999_999), 175);
        assert_eq!(checks.budget.left.get(), -50_000);
        assert!(
            !checks.may_run(Millis(5)) && checks.may_run(Millis(300)),
            "a clock that is set back goes on"
        );
    }

    #[test]
    fn every_request_that_waits_is_checked_or_answered_once() {
        let mut worker = Worker::new(7);
        for round in 0..500_u64 {
            (0..20).for_each(|number| _ = worker.comes(number * number % 7, number as usize % 3, 6));
            if round % 3 == 0 {
                worker.tick(6);
            }
        }
        (0..2_000).for_each(|_| worker.tick(6));

        assert!(worker.checks.is_empty() && worker.checks.sources.is_empty());
        assert_eq!(worker.granted.len() + worker.denied.len(), worker.next as usize);
        assert!(worker.granted.is_disjoint(&worker.denied));
    }

    #[test]
    fn forgeries_of_one_address_keep_no_login_from_another_waiting_long() {
        for seed in 0..3 {
            let mut worker = Worker::new(seed);
            let mut logins = Vec::new();
            for round in 0..600 {
                // 5,000 a second: the queue is always full.
                (0..50).for_each(|_| _ = worker.comes(1, 0, 22));
                if round % 20 == 0 {
                    logins.push(worker.comes(1_000 + round, 0, 1));
                }
                worker.tick(22);
            }
            (0..500).for_each(|_| worker.tick(22));
            let failed = logins.iter().filter(|login| !worker.granted.contains(login)).count();
            assert_eq!(failed, 0, "of {} logins", logins.len());
        }
    }

    #[test]
    fn forgeries_to_one_issuer_from_the_same_address_delay_anothers_logins_only() {
        let mut worker = Worker::new(3);
        let mut logins = Vec::new();
        for round in 0..2_000 {
            (0..3).for_each(|_| _ = worker.comes(1, 0, 6));
            if round % 20 == 0 {
                logins.push(worker.comes(1, 1, 6));
            }
            worker.tick(6);
        }
        let failed = logins.iter().filter(|login| worker.denied.contains(login)).count();
        assert!(failed * 10 < logins.len(), "{failed} of {}", logins.len());
    }

    #[test]
    fn beside_forgeries_of_the_same_address_to_the_same_issuer_logins_succeed_by_and_by() {
        let mut worker = Worker::new(5);
        // Everybody comes through one balancer. A client tries again after a 503.
        let mut waiting: BTreeSet<u32> = BTreeSet::new();
        let mut done = 0;
        for round in 0..6_000 {
            (0..3).for_each(|_| _ = worker.comes(1, 0, 6));
            if round % 100 == 0 {
                waiting.insert(worker.comes(1, 0, 1));
            }
            worker.tick(6);
            let (granted, denied) = (&worker.granted, &worker.denied);
            done += waiting.intersection(granted).count();
            let again = waiting.intersection(denied).count();
            waiting.retain(|login| !granted.contains(login) && !denied.contains(login));
            (0..again).for_each(|_| _ = waiting.insert(worker.comes(1, 0, 1)));
        }
        assert!(done > 20, "{done} of 60 logins within a minute");
    }

    #[test]
    fn a_request_that_ends_gives_its_place_back() {
        let mut worker = Worker::new(1);
        worker.checks.spend(Millis(0), Millis(100), 0);
        for _ in 0..CAPACITY + 10 {
            worker.comes(1, 0, 1);
        }
        assert_eq!(worker.checks.waiting, CAPACITY);
        (0..=worker.next).for_each(|stream| worker.checks.leave(stream));
        assert!(worker.checks.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        struct From(&'static str);
        impl Attributes for From {
            fn header(&self, _: &str) -> Option<Vec<u8>> {
                None
            }
            fn header_lines(&self, _: &str) -> Vec<Vec<u8>> {
                Vec::new()
            }
            fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
                (path == ["source", "address"]).then(|| self.0.as_bytes().to_vec())
            }
            fn now(&self) -> Millis {
                Millis(0)
            }
            fn random(&self) -> Option<[u8; 16]> {
                None
            }
            fn wants_keys(&self, _: usize, _: Millis) -> bool {
                false
            }
        }
        let source = |address| source(&From(address));

        assert_eq!(source("[2001:db8::1]:443"), source("[2001:db8::ffff:2]:80"));
        assert_ne!(source("[2001:db8::1]:443"), source("[2001:db8:0:1::1]:443"));
        assert_eq!(source("10.0.0.1:1"), source("10.0.0.1:65535"));
        assert_eq!(source("10.0.0.1:1"), source("[::ffff:10.0.0.1]:1"));
        assert_ne!(source("10.0.0.1:1"), source("10.0.0.2:1"));
        assert_ne!(source("[2001:db8::1]:443"), source("[2001:db9::1]:443"));
        assert_eq!(source("[2001:db8:0:0:1::]:443"), source("[2001:db8::1]:443"));
        assert_ne!(source("10.0.0.1:1"), source("[2001:db8::1]:1"));
        // Pipes, and listeners within Envoy.
        assert_eq!((source(""), source("/tmp/pipe")), (source(":"), source(":")));
    }
}
