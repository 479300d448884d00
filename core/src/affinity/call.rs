//! Calls to the state service: which one is to be made next, and what it means that one was made, refused or failed.

use std::rc::Rc;

use super::ends::Ending;
use super::lookup::Lookup;
use super::refresh::Asked;
use super::{Affinity, BATCH, Event, Known, MAINTENANCE_TIMEOUT, PAUSE};
use crate::breaker::Permit;
use crate::call::{CallFailure, Caller};
use crate::coalescer::Batch;
use crate::event::{CallResult, Counter};
use crate::pins::{Kind as PinKind, MINTED, Pin, PinKey, Saying};
use crate::time::Millis;
use crate::wire::{ApiRequest, KnownPin, ResolveRequest, SessionKey, StoreId, TouchRequest, TouchedPin};

/// A call to make. Hand [`Self::id`] back with [`Affinity::call_started`] or [`Affinity::call_refused`].
#[derive(Debug)]
pub struct Call {
    /// Which call it is.
    pub id: CallId,
    /// What to send.
    pub request: ApiRequest,
    /// How long to wait for the answer.
    pub timeout: Millis,
}

/// A call that is being made.
#[derive(Debug)]
pub struct CallId(Kind);

#[derive(Debug)]
enum Kind {
    Lookup(Batch),
    Touch,
    Refresh(Asked),
    End(Ending),
}

impl Affinity {
    /// The next call to make. Only the worker's own context makes calls for maintenance.
    pub fn poll_call(&mut self, caller: Caller, now: Millis) -> Option<Call> {
        if let Some(call) = self.next_lookup(now) {
            return Some(call);
        }
        if caller != Caller::Root {
            return None;
        }
        self.next_touch(now).or_else(|| self.next_refresh(now)).or_else(|| self.next_end(now))
    }

    /// The call was made in the context of `caller`; its answer will bear `token`.
    pub fn call_started(&mut self, id: CallId, token: u32, caller: Caller, now: Millis) {
        match id.0 {
            Kind::Lookup(batch) => {
                let owner = match caller {
                    Caller::Stream(stream) => Some(stream),
                    Caller::Root => None,
                };
                self.lookups.sent(batch, token, owner, now);
            }
            Kind::Touch => self.touches.call = Some(token),
            Kind::Refresh(asked) => self.refresh.call = Some((token, asked)),
            Kind::End(ending) => self.ends.calls.push((token, ending)),
        }
    }

    /// The call could not be made.
    pub fn call_refused(&mut self, id: CallId, failure: &CallFailure, now: Millis) {
        match id.0 {
            Kind::Lookup(batch) => {
                self.note_call(Err(failure), now);
                let released = self.lookups.not_sent(batch, now);
                self.release_without_answer(released);
            }
            Kind::Touch => self.maintenance.set(now, PAUSE),
            // Sessions that are not asked about now have their next turn.
            Kind::Refresh(_) => {
                self.note_call(Err(failure), now);
                self.maintenance.set(now, PAUSE);
            }
            Kind::End(ending) => {
                self.ends.queue.push_front(ending);
                self.due.ends = false;
            }
        }
    }

    /// Notes how a call ended whose answer, if there is one, could be used or not.
    pub(super) fn note_answer(&mut self, body: Result<&[u8], &CallFailure>, is_good: bool, now: Millis) {
        match body {
            Ok(_) if is_good => self.note_call(Ok(()), now),
            Ok(_) => {
                let failure = CallFailure::new("200, but the body does not answer the question");
                self.note_call(Err(&failure), now);
            }
            Err(failure) => self.note_call(Err(failure), now),
        }
    }

    /// Notes which store a good answer came from.
    pub(super) fn note_store(&mut self, store: Option<&StoreId>, now: Millis) {
        if let Some((one, other)) = self.stores.answered(store, now) {
            self.events.push_back(Event::TwoStores(one, other));
        }
    }

    fn note_call(&mut self, result: Result<(), &CallFailure>, now: Millis) {
        let counted = result.map_or_else(|failure| failure.result, |()| CallResult::Ok);
        self.count(Counter::StateCalls(counted));
        // An older service refuses what newer ones compare. That says nothing of its store.
        if result.is_err_and(|failure| failure.is_refused) && self.stores.refused(now) {
            return;
        }
        match result {
            Ok(()) => {
                if self.breaker.succeeded() {
                    self.events.push_back(Event::StateBack);
                }
            }
            // A worker that has just started asks again until its time is up.
            Err(failure) if self.lookups.is_starting() => self.start_failure.clone_from(&failure.detail),
            Err(failure) => {
                let was_open = self.breaker.is_open();
                let jitter = self.jitter();
                // Said once, not again with each probe.
                if self.breaker.failed(now, jitter) && !was_open {
                    self.events.push_back(Event::StateAway(failure.detail.clone()));
                }
            }
        }
    }

    /// The start ended without any answer while requests waited for one: later requests need not find that out again.
    pub(super) fn start_failed(&mut self, now: Millis) {
        let jitter = self.jitter();
        if self.breaker.trip(now, jitter) {
            let mut detail = std::mem::take(&mut self.start_failure);
            if detail.is_empty() {
                detail.push_str("no answer in time");
            }
            self.events.push_back(Event::StateAway(detail));
        }
    }

    fn next_lookup(&mut self, now: Millis) -> Option<Call> {
        let snapshot = self.snapshot.clone()?;
        let batch = self.lookups.take_batch(now, BATCH)?;
        let lookups: Vec<&Rc<Lookup>> =
            batch.keys().iter().filter_map(|key| self.lookups.request(*key)).collect();
        let request = ApiRequest::resolve(&ResolveRequest {
            pool: self.config.pool.clone(),
            region: None,
            panic: snapshot.has_panic(),
            correlation_id: lookups.first().and_then(|lookup| lookup.correlation.clone()),
            sessions: lookups.iter().map(|lookup| lookup.ask.clone()).collect(),
        });
        let timeout = self.lookups.call_timeout(now);
        Some(Call { id: CallId(Kind::Lookup(batch)), request, timeout })
    }

    fn next_touch(&mut self, now: Millis) -> Option<Call> {
        let snapshot = self.snapshot.clone()?;
        if !std::mem::take(&mut self.due.touch) || !self.touches.gather(&mut self.pins, now) {
            return None;
        }
        if self.breaker.allow(now) == Permit::Deny {
            return None;
        }
        let (mut keys, mut pins) = (Vec::new(), Vec::new());
        let mut batch = std::mem::take(&mut self.touches.batch);
        for touched in &mut batch {
            let key = SessionKey::from(touched.wire);
            // A call that failed is repeated: by then the number may be another node's, and the store's pin another one.
            let pin = self.pins.still(*touched).filter(|pin| pin.is_believed(now));
            if pin.is_none() {
                self.pins.doubt(*touched);
            }
            // Of a node that is out here nothing is said: another proxy may have moved the session for that.
            let is_out = |pin: &Pin| self.usable(pin, &snapshot).is_none();
            touched.saying = match pin {
                Some(pin) if is_out(&pin) => Saying::Withheld,
                _ => Saying::Use,
            };
            let pin = pin.filter(|pin| !is_out(pin));
            match pin.and_then(|pin| Some((self.known_pin(&pin)?, pin.expires.since(now).0))) {
                Some((known, lives)) => {
                    touched.saying = Saying::Pin;
                    pins.push(TouchedPin { key, known, lives_ms: Some(lives) });
                }
                None => keys.push(key),
            }
        }
        self.touches.batch = batch;
        let request = ApiRequest::touch(&TouchRequest { pool: self.config.pool.clone(), keys, pins });
        Some(Call { id: CallId(Kind::Touch), request, timeout: MAINTENANCE_TIMEOUT })
    }

    /// What is known of a session that the state cluster must have, for a service that compares it.
    pub(super) fn believed(&mut self, key: PinKey, now: Millis) -> Option<KnownPin> {
        let pin = self.any_pin(key, now).filter(|pin| pin.is_believed(now))?;
        self.known_pin(&pin)
    }

    /// What is said of a pin to a service that compares it.
    fn known_pin(&self, pin: &Pin) -> Option<KnownPin> {
        let Pin { version, node, .. } = *pin;
        // Of where only the ring has put a session, or its node, the store may know better.
        if version <= MINTED || !self.stores.compares() {
            return None;
        }
        Some(KnownPin { version, node: self.pins.name(node)?.parse().ok()? })
    }

    fn next_refresh(&mut self, now: Millis) -> Option<Call> {
        let snapshot = self.snapshot.clone()?;
        if !std::mem::take(&mut self.due.refresh) || self.refresh.call.is_some() {
            return None;
        }
        let (asked, sessions) = self.sessions_to_refresh(&snapshot, now);
        if sessions.is_empty() || self.breaker.allow(now) == Permit::Deny {
            return None;
        }
        let request = ApiRequest::resolve(&ResolveRequest {
            pool: self.config.pool.clone(),
            region: None,
            panic: snapshot.has_panic(),
            correlation_id: None,
            sessions,
        });
        Some(Call { id: CallId(Kind::Refresh(asked)), request, timeout: MAINTENANCE_TIMEOUT })
    }

    fn next_end(&mut self, now: Millis) -> Option<Call> {
        if !self.due.ends {
            return None;
        }
        loop {
            let ending = self.ends.next()?;
            // The pin that the call would end is the new session's.
            if ending.is_late(now) && self.has_begun_again(&ending, now) {
                continue;
            }
            let request = ApiRequest::end(self.config.pool.as_str(), ending.key, ending.ago(now));
            return Some(Call { id: CallId(Kind::End(ending)), request, timeout: MAINTENANCE_TIMEOUT });
        }
    }

    /// A request of the session came after its end, and the state service said where it is. Answers from before are only
    /// hints here, and a place that only the ring gave says nothing of the pin.
    fn has_begun_again(&mut self, ending: &Ending, now: Millis) -> bool {
        matches!(self.pins.get(ending.pin, now), Known::Fresh(pin) if pin.kind != PinKind::Provisional)
    }
}
