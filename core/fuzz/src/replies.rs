//! The state service's replies as the filter reads them: to resolves, touches and ends.
//!
//! The input is one body after the other, with a line of `---` between them; an empty one is a call that failed, `404` one
//! whose answer says that there is nothing. Three sessions are asked about before each body, and time passes behind it. The
//! sessions are `session-0` to `session-2` of the pool `nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use berth_core::affinity::{Admission, Affinity, AffinityConfig, CallFailure, Caller, Request, Terms};
use berth_core::attributes::Attributes;
use berth_core::config::{Missing, OnPanic, OnVanish, Session, StateCluster, Superseded};
use berth_core::decision::{Decision, PoolPolicy};
use berth_core::health::HealthPolicy;
use berth_core::membership::Observation;
use berth_core::owners::PROVISIONAL;
use berth_core::pins::{InUseHandle, Limits};
use berth_core::placement::Placement;
use berth_core::ring::{Algorithm, RingSize};
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{ResolveReply, SessionKey, TouchReply};

use super::sections;

const POOL: &str = "nodes";
const NODES: [&str; 3] = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"];
const SESSIONS: [&str; 3] = ["session-0", "session-1", "session-2"];
const START: Millis = Millis(1_767_225_600_000);

/// Has each body answer a call.
pub fn check(input: &[u8]) {
    let mut world = World::new();
    for (round, body) in sections(input).iter().enumerate() {
        world.ask(round);
        world.answer(body);
        world.engine.handle_tick(world.now);
        world.drain();
        world.leave();
        // Pins are touched after a quarter of their life, and a call is lost after a second.
        world.pass(Millis(1_500));
        world.answer(body);
        if round == 2 {
            world.engine.handle_end(&id(0), world.now);
            world.answer(body);
        }
        assert!(world.engine.pins() <= SESSIONS.len(), "no pin of a session that was not asked for");
        world.check_nodes();
    }
    world.check_life();
}

struct World {
    engine: Affinity,
    snapshot: Rc<Snapshot>,
    now: Millis,
    next_stream: u32,
    next_call: u32,
    /// Requests that have not ended, and whether they wait.
    streams: BTreeMap<u32, (bool, InUseHandle)>,
    calls: Vec<u32>,
    /// What replies said of each session's node.
    named: BTreeMap<SessionKey, BTreeSet<String>>,
    longest_life: Millis,
}

impl World {
    fn new() -> Self {
        let state = StateCluster {
            cluster: "berth_state".to_owned(),
            host: "berth".to_owned(),
            timeout: Millis(50),
            max_calls: 2,
            token: None,
            pins: Limits { touch_interval: Millis(1_000), ..Limits::default() },
        };
        let config = AffinityConfig {
            pool: POOL.parse().unwrap(),
            max_calls: state.max_calls,
            state: Rc::new(state),
            policy: PoolPolicy {
                on_panic: OnPanic::IgnoreHealth,
                on_vanish: OnVanish::Reroute,
                retry_after: 5,
            },
            shortest_ttl: None,
        };
        let mut engine = Affinity::new(config, 7);
        engine.handle_start(Millis(START.0 - 1_000));
        engine.handle_tick(START);
        let health = HealthPolicy { warm_up: Millis(0), ..HealthPolicy::DEFAULT };
        let mut roster = Roster::default();
        let host = |node: &str| Observation { address: node.to_owned(), weight: 1, ..Observation::default() };
        roster.observe(NODES.map(host).to_vec(), &health, START);
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(4));
        let snapshot = Rc::new(Snapshot::build(&roster, algorithm, &health, START, None).unwrap());
        engine.handle_snapshot(Rc::clone(&snapshot), START);
        Self {
            engine,
            snapshot,
            now: START,
            next_stream: 1,
            next_call: 1,
            streams: BTreeMap::new(),
            calls: Vec::new(),
            named: BTreeMap::new(),
            longest_life: Millis(0),
        }
    }

    /// A request of each session.
    fn ask(&mut self, round: usize) {
        for session in 0..SESSIONS.len() {
            let terms = terms(round + session);
            let stream = self.next_stream;
            self.next_stream += 1;
            let id = id(session);
            let request = Request { stream, id: &id, terms: &terms, has_waited: false };
            let (admission, handle) = self.engine.handle_request(&request, self.now, &Plain(self.now));
            let waits = match admission {
                Admission::Wait => true,
                Admission::Decided(decision) => {
                    self.check_decision(&decision);
                    false
                }
            };
            self.streams.insert(stream, (waits, handle));
        }
        self.make_calls();
    }

    fn make_calls(&mut self) {
        self.drain();
        while let Some(call) = self.engine.poll_call(Caller::Root, self.now) {
            self.engine.call_started(call.id, self.next_call, Caller::Root, self.now);
            self.calls.push(self.next_call);
            self.next_call += 1;
            assert!(self.calls.len() < 40, "calls have a bound");
        }
    }

    /// All calls that are under way are answered so.
    fn answer(&mut self, body: &[u8]) {
        self.make_calls();
        self.note(body);
        let failure = CallFailure { is_missing: body == b"404", ..CallFailure::new("no answer") };
        let answer = if body.is_empty() || body == b"404" { Err(&failure) } else { Ok(body) };
        for call in std::mem::take(&mut self.calls) {
            self.engine.handle_reply(call, answer, self.now);
            assert!(!self.engine.handle_reply(call, answer, self.now), "a call is answered once");
            self.drain();
        }
    }

    fn note(&mut self, body: &[u8]) {
        let mut lives = Vec::new();
        if let Ok(reply) = serde_json::from_slice::<ResolveReply>(body) {
            for pin in &reply.pins {
                self.named.entry(pin.key).or_default().insert(pin.node.to_string());
            }
            lives.push(reply.ttl_ms);
        }
        if let Ok(reply) = serde_json::from_slice::<TouchReply>(body) {
            lives.extend(reply.ttls_ms.values().chain([&reply.ttl_ms]));
        }
        for life in lives {
            self.longest_life = self.longest_life.max(self.now.since(START) + Millis(life));
        }
    }

    fn drain(&mut self) {
        while let Some(release) = self.engine.poll_release(self.now) {
            let (waits, _) = self.streams.get_mut(&release.stream).expect("released after its end");
            assert!(std::mem::take(waits), "{} is released twice", release.stream);
            self.check_decision(&release.decision.expect("requests are decided"));
            self.engine.released(true);
        }
        while self.engine.poll_event().is_some() {}
    }

    fn check_decision(&self, decision: &Decision) {
        let Decision::Route { placement, .. } = decision else { return };
        let mut indexes = placement.indexes().peekable();
        assert!(indexes.peek().is_some(), "a request is routed to some node");
        assert!(
            indexes.all(|index| index < self.snapshot.nodes.len()),
            "a request is routed to members only"
        );
    }

    /// All requests end; none of them waits any longer, as all calls were answered and their time is over.
    fn leave(&mut self) {
        self.pass(Millis(100));
        for (stream, (waits, handle)) in std::mem::take(&mut self.streams) {
            assert!(!waits, "{stream} waits though all calls were answered");
            self.engine.handle_gone(stream, handle);
        }
    }

    fn pass(&mut self, time: Millis) {
        self.now = self.now + time;
        self.engine.handle_tick(self.now);
        self.drain();
    }

    /// A session is where a reply said, or for a while where it would begin.
    fn check_nodes(&mut self) {
        for session in 0..SESSIONS.len() {
            let id = id(session);
            let Some(index) = self.engine.known_node(&id, self.now) else { continue };
            let named = self.named.get(&SessionKey::new(POOL, id.as_bytes()));
            let first = Placement::of(&self.snapshot, id.hash()).unwrap().indexes().next();
            let is_named = named.is_some_and(|named| named.contains(&self.snapshot.nodes[index].name));
            assert!(is_named || first == Some(index), "no reply named {index}: {named:?}");
        }
    }

    /// A pin lives no longer than a reply said, or than a session stays where no reply had it.
    fn check_life(&mut self) {
        let end = (START + self.longest_life).max(self.now + PROVISIONAL) + Millis(1);
        let any_pin = (0..SESSIONS.len()).any(|session| self.engine.known_node(&id(session), end).is_some());
        assert!(end == Millis(u64::MAX) || !any_pin, "a pin outlives all that was said of it");
    }
}

fn id(session: usize) -> SessionId {
    SessionId::new(SESSIONS[session].as_bytes().to_vec()).unwrap()
}

/// Another mixture of terms with each number.
fn terms(number: usize) -> Terms {
    let superseded = if number.is_multiple_of(2) { Superseded::Reject } else { Superseded::Accept };
    let session = Session {
        sources: Vec::new(),
        missing: Missing::Pass,
        ttl: None,
        max_age: None,
        superseded,
        previous_header: None,
        learned: Vec::new(),
    };
    Terms {
        session: Rc::new(session),
        is_strict: number % 3 == 1,
        ends: None,
        created: None,
        version: (!number.is_multiple_of(4)).then_some(2),
        previous: (number % 5 == 4).then(|| id(0)),
        is_issued: number % 5 == 3,
    }
}

/// A request without headers.
struct Plain(Millis);

impl Attributes for Plain {
    fn header(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn header_lines(&self, _: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> Millis {
        self.0
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _: usize, _: Millis) -> bool {
        false
    }
}
