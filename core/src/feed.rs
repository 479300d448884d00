//! The feed of one pool: what other proxies and operators did, and what this proxy tells them.
//!
//! One worker of each Envoy, the leader, long-polls the state service for changes and publishes them in a bounded log that
//! all workers read. Records of nodes go into the roster. The other way round the leader tells the state service of nodes
//! that it sees fail, so that all proxies keep away from them.
//!
//! A state machine like [`crate::affinity`]: it says which call is to be made, and what a reply means.

use std::collections::BTreeMap;

use crate::changelog::{Change, ChangeLog, Head, News, Reader, digest};
use crate::time::{Millis, Timer};
use crate::wire::{
    ApiRequest, ChangeKind, ChangesReply, Cursor, Event, MAX_COOLDOWN, NodeChange, NodeId, NodeRecord,
    NodesReply, SessionKey,
};

/// A poll without news ends after so many milliseconds. While a service hangs no changes arrive, so it is short.
const WAIT: u64 = 5_000;
/// A poll that is not answered by then is lost.
const POLL_TIMEOUT: Millis = Millis(WAIT + 2_000);
const TIMEOUT: Millis = Millis(1_000);
/// After a call that failed, or the second resync in a row.
const PAUSE: Millis = Millis(1_000);
/// After a poll that failed: while no poll waits, no change is received.
const POLL_PAUSE: Millis = Millis(200);
/// How often all records are read, in case that a change of one was missed.
const NODES_INTERVAL: Millis = Millis(10_000);
/// The service refuses longer ones; a node that stays down is reported again.
const LONGEST_COOLDOWN: Millis = Millis(MAX_COOLDOWN);

/// One pool's feed.
#[derive(Debug)]
pub struct Feed {
    pool: String,
    reader: Reader,
    cursor: Option<Cursor>,
    /// The last answer said that changes were missed.
    has_resynced: bool,
    changes: Line,
    nodes: Line,
    cooldown: Line,
    /// When each failed node was reported to the state service, and until when it is out by that.
    reported: BTreeMap<String, (Millis, Millis)>,
}

/// A call to make.
#[derive(Debug)]
pub struct FeedCall {
    /// To report with [`Feed::call_started`] or [`Feed::call_refused`].
    pub kind: FeedCallKind,
    /// What to send.
    pub request: ApiRequest,
    /// How long to wait for the answer.
    pub timeout: Millis,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedCallKind {
    /// Changes of pins and records.
    Changes,
    /// All records.
    Nodes,
    /// The report of a node that fails.
    Cooldown,
}

/// What a reply means.
#[derive(Debug)]
pub enum FeedReply {
    /// Nothing.
    Nothing,
    /// This is to be published; see [`Feed::published`].
    Publish(Publication),
    /// These records are to go into the roster.
    Records(Vec<NodeRecord>),
}

/// What is to be published.
#[derive(Debug)]
pub struct Publication {
    /// Changes were missed before these.
    pub is_gap: bool,
    /// The changed sessions.
    pub changes: Vec<(SessionKey, Change)>,
    /// For the roster.
    pub records: Vec<NodeRecord>,
    /// Where the next poll goes on.
    pub cursor: Cursor,
}

/// One kind of call, at most one of which is under way.
#[derive(Debug)]
struct Line {
    token: Option<u32>,
    timer: Timer,
}

impl Default for Line {
    fn default() -> Self {
        Self { token: None, timer: Timer::new(NODES_INTERVAL) }
    }
}

impl Line {
    fn is_due(&self, now: Millis) -> bool {
        self.token.is_none() && self.timer.is_due(now)
    }

    /// True if this is its end.
    fn ended(&mut self, token: u32) -> bool {
        self.token.take_if(|call| *call == token).is_some()
    }
}

impl Feed {
    /// A feed that has read nothing.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        Self {
            pool: pool.to_owned(),
            reader: Reader::default(),
            cursor: None,
            has_resynced: false,
            changes: Line::default(),
            nodes: Line::default(),
            cooldown: Line::default(),
            reported: BTreeMap::new(),
        }
    }

    /// Reads on from where the pins that were taken over are up to date.
    pub fn succeed(&mut self, former: &Self) {
        self.reader = former.reader.clone();
    }

    /// This worker leads from now on, and reads on from where its predecessor was.
    pub fn lead_from(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
        self.reported.clear();
    }

    /// True if the published log has something that this worker has not read.
    #[must_use]
    pub fn is_behind(&self, head: Head) -> bool {
        self.reader.is_behind(head)
    }

    /// Reads the published log to its end.
    pub fn read(&mut self, log: &ChangeLog) -> News {
        self.reader.catch_up(log)
    }

    /// The leader's next call. `cooldowns` are the nodes in a cooldown that was seen here, and its ends; none of a priority
    /// in panic. Old knowledge must not renew itself: of a node that is still unhealthy the cooldown runs from the last look.
    pub fn poll_call(
        &mut self,
        now: Millis,
        cooldowns: impl FnOnce() -> Vec<(String, Millis)>,
    ) -> Option<FeedCall> {
        if self.changes.is_due(now) {
            let request = ApiRequest::changes(&self.pool, self.cursor.as_ref(), WAIT);
            return Some(FeedCall { kind: FeedCallKind::Changes, request, timeout: POLL_TIMEOUT });
        }
        if self.nodes.is_due(now) {
            let request = ApiRequest::nodes(&self.pool);
            return Some(FeedCall { kind: FeedCallKind::Nodes, request, timeout: TIMEOUT });
        }
        if !self.cooldown.is_due(now) {
            return None;
        }
        let request = self.next_cooldown(&cooldowns(), now)?;
        Some(FeedCall { kind: FeedCallKind::Cooldown, request, timeout: TIMEOUT })
    }

    /// Members joined. What is on record of them is asked for soon: of a node that was away for long nothing is remembered.
    pub fn handle_newcomers(&mut self, now: Millis) {
        self.nodes.timer.hasten(now, PAUSE);
    }

    /// The call was made; its answer will bear `token`.
    pub fn call_started(&mut self, kind: FeedCallKind, token: u32) {
        self.line(kind).token = Some(token);
    }

    /// The call could not be made.
    pub fn call_refused(&mut self, kind: FeedCallKind, now: Millis) {
        self.line(kind).timer.set(now, PAUSE);
        if kind == FeedCallKind::Cooldown {
            self.reported.clear();
        }
    }

    /// A call came to its end; without a body if it failed. `None` if it was none of these.
    pub fn handle_reply(&mut self, token: u32, body: Option<&[u8]>, now: Millis) -> Option<FeedReply> {
        if self.changes.ended(token) {
            let reply = body.and_then(|json| serde_json::from_slice::<ChangesReply>(json).ok());
            // After each resync all sessions are asked about again: a log that always says so must not be asked on each
            // tick.
            let resyncs = reply.as_ref().is_some_and(|reply| reply.resync);
            let pause = match &reply {
                None => POLL_PAUSE,
                Some(_) if resyncs && self.has_resynced => PAUSE,
                Some(_) => Millis(0),
            };
            self.has_resynced = resyncs;
            self.changes.timer.set(now, pause);
            return Some(reply.map_or(FeedReply::Nothing, |reply| self.publication(reply, now)));
        }
        if self.nodes.ended(token) {
            let reply = body.and_then(|json| serde_json::from_slice::<NodesReply>(json).ok());
            self.nodes.timer.set(now, if reply.is_some() { NODES_INTERVAL } else { PAUSE });
            return Some(reply.map_or(FeedReply::Nothing, |reply| {
                let by_clock = by_clock(reply.now_ms, now);
                FeedReply::Records(reply.nodes.into_iter().map(by_clock).collect())
            }));
        }
        if self.cooldown.ended(token) {
            if body.is_none() {
                self.reported.clear();
                self.cooldown.timer.set(now, PAUSE);
            }
            return Some(FeedReply::Nothing);
        }
        None
    }

    /// Everything up to this cursor is published. If it could not be, the same changes come again from the old cursor.
    pub fn published(&mut self, cursor: Cursor) {
        self.cursor = Some(cursor);
    }

    fn publication(&self, reply: ChangesReply, now: Millis) -> FeedReply {
        let by_clock = by_clock(reply.now_ms, now);
        FeedReply::Publish(Publication {
            is_gap: reply.resync || self.cursor.is_none(),
            changes: reply.events.iter().filter_map(change).collect(),
            records: reply.events.into_iter().filter_map(|event| event.record).map(by_clock).collect(),
            cursor: reply.cursor,
        })
    }

    /// Reports one node that failed, or that is out for notably longer than was reported.
    fn next_cooldown(&mut self, cooldowns: &[(String, Millis)], now: Millis) -> Option<ApiRequest> {
        // What a clock said that was set back since says nothing.
        self.reported.retain(|_, (since, until)| *since <= now && now < *until);
        cooldowns.iter().find_map(|(node, until)| {
            let name = node.parse::<NodeId>().ok()?;
            let until = (*until).min(now + LONGEST_COOLDOWN);
            let reported = self.reported.get(node).map(|(_, until)| *until).unwrap_or_default();
            if until.since(reported).0 < (until.since(now).0 / 4).max(1) {
                return None;
            }
            self.reported.insert(node.clone(), (now, until));
            // The clocks of proxies differ, so what is left of it is said, and not when it ends.
            let change = NodeChange { cooldown_ms: Some(until.since(now).0), ..NodeChange::default() };
            Some(ApiRequest::change_node(&self.pool, &name, &change))
        })
    }

    fn line(&mut self, kind: FeedCallKind) -> &mut Line {
        match kind {
            FeedCallKind::Changes => &mut self.changes,
            FeedCallKind::Nodes => &mut self.nodes,
            FeedCallKind::Cooldown => &mut self.cooldown,
        }
    }
}

/// Records as this proxy's clock has their times. A service of before does not say what its clock shows.
fn by_clock(store_ms: Option<u64>, now: Millis) -> impl Fn(NodeRecord) -> NodeRecord {
    move |record| record.by_clock(store_ms.unwrap_or(now.0), now.0)
}

/// What an event says of a pin.
fn change(event: &Event) -> Option<(SessionKey, Change)> {
    let change = match event.kind {
        ChangeKind::Rehomed => {
            let node = event.node.as_ref().map_or(0, |node| digest(node.as_str()));
            Change::Pinned { version: event.version?, node }
        }
        ChangeKind::Ended => Change::Ended,
        ChangeKind::Superseded => Change::Superseded(event.session_version),
        ChangeKind::Node | ChangeKind::Unknown => return None,
    };
    Some((event.key?, change))
}
