//! A request's whole way: rule, token, session, pool, decision.
//!
//! Like [`crate::affinity`], a state machine without I/O, and one per worker. The adapter hands in what happened and takes
//! what is to be done. What a request says of itself is read through [`Attributes`], and only as far as a rule asks for it.
//!
//! 1. [`Proxy::handle_request`] decides a request, or says what it waits for: see [`Progress`].
//! 2. A request that waits in the pending queue is handed in again when [`Proxy::take_ready`] names it. One that waits for
//!    the state service is decided by a release of its pool's [`Affinity`](crate::affinity::Affinity).
//! 3. [`Proxy::settle`] takes note of the decision before the adapter applies it.
//! 4. [`Proxy::handle_response`] learns from how the response begins, and may have it wait for a release too; [`Proxy::handle_gone`] ends the request.

mod checks;
mod identify;
mod issuing;
mod known;
mod pool;
mod refused;
mod renewals;
mod response;
mod rules;
mod tokens;

use std::rc::Rc;

use crate::affinity::{self, Admission, AffinityConfig, START, Terms};
use crate::attributes::Attributes;
use crate::config::{Affinity, Config, Missing, StateCluster};
use crate::counters::Counters;
use crate::decision::{Decision, PoolPolicy};
use crate::event::{Counter, Outcome, Reason, Unplaced};
use crate::guard::{Guard, Guarding, Half};
use crate::pending::{Entry, Need, Pending, Waited};
use crate::pins::InUseHandle;
use crate::placement::Placement;
use crate::rollout::Mode;
use crate::session::{Awaited, History, SessionId, Token};
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::token::{Policy, Refusal};

pub use pool::Pool;
pub use response::{Response, Verdict};
pub use rules::Rule;
pub use tokens::{Provider, TOKEN_RESULTS, Tokens, token_results};

use checks::Checks;
use tokens::Memo;

/// One configuration at work in one worker.
#[derive(Debug)]
pub struct Proxy {
    /// The configured pools.
    pub pools: Vec<Pool>,
    /// The configured rules: the first that takes a request decides.
    pub rules: Vec<Rule>,
    /// The configured token providers.
    pub tokens: Tokens,
    /// Keeps forged headers away from requests that no rule takes.
    pub bypass_guard: Guard,
    pending: Pending,
    /// Some rule does more than observe.
    enforces: bool,
    /// Requests that no rule took, and forged headers among them.
    bypassed: Counters<2>,
    /// The time of the latest tick: exact enough for a hit, and free.
    tick: Millis,
}

/// A request from its headers to its end.
#[derive(Debug, Default)]
pub struct Request {
    /// The index of the rule that took it.
    pub rule: Option<usize>,
    /// Its session.
    pub session: Option<SessionId>,
    /// The `set-cookie` value that its response is to carry: of the session that begins with it, or of one whose cookie is renewed.
    pub cookie: Option<Vec<u8>>,
    /// Its session begins with it, by an id that Berth made.
    pub is_issued: bool,
    /// What is to happen to it, once that is known.
    pub decision: Option<Decision>,
    /// What its placement speaks of.
    pub snapshot: Option<Rc<Snapshot>>,
    /// Which of the nodes of its placement answered.
    answered: Option<usize>,
    /// While the request lasts its session is in use.
    handle: Option<InUseHandle>,
    /// So is the one that its response began.
    minted: Option<InUseHandle>,
    /// It is in the pending queue.
    is_pending: bool,
    is_counted: bool,
    /// It came with the cookie that its rule issues.
    has_issued_cookie: bool,
}

impl Request {
    /// True if its session has a pin that follows it.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.handle.is_some()
    }
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its decision is there.
    Decided,
    /// It is in the pending queue.
    Pending,
    /// It waits for a release of its pool's engine, which may be there already.
    Waiting,
}

impl Proxy {
    /// A proxy that knows no members yet. `seed` is asked once for each pool with a state service and once more, and must be random.
    #[must_use]
    pub fn new(config: Config, mut seed: impl FnMut() -> u64, now: Millis) -> Self {
        let state = config.state.map(Rc::new);
        let rules: Vec<Rule> = config.rules.into_iter().map(Rule::new).collect();
        let max_calls = state.as_ref().map_or(0, |state| state.max_calls.div_ceil(config.pools.len().max(1)));
        let shortest_ttl = |index: usize| {
            let rules = rules.iter().filter(|rule| rule.config.pool == index);
            rules.filter_map(|rule| rule.config.session.ttl).min()
        };
        let engine_config = |index: usize, pool: &crate::config::Pool, state: &Rc<StateCluster>| {
            Some(AffinityConfig {
                // A name that the state service could not know has no pins.
                pool: pool.name.parse().ok()?,
                state: Rc::clone(state),
                policy: PoolPolicy::of(pool),
                max_calls,
                shortest_ttl: shortest_ttl(index),
            })
        };
        let guard = config.guard;
        let pools = config.pools.into_iter().enumerate().map(|(index, pool)| {
            let config = state.as_ref().and_then(|state| engine_config(index, &pool, state));
            let engine = config.map(|config| affinity::Affinity::new(config, seed()));
            Pool::new(pool, engine, state.is_some(), guard)
        });
        Self {
            pools: pools.collect(),
            tokens: Tokens::new(config.jwt_providers, config.wanted, Checks::new(seed(), now)),
            enforces: rules.iter().any(Rule::enforces),
            rules,
            bypass_guard: Guard::new(guard),
            pending: Pending::default(),
            bypassed: Counters::default(),
            tick: now,
        }
    }

    /// Takes over what a former configuration knew of sessions and tokens: a reload is no reason to ask about all of them, or
    /// to verify all of them again.
    pub fn succeed(&mut self, former: &Self) {
        for pool in &mut self.pools {
            if let Some(former) = former.pools.iter().find(|former| former.config.name == pool.config.name) {
                pool.succeed(former);
            }
        }
        self.tokens.succeed(&former.tokens);
        self.pending.succeed(&former.pending, |index| {
            // Members from elsewhere may come at once.
            let former = &former.pools.get(index)?.config;
            let is_same = |pool: &Pool| {
                (&pool.config.name, &pool.config.membership) == (&former.name, &former.membership)
            };
            self.pools.iter().position(is_same)
        });
    }

    /// Time passed. To be called first on each tick.
    pub fn handle_tick(&mut self, now: Millis) {
        self.tick = now;
    }

    /// Decides a request whose headers are at hand, for the first time or again after a stay in the pending queue.
    pub fn handle_request(
        &mut self,
        stream: u32,
        waited: Option<Waited>,
        attributes: &dyn Attributes,
    ) -> (Request, Progress) {
        let mut request = Request::default();
        let progress = self.begin(&mut request, stream, waited, attributes);
        (request, progress)
    }

    fn begin(
        &mut self,
        request: &mut Request,
        stream: u32,
        waited: Option<Waited>,
        attributes: &dyn Attributes,
    ) -> Progress {
        let mut memo = Memo::new(waited);
        request.rule = rules::find(&self.rules, &self.tokens, &mut memo, attributes, self.tick);
        // Which rule takes it may depend on a token that cannot be verified yet. If all rules only observe, no request is
        // held up.
        let waiter = Waiter { stream, waited, attributes };
        if self.wait_for_token(request, &mut memo, &waiter, self.enforces) {
            return Progress::Pending;
        }
        if memo.unchecked().next().is_some() {
            request.rule = rules::find(&self.rules, &self.tokens, &mut memo, attributes, self.tick);
        }
        let Some(index) = request.rule else {
            self.bypassed.add(0, 1);
            request.decision = Some(Decision::Bypass);
            return Progress::Decided;
        };
        match self.place(request, index, &mut memo, &waiter) {
            Ok(decision) => {
                self.settle(request, decision);
                Progress::Decided
            }
            Err(progress) => progress,
        }
    }

    /// The decision of a request with a rule, or what it waits for.
    fn place(
        &mut self,
        request: &mut Request,
        index: usize,
        memo: &mut Memo,
        waiter: &Waiter<'_>,
    ) -> Result<Decision, Progress> {
        let Some(rule) = self.rules.get(index) else { return Ok(Decision::Bypass) };
        let config = Rc::clone(&rule.config);
        if config.affinity == Affinity::Off {
            return Ok(Decision::pass(Reason::AffinityOff));
        }
        if config.rollout.is_off() {
            return Ok(Decision::pass(Reason::NotRolledOut));
        }
        let is_wanted =
            |provider: &usize| config.matches.claims.iter().any(|claim| claim.provider == *provider);
        if let Some(provider) = memo.unchecked().find(is_wanted) {
            let is_certain = config.rollout.mode == Mode::Enforce && !config.rollout.is_partial();
            return Ok(match is_certain {
                true => self.put_off(&config, provider),
                false => Decision::pass(Reason::TokenUnchecked),
            });
        }
        let (id, history) = match self.identify(request, &config, memo, waiter) {
            Ok(found) => found,
            Err(Some(decision)) => return Ok(decision),
            Err(None) => return Err(Progress::Pending),
        };
        let (mode, attributes) = (config.rollout.mode_for(&id), waiter.attributes);
        if request.has_issued_cookie && mode == Mode::Enforce {
            request.cookie = self.renewed(index, &id);
        }
        let id = request.session.insert(id);
        let Some(pool) = self.pools.get_mut(config.pool) else { return Ok(Decision::Bypass) };
        match mode {
            Mode::Enforce => {}
            Mode::Observe => return Ok(pool.observe(id, self.tick)),
            Mode::Off => return Ok(Decision::pass(Reason::NotRolledOut)),
        }
        let history = history.unwrap_or_default();
        let provider = history.provider;
        // It would have no end: most likely its time is not in seconds.
        let is_ahead =
            history.created.is_some_and(|created| created > attributes.now() + Policy::DEFAULT_LEEWAY);
        if config.session.max_age.is_some() && (history.is_undated || is_ahead) {
            let (reason, refusal) = (Reason::TokenRefused, Refusal::ClaimType);
            return Ok(self.refuse_verified(provider, reason, refusal, memo, waiter));
        }
        let terms = Terms { is_issued: request.is_issued, ..terms(&config, history) };
        if terms.ends.is_some_and(|ends| ends <= self.tick) {
            let (reason, refusal) = (Reason::SessionOver, Refusal::Expired);
            return Ok(self.refuse_verified(provider, reason, refusal, memo, waiter));
        }
        let Some(snapshot) = pool.snapshot() else {
            if pool.engine.is_some() {
                let now = attributes.now();
                let waited = waiter.waited.unwrap_or_default();
                let need = Need::Snapshot(config.pool);
                if self.pending.enter(waiter.stream, waited, need, now) == Entry::Waits {
                    if let Some(engine) = &mut pool.engine {
                        engine.handle_start(now);
                    }
                    request.is_pending = true;
                    return Err(Progress::Pending);
                }
            }
            return Ok(pool.unseen(&terms));
        };
        if snapshot.unsupported {
            return Ok(pool.unplaced(&terms, Unplaced::UnsupportedCluster, Reason::UnsupportedCluster));
        }
        let Some(engine) = &mut pool.engine else {
            let placement = Placement::of(&snapshot, id.hash());
            return Ok(PoolPolicy::of(&pool.config).decide(placement, None));
        };
        let asked = affinity::Request {
            stream: waiter.stream,
            id,
            terms: &terms,
            has_waited: waiter.waited.is_some(),
        };
        let (admission, handle) = engine.handle_request(&asked, self.tick, attributes);
        request.handle = Some(handle);
        match admission {
            Admission::Decided(decision) => Ok(decision),
            Admission::Wait => Err(Progress::Waiting),
        }
    }

    /// The cookie of a session in use, if it is to be set again.
    fn renewed(&self, rule: usize, id: &SessionId) -> Option<Vec<u8>> {
        let rule = self.rules.get(rule)?;
        rule.renewals.as_ref().filter(|renewals| renewals.is_due(id.hash(), self.tick))?;
        match &rule.config.session.missing {
            Missing::IssueCookie(template) => template.set_cookie(id),
            Missing::Pass | Missing::Reject => None,
        }
    }

    /// The response that begins sets the session's cookie.
    fn note_cookie(&mut self, request: &Request) {
        if let (Some(_), Some(id)) = (&request.cookie, &request.session)
            && let Some(rule) = request.rule.and_then(|rule| self.rules.get_mut(rule))
            && let Some(renewals) = &mut rule.renewals
        {
            renewals.note(id.hash(), self.tick);
        }
    }

    /// Takes note of what is to happen to a request: counts it, and keeps what its response will be compared with.
    pub fn settle(&mut self, request: &mut Request, decision: Decision) {
        let Some((rule, pool)) = self.rule_and_pool(request.rule) else { return };
        if let Some(result) = decision.rule_result() {
            rule.count(result);
        }
        pool.count_decision(&decision);
        if matches!(decision, Decision::Route { .. }) {
            request.snapshot = pool.snapshot();
        }
        if !decision.goes_on() {
            request.cookie = None;
        }
        request.decision = Some(decision);
    }

    /// A request ended.
    pub fn handle_gone(&mut self, stream: u32, request: &mut Request) {
        // No response has begun: the node may not have seen the request.
        if !request.is_counted {
            self.note_notice(request, None);
        }
        self.count_outcome(request);
        if request.is_pending {
            self.pending.leave(stream);
            self.tokens.checks.get_mut().leave(stream);
        }
        let handles = [request.handle.take(), request.minted.take()];
        if let Some(engine) = self.engine_of(request) {
            for handle in handles.into_iter().flatten() {
                engine.handle_gone(stream, handle);
            }
        }
    }

    /// The backend ended the request's session.
    pub fn handle_end(&mut self, request: &mut Request, now: Millis) {
        request.cookie = None;
        if let Some(id) = &request.session
            && let Some(engine) = self.engine_of(request)
        {
            engine.handle_end(id, now);
        }
    }

    /// The requests of the pending queue that are to be handed in again, with what they have waited for.
    pub fn take_ready(
        &mut self,
        now: Millis,
        keys_settled: impl Fn(usize) -> bool,
        keys_timeout: impl Fn(usize) -> Millis,
    ) -> Vec<(u32, Waited)> {
        let pools = &self.pools;
        let is_met = |need| match need {
            Need::Snapshot(pool) => pools.get(pool).is_some_and(|pool: &Pool| pool.snapshot().is_some()),
            Need::Keys(provider) => keys_settled(provider),
        };
        let timeout = |need| match need {
            Need::Snapshot(_) => START,
            Need::Keys(provider) => keys_timeout(provider),
        };
        self.pending.take_ready(now, is_met, timeout)
    }

    /// The next request whose token is to be checked now, or waits for that no longer: it is to be handed in again. Each check changes
    /// what may be checked next, so ask again after each, with the time that it is then.
    pub fn poll_check(&mut self, now: Millis) -> Option<(u32, Waited)> {
        self.tokens.checks.get_mut().poll(now)
    }

    /// True if tokens wait to be checked.
    #[must_use]
    pub fn has_checks(&self) -> bool {
        !self.tokens.checks.borrow().is_empty()
    }

    /// True if requests wait, for what the worker has to learn or for the state service.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        let waits = |pool: &Pool| pool.engine.as_ref().is_some_and(affinity::Affinity::has_waiters);
        !self.pending.is_empty() || self.has_checks() || self.pools.iter().any(waits)
    }

    /// How many requests no rule took since this was last asked, and how many of those had forged headers.
    pub fn take_bypassed(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.bypassed.take()
    }

    /// What is to be done about headers of Berth's own in the request or response at hand. A request that waits is no hit.
    #[must_use]
    pub fn guarding(&self, request: &Request, half: Half) -> Guarding {
        let is_hit = match (&request.decision, half) {
            (Some(Decision::Route { .. }), Half::Request) => true,
            (Some(Decision::Route { placement, .. }), Half::Response) => {
                matches!(placement.outcome, Outcome::Hit | Outcome::Ring)
            }
            _ => false,
        };
        self.guard_of(request).guarding(half, is_hit)
    }

    /// A check found a forged header: counts it. True if it is to be logged.
    pub fn note_forged(&self, request: &Request) -> bool {
        match self.rule_and_pool(request.rule) {
            Some((_, pool)) => pool.count(Counter::Forged),
            None => self.bypassed.add(1, 1),
        }
        self.guard_of(request).note_forged()
    }

    fn guard_of(&self, request: &Request) -> &Guard {
        self.rule_and_pool(request.rule).map_or(&self.bypass_guard, |(_, pool)| &pool.guard)
    }

    fn rule_and_pool(&self, index: Option<usize>) -> Option<(&Rule, &Pool)> {
        let rule = self.rules.get(index?)?;
        Some((rule, self.pools.get(rule.config.pool)?))
    }

    /// The pool of a request with a rule.
    #[must_use]
    pub fn pool_of(&self, request: &Request) -> Option<usize> {
        Some(self.rules.get(request.rule?)?.config.pool)
    }

    fn engine_of(&mut self, request: &Request) -> Option<&mut affinity::Affinity> {
        let pool = self.pool_of(request)?;
        self.pools.get_mut(pool)?.engine.as_mut()
    }

    /// Has a request wait for what its token lacks: keys that are on their way, or its turn to be checked. True if it waits.
    fn wait_for_token(
        &mut self,
        request: &mut Request,
        memo: &mut Memo,
        waiter: &Waiter<'_>,
        may_wait: bool,
    ) -> bool {
        while let Some((provider, awaited)) = memo.pending() {
            let Waiter { stream, attributes, .. } = *waiter;
            let waited = waiter.waited.unwrap_or_default();
            let since = attributes.now();
            let entry = match awaited {
                _ if !may_wait => Entry::Useless,
                Awaited::Keys => self.pending.enter(stream, waited, Need::Keys(provider), since),
                Awaited::Check => {
                    let source = checks::source(attributes);
                    let waiter = checks::Waiter { stream, provider, waited, since };
                    self.tokens.checks.get_mut().enter(source, waiter)
                }
            };
            let token = match (entry, awaited) {
                (Entry::Waits, _) => {
                    request.is_pending = true;
                    return true;
                }
                // What is not known by now counts as unknown.
                (Entry::Useless, Awaited::Keys) => Token::Refused(Refusal::UnknownKey),
                (Entry::Useless, Awaited::Check) | (Entry::Full, _) => Token::Unchecked,
            };
            self.tokens.give_up(memo, provider, &token);
        }
        false
    }

    /// Counts what became of a routed request, once it is known which node answered, or that none did.
    fn count_outcome(&self, request: &mut Request) {
        if let Some(Decision::Route { placement, .. }) = &request.decision
            && let Some((_, pool)) = self.rule_and_pool(request.rule)
            && !std::mem::replace(&mut request.is_counted, true)
        {
            pool.count_outcome(placement.outcome);
        }
    }
}

/// The request that is being decided.
struct Waiter<'w> {
    stream: u32,
    /// What it has waited for, if it was in the pending queue.
    waited: Option<Waited>,
    attributes: &'w dyn Attributes,
}

/// On what terms the rule wants this session placed.
fn terms(rule: &crate::config::Rule, history: History) -> Terms {
    Terms {
        is_strict: rule.affinity == Affinity::Strict,
        ends: rule.session.max_age.and_then(|age| Some(history.created? + age)),
        created: history.created,
        version: history.version,
        previous: history.previous,
        is_issued: false,
        session: Rc::clone(&rule.session),
    }
}
