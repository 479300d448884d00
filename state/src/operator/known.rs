//! What else is known of a pool, so that a node with a wrong name or in a wrong pool is noticed.
//!
//! The service records what it is sent of any name in any pool. So a forgotten `BERTH_POOL`, a wrong port, or an address where
//! the cluster names its hosts (`hash_key`) fails nowhere: the node drains where no proxy looks.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use berth_core::wire::{ApiRequest, CountReply, NodeId, NodeRecord, NodesReply, PoolName};

use super::asked::Asked;
use super::client::Failure;
use super::itself::{Speaker, warn};

/// A look at a pool's sessions: some ten milliseconds of the store.
const LOOK: usize = 20_000;
/// Enough to show how a pool's nodes are named.
const SHOWN: usize = 3;

/// The first part of a count that looks for one node, and the next ones: a second or two of a Redis each.
const PARTS: [usize; 11] = [LOOK, MORE, MORE, MORE, MORE, MORE, MORE, MORE, MORE, MORE, MORE];
const MORE: usize = 1_000_000;

/// Refuses a node that has no session and no record in the pool: its name is mistyped, or the pool's. The service cannot tell it
/// from one that is to come; the operator can.
///
/// # Errors
/// [`Failure::Unknown`], with what the pool has; what the service answers otherwise.
pub(super) async fn expect(asked: &Asked, node: &NodeId) -> Result<(), Failure> {
    match asked.send::<NodeRecord>(&ApiRequest::node(asked.pool(), node)).await {
        Err(Failure::Absent(_)) => {}
        found => return found.map(|_| ()),
    }
    let (mut nodes, mut after, mut is_whole) = (BTreeSet::new(), None, false);
    for part in PARTS {
        let counts = ApiRequest::counts(asked.pool(), after.as_ref(), part);
        let counted: CountReply = match asked.send(&counts).await {
            // Another count is under way, this service has no counts, or a part of the store is away: that must not keep a node from
            // leaving. A service that is away itself says so at the change.
            Err(
                failure @ (Failure::Busy(_)
                | Failure::Absent(_)
                | Failure::Refused(_)
                | Failure::Unreachable(_)),
            ) => {
                warn(&format!("not looked whether {node} has sessions: {failure}"));
                return Ok(());
            }
            counted => counted?,
        };
        if counted.nodes.contains_key(node) {
            return Ok(());
        }
        nodes.extend(counted.nodes.into_keys());
        (is_whole, after) = (counted.complete, counted.next);
        if after.is_none() {
            break;
        }
    }
    if !is_whole {
        warn(&format!("no session of {node} is among those that were looked at"));
        return Ok(());
    }
    let recorded: NodesReply = asked.send(&ApiRequest::nodes(asked.pool())).await?;
    nodes.extend(recorded.nodes.into_iter().filter(|record| !record.forgotten).map(|record| record.node));
    let pool = &asked.pool;
    let advice = match nodes.is_empty() {
        true => "Nor of any other: is it the pool's name in the proxies' configuration (--pool, BERTH_POOL)?"
            .to_owned(),
        false => format!("The pool has {}.", names(&nodes)),
    };
    Err(Failure::Unknown(format!(
        "nothing is known of {node} in pool {pool}: it has no sessions, and nothing is recorded of it. {advice} Nothing was \
         changed; --force if it is to come, or has no sessions yet"
    )))
}

/// Some of them, to see how they are called.
fn names<'n>(nodes: impl IntoIterator<Item = &'n NodeId>) -> String {
    let mut nodes = nodes.into_iter();
    let names: Vec<String> = nodes.by_ref().take(SHOWN).map(NodeId::to_string).collect();
    names.join(", ") + if nodes.next().is_some() { ", …" } else { "" }
}

/// The nodes of a pool, the one that asks only if it has sessions.
pub(super) struct Known {
    nodes: Vec<NodeId>,
    /// There are no others.
    is_all: bool,
}

impl Known {
    /// Asks for those that have sessions, as proxies named them; without any for those that are recorded, where a wrong name may be
    /// as well.
    pub(super) async fn of(speaker: &Speaker, pool: &PoolName) -> Result<Self, Failure> {
        // One that cannot be counted now is not known to be empty.
        let count = ApiRequest::counts(pool.as_str(), None, LOOK);
        let counted: CountReply = speaker.ask(&count).await.unwrap_or_default();
        let mut nodes: Vec<NodeId> = counted.nodes.into_keys().collect();
        if nodes.is_empty() {
            let recorded: NodesReply = speaker.ask(&ApiRequest::nodes(pool.as_str())).await?;
            let recorded = recorded.nodes.into_iter().filter(|record| !record.forgotten);
            nodes = recorded.map(|record| record.node).filter(|node| *node != speaker.node).collect();
        }
        Ok(Self { nodes, is_all: counted.complete })
    }

    /// The pool has no other nodes, as far as the service knows.
    pub(super) fn is_nothing(&self) -> bool {
        self.nodes.is_empty() && self.is_all
    }

    /// True if all other nodes have addresses and this one has not, or the other way round; or if several others have one port and
    /// this one has another. Where each node has a port of its own, any port is like the others.
    pub(super) fn is_unlike(&self, node: &NodeId) -> bool {
        let port = |node: &NodeId| node.as_str().parse::<SocketAddr>().ok().map(|address| address.port());
        let (own, others) = (port(node), self.nodes.iter().map(port).collect::<BTreeSet<_>>());
        if others.iter().all(|other| other.is_some() != own.is_some()) {
            return !others.is_empty();
        }
        self.nodes.len() > 1 && others.len() == 1 && !others.contains(&own)
    }

    /// What to look at.
    pub(super) fn advice(&self, pool: &PoolName) -> String {
        if self.nodes.is_empty() {
            return "Is it the pool's name in the proxies' configuration (--pool, BERTH_POOL)?".to_owned();
        }
        let names = names(&self.nodes);
        format!("Pool {pool} has {names}: is this node called likewise (--node, or --pod-ip and --port)?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_like_others_with_its_port_or_without_an_address() {
        let known = |names: &[&str]| Known {
            nodes: names.iter().map(|name| name.parse().unwrap()).collect(),
            is_all: true,
        };
        for (names, node, is_unlike) in [
            (&["10.0.0.1:80", "10.0.0.2:80"][..], "10.0.0.3:80", false),
            (&["10.0.0.1:80", "10.0.0.2:80"], "10.0.0.3:8080", true),
            // Each may have a port of its own.
            (&["10.0.0.1:7001", "10.0.0.1:7002"], "10.0.0.1:7003", false),
            (&["10.0.0.1:7001"], "10.0.0.1:7002", false),
            (&["game-0", "game-1"], "game-2", false),
            (&["game-0"], "10.0.0.3:80", true),
            (&["10.0.0.1:7001", "10.0.0.1:7002"], "game-0", true),
            (&["game-0", "10.0.0.1:80"], "10.0.0.3:8080", false),
            (&[], "10.0.0.3:80", false),
        ] {
            assert_eq!(known(names).is_unlike(&node.parse().unwrap()), is_unlike, "{node} among {names:?}");
        }
        assert!(known(&[]).is_nothing() && !known(&["game-0"]).is_nothing());
    }
}
