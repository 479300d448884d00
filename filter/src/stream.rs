//! Once per request: have it decided, then learn from how its response begins.
//!
//! Request headers are read only until the request goes on: later they are gone. On every path the client's own
//! destination header is overwritten or removed.

use std::rc::Rc;

use berth_core::config::Membership;
use berth_core::event::{Counter, DEBUG_HEADER, END_HEADER, Outcome, Reason, RuleResult};
use berth_core::passive::{Evidence, Failure, evidence, hidden_failure};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host;
use crate::pinned::Home;
use crate::plugin::{LivePool, Plugin};
use crate::request::Request;
use crate::rules::LiveRule;
use crate::verdict::{Verdict, remove_our_headers};

/// The context of one request.
pub(crate) struct Stream {
    id: u32,
    plugin: Option<Rc<Plugin>>,
    request: Request,
}

impl Context for Stream {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        let Some((plugin, pool)) = self.plugin.as_deref().zip(self.live_pool()) else { return };
        let body = host::answer_body(headers, body_size);
        let home = Home { context: self.id, stream: Some(self.id), deciding: false, waited: 0 };
        pool.answered(plugin, token, body.as_deref(), home);
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else {
            remove_our_headers();
            return Action::Continue;
        };
        let home = Home { context: self.id, stream: Some(self.id), deciding: true, waited: 0 };
        self.request = Request::decide(&plugin, home);
        if self.request.verdict.lets_go_on() { Action::Continue } else { Action::Pause }
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else { return Action::Continue };
        self.request.catch_up();
        self.request.count(&plugin);
        if let Some((rule, pool)) = self.request.rule.and_then(|index| plugin.rule(index)) {
            self.heed_the_end(pool);
            let flags = self.response_flags(pool);
            let node = self.learn_who_answered(&plugin, rule, pool);
            if let Some(flags) = flags {
                self.judge(&plugin, pool, flags);
            }
            self.request.count_outcome(pool);
            if plugin.debug_header {
                self.show(node.as_deref());
            }
            if let Some(cookie) = self.request.cookie.take() {
                host::add_response_header("set-cookie", &cookie);
            }
        }
        Action::Continue
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.request.catch_up();
        if let Some(plugin) = &self.plugin {
            self.request.count(plugin);
            if let Some((_, pool)) = self.request.rule.and_then(|rule| plugin.rule(rule)) {
                self.request.count_outcome(pool);
            }
        }
        if matches!(self.request.verdict, Verdict::Parked(_))
            && let Some(plugin) = &self.plugin
        {
            plugin.waiting.borrow_mut().leave(self.id);
        }
        if let Some(seat) = self.request.seat.take()
            && let Some(pinned) = self.live_pool().and_then(|pool| pool.pinned.as_ref())
        {
            pinned.borrow_mut().request_over(self.id, seat);
        }
    }
}

impl Stream {
    pub(crate) fn new(id: u32, plugin: Option<Rc<Plugin>>) -> Self {
        Self { id, plugin, request: Request::default() }
    }

    fn live_pool(&self) -> Option<&LivePool> {
        Some(self.plugin.as_ref()?.rule(self.request.rule?)?.1)
    }

    /// A backend that says so has ended the session.
    fn heed_the_end(&mut self, pool: &LivePool) {
        if let Some(pinned) = &pool.pinned
            && let Some(id) = &self.request.session
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
        if let Verdict::Observed(node) = &self.request.verdict {
            let address = host::upstream_address()?;
            let is_same = node.as_bytes() == address;
            rule.count(if is_same { RuleResult::ObservedSame } else { RuleResult::ObservedMoved });
            return Some(address);
        }
        let Verdict::Placed { snapshot, placement, answered } = &mut self.request.verdict else {
            return if plugin.debug_header { host::upstream_address() } else { None };
        };
        let address = host::upstream_address()?;
        *answered = placement.nodes(snapshot).position(|node| node.address.as_bytes() == address);
        if *answered == Some(0) {
            return Some(address);
        }
        // Its pin names another node.
        if matches!(placement.outcome, Outcome::Hit | Outcome::Found) {
            placement.outcome = Outcome::Ring;
        }
        if !is_routed_to(pool) {
            pool.metrics.count(Counter::OtherCluster);
            placement.reason = Reason::OtherCluster;
        } else {
            pool.metrics.count(Counter::Retried);
            placement.reason = Reason::Retried;
        }
        Some(address)
    }

    /// Envoy's flags for how the response came about, where they are of use.
    fn response_flags(&self, pool: &LivePool) -> Option<u64> {
        let Verdict::Placed { placement, .. } = &self.request.verdict else { return None };
        if pool.config.health.passive_failures == 0 && !placement.is_strict {
            return None;
        }
        let flags = host::response_flags()?;
        // Envoy's own answer: the node could not be reached, and no other was to be tried.
        if placement.is_strict && flags != 0 {
            host::set_response_header("retry-after", b"1");
        }
        Some(flags)
    }

    /// Takes the beginning of the response for evidence of the nodes that had the request.
    fn judge(&self, plugin: &Plugin, pool: &LivePool, flags: u64) {
        let Verdict::Placed { snapshot, placement, answered: Some(place) } = &self.request.verdict else {
            return;
        };
        let session = self.request.session_hash;
        // Those before it failed, and a retry hid it. Unless Envoy passed over one that it does not know (any more, or
        // yet): then there were fewer attempts, and nothing is said of any of them.
        if *place > 0
            && let Some(kind) = hidden_failure(flags)
            && host::upstream_attempts().is_some_and(|attempts| attempts > *place as u64)
            && is_routed_to(pool)
        {
            for node in placement.nodes(snapshot).take(*place) {
                pool.failed(&Failure { node: node.key_hash, kind, session });
            }
        }
        let Some(index) = placement.indexes().nth(*place) else { return };
        let Some(node) = snapshot.nodes.get(index).map(|node| node.key_hash) else { return };
        match evidence(flags) {
            Evidence::Answered => pool.succeeded(index, node, session, plugin.now.get()),
            Evidence::Failed(kind) => pool.failed(&Failure { node, kind, session }),
            Evidence::None => {}
        }
    }

    fn show(&self, node: Option<&[u8]>) {
        let (outcome, reason) = match &self.request.verdict {
            Verdict::Placed { placement, .. } => {
                let is_elsewhere = matches!(placement.reason, Reason::Retried | Reason::OtherCluster);
                let issued = self.request.cookie.is_some() && !is_elsewhere;
                (placement.outcome, if issued { Reason::Issued } else { placement.reason })
            }
            Verdict::Elsewhere(outcome, reason) => (*outcome, *reason),
            Verdict::Observed(_) => (Outcome::Sessionless, Reason::Observed),
            Verdict::None
            | Verdict::Bypassed
            | Verdict::Parked(_)
            | Verdict::Waiting(_)
            | Verdict::Replied { .. } => return,
        };
        let mut value = format!("outcome={}; ", outcome.name()).into_bytes();
        if let Some(node) = node {
            value.extend_from_slice(b"node=");
            value.extend_from_slice(node);
            value.extend_from_slice(b"; ");
        }
        value.extend_from_slice(b"reason=");
        value.extend_from_slice(reason.name().as_bytes());
        if let Verdict::Observed(would) = &self.request.verdict {
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
