//! One configuration at work in a worker: the real proxy with its engine and feed, driven as `filter/src/worker.rs` and
//! `filter/src/root.rs` drive them. On a reload the next one stands beside it until its last request has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use berth_core::affinity::{CallFailure, Caller, Release};
use berth_core::changelog::News;
use berth_core::config::Config;
use berth_core::decision::Decision;
use berth_core::event::Reason;
use berth_core::feed::{FeedReply, Publication};
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::passive::Noted;
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy, Request, Verdict};
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, ResolveRequest, SessionKey};

use super::shared::{Leadership, Shared};
use super::{FAST_TICK, POLL_INTERVAL, TICK};
use crate::clients::{Answer, Headers};
use crate::mutants::Mutant;
use crate::random::Random;

/// Who made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Engine(Caller),
    Feed,
}

/// One configuration at work.
pub struct Worker {
    /// No other of this run has the same.
    pub number: u32,
    /// New requests may come to it.
    pub is_open: bool,
    /// All requests from their beginning to their end.
    pub requests: BTreeMap<u32, Request>,
    /// The code under test.
    proxy: Proxy,
    headers: BTreeMap<u32, Headers>,
    /// The client of these has left, and the worker was not notified yet.
    left: BTreeSet<u32>,
    calls: BTreeMap<u32, Owner>,
    /// Of these sessions the latest request went where only the ring said, or where the session was last.
    unsure: BTreeSet<Vec<u8>>,
    /// What each call asks about, for a mutant.
    asked: BTreeMap<u32, Vec<SessionKey>>,
    next_poll: Millis,
    ticks_fast: bool,
}

impl Worker {
    pub(super) fn new(config: &str, number: u32, random: &mut Random, now: Millis) -> Self {
        let config = match Config::parse(config.as_bytes()) {
            Ok(config) => config,
            Err(faults) => unreachable!("the configuration is right: {faults:?}"),
        };
        Self {
            number,
            is_open: true,
            requests: BTreeMap::new(),
            proxy: Proxy::new(config, || random.bits(), now),
            headers: BTreeMap::new(),
            left: BTreeSet::new(),
            calls: BTreeMap::new(),
            unsure: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_poll: Millis(0),
            ticks_fast: true,
        }
    }

    /// Begins with what the former configuration knew.
    pub(super) fn succeed(&mut self, former: &Self, shared: &mut Shared, now: Millis) {
        self.proxy.succeed(&former.proxy);
        if shared.mutant == Some(Mutant::ForgetfulReload) {
            self.forget_nodes(now);
        }
        self.refresh(shared, now);
    }

    /// The same, if that is not only where the ring put it.
    pub(super) fn surely_known(&mut self, shared: &mut Shared, id: &[u8], now: Millis) -> Option<String> {
        self.refresh(shared, now);
        if self.unsure.contains(id) { None } else { self.known_node(id, now) }
    }

    /// Where this session is as far as is known here.
    pub(super) fn known_node(&mut self, id: &[u8], now: Millis) -> Option<String> {
        let pool = &mut self.proxy.pools[0];
        let index = pool.engine.as_mut()?.known_node(&SessionId::new(id.to_vec())?, now)?;
        Some(pool.snapshot()?.nodes.get(index)?.name.clone())
    }

    /// True if nothing would be missed if it ended now.
    pub(super) fn is_done(&self) -> bool {
        !self.is_open && self.requests.is_empty()
    }

    /// Time passed. Returns when the next tick is due.
    pub(super) fn tick(
        &mut self,
        shared: &mut Shared,
        look: &mut dyn FnMut() -> Option<Vec<Observation>>,
        now: Millis,
    ) -> u64 {
        self.proxy.handle_tick(now);
        self.refresh(shared, now);
        self.lead(shared, look, now);
        self.review_failures(shared, now);
        if let Some(engine) = &mut self.proxy.pools[0].engine {
            engine.handle_tick(now);
        }
        self.drain(shared, Some(Caller::Root), now);
        self.take_ready(shared, now);
        let is_settled = self.proxy.pools[0].snapshot().is_some();
        self.ticks_fast &= !is_settled || self.proxy.has_waiters();
        if self.ticks_fast { FAST_TICK } else { TICK }
    }

    fn refresh(&mut self, shared: &mut Shared, now: Millis) {
        self.read_changes(shared);
        if self.proxy.pools[0].roster().version == shared.roster.version {
            self.proxy.pools[0].refresh(now).unwrap_or_default();
        } else {
            self.adopt(shared, now);
        }
    }

    /// A request begins. True if it waits and ticks were slow until now.
    pub(super) fn begin(&mut self, shared: &mut Shared, stream: u32, headers: Headers, now: Millis) -> bool {
        let (request, progress) = self.proxy.handle_request(stream, None, &headers.at(now));
        self.requests.insert(stream, request);
        self.headers.insert(stream, headers);
        match progress {
            Progress::Decided => self.decided(shared, stream),
            Progress::Pending => {}
            Progress::Waiting => self.drain(shared, Some(Caller::Stream(stream)), now),
        }
        let waits = self.requests.get(&stream).is_some_and(|request| request.decision.is_none());
        waits && !std::mem::replace(&mut self.ticks_fast, true)
    }

    /// A call came to its end.
    pub(super) fn reply(
        &mut self,
        shared: &mut Shared,
        token: u32,
        body: Result<&[u8], &CallFailure>,
        clock_jumped: bool,
        now: Millis,
    ) {
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
                Some(reply) => self.take_feed_reply(shared, reply, now),
                None => shared.wrong.push(format!("the answer to call {token} of the feed has no owner")),
            }
            return;
        }
        let engine = self.proxy.pools[0].engine.as_mut();
        let is_its = engine.is_some_and(|engine| engine.handle_reply(token, body, now));
        if is_its {
            let caller = if owner == Owner::Engine(Caller::Root) { Some(Caller::Root) } else { None };
            self.drain(shared, caller, now);
        } else if !clock_jumped {
            shared.wrong.push(format!("the answer to call {token} has no owner"));
        }
    }

    /// The response of a request begins.
    pub(super) fn respond(
        &mut self,
        shared: &mut Shared,
        stream: u32,
        answer: &Answer,
        ends: bool,
        now: Millis,
    ) {
        let Some(mut request) = self.requests.remove(&stream) else { return };
        if ends && request.is_tracked() {
            self.proxy.handle_end(&request, now);
        }
        let response = self.proxy.handle_response(stream, &mut request, false, &answer.at(now));
        self.requests.insert(stream, request);
        for verdict in response.verdicts {
            match verdict {
                Verdict::Answered(node) => {
                    shared.ledger.answered(node);
                }
                Verdict::Failed(failure) => {
                    let pool = &self.proxy.pools[0];
                    if !pool.is_out(failure.node) {
                        let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
                        if shared.ledger.failed(&failure, rules, answers, now) == Noted::Enough {
                            self.put_out(shared, failure.node, now);
                        }
                    }
                }
            }
        }
        self.proxy.pools[0].failures.ledger = shared.ledger.clone();
    }

    /// The client of a request leaves: from here on nothing reaches the stream.
    pub(super) fn leave(&mut self, stream: u32) {
        self.left.insert(stream);
    }

    /// The worker learns that a request ended.
    pub(super) fn gone(&mut self, shared: &Shared, stream: u32) {
        let has_left = self.left.remove(&stream);
        self.headers.remove(&stream);
        self.calls.retain(|_, owner| *owner != Owner::Engine(Caller::Stream(stream)));
        if let Some(mut request) = self.requests.remove(&stream) {
            if has_left && shared.mutant == Some(Mutant::LostRelease) {
                request.decision = None;
            }
            self.proxy.handle_gone(stream, &mut request);
        }
    }

    /// If it made this call: whether the answer reaches it.
    pub(super) fn expects(&self, token: u32) -> Option<bool> {
        self.calls.get(&token).map(|owner| match owner {
            Owner::Engine(Caller::Stream(stream)) => !self.left.contains(stream),
            _ => true,
        })
    }

    /// How many calls are under way.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The states of all members, by name.
    pub(super) fn states(&self) -> BTreeMap<String, State> {
        let snapshot = self.proxy.pools[0].snapshot();
        snapshot.iter().flat_map(|view| &view.nodes).map(|node| (node.name.clone(), node.state)).collect()
    }

    /// True if it ignores health.
    fn is_in_panic(&self) -> bool {
        self.proxy.pools[0].snapshot().is_some_and(|snapshot| snapshot.has_panic())
    }

    fn policy(&self) -> HealthPolicy {
        self.proxy.pools[0].config.health.clone()
    }

    fn lead(&mut self, shared: &mut Shared, look: &mut dyn FnMut() -> Option<Vec<Observation>>, now: Millis) {
        match shared.claim_lease(self.number, now) {
            Leadership::Other => return,
            Leadership::Held => {}
            Leadership::Taken => {
                self.next_poll = now;
                if let Some(feed) = &mut self.proxy.pools[0].feed {
                    feed.lead_from(shared.cursor.clone());
                }
            }
        }
        let seen = if shared.mutant == Some(Mutant::UnrenewedCooldown) { now } else { shared.seen };
        while let Some(call) = self.proxy.pools[0].poll_feed_call(|| seen, now) {
            let token = self.send(shared, Owner::Feed, call.request, call.timeout);
            if let Some(feed) = &mut self.proxy.pools[0].feed {
                feed.call_started(call.kind, token);
            }
        }
        let due = now >= self.next_poll || self.next_poll.since(now) > POLL_INTERVAL;
        if !due {
            return;
        }
        self.next_poll = now + POLL_INTERVAL;
        if shared.observe(look(), &self.policy(), now) {
            self.adopt(shared, now);
        }
    }

    fn adopt(&mut self, shared: &mut Shared, now: Millis) {
        // As the others read it.
        let Some(roster) = Roster::decode(&shared.roster.encode()) else {
            shared.wrong.push("the roster cannot be read back".to_owned());
            return;
        };
        if let Err(error) = self.proxy.pools[0].adopt(roster, now) {
            shared.wrong.push(format!("the ring cannot be built: {error}"));
        }
    }

    fn change_roster(
        &mut self,
        shared: &mut Shared,
        now: Millis,
        change: impl FnOnce(&mut Roster, &HealthPolicy) -> bool,
    ) {
        let policy = self.policy();
        if change(&mut shared.roster, &policy) {
            self.adopt(shared, now);
        }
    }

    fn review_failures(&mut self, shared: &mut Shared, now: Millis) {
        self.proxy.pools[0].failures.ledger = shared.ledger.clone();
        if shared.ledger.is_empty() {
            return;
        }
        let mut enough = Vec::new();
        let pool = &self.proxy.pools[0];
        let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
        shared.ledger.review(rules, answers, |node| pool.name_of(node).is_some(), &mut enough, now);
        for node in enough {
            self.put_out(shared, node, now);
        }
    }

    fn put_out(&mut self, shared: &mut Shared, node: u64, now: Millis) {
        let name = self.proxy.pools[0].name_of(node).map(str::to_owned);
        if let Some(name) = name {
            shared.bad_looks.entry(name.clone()).or_default().failed(now);
            self.change_roster(shared, now, |roster, policy| roster.report_failure(&name, policy, now));
        }
    }

    fn take_feed_reply(&mut self, shared: &mut Shared, mut reply: FeedReply, now: Millis) {
        if shared.mutant == Some(Mutant::SilentRestart)
            && let FeedReply::Records(records) | FeedReply::Publish(Publication { records, .. }) = &mut reply
        {
            records.iter_mut().for_each(|record| record.boot_id = None);
        }
        match reply {
            FeedReply::Nothing => {}
            FeedReply::Records(records) => {
                self.change_roster(shared, now, |roster, policy| roster.record(&records, policy, now));
            }
            FeedReply::Publish(publication) => {
                if publication.is_gap && shared.mutant != Some(Mutant::SilentGap) {
                    shared.log.note_gap();
                }
                shared.log.append(publication.changes);
                let records = publication.records;
                if !records.is_empty() {
                    self.change_roster(shared, now, |roster, policy| roster.record(&records, policy, now));
                }
                shared.cursor = Some(publication.cursor.clone());
                if let Some(feed) = &mut self.proxy.pools[0].feed {
                    feed.published(publication.cursor);
                }
                self.read_changes(shared);
            }
        }
    }

    fn read_changes(&mut self, shared: &Shared) {
        let pool = &mut self.proxy.pools[0];
        if let (Some(feed), Some(engine)) = (&mut pool.feed, &mut pool.engine)
            && feed.is_behind(shared.log.head())
        {
            let mut news = feed.read(&shared.log);
            if let News::Changes(changes) = &mut news {
                let asked = self.calls.keys().filter_map(|call| self.asked.get(call));
                let asked: BTreeSet<SessionKey> = asked.flatten().copied().collect();
                changes.retain(|(key, _)| !asked.contains(key));
            }
            engine.handle_changes(news);
        }
    }

    fn take_ready(&mut self, shared: &mut Shared, now: Millis) {
        let ready: Vec<(u32, Waited)> = self.proxy.take_ready(now, |_| true, |_| Millis(0));
        for (stream, waited) in ready {
            let Some(headers) = self.headers.get(&stream).filter(|_| !self.left.contains(&stream)) else {
                continue;
            };
            let decided = self.proxy.handle_request(stream, Some(waited), &headers.at(now));
            let (request, progress) = decided;
            self.requests.insert(stream, request);
            match progress {
                Progress::Decided => self.decided(shared, stream),
                Progress::Pending => {}
                Progress::Waiting => self.drain(shared, Some(Caller::Root), now),
            }
        }
    }

    fn drain(&mut self, shared: &mut Shared, caller: Option<Caller>, now: Millis) {
        loop {
            let Some(engine) = &mut self.proxy.pools[0].engine else { return };
            if let Some(Release { stream, decision }) = engine.poll_release(now) {
                let waits = |request: &&Request| request.decision.is_none();
                let is_there = self.requests.get(&stream).filter(waits).is_some();
                if !is_there {
                    shared.wrong.push(format!("stream {stream} is released and does not wait"));
                }
                let is_delivered = is_there && !self.left.contains(&stream);
                self.note_place(stream, decision.as_ref());
                if is_delivered
                    && let Some(decision) = decision
                    && let Some(mut request) = self.requests.remove(&stream)
                {
                    self.proxy.settle(&mut request, decision);
                    self.requests.insert(stream, request);
                    shared.decided.push(stream);
                }
                let is_delivered = is_delivered || shared.mutant == Some(Mutant::LostRelease);
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
                shared.wrong.push(format!("a call belongs to stream {stream}, which is gone"));
            }
            let token = self.send(shared, Owner::Engine(caller), call.request, call.timeout);
            if let Some(engine) = &mut self.proxy.pools[0].engine {
                engine.call_started(call.id, token, caller, now);
            }
        }
        while self.proxy.pools[0].engine.as_mut().and_then(|engine| engine.poll_event()).is_some() {}
    }

    fn decided(&mut self, shared: &mut Shared, stream: u32) {
        let decision = self.requests.get(&stream).and_then(|request| request.decision.clone());
        self.note_place(stream, decision.as_ref());
        shared.decided.push(stream);
    }

    /// A request of this stream's session was placed, delivered or not.
    fn note_place(&mut self, stream: u32, decision: Option<&Decision>) {
        let session = self.requests.get(&stream).and_then(|request| request.session.as_ref());
        if let (Some(session), Some(Decision::Route { placement, .. })) = (session, decision) {
            let id = session.as_bytes().to_vec();
            if placement.reason == Reason::StateAway {
                self.unsure.insert(id)
            } else {
                self.unsure.remove(&id)
            };
        }
    }

    fn send(&mut self, shared: &mut Shared, owner: Owner, request: ApiRequest, timeout: Millis) -> u32 {
        let states = self.is_in_panic().then(|| self.states());
        let asked =
            ResolveRequest::parse(&request.body).ok().filter(|_| shared.mutant == Some(Mutant::StaleAnswer));
        let token = shared.send(request, timeout, states.as_ref());
        self.calls.insert(token, owner);
        if let Some(asked) = asked {
            self.asked.insert(token, asked.sessions.iter().map(|ask| ask.key).collect());
        }
        token
    }

    /// The engine forgets which nodes have left, and with which start of each its sessions began: so many strangers come and go
    /// that there is no room for others.
    fn forget_nodes(&mut self, now: Millis) {
        for round in 0..2 {
            let strangers = (0..40).map(|number| Observation {
                address: format!("10.9.{round}.{number}:80"),
                weight: 1,
                ..Observation::default()
            });
            let mut roster = Roster::default();
            roster.observe(strangers.collect(), &self.policy(), now);
            let pool = &mut self.proxy.pools[0];
            let snapshot = Snapshot::build(&roster, pool.config.algorithm, &pool.config.health, now, None);
            if let (Some(engine), Ok(snapshot)) = (&mut pool.engine, snapshot) {
                engine.handle_snapshot(Rc::new(snapshot), now);
            }
        }
    }
}
