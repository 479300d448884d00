//! The calls of the state API: method, path and body of each, in one place for everyone who makes one.

use serde::Serialize;

use super::{Cursor, NodeChange, NodeId, PoolName, ResolveRequest, SessionKey, TouchRequest};

/// A request to the state service, but for its host and its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRequest {
    /// The HTTP method.
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    /// JSON; empty if there is no body.
    pub body: Vec<u8>,
}

impl ApiRequest {
    /// Who owns these sessions.
    #[must_use]
    pub fn resolve(request: &ResolveRequest) -> Self {
        Self { method: "POST", path: "/v1/resolve".to_owned(), body: json(request) }
    }

    /// These sessions are in use.
    #[must_use]
    pub fn touch(request: &TouchRequest) -> Self {
        Self { method: "POST", path: "/v1/touch".to_owned(), body: json(request) }
    }

    /// This session is over.
    #[must_use]
    pub fn end(pool: &PoolName, key: SessionKey) -> Self {
        Self { method: "DELETE", path: format!("/v1/sessions/{key}?pool={pool}"), body: Vec::new() }
    }

    /// What changed after a position; waits so many milliseconds for something. Without a position only where the log is.
    #[must_use]
    pub fn changes(pool: &str, after: Option<&Cursor>, wait: u64) -> Self {
        let path = match after {
            Some(cursor) => format!("/v1/changes?pool={pool}&after={cursor}&wait={wait}"),
            None => format!("/v1/changes?pool={pool}&wait=0"),
        };
        Self { method: "GET", path, body: Vec::new() }
    }

    /// What is recorded of a pool's nodes.
    #[must_use]
    pub fn nodes(pool: &str) -> Self {
        Self { method: "GET", path: format!("/v1/nodes?pool={pool}"), body: Vec::new() }
    }

    /// Something is to be recorded of a node.
    #[must_use]
    pub fn change_node(pool: &str, node: &NodeId, change: &NodeChange) -> Self {
        let path = format!("/v1/nodes/{}?pool={pool}", node.in_path());
        Self { method: "PUT", path, body: json(change) }
    }
}

/// The types of the wire have nothing that JSON could not hold.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
