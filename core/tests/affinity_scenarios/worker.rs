//! One worker with its pool, and what transcripts do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use berth_core::affinity::{
    Admission, Affinity, AffinityConfig, Call, CallFailure, Caller, Event, Minted, Release, Request, Terms,
};
use berth_core::changelog::News;
use berth_core::config::{Missing, OnPanic, OnVanish, Session, StateCluster, Superseded};
use berth_core::decision::{Decision, Notice, PoolPolicy};
use berth_core::event::{CallResult, Counter};
use berth_core::health::HealthPolicy;
use berth_core::pins::{InUseHandle, Limits};
use berth_core::ring::Algorithm;
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{NodeRecord, ResolveReply, SessionKey, StoreId, TouchReply};

use super::support::attributes::Headers;
use super::words::{change, duration, host, number_after_v, pin};
use super::{POOL, START};

/// One worker with its pool, in place of a filter in Envoy.
pub(crate) struct Worker {
    pub(crate) config: AffinityConfig,
    engine: Affinity,
    health: HealthPolicy,
    roster: Roster,
    pub(crate) snapshot: Option<Rc<Snapshot>>,
    now: Millis,
    /// How long the store keeps a pin.
    life: Millis,
    /// What the store calls itself, if the service is one that compares.
    store: Option<StoreId>,
    /// The requests that have not ended, by what the transcript calls them.
    pub(crate) streams: BTreeMap<String, Stream>,
    next_stream: u32,
    calls: BTreeMap<u32, Made>,
    next_call: u32,
    next_record: u64,
    pub(crate) sessions: BTreeMap<SessionKey, String>,
    /// Envoy refuses calls.
    refuses: bool,
    /// Requests that will be gone when they are released.
    lost: BTreeSet<u32>,
}

pub(crate) struct Stream {
    pub(crate) number: u32,
    handle: InUseHandle,
    session: SessionId,
    notice: Option<Notice>,
}

/// A call under way.
struct Made {
    caller: Caller,
    kind: CallKind,
    keys: Vec<SessionKey>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Ask,
    Renew,
    Touch,
    End,
}

impl Worker {
    pub(crate) fn new(settings: &str) -> Result<Self, String> {
        let mut health = HealthPolicy { warm_up: Millis(0), ..HealthPolicy::default() };
        let mut policy =
            PoolPolicy { on_panic: OnPanic::IgnoreHealth, on_vanish: OnVanish::Reroute, retry_after: 5 };
        let mut state = StateCluster {
            cluster: "berth_state".to_owned(),
            host: "berth".to_owned(),
            timeout: Millis(50),
            max_calls: 48,
            token: None,
            pins: Limits::default(),
        };
        let (mut life, mut is_new, mut store) = (Millis(1_800_000), false, None);
        for word in settings.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse().map_err(|_| format!("{value:?} is no number"));
            match name {
                "new" => is_new = true,
                "calls" => state.max_calls = number()?,
                "room" => state.pins.entries = number()?,
                "timeout" => state.timeout = duration(value)?,
                "life" => life = duration(value)?,
                "store" => store = Some(StoreId::new(value)),
                "vanish_grace" => health.vanish_grace = duration(value)?,
                "cooldown" => health.cooldown = duration(value)?,
                "on_panic" if value == "reject" => policy.on_panic = OnPanic::Reject,
                "on_vanish" if value == "reject" => policy.on_vanish = OnVanish::Reject,
                _ => return Err(format!("{word:?} says nothing of a pool")),
            }
        }
        let config = AffinityConfig {
            pool: POOL.parse().unwrap(),
            max_calls: state.max_calls,
            state: Rc::new(state),
            policy,
            shortest_ttl: None,
        };
        let mut engine = Affinity::new(config.clone(), 0x5eed);
        if !is_new {
            // A worker that has been there for long.
            engine.handle_start(Millis(START.0 - 1_000));
            engine.handle_tick(START);
        }
        Ok(Self {
            config,
            engine,
            health,
            roster: Roster::default(),
            snapshot: None,
            now: START,
            life,
            store,
            streams: BTreeMap::new(),
            next_stream: 1,
            calls: BTreeMap::new(),
            next_call: 1,
            next_record: 1,
            sessions: BTreeMap::new(),
            refuses: false,
            lost: BTreeSet::new(),
        })
    }

    pub(crate) fn perform(&mut self, verb: &str, rest: &str) -> Result<Vec<String>, String> {
        match verb {
            "at" => self.now = START + duration(rest)?,
            "tick" => {
                self.now = START + duration(rest)?;
                if self.roster.reassess(&self.health, self.now)
                    || self.snapshot.as_ref().is_some_and(|snapshot| snapshot.timed)
                {
                    self.look()?;
                }
                self.engine.handle_tick(self.now);
                return Ok(self.drain(Some(Caller::Root)));
            }
            "see" => {
                let hosts = rest.split_whitespace().map(host).collect::<Result<_, _>>()?;
                self.roster.observe(hosts, &self.health, self.now);
                self.look()?;
            }
            "names" => {
                self.roster.nameless = rest == "unknown";
                self.look()?;
            }
            "boot" => {
                let (node, boot) = rest.split_once(' ').ok_or("boot needs a node and its start")?;
                let node = node.parse().map_err(|error| format!("{node}: {error}"))?;
                let version = self.next_record;
                self.next_record += 1;
                let record =
                    NodeRecord { boot_id: Some(boot.to_owned()), version, ..NodeRecord::unknown(node) };
                self.roster.record(&[record], &self.health, self.now);
                self.look()?;
            }
            "wait" => self.engine.handle_start(self.now),
            "ask" => return self.ask(rest),
            "mint" => return self.mint(rest),
            "gone" => {
                let Stream { number, handle, .. } = self.streams.remove(rest).ok_or("no such request")?;
                self.engine.handle_gone(number, handle);
                self.calls.retain(|_, call| call.caller != Caller::Stream(number));
            }
            "lose" => {
                self.lost.insert(self.streams.get(rest).ok_or("no such request")?.number);
            }
            "reaches" => {
                let (label, which) = rest.split_once(' ').ok_or("say which request reaches which node")?;
                let is_delivered = match which {
                    "its node" => true,
                    "another node" => false,
                    _ => return Err(format!("{which:?} is neither \"its node\" nor \"another node\"")),
                };
                let stream = self.streams.get(label).ok_or("no such request")?;
                let notice = stream.notice.as_ref().ok_or("it carries no notice")?;
                self.engine.handle_notice(&stream.session, notice, is_delivered);
            }
            "answer" => return self.answer(rest),
            "fail" => {
                let (number, result) = rest.split_once(' ').unwrap_or((rest, ""));
                let failed = CallFailure::new("no answer");
                let failure = match result {
                    "" => failed,
                    "timed out" => CallFailure { result: CallResult::TimedOut, ..failed },
                    "missing" => CallFailure { is_missing: true, ..failed },
                    "refused" => CallFailure { is_refused: true, ..failed },
                    other => return Err(format!("{other:?} is no way to fail")),
                };
                return self.reply(number, Err(&failure));
            }
            "calls" => self.refuses = rest == "refused",
            "change" => {
                let change = change(rest)?;
                self.engine.handle_changes(News::Changes(vec![change]));
            }
            "missed" => self.engine.handle_changes(News::Missed),
            "end" => {
                let id = self.id(rest);
                self.engine.handle_end(&id, self.now);
            }
            "reload" => {
                let mut next = Affinity::new(self.config.clone(), 0x5eed);
                next.succeed(&self.engine);
                self.engine = next;
                self.calls.clear();
                if let Some(snapshot) = &self.snapshot {
                    self.engine.handle_snapshot(Rc::clone(snapshot), self.now);
                }
            }
            "where" => {
                let id = self.id(rest);
                let index = self.engine.known_node(&id, self.now);
                return Ok(vec![index.map_or_else(|| "unknown".to_owned(), |index| self.node(index))]);
            }
            "pins" => return Ok(vec![self.engine.pins().to_string()]),
            "counted" => {
                let counts = self.engine.counters().take();
                return Ok(counts
                    .map(|(index, count)| {
                        let stat = Counter::ALL[index].stat(POOL);
                        let name = stat.trim_start_matches("berth_").replace("_total.pool.nodes", "");
                        format!("{name} {count}")
                    })
                    .collect());
            }
            other => return Err(format!("{other:?} is no statement")),
        }
        Ok(self.drain(None))
    }

    fn look(&mut self) -> Result<(), String> {
        let previous = self.snapshot.as_deref();
        let snapshot = Snapshot::build(&self.roster, Algorithm::default(), &self.health, self.now, previous)
            .map_err(|error| error.to_string())?;
        let snapshot = Rc::new(snapshot);
        self.snapshot = Some(Rc::clone(&snapshot));
        self.engine.handle_snapshot(snapshot, self.now);
        Ok(())
    }

    fn id(&mut self, name: &str) -> SessionId {
        let id = SessionId::new(name.as_bytes().to_vec()).unwrap();
        self.sessions.insert(SessionKey::new(POOL, id.as_bytes()), name.to_owned());
        id
    }

    /// `alice on b ttl=60s`.
    fn mint(&mut self, rest: &str) -> Result<Vec<String>, String> {
        let mut words = rest.split_whitespace();
        let (name, on, node) = (words.next(), words.next(), words.next());
        let (Some(name), Some("on"), Some(node)) = (name, on, node) else {
            return Err("say which session is minted on which node".to_owned());
        };
        let (mut session, mut is_pools) = (session(), false);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("ttl", ttl) => session.ttl = Some(duration(ttl)?),
                ("routed", "") => is_pools = true,
                _ => return Err(format!("{word:?} says nothing of a response")),
            }
        }
        let id = self.id(name);
        let terms = Terms {
            session: Rc::new(session),
            is_strict: false,
            ends: None,
            created: None,
            version: None,
            previous: None,
            is_issued: false,
        };
        let number = self.next_stream;
        self.next_stream += 1;
        let minted = Minted { stream: number, id: &id, terms: &terms, node: node.as_bytes(), is_pools };
        let Some((waits, handle)) = self.engine.handle_minted(&minted, self.now) else {
            return Ok(vec![format!("{node} is no node of the pool")]);
        };
        let label = self.enter(name, Stream { number, handle, session: id, notice: None });
        Ok(match waits {
            true => self.drain(Some(Caller::Stream(number))),
            false => vec![format!("{label}: known")],
        })
    }

    /// What the transcript calls a new stream.
    fn enter(&mut self, name: &str, stream: Stream) -> String {
        let label = (1..).map(|count| if count == 1 { name.to_owned() } else { format!("{name}#{count}") });
        let label = label.into_iter().find(|label| !self.streams.contains_key(label)).unwrap();
        self.streams.insert(label.clone(), stream);
        label
    }

    /// `alice v3 strict latest was=al ttl=60s ends=90s issued`.
    fn ask(&mut self, rest: &str) -> Result<Vec<String>, String> {
        let mut words = rest.split_whitespace();
        let name = words.next().ok_or("ask for a session")?;
        let mut session = session();
        let (mut is_strict, mut ends, mut version, mut previous) = (false, None, None, None);
        let (mut has_waited, mut is_issued) = (false, false);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("strict", _) => is_strict = true,
                ("latest", _) => session.superseded = Superseded::Reject,
                ("waited", _) => has_waited = true,
                ("issued", _) => is_issued = true,
                ("was", former) => previous = Some(self.id(former)),
                ("ttl", ttl) => session.ttl = Some(duration(ttl)?),
                ("ends", end) => ends = Some(START + duration(end)?),
                _ => version = Some(number_after_v(word)?),
            }
        }
        let id = self.id(name);
        let session = Rc::new(session);
        let terms = Terms { session, is_strict, ends, created: None, version, previous, is_issued };
        let number = self.next_stream;
        self.next_stream += 1;
        let request = Request { stream: number, id: &id, terms: &terms, has_waited };
        let (admission, handle) = self.engine.handle_request(&request, self.now, &Headers(&[], self.now));
        let label = self.enter(name, Stream { number, handle, session: id, notice: None });
        Ok(match admission {
            Admission::Decided(decision) => {
                self.note_notice(&label, &decision);
                vec![format!("{label}: {}", self.show(&decision))]
            }
            Admission::Wait => self.drain(Some(Caller::Stream(number))),
        })
    }

    fn note_notice(&mut self, label: &str, decision: &Decision) {
        if let (Some(stream), Decision::Route { notice, .. }) = (self.streams.get_mut(label), decision) {
            stream.notice.clone_from(notice);
        }
    }

    /// Does what the engine has to be done, as the filter does.
    fn drain(&mut self, caller: Option<Caller>) -> Vec<String> {
        let mut results = Vec::new();
        loop {
            if let Some(Release { stream, decision }) = self.engine.poll_release(self.now) {
                let label = self.label(stream);
                let is_delivered = !self.lost.remove(&stream);
                let decision = decision.map_or_else(
                    || "its response goes on".to_owned(),
                    |decision| {
                        self.note_notice(&label, &decision);
                        self.show(&decision)
                    },
                );
                results.push(match is_delivered {
                    true => format!("{label}: {decision}"),
                    false => format!("{label} is gone: {decision}"),
                });
                self.engine.released(is_delivered);
                continue;
            }
            let Some(caller) = caller else { break };
            let Some(call) = self.engine.poll_call(caller, self.now) else { break };
            results.push(self.make(call, caller));
        }
        while let Some(event) = self.engine.poll_event() {
            results.push(match event {
                Event::StateAway(detail) => format!("log: the state service is away ({detail})"),
                Event::StateBack => "log: the state service is back".to_owned(),
                Event::Unnameable(node) => format!("log: {node} cannot own a pin"),
                Event::TwoStores(one, other) => {
                    format!("log: answers come from {} and {}", one.as_str(), other.as_str())
                }
            });
        }
        results
    }

    fn make(&mut self, call: Call, caller: Caller) -> String {
        let is_renewal = call.timeout > self.config.state.timeout.max(Millis(500));
        let (kind, keys, shown) = self.read(&call, is_renewal);
        if self.refuses {
            self.engine.call_refused(call.id, &CallFailure::new("refused"), self.now);
            return format!("refused: {shown}");
        }
        let number = self.next_call;
        self.next_call += 1;
        self.engine.call_started(call.id, number, caller, self.now);
        self.calls.insert(number, Made { caller, kind, keys });
        let timeout = call.timeout;
        let long = match kind {
            CallKind::Ask if timeout > self.config.state.timeout => format!(" within {}ms", timeout.0),
            _ => String::new(),
        };
        format!("call {number} {shown}{long}")
    }

    /// `1: found b v2`, `1: alice found b v2 restore, bob claimed c v1`; of a touch what it says of single sessions.
    fn answer(&mut self, rest: &str) -> Result<Vec<String>, String> {
        let (number, text) = rest.split_once(':').unwrap_or((rest, ""));
        let made =
            number.parse().ok().and_then(|number: u32| self.calls.get(&number)).ok_or("no such call")?;
        let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let key = |name: &str| SessionKey::new(POOL, name.as_bytes());
        let body = match made.kind {
            CallKind::Ask | CallKind::Renew => {
                let only = match made.keys.as_slice() {
                    [only] => Some(*only),
                    _ => None,
                };
                let pins = parts().map(|part| pin(part, only)).collect::<Result<Vec<_>, _>>()?;
                let cursor = "0".parse().unwrap();
                serde_json::to_vec(&ResolveReply {
                    pins,
                    cursor,
                    ttl_ms: self.life.0,
                    store: self.store.clone(),
                })
                .unwrap()
            }
            CallKind::Touch => {
                let (mut missing, mut changed, mut written) = (Vec::new(), Vec::new(), Vec::new());
                let mut ttls_ms = BTreeMap::new();
                for part in parts() {
                    match part.split_once(' ').ok_or("say a session and a time, or missing and a session")? {
                        ("missing", name) => missing.push(key(name)),
                        ("changed", name) => changed.push(key(name)),
                        ("written", name) => written.push(key(name)),
                        (name, ttl) => {
                            ttls_ms.insert(key(name), duration(ttl)?.0);
                        }
                    }
                }
                let touched = made.keys.len() - missing.len();
                let (ttl_ms, store, unanswered) = (self.life.0, self.store.clone(), vec![]);
                let reply =
                    TouchReply { touched, missing, changed, written, ttl_ms, ttls_ms, store, unanswered };
                serde_json::to_vec(&reply).unwrap()
            }
            CallKind::End => br#"{"ended":true}"#.to_vec(),
        };
        self.reply(number, Ok(&body))
    }

    fn reply(&mut self, number: &str, body: Result<&[u8], &CallFailure>) -> Result<Vec<String>, String> {
        let number = number.parse().map_err(|_| "no number of a call")?;
        let made = self.calls.remove(&number).ok_or("no such call, or its caller is gone")?;
        if !self.engine.handle_reply(number, body, self.now) {
            return Err("the engine does not know this call".to_owned());
        }
        Ok(self.drain(Some(made.caller).filter(|caller| *caller == Caller::Root)))
    }
}

/// A rule's session without any wishes.
fn session() -> Session {
    Session {
        sources: Vec::new(),
        learned: Vec::new(),
        missing: Missing::Pass,
        ttl: None,
        max_age: None,
        superseded: Superseded::Accept,
        previous_header: None,
    }
}
