//! What becomes of a request, and what that does to it: headers for Envoy, a count, or Berth's own answer.
//!
//! All of it happens in the effective context: the stream's own, or that of a stream which an answer releases. On every
//! path the client's own destination header is overwritten or removed.

use std::cell::RefCell;
use std::rc::Rc;

use berth_core::config::{HashKey, OnPanic};
use berth_core::event::{
    Counter, DEBUG_HEADER, DESTINATION_HEADER, HASH_KEY_HEADER, Outcome, RETRIES_HEADER, Reason,
    SESSION_HEADER, UNPLACED_DESTINATION, Unplaced,
};
use berth_core::placement::{NoPlacement, Placement};
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::token::Refusal;

use crate::host;
use crate::plugin::{LivePool, Plugin};
use crate::request::Ticket;

/// Where a request that waits will find its verdict; `Verdict::None` until then.
pub(crate) type Slot = Rc<RefCell<Verdict>>;

/// What was decided.
#[derive(Default)]
pub(crate) enum Verdict {
    /// Nothing: no pool, or not yet.
    #[default]
    None,
    /// No rule takes it.
    Bypassed,
    /// It will be decided again.
    Parked(Ticket),
    /// The state cluster is asked.
    Waiting(Slot),
    /// It goes to these nodes; `answered` is the place of the one that did, among them.
    Placed { snapshot: Rc<Snapshot>, placement: Placement, answered: Option<usize> },
    /// It goes wherever Envoy sends it.
    Elsewhere(Outcome, Reason),
    /// It goes wherever Envoy sends it; Berth would have chosen this node.
    Observed(String),
    /// Berth answered it; `withheld` if only another node could have.
    Replied { withheld: bool },
}

impl Verdict {
    /// True if the request goes on now.
    pub(crate) fn lets_go_on(&self) -> bool {
        !matches!(self, Self::Parked(_) | Self::Waiting(_) | Self::Replied { .. })
    }

    /// To the nodes of a placement, or what it means that there is none.
    pub(crate) fn of(
        plugin: &Plugin,
        pool: &LivePool,
        id: &SessionId,
        snapshot: &Rc<Snapshot>,
        placement: Result<Placement, NoPlacement>,
    ) -> Self {
        match placement {
            Ok(placement)
                if placement.outcome == Outcome::Panic && pool.config.on_panic == OnPanic::Reject =>
            {
                let body = "berth: too few nodes are usable; try again\n";
                Self::reject(plugin, pool, 503, Reason::NoUsableNode, body)
            }
            Ok(placement) => {
                let mut value = plugin.destination.borrow_mut();
                value.clear();
                placement.write_destination(snapshot, &mut value);
                host::set_request_header(DESTINATION_HEADER, &value);
                if placement.is_strict {
                    host::set_request_header(RETRIES_HEADER, b"0");
                }
                if pool.config.hash_key == HashKey::Always {
                    host::set_request_header(HASH_KEY_HEADER, id.as_bytes());
                }
                Self::Placed { snapshot: Rc::clone(snapshot), placement, answered: None }
            }
            Err(NoPlacement::NoMembers) => {
                Self::leave_to_envoy(pool, id, Unplaced::NoMembers, Reason::NoMembers)
            }
            Err(NoPlacement::NoUsableNode) => {
                let body = "berth: no node is usable; try again\n";
                Self::reject(plugin, pool, 503, Reason::NoUsableNode, body)
            }
            Err(NoPlacement::Superseded) => {
                Self::challenge(plugin, pool, Reason::Superseded, Refusal::Signature.challenge())
            }
            Err(NoPlacement::Withheld(reason)) => Self::withhold(plugin, pool, reason),
        }
    }

    pub(crate) fn sessionless(pool: &LivePool) -> Self {
        Self::leave_alone(pool, Reason::NoSession)
    }

    /// As if Berth were not there.
    pub(crate) fn leave_alone(pool: &LivePool, reason: Reason) -> Self {
        remove_our_headers();
        pool.metrics.count(Counter::Requests(Outcome::Sessionless));
        Self::Elsewhere(Outcome::Sessionless, reason)
    }

    /// As if Berth were not there, but for the count of what it would have done.
    pub(crate) fn observe(pool: &LivePool, id: &SessionId, now: Millis) -> Self {
        let untouched = Self::leave_alone(pool, Reason::Observed);
        let Some(snapshot) = pool.snapshot().filter(|snapshot| !snapshot.unsupported) else {
            return untouched;
        };
        let pinned = pool.pinned.as_ref();
        let pin = pinned.and_then(|pinned| pinned.borrow_mut().known_place(&snapshot, id, now));
        let place = pin.or_else(|| Placement::of(&snapshot, id.hash()).ok()?.indexes().next());
        match place.and_then(|place| snapshot.nodes.get(place)) {
            Some(node) => Self::Observed(node.address.clone()),
            None => untouched,
        }
    }

    /// Rather no answer than another node's.
    pub(crate) fn withhold(plugin: &Plugin, pool: &LivePool, reason: Reason) -> Self {
        let body = "berth: the node of this session cannot serve it now; try again\n";
        Self::reject(plugin, pool, 503, reason, body);
        Self::Replied { withheld: true }
    }

    /// Its client is to come with a token that can be believed.
    pub(crate) fn challenge(plugin: &Plugin, pool: &LivePool, reason: Reason, challenge: &str) -> Self {
        let body = "berth: this request needs a valid token\n";
        Self::reply(plugin, pool, 401, reason, body, Some(("www-authenticate", challenge)))
    }

    /// The destination names no host, so the cluster's fallback policy hashes the same session id.
    pub(crate) fn leave_to_envoy(pool: &LivePool, id: &SessionId, why: Unplaced, reason: Reason) -> Self {
        host::set_request_header(HASH_KEY_HEADER, id.as_bytes());
        host::set_request_header(DESTINATION_HEADER, UNPLACED_DESTINATION.as_bytes());
        pool.metrics.count(Counter::Requests(Outcome::Ring));
        pool.metrics.count(Counter::Unplaced(why));
        Self::Elsewhere(Outcome::Ring, reason)
    }

    pub(crate) fn reject(plugin: &Plugin, pool: &LivePool, status: u32, reason: Reason, body: &str) -> Self {
        Self::reply(plugin, pool, status, reason, body, None)
    }

    fn reply(
        plugin: &Plugin,
        pool: &LivePool,
        status: u32,
        reason: Reason,
        body: &str,
        header: Option<(&str, &str)>,
    ) -> Self {
        pool.metrics.count(Counter::Requests(Outcome::Rejected));
        let debug = format!("outcome={}; reason={}", Outcome::Rejected.name(), reason.name());
        let wait = pool.config.health.panic_hold.0.div_ceil(1000).max(1).to_string();
        let mut headers = vec![("content-type", "text/plain; charset=utf-8")];
        headers.extend(header);
        if status == 503 {
            headers.push(("retry-after", &wait));
        }
        if plugin.debug_header {
            headers.push((DEBUG_HEADER, &debug));
        }
        host::respond(status, headers, body);
        Self::Replied { withheld: false }
    }
}

pub(crate) fn remove_our_headers() {
    for header in [DESTINATION_HEADER, HASH_KEY_HEADER, SESSION_HEADER] {
        host::remove_request_header(header);
    }
}
