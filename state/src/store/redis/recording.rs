//! Records of nodes: written in shard 0 by compare-and-set, then copied to the others, so that each shard resolves its
//! sessions without asking another.
//!
//! What a record becomes is decided in core, not in Lua. A shard that is away gets its copy later (`mending`), or when the
//! request is repeated: also one that changes nothing copies again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use berth_core::wire::{NodeId, NodeRecord, PoolName, Reason};
use redis::Value;

use super::call::{Answers, Group, Step, all_read};
use super::format::{self, FORMAT, Mark, Marked};
use super::layout::{Shard, node_text};
use super::prober::{digits, probe_step};
use super::reading::{self, integer, misread, text};
use super::{Redis, scripts};
use crate::lock::lock;
use crate::store::{StoreError, Written, both};

/// A record that changes this often between reading and writing it is not changed by people.
const ATTEMPTS: usize = 8;
/// Records that cannot be read are a handful, and more of them are no news.
const MAX_NAMED: usize = 64;

impl Redis {
    /// A node's record, and the text that it is stored as.
    pub(super) async fn record_of(
        &self,
        pool: &PoolName,
        node: &NodeId,
    ) -> Result<Option<(String, NodeRecord)>, StoreError> {
        let home = Shard::home(pool);
        let step = Step::command("HGET").arg(home.records()).arg(node.to_string());
        match self.link.one(&home, step).await? {
            Value::Nil => Ok(None),
            value => {
                let text = text(&value)?;
                Ok(Some((text.to_owned(), read(&home.records(), text)?)))
            }
        }
    }

    /// All records, by name. Those that say nothing any more are dropped when they are come across.
    pub(super) async fn records(&self, pool: &PoolName) -> Result<Vec<NodeRecord>, StoreError> {
        let home = Shard::home(pool);
        let steps = vec![Step::command("HGETALL").arg(home.records()), Step::command("TIME")];
        let answers = self.link.run(vec![Group { shard: home, steps }]).await?;
        let [records, time] = answers.first().map_or(&[][..], |answers| &answers.values) else {
            return Err(misread("nodes"));
        };
        let now = reading::time(time)?;
        let records = read_all(pool, records)?;
        let (mut nodes, mut spent) = (Vec::with_capacity(records.len()), Vec::new());
        for (text, record) in records {
            if record.is_spent(now) { spent.push((text, record)) } else { nodes.push(record) }
        }
        if !spent.is_empty() {
            // If it fails, the next list drops them.
            let _ = self.drop_records(pool, &spent).await;
        }
        nodes.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(nodes)
    }

    /// Changes a record to what `change` makes of it at a time; true if that was another.
    pub(super) async fn rewrite(
        &self,
        pool: &PoolName,
        node: NodeId,
        (reason, correlation_id): (Reason, Option<&str>),
        change: impl Fn(&NodeRecord, u64) -> Option<NodeRecord>,
    ) -> Result<Written<(NodeRecord, bool)>, StoreError> {
        let home = Shard::home(pool);
        for _ in 0..ATTEMPTS {
            let now = reading::time(&self.link.one(&home, Step::command("TIME")).await?)?;
            let there = self.record_of(pool, &node).await?;
            let (before, record) =
                there.unwrap_or_else(|| (String::new(), NodeRecord::unknown(node.clone())));
            let Some(next) = change(&record, now) else {
                // Perhaps an earlier attempt reached the first shard only, or no replica.
                let durable = if record.version > 0 { self.copy_again(pool, &record).await } else { None };
                return Ok(Written { outcome: (record, false), durable });
            };
            let after = written(&next)?;
            let step = Step::script(&scripts::CHANGE_NODE, &[home.records(), home.nodes(), home.changes()])
                .arg(node.to_string())
                .arg(before)
                .arg(after)
                .arg(node_text(&next))
                .arg(next.version.to_string())
                .arg(reason.name())
                .arg(correlation_id.unwrap_or_default())
                .arg(self.keeping.changes.to_string());
            let (value, durable) = self.link.one_durably(&home, step).await?;
            if integer(&value)? == 1 {
                let copied = self.copy_to_shards(pool, &next).await;
                return Ok(Written { outcome: (next, true), durable }.with(copied));
            }
        }
        Err(StoreError::Refused(format!("{node} is being changed by too many at once")))
    }

    /// A shard that is away gets its copy later: the record counts, and it is recorded. Returns whether replicas confirmed all
    /// copies, if they were asked.
    async fn copy_to_shards(&self, pool: &PoolName, record: &NodeRecord) -> Option<bool> {
        let copy = |shard: Shard| Group { steps: vec![copy_step(&shard, record)], shard };
        self.copy(pool, record, Shard::all(pool).skip(1).map(copy).collect()).await
    }

    /// The same of a record that is there already. Replicas speak of what was written before a write that they are asked about,
    /// so each shard gets one.
    async fn copy_again(&self, pool: &PoolName, record: &NodeRecord) -> Option<bool> {
        let groups = Shard::all(pool).enumerate().map(|(at, shard)| {
            let copy = (at > 0).then(|| copy_step(&shard, record));
            let write = self.link.asks_replicas().then(|| probe_step(&shard));
            Group { steps: copy.into_iter().chain(write).collect(), shard }
        });
        let groups = groups.filter(|group| !group.steps.is_empty()).collect();
        self.copy(pool, record, groups).await
    }

    async fn copy(&self, pool: &PoolName, record: &NodeRecord, groups: Vec<Group>) -> Option<bool> {
        let shards: Vec<usize> = groups.iter().map(|group| group.shard.index()).collect();
        let outcomes = self.link.each_durably(groups).await.into_iter();
        let outcomes: Vec<_> = outcomes.map(|outcome| outcome.and_then(all_read)).collect();
        let durable = outcomes.iter().map(|outcome| outcome.as_ref().map_or(Some(false), Answers::durable));
        let durable = durable.fold(None, both).filter(|_| self.link.asks_replicas());
        let failed =
            shards.into_iter().zip(outcomes).filter_map(|(shard, outcome)| Some((shard, outcome.err()?)));
        let failed: Vec<(usize, StoreError)> = failed.collect();
        if let Some((_, error)) = failed.first() {
            self.mending.note(pool);
            let shards = digits(&failed.iter().map(|(shard, _)| *shard).collect::<Vec<_>>());
            tracing::warn!(
                pool = pool.as_str(), node = %record.node, version = record.version, shards, %error,
                "a node's record is written, but these shards do not have it yet; they get it once they answer"
            );
        }
        durable
    }

    /// A copy without its record, or the other way round, says nothing either: so no order is needed.
    async fn drop_records(&self, pool: &PoolName, spent: &[(String, NodeRecord)]) -> Result<(), StoreError> {
        let drop = |hash: String, text: &str, record: &NodeRecord| {
            Step::script(&scripts::DROP_NODE, &[hash]).arg(record.node.to_string()).arg(text)
        };
        let home = Shard::home(pool);
        let records = spent.iter().map(|(text, record)| drop(home.records(), text, record));
        let records = Group { shard: home.clone(), steps: records.collect() };
        let copies = Shard::all(pool).map(|shard| {
            let steps = spent.iter().map(|(_, record)| drop(shard.nodes(), &node_text(record), record));
            Group { steps: steps.collect(), shard }
        });
        let groups = std::iter::once(records).chain(copies).collect();
        self.link.each(groups).await.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
    }
}

pub(super) fn copy_step(shard: &Shard, record: &NodeRecord) -> Step {
    Step::script(&scripts::COPY_NODE, &[shard.nodes()])
        .arg(record.node.to_string())
        .arg(record.version.to_string())
        .arg(node_text(record))
        .arg(record.updated_ms.to_string())
}

/// What `HGETALL` says of a pool's records. One that cannot be read is left out, and named in the log once: those of other nodes
/// count all the same.
pub(super) fn read_all(pool: &PoolName, records: &Value) -> Result<Vec<(String, NodeRecord)>, StoreError> {
    static NAMED: Mutex<BTreeSet<(PoolName, Vec<u8>)>> = Mutex::new(BTreeSet::new());
    let records: BTreeMap<Vec<u8>, Vec<u8>> =
        redis::from_redis_value(records.clone()).map_err(|_| misread("nodes"))?;
    let key = Shard::home(pool).records();
    let mut all = Vec::with_capacity(records.len());
    for (node, text) in records {
        let text = String::from_utf8(text).map_err(|_| misread("a node's record"));
        match text.and_then(|text| read(&key, &text).map(|record| (text, record))) {
            Ok(found) => all.push(found),
            Err(error) => {
                let name = String::from_utf8_lossy(&node).into_owned();
                let mut named = lock(&NAMED);
                if named.len() < MAX_NAMED && named.insert((pool.clone(), node)) {
                    tracing::warn!(
                        pool = pool.as_str(), node = name, %error,
                        "a node's record is left out: is another program using the keys berth:*?"
                    );
                }
            }
        }
    }
    Ok(all)
}

fn written(record: &NodeRecord) -> Result<String, StoreError> {
    serde_json::to_string(&Marked { format: FORMAT, of: record }).map_err(|_| misread("a node's record"))
}

/// The record that a key has in this text.
pub(super) fn read(key: &str, text: &str) -> Result<NodeRecord, StoreError> {
    let misread = |_| misread("a node's record");
    match serde_json::from_str::<Mark>(text).map_err(misread)?.format {
        format if format > FORMAT => Err(format::newer(&format.to_string(), key)),
        _ => serde_json::from_str(text).map_err(misread),
    }
}
