//! Once per request: identify the session, place it, name its node; then learn from how it ended.
//!
//! Request headers are read only in the request callback: later they are gone. On every path the client's own
//! destination header is overwritten or removed.

use std::rc::Rc;

use berth_core::config::{Affinity, Membership, Missing, Rule};
use berth_core::decision::Placement;
use berth_core::event::{Counter, DEBUG_HEADER, END_HEADER, Outcome, Reason, RuleResult, Unplaced};
use berth_core::passive::blames_node;
use berth_core::pins::Seat;
use berth_core::rollout::Mode;
use berth_core::session::{self, SessionId};
use berth_core::snapshot::Snapshot;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host;
use crate::pinned::Home;
use crate::plugin::{LivePool, Plugin};
use crate::rules::{self, LiveRule};
use crate::verdict::{Verdict, remove_our_headers};

/// How often an id is drawn so that its owner takes new sessions: with half of the nodes draining, one in 256 is not.
const DRAWS: usize = 8;

/// The context of one request.
pub(crate) struct Stream {
    id: u32,
    plugin: Option<Rc<Plugin>>,
    /// The rule's place in the configuration, once one took the request.
    rule: Option<usize>,
    verdict: Verdict,
    /// The Set-Cookie value of a session that began with this request.
    cookie: Option<Vec<u8>>,
    /// Which session it belongs to, where pins are kept.
    session: Option<SessionId>,
    /// As long as the request lasts its session is in use.
    seat: Option<Seat>,
}

impl Context for Stream {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        let Some((plugin, pool)) = self.plugin.as_deref().zip(self.live_pool()) else { return };
        let body = host::state_answer_body(headers, body_size);
        let home = Home { context: self.id, stream: Some(self.id), deciding: false };
        pool.answered(plugin, token, body.as_deref().map_err(Clone::clone), home);
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else {
            remove_our_headers();
            return Action::Continue;
        };
        self.rule = rules::find(&plugin);
        match self.rule.and_then(|index| plugin.rule(index)) {
            Some((rule, pool)) => self.place(&plugin, rule, pool),
            None => {
                remove_our_headers();
                plugin.bypassed.set(plugin.bypassed.get() + 1);
            }
        }
        if self.verdict.lets_go_on() { Action::Continue } else { Action::Pause }
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else { return Action::Continue };
        self.take_verdict();
        if let Some((rule, pool)) = self.rule.and_then(|index| plugin.rule(index)) {
            self.heed_the_end(pool);
            let node = self.learn_who_answered(&plugin, rule, pool);
            if plugin.debug_header {
                self.show(node.as_deref());
            }
            if let Some(cookie) = self.cookie.take() {
                host::add_response_header("set-cookie", &cookie);
            }
        }
        Action::Continue
    }

    /// The request is over, however it ended.
    fn on_log(&mut self) {
        self.take_verdict();
        let Some(pool) = self.live_pool() else { return };
        let Verdict::Placed { snapshot, placement, answered: Some(place) } = &self.verdict else { return };
        let Some(node) = placement.nodes(snapshot).nth(*place) else { return };
        match host::response_flags() {
            Some(flags) if blames_node(flags) => pool.failed(&node.address),
            Some(0) => pool.succeeded(&node.address),
            _ => {}
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take()
            && let Some(pinned) = self.live_pool().and_then(|pool| pool.pinned.as_ref())
        {
            pinned.borrow_mut().request_over(self.id, seat);
        }
    }
}

impl Stream {
    pub(crate) fn new(id: u32, plugin: Option<Rc<Plugin>>) -> Self {
        let verdict = Verdict::None;
        Self { id, plugin, rule: None, verdict, session: None, cookie: None, seat: None }
    }

    fn live_pool(&self) -> Option<&LivePool> {
        Some(self.plugin.as_ref()?.rule(self.rule?)?.1)
    }

    /// Whoever released this request has left its verdict.
    fn take_verdict(&mut self) {
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

    fn place(&mut self, plugin: &Plugin, rule: &LiveRule, pool: &LivePool) {
        let Rule { session, affinity, rollout, .. } = &rule.config;
        if *affinity == Affinity::Off {
            rule.count(RuleResult::AffinityOff);
            self.verdict = Verdict::leave_alone(pool, Reason::AffinityOff);
            return;
        }
        if rollout.mode == Mode::Off {
            rule.count(RuleResult::NotRolledOut);
            self.verdict = Verdict::leave_alone(pool, Reason::NotRolledOut);
            return;
        }
        let snapshot = pool.snapshot();
        let found = session::identify(&session.sources, &mut host::request_header);
        let id = match (found, &session.missing) {
            (Some(id), _) => id,
            // Who looks on begins no sessions and turns nobody away.
            (None, _) if rollout.mode == Mode::Observe => {
                self.verdict = Verdict::sessionless(pool);
                return;
            }
            (None, Missing::IssueCookie(template)) => match draw(snapshot.as_deref()) {
                Some(id) => {
                    self.cookie = template.set_cookie(&id);
                    id
                }
                None => {
                    self.verdict = Verdict::sessionless(pool);
                    return;
                }
            },
            (None, Missing::Pass) => {
                self.verdict = Verdict::sessionless(pool);
                return;
            }
            (None, Missing::Reject) => {
                let sources = session::describe(&session.sources);
                let body = format!("berth: this request names no session; send one as {sources}\n");
                self.verdict = Verdict::reject(plugin, pool, 400, Reason::NoSession, &body);
                return;
            }
        };
        match rollout.mode_for(&id) {
            Mode::Enforce => rule.count(RuleResult::Enforced),
            Mode::Observe => {
                self.verdict = Verdict::observe(pool, snapshot, &id, plugin.now.get());
                return;
            }
            Mode::Off => {
                rule.count(RuleResult::NotRolledOut);
                self.verdict = Verdict::leave_alone(pool, Reason::NotRolledOut);
                return;
            }
        }
        let is_strict = *affinity == Affinity::Strict;
        self.verdict = match (&snapshot, &pool.pinned) {
            (None, _) if is_strict => Verdict::withhold(plugin, pool, Reason::NoSnapshot),
            (None, _) => Verdict::leave_to_envoy(pool, &id, Unplaced::NoSnapshot, Reason::NoSnapshot),
            (Some(snapshot), Some(pinned)) => {
                let (verdict, seat) =
                    pinned.borrow_mut().decide(plugin, pool, snapshot, &id, self.id, is_strict);
                self.seat = Some(seat);
                self.session = Some(id);
                verdict
            }
            (Some(snapshot), None) => {
                let placement = Placement::of(snapshot, id.hash());
                Verdict::of(plugin, pool, &id, snapshot, placement)
            }
        };
        self.take_verdict();
    }

    /// A backend that says so has ended the session.
    fn heed_the_end(&mut self, pool: &LivePool) {
        if let Some(pinned) = &pool.pinned
            && let Some(id) = &self.session
            && let Some(value) = host::response_header(END_HEADER)
        {
            host::remove_response_header(END_HEADER);
            if value == b"1" {
                pinned.borrow_mut().end(pool, id);
            }
        }
    }

    /// Notes which node answered, and what that says of those that were named before it.
    fn learn_who_answered(&mut self, plugin: &Plugin, rule: &LiveRule, pool: &LivePool) -> Option<Vec<u8>> {
        if let Verdict::Observed(node) = &self.verdict {
            let address = host::upstream_address()?;
            let is_same = node.as_bytes() == address;
            rule.count(if is_same { RuleResult::ObservedSame } else { RuleResult::ObservedMoved });
            return Some(address);
        }
        if matches!(self.verdict, Verdict::Replied { withheld: true }) {
            rule.count(RuleResult::Withheld);
        }
        let Verdict::Placed { snapshot, placement, answered } = &mut self.verdict else {
            return if plugin.debug_header { host::upstream_address() } else { None };
        };
        // Envoy's own answer: the node could not be reached, and nobody else was to be tried.
        if placement.is_strict && host::response_flags().is_some_and(|flags| flags != 0) {
            host::set_response_header("retry-after", b"1");
        }
        let address = host::upstream_address()?;
        *answered = placement.nodes(snapshot).position(|node| node.address.as_bytes() == address);
        if *answered != Some(0) && is_routed_to(pool) {
            pool.metrics.count(Counter::Retried);
            placement.reason = Reason::Retried;
            // Those before it had failed, unseen by anybody else. Unless Envoy passed over one that it does not know
            // (any more, or yet): then there were fewer attempts, and nothing is said of anybody.
            if let Some(place) = *answered
                && host::upstream_attempts().is_some_and(|attempts| attempts > place as u64)
            {
                for node in placement.nodes(snapshot).take(place) {
                    pool.failed(&node.address);
                }
            }
        }
        Some(address)
    }

    fn show(&self, node: Option<&[u8]>) {
        let (outcome, reason) = match &self.verdict {
            Verdict::Placed { placement, .. } => {
                let issued = self.cookie.is_some() && placement.reason != Reason::Retried;
                (placement.outcome, if issued { Reason::Issued } else { placement.reason })
            }
            Verdict::Elsewhere(outcome, reason) => (*outcome, *reason),
            Verdict::Observed(_) => (Outcome::Sessionless, Reason::Observed),
            Verdict::None | Verdict::Waiting(_) | Verdict::Replied { .. } => return,
        };
        let mut value = format!("outcome={}; ", outcome.name()).into_bytes();
        if let Some(node) = node {
            value.extend_from_slice(b"node=");
            value.extend_from_slice(node);
            value.extend_from_slice(b"; ");
        }
        value.extend_from_slice(b"reason=");
        value.extend_from_slice(reason.name().as_bytes());
        if let Verdict::Observed(would) = &self.verdict {
            value.extend_from_slice(b"; would=");
            value.extend_from_slice(would.as_bytes());
        }
        host::set_response_header(DEBUG_HEADER, &value);
    }
}

/// False if a route took the request to another cluster than the pool's, where our header means nothing.
fn is_routed_to(pool: &LivePool) -> bool {
    match &pool.config.membership {
        Membership::Cluster(name) => host::route_cluster().is_none_or(|cluster| cluster == name.as_bytes()),
        Membership::Static(_) => true,
    }
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
