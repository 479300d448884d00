//! `berth leave --undo`: the node stays after all.

use berth_core::wire::{NodeChange, NodeState, PoolName};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::client::Failure;
use super::itself::{Speaker, say, until, warn};

/// Says in each pool that the node is active, if it says there that it is draining. A pool with a fault keeps no other from it.
pub(super) async fn undo(speaker: &Speaker, end: Instant) -> Result<(), Failure> {
    let node = &speaker.node;
    let change = NodeChange { self_state: Some(NodeState::Active), ..NodeChange::default() };
    let in_pool = async |pool: &PoolName| {
        let record = until(end, async || match speaker.record(pool).await? {
            Some(record) if record.self_state == Some(NodeState::Draining) => {
                speaker.say(pool, &change).await.map(Some)
            }
            record => Ok(record),
        });
        record
            .await?
            .ok_or_else(|| Failure::Absent(format!("nothing is recorded of node {node} in pool {pool}")))
    };
    let mut failed = None;
    for (pool, record) in speaker.pools.iter().zip(join_all(speaker.pools.iter().map(in_pool)).await) {
        match record {
            Ok(record) => say(&format!("{node} is {} in pool {pool}", record.state.name())),
            Err(failure) => {
                // The last one is said at the end, as the command's own.
                if let Some(former) = failed.replace(failure) {
                    warn(&format!("{former}"));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
