//! What the state service remembers: pins, nodes and the log of changes, in domain words.
//!
//! [`Store`] is the contract; `state/tests/contract/` holds every implementation to it. A store keeps no session id,
//! only keys, and decides nothing about health: each resolve names the unusable nodes, and the store keeps what operators
//! and proxies recorded of nodes.

pub mod claims;
pub mod memory;
pub mod one_call;
pub mod placing;
pub mod readiness;
pub mod redis;
pub mod versions;

use async_trait::async_trait;
use berth_core::time::Millis;
use berth_core::wire::{
    ChangesReply, CountReply, Cursor, NodeChange, NodeId, NodeRecord, Pin, PoolName, ResolveRequest,
    SessionKey, SessionReply, StoreId, TouchReply, TouchRequest,
};

pub use self::memory::Memory;
use self::readiness::Readiness;
pub use self::redis::Redis;

/// How long and how much a store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// A pin that is neither resolved nor touched lives this long, unless its session has an idle time of its own.
    pub ttl: Millis,
    /// The version of an ended session is remembered this long, so that no proxy that missed the end begins it again.
    pub ended: Millis,
    /// Changes kept, at least: per pool in memory, per pool and shard in Redis.
    pub changes: usize,
}

impl Default for Keeping {
    fn default() -> Self {
        // The death of one of ten nodes that hold a million sessions makes 100,000 changes: 6,250 in each of 16 shards.
        Self { ttl: Millis(30 * 60_000), ended: Millis(5 * 60_000), changes: 8192 }
    }
}

/// A session that was renewed more often than this keeps its oldest pins until they expire by themselves.
pub const MAX_FORMERS: usize = 8;

/// Why a store did not answer. It may have done what it was asked all the same: each verb may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer within the time.
    #[error("the store did not answer in time")]
    Timeout,
    /// It did not answer lately, so it was not asked.
    #[error("the store did not answer lately and is probed")]
    Suspended,
    /// There is no connection.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// It answered, but refused or answered something unexpected.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// A [`StoreError`] without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// [`StoreError::Timeout`]
    Timeout,
    /// [`StoreError::Suspended`]
    Suspended,
    /// [`StoreError::Unreachable`]
    Unreachable,
    /// [`StoreError::Refused`]
    Refused,
}

impl StoreErrorKind {
    /// Every kind, for a metric per kind.
    pub const ALL: [Self; 4] = [Self::Timeout, Self::Suspended, Self::Unreachable, Self::Refused];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Suspended => "suspended",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

impl StoreError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Timeout => StoreErrorKind::Timeout,
            Self::Suspended => StoreErrorKind::Suspended,
            Self::Unreachable(_) => StoreErrorKind::Unreachable,
            Self::Refused(_) => StoreErrorKind::Refused,
        }
    }
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<T> {
    /// What was written, or whether anything was.
    pub outcome: T,
    /// Whether replicas confirmed it, with all that belongs to it; `None` unless the store waits for them.
    pub durable: Option<bool>,
}

impl<T> Written<T> {
    /// Of one store that has no replicas, or is not to wait for them.
    pub(crate) fn plain(outcome: T) -> Self {
        Self { outcome, durable: None }
    }

    /// Together with what was written before it.
    pub(crate) fn with(self, other: Option<bool>) -> Self {
        Self { durable: both(self.durable, other), ..self }
    }
}

/// Whether both are confirmed, as far as replicas were asked.
pub(crate) fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one && other),
        (known, None) | (None, known) => known,
    }
}

/// Pins, nodes and changes of all pools. Pools are apart: nothing in one shows in another, and none has to be made.
///
/// - **One owner.** Of any number of concurrent resolves of a session, all get the same owner for the same version.
/// - **Versions only grow**, with each change of the owner, and no version of a session is ever given to two nodes, also when
///   the store lost its latest writes or all of them: [`versions`] says how.
/// - **The newest version wins**: who says a newer one than the store has knows a write that was lost, and it is written again.
/// - **Of two claims the earlier one stays**: the later one was made since the store had lost it. Unless the session ended in between.
/// - **A change and its event are one step**: who sees the new owner finds the event in the log.
/// - **A session's version only grows** while its pin lives; where it does and the owner stays, an event says so.
/// - **No pin outlives its session's end**, the earliest that was ever said. One that is resolved after it gets an answer,
///   of which nothing is stored.
/// - **Panic rewrites nothing**: neither owner nor version of a pin that is there.
/// - Every verb may be repeated after a failure: it then finds what it did.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Finds, claims or rehomes each session; atomic per session, in the order of the request. [`placing`] has the rule.
    /// A pin lives its full time again.
    ///
    /// A session whose part of the store does not answer has no pin in the answer; if no session has one, the answer is the failure.
    ///
    /// A found pin is answered with `restore`, once, when its owner's boot id is another than when the pin last met it.
    ///
    /// Former keys are looked up before the first session is resolved, and afterwards learn a higher session version, which
    /// is no use of them and may fail unseen. Another may move a former pin meanwhile; then the session goes where that pin
    /// was a moment ago, unless that node is unusable or in cooldown, and lives there as well as anywhere.
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError>;

    /// The full time of a pin whose session has no other.
    fn ttl(&self) -> Millis;

    /// Which store has this pool's pins, as far as is known without asking it.
    fn id(&self, pool: &PoolName) -> StoreId;

    /// Whether a service answered for this pool lately.
    async fn knows(&self, pool: &PoolName) -> Result<bool, StoreError>;

    /// Gives each pin its full time again, but not beyond its session's end. What the request says of pins is compared, and one that
    /// is not there is written again, unless its session ended.
    async fn touch(&self, request: &TouchRequest) -> Result<TouchReply, StoreError>;

    /// A pin with its owner's record and its latest changes. Does not count as use.
    async fn session(&self, pool: &PoolName, key: SessionKey) -> Result<Option<SessionReply>, StoreError>;

    /// Ends a session that was over so long ago, by the store's own clock; false if there is nothing to end. A pin whose node
    /// has had it for less time is a newer session's, or was used since: it stays. What the session was called before its
    /// identifier was rotated ends with it, up to [`MAX_FORMERS`] names back: else a token from then would begin it again.
    async fn end(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError>;

    /// How many pins each node has, of those that are found by looking at about so many keys of the store, of any pool, or at
    /// fewer if that takes long. There is no index by node: a claim must not pay for what is seldom asked.
    ///
    /// [`CountReply::next`] is where the next call goes on. Calls that go on until one is complete have seen every pin that was
    /// there all the time, some perhaps twice. A position that this store does not know, or knows no longer, is the beginning.
    async fn count(
        &self,
        pool: &PoolName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<CountReply, StoreError>;

    /// All nodes of which anything is recorded, by name; those that were forgotten are among them for a while
    /// ([`NodeRecord::is_spent`]).
    async fn nodes(&self, pool: &PoolName) -> Result<Vec<NodeRecord>, StoreError>;

    /// The time on the clock by which the cooldowns of this pool's records end.
    async fn time(&self, pool: &PoolName) -> Result<Millis, StoreError>;

    /// Changes a node's record ([`NodeRecord::with`]) and returns it. What changes nothing makes no event.
    async fn change_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        change: &NodeChange,
    ) -> Result<Written<NodeRecord>, StoreError>;

    /// Forgets what is recorded of a node, its cooldown included ([`NodeRecord::without_all`]); false if nothing is. It is a
    /// change of the record like any other.
    async fn forget_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError>;

    /// The position before all changes, without a call to the store. A poll from it gets old changes, or a resync.
    fn origin(&self) -> Cursor;

    /// The newest position in the log.
    async fn head(&self, pool: &PoolName) -> Result<Cursor, StoreError>;

    /// What came after a position, at most about `limit` events at a time; does not wait. A position that fell off the
    /// log, or that this store never gave out, is answered with `resync` and the newest position.
    async fn changes(
        &self,
        pool: &PoolName,
        after: &Cursor,
        limit: usize,
    ) -> Result<ChangesReply, StoreError>;

    /// Entries of the log that could not be read and were passed over, once for each reader.
    fn unreadable(&self) -> u64 {
        0
    }

    /// Which shards take writes, as was found out lately: it costs the store nothing to ask.
    async fn readiness(&self) -> Readiness;

    /// Whether at least one shard takes writes.
    async fn ready(&self) -> Result<(), StoreError> {
        let readiness = self.readiness().await;
        if readiness.takes { Ok(()) } else { Err(StoreError::Unreachable(readiness.to_string())) }
    }
}
