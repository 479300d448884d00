//! One Envoy with one worker: the real proxy with its engine and feed, driven as the wasm adapter drives them.
//!
//! It carries out what they say and decides nothing. What is to leave it, calls and decisions, is taken by the run.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::affinity::{CallFailure, Caller, Release};
use berth_core::changelog::ChangeLog;
use berth_core::cluster::Clusters;
use berth_core::config::Config;
use berth_core::event::CallResult;
use berth_core::feed::{FeedCallKind, FeedReply};
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::passive::{Ledger, Noted};
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy, Request, Verdict};
use berth_core::roster::Roster;
use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, Cursor};

use crate::clients::{Answer, Headers, MAX_CALLS};
use crate::mutants::Mutant;
use crate::random::Random;

/// As `filter/src/root.rs` has them.
const POLL_INTERVAL: Millis = Millis(1_000);
const FAST_TICK: u64 = 10;
const TICK: u64 = 100;
const BLIND_AFTER: Millis = Millis(30_000);
/// Beside lookups: a touch, a refresh, sixteen ends, and three of the feed.
pub const MOST_CALLS: usize = MAX_CALLS + 1 + 1 + 16 + 3;

/// A call to make.
#[derive(Debug)]
pub struct Out {
    /// Its answer has to bear this.
    pub token: u32,
    /// What to send.
    pub request: ApiRequest,
    /// How long to wait.
    pub timeout: u64,
    /// The proxy was in panic when it asked.
    pub in_panic: bool,
}

/// When a member was seen unhealthy.
#[derive(Debug, Default, Clone, Copy)]
pub struct BadLooks {
    /// The last time.
    pub last: Millis,
    /// How often it failed.
    pub failures: u32,
    is_bad: bool,
}

impl BadLooks {
    fn look(&mut self, is_bad: bool, now: Millis) {
        if is_bad {
            self.failures += u32::from(!self.is_bad);
            self.last = now;
        }
        self.is_bad = is_bad;
    }

    fn failed(&mut self, now: Millis) {
        self.failures += 1;
        self.last = now;
    }
}

/// Who made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Engine(Caller),
    Feed,
}

/// One Envoy.
pub struct Host {
    /// The code under test.
    pub proxy: Proxy,
    /// What its VMs would share.
    roster: Roster,
    log: ChangeLog,
    cursor: Option<Cursor>,
    ledger: Ledger,
    seen: Millis,
    next_poll: Millis,
    clusters: Clusters,
    mutant: Option<Mutant>,
    /// All requests from their beginning to their end.
    pub requests: BTreeMap<u32, Request>,
    headers: BTreeMap<u32, Headers>,
    /// The client of these has left, and the worker was not notified yet.
    pub left: BTreeSet<u32>,
    calls: BTreeMap<u32, Owner>,
    next_token: u32,
    ticks_fast: bool,
    /// Calls to make.
    pub out: Vec<Out>,
    /// Requests that were decided just now.
    pub decided: Vec<u32>,
    /// What must never be, and was.
    pub wrong: Vec<String>,
    /// What looks and requests said of members, by name.
    pub bad_looks: BTreeMap<String, BadLooks>,
}

impl Host {
    /// One that starts now.
    #[must_use]
    pub fn new(config: &str, random: &mut Random, mutant: Option<Mutant>, now: Millis) -> Self {
        let config = match Config::parse(config.as_bytes()) {
            Ok(config) => config,
            Err(faults) => unreachable!("the configuration is right: {faults:?}"),
        };
        let dump = r#"{"configs":[{"dynamic_active_clusters":[{"cluster":{"name":"nodes","type":"EDS","health_checks":[{
            "timeout":"0.2s","interval":"0.4s","no_traffic_interval":"0.4s","unhealthy_threshold":2,"healthy_threshold":1}]}}]}]}"#;
        let Some(clusters) = Clusters::read(dump.as_bytes()) else { unreachable!("the dump is right") };
        Self {
            proxy: Proxy::new(config, || random.bits(), now),
            roster: Roster::default(),
            log: ChangeLog::default(),
            cursor: None,
            ledger: Ledger::default(),
            seen: Millis(0),
            next_poll: Millis(0),
            clusters,
            mutant,
            requests: BTreeMap::new(),
            headers: BTreeMap::new(),
            left: BTreeSet::new(),
            calls: BTreeMap::new(),
            next_token: 1,
            ticks_fast: true,
            out: Vec::new(),
            decided: Vec::new(),
            wrong: Vec::new(),
            bad_looks: BTreeMap::new(),
        }
    }

    /// Time passed. `look` is what Envoy says of its hosts. Returns when the next tick is due.
    pub fn tick(&mut self, look: impl FnOnce() -> Option<Vec<Observation>>, now: Millis) -> u64 {
        self.proxy.handle_tick(now);
        self.read_changes();
        self.proxy.pools[0].refresh(now).unwrap_or_default();
        self.lead(look, now);
        self.review_failures(now);
        if let Some(engine) = &mut self.proxy.pools[0].engine {
            engine.handle_tick(now);
        }
        self.drain(Some(Caller::Root), now);
        self.take_ready(now);
        let is_settled = self.proxy.pools[0].snapshot().is_some();
        self.ticks_fast &= !is_settled || self.proxy.has_waiters();
        if self.ticks_fast { FAST_TICK } else { TICK }
    }

    /// A request begins. True if it waits and ticks were slow until now.
    pub fn begin(&mut self, stream: u32, headers: Headers, now: Millis) -> bool {
        let (request, progress) = self.proxy.handle_request(stream, None, &headers.at(now));
        self.requests.insert(stream, request);
        self.headers.insert(stream, headers);
        match progress {
            Progress::Decided => self.decided.push(stream),
            Progress::Pending => {}
            Progress::Waiting => self.drain(Some(Caller::Stream(stream)), now),
        }
        let waits = self.requests.get(&stream).is_some_and(|request| request.decision.is_none());
        waits && !std::mem::replace(&mut self.ticks_fast, true)
    }

    /// A call came to its end.
    pub fn reply(&mut self, token: u32, body: Result<&[u8], &CallFailure>, clock_jumped: bool, now: Millis) {
        // That of a stream that is gone is lost.
        let Some(owner) = self.calls.remove(&token) else { return };
        if let Owner::Engine(Caller::Stream(stream)) = owner
            && self.left.contains(&stream)
        {
            return;
        }
        if owner == Owner::Feed {
            let feed = self.proxy.pools[0].feed.as_mut();
            match feed.and_then(|feed| feed.handle_reply(token, body.ok(), now)) {
                Some(reply) => self.take_feed_reply(reply, now),
                None => self.wrong.push(format!("the answer to call {token} of the feed has no owner")),
            }
            return;
        }
        let engine = self.proxy.pools[0].engine.as_mut();
        let is_its = engine.is_some_and(|engine| engine.handle_reply(token, body, now));
        if is_its {
            let caller = if owner == Owner::Engine(Caller::Root) { Some(Caller::Root) } else { None };
            self.drain(caller, now);
        } else if !clock_jumped {
            self.wrong.push(format!("the answer to call {token} has no owner"));
        }
    }

    /// The response of a request begins.
    pub fn respond(&mut self, stream: u32, answer: &Answer, ends: bool, now: Millis) {
        let Some(mut request) = self.requests.remove(&stream) else { return };
        if ends && request.is_tracked() {
            self.proxy.handle_end(&request, now);
        }
        let response = self.proxy.handle_response(stream, &mut request, false, &answer.at(now));
        self.requests.insert(stream, request);
        for verdict in response.verdicts {
            match verdict {
                Verdict::Answered(node) => {
                    self.ledger.answered(node);
                }
                Verdict::Failed(failure) => {
                    let pool = &self.proxy.pools[0];
                    if !pool.is_out(failure.node) {
                        let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
                        if self.ledger.failed(&failure, rules, answers, now) == Noted::Enough {
                            self.put_out(failure.node, now);
                        }
                    }
                }
            }
        }
        self.proxy.pools[0].failures.ledger = self.ledger.clone();
    }

    /// The client of a request leaves: from here on nothing reaches the stream.
    pub fn leave(&mut self, stream: u32) {
        self.left.insert(stream);
    }

    /// The worker learns that a request ended.
    pub fn gone(&mut self, stream: u32) {
        self.left.remove(&stream);
        self.headers.remove(&stream);
        self.calls.retain(|_, owner| *owner != Owner::Engine(Caller::Stream(stream)));
        if let Some(mut request) = self.requests.remove(&stream) {
            self.proxy.handle_gone(stream, &mut request);
        }
    }

    /// True if the answer to this call reaches the worker.
    #[must_use]
    pub fn expects(&self, token: u32) -> bool {
        match self.calls.get(&token) {
            Some(Owner::Engine(Caller::Stream(stream))) => !self.left.contains(stream),
            Some(_) => true,
            None => false,
        }
    }

    /// How many calls are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The states of all members as this proxy sees them, by name.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, State> {
        let snapshot = self.proxy.pools[0].snapshot();
        snapshot.iter().flat_map(|view| &view.nodes).map(|node| (node.name.clone(), node.state)).collect()
    }

    /// True if it ignores health.
    #[must_use]
    pub fn is_in_panic(&self) -> bool {
        self.proxy.pools[0].snapshot().is_some_and(|snapshot| snapshot.has_panic())
    }

    fn policy(&self) -> HealthPolicy {
        self.proxy.pools[0].config.health.clone()
    }

    fn lead(&mut self, look: impl FnOnce() -> Option<Vec<Observation>>, now: Millis) {
        let seen = if self.mutant == Some(Mutant::UnrenewedCooldown) { now } else { self.seen };
        while let Some(call) = self.proxy.pools[0].poll_feed_call(|| seen, now) {
            let token = self.send(Owner::Feed, call.request, call.timeout);
            if let Some(feed) = &mut self.proxy.pools[0].feed {
                feed.call_started(call.kind, token);
            }
            debug_assert!(matches!(
                call.kind,
                FeedCallKind::Changes | FeedCallKind::Nodes | FeedCallKind::Cooldown
            ));
        }
        let due = now >= self.next_poll || self.next_poll.since(now) > POLL_INTERVAL;
        if !due {
            return;
        }
        self.next_poll = now + POLL_INTERVAL;
        let observed = look();
        if let Some(hosts) = &observed {
            let absent = |name: &String| hosts.iter().all(|host| host.name() != name);
            let gone = self.bad_looks.iter_mut().filter(|(name, _)| absent(name));
            gone.for_each(|(_, looks)| looks.look(false, now));
        }
        for host in observed.iter().flatten() {
            self.bad_looks.entry(host.name().to_owned()).or_default().look(host.flags.unhealthy, now);
        }
        let policy = self.policy();
        let is_blind = now.since(self.seen) > BLIND_AFTER;
        let is_lost = is_blind && self.roster.lose_sight(self.seen, &policy, now);
        let facts = self.clusters.get("nodes");
        let is_other = observed.is_some() && self.roster.learn(facts, true);
        let is_seen = observed.is_some();
        let is_changed = match observed {
            Some(hosts) => self.roster.observe_after((self.seen, POLL_INTERVAL), hosts, &policy, now),
            None => self.roster.reassess(&policy, now),
        };
        if is_lost || is_other || is_changed {
            self.adopt(now);
        }
        if is_seen {
            self.seen = now;
        }
    }

    fn adopt(&mut self, now: Millis) {
        // As the others read it.
        let Some(roster) = Roster::decode(&self.roster.encode()) else {
            self.wrong.push("the roster cannot be read back".to_owned());
            return;
        };
        if let Err(error) = self.proxy.pools[0].adopt(roster, now) {
            self.wrong.push(format!("the ring cannot be built: {error}"));
        }
    }

    fn change_roster(&mut self, now: Millis, change: impl FnOnce(&mut Roster, &HealthPolicy) -> bool) {
        let policy = self.policy();
        if change(&mut self.roster, &policy) {
            self.adopt(now);
        }
    }

    fn review_failures(&mut self, now: Millis) {
        self.proxy.pools[0].failures.ledger = self.ledger.clone();
        if self.ledger.is_empty() {
            return;
        }
        let mut enough = Vec::new();
        let pool = &self.proxy.pools[0];
        let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
        self.ledger.review(rules, answers, |node| pool.name_of(node).is_some(), &mut enough, now);
        for node in enough {
            self.put_out(node, now);
        }
    }

    fn put_out(&mut self, node: u64, now: Millis) {
        let name = self.proxy.pools[0].name_of(node).map(str::to_owned);
        if let Some(name) = name {
            self.bad_looks.entry(name.clone()).or_default().failed(now);
            self.change_roster(now, |roster, policy| roster.report_failure(&name, policy, now));
        }
    }

    fn take_feed_reply(&mut self, reply: FeedReply, now: Millis) {
        match reply {
            FeedReply::Nothing => {}
            FeedReply::Records(records) => {
                self.change_roster(now, |roster, policy| roster.record(&records, policy, now));
            }
            FeedReply::Publish(publication) => {
                if publication.is_gap && self.mutant != Some(Mutant::SilentGap) {
                    self.log.note_gap();
                }
                self.log.append(publication.changes);
                let records = publication.records;
                if !records.is_empty() {
                    self.change_roster(now, |roster, policy| roster.record(&records, policy, now));
                }
                self.cursor = Some(publication.cursor.clone());
                if let Some(feed) = &mut self.proxy.pools[0].feed {
                    feed.published(publication.cursor);
                }
                self.read_changes();
            }
        }
    }

    fn read_changes(&mut self) {
        let pool = &mut self.proxy.pools[0];
        if let (Some(feed), Some(engine)) = (&mut pool.feed, &mut pool.engine)
            && feed.is_behind(self.log.head())
        {
            engine.handle_changes(feed.read(&self.log));
        }
    }

    fn take_ready(&mut self, now: Millis) {
        let ready: Vec<(u32, Waited)> = self.proxy.take_ready(now, |_| true, |_| Millis(0));
        for (stream, waited) in ready {
            let Some(headers) = self.headers.get(&stream).filter(|_| !self.left.contains(&stream)) else {
                continue;
            };
            let decided = self.proxy.handle_request(stream, Some(waited), &headers.at(now));
            let (request, progress) = decided;
            self.requests.insert(stream, request);
            match progress {
                Progress::Decided => self.decided.push(stream),
                Progress::Pending => {}
                Progress::Waiting => self.drain(Some(Caller::Root), now),
            }
        }
    }

    fn drain(&mut self, caller: Option<Caller>, now: Millis) {
        loop {
            let Some(engine) = &mut self.proxy.pools[0].engine else { return };
            if let Some(Release { stream, decision }) = engine.poll_release(now) {
                let waits = |request: &&Request| request.decision.is_none();
                let is_there = self.requests.get(&stream).filter(waits).is_some();
                if !is_there {
                    self.wrong.push(format!("stream {stream} is released and does not wait"));
                }
                let is_delivered = is_there && !self.left.contains(&stream);
                if is_delivered
                    && let Some(decision) = decision
                    && let Some(mut request) = self.requests.remove(&stream)
                {
                    self.proxy.settle(&mut request, decision);
                    self.requests.insert(stream, request);
                    self.decided.push(stream);
                }
                let is_delivered = is_delivered || self.mutant == Some(Mutant::LostRelease);
                if let Some(engine) = &mut self.proxy.pools[0].engine {
                    engine.released(is_delivered);
                }
                continue;
            }
            let Some(caller) = caller else { break };
            let Some(call) = engine.poll_call(caller, now) else { break };
            if let Caller::Stream(stream) = caller
                && (self.left.contains(&stream) || !self.requests.contains_key(&stream))
            {
                self.wrong.push(format!("a call belongs to stream {stream}, which is gone"));
            }
            let token = self.send(Owner::Engine(caller), call.request, call.timeout);
            if let Some(engine) = &mut self.proxy.pools[0].engine {
                engine.call_started(call.id, token, caller, now);
            }
        }
        while self.proxy.pools[0].engine.as_mut().and_then(|engine| engine.poll_event()).is_some() {}
    }

    fn send(&mut self, owner: Owner, mut request: ApiRequest, timeout: Millis) -> u32 {
        if self.mutant == Some(Mutant::LostEnd) && request.method == "DELETE" {
            // Another session's.
            request.path = format!("/v1/sessions/{}?pool=nodes", "0".repeat(32));
        }
        let token = self.next_token;
        self.next_token += 1;
        self.calls.insert(token, owner);
        let in_panic = self.is_in_panic();
        if in_panic && self.mutant == Some(Mutant::PanicRewritesPins) && request.path == "/v1/resolve" {
            self.distrust(&mut request);
        }
        self.out.push(Out { token, request, timeout: timeout.0, in_panic });
        token
    }

    /// What a proxy would ask that believes what health says in panic.
    fn distrust(&self, request: &mut ApiRequest) {
        let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&request.body) else { return };
        let out = self.states().into_iter().filter(|(_, state)| *state == State::Cooldown);
        let out: Vec<String> = out.map(|(name, _)| name).collect();
        body["panic"] = false.into();
        for session in body["sessions"].as_array_mut().into_iter().flatten() {
            session["unusable"] = out.clone().into();
        }
        request.body = serde_json::to_vec(&body).unwrap_or_default();
    }
}

/// A call that was not answered.
#[must_use]
pub fn failure(status: Option<u16>) -> CallFailure {
    match status {
        Some(status) => CallFailure {
            result: CallResult::Failed,
            is_missing: status == 404,
            detail: format!("status {status}"),
        },
        None => {
            CallFailure { result: CallResult::TimedOut, is_missing: false, detail: "no answer".to_owned() }
        }
    }
}
