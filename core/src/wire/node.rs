//! What is recorded of a node: the operator's intent, its boot id, and the cooldown that proxies share.

use serde::{Deserialize, Serialize};

use super::name::NodeId;

/// What the operator, or the node itself, wants of a node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Old and new sessions.
    #[default]
    Active,
    /// Old sessions only: something is wrong with it.
    Degraded,
    /// Old sessions only: it will leave.
    Draining,
    /// Old sessions only: it is held in reserve.
    Standby,
}

impl NodeState {
    /// All of them with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("active", Self::Active),
        ("degraded", Self::Degraded),
        ("draining", Self::Draining),
        ("standby", Self::Standby),
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Standby => "standby",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, state)| *state)
    }
}

/// A node as the state cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which node.
    pub node: NodeId,
    /// What is wanted of it.
    #[serde(default)]
    pub state: NodeState,
    /// Berth's factor on Envoy's weight; absent is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Different after each start of the node, if it says it at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Out of service until then, by the clock of the store; absent or past is in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_until_ms: Option<u64>,
    /// Grows with each change; 0 if nothing was ever said of the node.
    pub version: u64,
    /// When it last changed.
    #[serde(default)]
    pub updated_ms: u64,
}

impl NodeRecord {
    /// A node of which nothing is recorded: active.
    #[must_use]
    pub fn unknown(node: NodeId) -> Self {
        Self {
            node,
            state: NodeState::Active,
            weight: None,
            boot_id: None,
            note: None,
            cooldown_until_ms: None,
            version: 0,
            updated_ms: 0,
        }
    }

    /// True if shared cooldown keeps it out of service at `now_ms`.
    #[must_use]
    pub fn is_in_cooldown(&self, now_ms: u64) -> bool {
        self.cooldown_until_ms.is_some_and(|until| until > now_ms)
    }

    /// True if a session without an owner may come here.
    #[must_use]
    pub fn takes_new_sessions(&self, now_ms: u64) -> bool {
        self.state == NodeState::Active && !self.is_in_cooldown(now_ms)
    }

    /// The record with `change` made: what it leaves out stays, and cooldown never gets shorter. `None` if that changes
    /// nothing, so that a node may repeat itself.
    #[must_use]
    pub fn with(&self, change: &NodeChange, now_ms: u64) -> Option<Self> {
        let mut next = self.clone();
        next.state = change.state.unwrap_or(next.state);
        next.weight = change.weight.or(next.weight);
        next.boot_id = change.boot_id.clone().or(next.boot_id);
        next.note = match change.note.as_deref() {
            Some("") => None,
            Some(note) => Some(note.to_owned()),
            None => next.note,
        };
        next.cooldown_until_ms = next.cooldown_until_ms.max(change.cooldown_until_ms);
        if next == *self && self.version > 0 {
            return None;
        }
        next.version += 1;
        next.updated_ms = now_ms;
        Some(next)
    }
}

/// `PUT /v1/nodes/{node}`: what is to change; what is absent stays.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct NodeChange {
    /// The new state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<NodeState>,
    /// The new weight, 1 to [`super::MAX_WEIGHT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The boot id that the node has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The new note; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Out of service at least until then. Only ever extends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_until_ms: Option<u64>,
    /// The change event repeats it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesReply {
    /// All that anything was ever said of, in order of their address.
    pub nodes: Vec<NodeRecord>,
}
