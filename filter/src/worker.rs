//! What the root and the streams of one VM share: the proxy, what connects it with the other VMs, and the requests that
//! wait.
//!
//! It carries out what the proxy says: applies decisions to released requests, makes calls, publishes what all VMs of this
//! Envoy are to know. It decides nothing.

mod attributes;
mod failures;
mod feeds;
mod issuers;
mod link;
mod members;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use berth_core::affinity::{Affinity, Event, Release};
use berth_core::call::{CallFailure, Caller};
use berth_core::config::{Config, HashKey, StateCluster};
use berth_core::decision::Decision;
use berth_core::event::{BYPASSED_FORGED_STAT, BYPASSED_STAT, Counter, RuleResult};
use berth_core::feed::Feed;
use berth_core::guard::Half;
use berth_core::pending::Waited;
use berth_core::proxy::{Pool, Progress, Proxy, Request, TOKEN_RESULTS};
use berth_core::time::Millis;
use berth_core::wire::ApiRequest;

use crate::effects::{self, Effects};
use crate::host;
use crate::metrics::{Metrics, rule_metrics, token_metrics};

use attributes::Here;
use issuers::IssuerLink;
pub(crate) use link::Link;

/// The time between ticks while requests wait: what is queued goes out, and what is overdue goes on, with the next one.
const FAST_TICK: Millis = Millis(10);

/// One configuration at work in one VM.
pub(crate) struct Worker {
    pub(crate) proxy: RefCell<Proxy>,
    /// The root that makes all calls.
    root: u32,
    /// A call on its way from a stream to the root.
    handover: RefCell<Option<Handover>>,
    pub(crate) effects: Effects,
    pub(crate) links: Vec<Link>,
    /// Of each token provider whose issuer publishes keys.
    issuers: Vec<Option<IssuerLink>>,
    rule_metrics: Vec<Metrics<{ RuleResult::ALL.len() }>>,
    token_metrics: Vec<Metrics<TOKEN_RESULTS>>,
    bypassed_metrics: Metrics<2>,
    state: Option<Rc<StateCluster>>,
    /// What is paused, by its stream.
    waiting: RefCell<BTreeMap<u32, Paused>>,
    /// Ticks are short, because requests wait or the worker has just begun.
    ticks_fast: Cell<bool>,
    /// It has had a request.
    has_served: Cell<bool>,
}

/// A call that a stream has the root make.
enum Handover {
    Wanted(ApiRequest, Millis),
    Made(Result<u32, CallFailure>),
}

/// A stream is paused once at a time.
enum Paused {
    /// Its request, which is yet to be decided.
    Request(Rc<RefCell<Request>>),
    /// Its response.
    Response,
}

/// The request that is being decided, or the response that begins, in whose callback this is.
enum Own<'r> {
    Request(u32, &'r mut Request),
    /// With whether it waits.
    Response(u32, &'r mut bool),
}

thread_local! {
    /// The configurations of this VM, in order. On a reload the new root shares it with the old one.
    static WORKERS: RefCell<Vec<Weak<Worker>>> = const { RefCell::new(Vec::new()) };
}

impl Worker {
    pub(crate) fn new(config: Config, root: u32) -> Self {
        let state = config.state.clone().map(Rc::new);
        let effects = Effects::new(config.debug_header);
        let links = config.pools.iter().map(|pool| Link::new(pool, state.as_deref())).collect();
        let proxy = Proxy::new(config, random, host::now());
        let issuers = proxy.tokens.iter().map(|provider| IssuerLink::of(&provider.config));
        Self {
            root,
            handover: RefCell::default(),
            effects,
            links,
            issuers: issuers.collect(),
            rule_metrics: proxy.rules.iter().map(rule_metrics).collect(),
            token_metrics: proxy.tokens.iter().map(token_metrics).collect(),
            bypassed_metrics: Metrics::define(
                [BYPASSED_STAT, BYPASSED_FORGED_STAT].map(str::to_owned).into_iter(),
            ),
            state,
            waiting: RefCell::default(),
            ticks_fast: Cell::new(true),
            has_served: Cell::new(false),
            proxy: RefCell::new(proxy),
        }
    }

    /// Takes over what the previous configuration knew of sessions: the latest that has served, since one that Envoy did not
    /// take in the end knows no more than it took over itself.
    pub(crate) fn succeed(self: &Rc<Self>) {
        WORKERS.with_borrow_mut(|workers| {
            let alive: Vec<Rc<Self>> = workers.iter().filter_map(Weak::upgrade).collect();
            let former = alive.iter().rfind(|worker| worker.has_served.get()).or(alive.last());
            if let Some(former) = former {
                self.proxy.borrow_mut().succeed(&former.proxy.borrow());
            }
            *workers = alive.iter().chain([self]).map(Rc::downgrade).collect();
        });
    }

    /// Decides the request of this stream, whose callback this is. `Err` if it has to be paused: it then finds itself there.
    pub(crate) fn decide(&self, stream: u32) -> Result<Request, Rc<RefCell<Request>>> {
        self.has_served.set(true);
        let (mut request, progress) = self.proxy.borrow_mut().handle_request(stream, None, &Here(self));
        self.guard_request(&request);
        match progress {
            Progress::Decided => self.apply(&request),
            Progress::Pending => {}
            Progress::Waiting => {
                if let Some(pool) = self.pool_of(&request) {
                    let own = Some(Own::Request(stream, &mut request));
                    self.drain(pool, Caller::Stream(stream), stream, own, host::now());
                }
            }
        }
        if request.decision.is_some() {
            return Ok(request);
        }
        let cell = Rc::new(RefCell::new(request));
        self.pause(stream, Paused::Request(Rc::clone(&cell)));
        Err(cell)
    }

    /// Has the requests decided again that need not, or may not, wait any longer for keys, members or the check of their token.
    pub(crate) fn take_ready(&self, root: u32, now: Millis) {
        let ready = self.proxy.borrow_mut().take_ready(
            now,
            |provider| self.issuer(provider).is_none_or(IssuerLink::has_settled),
            |provider| self.issuer(provider).map_or(Millis(0), IssuerLink::patience),
        );
        let mut is_elsewhere = !ready.is_empty();
        for (stream, waited) in ready {
            self.decide_again(stream, waited, root, now);
        }
        // Each check takes time, and how much is left for the next one is to be known.
        while self.proxy.borrow().has_checks() {
            let now = host::now();
            let Some((stream, waited)) = self.proxy.borrow_mut().poll_check(now) else { break };
            self.decide_again(stream, waited, root, now);
            is_elsewhere = true;
        }
        if is_elsewhere {
            host::act_as(root);
        }
    }

    /// The SDK answers a call to the context whose callback this is: the root's.
    fn decide_again(&self, stream: u32, waited: Waited, root: u32, now: Millis) {
        let paused = self.waiting.borrow_mut().remove(&stream).filter(|_| host::act_as(stream));
        let Some(Paused::Request(cell)) = paused else { return };
        let decided = self.proxy.borrow_mut().handle_request(stream, Some(waited), &Here(self));
        let (request, progress) = decided;
        cell.replace(request);
        if progress == Progress::Decided {
            self.release(&cell.borrow());
            return;
        }
        let pool = self.pool_of(&cell.borrow());
        self.waiting.borrow_mut().insert(stream, Paused::Request(cell));
        if let Some(pool) = pool.filter(|_| progress == Progress::Waiting) {
            host::act_as(root);
            self.drain(pool, Caller::Root, root, None, now);
        }
    }

    /// A call to the state service came to its end; this is the root's callback. False if it was none of these.
    pub(crate) fn handle_reply(
        &self,
        pool: usize,
        token: u32,
        body: Result<&[u8], &CallFailure>,
        root: u32,
    ) -> bool {
        let now = host::now();
        let reply = self.feed(pool).and_then(|mut feed| feed.handle_reply(token, body.ok(), now));
        if let Some(reply) = reply {
            self.take_feed_reply(pool, reply, now);
            return true;
        }
        let is_its = self.engine(pool).is_some_and(|mut engine| engine.handle_reply(token, body, now));
        if is_its {
            self.drain(pool, Caller::Root, root, None, now);
        }
        is_its
    }

    /// The response of a request begins; this is its stream's callback. True if it is to be held.
    pub(crate) fn begin_response(&self, stream: u32, request: &mut Request) -> bool {
        let ends = self.take_end(request);
        self.guard_response(request);
        let Some(pool) = self.pool_of(request) else { return false };
        if ends {
            self.proxy.borrow_mut().handle_end(request, host::now());
        }
        let shows_node = self.effects.shows_debug_header;
        let response = self.proxy.borrow_mut().handle_response(stream, request, shows_node, &Here(self));
        self.note_verdicts(pool, &response.verdicts);
        self.effects.complete(request, &response);
        let mut waits = response.waits;
        if waits {
            let own = Some(Own::Response(stream, &mut waits));
            self.drain(pool, Caller::Stream(stream), stream, own, host::now());
        }
        if waits {
            self.pause(stream, Paused::Response);
        }
        waits
    }

    /// A request ended.
    pub(crate) fn handle_gone(&self, stream: u32, request: &mut Request) {
        self.waiting.borrow_mut().remove(&stream);
        self.proxy.borrow_mut().handle_gone(stream, request);
    }

    /// Lets a pool's sessions follow the time.
    pub(crate) fn tick_engine(&self, pool: usize, root: u32, now: Millis) {
        if self.engine(pool).map(|mut engine| engine.handle_tick(now)).is_none() {
            return;
        }
        self.drain(pool, Caller::Root, root, None, now);
        let shown = self.engine(pool).map(|engine| (engine.pins(), engine.is_breaker_open()));
        if let (Some((pins, is_open)), Some(link)) = (shown, self.links.get(pool)) {
            link.metrics.show_pins(pins, is_open);
        }
    }

    /// Does what a pool's engine has to be done: releases and calls. `context` is whose callback this is, `caller` its kind,
    /// and `own` what is being decided in it.
    fn drain(&self, pool: usize, caller: Caller, context: u32, mut own: Option<Own<'_>>, now: Millis) {
        let mut is_elsewhere = false;
        loop {
            let release = self.engine(pool).and_then(|mut engine| engine.poll_release(now));
            if let Some(Release { stream, decision }) = release {
                let is_delivered = match (&mut own, decision) {
                    (Some(Own::Request(owner, request)), Some(decision)) if *owner == stream => {
                        is_elsewhere &= !host::act_as(context);
                        self.proxy.borrow_mut().settle(request, decision);
                        self.apply(request);
                        true
                    }
                    (Some(Own::Response(owner, waits)), None) if *owner == stream => {
                        **waits = false;
                        true
                    }
                    (_, decision) => {
                        let paused = self.waiting.borrow_mut().remove(&stream);
                        let paused = paused.filter(|_| host::act_as(stream));
                        is_elsewhere |= paused.is_some();
                        match (&paused, decision) {
                            (Some(Paused::Request(cell)), Some(decision)) => {
                                self.proxy.borrow_mut().settle(&mut cell.borrow_mut(), decision);
                                self.release(&cell.borrow());
                            }
                            (Some(Paused::Response), None) => host::resume_response(),
                            _ => {}
                        }
                        paused.is_some()
                    }
                };
                if let Some(mut engine) = self.engine(pool) {
                    engine.released(is_delivered);
                }
                continue;
            }
            if std::mem::take(&mut is_elsewhere) {
                host::act_as(context);
            }
            let call = self.engine(pool).and_then(|mut engine| engine.poll_call(caller, now));
            let (Some(call), Some(state)) = (call, &self.state) else { break };
            let made = match caller {
                Caller::Root => host::call(state, &call.request, call.timeout),
                Caller::Stream(stream) => self.have_root_call(stream, call.request, call.timeout),
            };
            let Some(mut engine) = self.engine(pool) else { break };
            match made {
                Ok(token) => engine.call_started(call.id, token, Caller::Root, now),
                Err(failure) => engine.call_refused(call.id, &failure, now),
            }
        }
        self.log_events(pool);
    }

    /// Makes a call in a stream's callback as if it were the root's. Envoy cancels a stream's calls with it and says nothing, and
    /// the SDK would keep each of their tokens, and trap when one is used again.
    fn have_root_call(&self, stream: u32, request: ApiRequest, timeout: Millis) -> Result<u32, CallFailure> {
        self.handover.replace(Some(Handover::Wanted(request, timeout)));
        if host::act_as(self.root) {
            host::enter(self.root);
            host::act_as(stream);
        }
        match self.handover.take() {
            Some(Handover::Made(made)) => made,
            Some(Handover::Wanted(..)) | None => Err(CallFailure::new("the root is gone")),
        }
    }

    /// The root's part of it.
    pub(crate) fn make_call(&self) {
        let wanted = self.handover.take();
        if let (Some(Handover::Wanted(request, timeout)), Some(state)) = (wanted, &self.state) {
            let made = host::call(state, &request, timeout);
            self.handover.replace(Some(Handover::Made(made)));
        }
    }

    /// Does to a request that was paused what was decided, in its context.
    fn release(&self, request: &Request) {
        self.apply(request);
        if request.decision.as_ref().is_some_and(Decision::goes_on) {
            host::resume_request();
        }
    }

    fn apply(&self, request: &Request) {
        let hash_key = self.pool_of(request).and_then(|pool| Some(self.links.get(pool)?.hash_key));
        self.effects.apply(request, hash_key.unwrap_or(HashKey::Unplaced));
    }

    fn pause(&self, stream: u32, paused: Paused) {
        self.waiting.borrow_mut().insert(stream, paused);
        if !self.ticks_fast.replace(true) {
            host::set_tick_period(FAST_TICK);
        }
    }

    /// No request waits. True if ticks were short until now.
    pub(crate) fn stop_fast_ticks(&self) -> bool {
        self.ticks_fast.take()
    }

    fn log_events(&self, pool: usize) {
        let (Some(name), Some(state)) = (self.pool_name(pool), &self.state) else { return };
        let next = || self.engine(pool).and_then(|mut engine| engine.poll_event());
        while let Some(event) = next() {
            let cluster = &state.cluster;
            match event {
                Event::StateAway(detail) => log::warn!(
                    "berth: pool {name}: calls to the state cluster {cluster} fail, the ring decides: {detail}"
                ),
                Event::StateBack => {
                    log::info!("berth: pool {name}: the state cluster {cluster} answers again");
                }
                Event::Unnameable(node) => log::warn!(
                    "berth: pool {name}: no pin can name {node}: only the ring sends sessions there"
                ),
                Event::TwoStores(one, other) => log::error!(
                    "berth: pool {name}: the services behind {cluster} keep pins in two stores, {} and {}: sessions are split \
                     between them. Let all use one Redis database (a service without --redis has a store of its own)",
                    one.as_str(),
                    other.as_str()
                ),
            }
        }
    }

    /// Hands everything that was counted to Envoy.
    pub(crate) fn flush(&self, now: Millis) {
        let proxy = self.proxy.borrow();
        for (pool, link) in proxy.pools.iter().zip(&self.links) {
            link.metrics.counters.add(pool.take_counts());
        }
        for (rule, metrics) in proxy.rules.iter().zip(&self.rule_metrics) {
            metrics.add(rule.take_counts());
        }
        for (provider, metrics) in proxy.tokens.iter().zip(&self.token_metrics) {
            metrics.add(provider.take_counts());
            if let Some(complaint) = provider.take_complaint(now) {
                log::warn!("berth: provider {}: {complaint}", provider.config.name);
            }
        }
        for issuer in self.issuers.iter().flatten() {
            issuer.flush();
        }
        self.bypassed_metrics.add(proxy.take_bypassed());
    }

    /// Removes forged headers from a request that is seen for the first time.
    fn guard_request(&self, request: &Request) {
        let is_destination_set = match &request.decision {
            Some(Decision::Reply(_)) => return,
            Some(Decision::Route { .. } | Decision::Fallback { .. }) => true,
            Some(Decision::Pass { .. } | Decision::Bypass) | None => false,
        };
        let guarding = self.proxy.borrow().guarding(request, Half::Request);
        if effects::guard_request(guarding, is_destination_set) {
            self.note_forged(
                request,
                "a client's x-berth-… request header: have early_header_mutation remove it",
            );
        }
    }

    /// Removes forged headers from a response.
    fn guard_response(&self, request: &Request) {
        // Its debug header is Berth's own.
        if matches!(request.decision, Some(Decision::Reply(_))) {
            return;
        }
        let guarding = self.proxy.borrow().guarding(request, Half::Response);
        let is_shown = self.effects.shows_debug_header && effects::is_shown(request);
        if effects::guard_response(guarding, is_shown) {
            self.note_forged(request, "a backend's x-berth: have response_headers_to_remove name it");
        }
    }

    fn note_forged(&self, request: &Request, what: &str) {
        let is_first = self.proxy.borrow().note_forged(request);
        if is_first {
            let pool = self.pool_of(request).and_then(|pool| self.pool_name(pool));
            let pool =
                pool.map_or_else(|| "requests that no pool takes".to_owned(), |pool| format!("pool {pool}"));
            log::warn!(
                "berth: {pool}: guard is listener, but the listener let through {what}. This worker removes them itself from now on"
            );
        }
    }

    /// True if the node ends the session of this request with its response. The header is taken away.
    fn take_end(&self, request: &Request) -> bool {
        request.is_tracked()
            && self.pool_of(request).and_then(|pool| self.links.get(pool)).is_some_and(|link| link.reads_ends)
            && effects::take_end()
    }

    pub(crate) fn pool_of(&self, request: &Request) -> Option<usize> {
        self.proxy.borrow().pool_of(request)
    }

    pub(crate) fn pool_name(&self, pool: usize) -> Option<String> {
        self.pool(pool).map(|pool| pool.config.name.clone())
    }

    pub(crate) fn count(&self, pool: usize, counter: Counter) {
        if let Some(pool) = self.pool(pool) {
            pool.count(counter);
        }
    }

    /// A pool. It must not be held across a call to Envoy.
    #[inline(never)]
    pub(crate) fn pool(&self, pool: usize) -> Option<RefMut<'_, Pool>> {
        RefMut::filter_map(self.proxy.borrow_mut(), |proxy| proxy.pools.get_mut(pool)).ok()
    }

    /// The sessions of a pool. They must not be held across a call to Envoy.
    fn engine(&self, pool: usize) -> Option<RefMut<'_, Affinity>> {
        RefMut::filter_map(self.pool(pool)?, |pool| pool.engine.as_mut()).ok()
    }

    fn feed(&self, pool: usize) -> Option<RefMut<'_, Feed>> {
        RefMut::filter_map(self.pool(pool)?, |pool| pool.feed.as_mut()).ok()
    }
}

fn random() -> u64 {
    host::random().map_or(0, |bytes| u128::from_le_bytes(bytes) as u64)
}
