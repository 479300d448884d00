//! One request's decision: identify the session, place it, name its node.
//!
//! Its stream decides it at once, or it waits for what this VM has yet to learn, and is then decided again from the
//! start, by the root. So whatever a decision reads must be there while the request is paused, and nothing may be
//! counted of one that is to wait.

use std::cell::RefCell;
use std::rc::Rc;

use berth_core::config::{Affinity, Missing, OnInvalid, Rule};
use berth_core::event::{Counter, Outcome, Reason, RuleResult, Unplaced};
use berth_core::pins::Seat;
use berth_core::placement::Placement;
use berth_core::rollout::Mode;
use berth_core::session::{self, Found, History, SessionId, Source};
use berth_core::snapshot::Snapshot;
use berth_core::token::{Policy, Refusal};

use crate::host;
use crate::pinned::{Home, Terms};
use crate::plugin::{LivePool, Plugin};
use crate::rules::{self, LiveRule};
use crate::tokens::Asked;
use crate::verdict::{Verdict, remove_our_headers};
use crate::waiting::Need;

/// How often an id is drawn so that its owner takes new sessions: with half of the nodes draining, one in 256 is not.
const DRAWS: usize = 8;

/// What was decided of a request, and what it keeps to its end.
#[derive(Default)]
pub(crate) struct Request {
    /// The rule's place in the configuration, once one took it.
    pub(crate) rule: Option<usize>,
    pub(crate) verdict: Verdict,
    /// The Set-Cookie value of a session that began with it.
    pub(crate) cookie: Option<Vec<u8>>,
    /// Which session it belongs to, where pins are kept.
    pub(crate) session: Option<SessionId>,
    /// The hash of its session, where there is one.
    pub(crate) session_hash: u64,
    /// As long as the request lasts its session is in use.
    pub(crate) seat: Option<Seat>,
    /// Its rule has counted it.
    is_counted: bool,
    /// Its pool has counted what became of it.
    is_outcome_counted: bool,
}

/// Where a request that waits to be decided again will find itself; `Verdict::None` until then.
pub(crate) type Ticket = Rc<RefCell<Request>>;

impl Request {
    /// Decides the request of the effective context, which is `home`'s.
    pub(crate) fn decide(plugin: &Plugin, home: Home) -> Self {
        let mut request = Self::default();
        let mut asked = Asked::default();
        request.rule = rules::find(plugin, &mut asked);
        // Which rule takes it may depend on a token that cannot be told yet. If all only look on, nobody is held up.
        if let Some(ticket) = request.await_keys(plugin, &mut asked, home, plugin.enforces) {
            request.verdict = Verdict::Parked(ticket);
            return request;
        }
        match request.rule.and_then(|rule| plugin.rule(rule)) {
            Some((rule, pool)) => request.place(plugin, rule, pool, &mut asked, home),
            None => {
                remove_our_headers();
                plugin.bypassed.set(plugin.bypassed.get() + 1);
                request.verdict = Verdict::Bypassed;
            }
        }
        request.catch_up();
        request.count(plugin);
        request
    }

    /// Waits for keys that are on their way, if there are such, and it may.
    fn await_keys(
        &self,
        plugin: &Plugin,
        asked: &mut Asked<'_>,
        home: Home,
        may_wait: bool,
    ) -> Option<Ticket> {
        while let Some(provider) = asked.pending() {
            let ticket = may_wait.then(|| plugin.wait(home, Need::Keys(provider))).flatten();
            if ticket.is_some() {
                return ticket;
            }
            asked.give_up(provider);
        }
        None
    }

    /// Counts what its rule made of it, once that is known.
    pub(crate) fn count(&mut self, plugin: &Plugin) {
        let Some((rule, _)) = self.rule.and_then(|rule| plugin.rule(rule)) else { return };
        let result = match &self.verdict {
            _ if self.is_counted => return,
            Verdict::None | Verdict::Bypassed | Verdict::Parked(_) | Verdict::Waiting(_) => return,
            // Who answers it decides which of the two it is.
            Verdict::Observed(_) | Verdict::Elsewhere(_, Reason::Observed) => return,
            Verdict::Elsewhere(_, Reason::AffinityOff) => RuleResult::AffinityOff,
            Verdict::Elsewhere(_, Reason::NotRolledOut) => RuleResult::NotRolledOut,
            Verdict::Elsewhere(Outcome::Sessionless, _) => RuleResult::Sessionless,
            Verdict::Elsewhere(..) | Verdict::Placed { .. } => RuleResult::Enforced,
            Verdict::Replied { withheld: true } => RuleResult::Withheld,
            Verdict::Replied { withheld: false } => RuleResult::Rejected,
        };
        rule.count(result);
        self.is_counted = true;
    }

    /// Counts what became of a placed request, once it is known which node answered, or that none did.
    pub(crate) fn count_outcome(&mut self, pool: &LivePool) {
        if let Verdict::Placed { placement, .. } = &self.verdict
            && !std::mem::replace(&mut self.is_outcome_counted, true)
        {
            pool.metrics.count(Counter::Requests(placement.outcome));
        }
    }

    /// Whoever let this request go on has left its verdict.
    pub(crate) fn catch_up(&mut self) {
        while let Verdict::Parked(ticket) = &self.verdict {
            let request = ticket.take();
            if matches!(request.verdict, Verdict::None) {
                return;
            }
            *self = request;
        }
        if let Verdict::Waiting(slot) = &self.verdict {
            let verdict = slot.take();
            if !matches!(verdict, Verdict::None) {
                self.verdict = verdict;
            }
        }
        if matches!(self.verdict, Verdict::Replied { .. }) {
            self.cookie = None;
        }
    }

    fn place(
        &mut self,
        plugin: &Plugin,
        rule: &LiveRule,
        pool: &LivePool,
        asked: &mut Asked<'_>,
        home: Home,
    ) {
        let Rule { affinity, rollout, session, .. } = &rule.config;
        if *affinity == Affinity::Off {
            self.verdict = Verdict::leave_alone(pool, Reason::AffinityOff);
            return;
        }
        if rollout.is_off() {
            self.verdict = Verdict::leave_alone(pool, Reason::NotRolledOut);
            return;
        }
        let Some((id, history)) = self.identify(plugin, rule, pool, asked, home) else { return };
        self.session_hash = id.hash();
        match rollout.mode_for(&id) {
            Mode::Enforce => {}
            Mode::Observe => {
                self.verdict = Verdict::observe(pool, &id, plugin.now.get());
                return;
            }
            Mode::Off => {
                self.verdict = Verdict::leave_alone(pool, Reason::NotRolledOut);
                return;
            }
        }
        let history = history.unwrap_or_default();
        // It would have no end: most likely not in seconds.
        let is_ahead = history.created.is_some_and(|created| created > host::now() + Policy::DEFAULT_LEEWAY);
        if session.max_age.is_some() && (history.is_undated || is_ahead) {
            let challenge = Refusal::ClaimType.challenge();
            self.verdict = Verdict::challenge(plugin, pool, Reason::TokenRefused, challenge);
            return;
        }
        let terms = terms(rule, history);
        if terms.ends.is_some_and(|ends| ends <= plugin.now.get()) {
            self.verdict =
                Verdict::challenge(plugin, pool, Reason::SessionOver, Refusal::Expired.challenge());
            return;
        }
        let snapshot = pool.snapshot();
        self.verdict = match (&snapshot, &pool.pinned) {
            (None, Some(_)) if let Some(ticket) = plugin.wait(home, Need::Snapshot(rule.config.pool)) => {
                Verdict::Parked(ticket)
            }
            (None, _) if terms.is_strict => Verdict::withhold(plugin, pool, Reason::NoSnapshot),
            (None, _) => Verdict::leave_to_envoy(pool, &id, Unplaced::NoSnapshot, Reason::NoSnapshot),
            (Some(snapshot), _) if snapshot.unsupported => {
                let reason = Reason::UnsupportedCluster;
                if terms.is_strict {
                    Verdict::withhold(plugin, pool, reason)
                } else {
                    Verdict::leave_to_envoy(pool, &id, Unplaced::UnsupportedCluster, reason)
                }
            }
            (Some(snapshot), Some(pinned)) => {
                let (verdict, seat) = pinned.borrow_mut().decide(plugin, pool, snapshot, &id, home, &terms);
                self.seat = Some(seat);
                self.session = Some(id);
                verdict
            }
            (Some(snapshot), None) => {
                let placement = Placement::of(snapshot, id.hash());
                Verdict::of(plugin, pool, &id, snapshot, placement)
            }
        };
    }

    /// The session of the request; without one, the verdict is there.
    fn identify(
        &mut self,
        plugin: &Plugin,
        rule: &LiveRule,
        pool: &LivePool,
        asked: &mut Asked<'_>,
        home: Home,
    ) -> Option<(SessionId, Option<History>)> {
        let Rule { session, rollout, .. } = &rule.config;
        let may_wait = rollout.mode == Mode::Enforce;
        let mut token = |provider| asked.token(plugin, provider);
        let mut found = session::find(&session.sources, &mut host::request_header, &mut token);
        if matches!(found, Found::Pending) {
            if let Some(ticket) = self.await_keys(plugin, asked, home, may_wait) {
                self.verdict = Verdict::Parked(ticket);
                return None;
            }
            let mut token = |provider| asked.token(plugin, provider);
            found = session::find(&session.sources, &mut host::request_header, &mut token);
        }
        self.verdict = match (found, &session.missing) {
            (Found::Session(id, history), _) => return Some((id, history)),
            // Who looks on begins no sessions and turns nobody away.
            _ if rollout.mode == Mode::Observe => Verdict::sessionless(pool),
            // Nor does anybody of whom it cannot be told whether Berth is switched on for him.
            (Found::Refused(..), _) | (_, Missing::Reject) if rollout.is_partial() => {
                Verdict::leave_alone(pool, Reason::NotRolledOut)
            }
            (Found::Refused(provider, refusal), _) => refuse(plugin, pool, provider, refusal),
            (_, Missing::IssueCookie(template)) => match draw(pool.snapshot().as_deref()) {
                Some(id) => {
                    self.cookie = template.set_cookie(&id);
                    return Some((id, None));
                }
                None => Verdict::sessionless(pool),
            },
            (_, Missing::Pass) => Verdict::sessionless(pool),
            (_, Missing::Reject) if session.sources.iter().all(Source::is_token) => {
                Verdict::challenge(plugin, pool, Reason::NoSession, "Bearer")
            }
            (_, Missing::Reject) => {
                let sources = session::describe(&session.sources);
                let body = format!("berth: this request names no session; send one as {sources}\n");
                Verdict::reject(plugin, pool, 400, Reason::NoSession, &body)
            }
        };
        None
    }
}

/// On what terms the rule wants this session placed.
fn terms(rule: &LiveRule, history: History) -> Terms {
    let Rule { session, affinity, .. } = &rule.config;
    Terms {
        is_strict: *affinity == Affinity::Strict,
        ends: session.max_age.and_then(|age| Some(history.created? + age)),
        created: history.created,
        version: history.version,
        previous: history.previous,
        session: Rc::clone(session),
    }
}

/// A token that is not to be believed; or that nobody can tell of, which is not its sender's fault.
fn refuse(plugin: &Plugin, pool: &LivePool, provider: usize, refusal: Refusal) -> Verdict {
    if plugin.tokens.on_invalid(provider) == OnInvalid::Sessionless {
        return Verdict::leave_alone(pool, Reason::TokenRefused);
    }
    if !plugin.tokens.has_keys(provider) {
        let body = "berth: the keys that would verify this token are not there yet; try again\n";
        return Verdict::reject(plugin, pool, 503, Reason::KeysAway, body);
    }
    Verdict::challenge(plugin, pool, Reason::TokenRefused, refusal.challenge())
}

/// A new session's id. Its owner should be a node that takes new sessions; ids are free, so draw another if not.
fn draw(snapshot: Option<&Snapshot>) -> Option<SessionId> {
    let mut id = SessionId::from_random(host::random()?);
    for _ in 1..DRAWS {
        let fits = snapshot.is_none_or(|snapshot| {
            Placement::of(snapshot, id.hash()).is_ok_and(|placement| placement.takes_new(snapshot))
        });
        if fits {
            break;
        }
        id = SessionId::from_random(host::random()?);
    }
    Some(id)
}
