//! The one store that all services share: the real memory store, with a log of its writes so that it can lose the last of
//! them, as a failover to a replica that lags does.
//!
//! A replica has what the primary had a moment ago. It is made by doing again all but the lost writes, each at its own time.
//! As in the real replicated store, positions in the log of changes are never used twice, and a reader that is ahead of the
//! log has to forget what it knows.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use berth_core::time::Millis;
use berth_core::wire::{
    ChangesReply, Cursor, Event, NodeChange, NodeId, NodeRecord, Pin, PoolName, ResolveRequest, SessionKey,
    SessionReply, TouchReply, TouchRequest,
};
use berth_state::store::memory::Memory;
use berth_state::store::{Keeping, Store as _};

/// A pin that is not used lives for a minute. What else is kept is the run's choice.
const KEEPING: Keeping = Keeping { ttl: Millis(60_000), ended: Millis(20_000), changes: 0 };

/// A write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Of sessions.
    Resolve(ResolveRequest),
    /// Of sessions that are in use.
    Touch(TouchRequest),
    /// Of a session that was over so long ago.
    End(SessionKey, Millis),
    /// Of a node.
    Node(NodeId, NodeChange),
}

/// What came of a write.
#[derive(Debug)]
pub enum Written {
    /// The pins of the sessions.
    Pins(Vec<Pin>),
    /// What became of the touched.
    Touched(TouchReply),
    /// Whether there was something to end.
    Ended(bool),
    /// The node's record.
    Record(NodeRecord),
}

struct Done {
    at: u64,
    write: Write,
    /// The positions of its events.
    positions: Vec<u64>,
}

/// The store.
pub struct Store {
    pool: PoolName,
    keeping: Keeping,
    memory: Memory,
    clock: Arc<AtomicU64>,
    done: Vec<Done>,
    /// Of each change that the memory store has, its position.
    positions: Vec<u64>,
    next: u64,
    /// Sessions of which a write was lost.
    pub lost: BTreeSet<SessionKey>,
    /// Nodes of which a write was lost.
    pub lost_nodes: BTreeSet<String>,
}

impl Store {
    /// An empty one that keeps so many changes. If they are few, a reader that was away falls off their end.
    #[must_use]
    pub fn new(pool: PoolName, changes: usize) -> Self {
        let keeping = Keeping { changes, ..KEEPING };
        let clock = Arc::new(AtomicU64::new(0));
        Self {
            memory: memory(keeping, &clock),
            keeping,
            pool,
            clock,
            done: Vec::new(),
            positions: Vec::new(),
            next: 1,
            lost: BTreeSet::new(),
            lost_nodes: BTreeSet::new(),
        }
    }

    /// Writes at `now`. Returns as well the events that the write made.
    pub fn write(&mut self, write: Write, now: Millis) -> (Written, Vec<Event>) {
        self.clock.store(now.0, Ordering::Relaxed);
        let before = self.positions.len();
        let written = self.apply(&write);
        let count = self.count();
        let made: Vec<u64> = (before..count).map(|added| self.next + added as u64 - before as u64).collect();
        self.next += made.len() as u64;
        self.positions.extend(&made);
        self.done.push(Done { at: now.0, write, positions: made });
        (written, self.events_after(before))
    }

    /// The pin of a session.
    #[must_use]
    pub fn session(&self, key: SessionKey, now: Millis) -> Option<SessionReply> {
        self.clock.store(now.0, Ordering::Relaxed);
        ready(self.memory.session(&self.pool, key)).ok().flatten()
    }

    /// All records.
    #[must_use]
    pub fn nodes(&self, now: Millis) -> Vec<NodeRecord> {
        self.clock.store(now.0, Ordering::Relaxed);
        ready(self.memory.nodes(&self.pool)).unwrap_or_default()
    }

    /// The newest position.
    #[must_use]
    pub fn head(&self) -> Cursor {
        cursor(self.positions.last().copied().unwrap_or(0))
    }

    /// What came after a position.
    #[must_use]
    pub fn changes(&self, after: &Cursor) -> ChangesReply {
        let position = after.as_str().strip_prefix('g').and_then(|number| number.parse::<u64>().ok());
        let resync = ChangesReply { cursor: self.head(), resync: true, events: Vec::new(), now_ms: None };
        let Some(position) =
            position.filter(|position| *position <= self.positions.last().copied().unwrap_or(0))
        else {
            return resync;
        };
        let seen = self.positions.partition_point(|other| *other <= position);
        match self.changes_after(seen) {
            Some(events) => ChangesReply { cursor: self.head(), resync: false, events, now_ms: None },
            None => resync,
        }
    }

    /// Another instance takes over that has not seen the writes since `since`.
    pub fn fail_over(&mut self, since: u64) {
        let kept = self.done.partition_point(|done| done.at < since);
        for done in self.done.split_off(kept) {
            match done.write {
                Write::Resolve(request) => {
                    self.lost.extend(request.sessions.iter().map(|ask| ask.key));
                    self.lost.extend(request.sessions.iter().filter_map(|ask| ask.alias_of));
                }
                Write::Touch(request) => self.lost.extend(request.sessions().map(|(key, _)| key)),
                Write::End(key, _) => self.lost.extend([key]),
                Write::Node(node, _) => self.lost_nodes.extend([node.to_string()]),
            }
        }
        self.memory = memory(self.keeping, &self.clock);
        self.positions.clear();
        for done in std::mem::take(&mut self.done) {
            self.clock.store(done.at, Ordering::Relaxed);
            self.apply(&done.write);
            self.positions.extend(&done.positions);
            self.done.push(done);
        }
    }

    fn apply(&self, write: &Write) -> Written {
        match write {
            Write::Resolve(request) => Written::Pins(ready(self.memory.resolve(request)).unwrap_or_default()),
            Write::Touch(request) => match ready(self.memory.touch(request)) {
                Ok(reply) => Written::Touched(reply),
                Err(_) => unreachable!("the memory store does not fail"),
            },
            Write::End(key, ago) => {
                let ended = ready(self.memory.end(&self.pool, *key, *ago, None));
                Written::Ended(ended.is_ok_and(|ended| ended.outcome))
            }
            Write::Node(node, change) => {
                match ready(self.memory.change_node(&self.pool, node.clone(), change)) {
                    Ok(changed) => Written::Record(changed.outcome),
                    Err(_) => unreachable!("the memory store does not fail"),
                }
            }
        }
    }

    /// How many changes the memory store has seen.
    fn count(&self) -> usize {
        let head = ready(self.memory.head(&self.pool)).ok();
        head.and_then(|head| head.as_str().rsplit_once('-')?.1.parse().ok()).unwrap_or(0)
    }

    fn events_after(&self, count: usize) -> Vec<Event> {
        self.changes_after(count).unwrap_or_default()
    }

    fn changes_after(&self, count: usize) -> Option<Vec<Event>> {
        let origin = self.memory.origin();
        let (life, _) = origin.as_str().rsplit_once('-')?;
        let after: Cursor = format!("{life}-{count}").parse().ok()?;
        let reply = ready(self.memory.changes(&self.pool, &after, usize::MAX)).ok()?;
        (!reply.resync).then_some(reply.events)
    }
}

fn memory(keeping: Keeping, clock: &Arc<AtomicU64>) -> Memory {
    let clock = Arc::clone(clock);
    Memory::new(keeping, Arc::new(move || Millis(clock.load(Ordering::Relaxed))))
}

fn cursor(position: u64) -> Cursor {
    match format!("g{position}").parse() {
        Ok(cursor) => cursor,
        Err(_) => unreachable!("letters and digits make a cursor"),
    }
}

/// The memory store never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the memory store answers at once"),
    }
}
