//! Once per request: have it decided, then learn from how it ended.
//!
//! Request headers are read only until the request goes on: later they are gone. On every path the client's own
//! destination header is overwritten or removed.

use std::rc::Rc;

use berth_core::config::Membership;
use berth_core::event::{Counter, DEBUG_HEADER, END_HEADER, Reason};
use berth_core::passive::blames_node;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host;
use crate::pinned::Home;
use crate::plugin::{LivePool, Plugin};
use crate::request::Request;
use crate::verdict::{Verdict, remove_our_headers};

/// The context of one request.
pub(crate) struct Stream {
    id: u32,
    plugin: Option<Rc<Plugin>>,
    /// The pool's place in the configuration, once one took the request.
    pool: Option<usize>,
    request: Request,
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
        self.pool = find_pool(&plugin);
        match self.pool {
            Some(pool) => {
                let home = Home { context: self.id, stream: Some(self.id), deciding: true };
                self.request = Request::decide(&plugin, pool, home);
            }
            None => {
                remove_our_headers();
                plugin.bypassed.set(plugin.bypassed.get() + 1);
            }
        }
        if self.request.verdict.lets_go_on() { Action::Continue } else { Action::Pause }
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else { return Action::Continue };
        self.request.catch_up();
        if let Some(pool) = self.pool.and_then(|index| plugin.pools.get(index)) {
            self.heed_the_end(pool);
            let node = self.learn_who_answered(&plugin, pool);
            if plugin.debug_header {
                self.show(node.as_deref());
            }
            if let Some(cookie) = self.request.cookie.take() {
                host::add_response_header("set-cookie", &cookie);
            }
        }
        Action::Continue
    }

    /// The request is over, however it ended.
    fn on_log(&mut self) {
        self.request.catch_up();
        let Some(pool) = self.live_pool() else { return };
        let Verdict::Placed { snapshot, placement, answered: Some(place) } = &self.request.verdict else {
            return;
        };
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
        self.request.catch_up();
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
        Self { id, plugin, pool: None, request: Request::default() }
    }

    fn live_pool(&self) -> Option<&LivePool> {
        self.plugin.as_ref()?.pools.get(self.pool?)
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
    fn learn_who_answered(&mut self, plugin: &Plugin, pool: &LivePool) -> Option<Vec<u8>> {
        let Verdict::Placed { snapshot, placement, answered } = &mut self.request.verdict else {
            return if plugin.debug_header { host::upstream_address() } else { None };
        };
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
        let (outcome, reason) = match &self.request.verdict {
            Verdict::Placed { placement, .. } => {
                let issued = self.request.cookie.is_some() && placement.reason != Reason::Retried;
                (placement.outcome, if issued { Reason::Issued } else { placement.reason })
            }
            Verdict::Elsewhere(outcome, reason) => (*outcome, *reason),
            Verdict::None | Verdict::Parked(_) | Verdict::Waiting(_) | Verdict::Replied => return,
        };
        let mut value = format!("outcome={}; ", outcome.name()).into_bytes();
        if let Some(node) = node {
            value.extend_from_slice(b"node=");
            value.extend_from_slice(node);
            value.extend_from_slice(b"; ");
        }
        value.extend_from_slice(b"reason=");
        value.extend_from_slice(reason.name().as_bytes());
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

/// The first pool that takes the request; what no pool asks about is not fetched.
fn find_pool(plugin: &Plugin) -> Option<usize> {
    let (mut authority, mut path, mut cluster) = (None, None, None);
    plugin.pools.iter().position(|pool| {
        let matches = &pool.config.matches;
        (matches.hosts.is_empty()
            || matches.takes_host(fetched(&mut authority, || host::request_header(":authority"))))
            && (matches.path_prefixes.is_empty()
                || matches.takes_path(fetched(&mut path, || host::request_header(":path"))))
            && (matches.clusters.is_empty()
                || matches.takes_cluster(fetched(&mut cluster, host::route_cluster)))
    })
}

fn fetched(value: &mut Option<Vec<u8>>, fetch: impl FnOnce() -> Option<Vec<u8>>) -> &[u8] {
    value.get_or_insert_with(|| fetch().unwrap_or_default())
}
