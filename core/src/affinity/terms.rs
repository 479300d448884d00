//! What goes into the engine and comes out of it, besides calls: settings, requests, answers, events.

use std::rc::Rc;

use crate::config::{Session, StateCluster, Superseded};
use crate::decision::{Decision, PoolPolicy};
use crate::session::SessionId;
use crate::time::Millis;
use crate::wire::{PoolName, StoreId};

/// The settings of one pool's engine, fixed when it is created.
#[derive(Debug, Clone)]
pub struct AffinityConfig {
    /// The pool's name.
    pub pool: PoolName,
    /// The state service.
    pub state: Rc<StateCluster>,
    /// What becomes of requests that cannot be placed as usual.
    pub policy: PoolPolicy,
    /// Lookups under way at once: this pool's share of the worker's.
    pub max_calls: usize,
    /// The shortest time that any rule lets a session live unused.
    pub shortest_ttl: Option<Millis>,
}

/// On what terms a request wants its session placed.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What its rule says of sessions.
    pub session: Rc<Session>,
    /// Only the session's node may serve it.
    pub is_strict: bool,
    /// When it ends at the latest.
    pub ends: Option<Millis>,
    /// When it began.
    pub created: Option<Millis>,
    /// The version of its token.
    pub version: Option<u32>,
    /// What it was called before.
    pub previous: Option<SessionId>,
    /// Berth has just made its id: its client may never send it.
    pub is_issued: bool,
}

impl Terms {
    /// A token of a lower version than was seen is refused.
    pub(super) fn is_latest_only(&self) -> bool {
        self.session.superseded == Superseded::Reject
    }
}

/// A request that wants its session placed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The stream that is released if it has to wait.
    pub stream: u32,
    /// Its session.
    pub id: &'r SessionId,
    /// On what terms.
    pub terms: &'r Terms,
    /// It waited already, for the first members or for keys: during a start its time has begun.
    pub has_waited: bool,
}

/// What becomes of a request that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was decided at once.
    Decided(Decision),
    /// It waits for a [`Release`](super::Release), which may be there already.
    Wait,
}

/// What the log is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state service does not answer; the detail says how it fails.
    StateAway(String),
    /// The state service answers again.
    StateBack,
    /// The name of this node cannot be the name of a pin's owner.
    Unnameable(String),
    /// Answers come from these two stores in turn, and each has pins of its own.
    TwoStores(StoreId, StoreId),
}
