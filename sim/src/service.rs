//! What a state service makes of a call: the same reading, the same store, the same replies as `state/src/api.rs`.

use berth_core::time::Millis;
use berth_core::wire::{
    ApiRequest, Cursor, EndReply, NodeChange, NodeId, ResolveRequest, SessionKey, TouchRequest,
};

use crate::store::Write;

/// A call, understood.
#[derive(Debug, Clone)]
pub enum Asked {
    /// It writes.
    Write(Write),
    /// It reads all records.
    Nodes,
    /// It waits for changes after a position, for so long; without a position it only asks where the log is.
    Changes(Option<Cursor>, u64),
}

/// Reads a call. `None` if it is not well-formed, which no proxy may send.
#[must_use]
pub fn read(request: &ApiRequest) -> Option<Asked> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    };
    Some(match (request.method, path) {
        ("POST", "/v1/resolve") => Asked::Write(Write::Resolve(ResolveRequest::parse(&request.body).ok()?)),
        ("POST", "/v1/touch") => Asked::Write(Write::Touch(TouchRequest::parse(&request.body).ok()?)),
        ("GET", "/v1/nodes") => Asked::Nodes,
        ("GET", "/v1/changes") => {
            let after = match parameter("after") {
                Some(after) => Some(after.parse().ok()?),
                None => None,
            };
            Asked::Changes(after, parameter("wait")?.parse().ok()?)
        }
        ("DELETE", path) => {
            let key: SessionKey = path.strip_prefix("/v1/sessions/")?.parse().ok()?;
            let ago = match parameter("ended_ago_ms") {
                Some(ago) => Millis(ago.parse().ok()?),
                None => Millis(0),
            };
            Asked::Write(Write::End(key, ago))
        }
        ("PUT", path) => {
            let node: NodeId = path.strip_prefix("/v1/nodes/")?.parse().ok()?;
            Asked::Write(Write::Node(node, NodeChange::parse(&request.body).ok()?))
        }
        _ => return None,
    })
}

/// The body of a reply.
#[must_use]
pub fn json(reply: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(reply).unwrap_or_default()
}

/// The body of the reply to an end.
#[must_use]
pub fn ended() -> Vec<u8> {
    json(&EndReply { ended: true, durable: None })
}
