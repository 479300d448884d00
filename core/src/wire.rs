//! What the filter, the operator's command and the state service say to each other: version 1.
//!
//! The types live here once; golden JSON of each is in `core/testdata/wire`. It decides what is well-formed and how
//! large anything may be, not what the service does with it (`state/src/store.rs`).
//!
//! A request is read field by field: unknown fields are refused and every fault is named, because a misspelt field that
//! is ignored would place sessions wrongly and silently. A reply is read leniently: an old filter survives a new
//! service. Session ids never appear, only [`SessionKey`]s.

mod call;
mod change;
mod name;
mod node;
mod read;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

pub use self::call::ApiRequest;
pub use self::change::{ChangeKind, ChangesReply, Cursor, Event, Reason, StoreId};
pub use self::name::{MAX_NODE_NAME, NameError, NodeId, PoolName, SessionKey};
pub use self::node::{
    CountReply, ForgetReply, NodeChange, NodeRecord, NodeReply, NodeState, NodesReply, SPENT_KEPT,
};
pub use crate::config::Fault;

/// The longest request body, in bytes: the largest valid resolve request whose nodes are all IPv6 addresses is 0.9 MB. With
/// longer names fewer fit into one.
pub const MAX_BODY: usize = 1 << 20;
/// Sessions of one resolve request: what a busy worker gathers in one tick, and few enough not to hold up others.
pub const MAX_SESSIONS: usize = 256;
/// Candidates of one session. An owner and two successors are routed to; the rest is for when several nodes fail.
pub const MAX_CANDIDATES: usize = 8;
/// Nodes that may be named unusable for one session: more than can be candidates, as the owner need not be one.
pub const MAX_UNUSABLE: usize = 64;
/// Keys of one touch request. They cost a tenth of a resolve each.
pub const MAX_TOUCHED: usize = 1024;
/// A proxy touches a session in use once in this time, in milliseconds; more often if it lives for less than four times as long.
pub const TOUCH_INTERVAL: u64 = 60_000;
/// The longest a change poll may wait, in milliseconds; below the idle timeouts of common proxies.
pub const MAX_WAIT: u64 = 30_000;
/// The longest correlation id. Room for a UUID and for the ids of tracing systems.
pub const MAX_CORRELATION_ID: usize = 128;
/// The longest boot id.
pub const MAX_BOOT_ID: usize = 64;
/// The longest note on a node.
pub const MAX_NOTE: usize = 256;
/// The greatest weight, as in the plugin configuration.
pub const MAX_WEIGHT: u32 = 128;
/// The longest cooldown that can be said, in milliseconds: it never gets shorter, so a mistake must not take a node out
/// indefinitely. Twelve times the longest that proxies give by default.
pub const MAX_COOLDOWN: u64 = 3_600_000;
/// The longest cursor: sixteen positions in streams.
pub const MAX_CURSOR: usize = 512;
/// The shortest idle time of a session, in milliseconds: a proxy touches four times in it, with whole ticks between.
pub const MIN_TTL: u64 = 1_000;
/// The longest idle time of a session, in milliseconds: thirty days. Every pin takes memory for as long.
pub const MAX_TTL: u64 = 30 * 24 * 3_600_000;
/// The longest time since a session's end that can be said, in milliseconds: a pin that is not used lives no longer.
pub const MAX_ENDED_AGO: u64 = MAX_TTL;

/// `POST /v1/resolve`: who owns these sessions, claiming those that no node owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolveRequest {
    /// The pool of all the sessions.
    pub pool: PoolName,
    /// Where the asking proxy stands. Reserved: pins of all regions are one set today.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<PoolName>,
    /// The proxy has lost trust in what health says of some priority's nodes: no pin is rewritten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub panic: bool,
    /// The `x-request-id` of the request that asked; change events repeat it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// 1 to [`MAX_SESSIONS`], each key once.
    pub sessions: Vec<SessionAsk>,
}

/// One session of a resolve request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionAsk {
    /// Which session.
    pub key: SessionKey,
    /// Where it should live, best first: 1 to [`MAX_CANDIDATES`].
    pub candidates: Vec<NodeId>,
    /// Nodes that this proxy knows may not serve it, whether or not they are candidates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<NodeId>,
    /// It stays with its node, whatever becomes of that; a pin that is not there yet is claimed as any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// How long it lives unused, [`MIN_TTL`] to [`MAX_TTL`]; remembered. Absent is what was said before, or else the
    /// service's own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How long a pin that this question claims lives until the session is asked about again or touched, if that is shorter
    /// than its idle time: for a session that its client may never come back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_ttl_ms: Option<u64>,
    /// When it ends however much it is used, in Unix time; remembered, the earliest that was ever said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<u64>,
    /// When it began, by its token; for who inspects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
    /// Its version, by its token; remembered, the highest that was ever said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_version: Option<u32>,
    /// The key that this session had before its identifier was rotated: without a pin of its own it has that one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<SessionKey>,
    /// The pin that the asking proxy was given, if it cannot have expired since. If the store's pin is older, or not there, or a claim
    /// that came later, the store has lost this one. Only for services that name their store in replies: others refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<KnownPin>,
    /// No request asks: it is in use where it is known. If it ended since it was known there, nothing is claimed, and the
    /// answer is a pin that lives for 0 ms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renew: bool,
    /// It may not begin now: without a pin it is answered with where it would begin, version 0 and a life of 0 ms, and nothing is
    /// stored. The service decides that; it is not on the wire.
    #[serde(skip)]
    pub find_only: bool,
}

/// What a proxy believes of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPin {
    /// The pin's version.
    pub version: u64,
    /// Its owner.
    pub node: NodeId,
}

impl SessionAsk {
    /// Asks for a session of which nothing is known but its key.
    #[must_use]
    pub fn new(key: SessionKey, candidates: Vec<NodeId>, unusable: Vec<NodeId>) -> Self {
        Self {
            key,
            candidates,
            unusable,
            strict: false,
            ttl_ms: None,
            claim_ttl_ms: None,
            ends_ms: None,
            created_ms: None,
            session_version: None,
            alias_of: None,
            known: None,
            renew: false,
            find_only: false,
        }
    }
}

/// The answer to [`ResolveRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReply {
    /// In the order of the request. A session whose part of the store does not answer has none; at least one has.
    pub pins: Vec<Pin>,
    /// No change after this position is missing from a poll that starts at it.
    pub cursor: Cursor,
    /// How long these pins live from now on, but for those that say it themselves. Remember none for longer without
    /// resolving or touching it.
    pub ttl_ms: u64,
    /// Which store answered. It gets another name when it is emptied; two that alternate are two stores, each with pins of its
    /// own. Absent from services that compare nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
}

/// Where a session lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Which session.
    pub key: SessionKey,
    /// Its owner.
    pub node: NodeId,
    /// Grows with each change of the owner, also over a loss of the pin: no version is ever given to two nodes. By the store's
    /// clock, in microseconds, so that it grows without a memory of the last one.
    pub version: u64,
    /// How the answer came about.
    pub outcome: Outcome,
    /// The owner before, if this very request rehomed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeId>,
    /// The node was restarted since it last had this session: its memory is empty. Said once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restore: bool,
    /// Whether a replica has confirmed it; absent unless the service runs with quorum durability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// How long this one lives from now on, if not as long as the reply says: its session's idle time is another, its end
    /// comes first, or it was claimed for less. 0: it has ended, and nothing was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The highest version of its session that anyone ever said; absent is 0. Who asks with a lower one has an old token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_version: Option<u32>,
    /// Time since its owner last changed. An owner that a proxy does not know may be one that another proxy has just given
    /// the session to; one that has had it for longer is gone. Absent from services of before, and counts as long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_ms: Option<u64>,
}

/// How an owner was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The pin was there and stays, or the one under the session's former key was there and is inherited.
    Found,
    /// There was none; this request made it.
    Claimed,
    /// Its node, or that of its former key, may not serve it any more; this request moved it.
    Rehomed,
}

impl Outcome {
    /// Its name on the wire and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Claimed => "claimed",
            Self::Rehomed => "rehomed",
        }
    }
}

/// `POST /v1/touch`: these sessions are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TouchRequest {
    /// The pool of all the sessions.
    pub pool: PoolName,
    /// Sessions of which nothing is compared. With `pins` 1 to [`MAX_TOUCHED`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<SessionKey>,
    /// Sessions with what is known of them, to be compared. Only for services that name their store in replies: others refuse
    /// it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<TouchedPin>,
}

impl TouchRequest {
    /// All sessions, with what is known of them.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionKey, Option<&TouchedPin>)> {
        let plain = self.keys.iter().map(|key| (*key, None));
        plain.chain(self.pins.iter().map(|pin| (pin.key, Some(pin))))
    }
}

/// A session in use, and what the proxy believes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedPin {
    /// Which session.
    pub key: SessionKey,
    /// Where it is known.
    pub known: KnownPin,
    /// How long it lives at least, as the proxy knows: for a pin that the store has lost, with all else that was said of it. Absent is
    /// the service's own time.
    pub lives_ms: Option<u64>,
}

impl Serialize for TouchedPin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'p> {
            key: SessionKey,
            version: u64,
            node: &'p NodeId,
            #[serde(skip_serializing_if = "Option::is_none")]
            lives_ms: Option<u64>,
        }
        let Self { key, known: KnownPin { version, node }, lives_ms } = self;
        Flat { key: *key, version: *version, node, lives_ms: *lives_ms }.serialize(serializer)
    }
}

/// The answer to [`TouchRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchReply {
    /// How many of them have a pin, which now lives its full time again.
    pub touched: usize,
    /// Those that have none: ended, or expired or lost and nothing was said of them.
    pub missing: Vec<SessionKey>,
    /// Those that have another one than was said: ask where they are. One that is older than what was said is replaced by that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<SessionKey>,
    /// Those that were lost and have been written again, as was said: of what else was known of them the store has nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<SessionKey>,
    /// How long the others live from now on, but for those in `ttls_ms`.
    pub ttl_ms: u64,
    /// How long those live from now on whose idle time is another, or whose end comes first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ttls_ms: BTreeMap<SessionKey, u64>,
    /// Which store answered, as in [`ResolveReply::store`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreId>,
    /// Those whose part of the store did not answer: neither touched nor missing. Touch them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<SessionKey>,
}

/// `GET /v1/sessions/{key}`: a pin as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReply {
    /// Its pool.
    pub pool: PoolName,
    /// Which session.
    pub key: SessionKey,
    /// Its owner.
    pub node: NodeId,
    /// The pin's version.
    pub version: u64,
    /// Time since the session was first claimed.
    pub age_ms: u64,
    /// Time since the owner last changed.
    pub owned_ms: u64,
    /// Time until the pin expires unless it is touched.
    pub ttl_ms: u64,
    /// How long it lives unused; absent from services that know only their own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ttl_ms: Option<u64>,
    /// When it ends however much it is used, in Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<u64>,
    /// When the session began, by its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
    /// The highest version of the session that anyone ever said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_version: Option<u32>,
    /// The key whose pin it inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<SessionKey>,
    /// What is recorded of the owner; a node without a record is active.
    pub owner: NodeRecord,
    /// The latest changes of this session, oldest first, as far as they are kept.
    pub events: Vec<Event>,
}

/// The answer to `DELETE /v1/sessions/{key}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReply {
    /// True: there was a pin, and it is gone.
    pub ended: bool,
    /// Whether a replica has confirmed it; absent unless the service runs with quorum durability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
}

/// Every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What went wrong.
    pub error: ErrorBody,
}

/// The inside of [`ErrorReply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs, such as `invalid_request` or `store_unavailable`.
    pub code: String,
    /// For people: what to do.
    pub message: String,
    /// Each fault of an invalid request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Whether replicas confirmed what was written all the same: that a session without a pin is over. `None` if nothing was, or if
    /// they were not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
}
