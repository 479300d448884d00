//! How many pins each node has: found by walking through the keys, for lack of an index.
//!
//! Shard by shard, since a `SCAN` of a cluster is one of a server, and a shard has one. Keys of other shards and programs on
//! that server are passed over, and count as looked at. Keys are walked through in the order of a hash, so the part that a
//! limit allows is a fair sample of the sessions.

use std::collections::HashSet;

use berth_core::wire::{CountReply, PoolName};
use redis::Value;

use super::Redis;
use super::call::Step;
use super::layout::Shard;
use super::reading::{Stored, list, misread, text};
use crate::store::StoreError;

/// Keys that one command looks at: half a millisecond, in which the server does nothing else.
const STEP: usize = 1000;

impl Redis {
    pub(super) async fn count_pins(&self, pool: &PoolName, limit: usize) -> Result<CountReply, StoreError> {
        let mut reply = CountReply { complete: true, ..CountReply::default() };
        let mut looked_at = 0;
        for shard in Shard::all(pool) {
            // While the server resizes its table it may name a key twice.
            let mut seen = HashSet::new();
            let mut cursor = "0".to_owned();
            loop {
                if looked_at >= limit {
                    reply.complete = false;
                    return Ok(reply);
                }
                looked_at += STEP;
                let scan = Step::command("SCAN").arg(cursor.as_str()).arg("MATCH").arg(shard.pins());
                let answer = self.link.one(&shard, scan.arg("COUNT").arg(STEP)).await?;
                let [next, keys] = list(&answer)? else { return Err(misread("a part of the keys")) };
                let keys = list(keys)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
                let keys: Vec<&str> = keys.into_iter().filter(|key| seen.insert((*key).to_owned())).collect();
                self.count_of(&shard, &keys, &mut reply).await?;
                cursor = text(next)?.to_owned();
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(reply)
    }

    async fn count_of(&self, shard: &Shard, keys: &[&str], reply: &mut CountReply) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let pins = self.link.one(shard, Step::command("MGET").arg(keys)).await?;
        // One may have expired since.
        for pin in list(&pins)?.iter().filter(|pin| **pin != Value::Nil) {
            reply.pins += 1;
            *reply.nodes.entry(Stored::read(text(pin)?)?.node).or_default() += 1;
        }
        Ok(())
    }
}
