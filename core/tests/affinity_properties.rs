//! The engine of a pool's sessions under random orders of all that can happen to it.
mod support;

use std::collections::BTreeMap;
use std::rc::Rc;

use berth_core::affinity::{Admission, Affinity, AffinityConfig, Call, CallFailure, Caller, Request, Terms};
use berth_core::changelog::{Change, News, digest};
use berth_core::config::{Missing, OnPanic, OnVanish, Session, StateCluster, Superseded};
use berth_core::decision::{Decision, Notice, PoolPolicy};
use berth_core::health::HealthPolicy;
use berth_core::membership::Observation;
use berth_core::pins::{InUseHandle, Limits};
use berth_core::ring::{Algorithm, RingSize};
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{NodeRecord, Outcome, Pin, ResolveReply, SessionKey, TouchReply};
use proptest::prelude::*;
use serde_json::Value;

use support::attributes::Headers;

const POOL: &str = "nodes";
const SESSIONS: u8 = 5;
const NODES: [&str; 6] =
    ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80", "10.0.0.6:80"];
const MAX_CALLS: usize = 2;
const TIMEOUT: Millis = Millis(50);
/// A call that is so old will not be answered, and counts no longer.
const LOST: Millis = Millis(900);

#[derive(Debug, Clone)]
enum Step {
    Ask(Asked),
    /// Of all requests that have not ended.
    Gone(prop::sample::Index),
    /// The state service answers one of the calls as it knows best.
    Answer(prop::sample::Index),
    /// The answer is well-formed, and says anything.
    AnswerAnything(prop::sample::Index, usize, u64, bool, u32, u64),
    Fail(prop::sample::Index, bool),
    Refuse(bool),
    /// Requests that are released are there, or not.
    Deliver(bool),
    Pass(u64),
    Tick(u64),
    /// What Envoy says of each node: nothing, well, unhealthy, pending.
    See([u8; NODES.len()]),
    Boot(usize, u8),
    Moved(u8, usize),
    Ended(u8),
    Superseded(u8, u32),
    Missed,
    End(u8),
    Reload,
}

#[derive(Debug, Clone)]
struct Asked {
    session: u8,
    version: Option<u32>,
    is_strict: bool,
    is_latest_only: bool,
    former: Option<u8>,
}

fn any_step() -> impl Strategy<Value = Step> {
    let (session, node, index) = (0..SESSIONS, 0..NODES.len(), any::<prop::sample::Index>());
    let asked = (
        session.clone(),
        prop::option::of(1..4_u32),
        prop::bool::weighted(0.2),
        any::<bool>(),
        prop::option::weighted(0.1, session.clone()),
    );
    let asked = asked.prop_map(|(session, version, is_strict, is_latest_only, former)| {
        Step::Ask(Asked { session, version, is_strict, is_latest_only, former })
    });
    prop_oneof![
        20 => asked,
        4 => index.clone().prop_map(Step::Gone),
        10 => index.clone().prop_map(Step::Answer),
        4 => (index.clone(), node.clone(), 0..5_u64, any::<bool>(), 0..4_u32, 0..10_000_u64).prop_map(
            |(call, node, version, restore, token, owned)| {
                Step::AnswerAnything(call, node, version, restore, token, owned)
            }
        ),
        3 => (index, any::<bool>()).prop_map(|(call, is_missing)| Step::Fail(call, is_missing)),
        1 => any::<bool>().prop_map(Step::Refuse),
        2 => any::<bool>().prop_map(Step::Deliver),
        4 => (0..60_u64).prop_map(Step::Pass),
        8 => prop_oneof![3 => 0..60_u64, 1 => 0..20_000_u64].prop_map(Step::Tick),
        3 => prop::array::uniform6(prop_oneof![3 => Just(1), 1 => Just(0), 1 => Just(2), 1 => Just(3)])
            .prop_map(Step::See),
        1 => (node.clone(), 0..3_u8).prop_map(|(node, boot)| Step::Boot(node, boot)),
        1 => (session.clone(), node).prop_map(|(session, node)| Step::Moved(session, node)),
        1 => session.clone().prop_map(Step::Ended),
        1 => (session.clone(), 1..4_u32).prop_map(|(session, version)| Step::Superseded(session, version)),
        1 => Just(Step::Missed),
        1 => session.prop_map(Step::End),
        1 => Just(Step::Reload),
    ]
}

/// What the state service knows of a session.
#[derive(Debug, Clone)]
struct Owned {
    node: usize,
    version: u64,
    token: u32,
}

struct Stream {
    asked: Asked,
    /// Until it is released.
    waits_since: Option<Millis>,
    handle: Option<InUseHandle>,
}

#[derive(Debug)]
struct Made {
    caller: Caller,
    since: Millis,
    is_maintenance: bool,
    path: String,
    body: Value,
}

struct World {
    config: AffinityConfig,
    engine: Affinity,
    roster: Roster,
    snapshot: Option<Rc<Snapshot>>,
    now: Millis,
    streams: BTreeMap<u32, Stream>,
    next_stream: u32,
    calls: BTreeMap<u32, Made>,
    next_call: u32,
    next_record: u64,
    refuses: bool,
    delivers: bool,
    /// The worker was new when it began to wait at all.
    is_new: bool,
    truth: BTreeMap<u8, Owned>,
    /// The versions of notices and tokens never go down; forgotten with the session.
    noticed: BTreeMap<u8, u64>,
    routed_token: BTreeMap<u8, u32>,
    /// All answers were true.
    is_truthful: bool,
}

fn id(session: u8) -> SessionId {
    SessionId::new(format!("session-{session}").into_bytes()).unwrap()
}

fn key(session: u8) -> SessionKey {
    SessionKey::new(POOL, id(session).as_bytes())
}

fn session_of(key: &Value) -> u8 {
    let key: SessionKey = key.as_str().unwrap().parse().unwrap();
    (0..SESSIONS).find(|session| self::key(*session) == key).unwrap()
}

fn health() -> HealthPolicy {
    HealthPolicy { warm_up: Millis(0), cooldown: Millis(1_000), ..HealthPolicy::default() }
}

impl World {
    fn new(is_new: bool, on_panic: OnPanic, on_vanish: OnVanish) -> Self {
        let state = StateCluster {
            cluster: "berth_state".to_owned(),
            host: "berth".to_owned(),
            timeout: TIMEOUT,
            max_calls: MAX_CALLS,
            token: None,
            pins: Limits { touch_interval: Millis(2_000), ..Limits::default() },
        };
        let config = AffinityConfig {
            pool: POOL.parse().unwrap(),
            max_calls: state.max_calls,
            state: Rc::new(state),
            policy: PoolPolicy { on_panic, on_vanish, retry_after: 5 },
            shortest_ttl: None,
        };
        let now = Millis(1_000_000);
        let mut engine = Affinity::new(config.clone(), 7);
        if !is_new {
            engine.handle_start(Millis(now.0 - 1_000));
            engine.handle_tick(now);
        }
        Self {
            config,
            engine,
            roster: Roster::default(),
            snapshot: None,
            now,
            streams: BTreeMap::new(),
            next_stream: 1,
            calls: BTreeMap::new(),
            next_call: 1,
            next_record: 1,
            refuses: false,
            delivers: true,
            is_new,
            truth: BTreeMap::new(),
            noticed: BTreeMap::new(),
            routed_token: BTreeMap::new(),
            is_truthful: true,
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Ask(asked) => return self.ask(asked),
            Step::Gone(index) => {
                if self.streams.is_empty() {
                    return Ok(());
                }
                let stream = *self.streams.keys().nth(index.index(self.streams.len())).unwrap();
                self.gone(stream);
            }
            Step::Answer(index) => {
                return self.reply(index, |world, made| {
                    let body = world.answer(made);
                    Ok(serde_json::to_vec(&body).unwrap())
                });
            }
            Step::AnswerAnything(index, node, version, restore, token, owned) => {
                self.is_truthful = false;
                return self.reply(index, |_, made| {
                    let pins = made.sessions().map(|session| Pin {
                        restore: *restore,
                        session_version: Some(*token).filter(|token| *token > 0),
                        owned_ms: Some(*owned),
                        ..plain(session, *node, *version, Outcome::Found)
                    });
                    Ok(serde_json::to_vec(&resolved(pins.collect())).unwrap())
                });
            }
            Step::Fail(index, is_missing) => {
                let failure = CallFailure { is_missing: *is_missing, ..CallFailure::new("no answer") };
                return self.reply(index, |_, _| Err(failure.clone()));
            }
            Step::Refuse(refuses) => self.refuses = *refuses,
            Step::Deliver(delivers) => self.delivers = *delivers,
            Step::Pass(millis) => self.now = self.now + Millis(*millis),
            Step::Tick(millis) => return self.tick(*millis),
            Step::See(hosts) => {
                let seen = NODES.iter().zip(hosts).filter(|(_, kind)| **kind > 0);
                let host = |(node, kind): (&&str, &u8)| {
                    let mut host =
                        Observation { address: (*node).to_owned(), weight: 1, ..Observation::default() };
                    (host.flags.unhealthy, host.flags.pending) = (*kind == 2, *kind == 3);
                    host
                };
                self.roster.observe(seen.map(host).collect(), &health(), self.now);
                self.look();
            }
            Step::Boot(node, boot) => {
                let (boot_id, version) = (Some(boot.to_string()), self.next_record);
                self.next_record += 1;
                let node = NODES[*node].parse().unwrap();
                let record = NodeRecord { boot_id, version, ..NodeRecord::unknown(node) };
                self.roster.record(&[record], &health(), self.now);
                self.look();
            }
            Step::Moved(session, node) => {
                if let Some(owned) = self.truth.get_mut(session) {
                    (owned.node, owned.version) = (*node, owned.version + 1);
                    let change = Change::Pinned { version: owned.version, node: digest(NODES[*node]) };
                    self.change(*session, change);
                }
            }
            Step::Ended(session) => self.change(*session, Change::Ended),
            Step::Superseded(session, token) => {
                if let Some(owned) = self.truth.get_mut(session) {
                    owned.token = owned.token.max(*token);
                    let token = owned.token;
                    let change = Change::Superseded(Some(token));
                    self.engine.handle_changes(News::Changes(vec![(key(*session), change)]));
                }
            }
            Step::Missed => self.engine.handle_changes(News::Missed),
            Step::End(session) => {
                self.routed_token.remove(session);
                self.engine.handle_end(&id(*session), self.now);
            }
            Step::Reload => {
                // Requests that wait belong to the former configuration, which lives as long as they do.
                if self.streams.is_empty() && self.calls.is_empty() {
                    let mut next = Affinity::new(self.config.clone(), 7);
                    prop_assert!(next.succeed(&self.engine));
                    prop_assert_eq!(next.pins(), self.engine.pins());
                    self.engine = next;
                    self.look();
                }
            }
        }
        self.drain(None)
    }

    fn change(&mut self, session: u8, change: Change) {
        self.routed_token.remove(&session);
        self.engine.handle_changes(News::Changes(vec![(key(session), change)]));
    }

    fn look(&mut self) {
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(16));
        let snapshot =
            Snapshot::build(&self.roster, algorithm, &health(), self.now, self.snapshot.as_deref()).unwrap();
        let snapshot = Rc::new(snapshot);
        self.snapshot = Some(Rc::clone(&snapshot));
        self.engine.handle_snapshot(snapshot, self.now);
    }

    fn tick(&mut self, millis: u64) -> Result<(), TestCaseError> {
        self.now = self.now + Millis(millis);
        if self.roster.reassess(&health(), self.now) || self.snapshot.as_ref().is_some_and(|last| last.timed)
        {
            self.look();
        }
        self.engine.handle_tick(self.now);
        let now = self.now;
        self.calls.retain(|_, made| made.is_maintenance || now.since(made.since) < LOST);
        self.drain(Some(Caller::Root))?;
        let patience = if self.is_new { Millis(550) } else { TIMEOUT };
        for (number, stream) in &self.streams {
            let waited = stream.waits_since.map(|since| now.since(since));
            prop_assert!(waited.is_none_or(|waited| waited < patience), "{number} has waited for {waited:?}");
        }
        Ok(())
    }

    fn ask(&mut self, asked: &Asked) -> Result<(), TestCaseError> {
        let superseded = if asked.is_latest_only { Superseded::Reject } else { Superseded::Accept };
        let session = Session {
            sources: Vec::new(),
            missing: Missing::Pass,
            ttl: None,
            max_age: None,
            superseded,
            previous_header: None,
            learned: Vec::new(),
        };
        let terms = Terms {
            session: Rc::new(session),
            is_strict: asked.is_strict,
            ends: None,
            created: None,
            version: asked.version,
            previous: asked.former.map(id),
            is_issued: false,
        };
        let number = self.next_stream;
        self.next_stream += 1;
        let id = id(asked.session);
        let request = Request { stream: number, id: &id, terms: &terms, has_waited: false };
        let (admission, handle) = self.engine.handle_request(&request, self.now, &Headers(&[], self.now));
        let waits_since = (admission == Admission::Wait).then_some(self.now);
        self.streams.insert(number, Stream { asked: asked.clone(), waits_since, handle: Some(handle) });
        match admission {
            Admission::Decided(decision) => self.judge(asked, &decision, true),
            Admission::Wait => self.drain(Some(Caller::Stream(number))),
        }
    }

    fn gone(&mut self, number: u32) {
        let stream = self.streams.remove(&number).unwrap();
        self.engine.handle_gone(number, stream.handle.unwrap());
        self.calls.retain(|_, made| made.caller != Caller::Stream(number));
    }

    /// Does what the engine has to be done, as the filter does.
    fn drain(&mut self, caller: Option<Caller>) -> Result<(), TestCaseError> {
        loop {
            if let Some(release) = self.engine.poll_release(self.now) {
                let stream = self.streams.get_mut(&release.stream);
                let Some(stream) = stream else { return Err(TestCaseError::fail("released after its end")) };
                prop_assert!(stream.waits_since.take().is_some(), "{} was released twice", release.stream);
                let asked = stream.asked.clone();
                let decision = release.decision.expect("only requests wait here");
                self.judge(&asked, &decision, self.delivers)?;
                self.engine.released(self.delivers);
                continue;
            }
            let Some(caller) = caller else { break };
            let Some(call) = self.engine.poll_call(caller, self.now) else { break };
            self.make(call, caller)?;
        }
        while self.engine.poll_event().is_some() {}
        let lookups = self.calls.values().filter(|made| made.path == "/v1/resolve" && !made.is_maintenance);
        prop_assert!(lookups.count() <= MAX_CALLS);
        let count = |path: &str| {
            let is_such = |made: &&Made| made.is_maintenance && made.path.starts_with(path);
            self.calls.values().filter(is_such).count()
        };
        prop_assert!(count("/v1/resolve") <= 1 && count("/v1/touch") <= 1 && count("/v1/sessions") <= 16);
        Ok(())
    }

    fn make(&mut self, call: Call, caller: Caller) -> Result<(), TestCaseError> {
        let is_maintenance = call.timeout == Millis(1_000);
        prop_assert!(!is_maintenance || caller == Caller::Root);
        let body = serde_json::from_slice(&call.request.body).unwrap_or_default();
        let made = Made { caller, since: self.now, is_maintenance, path: call.request.path, body };
        if !is_maintenance {
            prop_assert!(made.sessions().next().is_some());
            for session in made.sessions() {
                let waits = |stream: &Stream| stream.asked.session == session && stream.waits_since.is_some();
                prop_assert!(self.streams.values().any(waits), "no request waits for {session}");
            }
        }
        for ask in made.body["sessions"].as_array().into_iter().flatten() {
            prop_assert!(ask["candidates"].as_array().is_some_and(|nodes| !nodes.is_empty()), "{}", ask);
        }
        if self.refuses {
            self.engine.call_refused(call.id, &CallFailure::new("refused"), self.now);
            return Ok(());
        }
        self.engine.call_started(call.id, self.next_call, caller, self.now);
        self.calls.insert(self.next_call, made);
        self.next_call += 1;
        Ok(())
    }

    fn reply(
        &mut self,
        index: &prop::sample::Index,
        body: impl FnOnce(&mut Self, &Made) -> Result<Vec<u8>, CallFailure>,
    ) -> Result<(), TestCaseError> {
        if self.calls.is_empty() {
            return Ok(());
        }
        let number = *self.calls.keys().nth(index.index(self.calls.len())).unwrap();
        let made = self.calls.remove(&number).unwrap();
        let body = body(self, &made);
        let is_its = self.engine.handle_reply(number, body.as_deref(), self.now);
        prop_assert!(is_its || !made.is_maintenance);
        self.drain(Some(made.caller).filter(|caller| *caller == Caller::Root))
    }

    /// What the state service says, and what it knows from then on.
    fn answer(&mut self, made: &Made) -> Value {
        if made.path == "/v1/touch" {
            return serde_json::to_value(TouchReply {
                touched: 0,
                missing: Vec::new(),
                changed: Vec::new(),
                written: Vec::new(),
                ttl_ms: 8_000,
                ttls_ms: BTreeMap::new(),
                store: None,
                unanswered: Vec::new(),
            })
            .unwrap();
        }
        if made.path != "/v1/resolve" {
            return Value::Null;
        }
        let place = |name: &Value| NODES.iter().position(|node| Some(*node) == name.as_str()).unwrap();
        let mut pins = Vec::new();
        for ask in made.body["sessions"].as_array().unwrap() {
            let session = session_of(&ask["key"]);
            let token = u32::try_from(ask["session_version"].as_u64().unwrap_or(0)).unwrap();
            let unusable = ask["unusable"].as_array().cloned().unwrap_or_default();
            let before = self.truth.get(&session).cloned();
            let candidates = ask["candidates"].as_array().unwrap();
            let first = candidates.iter().find(|node| !unusable.contains(node)).unwrap_or(&candidates[0]);
            let first = place(first);
            let mut owned = before.clone().unwrap_or(Owned { node: first, version: 1, token: 0 });
            owned.token = owned.token.max(token);
            let is_out = unusable.iter().any(|node| place(node) == owned.node);
            let (outcome, from) = match &before {
                None => (Outcome::Claimed, None),
                Some(before) if is_out && ask["strict"] != true && made.body["panic"] != true => {
                    (owned.node, owned.version) = (first, owned.version + 1);
                    (Outcome::Rehomed, Some(before.node))
                }
                Some(_) => (Outcome::Found, None),
            };
            self.truth.insert(session, owned.clone());
            pins.push(Pin {
                from: from.map(|node| NODES[node].parse().unwrap()),
                session_version: Some(owned.token).filter(|token| *token > 0),
                owned_ms: Some(60_000),
                ..plain(session, owned.node, owned.version, outcome)
            });
        }
        serde_json::to_value(resolved(pins)).unwrap()
    }

    fn judge(&mut self, asked: &Asked, decision: &Decision, is_delivered: bool) -> Result<(), TestCaseError> {
        let Decision::Route { placement, notice } = decision else { return Ok(()) };
        let nodes = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.nodes.len());
        let indexes: Vec<usize> = placement.indexes().collect();
        prop_assert!(!indexes.is_empty() && indexes.iter().all(|index| *index < nodes));
        prop_assert!(!asked.is_strict || indexes.len() == 1 && placement.is_strict);
        let token = asked.version.unwrap_or(0);
        let highest = self.routed_token.entry(asked.session).or_default();
        prop_assert!(!asked.is_latest_only || token >= *highest, "{token} after {highest}");
        *highest = token.max(*highest);
        if let Some(Notice::Rehomed { version, .. } | Notice::Restore { version }) = notice
            && self.is_truthful
            && is_delivered
        {
            let before = self.noticed.insert(asked.session, *version);
            prop_assert!(before.is_none_or(|before| before <= *version), "{version} after {before:?}");
        }
        Ok(())
    }
}

impl Made {
    fn sessions(&self) -> impl Iterator<Item = u8> {
        self.body["sessions"].as_array().into_iter().flatten().map(|ask| session_of(&ask["key"]))
    }
}

fn plain(session: u8, node: usize, version: u64, outcome: Outcome) -> Pin {
    Pin {
        key: key(session),
        node: NODES[node].parse().unwrap(),
        version,
        outcome,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: None,
        session_version: None,
        owned_ms: None,
    }
}

fn resolved(pins: Vec<Pin>) -> ResolveReply {
    ResolveReply { pins, cursor: "0".parse().unwrap(), ttl_ms: 8_000, store: None }
}

fn any_world() -> impl Strategy<Value = (bool, OnPanic, OnVanish)> {
    let panic = prop::sample::select(vec![OnPanic::IgnoreHealth, OnPanic::Reject]);
    let vanish = prop::sample::select(vec![OnVanish::Reroute, OnVanish::Reject]);
    (any::<bool>(), panic, vanish)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    /// Besides what each step checks: each request is released in its time, and nothing is left of those that ended.
    #[test]
    fn every_request_is_released_once_and_in_its_time(
        (is_new, on_panic, on_vanish) in any_world(),
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let mut world = World::new(is_new, on_panic, on_vanish);
        world.step(&Step::See([1; NODES.len()]))?;
        for step in &steps {
            world.step(step)?;
        }

        // No call is answered any longer.
        for _ in 0..30 {
            world.tick(50)?;
        }
        prop_assert!(world.streams.values().all(|stream| stream.waits_since.is_none()));

        while let Some((&number, _)) = world.streams.first_key_value() {
            world.gone(number);
        }
        world.tick(1_000)?;
        prop_assert!(!world.engine.has_waiters());
        // There is no other way to see that no waiter is kept.
        let engine = format!("{:?}", world.engine);
        prop_assert!(engine.contains(" waiters: {}") && engine.contains("groups: []"), "{}", engine);
        prop_assert!(world.engine.pins() <= usize::from(SESSIONS));
    }
}
