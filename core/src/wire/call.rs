//! The calls of the state API: method, path and body of each, in one place for everyone who makes one.

use serde::Serialize;

use super::{Cursor, MAX_ENDED_AGO, NodeChange, NodeId, ResolveRequest, SessionKey, TouchRequest};
use crate::time::Millis;

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

    /// This session ended so long ago: a pin whose node has had it for less time is a newer session's, and stays.
    #[must_use]
    pub fn end(pool: &str, key: SessionKey, ago: Millis) -> Self {
        let path = format!("/v1/sessions/{key}?pool={pool}");
        Self::bare(
            "DELETE",
            match ago.0.min(MAX_ENDED_AGO) {
                0 => path,
                ago => format!("{path}&ended_ago_ms={ago}"),
            },
        )
    }

    /// Where this session lives, and what happened to it.
    #[must_use]
    pub fn session(pool: &str, key: SessionKey) -> Self {
        Self::bare("GET", format!("/v1/sessions/{key}?pool={pool}"))
    }

    /// What changed after a position; waits so many milliseconds for something. Without a position only where the log is.
    #[must_use]
    pub fn changes(pool: &str, after: Option<&Cursor>, wait: u64) -> Self {
        let path = match after {
            Some(cursor) => format!("/v1/changes?pool={pool}&after={cursor}&wait={wait}"),
            None => format!("/v1/changes?pool={pool}&wait=0"),
        };
        Self::bare("GET", path)
    }

    /// What is recorded of a pool's nodes.
    #[must_use]
    pub fn nodes(pool: &str) -> Self {
        Self::bare("GET", format!("/v1/nodes?pool={pool}"))
    }

    /// What is recorded of a node.
    #[must_use]
    pub fn node(pool: &str, node: &NodeId) -> Self {
        Self::bare("GET", node_path(pool, node))
    }

    /// How many sessions each node has among so many keys of the store, after a position that the last reply said.
    #[must_use]
    pub fn counts(pool: &str, after: Option<&Cursor>, limit: usize) -> Self {
        let after = after.map_or_else(String::new, |cursor| format!("&after={cursor}"));
        Self::bare("GET", format!("/v1/counts?pool={pool}&limit={limit}{after}"))
    }

    /// Something is to be recorded of a node.
    #[must_use]
    pub fn change_node(pool: &str, node: &NodeId, change: &NodeChange) -> Self {
        Self { method: "PUT", path: node_path(pool, node), body: json(change) }
    }

    /// What is recorded of a node is to be forgotten.
    #[must_use]
    pub fn forget_node(pool: &str, node: &NodeId) -> Self {
        Self::bare("DELETE", node_path(pool, node))
    }

    fn bare(method: &'static str, path: String) -> Self {
        Self { method, path, body: Vec::new() }
    }
}

fn node_path(pool: &str, node: &NodeId) -> String {
    format!("/v1/nodes/{}?pool={pool}", node.in_path())
}

/// The types of the wire have nothing that JSON could not hold.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
