//! Once per request: identify the session, place it, name its node; then learn from how it ended.
//!
//! Request headers are read only in the request callback: later they are gone. On every path the client's own
//! destination header is overwritten or removed.

use std::rc::Rc;

use berth_core::config::{Membership, Missing, OnPanic};
use berth_core::decision::{NoPlacement, Placement};
use berth_core::event::{
    Counter, DEBUG_HEADER, DESTINATION_HEADER, HASH_KEY_HEADER, Outcome, Reason, UNPLACED_DESTINATION,
    Unplaced,
};
use berth_core::passive::blames_node;
use berth_core::session::{self, SessionId};
use berth_core::snapshot::Snapshot;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host;
use crate::plugin::{LivePool, Plugin};

/// How often an id is drawn so that its owner takes new sessions: with half of the nodes draining, one in 256 is not.
const DRAWS: usize = 8;

/// The context of one request.
pub(crate) struct Stream {
    plugin: Option<Rc<Plugin>>,
    /// The pool's place in the configuration, once one took the request.
    pool: Option<usize>,
    verdict: Verdict,
    /// The Set-Cookie value of a session that began with this request.
    cookie: Option<Vec<u8>>,
}

/// What was decided.
enum Verdict {
    /// Nothing: no pool, or not yet.
    None,
    /// It goes to these nodes; `answered` is the place of the one that did, among them.
    Placed { snapshot: Rc<Snapshot>, placement: Placement, answered: Option<usize> },
    /// It goes wherever Envoy sends it.
    Elsewhere(Outcome, Reason),
    /// Berth answered it.
    Replied,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else {
            remove_our_headers();
            return Action::Continue;
        };
        self.pool = find_pool(&plugin);
        match self.pool.and_then(|index| plugin.pools.get(index)) {
            Some(pool) => self.place(&plugin, pool),
            None => {
                remove_our_headers();
                plugin.bypassed.set(plugin.bypassed.get() + 1);
            }
        }
        if matches!(self.verdict, Verdict::Replied) { Action::Pause } else { Action::Continue }
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(plugin) = self.plugin.clone() else { return Action::Continue };
        if let Some(pool) = self.pool.and_then(|index| plugin.pools.get(index)) {
            let node = self.learn_who_answered(&plugin, pool);
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
        let Some(pool) =
            self.plugin.as_ref().zip(self.pool).and_then(|(plugin, index)| plugin.pools.get(index))
        else {
            return;
        };
        let Verdict::Placed { snapshot, placement, answered: Some(place) } = &self.verdict else { return };
        let Some(node) = placement.nodes(snapshot).nth(*place) else { return };
        match host::response_flags() {
            Some(flags) if blames_node(flags) => pool.failed(&node.address),
            Some(0) => pool.succeeded(&node.address),
            _ => {}
        }
    }
}

impl Stream {
    pub(crate) fn new(plugin: Option<Rc<Plugin>>) -> Self {
        Self { plugin, pool: None, verdict: Verdict::None, cookie: None }
    }

    fn place(&mut self, plugin: &Plugin, pool: &LivePool) {
        let snapshot = pool.snapshot();
        let found = session::identify(&pool.config.sources, &mut host::request_header);
        let (id, issued) = match (found, &pool.config.missing) {
            (Some(id), _) => (id, false),
            (None, Missing::IssueCookie(template)) => match draw(snapshot.as_deref()) {
                Some(id) => {
                    self.cookie = template.set_cookie(&id);
                    (id, true)
                }
                None => return self.pass_sessionless(pool),
            },
            (None, Missing::Pass) => return self.pass_sessionless(pool),
            (None, Missing::Reject) => {
                let sources = session::describe(&pool.config.sources);
                let body = format!("berth: this request names no session; send one as {sources}\n");
                return self.reject(plugin, pool, 400, Reason::NoSession, &body);
            }
        };
        let Some(snapshot) = snapshot else {
            return self.leave_to_envoy(pool, &id, Unplaced::NoSnapshot, Reason::NoSnapshot);
        };
        match Placement::of(&snapshot, id.hash()) {
            Ok(placement)
                if placement.outcome == Outcome::Panic && pool.config.on_panic == OnPanic::Reject =>
            {
                let body = "berth: too few nodes are usable; try again\n";
                self.reject(plugin, pool, 503, Reason::NoUsableNode, body);
            }
            Ok(mut placement) => {
                if issued {
                    placement.reason = Reason::Issued;
                }
                let mut value = plugin.destination.borrow_mut();
                value.clear();
                placement.write_destination(&snapshot, &mut value);
                host::set_request_header(DESTINATION_HEADER, &value);
                pool.metrics.count(Counter::Requests(placement.outcome));
                self.verdict = Verdict::Placed { snapshot, placement, answered: None };
            }
            Err(NoPlacement::NoMembers) => {
                self.leave_to_envoy(pool, &id, Unplaced::NoMembers, Reason::NoMembers);
            }
            Err(NoPlacement::NoUsableNode) => {
                let body = "berth: no node is usable; try again\n";
                self.reject(plugin, pool, 503, Reason::NoUsableNode, body);
            }
        }
    }

    fn pass_sessionless(&mut self, pool: &LivePool) {
        remove_our_headers();
        pool.metrics.count(Counter::Requests(Outcome::Sessionless));
        self.verdict = Verdict::Elsewhere(Outcome::Sessionless, Reason::NoSession);
    }

    /// The destination names no host, so the cluster's fallback policy hashes the same session id.
    fn leave_to_envoy(&mut self, pool: &LivePool, id: &SessionId, why: Unplaced, reason: Reason) {
        host::set_request_header(HASH_KEY_HEADER, id.as_bytes());
        host::set_request_header(DESTINATION_HEADER, UNPLACED_DESTINATION.as_bytes());
        pool.metrics.count(Counter::Requests(Outcome::Ring));
        pool.metrics.count(Counter::Unplaced(why));
        self.verdict = Verdict::Elsewhere(Outcome::Ring, reason);
    }

    fn reject(&mut self, plugin: &Plugin, pool: &LivePool, status: u32, reason: Reason, body: &str) {
        self.cookie = None;
        self.verdict = Verdict::Replied;
        pool.metrics.count(Counter::Requests(Outcome::Rejected));
        let debug = format!("outcome={}; reason={}", Outcome::Rejected.name(), reason.name());
        let wait = pool.config.health.panic_hold.0.div_ceil(1000).max(1).to_string();
        let mut headers = vec![("content-type", "text/plain; charset=utf-8")];
        if status == 503 {
            headers.push(("retry-after", &wait));
        }
        if plugin.debug_header {
            headers.push((DEBUG_HEADER, &debug));
        }
        host::respond(status, headers, body);
    }

    /// Notes which node answered, and what that says of those that were named before it.
    fn learn_who_answered(&mut self, plugin: &Plugin, pool: &LivePool) -> Option<Vec<u8>> {
        let Verdict::Placed { snapshot, placement, answered } = &mut self.verdict else {
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
        let (outcome, reason) = match &self.verdict {
            Verdict::Placed { placement, .. } => (placement.outcome, placement.reason),
            Verdict::Elsewhere(outcome, reason) => (*outcome, *reason),
            Verdict::None | Verdict::Replied => return,
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

fn remove_our_headers() {
    host::remove_request_header(DESTINATION_HEADER);
    host::remove_request_header(HASH_KEY_HEADER);
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
