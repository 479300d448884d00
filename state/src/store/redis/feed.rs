//! The feed of changes, by shard: one that is away keeps its place in the cursor, and those of the others go on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_core::wire::{ChangesReply, Cursor, Event, PoolName};

use super::call::{Group, Step};
use super::layout::{self, Position, SHARDS, Shard};
use super::reading::{self, misread};
use super::{Redis, scripts};
use crate::lock::lock;
use crate::store::StoreError;

/// Pools whose positions are remembered.
const POOLS: usize = 1024;

/// The newest position in each log of a pool that was seen. A shard that is away has this one: readers miss nothing of it.
#[derive(Default)]
pub(super) struct Heads {
    pools: Mutex<BTreeMap<PoolName, [Position; SHARDS]>>,
}

impl Heads {
    fn of(&self, pool: &PoolName) -> [Position; SHARDS] {
        lock(&self.pools).get(pool).copied().unwrap_or_default()
    }

    fn keep(&self, pool: &PoolName, heads: [Position; SHARDS]) {
        let mut pools = lock(&self.pools);
        if pools.len() >= POOLS && !pools.contains_key(pool) {
            // Forgotten, a pool's readers get old news or a resync from shards that are away.
            pools.clear();
        }
        pools.insert(pool.clone(), heads);
    }
}

/// Entries of the logs that were passed over.
#[derive(Default)]
pub(super) struct Unreadable {
    count: AtomicU64,
    last: Mutex<String>,
}

impl Unreadable {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Each reader comes across it once; the log names it once.
    fn note(&self, shard: &Shard, positions: &[Position]) {
        self.count.fetch_add(positions.len() as u64, Ordering::Relaxed);
        for position in positions {
            let entry = format!("{} {position}", shard.changes());
            let mut last = lock(&self.last);
            if *last != entry {
                tracing::warn!(
                    entry,
                    "a change cannot be read and is left out: is another program using the keys berth:*?"
                );
                *last = entry;
            }
        }
    }
}

/// The life of a log that no proxy reads, in ms. A reader that comes later is sent to the present.
const LOG_KEPT: u64 = 86_400_000;
/// That of what is recorded of nodes, in ms: as long as any proxy of the pool may be switched off.
const RECORDS_KEPT: u64 = 31 * 86_400_000;

impl Redis {
    /// The newest position, of shards that are away the newest that was seen.
    pub(super) async fn newest(&self, pool: &PoolName) -> Result<Cursor, StoreError> {
        let heads = self.heads_after(pool, self.heads.of(pool)).await?;
        self.heads.keep(pool, heads);
        Ok(layout::cursor(&heads))
    }

    /// The newest position of each shard, or this one of those that are away.
    async fn heads_after(
        &self,
        pool: &PoolName,
        mut heads: [Position; SHARDS],
    ) -> Result<[Position; SHARDS], StoreError> {
        let newest = |shard: Shard| {
            let step =
                Step::command("XREVRANGE").arg(shard.changes()).arg("+").arg("-").arg("COUNT").arg("1");
            Group { shard, steps: vec![step] }
        };
        let outcomes = self.link.feed_soon(Shard::all(pool).map(newest).collect()).await;
        let mut failed = Failed::default();
        for (head, outcome) in heads.iter_mut().zip(outcomes) {
            if let Some(answers) = failed.or(outcome) {
                let value = answers.values.first().ok_or_else(|| misread("the newest change"))?;
                *head = reading::newest(value)?.unwrap_or_default();
            }
        }
        failed.unless_some_answered().map(|()| heads)
    }

    pub(super) async fn changes_after(
        &self,
        pool: &PoolName,
        after: &Cursor,
        limit: usize,
    ) -> Result<ChangesReply, StoreError> {
        let Some(mut positions) = layout::positions(after) else {
            return Ok(resync(self.newest(pool).await?));
        };
        let count = limit.div_ceil(SHARDS);
        // The entry at the position, or the beginning of the log, is read as well.
        let read_count = count.saturating_add(1).to_string();
        let read = |(shard, position): (Shard, &Position)| {
            let mut keys = vec![shard.changes(), shard.nodes()];
            if shard.index() == 0 {
                keys.push(shard.records());
            }
            let step = Step::script(&scripts::CHANGES, &keys)
                .arg(position.to_string())
                .arg(read_count.as_str())
                .arg(LOG_KEPT)
                .arg(RECORDS_KEPT);
            Group { shard, steps: vec![step] }
        };
        let outcomes = self.link.feed(Shard::all(pool).zip(&positions).map(read).collect()).await;

        let mut events: Vec<Event> = Vec::new();
        let (mut failed, mut gap) = (Failed::default(), false);
        for ((shard, outcome), position) in Shard::all(pool).zip(outcomes).zip(&mut positions) {
            let Some(answers) = failed.or(outcome) else { continue };
            let value = answers.values.first().ok_or_else(|| misread("changes"))?;
            let part = reading::changes(&shard, value)?;
            gap |= part.gap;
            self.unreadable.note(&shard, &part.read.unreadable);
            *position = part.last.unwrap_or(*position);
            events.extend(part.read.events);
        }
        failed.unless_some_answered()?;
        if gap {
            // Of a shard that is away the reader goes on where it was.
            let heads = self.heads_after(pool, positions).await?;
            return Ok(resync(layout::cursor(&heads)));
        }
        // Shards are apart, so this is for the reader's eye only; within a shard the order stays.
        events.sort_by_key(|event| event.time_ms);
        Ok(ChangesReply { cursor: layout::cursor(&positions), resync: false, events, now_ms: None })
    }
}

fn resync(cursor: Cursor) -> ChangesReply {
    ChangesReply { cursor, resync: true, events: Vec::new(), now_ms: None }
}

/// Whether all shards failed, and how the first one did.
#[derive(Default)]
struct Failed {
    first: Option<StoreError>,
    answered: bool,
}

impl Failed {
    fn or<T>(&mut self, outcome: Result<T, StoreError>) -> Option<T> {
        match outcome {
            Ok(answer) => {
                self.answered = true;
                Some(answer)
            }
            Err(error) => {
                self.first.get_or_insert(error);
                None
            }
        }
    }

    fn unless_some_answered(self) -> Result<(), StoreError> {
        match self.first {
            Some(error) if !self.answered => Err(error),
            _ => Ok(()),
        }
    }
}
