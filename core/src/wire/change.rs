//! The log of changes that lets every proxy drop a stale pin soon.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MAX_CURSOR;
use super::name::{NodeId, SessionKey};
use super::node::NodeRecord;

/// A position in a pool's log of changes. Opaque: only the service that made it reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor(Box<str>);

impl Cursor {
    /// The position as text, fit for a query string as it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if (1..=MAX_CURSOR).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.into()))
        } else {
            Err("is not a cursor: use one that a reply contained")
        }
    }
}

/// Which store pins are kept in. Opaque: a random name that the store got with its first entry, and gets again once it was
/// emptied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(Box<str>);

impl StoreId {
    /// A store of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name of a store that the service does not know: its part of the store is away.
    #[must_use]
    pub fn unknown() -> Self {
        Self::new("unknown")
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        &*self.0 == "unknown"
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `GET /v1/changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesReply {
    /// Poll on from here.
    pub cursor: Cursor,
    /// Changes were missed: forget all pins of the pool (they are resolved again) and poll on from the cursor.
    #[serde(default)]
    pub resync: bool,
    /// What happened since, oldest first per session and per node. An event may come twice.
    pub events: Vec<Event>,
    /// The time on the store's clock; absent if no event has a record with a cooldown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Tells this event from all others of the pool. To poll on, use the reply's cursor.
    pub cursor: Cursor,
    /// What happened.
    pub kind: ChangeKind,
    /// To which session; absent for a node's change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SessionKey>,
    /// The new owner, the last owner of an ended session, or the node that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The owner before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeId>,
    /// Of the pin or of the node's record; of a session that ended without a pin, the time of its end as a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why.
    pub reason: Reason,
    /// When, by the store's clock.
    pub time_ms: u64,
    /// Of the request that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Of the session, where it was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_version: Option<u32>,
    /// The node's record after its change, so that proxies need not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<NodeRecord>,
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A session has a new owner.
    Rehomed,
    /// A session has no owner any more.
    Ended,
    /// A session has a higher version or a shorter life, the owner stays: a proxy that remembers its pin asks again.
    Superseded,
    /// A node's record changed.
    Node,
    /// Something newer than this reader: skip it.
    #[serde(other)]
    Unknown,
}

impl ChangeKind {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rehomed => "rehomed",
            Self::Ended => "ended",
            Self::Superseded => "superseded",
            Self::Node => "node",
            Self::Unknown => "unknown",
        }
    }
}

/// Why something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The asking proxy could not use the owner.
    Unusable,
    /// The owner is in the cooldown that proxies share.
    Cooldown,
    /// Somebody ended the session, or had the node's record forgotten.
    Deleted,
    /// Somebody changed the node's record.
    Updated,
    /// The session came with a higher version.
    Raised,
    /// The session came with a higher version and under a new key.
    Rotated,
    /// The session came with a shorter idle time, or an earlier end.
    Shortened,
    /// The store had lost this owner's pin: a proxy said what it was.
    Recovered,
    /// Something newer than this reader.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unusable => "unusable",
            Self::Cooldown => "cooldown",
            Self::Deleted => "deleted",
            Self::Updated => "updated",
            Self::Raised => "raised",
            Self::Rotated => "rotated",
            Self::Shortened => "shortened",
            Self::Recovered => "recovered",
            Self::Unknown => "unknown",
        }
    }
}
