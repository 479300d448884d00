//! Plays the transcripts of `testdata/affinity`: what happens to a pool's sessions in one worker, and what the engine makes
//! of it. The README there says how to read and write one.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;

use berth_core::affinity::{
    Admission, Affinity, AffinityConfig, Call, CallFailure, Caller, Event, Request, Terms,
};
use berth_core::changelog::{ENDED, News, superseded_by};
use berth_core::config::{Missing, OnPanic, OnVanish, Session, StateCluster, Superseded};
use berth_core::decision::{Decision, Notice, PoolPolicy};
use berth_core::event::{CallResult, Counter, Reason};
use berth_core::health::HealthPolicy;
use berth_core::membership::Observation;
use berth_core::pins::{InUseHandle, Limits};
use berth_core::ring::Algorithm;
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{NodeRecord, Outcome, Pin, ResolveReply, SessionKey, TouchReply};
use serde_json::Value;

use support::attributes::Headers;
use support::transcripts::play_all;

/// Transcripts count time from here: far from zero, as real clocks are.
const START: Millis = Millis(1_000_000_000);
const POOL: &str = "nodes";

#[test]
fn every_transcript_tells_what_happens() {
    play_all("affinity", play);
}

/// The transcript with what happens after each `->`.
fn play(transcript: &str, name: &str) -> String {
    let mut worker: Option<Worker> = None;
    let mut happened = String::new();
    for (index, line) in transcript.lines().enumerate() {
        let (statement, is_question) =
            line.split_once("->").map_or((line, false), |(question, _)| (question.trim_end(), true));
        happened.push_str(statement);
        if !statement.trim().is_empty() && !statement.starts_with('#') {
            let results = perform(&mut worker, statement)
                .unwrap_or_else(|problem| panic!("{name}:{}: {problem}", index + 1));
            match results.as_slice() {
                [] if is_question => happened.push_str(" -> nothing"),
                [] => {}
                results => write!(happened, " -> {}", results.join("; ")).unwrap(),
            }
        }
        happened.push('\n');
    }
    happened
}

fn perform(worker: &mut Option<Worker>, statement: &str) -> Result<Vec<String>, String> {
    let (verb, rest) = statement.trim().split_once(' ').unwrap_or((statement.trim(), ""));
    if verb == "pool" {
        *worker = Some(Worker::new(rest)?);
        return Ok(Vec::new());
    }
    worker.as_mut().ok_or("begin with a pool")?.perform(verb, rest)
}

/// One worker with its pool, in place of a filter in Envoy.
struct Worker {
    config: AffinityConfig,
    engine: Affinity,
    health: HealthPolicy,
    roster: Roster,
    snapshot: Option<Rc<Snapshot>>,
    now: Millis,
    /// How long the store keeps a pin.
    life: Millis,
    /// The requests that have not ended, by what the transcript calls them.
    streams: BTreeMap<String, Stream>,
    next_stream: u32,
    calls: BTreeMap<u32, Made>,
    next_call: u32,
    next_record: u64,
    sessions: BTreeMap<SessionKey, String>,
    /// Envoy refuses calls.
    refuses: bool,
    /// Requests that will be gone when they are released.
    lost: BTreeSet<u32>,
}

struct Stream {
    number: u32,
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
enum CallKind {
    Ask,
    Renew,
    Touch,
    End,
}

impl Worker {
    fn new(settings: &str) -> Result<Self, String> {
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
        let (mut life, mut is_new) = (Millis(1_800_000), false);
        for word in settings.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse().map_err(|_| format!("{value:?} is no number"));
            match name {
                "new" => is_new = true,
                "calls" => state.max_calls = number()?,
                "room" => state.pins.entries = number()?,
                "timeout" => state.timeout = duration(value)?,
                "life" => life = duration(value)?,
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

    fn perform(&mut self, verb: &str, rest: &str) -> Result<Vec<String>, String> {
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
                let (result, is_missing) = match result {
                    "" => (CallResult::Failed, false),
                    "timed out" => (CallResult::TimedOut, false),
                    "missing" => (CallResult::Failed, true),
                    other => return Err(format!("{other:?} is no way to fail")),
                };
                let failure = CallFailure { result, is_missing, detail: "no answer".to_owned() };
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

    /// `alice v3 strict latest was=al ttl=60s ends=90s`.
    fn ask(&mut self, rest: &str) -> Result<Vec<String>, String> {
        let mut words = rest.split_whitespace();
        let name = words.next().ok_or("ask for a session")?;
        let mut session = Session {
            sources: Vec::new(),
            missing: Missing::Pass,
            ttl: None,
            max_age: None,
            superseded: Superseded::Accept,
            previous_header: None,
        };
        let (mut is_strict, mut ends, mut version, mut previous) = (false, None, None, None);
        let mut has_waited = false;
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("strict", _) => is_strict = true,
                ("latest", _) => session.superseded = Superseded::Reject,
                ("waited", _) => has_waited = true,
                ("was", former) => previous = Some(self.id(former)),
                ("ttl", ttl) => session.ttl = Some(duration(ttl)?),
                ("ends", end) => ends = Some(START + duration(end)?),
                _ => version = Some(number_after_v(word)?),
            }
        }
        let id = self.id(name);
        let terms = Terms { session: Rc::new(session), is_strict, ends, created: None, version, previous };
        let number = self.next_stream;
        self.next_stream += 1;
        let request = Request { stream: number, id: &id, terms: &terms, has_waited };
        let (admission, handle) = self.engine.handle_request(&request, self.now, &Headers(&[], self.now));
        let label = (1..).map(|count| if count == 1 { name.to_owned() } else { format!("{name}#{count}") });
        let label = label.into_iter().find(|label| !self.streams.contains_key(label)).unwrap();
        let stream = Stream { number, handle, session: id.clone(), notice: None };
        self.streams.insert(label.clone(), stream);
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
            if let Some(release) = self.engine.poll_release(self.now) {
                let label = self.label(release.stream);
                let is_delivered = !self.lost.remove(&release.stream);
                self.note_notice(&label, &release.decision);
                let decision = self.show(&release.decision);
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

    fn read(&self, call: &Call, is_renewal: bool) -> (CallKind, Vec<SessionKey>, String) {
        let name = |key: &SessionKey| self.sessions.get(key).cloned().unwrap();
        let key = |value: &Value| value.as_str().unwrap().parse::<SessionKey>().unwrap();
        if call.request.method == "DELETE" {
            let path = call.request.path.trim_start_matches("/v1/sessions/");
            let ended: SessionKey = path.split('?').next().unwrap().parse().unwrap();
            let ago = path.split_once("&ended_ago_ms=").map(|(_, ago)| format!(" {ago}ms ago"));
            let shown = format!("ends {}{}", name(&ended), ago.unwrap_or_default());
            return (CallKind::End, vec![ended], shown);
        }
        let body: Value = serde_json::from_slice(&call.request.body).unwrap();
        if call.request.path == "/v1/touch" {
            let keys: Vec<SessionKey> = body["keys"].as_array().unwrap().iter().map(key).collect();
            let mut names: Vec<String> = keys.iter().map(name).collect();
            names.sort();
            return (CallKind::Touch, keys, format!("touches {}", names.join(" ")));
        }
        let sessions = body["sessions"].as_array().unwrap();
        let list = |value: &Value| {
            let nodes: Vec<&str> =
                value.as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
            nodes.join(",")
        };
        let show = |ask: &Value| {
            let mut shown = format!("{} {}", name(&key(&ask["key"])), list(&ask["candidates"]));
            if !ask["unusable"].is_null() {
                write!(shown, " not {}", list(&ask["unusable"])).unwrap();
            }
            if !ask["alias_of"].is_null() {
                write!(shown, " was {}", name(&key(&ask["alias_of"]))).unwrap();
            }
            if let Some(version) = ask["session_version"].as_u64() {
                write!(shown, " token v{version}").unwrap();
            }
            if let Some(ttl) = ask["ttl_ms"].as_u64() {
                write!(shown, " ttl {}s", ttl / 1000).unwrap();
            }
            if let Some(ends) = ask["ends_ms"].as_u64() {
                write!(shown, " ends {}s", (ends - START.0) / 1000).unwrap();
            }
            shown + if ask["strict"] == true { " strict" } else { "" }
        };
        let keys = sessions.iter().map(|ask| key(&ask["key"])).collect();
        let shown: Vec<String> = sessions.iter().map(show).collect();
        let panic = if body["panic"] == true { " in panic" } else { "" };
        let (kind, verb) = if is_renewal { (CallKind::Renew, "renews") } else { (CallKind::Ask, "asks") };
        (kind, keys, format!("{verb} {}{panic}", shown.join(" + ")))
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
                serde_json::to_vec(&ResolveReply { pins, cursor, ttl_ms: self.life.0 }).unwrap()
            }
            CallKind::Touch => {
                let (mut missing, mut ttls_ms) = (Vec::new(), BTreeMap::new());
                for part in parts() {
                    match part.split_once(' ').ok_or("say a session and a time, or missing and a session")? {
                        ("missing", name) => missing.push(key(name)),
                        (name, ttl) => {
                            ttls_ms.insert(key(name), duration(ttl)?.0);
                        }
                    }
                }
                let touched = made.keys.len() - missing.len();
                serde_json::to_vec(&TouchReply { touched, missing, ttl_ms: self.life.0, ttls_ms }).unwrap()
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

    fn label(&self, stream: u32) -> String {
        let label = self.streams.iter().find(|(_, known)| known.number == stream);
        label.map_or_else(|| format!("stream {stream}"), |(label, _)| label.clone())
    }

    fn node(&self, index: usize) -> String {
        self.snapshot.as_ref().unwrap().nodes[index].name.clone()
    }

    fn show(&self, decision: &Decision) -> String {
        match decision {
            Decision::Route { placement, notice } => {
                let mut shown =
                    format!("{} {}", self.node(placement.owner().unwrap()), placement.outcome.name());
                if placement.reason != Reason::Pin {
                    write!(shown, " {}", placement.reason.name()).unwrap();
                }
                if placement.is_strict {
                    shown.push_str(" strict");
                }
                match notice {
                    Some(Notice::Restore { version }) => write!(shown, ", restore v{version}").unwrap(),
                    Some(Notice::Rehomed { from, version }) => {
                        write!(shown, ", rehomed from {from} v{version}").unwrap();
                    }
                    None => {}
                }
                shown
            }
            Decision::Fallback { reason, .. } => format!("envoy's ring {}", reason.name()),
            Decision::Pass { reason, .. } => format!("any node {}", reason.name()),
            Decision::Reply(reply) => format!("{} {}", reply.status, reply.reason.name()),
            Decision::Bypass => "bypass".to_owned(),
        }
    }
}

/// `alice v4`, `alice ended`, `alice superseded by v3`.
fn change(rest: &str) -> Result<(SessionKey, u64), String> {
    let (name, what) = rest.split_once(' ').ok_or("say of which session what changed")?;
    let key = SessionKey::new(POOL, name.as_bytes());
    Ok((
        key,
        match what.strip_prefix("superseded by ") {
            Some(version) => superseded_by(number_after_v(version)?),
            None if what == "ended" => ENDED,
            None => number_after_v::<u64>(what)?,
        },
    ))
}

/// `alice found b v2 restore from=a owned=1s ttl=60s token=3`, without the name if the call asked for one session only.
fn pin(text: &str, only: Option<SessionKey>) -> Result<Pin, String> {
    let outcome = |word: &str| match word {
        "found" => Some(Outcome::Found),
        "claimed" => Some(Outcome::Claimed),
        "rehomed" => Some(Outcome::Rehomed),
        _ => None,
    };
    let mut words = text.split_whitespace().peekable();
    let first = *words.peek().ok_or("say what the answer is")?;
    let key = if outcome(first).is_some() {
        only.ok_or("say which session")?
    } else {
        words.next();
        SessionKey::new(POOL, first.as_bytes())
    };
    let outcome = words.next().and_then(outcome).ok_or("an outcome is found, claimed or rehomed")?;
    let node = words.next().ok_or("say the node")?;
    let mut pin = Pin {
        key,
        node: node.parse().map_err(|error| format!("{node}: {error}"))?,
        version: number_after_v(words.next().unwrap_or_default())?,
        outcome,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: None,
        session_version: None,
        owned_ms: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("restore", _) => pin.restore = true,
            ("from", node) => pin.from = Some(node.parse().map_err(|error| format!("{node}: {error}"))?),
            ("owned", time) => pin.owned_ms = Some(duration(time)?.0),
            ("ttl", time) => pin.ttl_ms = Some(duration(time)?.0),
            ("token", version) => pin.session_version = Some(number_after_v(version)?),
            _ => return Err(format!("{word:?} says nothing of a pin")),
        }
    }
    Ok(pin)
}

/// `a`, `b(unhealthy)`, `b@10.0.0.2:80` with its name first.
fn host(word: &str) -> Result<Observation, String> {
    let (address, fact) = match word.split_once('(') {
        Some((address, fact)) => (address, fact.strip_suffix(')').ok_or("close the (")?),
        None => (word, ""),
    };
    let (name, address) = match address.split_once('@') {
        Some((name, address)) => (Some(name.to_owned()), address),
        None => (None, address),
    };
    let mut host = Observation { address: address.to_owned(), name, weight: 1, ..Observation::default() };
    match fact {
        "" => {}
        "unhealthy" => host.flags.unhealthy = true,
        "pending" => host.flags.pending = true,
        "draining" => host.flags.draining = true,
        _ => return Err(format!("{fact:?} is no fact of a host")),
    }
    Ok(host)
}

fn number_after_v<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    let number = word.strip_prefix('v').and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{word:?} is no version such as v3"))
}

fn duration(text: &str) -> Result<Millis, String> {
    Millis::parse(text).ok_or_else(|| format!("{text:?} is no time such as 50ms or 30s"))
}
