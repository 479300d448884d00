//! Replies of the state service: what is remembered of them, and what they say of those that waited.

use std::rc::Rc;

use super::lookup::Lookup;
use super::release::{Group, Settled};
use super::{Affinity, PAUSE, believed_until};
use crate::call::CallFailure;
use crate::coalescer::Released;
use crate::decision::Notice;
use crate::event::{Counter, Dropped, Outcome};
use crate::owners::{Standing, provisional_time};
use crate::pins::{Kind, Lookup as Known, Pin, PinKey, Saying, WireKey};
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::{self, ResolveReply, SessionAsk, TouchReply};

/// A pin as it is remembered from a reply.
pub(super) type Reported<'t> = Pin<&'t str>;

impl Affinity {
    /// A call came to its end: the body of a 200, or how it failed. False if the call is not one of these.
    pub fn handle_reply(&mut self, token: u32, body: Result<&[u8], &CallFailure>, now: Millis) -> bool {
        if self.lookups.is_asking(token) {
            let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
            // A session whose part of the store is away is left out: for it alone the call has failed.
            let answers = |key: WireKey| {
                let of = |reply: &ResolveReply| reply.pins.iter().any(|pin| WireKey::from(pin.key) == key);
                reply.as_ref().is_some_and(of)
            };
            let is_good = self.lookups.asked(token).any(|lookup| answers(lookup.ask.key.into()));
            // By an older service, which refuses what newer ones compare.
            let is_refused = body.is_err_and(|failure| failure.is_refused)
                && self.lookups.asked(token).any(|lookup| lookup.ask.known.is_some());
            self.note_answer(body, is_good, now);
            match reply.as_ref().filter(|_| is_good) {
                Some(reply) => {
                    self.note_store(reply.store.as_ref(), now);
                    let (answered, failed) = self.lookups.answered_in_part(token, now, answers);
                    self.release_by_reply(answered, reply, now);
                    self.release_without_answer(failed);
                }
                None if is_refused => self.lookups.again(token, |lookup| {
                    let ask = SessionAsk { known: None, ..lookup.ask.clone() };
                    *lookup = Rc::new(Lookup { ask, ..Lookup::clone(lookup) });
                }),
                None => {
                    let released = self.lookups.failed(token, now);
                    self.release_without_answer(released);
                }
            }
            return true;
        }
        if let Some((_, asked)) = self.refresh.call.take_if(|(call, _)| *call == token) {
            let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
            self.note_answer(body, reply.is_some(), now);
            if let (Some(reply), Some(snapshot)) = (reply, self.snapshot.clone()) {
                self.note_store(reply.store.as_ref(), now);
                self.refreshed(&snapshot, &asked, &reply, now);
            }
            return true;
        }
        if self.touches.call.take_if(|call| *call == token).is_some() {
            let reply = body.ok().and_then(|json| serde_json::from_slice::<TouchReply>(json).ok());
            self.note_answer(body, reply.is_some(), now);
            match reply {
                Some(reply) => self.touched(&reply, now),
                None => self.maintenance.set(now, PAUSE),
            }
            return true;
        }
        let Some(ending) = self.ends.take(token) else { return false };
        // 404 is an answer too: what was to end does not exist any longer.
        let body = if body.is_err_and(|failure| failure.is_missing) { Ok(&[][..]) } else { body };
        match body {
            Ok(_) => self.note_answer(body, true, now),
            // No request waits for it: lookups go on.
            Err(failure) => self.count(Counter::StateCalls(failure.result)),
        }
        if body.is_err() {
            self.maintenance.set(now, PAUSE);
            self.due.ends = false;
            if !self.ends.retry(ending) {
                self.count(Counter::Dropped(Dropped::End));
            }
        }
        true
    }

    fn touched(&mut self, reply: &TouchReply, now: Millis) {
        self.note_store(reply.store.as_ref(), now);
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        let named = Named::in_reply(reply);
        for touched in std::mem::take(&mut self.touches.batch) {
            let key = wire::SessionKey::from(touched.wire);
            let named = named.of(key);
            match named {
                // It has another pin there, or has ended.
                Some(Said::Changed) => _ = self.pins.refute(touched),
                Some(Said::Missing) if touched.saying == Saying::Pin => _ = self.pins.refute(touched),
                Some(Said::Missing) => self.pins.touch_again(touched, now),
                // The store lacks what else was said of it: the next request says that again.
                Some(Said::Written) => _ = self.pins.doubt(touched),
                Some(Said::Unanswered) => self.pins.touch_later(touched),
                // Another proxy may have moved the session or begun it again since: this word is too old to be said later on.
                None if touched.saying == Saying::Withheld => _ = self.pins.refute(touched),
                None => {}
            }
            // Of which nothing was said, the state cluster may have another one.
            if named.is_some() || touched.saying != Saying::Pin && self.stores.compares() {
                continue;
            }
            let own = reply.ttls_ms.get(&key);
            let expires = own.map_or(expires, |ttl| believed_until(Millis(*ttl), now));
            self.pins.prolong(touched.wire, expires);
        }
    }

    /// Remembers the pins of a reply, and has the requests that waited for them released.
    fn release_by_reply(&mut self, released: Vec<Released<Rc<Lookup>>>, reply: &ResolveReply, now: Millis) {
        // A request that waits implies a snapshot: a snapshot is never taken away.
        let Some(snapshot) = self.snapshot.clone() else { return };
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        for Released { key, request: lookup, waiters } in released {
            let pin = reply.pins.iter().find(|pin| pin.key == lookup.ask.key);
            let settled = pin.map(|pin| self.settle(&snapshot, &lookup, pin, expires, now));
            self.releases.push(Group { key, waiters: waiters.into(), settled });
        }
    }

    /// Lets requests go on without an answer.
    pub(super) fn release_without_answer(&mut self, released: Vec<Released<Rc<Lookup>>>) {
        for Released { key, waiters, .. } in released {
            self.releases.push(Group { key, waiters: waiters.into(), settled: None });
        }
    }

    /// Applies an answer of the state service.
    fn settle(
        &mut self,
        snapshot: &Snapshot,
        lookup: &Lookup,
        pin: &wire::Pin,
        expires: Millis,
        now: Millis,
    ) -> Settled {
        let (standing, name) = self.judge(pin, snapshot, now);
        let index = match standing {
            Standing::Usable(index) => Some(index),
            Standing::Held | Standing::Unknown | Standing::Unusable => None,
        };
        let outcome = match pin.outcome {
            wire::Outcome::Found => Outcome::Found,
            wire::Outcome::Claimed => Outcome::Claimed,
            wire::Outcome::Rehomed => Outcome::Rehomed,
        };
        if outcome == Outcome::Rehomed {
            self.count(Counter::Rehomed);
        }
        let session_version = pin.session_version.unwrap_or(0).max(lookup.ask.session_version.unwrap_or(0));
        let known_version = match self.pins.get(lookup.key, now) {
            Known::Fresh(known) | Known::Stale(known) => known.session_version.max(session_version),
            Known::Absent => session_version,
        };
        let version = pin.version;
        let ends = pin.ttl_ms.map_or(expires, |ttl| expires.min(believed_until(Millis(ttl), now)));
        self.keep_notice(lookup.key, pin, name.as_deref(), ends);
        if let Some(node) = &name {
            // An answer from before a change, which may be its own, is a hint: better than none while there is no other.
            // So is the pin of an id that its client may never send: the first request that does asks again, which has the pin
            // live its full time.
            let is_doubted = lookup.epoch != self.epoch || lookup.ask.claim_ttl_ms.is_some();
            let expires = ends;
            let kind = if standing == Standing::Held { Kind::Away } else { Kind::Settled };
            let reported = Reported { node, version, expires, is_doubted, kind, session_version };
            self.remember(lookup.key, lookup.ask.key.into(), reported);
        }
        let provisional = provisional_time(&pin.node, pin.owned_ms.map(Millis), snapshot);
        Settled {
            node: pin.node.clone(),
            index,
            standing,
            provisional,
            outcome,
            version,
            session_version,
            known_version,
        }
    }

    /// Keeps what an answer says only once: what the owner, called `name` here if it is known, has to be notified of.
    pub(super) fn keep_notice(&mut self, key: PinKey, pin: &wire::Pin, name: Option<&str>, until: Millis) {
        let version = pin.version;
        let notice = match &pin.from {
            Some(from) => Some(Notice::Rehomed { from: from.clone(), version }),
            None => pin.restore.then_some(Notice::Restore { version }),
        };
        match (notice, name) {
            (Some(notice), name) => {
                self.notices.keep(key, name.unwrap_or(pin.node.as_str()), notice, until);
            }
            // It was kept by another name while the node was not known here.
            (None, Some(name)) => self.notices.rename(key, pin.node.as_str(), name),
            (None, None) => {}
        }
    }

    /// What can be done with the owner that an answer names, and what it is called here if its pin is to be remembered.
    pub(super) fn judge(
        &self,
        pin: &wire::Pin,
        snapshot: &Snapshot,
        now: Millis,
    ) -> (Standing, Option<String>) {
        let standing = self.owners.judge(&pin.node, pin.owned_ms.map(Millis), snapshot, now);
        let name = match standing {
            Standing::Usable(index) => snapshot.nodes.get(index).map(|node| node.name.clone()),
            // Another node serves it meanwhile, and the pin stays where it is.
            Standing::Held => Some(pin.node.to_string()),
            Standing::Unknown | Standing::Unusable => None,
        };
        (standing, name)
    }

    /// Remembers what the state service reported.
    pub(super) fn remember(&mut self, key: PinKey, wire: WireKey, pin: Reported<'_>) {
        self.unanswered.forget(key);
        let (Known::Fresh(before) | Known::Stale(before)) = self.pins.get(key, Millis(0)) else {
            self.pins.insert(key, wire, pin);
            return;
        };
        // A new answer does not change that another node serves it meanwhile. Only its node's return does.
        let is_away = before.kind == Kind::Away && self.pins.name(before.node) == Some(pin.node);
        let kind = if is_away { Kind::Away } else { pin.kind };
        let session_version = pin.session_version.max(before.session_version);
        self.pins.insert(key, wire, Pin { session_version, kind, ..pin });
    }
}

/// What the reply to a touch says of single sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Unanswered,
    Changed,
    Missing,
    Written,
}

/// The sessions that it names, each list in order.
struct Named([(Vec<wire::SessionKey>, Said); 4]);

impl Named {
    fn in_reply(reply: &TouchReply) -> Self {
        let mut lists = [
            (reply.unanswered.clone(), Said::Unanswered),
            (reply.changed.clone(), Said::Changed),
            (reply.missing.clone(), Said::Missing),
            (reply.written.clone(), Said::Written),
        ];
        lists.iter_mut().for_each(|(keys, _)| keys.sort_unstable());
        Self(lists)
    }

    fn of(&self, key: wire::SessionKey) -> Option<Said> {
        self.0.iter().find(|(keys, _)| keys.binary_search(&key).is_ok()).map(|(_, said)| *said)
    }
}
