//! Answers: what becomes of those who waited when the state cluster has spoken, or has not.
//!
//! All waiters of a session share one lookup, but not one verdict: each is judged on its own terms, and one whose terms
//! the lookup did not carry (a newer token, a firmer rule) asks again by itself.

use std::collections::VecDeque;
use std::rc::Rc;

use berth_core::decision::{self, NoPlacement, Placement};
use berth_core::event::{Counter, Outcome, Reason};
use berth_core::flight::{Join, Released};
use berth_core::owners::Standing;
use berth_core::pins::{Kind, Lookup, Pin, WireKey};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{self, NodeId, ResolveReply};

use super::ask::Ask;
use super::{Home, Parked, Pinned, as_seen, result_of, set_notice};
use crate::host;
use crate::plugin::{LivePool, Plugin};
use crate::verdict::Verdict;

/// How long a session stays where the ring put it before the state cluster is asked again.
const PROVISIONAL: Millis = Millis(2_000);
/// The same, if the state cluster named an owner that cannot be used here: that is about to change.
const DISPUTED: Millis = Millis(250);

/// The circumstances of an answer.
#[derive(Clone, Copy)]
struct Told {
    expires: Millis,
    nobody_waits: bool,
    now: Millis,
}

/// What is done with all waiters of one session.
struct Decided {
    placement: Result<Placement, NoPlacement>,
    /// For the node, with the first of them.
    notice: Option<String>,
    /// The highest version of its token that is known.
    session_version: u32,
}

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
        let released = self.flights.ended(token);
        if released.is_empty() {
            return self.renewal_answered(pool, token, body, now)
                || self.upkeep_answered(pool, token, body, now);
        }
        let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
        // One that leaves sessions out is as good as none to those.
        let is_complete = reply.as_ref().is_some_and(|reply| {
            let answers = |ask: &Ask| reply.pins.iter().any(|pin| pin.key == ask.session.key);
            released.iter().all(|released| answers(&released.request))
        });
        self.note_call(pool, result_of(body, is_complete), now);
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
        let mut released = VecDeque::from(released);
        while let Some(Released { key, request: ask, mut waiters }) = released.pop_front() {
            let pin = reply.and_then(|reply| reply.pins.iter().find(|pin| pin.key == ask.session.key));
            let own = |waiter: u32| self.parked.get(&waiter).map(|parked| Rc::clone(&parked.ask));
            let differs = |waiter: &mut u32| own(*waiter).is_some_and(|own| !own.has_the_terms_of(&ask));
            for waiter in waiters.extract_if(.., differs).collect::<Vec<_>>() {
                match own(waiter) {
                    Some(own) if pin.is_some() => again.push((key, waiter, own)),
                    // Nobody answers it either.
                    Some(request) => released.push_back(Released { key, request, waiters: vec![waiter] }),
                    None => {}
                }
            }
            let mut decided = match pin {
                Some(pin) => {
                    let standing = self.owners.judge(pin.node, &snapshot, now);
                    if standing == Standing::Unusable
                        && let Some(ask) = ask.naming(pin.node)
                    {
                        let ask = Rc::new(ask);
                        again.extend(waiters.into_iter().map(|waiter| (key, waiter, Rc::clone(&ask))));
                        continue;
                    }
                    let told = Told { expires, nobody_waits: waiters.is_empty(), now };
                    self.settle(pool, &snapshot, &ask, pin, standing, told)
                }
                None => self.stand_in(&snapshot, &ask, PROVISIONAL, now),
            };
            for waiter in waiters {
                let Some(Parked { slot, ask: own }) = self.parked.remove(&waiter) else { continue };
                let is_being_decided = home.deciding && waiter == home.context;
                // Also for one that is being decided: a call that cannot be made may release others before it.
                if !host::act_as(waiter) {
                    continue;
                }
                let is_old = own.is_latest_only && own.version() < decided.session_version;
                let placement = if is_old { Err(NoPlacement::Superseded) } else { decided.placement };
                let verdict = Verdict::of(plugin, pool, &own.id, &snapshot, placement);
                if !is_old && let Some(notice) = decided.notice.take() {
                    set_notice(&notice);
                }
                // The others of a session that was claimed or rehomed find it so.
                if !is_old
                    && let Ok(placement) = &mut decided.placement
                    && matches!(placement.outcome, Outcome::Claimed | Outcome::Rehomed)
                {
                    placement.outcome = Outcome::Found;
                }
                if !is_being_decided && verdict.lets_go_on() {
                    host::resume_request();
                }
                slot.replace(verdict);
            }
        }
        for (key, waiter, ask) in again {
            self.ask_again(plugin, pool, key, waiter, ask, home, now);
        }
        host::act_as(home.context);
    }

    /// One that waited on has another question. It goes out with the root's next tick at the latest.
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
        if let Join::Refused(_) = self.flights.join(key, waiter, now, || Rc::clone(&ask)) {
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
        standing: Standing,
        told: Told,
    ) -> Decided {
        let Told { expires, nobody_waits, now } = told;
        let session_version = pin.session_version.unwrap_or(0).max(ask.version());
        let Standing::Usable(place) = standing else {
            if ask.session.strict {
                let placement = Err(NoPlacement::Withheld(Reason::PinUnavailable));
                return Decided { placement, notice: None, session_version };
            }
            return Decided { session_version, ..self.stand_in(snapshot, ask, DISPUTED, now) };
        };
        let expires = pin.ttl_ms.map_or(expires, |ttl| expires.min(believed_until(Millis(ttl), now)));
        let outcome = match pin.outcome {
            wire::Outcome::Found => Outcome::Found,
            wire::Outcome::Claimed => Outcome::Claimed,
            wire::Outcome::Rehomed => Outcome::Rehomed,
        };
        let notice = match (pin.from, pin.restore) {
            (Some(from), _) => Some(format!("rehomed; from={from}; version={}", pin.version)),
            (None, true) => Some(format!("restore; version={}", pin.version)),
            (None, false) => None,
        };
        if outcome == Outcome::Rehomed {
            pool.metrics.count(Counter::Rehomed);
        }
        if pin.restore && !nobody_waits {
            pool.metrics.count(Counter::Restored);
        }
        if ask.epoch == self.epoch
            && let Some(node) = snapshot.nodes.get(place)
        {
            // Its node still has to be told, by whoever comes next.
            let kind = if notice.is_some() && nobody_waits { Kind::Restored } else { Kind::Settled };
            let (node, version) = (node.address.as_str(), pin.version);
            let pin = Pin { node, version, expires, kind, session_version };
            self.pins.insert(ask.key, ask.session.key.into(), pin);
        }
        let placement = decision::pinned(snapshot, ask.id.hash(), place, as_seen(snapshot, outcome));
        let placement = if ask.session.strict { placement.strictly() } else { placement };
        Decided { placement: Ok(placement), notice, session_version }
    }

    /// Without an answer: where the session was last, if that node may serve, else where the ring says; for a while.
    fn stand_in(&mut self, snapshot: &Snapshot, ask: &Ask, lasts: Millis, now: Millis) -> Decided {
        let is_strict = ask.session.strict;
        let known = [Some(ask.key), ask.previous].into_iter().flatten().find_map(|key| {
            match self.pins.get(key, now) {
                Lookup::Fresh(pin) | Lookup::Stale(pin) => Some(pin),
                Lookup::Absent => None,
            }
        });
        // Where the ring once put it is no word to be strict about.
        let last = known
            .filter(|pin| !is_strict || pin.kind != Kind::Provisional)
            .and_then(|pin| self.usable(&pin, snapshot));
        let session_version = known.map_or(0, |pin| pin.session_version).max(ask.version());
        let hash = ask.id.hash();
        if is_strict {
            let outcome = as_seen(snapshot, Outcome::Ring);
            let placement = last.map(|place| decision::pinned(snapshot, hash, place, outcome).strictly());
            let placement = placement.ok_or(NoPlacement::Withheld(Reason::StateAway));
            return Decided { placement, notice: None, session_version };
        }
        let mut placement = match last {
            Some(place) => Ok(decision::pinned(snapshot, hash, place, as_seen(snapshot, Outcome::Ring))),
            None => Placement::of(snapshot, hash),
        };
        if let Ok(placement) = &mut placement {
            placement.reason = Reason::StateAway;
            if let Some(node) = placement.nodes(snapshot).next() {
                let (node, expires, kind) = (node.address.as_str(), now + lasts, Kind::Provisional);
                let pin = Pin { node, version: 0, expires, kind, session_version };
                self.pins.insert(ask.key, ask.session.key.into(), pin);
            }
        }
        Decided { placement, notice: None, session_version }
    }
}

/// When a pin that lives for `ttl` from now on is no longer to be relied on: well before the store forgets it, since
/// another proxy may then claim the session anew.
pub(super) fn believed_until(ttl: Millis, now: Millis) -> Millis {
    now + Millis(ttl.0 / 4 * 3)
}

impl Ask {
    /// The same question, which says that this node cannot be used; `None` if that was said.
    fn naming(&self, node: NodeId) -> Option<Self> {
        let mut ask = self.clone();
        let unusable = &mut ask.session.unusable;
        if self.session.strict || unusable.contains(&node) {
            return None;
        }
        unusable.insert(0, node);
        unusable.truncate(wire::MAX_UNUSABLE);
        Some(ask)
    }
}
