//! What other proxies and operators did to one pool: one VM per Envoy asks, all VMs hear.
//!
//! The leader long-polls the state cluster's changes and publishes them in a bounded log in shared data, which every VM
//! reads on its ticks. Records of nodes go into the roster, which is published anyway. The other way round the leader
//! tells the state cluster of nodes that it sees fail, so that all proxies keep away from them.

use std::collections::BTreeMap;
use std::rc::Rc;

use berth_core::changelog::{ENDED, News, Reader, superseded_by};
use berth_core::config::StateCluster;
use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, ChangesReply, Cursor, Event, NodeChange, NodeId, NodeRecord, NodesReply, SessionKey,
};

use crate::host;
use crate::plugin::LivePool;
use crate::shared::ChangesKey;

/// A poll without news ends after this. Whom a service that hangs keeps waiting hears nothing for as long.
const WAIT: u64 = 5_000;
/// A poll that is not answered by then is lost.
const POLL_TIMEOUT: Millis = Millis(WAIT + 2_000);
const TIMEOUT: Millis = Millis(1_000);
/// After a call that failed, or the second resync in a row.
const PAUSE: Millis = Millis(1_000);
/// After a poll that failed: while no poll waits, no change is heard of.
const POLL_PAUSE: Millis = Millis(200);
/// All records, in case that a change of one was missed.
const NODES_INTERVAL: Millis = Millis(10_000);
/// The service refuses longer ones; a node that stays down is told of again.
const LONGEST_COOLDOWN: Millis = Millis(3_600_000);

/// One pool's feed.
pub(crate) struct Feed {
    state: Rc<StateCluster>,
    pool: String,
    key: ChangesKey,
    reader: Reader,
    cursor: Option<Cursor>,
    /// The last answer said that changes were missed.
    has_resynced: bool,
    changes: Call,
    nodes: Call,
    cooldown: Call,
    /// Until when each failed node is out, as told to the state cluster.
    told: BTreeMap<String, Millis>,
}

/// One kind of call, at most one of which is under way.
#[derive(Default)]
struct Call {
    token: Option<u32>,
    next: Millis,
}

impl Call {
    /// A clock that was set back must not stop it.
    fn is_due(&self, now: Millis) -> bool {
        self.token.is_none() && (now >= self.next || self.next.since(now) > NODES_INTERVAL)
    }

    fn made(&mut self, token: Result<u32, host::Failure>, now: Millis) {
        self.token = token.ok();
        if self.token.is_none() {
            self.next = now + PAUSE;
        }
    }

    /// True if this is its end.
    fn ended(&mut self, token: u32) -> bool {
        let is_it = self.token == Some(token);
        if is_it {
            self.token = None;
        }
        is_it
    }
}

impl Feed {
    pub(crate) fn new(pool: &str, state: &Rc<StateCluster>) -> Self {
        Self {
            key: ChangesKey::new(pool, &state.cluster),
            pool: pool.to_owned(),
            state: Rc::clone(state),
            reader: Reader::default(),
            cursor: None,
            has_resynced: false,
            changes: Call::default(),
            nodes: Call::default(),
            cooldown: Call::default(),
            told: BTreeMap::new(),
        }
    }

    /// Reads on from where the pins that were taken over are up to date.
    pub(crate) fn succeed(&mut self, old: &Self) {
        self.reader = old.reader.clone();
    }

    /// What was published since the last look.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.reader.is_behind(self.key.head()).then(|| self.reader.catch_up(&self.key.read()))
    }

    /// This VM leads from now on, and reads on from where its predecessor was.
    pub(crate) fn take_over(&mut self) {
        self.cursor = self.key.cursor();
        self.told.clear();
    }

    /// The leader's part of a tick.
    pub(crate) fn lead(&mut self, pool: &LivePool, now: Millis) {
        if self.changes.is_due(now) {
            let path = match &self.cursor {
                Some(cursor) => format!("/v1/changes?pool={}&after={cursor}&wait={WAIT}", self.pool),
                // Only to learn where the log is.
                None => format!("/v1/changes?pool={}&wait=0", self.pool),
            };
            let token = host::call(&self.state, "GET", &path, &[], POLL_TIMEOUT);
            self.changes.made(token, now);
        }
        if self.nodes.is_due(now) {
            let path = format!("/v1/nodes?pool={}", self.pool);
            let token = host::call(&self.state, "GET", &path, &[], TIMEOUT);
            self.nodes.made(token, now);
        }
        if self.cooldown.is_due(now) {
            self.tell_cooldown(pool, now);
        }
    }

    /// A call came to its end. False if it was none of these.
    pub(crate) fn answered(&mut self, pool: &LivePool, token: u32, body: Option<&[u8]>, now: Millis) -> bool {
        if self.changes.ended(token) {
            let reply = body.and_then(|json| serde_json::from_slice::<ChangesReply>(json).ok());
            // Each resync has all sessions asked about anew: a log that always says so must not be asked on each tick.
            let resyncs = reply.as_ref().is_some_and(|reply| reply.resync);
            let pause = match &reply {
                None => POLL_PAUSE,
                Some(_) if resyncs && self.has_resynced => PAUSE,
                Some(_) => Millis(0),
            };
            self.has_resynced = resyncs;
            self.changes.next = now + pause;
            if let Some(reply) = reply {
                self.publish(pool, reply, now);
            }
            true
        } else if self.nodes.ended(token) {
            self.nodes.next = now + NODES_INTERVAL;
            match body.and_then(|json| serde_json::from_slice::<NodesReply>(json).ok()) {
                Some(reply) => record(pool, &reply.nodes, now),
                None => self.nodes.next = now + PAUSE,
            }
            true
        } else if self.cooldown.ended(token) {
            if body.is_none() {
                self.told.clear();
                self.cooldown.next = now + PAUSE;
            }
            true
        } else {
            false
        }
    }

    fn publish(&mut self, pool: &LivePool, reply: ChangesReply, now: Millis) {
        let is_gap = reply.resync || self.cursor.is_none();
        let changes: Vec<(SessionKey, u64)> = reply.events.iter().filter_map(change).collect();
        if is_gap || !changes.is_empty() {
            let published = self.key.update(|log| {
                if is_gap {
                    log.note_gap();
                }
                log.append(changes.iter().copied());
            });
            if !published {
                // The same events come again from the old cursor.
                return;
            }
        }
        let records: Vec<NodeRecord> = reply.events.into_iter().filter_map(|event| event.record).collect();
        if !records.is_empty() {
            record(pool, &records, now);
        }
        if self.cursor.as_ref() != Some(&reply.cursor) {
            self.key.set_cursor(&reply.cursor);
        }
        self.cursor = Some(reply.cursor);
        if let Some(news) = self.news() {
            pool.hear(news);
        }
    }

    /// Tells of one node that failed, or is out for notably longer than was told.
    fn tell_cooldown(&mut self, pool: &LivePool, now: Millis) {
        self.told.retain(|_, until| now < *until);
        for (node, until) in pool.cooldowns(now) {
            let Ok(name) = node.parse::<NodeId>() else { continue };
            let until = until.min(now + LONGEST_COOLDOWN);
            let told = self.told.get(&node).copied().unwrap_or_default();
            if until.since(told).0 < (until.since(now).0 / 4).max(1) {
                continue;
            }
            let change = NodeChange { cooldown_until_ms: Some(until.0), ..NodeChange::default() };
            let path = format!("/v1/nodes/{}?pool={}", name.in_path(), self.pool);
            let body = serde_json::to_vec(&change).unwrap_or_default();
            let token = host::call(&self.state, "PUT", &path, &body, TIMEOUT);
            self.cooldown.made(token, now);
            self.told.insert(node, until);
            return;
        }
    }
}

/// What an event says of a pin.
fn change(event: &Event) -> Option<(SessionKey, u64)> {
    match event.kind {
        ChangeKind::Rehomed => Some((event.key?, event.version?)),
        ChangeKind::Ended => Some((event.key?, ENDED)),
        // One that does not say by which version outdates all.
        ChangeKind::Superseded => {
            Some((event.key?, superseded_by(event.session_version.unwrap_or(u32::MAX))))
        }
        ChangeKind::Node | ChangeKind::Unknown => None,
    }
}

fn record(pool: &LivePool, records: &[NodeRecord], now: Millis) {
    let policy = &pool.config.health;
    if let Some(roster) = pool.key.update(|roster| roster.record(records, policy, now)) {
        pool.adopt(roster, now);
    }
}
