//! What a decision does to a request: headers for Envoy, or Berth's own answer.
//!
//! The only place that writes a header or answers a request. All of it happens in the effective context: the stream's own,
//! or that of a stream which an answer releases. What clients and backends send under the names of Berth's own headers is
//! removed when the headers are first at hand, if [`Guarding`] says so.

use std::cell::RefCell;

use berth_core::config::HashKey;
use berth_core::decision::{Decision, Reply};
use berth_core::event::{
    DEBUG_HEADER, DESTINATION_HEADER, END_HEADER, HASH_KEY_HEADER, Outcome, RETRIES_HEADER, Reason,
    SESSION_HEADER, UNPLACED_DESTINATION,
};
use berth_core::guard::Guarding;
use berth_core::proxy::{Request, Response};

use crate::host;

/// How decisions are applied.
pub(crate) struct Effects {
    /// Say in a response header what Berth did.
    pub(crate) shows_debug_header: bool,
    /// Reused for each destination header, so that a hit allocates nothing for it.
    destination: RefCell<Vec<u8>>,
}

impl Effects {
    pub(crate) fn new(shows_debug_header: bool) -> Self {
        Self { shows_debug_header, destination: RefCell::new(Vec::with_capacity(64)) }
    }

    /// Does what was decided about a request. It then goes on, unless Berth has answered it.
    pub(crate) fn apply(&self, request: &Request, hash_key: HashKey) {
        match &request.decision {
            Some(Decision::Route { placement, notice }) => {
                let Some(snapshot) = &request.snapshot else { return };
                let mut value = self.destination.borrow_mut();
                value.clear();
                placement.write_destination(snapshot, &mut value);
                host::set_request_header(DESTINATION_HEADER, &value);
                if placement.is_strict {
                    host::set_request_header(RETRIES_HEADER, b"0");
                }
                if hash_key == HashKey::Always {
                    set_hash_key(request);
                }
                if let Some(notice) = notice {
                    host::set_request_header(SESSION_HEADER, notice.to_string().as_bytes());
                }
            }
            // The destination names no host, so the cluster's fallback policy hashes the same session id.
            Some(Decision::Fallback { .. }) => {
                set_hash_key(request);
                host::set_request_header(DESTINATION_HEADER, UNPLACED_DESTINATION.as_bytes());
            }
            Some(Decision::Reply(reply)) => self.reply(reply),
            Some(Decision::Pass { .. } | Decision::Bypass) | None => {}
        }
    }

    fn reply(&self, reply: &Reply) {
        let debug = format!("outcome={}; reason={}", Outcome::Rejected.name(), reply.reason.name());
        let retry_after = reply.retry_after.map(|seconds| seconds.to_string());
        let mut headers = vec![("content-type", "text/plain; charset=utf-8")];
        if let Some(challenge) = reply.challenge {
            headers.push(("www-authenticate", challenge));
        }
        if let Some(seconds) = &retry_after {
            headers.push(("retry-after", seconds));
        }
        if let Some(cookie) = &reply.set_cookie {
            headers.push(("set-cookie", cookie));
        }
        if self.shows_debug_header {
            headers.push((DEBUG_HEADER, &debug));
        }
        host::respond(u32::from(reply.status), headers, &reply.body);
    }

    /// Completes the response of a request that Berth let go on.
    pub(crate) fn complete(&self, request: &mut Request, response: &Response) {
        if response.retry_after {
            host::set_response_header("retry-after", b"1");
        }
        if self.shows_debug_header && is_shown(request) {
            show(request, response);
        }
        if let Some(cookie) = request.cookie.take() {
            host::add_response_header("set-cookie", &cookie);
        }
    }
}

/// Removes what a client may have sent of the request headers that nodes and routes believe. One that is about to be
/// overwritten may stay. True if a check found any: then it is removed too.
pub(crate) fn guard_request(guarding: Guarding, is_destination_set: bool) -> bool {
    match guarding {
        Guarding::Trust => false,
        Guarding::Remove => {
            if !is_destination_set {
                host::remove_request_header(DESTINATION_HEADER);
            }
            host::remove_request_header(HASH_KEY_HEADER);
            host::remove_request_header(SESSION_HEADER);
            false
        }
        Guarding::Check => {
            // One call for all of them, which also sees empty values, and leaves the route cache alone.
            let ours = [DESTINATION_HEADER, HASH_KEY_HEADER, SESSION_HEADER];
            let is_forged = host::has_request_header(&ours);
            if is_forged {
                ours.into_iter().for_each(host::remove_request_header);
            }
            is_forged
        }
    }
}

/// Removes what a backend may have sent of the response headers that are Berth's own. `is_shown` says that the debug header is
/// about to be overwritten. True if a check found any: then it is removed too.
pub(crate) fn guard_response(guarding: Guarding, is_shown: bool) -> bool {
    match guarding {
        Guarding::Trust => false,
        Guarding::Remove => {
            if !is_shown {
                host::remove_response_header(DEBUG_HEADER);
            }
            host::remove_response_header(END_HEADER);
            false
        }
        Guarding::Check => {
            let is_forged = host::has_response_header(&[DEBUG_HEADER]);
            if is_forged {
                host::remove_response_header(DEBUG_HEADER);
            }
            host::remove_response_header(END_HEADER);
            is_forged
        }
    }
}

/// Takes away the response header by which a backend ends its session. True if it does.
pub(crate) fn take_end() -> bool {
    let Some(value) = host::response_header(END_HEADER) else { return false };
    host::remove_response_header(END_HEADER);
    value == b"1"
}

/// The debug header says something of a request of this kind.
pub(crate) fn is_shown(request: &Request) -> bool {
    !matches!(request.decision, Some(Decision::Bypass | Decision::Reply(_)) | None)
}

fn set_hash_key(request: &Request) {
    if let Some(id) = &request.session {
        host::set_request_header(HASH_KEY_HEADER, id.as_bytes());
    }
}

/// Says in the debug header what Berth did.
fn show(request: &Request, response: &Response) {
    let (outcome, reason, would) = match &request.decision {
        Some(Decision::Route { placement, .. }) => {
            let is_elsewhere = matches!(placement.reason, Reason::Retried | Reason::OtherCluster);
            let is_issued = request.is_issued && !is_elsewhere;
            (placement.outcome, if is_issued { Reason::Issued } else { placement.reason }, None)
        }
        Some(Decision::Fallback { reason, .. }) => (Outcome::Ring, *reason, None),
        Some(Decision::Pass { reason, would }) => (Outcome::Sessionless, *reason, would.as_deref()),
        Some(Decision::Bypass | Decision::Reply(_)) | None => return,
    };
    let reason = if response.waits { Reason::Learned } else { reason };
    let mut value = format!("outcome={}; ", outcome.name()).into_bytes();
    if let Some(node) = &response.node {
        value.extend_from_slice(b"node=");
        value.extend_from_slice(node);
        value.extend_from_slice(b"; ");
    }
    value.extend_from_slice(b"reason=");
    value.extend_from_slice(reason.name().as_bytes());
    if let Some(would) = would {
        value.extend_from_slice(b"; would=");
        value.extend_from_slice(would.as_bytes());
    }
    host::set_response_header(DEBUG_HEADER, &value);
}
