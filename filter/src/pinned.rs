//! The sessions of one pool as this VM knows them: pins, and the requests that wait to learn theirs.
//!
//! A hit is answered from the cache. A miss pauses its request and asks the state cluster, together with all others that
//! ask for the same session; the answer, a failure or the timeout resumes each of them. Without an answer a session goes
//! where it was last, else where the ring says, and is asked about again soon. Which contexts are resumed, and from
//! which, is decided here; everything that can be decided without a proxy is in `berth_core`.

mod answer;
mod ask;
mod renewal;
mod upkeep;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use berth_core::breaker::{Breaker, BreakerPolicy, Permit};
use berth_core::config::{OnPanic, OnVanish, Session, StateCluster, Superseded};
use berth_core::decision::{self, NoPlacement, Placement};
use berth_core::event::{CallResult, Counter, Outcome, Reason, SESSION_HEADER};
use berth_core::flight::{FlightLimits, Flights, Join, Released};
use berth_core::health::State;
use berth_core::owners::Owners;
use berth_core::pins::{InUse, Kind, Lookup, Pin, PinKey, Pins, Seat, WireKey};
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::PoolName;

use crate::host;
use crate::plugin::{LivePool, Plugin};
use crate::verdict::{Slot, Verdict};

use ask::Ask;
use renewal::{Held, Renewal};
use upkeep::Upkeep;

/// How long requests wait in all while a worker has just started, for the first members and for the first answer of the
/// state cluster: ten times what either takes on a busy machine, and still no client's timeout.
pub(crate) const START: Millis = Millis(500);

/// One pool's sessions.
pub(crate) struct Pinned {
    state: Rc<StateCluster>,
    pool: PoolName,
    pins: Pins,
    owners: Owners,
    in_use: InUse<Held>,
    flights: Flights<Rc<Ask>>,
    parked: BTreeMap<u32, Parked>,
    breaker: Breaker,
    upkeep: Upkeep,
    renewal: Renewal,
    /// How the latest call of the start failed.
    trouble: String,
    /// Grows when changes were missed: an answer that was asked for before is remembered as a hint and no more.
    epoch: u32,
    /// The members' names were not known when they were last taken over.
    is_nameless: bool,
}

/// A request that waits: where it will find its verdict, and what it would have asked by itself.
struct Parked {
    slot: Slot,
    ask: Rc<Ask>,
    since: Millis,
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
    /// Providers whose keys it has waited for already, as bits by their places: nobody waits twice for the same.
    pub(crate) waited: u16,
}

/// On what terms a request wants its session placed.
pub(crate) struct Terms {
    /// What its rule says of sessions.
    pub(crate) session: Rc<Session>,
    /// Nobody but the session's node is to serve it.
    pub(crate) is_strict: bool,
    /// When it ends at the latest.
    pub(crate) ends: Option<Millis>,
    /// When it began.
    pub(crate) created: Option<Millis>,
    /// The version of its token.
    pub(crate) version: Option<u32>,
    /// What it was called before.
    pub(crate) previous: Option<SessionId>,
}

impl Terms {
    /// A token of a lower version than was seen is refused.
    fn is_latest_only(&self) -> bool {
        self.session.superseded == Superseded::Reject
    }
}

/// What one pool of several gets of a worker's means, and how soon its sessions may be forgotten.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    /// Calls under way.
    pub(crate) calls: usize,
    /// The shortest time that any rule lets a session live unused.
    pub(crate) shortest_ttl: Option<Millis>,
}

impl Pinned {
    /// `None` if the pool's name is none that the state cluster could know.
    pub(crate) fn new(pool: &str, state: &Rc<StateCluster>, share: Share) -> Option<Self> {
        let seed = random();
        // Between half the first backoff, and all of it, a probe must have had its time.
        let default = BreakerPolicy::default();
        let breaker = BreakerPolicy {
            backoff: default.backoff.max(Millis(state.timeout.0 * 4)),
            max_backoff: default.max_backoff.max(Millis(state.timeout.0 * 4)),
            probe_timeout: state.timeout.doubled(),
            ..default
        };
        let limits = FlightLimits {
            calls: share.calls,
            timeout: state.timeout,
            start: START,
            ..FlightLimits::default()
        };
        Some(Self {
            pool: pool.parse().ok()?,
            pins: Pins::new(state.pins, seed),
            owners: Owners::default(),
            in_use: InUse::new(Millis(state.pins.touch_interval.0 / 2)),
            flights: Flights::new(limits),
            parked: BTreeMap::new(),
            breaker: Breaker::new(breaker),
            upkeep: Upkeep::new(share.shortest_ttl),
            renewal: Renewal::default(),
            epoch: 0,
            is_nameless: false,
            trouble: String::new(),
            state: Rc::clone(state),
        })
    }

    /// Takes over the pins of the same pool, unless they are another state cluster's, or more than there is room for.
    pub(crate) fn succeed(&mut self, old: &Self) -> bool {
        let fits = self.state.cluster == old.state.cluster && self.state.pins == old.state.pins;
        if fits {
            self.flights.succeed(&old.flights);
            self.pins = old.pins.clone();
            self.pins.expire_provisional();
        }
        fits
    }

    /// Takes over the members of a new snapshot.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, now: Millis) {
        // Sessions that waited for their nodes' names are asked for at once.
        if std::mem::replace(&mut self.is_nameless, snapshot.nameless) && !snapshot.nameless {
            self.pins.expire_provisional();
        }
        self.pins.adopt(snapshot.nodes.iter().map(|node| node.name.as_str()));
        let had_unnamed = self.owners.unnamed().is_some();
        let started = self.owners.adopt(snapshot, now);
        let unnamed = self.owners.unnamed().and_then(|place| snapshot.nodes.get(place));
        if let Some(node) = unnamed.filter(|_| !had_unnamed) {
            log::warn!(
                "berth: pool {}: no pin can name {}: only the ring sends sessions there",
                self.pool,
                node.name
            );
        }
        for place in started {
            // Only the state cluster knows whom of its sessions it was not told of yet. An answer that is under way may
            // be from before.
            self.epoch = self.epoch.wrapping_add(1);
            if let Some(node) = snapshot.nodes.get(place) {
                self.pins.expire_node(&node.name);
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
        let key = self.pins.key(id.as_bytes());
        let Terms { session, ends, created, .. } = terms;
        let seat = self.in_use.enter(Held { key, ttl: session.ttl, ends: *ends, created: *created });
        let verdict = match self.hit(pool, snapshot, id, key, terms, plugin.now.get()) {
            Some(placement) => Verdict::of(plugin, pool, id, snapshot, placement),
            // It would be asked about to be turned away.
            None if snapshot.is_all_panic() && pool.config.on_panic == OnPanic::Reject => {
                Verdict::of(plugin, pool, id, snapshot, Placement::of(snapshot, id.hash()))
            }
            None => {
                let ask = self.ask(snapshot, id, key, terms, host::now());
                self.miss(plugin, pool, &ask, home)
            }
        };
        (verdict, seat)
    }

    /// A request waits for the first members: the time that a starting worker may take runs from then on.
    pub(crate) fn begin_start(&mut self, now: Millis) {
        self.flights.begin_start(now);
    }

    /// Requests wait for the state cluster.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.flights.is_idle()
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
        terms: &Terms,
        now: Millis,
    ) -> Option<Result<Placement, NoPlacement>> {
        let Lookup::Fresh(pin) = self.pins.get(key, now) else { return None };
        match terms.version.unwrap_or(0).cmp(&pin.session_version) {
            // The state cluster must hear of it.
            Ordering::Greater => return None,
            Ordering::Less if terms.is_latest_only() => return Some(Err(NoPlacement::Superseded)),
            _ => {}
        }
        // Where the ring put it is no word to be strict about.
        if terms.is_strict && pin.kind == Kind::Provisional && pin.version == 0 {
            return None;
        }
        let Some(place) = self.usable(&pin, snapshot) else {
            if self.is_held(&pin, snapshot) {
                self.pins.send_away(key);
                return Some(stand_in_for_vanished(pool, snapshot, id, terms.is_strict));
            }
            // One that left may have been ended or moved by an operator: that is worth a question. So is one that is not
            // known here yet: another proxy has seen it well.
            let state = self.pins.member(pin.node).and_then(|place| Some(snapshot.nodes.get(place)?.state));
            let is_out = state.is_some_and(|state| state != State::Pending);
            return (terms.is_strict && is_out).then_some(Err(NoPlacement::Withheld(Reason::PinUnavailable)));
        };
        if pin.kind == Kind::Restored && self.pins.settle(key) {
            set_notice(&answer::restore(pin.version));
            pool.metrics.count(Counter::Restored);
        }
        if pin.kind == Kind::Away && self.pins.return_home(key) {
            pool.metrics.count(Counter::Returned);
        }
        let mut placement =
            decision::pinned(snapshot, id.hash(), place, as_seen(snapshot, place, Outcome::Hit));
        if pin.kind == Kind::Provisional {
            placement.outcome = as_seen(snapshot, place, Outcome::Ring);
            placement.reason = Reason::StateAway;
        }
        Some(Ok(if terms.is_strict { placement.strictly() } else { placement }))
    }

    /// Where the session is, as far as this VM knows, for somebody who only looks on.
    pub(crate) fn known_place(&mut self, snapshot: &Snapshot, id: &SessionId, now: Millis) -> Option<usize> {
        let Lookup::Fresh(pin) = self.pins.get(self.pins.key(id.as_bytes()), now) else { return None };
        self.usable(&pin, snapshot)
    }

    /// The place of a pin's node, if it is a member that may serve.
    fn usable(&self, pin: &Pin, snapshot: &Snapshot) -> Option<usize> {
        self.pins.member(pin.node).filter(|place| snapshot.may_serve(*place))
    }

    /// True if the pin's node vanished together with many others and may be back soon.
    fn is_held(&self, pin: &Pin, snapshot: &Snapshot) -> bool {
        !snapshot.held.is_empty() && self.pins.name(pin.node).is_some_and(|name| snapshot.is_held(name))
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
        self.parked.insert(stream, Parked { slot: Rc::clone(&slot), ask: Rc::clone(ask), since: now });
        // A request that is decided on the root's account has waited already: in a start for as long as any.
        let has_waited = home.deciding && home.stream.is_none();
        let since = self.flights.starts_since().filter(|_| has_waited).unwrap_or(now);
        match may_ask.then(|| self.flights.join(wire, stream, since, || Rc::clone(ask))) {
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

    /// Notes how a call ended whose answer, if there is one, could be used or not.
    fn note_answer(&mut self, pool: &LivePool, body: host::Answer<'_>, is_good: bool, now: Millis) {
        let unread;
        let result = match body {
            Ok(_) if is_good => Ok(()),
            Ok(_) => {
                unread = host::Failure::unread();
                Err(&unread)
            }
            Err(failure) => Err(failure),
        };
        self.note_call(pool, result, now);
    }

    fn note_call(&mut self, pool: &LivePool, result: Result<(), &host::Failure>, now: Millis) {
        let counted = result.map_or_else(|failure| failure.result, |()| CallResult::Ok);
        pool.metrics.count(Counter::StateCalls(counted));
        match result {
            Ok(()) => {
                if self.breaker.succeeded() {
                    let Self { pool, state, .. } = self;
                    log::info!("berth: pool {pool}: the state cluster {} answers again", state.cluster);
                }
            }
            // A worker that has just started asks again until its time is up.
            Err(failure) if self.flights.is_starting() => self.trouble.clone_from(&failure.told),
            Err(failure) => {
                let was_open = self.breaker.is_open();
                // Once, not again with each probe.
                if self.breaker.failed(now, random()) && !was_open {
                    self.tell_of_trouble(&failure.told);
                }
            }
        }
    }

    /// The start ended without any answer while requests waited for one: what follows need not find that out again.
    fn start_failed(&mut self, now: Millis) {
        if self.breaker.trip(now, random()) {
            let trouble = std::mem::take(&mut self.trouble);
            self.tell_of_trouble(if trouble.is_empty() { "no answer in time" } else { &trouble });
        }
    }

    fn tell_of_trouble(&self, told: &str) {
        let Self { pool, state, .. } = self;
        let cluster = &state.cluster;
        log::warn!("berth: pool {pool}: calls to the state cluster {cluster} fail, the ring decides: {told}");
    }
}

fn random() -> u64 {
    host::random().map_or(0, |bytes| u128::from_le_bytes(bytes) as u64)
}

/// Where a request goes whose session's node has vanished and may be back soon. Its pin stays as it is.
fn stand_in_for_vanished(
    pool: &LivePool,
    snapshot: &Snapshot,
    id: &SessionId,
    is_strict: bool,
) -> Result<Placement, NoPlacement> {
    if is_strict {
        return Err(NoPlacement::Withheld(Reason::PinUnavailable));
    }
    match pool.config.on_vanish {
        OnVanish::Reroute => decision::standing_in(snapshot, id.hash()),
        OnVanish::Reject => Err(NoPlacement::Withheld(Reason::Vanished)),
    }
}

fn set_notice(notice: &str) {
    host::set_request_header(SESSION_HEADER, notice.as_bytes());
}

/// What happened, unless the health of the node at this place is ignored: that is what an operator has to see.
fn as_seen(snapshot: &Snapshot, place: usize, outcome: Outcome) -> Outcome {
    if snapshot.is_panic_at(place) { Outcome::Panic } else { outcome }
}
