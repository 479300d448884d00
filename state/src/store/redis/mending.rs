//! Copies of nodes' records that shards lack, because they were away when a record changed or lost the copy in a failover, are
//! written again.
//!
//! A change whose copies did not all arrive is mended by the service that made it, each second until it is whole. Each service
//! also compares the pools that it is asked about once a minute, since the one that made the change may be gone: a read of
//! the records, and one of each shard's copies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use berth_core::wire::{NodeRecord, PoolName};
use redis::Value;

use super::call::{Group, Step, all_read};
use super::layout::{Shard, node_text};
use super::link::Link;
use super::prober::Prober;
use super::reading::{self, misread};
use super::recording::{copy_step, read_all};
use crate::lock::lock;
use crate::store::StoreError;

const EVERY: Duration = Duration::from_secs(1);
/// So many rounds until all pools are compared.
const ALL_AFTER: u32 = 60;

/// Pools of which some shard may lack a copy.
#[derive(Default)]
pub(super) struct Mending {
    pools: Mutex<BTreeSet<PoolName>>,
}

impl Mending {
    pub(super) fn note(&self, pool: &PoolName) {
        lock(&self.pools).insert(pool.clone());
    }

    /// Mends until the store is gone.
    pub(super) async fn run(mending: Weak<Self>, link: Weak<Link>, prober: Weak<Prober>) {
        for round in 1u32.. {
            tokio::time::sleep(EVERY).await;
            let (Some(mending), Some(link)) = (mending.upgrade(), link.upgrade()) else { return };
            let Some(prober) = prober.upgrade() else { return };
            if round.is_multiple_of(ALL_AFTER) {
                prober.pools().iter().for_each(|pool| mending.note(pool));
            }
            mending.mend_all(&link).await;
        }
    }

    async fn mend_all(self: &Arc<Self>, link: &Link) {
        let pools: Vec<PoolName> = lock(&self.pools).iter().cloned().collect();
        for pool in pools {
            // What changes meanwhile is noted again.
            lock(&self.pools).remove(&pool);
            match mend(link, &pool).await {
                Ok(0) => {}
                Ok(copies) => tracing::info!(
                    pool = pool.as_str(),
                    copies,
                    "shards have the copies of node records that they lacked"
                ),
                Err(_) => self.note(&pool),
            }
        }
    }
}

/// Compares the copies in all shards with the records. Returns how many were written; an error if a shard did not answer.
async fn mend(link: &Link, pool: &PoolName) -> Result<usize, StoreError> {
    let home = Shard::home(pool);
    let steps = vec![Step::command("HGETALL").arg(home.records()), Step::command("TIME")];
    let answers = link.feed(vec![Group { shard: home, steps }]).await.pop();
    let answers = answers.ok_or_else(|| misread("nodes"))??;
    let [records, time] = &answers.values[..] else { return Err(misread("nodes")) };
    let now = reading::time(time)?;
    let records = read_all(pool, records)?;
    let records: Vec<&NodeRecord> =
        records.iter().map(|(_, record)| record).filter(|record| !record.is_spent(now)).collect();
    if records.is_empty() {
        return Ok(0);
    }
    let copies = |shard: Shard| Group { steps: vec![Step::command("HGETALL").arg(shard.nodes())], shard };
    let outcomes = link.feed(Shard::all(pool).map(copies).collect()).await;
    let (mut lacking, mut failure) = (Vec::new(), None);
    for (shard, outcome) in Shard::all(pool).zip(outcomes) {
        match outcome {
            Ok(answers) => {
                let there = answers.values.first().cloned().unwrap_or(Value::Nil);
                // As bytes: another program may have written among them.
                let there: BTreeMap<Vec<u8>, Vec<u8>> =
                    redis::from_redis_value(there).map_err(|_| misread("copies of nodes"))?;
                let lacks = |record: &&&NodeRecord| {
                    there.get(record.node.as_str().as_bytes()) != Some(&node_text(record).into_bytes())
                };
                let steps: Vec<Step> =
                    records.iter().filter(lacks).map(|record| copy_step(&shard, record)).collect();
                if !steps.is_empty() {
                    lacking.push(Group { shard, steps });
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    let mut written = 0;
    for outcome in link.feed(lacking).await {
        match outcome.and_then(all_read) {
            Ok(answers) => written += answers.values.iter().filter(|value| **value == Value::Int(1)).count(),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(written), Err)
}
