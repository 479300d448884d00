//! Ending a session, under all the names that it had.

use berth_core::time::Millis;
use berth_core::wire::{PoolName, SessionKey};
use redis::Value;

use super::call::Step;
use super::layout::Shard;
use super::reading::{Stored, integer, text};
use super::{Redis, scripts};
use crate::store::{MAX_FORMERS, StoreError, Written};

impl Redis {
    /// The key and those that the session had before, the latest first. They may be in any shards.
    pub(super) async fn names_of(
        &self,
        pool: &PoolName,
        key: SessionKey,
    ) -> Result<Vec<SessionKey>, StoreError> {
        let mut names = vec![key];
        let mut last = key;
        while names.len() <= MAX_FORMERS {
            let shard = Shard::of(pool, last);
            let pin = self.link.one(&shard, Step::command("GET").arg(shard.pin(last))).await?;
            if pin == Value::Nil {
                break;
            }
            match Stored::read(&shard.pin(last), text(&pin)?)?.claims.alias_of {
                Some(former) if !names.contains(&former) => {
                    names.push(former);
                    last = former;
                }
                _ => break,
            }
        }
        Ok(names)
    }

    pub(super) async fn end_one(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        let shard = Shard::of(pool, key);
        let step =
            Step::script(&scripts::END, &[shard.pin(key), shard.ended(key), shard.changes(), shard.clock()])
                .arg(self.keeping.ended.0.to_string())
                .arg(self.keeping.changes.to_string())
                .arg(key.to_string())
                .arg(correlation_id.unwrap_or_default())
                .arg(ago.0.to_string())
                .arg(self.keeping.ttl.0.to_string());
        let (value, durable) = self.link.one_durably(&shard, step).await?;
        Ok(Written { outcome: integer(&value)? == 1, durable })
    }
}
