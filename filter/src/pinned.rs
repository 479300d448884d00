//! The sessions of one pool as this VM knows them: pins, and the requests that wait to learn theirs.
//!
//! A hit is answered from the cache. A miss pauses its request and asks the state cluster, together with all others that
//! ask for the same session; the answer, a failure or the timeout resumes each of them. Without an answer a session goes
//! where it was last, else where the ring says, and is asked about again soon. Which contexts are resumed, and from
//! which, is decided here; everything that can be decided without a proxy is in `berth_core`.

mod ask;
mod upkeep;

use std::collections::BTreeMap;
use std::rc::Rc;

use berth_core::breaker::{Breaker, BreakerPolicy, Permit};
use berth_core::config::{OnPanic, StateCluster};
use berth_core::decision::{self, NoPlacement, Placement};
use berth_core::event::{CallResult, Counter, Outcome, Reason, SESSION_HEADER};
use berth_core::flight::{FlightLimits, Flights, Join, Released};
use berth_core::owners::{Owners, Standing};
use berth_core::pins::{InUse, Kind, Lookup, Pin, PinKey, Pins, Seat, WireKey};
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{self, PoolName, ResolveReply};

use crate::host;
use crate::plugin::{LivePool, Plugin};
use crate::verdict::{Slot, Verdict};

use ask::Ask;
use upkeep::Upkeep;

/// How long a session stays where the ring put it before the state cluster is asked again.
const PROVISIONAL: Millis = Millis(2_000);
/// The same, if the state cluster named an owner that cannot be used here: that is about to change.
const DISPUTED: Millis = Millis(250);

/// One pool's sessions.
pub(crate) struct Pinned {
    state: Rc<StateCluster>,
    pool: PoolName,
    pins: Pins,
    owners: Owners,
    in_use: InUse,
    flights: Flights<Rc<Ask>>,
    parked: BTreeMap<u32, Slot>,
    breaker: Breaker,
    upkeep: Upkeep,
    /// Grows when changes were missed: an answer that was asked for before is not remembered.
    epoch: u32,
}

/// Where a callback is: whose context it returns to, and whether that is a request being decided right now. On a stream's
/// account that is the stream's own callback, on the root's a tick that decides it anew.
#[derive(Clone, Copy)]
pub(crate) struct Home {
    pub(crate) context: u32,
    /// Calls are this stream's; `None` for the root's.
    pub(crate) stream: Option<u32>,
    /// Whoever decides it lets it go on.
    pub(crate) deciding: bool,
}

/// On what terms a request wants its session placed.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// Nobody but the session's node is to serve it.
    pub(crate) is_strict: bool,
    /// A token of a lower version than was seen is refused.
    pub(crate) is_latest_only: bool,
    /// How long it lives unused.
    pub(crate) ttl: Option<Millis>,
    /// When it ends at the latest.
    pub(crate) ends: Option<Millis>,
    /// When it began.
    pub(crate) created: Option<Millis>,
    /// The version of its token.
    pub(crate) version: Option<u32>,
    /// What it was called before.
    pub(crate) previous: Option<SessionId>,
}

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
}

impl Pinned {
    /// `None` if the pool's name is none that the state cluster could know.
    pub(crate) fn new(pool: &str, state: &Rc<StateCluster>) -> Option<Self> {
        let seed = host::random().map_or(0, |bytes| u128::from_le_bytes(bytes) as u64);
        // Between half the first backoff, and all of it, a probe must have had its time.
        let default = BreakerPolicy::default();
        let breaker = BreakerPolicy {
            backoff: default.backoff.max(Millis(state.timeout.0 * 4)),
            max_backoff: default.max_backoff.max(Millis(state.timeout.0 * 4)),
            probe_timeout: state.timeout.doubled(),
            ..default
        };
        let limits =
            FlightLimits { calls: state.max_calls, timeout: state.timeout, ..FlightLimits::default() };
        Some(Self {
            pool: pool.parse().ok()?,
            pins: Pins::new(state.pins, seed),
            owners: Owners::default(),
            in_use: InUse::new(Millis(state.pins.touch_interval.0 / 2)),
            flights: Flights::new(limits),
            parked: BTreeMap::new(),
            breaker: Breaker::new(breaker),
            upkeep: Upkeep::default(),
            epoch: 0,
            state: Rc::clone(state),
        })
    }

    /// Takes over the pins of the same pool, unless they are another state cluster's, or more than there is room for.
    pub(crate) fn succeed(&mut self, old: &Self) -> bool {
        let fits = self.state.cluster == old.state.cluster && self.state.pins == old.state.pins;
        if fits {
            self.pins = old.pins.clone();
            self.pins.expire_provisional();
        }
        fits
    }

    /// Takes over the members of a new snapshot.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, now: Millis) {
        self.pins.adopt(snapshot.nodes.iter().map(|node| node.address.as_str()));
        for place in self.owners.adopt(snapshot, now) {
            // Only the state cluster knows whom of its sessions it was not told of yet. An answer that is under way may
            // be from before.
            self.epoch = self.epoch.wrapping_add(1);
            if let Some(node) = snapshot.nodes.get(place) {
                self.pins.expire_node(&node.address);
            }
        }
    }

    /// Decides the request whose context `home` is. It is in use until [`Self::request_over`].
    pub(crate) fn decide(
        &mut self,
        plugin: &Plugin,
        pool: &LivePool,
        snapshot: &Rc<Snapshot>,
        id: &SessionId,
        home: Home,
        terms: &Terms,
    ) -> (Verdict, Seat) {
        let key = self.key(id, terms.version);
        let seat = self.in_use.enter(key);
        let verdict = match self.hit(pool, snapshot, id, key, terms.is_strict, plugin.now.get()) {
            Some(placement) => Verdict::of(plugin, pool, id, snapshot, placement),
            // It would be asked about to be turned away.
            None if snapshot.panic && pool.config.on_panic == OnPanic::Reject => {
                Verdict::of(plugin, pool, id, snapshot, Placement::of(snapshot, id.hash()))
            }
            None => {
                let ask = self.ask(snapshot, id, key, terms, host::now());
                self.miss(plugin, pool, &ask, home)
            }
        };
        (verdict, seat)
    }

    /// Requests wait for the state cluster.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.flights.is_idle()
    }

    /// Where a session is remembered. With a token of another version it is not: the state cluster must hear of it.
    fn key(&self, id: &SessionId, version: Option<u32>) -> PinKey {
        match version {
            None => self.pins.key(id.as_bytes()),
            Some(version) => {
                let mut named = id.as_bytes().to_vec();
                // No id has a control byte.
                named.push(0);
                named.extend_from_slice(&version.to_le_bytes());
                self.pins.key(&named)
            }
        }
    }

    /// A request ended, whether it waited, called, both or neither.
    pub(crate) fn request_over(&mut self, stream: u32, seat: Seat) {
        self.in_use.leave(seat);
        self.parked.remove(&stream);
        self.flights.stream_gone(stream);
    }

    /// The pin cache knows a node that may serve, or that the only one that might does not.
    fn hit(
        &mut self,
        pool: &LivePool,
        snapshot: &Snapshot,
        id: &SessionId,
        key: PinKey,
        is_strict: bool,
        now: Millis,
    ) -> Option<Result<Placement, NoPlacement>> {
        let Lookup::Fresh(pin) = self.pins.get(key, now) else { return None };
        if is_strict && pin.kind == Kind::Provisional {
            return None;
        }
        let Some(place) = self.usable(&pin, snapshot) else {
            // One that left may have been ended or moved by an operator: that is worth a question.
            let is_member = self.pins.member(pin.node).is_some();
            return (is_strict && is_member).then_some(Err(NoPlacement::Withheld(Reason::PinUnavailable)));
        };
        if pin.kind == Kind::Restored && self.pins.settle(key) {
            set_notice(&format!("restore; version={}", pin.version));
            pool.metrics.count(Counter::Restored);
        }
        let mut placement = decision::pinned(snapshot, id.hash(), place, as_seen(snapshot, Outcome::Hit));
        if pin.kind == Kind::Provisional {
            placement.outcome = as_seen(snapshot, Outcome::Ring);
            placement.reason = Reason::StateAway;
        }
        Some(Ok(if is_strict { placement.strictly() } else { placement }))
    }

    /// Where the session is, as far as this VM knows, for somebody who only looks on.
    pub(crate) fn known_place(&mut self, snapshot: &Snapshot, id: &SessionId, now: Millis) -> Option<usize> {
        let Lookup::Fresh(pin) = self.pins.get(self.pins.key(id.as_bytes()), now) else { return None };
        self.usable(&pin, snapshot)
    }

    /// The place of a pin's node, if it is a member that may serve.
    fn usable(&self, pin: &Pin, snapshot: &Snapshot) -> Option<usize> {
        let place = self.pins.member(pin.node)?;
        let node = snapshot.nodes.get(place)?;
        (snapshot.panic || node.state.serves()).then_some(place)
    }

    /// Has the state cluster asked, or goes on without it.
    fn miss(&mut self, plugin: &Plugin, pool: &LivePool, ask: &Rc<Ask>, home: Home) -> Verdict {
        host::remove_request_header(SESSION_HEADER);
        let now = host::now();
        let wire = WireKey::from(ask.session.key);
        // Without candidates there is nothing to ask: nobody could serve it.
        let has_candidates = !ask.session.candidates.is_empty();
        let may_ask = has_candidates && self.breaker.allow(now) != Permit::Deny;
        let slot = Slot::default();
        let stream = home.context;
        self.parked.insert(stream, Rc::clone(&slot));
        match may_ask.then(|| self.flights.join(wire, stream, now, || Rc::clone(ask))) {
            Some(Join::Lead) => self.send(plugin, pool, home, now),
            Some(Join::Wait) => {}
            Some(Join::Refused(_)) | None => {
                if has_candidates {
                    pool.metrics.count(Counter::StateCalls(CallResult::Skipped));
                }
                let alone = Released { key: wire, request: Rc::clone(ask), waiters: vec![stream] };
                self.release(plugin, pool, vec![alone], None, home, now);
            }
        }
        let verdict = slot.take();
        if matches!(verdict, Verdict::None) {
            plugin.hurry();
            Verdict::Waiting(slot)
        } else {
            verdict
        }
    }

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
            return self.upkeep_answered(pool, token, body, now);
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
    fn release(
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
        for Released { request: ask, waiters, .. } in released {
            let pin = reply.and_then(|reply| reply.pins.iter().find(|pin| pin.key == ask.session.key));
            let mut decided = match pin {
                Some(pin) => {
                    let nobody_waits = waiters.is_empty();
                    self.settle(pool, &snapshot, &ask, pin, Told { expires, nobody_waits, now })
                }
                None => self.stand_in(&snapshot, &ask, PROVISIONAL, now),
            };
            for waiter in waiters {
                let Some(slot) = self.parked.remove(&waiter) else { continue };
                let is_being_decided = home.deciding && waiter == home.context;
                // Also for one that is being decided: a call that cannot be made may release others before it.
                if !host::act_as(waiter) {
                    continue;
                }
                let verdict = Verdict::of(plugin, pool, &ask.id, &snapshot, decided.placement);
                if let Some(notice) = decided.notice.take() {
                    set_notice(&notice);
                }
                // The others of a session that was claimed or rehomed find it so.
                if let Ok(placement) = &mut decided.placement
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
        host::act_as(home.context);
    }

    /// Takes the state cluster's word.
    fn settle(
        &mut self,
        pool: &LivePool,
        snapshot: &Snapshot,
        ask: &Ask,
        pin: &wire::Pin,
        told: Told,
    ) -> Decided {
        let Told { expires, nobody_waits, now } = told;
        let Standing::Usable(place) = self.owners.judge(pin.node, snapshot, now) else {
            if ask.is_strict {
                let placement = Err(NoPlacement::Withheld(Reason::PinUnavailable));
                return Decided { placement, notice: None };
            }
            return self.stand_in(snapshot, ask, DISPUTED, now);
        };
        if ask.is_latest_only && pin.session_version > ask.session.session_version {
            return Decided { placement: Err(NoPlacement::Superseded), notice: None };
        }
        let expires = pin.ttl_ms.map_or(expires, |ttl| expires.min(now + Millis(ttl / 4 * 3)));
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
            let pin = Pin { node: node.address.as_str(), version: pin.version, expires, kind };
            self.pins.insert(ask.key, ask.session.key.into(), pin);
        }
        let placement = decision::pinned(snapshot, ask.id.hash(), place, as_seen(snapshot, outcome));
        let placement = if ask.is_strict { placement.strictly() } else { placement };
        Decided { placement: Ok(placement), notice }
    }

    /// Without an answer: where the session was last, if that node may serve, else where the ring says; for a while.
    fn stand_in(&mut self, snapshot: &Snapshot, ask: &Ask, lasts: Millis, now: Millis) -> Decided {
        let last = match self.pins.get(ask.key, now) {
            // Where the ring once put it is no word to be strict about.
            Lookup::Fresh(pin) | Lookup::Stale(pin) if !ask.is_strict || pin.kind != Kind::Provisional => {
                self.usable(&pin, snapshot)
            }
            _ => None,
        };
        let hash = ask.id.hash();
        if ask.is_strict {
            let outcome = as_seen(snapshot, Outcome::Ring);
            let placement = last.map(|place| decision::pinned(snapshot, hash, place, outcome).strictly());
            let placement = placement.ok_or(NoPlacement::Withheld(Reason::StateAway));
            return Decided { placement, notice: None };
        }
        let mut placement = match last {
            Some(place) => Ok(decision::pinned(snapshot, hash, place, as_seen(snapshot, Outcome::Ring))),
            None => Placement::of(snapshot, hash),
        };
        if let Ok(placement) = &mut placement {
            placement.reason = Reason::StateAway;
            if let Some(node) = placement.nodes(snapshot).next() {
                let (expires, kind) = (now + lasts, Kind::Provisional);
                let pin = Pin { node: node.address.as_str(), version: 0, expires, kind };
                self.pins.insert(ask.key, ask.session.key.into(), pin);
            }
        }
        Decided { placement, notice: None }
    }

    fn note_call(&mut self, pool: &LivePool, result: CallResult, now: Millis) {
        pool.metrics.count(Counter::StateCalls(result));
        if result == CallResult::Ok {
            if self.breaker.succeeded() {
                log::info!(
                    "berth: pool {}: the state cluster {} answers again",
                    self.pool,
                    self.state.cluster
                );
            }
        } else {
            let was_open = self.breaker.is_open();
            let random = host::random().map_or(0, |bytes| u128::from_le_bytes(bytes) as u64);
            // Once, not again with each probe.
            if self.breaker.failed(now, random) && !was_open {
                log::warn!(
                    "berth: pool {}: the state cluster {} does not answer, or Envoy has none of that name with a \
                     healthy host; the ring decides",
                    self.pool,
                    self.state.cluster
                );
            }
        }
    }
}

/// How a call ended whose answer, if there is one, could be used or not.
fn result_of(body: host::Answer<'_>, is_good: bool) -> CallResult {
    match body {
        Ok(_) if is_good => CallResult::Ok,
        Ok(_) => CallResult::Failed,
        Err(failure) => failure,
    }
}

fn set_notice(notice: &str) {
    host::set_request_header(SESSION_HEADER, notice.as_bytes());
}

/// What happened, unless health was ignored for it: that is what an operator has to see.
fn as_seen(snapshot: &Snapshot, outcome: Outcome) -> Outcome {
    if snapshot.panic { Outcome::Panic } else { outcome }
}
