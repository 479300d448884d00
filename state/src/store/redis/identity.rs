//! Which store this is: a random name for each pool, which the first service to come writes into its first shard.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_core::wire::{PoolName, StoreId};
use redis::Value;

use super::call::{Group, Step};
use super::layout::Shard;
use super::link::Link;
use super::reading::{integer, text};
use crate::lock::lock;
use crate::store::StoreError;

/// A store that was emptied, or exchanged for another, is seen after this time.
const BELIEVED: Duration = Duration::from_secs(2);
/// Longer than any pin lives, in milliseconds: 31 days.
const KEPT: u64 = 31 * 24 * 3_600_000;
/// What was used within so many milliseconds, an hour, is used.
const LATELY: u64 = 3_600_000;
/// Beyond so many pools each look is a call.
const MAX_POOLS: usize = 1024;

/// What was last seen.
#[derive(Default)]
pub(super) struct Identity {
    seen: Mutex<BTreeMap<PoolName, (Instant, Option<StoreId>)>>,
}

impl Identity {
    /// The name as far as it is known. No request waits for it: it is asked for beside them.
    pub(super) fn get(self: &Arc<Self>, link: &Arc<Link>, pool: &PoolName) -> StoreId {
        let seen = lock(&self.seen).get(pool).cloned();
        let is_old = seen.as_ref().is_none_or(|(at, _)| at.elapsed() >= BELIEVED);
        let name = seen.and_then(|(_, name)| name);
        if is_old {
            self.note(pool, name.clone());
            let (identity, link, pool, before) =
                (Arc::clone(self), Arc::clone(link), pool.clone(), name.clone());
            tokio::spawn(async move {
                let name = read(&link, &pool).await.or(before);
                identity.note(&pool, name);
            });
        }
        name.unwrap_or_else(StoreId::unknown)
    }

    /// While one asks, others go by what was seen before.
    fn note(&self, pool: &PoolName, name: Option<StoreId>) {
        let mut seen = lock(&self.seen);
        if seen.len() >= MAX_POOLS && !seen.contains_key(pool) {
            seen.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if seen.len() < MAX_POOLS || seen.contains_key(pool) {
            seen.insert(pool.clone(), (Instant::now(), name));
        }
    }
}

/// Whether an instance answered for this pool lately: that has the name live its full time again.
pub(super) async fn was_used(link: &Link, pool: &PoolName) -> Result<bool, StoreError> {
    let home = Shard::home(pool);
    let left = integer(&link.one(&home, Step::command("PTTL").arg(home.store())).await?)?;
    Ok(u64::try_from(left).is_ok_and(|left| left + LATELY > KEPT))
}

async fn read(link: &Link, pool: &PoolName) -> Option<StoreId> {
    let shard = Shard::home(pool);
    let key = shard.store();
    let name = format!("{:016x}", RandomState::new().hash_one(pool.as_str()));
    let steps = vec![
        Step::command("SET").arg(&key).arg(name).arg("NX").arg("PX").arg(KEPT),
        Step::command("PEXPIRE").arg(&key).arg(KEPT),
        Step::command("GET").arg(&key),
    ];
    let answers = link.run(vec![Group { shard, steps }]).await.ok()?;
    match answers.first()?.values.last()? {
        Value::Nil => None,
        name => text(name).ok().map(StoreId::new),
    }
}
