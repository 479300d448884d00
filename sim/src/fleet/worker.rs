//! One configuration at work in a worker: the real proxy with its engine and feed, driven as `filter/src/worker.rs` and
//! `filter/src/root.rs` drive them. On a reload the next one stands beside it until its last request has ended.

mod learned;
mod members;

use std::collections::{BTreeMap, BTreeSet};

use berth_core::affinity::{CallFailure, Caller, Release};
use berth_core::config::Config;
use berth_core::decision::Decision;
use berth_core::event::{Outcome, Reason};
use berth_core::health::State;
use berth_core::membership::Observation;
use berth_core::passive::Noted;
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy, Request, Verdict};
use berth_core::session::SessionId;
use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, ResolveRequest, SessionKey};

use super::shared::Shared;
use super::{FAST_TICK, TICK};
use crate::clients::{Answer, Headers};
use crate::mutants::Mutant;
use crate::random::Random;
use learned::Learned;

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
    /// The newest that it was said of pins.
    learned: Learned,
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
            learned: Learned::default(),
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
        if let Ok(body) = body {
            self.learned.answer(body);
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
            self.proxy.handle_end(&mut request, now);
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
                self.note_place(shared, stream, decision.as_ref());
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
        self.note_place(shared, stream, decision.as_ref());
        shared.decided.push(stream);
    }

    /// A request of this stream's session was placed, delivered or not.
    fn note_place(&mut self, shared: &mut Shared, stream: u32, decision: Option<&Decision>) {
        let Some(request) = self.requests.get(&stream) else { return };
        let session = request.session.as_ref();
        if let (Some(session), Some(Decision::Route { placement, .. })) = (session, decision)
            && (placement.outcome, placement.reason) == (Outcome::Hit, Reason::Pin)
            && let Some(node) =
                request.snapshot.as_ref().and_then(|view| placement.nodes(view).next().map(|node| &node.name))
        {
            let key = SessionKey::new(self.proxy.pools[0].config.name.as_str(), session.as_bytes());
            if self.learned.contradicts(key, node) {
                shared.outdated.push((key, node.clone()));
            }
        }
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
        self.learned.asked(&request);
        let asked =
            ResolveRequest::parse(&request.body).ok().filter(|_| shared.mutant == Some(Mutant::StaleAnswer));
        let token = shared.send(request, timeout, states.as_ref());
        self.calls.insert(token, owner);
        if let Some(asked) = asked {
            self.asked.insert(token, asked.sessions.iter().map(|ask| ask.key).collect());
        }
        token
    }
}
