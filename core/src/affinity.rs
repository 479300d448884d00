//! The sessions of one pool as one worker knows them: pins, the requests that wait to learn theirs, and the calls that tell.
//!
//! A state machine without I/O. A hit is answered from the pins. A miss has its request wait and the state service asked,
//! together with all others that ask for the same session; the answer, a failure or the timeout releases each of them.
//! Without an answer a session goes where it was last, else where the ring says, and is asked about again soon.
//!
//! The adapter uses it like this:
//!
//! 1. It hands in what happened: [`Affinity::handle_request`], [`Affinity::handle_reply`], [`Affinity::handle_changes`],
//!    [`Affinity::handle_snapshot`], [`Affinity::handle_minted`], [`Affinity::handle_end`], [`Affinity::handle_gone`], [`Affinity::handle_tick`].
//! 2. It then takes what is to be done, until there is nothing left: each [`Release`] of [`Affinity::poll_release`], which
//!    it reports with [`Affinity::released`]; each [`Call`] of [`Affinity::poll_call`], which it reports with
//!    [`Affinity::call_started`] or [`Affinity::call_refused`], and which may lead to more releases; each [`Event`] of
//!    [`Affinity::poll_event`], which it logs.
//!
//! It decides nothing about health (`health`) or about places on the ring (`placement`), and knows neither rules nor
//! tokens (`proxy`).

mod call;
mod ends;
mod held;
mod hit;
mod learn;
mod lookup;
mod notices;
mod refresh;
mod release;
mod reply;
mod stores;
mod terms;
mod touches;
mod unanswered;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::attributes::Attributes;
use crate::breaker::{Breaker, BreakerPolicy, Permit};
use crate::changelog::{Change, News};
use crate::coalescer::{Coalescer, CoalescerLimits, Join, Released};
use crate::config::OnPanic;
use crate::counters::Counters;
use crate::decision::{Decision, Notice};
use crate::event::{CallResult, Counter, Dropped};
use crate::owners::{Owners, Start};
use crate::pins::{InUse, InUseHandle, Lookup as Known, Pin, PinKey, Pins, WireKey};
use crate::placement::{NoPlacement, Placement};
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::{Millis, Timer};

pub use crate::call::{CallFailure, Caller};
pub use call::{Call, CallId};
pub use learn::Minted;
pub use release::Release;
pub use terms::{Admission, AffinityConfig, Event, Request, Terms};

use ends::Ends;
use held::Held;
use learn::Unclaimed;
use lookup::Lookup;
use notices::Notices;
use refresh::Refresh;
use release::Releases;
use stores::Stores;
use touches::Touches;
use unanswered::Unanswered;

/// How long requests wait in all while a worker has just started, for the first members and for the first answer of the
/// state service: ten times what either takes on a busy machine, and still below any client's timeout.
pub const START: Millis = Millis(500);
/// After a call for maintenance that failed.
const PAUSE: Millis = Millis(1_000);
/// No request waits for touches, ends and refreshes.
const MAINTENANCE_TIMEOUT: Millis = Millis(1_000);
/// How long the pin of an id that Berth has just made lives until its client sends it: longer than a page with all it loads
/// takes. A browser that begins several sessions at once keeps one of them.
pub const ISSUED: Millis = Millis(60_000);
/// A clock that is slewed stays within this. What is further back was set back.
const SET_BACK: Millis = Millis(1_000);
/// Sessions of one call: a quarter of what the service takes, so that no call holds up others.
const BATCH: usize = 64;

/// What is counted of one pool.
pub type PoolCounters = Counters<{ Counter::ALL.len() }>;

/// One pool's sessions.
#[derive(Debug)]
pub struct Affinity {
    config: AffinityConfig,
    snapshot: Option<Rc<Snapshot>>,
    pins: Pins,
    owners: Owners,
    in_use: InUse<Held>,
    unanswered: Unanswered,
    lookups: Coalescer<Rc<Lookup>>,
    waiters: BTreeMap<u32, Waiter>,
    releases: Releases,
    notices: Notices,
    breaker: Breaker,
    touches: Touches,
    stores: Stores,
    refresh: Refresh,
    unclaimed: Unclaimed,
    ends: Ends,
    /// When calls for maintenance may be made again.
    maintenance: Timer,
    /// The calls for maintenance that this tick may still make.
    due: Due,
    /// How the latest call of the start failed.
    start_failure: String,
    /// Grows when changes were missed: an answer that was asked for before is only a hint.
    epoch: u32,
    /// The latest time that a tick said.
    latest: Millis,
    /// The members' names were not known in the latest snapshot.
    is_nameless: bool,
    jitter: u64,
    events: VecDeque<Event>,
    counters: PoolCounters,
}

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    /// What it would have asked by itself.
    lookup: Rc<Lookup>,
    since: Millis,
}

#[derive(Debug, Default)]
struct Due {
    touch: bool,
    refresh: bool,
    ends: bool,
}

impl Affinity {
    /// An engine that knows nothing. The seed must be random and this worker's own: pins are found by a hash with it.
    #[must_use]
    pub fn new(config: AffinityConfig, seed: u64) -> Self {
        let AffinityConfig { state, max_calls, shortest_ttl, .. } = &config;
        // The probe must time out before the shortest jittered backoff, half of the first, ends.
        let default = BreakerPolicy::default();
        let breaker = BreakerPolicy {
            backoff: default.backoff.max(Millis(state.timeout.0 * 4)),
            max_backoff: default.max_backoff.max(Millis(state.timeout.0 * 4)),
            probe_timeout: state.timeout.doubled(),
            ..default
        };
        let limits = CoalescerLimits {
            calls: *max_calls,
            timeout: state.timeout,
            start: START,
            ..CoalescerLimits::default()
        };
        Self {
            snapshot: None,
            pins: Pins::new(state.pins, seed),
            owners: Owners::default(),
            in_use: InUse::new(Millis(state.pins.touch_interval.0 / 2)),
            unanswered: Unanswered::default(),
            lookups: Coalescer::new(limits),
            waiters: BTreeMap::new(),
            releases: Releases::default(),
            notices: Notices::default(),
            breaker: Breaker::new(breaker),
            touches: Touches::new(*shortest_ttl),
            stores: Stores::default(),
            refresh: Refresh::default(),
            unclaimed: Unclaimed::default(),
            ends: Ends::default(),
            maintenance: Timer::new(PAUSE),
            due: Due::default(),
            start_failure: String::new(),
            epoch: 0,
            latest: Millis(0),
            is_nameless: false,
            jitter: seed,
            events: VecDeque::new(),
            counters: PoolCounters::default(),
            config,
        }
    }

    /// Takes over what the same pool knew under a former configuration: of nodes in any case, of sessions only if they are
    /// the same state service's and there is room for as many. False if they are not.
    pub fn succeed(&mut self, former: &Self) -> bool {
        let (state, before) = (&self.config.state, &former.config.state);
        self.owners = former.owners.clone();
        self.is_nameless = former.is_nameless;
        let fits = state.cluster == before.cluster && state.pins == before.pins;
        if fits {
            self.lookups.succeed(&former.lookups);
            self.stores.clone_from(&former.stores);
            self.latest = former.latest;
            // Another token, host or timeout is another chance.
            if state == before {
                self.breaker.succeed(&former.breaker);
            }
            self.pins = former.pins.clone();
            self.pins.doubt_provisional();
            // The former one goes on for a while, and may outlive this one: each says what has yet to be said.
            self.notices.succeed(&former.notices);
            self.ends.succeed(&former.ends);
            self.unclaimed.clone_from(&former.unclaimed);
        }
        fits
    }

    /// A request begins. Its session is in use until [`Self::handle_gone`].
    ///
    /// `tick` is the time of the latest tick: exact enough for a hit, and free. A hit reads nothing of `attributes`.
    pub fn handle_request(
        &mut self,
        request: &Request<'_>,
        tick: Millis,
        attributes: &dyn Attributes,
    ) -> (Admission, InUseHandle) {
        let Request { id, terms, .. } = request;
        let key = self.pins.key(id.as_bytes());
        let Terms { session, ends, created, .. } = terms;
        let handle = self.in_use.enter(Held { key, ttl: session.ttl, ends: *ends, created: *created });
        let Some(snapshot) = self.snapshot.clone() else {
            return (Admission::Decided(self.decide(Err(NoPlacement::NoMembers), None)), handle);
        };
        let admission = match self.hit(&snapshot, id, key, terms, tick) {
            Some((placement, notice)) => Admission::Decided(self.decide(placement, notice)),
            // It would be asked about only to be turned away.
            None if snapshot.is_all_panic() && self.config.policy.on_panic == OnPanic::Reject => {
                Admission::Decided(self.decide(Placement::of(&snapshot, id.hash()), None))
            }
            None => {
                let now = attributes.now();
                let lookup = self.lookup(&snapshot, id, key, terms, attributes, now);
                self.miss(request.stream, request.has_waited, lookup, now);
                Admission::Wait
            }
        };
        (admission, handle)
    }

    /// A request waits for the first members: the time that a starting worker may take runs from now on.
    pub fn handle_start(&mut self, now: Millis) {
        self.lookups.begin_start(now);
    }

    /// A request ended, whether it waited, called, both or neither.
    pub fn handle_gone(&mut self, stream: u32, handle: InUseHandle) {
        self.in_use.leave(handle);
        self.waiters.remove(&stream);
        self.lookups.stream_gone(stream);
    }

    /// A request that carried this notice has an answer: from the node that it is for, or from elsewhere, as when that node
    /// could not be reached. Then the session's next request carries it.
    pub fn handle_notice(&mut self, id: &SessionId, notice: &Notice, is_delivered: bool) {
        self.notices.arrived(self.pins.key(id.as_bytes()), notice, is_delivered);
    }

    /// True if the latest snapshot has members that pins can name and that the one before it had not.
    #[must_use]
    pub fn has_newcomers(&self) -> bool {
        self.owners.has_newcomers()
    }

    /// The members of a new snapshot.
    pub fn handle_snapshot(&mut self, snapshot: Rc<Snapshot>, now: Millis) {
        // Sessions that waited for their nodes' names are asked about at once.
        if std::mem::replace(&mut self.is_nameless, snapshot.nameless) && !snapshot.nameless {
            self.ask_again_soon();
        }
        self.pins.adopt(snapshot.nodes.iter().map(|node| node.name.as_str()));
        let was_nameable = self.owners.unnamed().is_none();
        let started = self.owners.adopt(&snapshot, now);
        // Sessions of a node that was not known are elsewhere for a while. Now they are asked about at once.
        if self.owners.has_newcomers() {
            self.ask_again_soon();
        }
        if let Some(index) = self.owners.unnamed().filter(|_| was_nameable)
            && let Some(node) = snapshot.nodes.get(index)
        {
            self.events.push_back(Event::Unnameable(node.name.clone()));
        }
        for (index, start) in started {
            // Only the state service knows which of the node's sessions were not announced to it. An answer that is
            // under way may be from before the restart.
            self.epoch = self.epoch.wrapping_add(1);
            match (snapshot.nodes.get(index), start) {
                (Some(node), Start::First) => self.pins.doubt_node(&node.name),
                (Some(node), Start::Next) => self.pins.refute_node(&node.name),
                (None, _) => {}
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// What only the ring has placed, or was asked about without an answer, may have another answer now.
    fn ask_again_soon(&mut self) {
        self.pins.doubt_provisional();
        self.unanswered.clear();
    }

    /// What other proxies did.
    pub fn handle_changes(&mut self, news: News) {
        match news {
            News::Missed => {
                self.epoch = self.epoch.wrapping_add(1);
                // A leader's first look counts as a gap too. At the start there is nothing to lose by it.
                if !self.pins.is_empty() {
                    self.pins.doubt_all(self.latest);
                    self.count(Counter::Resyncs);
                }
            }
            News::Changes(changes) => {
                for (key, change) in changes {
                    let wire = WireKey::from(key);
                    match change {
                        Change::Pinned { version, node } => self.pins.outdate(wire, version, node),
                        Change::Ended => self.pins.remove_by_wire(wire).is_some(),
                        Change::Superseded(version) => self.pins.supersede(wire, version.unwrap_or(u32::MAX)),
                    };
                    self.doubt_answers_about(wire);
                }
            }
        }
    }

    /// The backend says that the session is over.
    pub fn handle_end(&mut self, id: &SessionId, now: Millis) {
        let key = crate::wire::SessionKey::new(self.config.pool.as_str(), id.as_bytes());
        self.pins.remove_by_wire(key.into());
        let pin = self.pins.key(id.as_bytes());
        self.notices.forget(pin);
        self.doubt_answers_about(key.into());
        if !self.ends.push(key, pin, now) {
            self.count(Counter::Dropped(Dropped::End));
        }
        self.count(Counter::Ended);
    }

    /// Time passed: overdue requests go on, and maintenance may call.
    pub fn handle_tick(&mut self, now: Millis) {
        self.handle_clock(now);
        let overdue = self.lookups.overdue(now);
        if self.lookups.take_failed_start() {
            self.start_failed(now);
        }
        self.counters.add(Counter::StateCalls(CallResult::TimedOut).index(), overdue.len() as u64);
        self.release_without_answer(overdue);
        self.note_in_use(now);
        let is_due = self.maintenance.is_due(now);
        if is_due {
            self.note_unclaimed(now);
        }
        self.due = Due { touch: is_due, refresh: is_due, ends: is_due };
        self.counters.add(Counter::Dropped(Dropped::Pin).index(), self.pins.take_dropped(now));
    }

    /// A clock that was set back must not keep pins beyond the store's time: from then on they are only hints.
    fn handle_clock(&mut self, now: Millis) {
        let was_set_back = now + SET_BACK < self.latest;
        if was_set_back {
            self.epoch = self.epoch.wrapping_add(1);
            self.pins.expire_all();
        }
        self.latest = if was_set_back { now } else { self.latest.max(now) };
    }

    /// What the log is to say next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where the session is as far as this worker knows, as an index into the snapshot's nodes. Begins nothing.
    pub fn known_node(&mut self, id: &SessionId, now: Millis) -> Option<usize> {
        let snapshot = self.snapshot.clone()?;
        let Known::Fresh(pin) = self.pins.get(self.pins.key(id.as_bytes()), now) else { return None };
        self.usable(&pin, &snapshot)
    }

    /// True if requests wait for the state service.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.lookups.is_idle()
    }

    /// How many sessions it remembers.
    #[must_use]
    pub fn pins(&self) -> usize {
        self.pins.len()
    }

    /// True if the state service is not asked because it failed.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// What was counted here.
    #[must_use]
    pub fn counters(&self) -> &PoolCounters {
        &self.counters
    }

    fn count(&self, counter: Counter) {
        self.counters.add(counter.index(), 1);
    }

    fn decide(&self, placement: Result<Placement, NoPlacement>, notice: Option<Notice>) -> Decision {
        self.config.policy.decide(placement, notice)
    }

    /// Has the state service asked, or lets what waits go on without it.
    fn miss(&mut self, stream: u32, has_waited: bool, lookup: Rc<Lookup>, now: Millis) {
        let key = WireKey::from(lookup.ask.key);
        // Without candidates there is nothing to ask: no node could serve it.
        let has_candidates = !lookup.ask.candidates.is_empty();
        let may_ask = has_candidates && self.breaker.allow(now) != Permit::Deny;
        self.waiters.insert(stream, Waiter { lookup: Rc::clone(&lookup), since: now });
        let since = self.lookups.starts_since().filter(|_| has_waited).unwrap_or(now);
        let join = may_ask.then(|| self.lookups.join(key, stream, since, || Rc::clone(&lookup)));
        if !matches!(join, Some(Join::Lead | Join::Wait)) {
            if has_candidates {
                self.count(Counter::StateCalls(CallResult::Skipped));
            }
            self.release_without_answer(vec![Released { key, request: lookup, waiters: vec![stream] }]);
        }
    }

    /// Where the session was last, as far as this worker knows, however long ago.
    fn any_pin(&mut self, key: PinKey, now: Millis) -> Option<Pin> {
        match self.pins.get(key, now) {
            Known::Fresh(pin) | Known::Stale(pin) => Some(pin),
            Known::Absent => None,
        }
    }

    /// An answer that is under way may be from before a change.
    fn doubt_answers_about(&mut self, key: WireKey) {
        if self.lookups.request(key).is_some() || self.refresh.asks_about(key.into()) {
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// The time from which a pin that is reported or touched now is no longer trusted.
    fn pin_expires(&mut self, ttl: Millis, now: Millis) -> Millis {
        if let Some(interval) = self.touches.learn_ttl(ttl, self.config.state.pins.touch_interval) {
            self.pins.touch_every(interval);
            self.in_use.look_every(Millis(interval.0 / 2));
        }
        believed_until(ttl, now)
    }

    /// Pseudo-random bits for the breaker's backoff (splitmix64, Steele et al. 2014).
    fn jitter(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (self.jitter ^ (self.jitter >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

/// When a pin that lives for `ttl` from now on is no longer to be relied on: well before the store forgets it, since
/// another proxy may then claim the session.
fn believed_until(ttl: Millis, now: Millis) -> Millis {
    now + Millis(ttl.0 / 4 * 3)
}
