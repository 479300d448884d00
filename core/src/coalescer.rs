//! One question for many: the requests of a VM that wait for the state cluster, and the calls that are under way.
//!
//! Requests of one session share one lookup, lookups share calls. Each waiter is released exactly once: by an answer,
//! by a failure, by its lookup's timeout, or by its own end. What to do with a released waiter, and whether to call at
//! all, is not decided here; nor are calls made here.
//!
//! A call belongs to the context that made it. If that was a request's and the request ends first, the SDK drops the
//! answer; [`Coalescer::stream_gone`] then puts the call's lookups back into the queue, from where the root, whose calls
//! nothing ends, takes them with its next tick. A request that leads may call at once, so that no request waits for a
//! tick; what finds no call slot free waits in the queue and goes out in batches, with the next request that leads, answer to the
//! root, or tick.
//!
//! A worker that has just started knows nothing. During its start a call that fails, or cannot be made, releases none of
//! its waiters: its lookups are asked again with the next tick, until the bound of the start is over.
//!
//! A lookup whose time is up stays under way without waiters: its answer is still good for the cache, and until then
//! no second call asks for the same session.
//!
//! ```
//! use berth_core::coalescer::{Coalescer, CoalescerLimits, Join};
//! use berth_core::pins::WireKey;
//! use berth_core::time::Millis;
//!
//! let mut coalescer = Coalescer::new(CoalescerLimits::default());
//! let key = WireKey([7; 16]);
//! assert_eq!(coalescer.join(key, 11, Millis(0), || "candidates"), Join::Lead);
//! assert_eq!(coalescer.join(key, 12, Millis(1), || "candidates"), Join::Wait);
//!
//! let batch = coalescer.take_batch(Millis(1), 64).unwrap();
//! assert_eq!(coalescer.request(batch.keys()[0]), Some(&"candidates"));
//! coalescer.sent(batch, 99, Some(11), Millis(1));
//! assert_eq!(coalescer.answered(99)[0].waiters, [11, 12]);
//! assert!(coalescer.answered(99).is_empty());
//! ```

mod start;

use std::collections::{BTreeMap, VecDeque};

use crate::pins::WireKey;
use crate::time::Millis;
use start::Start;

/// How much may be under way in one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoalescerLimits {
    /// Sessions asked about, waiting in the queue or under way.
    pub sessions: usize,
    /// Calls under way. All of an Envoy's VMs together must stay below the state cluster's circuit breaker.
    pub calls: usize,
    /// How long a request waits for its answer.
    pub timeout: Millis,
    /// How long requests wait in all while a worker has just started; zero if no longer than later.
    pub start: Millis,
}

impl Default for CoalescerLimits {
    /// Sixteen VMs with so many calls stay below 1,024, Envoy's default.
    fn default() -> Self {
        Self { sessions: 4_096, calls: 48, timeout: Millis(50), start: Millis(0) }
    }
}

/// A call ends with its own timeout. One that is this many times as old will never be answered, whatever went wrong.
const LOST_AFTER_TIMEOUTS: u64 = 8;

/// What a request that misses has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Take a batch and call: no other request will before the next tick.
    Lead,
    /// Wait: somebody calls already, or will.
    Wait,
    /// Do not wait.
    Refused(Refusal),
}

/// Why a request is not to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many sessions as may be are asked about.
    Full,
    /// It waits already, and a request can only be resumed once.
    AlreadyWaiting,
}

/// Lookups to make one call of. It must be handed back with [`Coalescer::sent`] or [`Coalescer::not_sent`]; a batch that is
/// dropped leaves its lookups to their timeout.
#[derive(Debug)]
pub struct Batch {
    number: u64,
    keys: Vec<WireKey>,
}

impl Batch {
    /// The sessions to ask about, at least one.
    #[must_use]
    pub fn keys(&self) -> &[WireKey] {
        &self.keys
    }
}

/// Waiters to resume, all of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released<R> {
    /// The session.
    pub key: WireKey,
    /// What was to be asked.
    pub request: R,
    /// The streams that waited, in the order of their coming. Empty if the answer is only good for the cache.
    pub waiters: Vec<u32>,
}

/// The lookups and calls of one VM. `R` is what the caller needs to ask, and to place a session without an answer.
#[derive(Debug)]
pub struct Coalescer<R> {
    limits: CoalescerLimits,
    lookups: BTreeMap<WireKey, Lookup<R>>,
    waiting: BTreeMap<u32, WireKey>,
    /// Exactly the lookups that are in no call; those to ask again first.
    queue: VecDeque<WireKey>,
    /// So few that looking at each is quickest.
    calls: Vec<Call>,
    next_call: u64,
    start: Start,
    /// Requests wait, or waited, in the start; until it is said what came of it.
    has_begun: bool,
    /// Any call ever was.
    is_answered: bool,
    /// A call failed during the start: the next one is made after the next tick.
    is_held: bool,
}

#[derive(Debug)]
struct Lookup<R> {
    request: R,
    waiters: Vec<u32>,
    /// When its first waiter came.
    since: Millis,
    /// How long it is waited for.
    patience: Millis,
    /// It joined during the start: it is asked again until its time is up.
    is_asked_again: bool,
    is_queued: bool,
}

#[derive(Debug)]
struct Call {
    number: u64,
    keys: Vec<WireKey>,
    token: Option<u32>,
    owner: Option<u32>,
    since: Millis,
}

impl<R: Clone> Coalescer<R> {
    /// Nothing under way.
    #[must_use]
    pub fn new(limits: CoalescerLimits) -> Self {
        Self {
            limits,
            lookups: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queue: VecDeque::new(),
            calls: Vec::new(),
            next_call: 0,
            start: Start::new(limits.start),
            has_begun: false,
            is_answered: false,
            is_held: false,
        }
    }

    /// Goes on from where another root of the same worker was: a worker starts once.
    pub fn succeed(&mut self, former: &Self) {
        (self.start, self.is_answered) = (former.start, former.is_answered);
    }

    /// A request waits from `now` on for something else that a starting worker has to learn, within the same bound.
    pub fn begin_start(&mut self, now: Millis) {
        self.start.wait(self.limits.start, now);
    }

    /// When the first request began to wait, as long as the start lasts.
    #[must_use]
    pub fn starts_since(&self) -> Option<Millis> {
        self.start.since()
    }

    /// The worker has just started: failures are no news yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.start != Start::Over
    }

    /// True once, after a start in which requests waited and no call was answered.
    pub fn take_failed_start(&mut self) -> bool {
        let is_over = self.has_begun && !self.is_starting();
        self.has_begun &= !is_over;
        is_over && !self.is_answered
    }

    /// How long a call that is made now may take: during the start as long as requests wait, since a state cluster that
    /// has just started too may be slow with its first answers.
    pub fn call_timeout(&mut self, now: Millis) -> Millis {
        match self.start.since() {
            Some(_) => self.start.wait(self.limits.start, now).max(self.limits.timeout),
            None => self.limits.timeout,
        }
    }

    /// A request misses its session's pin. `request` is made only for the first of a session.
    pub fn join(&mut self, key: WireKey, waiter: u32, now: Millis, request: impl FnOnce() -> R) -> Join {
        if self.waiting.contains_key(&waiter) {
            return Join::Refused(Refusal::AlreadyWaiting);
        }
        let rest = self.start.wait(self.limits.start, now);
        let is_asked_again = rest > Millis(0);
        self.has_begun |= is_asked_again;
        let patience = self.limits.timeout.max(rest);
        if let Some(lookup) = self.lookups.get_mut(&key) {
            if lookup.waiters.is_empty() {
                (lookup.since, lookup.patience, lookup.is_asked_again) = (now, patience, is_asked_again);
            }
            lookup.waiters.push(waiter);
            self.waiting.insert(waiter, key);
            return Join::Wait;
        }
        if self.lookups.len() >= self.limits.sessions {
            return Join::Refused(Refusal::Full);
        }
        let (request, waiters) = (request(), vec![waiter]);
        let lookup = Lookup { request, waiters, since: now, patience, is_asked_again, is_queued: true };
        self.lookups.insert(key, lookup);
        self.waiting.insert(waiter, key);
        self.queue.push_back(key);
        if self.may_call() { Join::Lead } else { Join::Wait }
    }

    /// Up to `max` queued lookups, if there are any and another call may be made. Ask after each [`Join::Lead`], each
    /// end of a call of the root's and on each tick.
    pub fn take_batch(&mut self, now: Millis, max: usize) -> Option<Batch> {
        if !self.may_call() || self.queue.is_empty() {
            return None;
        }
        let keys: Vec<WireKey> = self.queue.drain(..max.clamp(1, self.queue.len())).collect();
        for key in &keys {
            if let Some(lookup) = self.lookups.get_mut(key) {
                lookup.is_queued = false;
            }
        }
        let number = self.next_call;
        self.next_call += 1;
        self.calls.push(Call { number, keys: keys.clone(), token: None, owner: None, since: now });
        Some(Batch { number, keys })
    }

    /// What to ask for a session of a batch.
    #[must_use]
    pub fn request(&self, key: WireKey) -> Option<&R> {
        self.lookups.get(&key).map(|lookup| &lookup.request)
    }

    /// The call was made from the context of `owner`, or from the root.
    #[expect(clippy::needless_pass_by_value, reason = "a batch is sent once")]
    pub fn sent(&mut self, batch: Batch, token: u32, owner: Option<u32>, now: Millis) {
        // The host hands out a token twice only if the first call has ended.
        self.requeue(|call| call.token == Some(token));
        if let Some(call) = self.calls.iter_mut().find(|call| call.number == batch.number) {
            (call.token, call.owner, call.since) = (Some(token), owner, now);
        }
    }

    /// True if the answer to this call is awaited.
    #[must_use]
    pub fn is_asking(&self, token: u32) -> bool {
        self.call(token).is_some()
    }

    /// What a call asked for; nothing if it is not, or no longer, known.
    pub fn asked(&self, token: u32) -> impl Iterator<Item = &R> {
        let keys = self.call(token).map_or(&[][..], |call| &call.keys);
        keys.iter().filter_map(|key| self.request(*key))
    }

    /// The host refused the call: its waiters go on without an answer, unless it is asked again.
    #[expect(clippy::needless_pass_by_value, reason = "a batch is sent once")]
    pub fn not_sent(&mut self, batch: Batch, now: Millis) -> Vec<Released<R>> {
        self.fail(batch.number, now)
    }

    /// A call was answered: its lookups are over. Empty for a call that is not, or no longer, known.
    pub fn answered(&mut self, token: u32) -> Vec<Released<R>> {
        let Some(number) = self.call(token).map(|call| call.number) else { return Vec::new() };
        (self.is_answered, self.is_held) = (true, false);
        self.release(number)
    }

    /// A call was answered, but perhaps not for all of its sessions: their lookups are over, and those of the others go on as after
    /// a call without an answer.
    pub fn answered_in_part(
        &mut self,
        token: u32,
        now: Millis,
        has_answer: impl Fn(WireKey) -> bool,
    ) -> (Vec<Released<R>>, Vec<Released<R>>) {
        let Some(call) = self.calls.iter_mut().find(|call| call.token == Some(token)) else {
            return (Vec::new(), Vec::new());
        };
        let since = call.since;
        let (answered, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut call.keys).into_iter().partition(|key| has_answer(*key));
        call.keys = answered;
        let number = self.next_call;
        self.next_call += 1;
        let answered = self.answered(token);
        self.calls.push(Call { number, keys: others, token: None, owner: None, since });
        // Last: what is asked again waits for the next tick.
        (answered, self.fail(number, now))
    }

    /// A call ended without a proper answer: its waiters go on, unless it is asked again. Empty for a call that is not, or
    /// no longer, known.
    pub fn failed(&mut self, token: u32, now: Millis) -> Vec<Released<R>> {
        self.call(token).map(|call| call.number).map_or_else(Vec::new, |number| self.fail(number, now))
    }

    /// A call was refused, and is to be made again in other words.
    pub fn again(&mut self, token: u32, reword: impl Fn(&mut R)) {
        let keys = self.call(token).map_or_else(Vec::new, |call| call.keys.clone());
        for key in keys {
            if let Some(lookup) = self.lookups.get_mut(&key) {
                reword(&mut lookup.request);
            }
        }
        self.requeue(|call| call.token == Some(token));
    }

    /// A stream ended, whether it waited, called, both or neither.
    pub fn stream_gone(&mut self, stream: u32) {
        if let Some(key) = self.waiting.remove(&stream)
            && let Some(lookup) = self.lookups.get_mut(&key)
        {
            lookup.waiters.retain(|waiter| *waiter != stream);
            if lookup.waiters.is_empty() && lookup.is_queued {
                self.lookups.remove(&key);
                self.queue.retain(|queued| *queued != key);
            }
        }
        self.requeue(|call| call.owner == Some(stream));
    }

    /// The waiters that have waited long enough, to go on without an answer. To be called on each tick.
    pub fn overdue(&mut self, now: Millis) -> Vec<Released<R>> {
        self.is_held = false;
        if self.start.since().is_some() {
            self.start.wait(self.limits.start, now);
        }
        let mut released = Vec::new();
        for (key, lookup) in &mut self.lookups {
            if !lookup.waiters.is_empty() && lookup.patience.is_over(lookup.since, now) {
                let waiters = std::mem::take(&mut lookup.waiters);
                released.push(Released { key: *key, request: lookup.request.clone(), waiters });
            }
        }
        for Released { key, waiters, .. } in &released {
            for waiter in waiters {
                self.waiting.remove(waiter);
            }
            if self.lookups.get(key).is_some_and(|lookup| lookup.is_queued) {
                self.lookups.remove(key);
            }
        }
        if !released.is_empty() {
            let lookups = &self.lookups;
            self.queue.retain(|queued| lookups.contains_key(queued));
        }
        let lost = Millis(self.limits.timeout.0.saturating_mul(LOST_AFTER_TIMEOUTS)) + self.limits.start;
        self.requeue(|call| lost.is_over(call.since, now));
        released
    }

    /// True if nothing is waiting or under way: no tick need be short.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lookups.is_empty()
    }

    /// How many streams wait.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiting.len()
    }

    /// How many sessions are asked about.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lookups.len()
    }

    /// How many calls are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    fn may_call(&self) -> bool {
        !self.is_held && self.calls.len() < self.limits.calls
    }

    /// Ends a call without an answer. Lookups of the start go back into the queue for the next tick.
    fn fail(&mut self, number: u64, now: Millis) -> Vec<Released<R>> {
        let Self { calls, lookups, queue, is_held, .. } = self;
        if let Some(call) = calls.iter_mut().find(|call| call.number == number) {
            call.keys.retain(|key| {
                let Some(lookup) = lookups.get_mut(key) else { return true };
                let is_over = lookup.patience.is_over(lookup.since, now);
                if !lookup.is_asked_again || lookup.waiters.is_empty() || is_over {
                    return true;
                }
                lookup.is_queued = true;
                queue.push_back(*key);
                *is_held = true;
                false
            });
        }
        self.release(number)
    }

    fn call(&self, token: u32) -> Option<&Call> {
        self.calls.iter().find(|call| call.token == Some(token))
    }

    /// Ends a call and its lookups.
    fn release(&mut self, number: u64) -> Vec<Released<R>> {
        let is_it = |call: &Call| call.number == number;
        let Some(place) = self.calls.iter().position(is_it) else { return Vec::new() };
        let call = self.calls.remove(place);
        let mut released = Vec::with_capacity(call.keys.len());
        for key in call.keys {
            let Some(Lookup { request, waiters, .. }) = self.lookups.remove(&key) else { continue };
            for waiter in &waiters {
                self.waiting.remove(waiter);
            }
            released.push(Released { key, request, waiters });
        }
        released
    }

    /// Puts the lookups of calls that will never be answered first in the queue; drops those without a waiter.
    fn requeue(&mut self, is_lost: impl Fn(&Call) -> bool) {
        // The youngest first, since each goes to the very front.
        while let Some(place) = self.calls.iter().rposition(&is_lost) {
            for key in self.calls.remove(place).keys.into_iter().rev() {
                let Some(lookup) = self.lookups.get_mut(&key) else { continue };
                if lookup.waiters.is_empty() {
                    self.lookups.remove(&key);
                } else {
                    lookup.is_queued = true;
                    self.queue.push_front(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
