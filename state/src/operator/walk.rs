//! How many sessions a node has, for one that leaves: looked for part by part, in a store of any size.
//!
//! A node that is draining gets no new sessions. So a part of the store without its pins stays so, and the part with some is
//! looked at again until they are gone; then the walk goes on from there. At its end the store is walked through once more from its
//! beginning: only a whole walk that finds no pin says that no session is left. When that walk began is known, because the
//! node must have been draining all the time.

use std::time::Duration;

use berth_core::wire::{ApiRequest, CountReply, Cursor, NodeId, PoolName};
use tokio::time::Instant;

use super::asked::ask_within;
use super::client::{Client, Failure};

/// Keys of the store in one part: a tenth of a second of a Redis.
const PART: usize = 200_000;
/// As many as a service counts in one call, for one of before that cannot go on with a count.
pub(super) const MOST: usize = 10_000_000;
/// The service stops counting after two seconds; the rest is for a busy network and a place in the queue.
const CALL: Duration = Duration::from_secs(10);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// They were not counted since it is draining.
    Unknown,
    Counted(u64),
    /// So many are in one part of the store; others were not looked at.
    AtLeast(u64),
}

/// A walk through the pins of one pool.
pub(super) struct Walk {
    after: Option<Cursor>,
    /// It began at the beginning and found nothing since.
    is_whole: bool,
    /// When it was last at the beginning.
    pub(super) began: Option<Instant>,
    /// How long the last part took.
    pub(super) part: Duration,
    /// A session of the node was found, in this walk or one before.
    pub(super) has_found: bool,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { after: None, is_whole: true, began: None, part: Duration::ZERO, has_found: false }
    }

    /// The store may have lost what was seen.
    pub(super) fn restart(&mut self) {
        (self.after, self.is_whole) = (None, true);
    }

    /// Looks until it finds sessions of this node, or has seen the whole store without any. After a failure it goes on where it was.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        pool: &PoolName,
        node: &NodeId,
    ) -> Result<Left, Failure> {
        let mut limit = PART;
        loop {
            let part = ApiRequest::counts(pool.as_str(), self.after.as_ref(), limit);
            let (is_first, began) = (self.after.is_none(), Instant::now());
            if is_first {
                self.began = Some(began);
            }
            let reply: CountReply = ask_within(client, CALL, &part).await?;
            self.part = began.elapsed();
            let found = reply.nodes.get(node).copied().unwrap_or(0);
            if found > 0 {
                self.has_found = true;
                self.is_whole = is_first;
                let is_all = is_first && reply.complete;
                return Ok(if is_all { Left::Counted(found) } else { Left::AtLeast(found) });
            }
            match reply.next {
                _ if reply.complete => {
                    let is_whole = self.is_whole;
                    self.restart();
                    if is_whole {
                        return Ok(Left::Counted(0));
                    }
                }
                Some(next) => (self.after, limit) = (Some(next), PART),
                // A service of before, which cannot go on; or keys are on their way to another server of a Redis Cluster.
                None => {
                    self.restart();
                    if limit == MOST {
                        return Ok(Left::Unknown);
                    }
                    limit = MOST;
                }
            }
        }
    }
}
