//! How many sessions a node has, for one that leaves: looked for part by part, in a store of any size.
//!
//! A node that is draining gets no new sessions. So a part of the store without its pins stays so, and the part with some is
//! looked at again until they are gone; then the walk goes on from there. At its end the store is walked through once more from its
//! beginning: only a whole walk that finds no pin says that no session is left.

use std::time::Duration;

use berth_core::wire::{ApiRequest, CountReply, Cursor, NodeId, PoolName};

use super::asked::ask_within;
use super::client::{Client, Failure};

/// Keys of the store in one part: a tenth of a second of a Redis.
const PART: usize = 200_000;
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
    /// A session of the node was found, in this walk or one before.
    pub(super) has_found: bool,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { after: None, is_whole: true, has_found: false }
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
        loop {
            let part = ApiRequest::counts(pool.as_str(), self.after.as_ref(), PART);
            let reply: CountReply = ask_within(client, CALL, &part).await?;
            let is_first = self.after.is_none();
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
                Some(next) => self.after = Some(next),
                // A service of before, which cannot go on.
                None => return Ok(Left::Unknown),
            }
        }
    }
}
