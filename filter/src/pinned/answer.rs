//! Answers: what becomes of those who waited when the state cluster has spoken, or has not.
//!
//! All waiters of a session share one lookup, but not one verdict: each is judged on its own terms, and one with a newer
//! token than the lookup carried asks again.

use std::cmp::Reverse;
use std::rc::Rc;

use berth_core::decision::{self, NoPlacement, Placement};
use berth_core::event::{Counter, Outcome, Reason};
use berth_core::flight::{Join, Released};
use berth_core::owners::{PROVISIONAL, Standing, provisional_time};
use berth_core::pins::{Kind, Lookup, Pin, PinKey, WireKey};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{self, NodeId, ResolveReply};

use super::ask::Ask;
use super::{Home, Parked, Pinned, as_seen, set_notice, stand_in_for_vanished};
use crate::host;
use crate::plugin::{LivePool, Plugin};
use crate::verdict::Verdict;

/// How a notice of a restored session begins.
const RESTORE: &str = "restore";

/// What the state cluster's word comes to.
struct Settled {
    /// The place of the session's node, if it may serve here.
    place: Option<usize>,
    /// What can be done with that node.
    standing: Standing,
    /// How long the session stays elsewhere if that node cannot be used.
    provisional: Millis,
    outcome: Outcome,
    /// For the node, with the first request that goes there.
    notice: Option<String>,
    /// The highest version of its token that is known.
    session_version: u32,
    /// It is remembered.
    is_kept: bool,
}

/// What becomes of one who waited, and what its node is told.
type Placed = (Result<Placement, NoPlacement>, Option<String>);

impl Pinned {
    /// A call to the state cluster came to its end. False if it was none of these.
    pub(crate) fn answered(
        &mut self,
        plugin: &Plugin,
        pool: &LivePool,
        token: u32,
        body: host::Answer<'_>,
        home: Home,
    ) -> bool {
        let now = host::now();
        let Some(mut asked) = self.flights.asked(token) else {
            return self.renewal_answered(pool, token, body, now)
                || self.upkeep_answered(pool, token, body, now);
        };
        let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
        // One that leaves sessions out is as good as none to those.
        let is_complete = reply
            .as_ref()
            .is_some_and(|reply| asked.all(|ask| reply.pins.iter().any(|pin| pin.key == ask.session.key)));
        drop(asked);
        self.note_answer(pool, body, is_complete, now);
        let released =
            if is_complete { self.flights.answered(token) } else { self.flights.failed(token, now) };
        self.release(plugin, pool, released, reply.as_ref(), home, now);
        // A request that was just let go may be over before an answer to its call, and the call would be made again:
        // then the root's next tick sends what is queued.
        if home.stream.is_none() {
            self.send(plugin, pool, home, now);
        }
        true
    }

    /// Lets all waiters go, by the answer or without one, and returns to the home context.
    pub(super) fn release(
        &mut self,
        plugin: &Plugin,
        pool: &LivePool,
        released: Vec<Released<Rc<Ask>>>,
        reply: Option<&ResolveReply>,
        home: Home,
        now: Millis,
    ) {
        // Whoever waits did so by a snapshot, and none is ever taken away.
        let Some(snapshot) = pool.snapshot() else { return };
        let expires = reply.map_or(now, |reply| self.pin_expires(Millis(reply.ttl_ms), now));
        let mut again = Vec::new();
        for Released { key, request: ask, waiters } in released {
            let pin = reply.and_then(|reply| reply.pins.iter().find(|pin| pin.key == ask.session.key));
            let mut settled = pin.map(|pin| self.settle(pool, &snapshot, &ask, pin, expires, now));
            for waiter in waiters {
                let Some(own) = self.parked.get(&waiter).map(|parked| Rc::clone(&parked.ask)) else {
                    continue;
                };
                let (placement, notice) = match (&mut settled, pin) {
                    (Some(settled), Some(pin)) => {
                        if let Some(next) = own.next(&pin.node, settled) {
                            again.push((key, waiter, next));
                            continue;
                        }
                        self.by_word(pool, &snapshot, &own, settled, now)
                    }
                    _ => self.stand_in(&snapshot, &own, PROVISIONAL, now),
                };
                let told = self.let_go(plugin, pool, &snapshot, waiter, placement, notice.as_deref(), home);
                // Whoever comes next is to tell the node.
                if let (Some(settled), false) = (&mut settled, told) {
                    settled.notice = settled.notice.take().or(notice);
                }
            }
            if settled.is_some_and(|settled| settled.is_kept && settled.notice.is_some()) {
                self.pins.unsettle(ask.key);
            }
        }
        // The newest token first: its answer is one to all others.
        again.sort_unstable_by_key(|(_, _, ask)| Reverse(ask.session.session_version));
        for (key, waiter, ask) in again {
            self.ask_again(plugin, pool, key, waiter, ask, home, now);
        }
        host::act_as(home.context);
    }

    /// Gives a waiter its verdict. True unless the notice did not get to a node with it.
    #[expect(clippy::too_many_arguments, reason = "who, what and where of one request")]
    fn let_go(
        &mut self,
        plugin: &Plugin,
        pool: &LivePool,
        snapshot: &Rc<Snapshot>,
        waiter: u32,
        placement: Result<Placement, NoPlacement>,
        notice: Option<&str>,
        home: Home,
    ) -> bool {
        let Some(Parked { slot, ask, .. }) = self.parked.remove(&waiter) else { return false };
        let is_being_decided = home.deciding && waiter == home.context;
        // Also for one that is being decided: a call that cannot be made may release others before it.
        if !host::act_as(waiter) {
            return false;
        }
        let is_placed = placement.is_ok();
        let verdict = Verdict::of(plugin, pool, &ask.id, snapshot, placement);
        if let Some(notice) = notice.filter(|_| is_placed) {
            set_notice(notice);
            if notice.starts_with(RESTORE) {
                pool.metrics.count(Counter::Restored);
            }
        }
        if !is_being_decided && verdict.lets_go_on() {
            host::resume_request();
        }
        slot.replace(verdict);
        is_placed
    }

    /// One that waited on has another question. It goes out with the root's next tick at the latest, and the time that it
    /// may take has long begun.
    #[expect(clippy::too_many_arguments, reason = "who, what and where of one request")]
    fn ask_again(
        &mut self,
        plugin: &Plugin,
        pool: &LivePool,
        key: WireKey,
        waiter: u32,
        ask: Rc<Ask>,
        home: Home,
        now: Millis,
    ) {
        let Some(parked) = self.parked.get_mut(&waiter) else { return };
        parked.ask = Rc::clone(&ask);
        if let Join::Refused(_) = self.flights.join(key, waiter, parked.since, || Rc::clone(&ask)) {
            let alone = Released { key, request: ask, waiters: vec![waiter] };
            self.release(plugin, pool, vec![alone], None, home, now);
        }
    }

    /// Takes the state cluster's word.
    fn settle(
        &mut self,
        pool: &LivePool,
        snapshot: &Snapshot,
        ask: &Ask,
        pin: &wire::Pin,
        expires: Millis,
        now: Millis,
    ) -> Settled {
        let standing = self.owners.judge(&pin.node, pin.owned_ms.map(Millis), snapshot, now);
        let place = match standing {
            Standing::Usable(place) => Some(place),
            Standing::Held | Standing::Unknown | Standing::Unusable => None,
        };
        let outcome = match pin.outcome {
            wire::Outcome::Found => Outcome::Found,
            wire::Outcome::Claimed => Outcome::Claimed,
            wire::Outcome::Rehomed => Outcome::Rehomed,
        };
        if outcome == Outcome::Rehomed {
            pool.metrics.count(Counter::Rehomed);
        }
        let session_version = pin.session_version.unwrap_or(0).max(ask.session.session_version.unwrap_or(0));
        let mut notice = match &pin.from {
            Some(from) => Some(format!("rehomed; from={from}; version={}", pin.version)),
            None => pin.restore.then(|| restore(pin.version)),
        };
        let name = match standing {
            // Another node serves it meanwhile, and the pin stays where it is.
            Standing::Held => Some(pin.node.to_string()),
            _ => place.and_then(|place| snapshot.nodes.get(place)).map(|node| node.name.clone()),
        };
        if let Some(node) = &name {
            let expires = pin.ttl_ms.map_or(expires, |ttl| expires.min(believed_until(Millis(ttl), now)));
            // An answer from before a change that may be its own is a hint: better than none while nobody answers.
            let expires = if ask.epoch == self.epoch { expires } else { Millis(0) };
            let kind = if standing == Standing::Held { Kind::Away } else { Kind::Settled };
            let (node, version) = (node.as_str(), pin.version);
            let kept = Pin { node, version, expires, kind, session_version };
            if self.remember(ask.key, ask.session.key.into(), kept) {
                notice = notice.or_else(|| Some(restore(pin.version)));
            }
        }
        let is_kept = name.is_some();
        let provisional = provisional_time(&pin.node, snapshot);
        Settled { place, standing, provisional, outcome, notice, session_version, is_kept }
    }

    /// Remembers what the state cluster said. True if the node has yet to be told that the session was elsewhere.
    pub(super) fn remember(&mut self, key: PinKey, wire: WireKey, pin: Pin<&str>) -> bool {
        let (Lookup::Fresh(before) | Lookup::Stale(before)) = self.pins.get(key, Millis(0)) else {
            self.pins.insert(key, wire, pin);
            return false;
        };
        let is_same = self.pins.name(before.node) == Some(pin.node);
        let is_untold = before.kind == Kind::Restored && is_same;
        // That another node serves it meanwhile is not over with a new answer, but with its node's return.
        let kind = if before.kind == Kind::Away && is_same { Kind::Away } else { pin.kind };
        let session_version = pin.session_version.max(before.session_version);
        self.pins.insert(key, wire, Pin { session_version, kind, ..pin });
        is_untold
    }

    /// Where the state cluster's word leads one of those who waited for it.
    fn by_word(
        &mut self,
        pool: &LivePool,
        snapshot: &Snapshot,
        own: &Ask,
        settled: &mut Settled,
        now: Millis,
    ) -> Placed {
        if own.is_latest_only && own.version < settled.session_version {
            return (Err(NoPlacement::Superseded), None);
        }
        let Some(place) = settled.place else {
            if settled.standing == Standing::Held {
                return (stand_in_for_vanished(pool, snapshot, &own.id, own.session.strict), None);
            }
            if own.session.strict {
                return (Err(NoPlacement::Withheld(Reason::PinUnavailable)), None);
            }
            return self.stand_in(snapshot, own, settled.provisional, now);
        };
        if self.pins.return_home(own.key) {
            pool.metrics.count(Counter::Returned);
        }
        let outcome = settled.outcome;
        // The others of a session that was claimed or rehomed find it so.
        settled.outcome = Outcome::Found;
        let placement = decision::pinned(snapshot, own.id.hash(), place, as_seen(snapshot, place, outcome));
        let placement = if own.session.strict { placement.strictly() } else { placement };
        (Ok(placement), settled.notice.take())
    }

    /// Without an answer: where the session was last, if that node may serve, else where the ring says; for a while.
    fn stand_in(&mut self, snapshot: &Snapshot, own: &Ask, lasts: Millis, now: Millis) -> Placed {
        let known = [Some(own.key), own.previous].into_iter().flatten().find_map(|key| {
            match self.pins.get(key, now) {
                Lookup::Fresh(pin) | Lookup::Stale(pin) => Some(pin),
                Lookup::Absent => None,
            }
        });
        let session_version = known.map_or(0, |pin| pin.session_version).max(own.version);
        if own.is_latest_only && own.version < session_version {
            return (Err(NoPlacement::Superseded), None);
        }
        // Where the ring once put it is no word to be strict about.
        let last = known
            .filter(|pin| !own.session.strict || pin.kind != Kind::Provisional || pin.version > 0)
            .and_then(|pin| Some((self.usable(&pin, snapshot)?, pin)));
        let hash = own.id.hash();
        let placement = match last {
            Some((place, _)) => {
                Ok(decision::pinned(snapshot, hash, place, as_seen(snapshot, place, Outcome::Ring)))
            }
            None if own.session.strict => Err(NoPlacement::Withheld(Reason::StateAway)),
            None => Placement::of(snapshot, hash),
        };
        let Ok(mut placement) = placement else { return (placement, None) };
        placement.reason = Reason::StateAway;
        let version = last.map_or(0, |(_, pin)| pin.version);
        if let Some(node) = placement.nodes(snapshot).next() {
            let (node, expires, kind) = (node.name.as_str(), now + lasts, Kind::Provisional);
            let pin = Pin { node, version, expires, kind, session_version };
            self.pins.insert(own.key, own.session.key.into(), pin);
        }
        let notice = last.filter(|(_, pin)| pin.kind == Kind::Restored).map(|(_, pin)| restore(pin.version));
        (Ok(if own.session.strict { placement.strictly() } else { placement }), notice)
    }
}

/// What a node is told of a session that it had before it was started anew.
pub(super) fn restore(version: u64) -> String {
    format!("{RESTORE}; version={version}")
}

/// When a pin that lives for `ttl` from now on is no longer to be relied on: well before the store forgets it, since
/// another proxy may then claim the session anew.
pub(super) fn believed_until(ttl: Millis, now: Millis) -> Millis {
    now + Millis(ttl.0 / 4 * 3)
}

impl Ask {
    /// What this request has to ask after an answer that another one got: the state cluster has not heard of its token, or
    /// not that the node which it names cannot be used.
    fn next(self: &Rc<Self>, node: &NodeId, settled: &Settled) -> Option<Rc<Self>> {
        if self.version > settled.session_version {
            return Some(Rc::clone(self));
        }
        let is_news = settled.standing == Standing::Unusable
            && !self.session.strict
            && !self.session.unusable.contains(node);
        is_news.then(|| {
            let mut ask = Self::clone(self);
            ask.session.unusable.insert(0, node.clone());
            ask.session.unusable.truncate(wire::MAX_UNUSABLE);
            Rc::new(ask)
        })
    }
}
