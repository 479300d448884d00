//! What else is known of a pool, so that a node with a wrong name or in a wrong pool is noticed.
//!
//! The service records what it is sent of any name in any pool. So a forgotten `BERTH_POOL`, a wrong port, or an address where
//! the cluster names its hosts (`hash_key`) fails nowhere: the node drains where no proxy looks.

use std::net::SocketAddr;

use berth_core::wire::{ApiRequest, CountReply, NodeId, NodesReply, PoolName};

use super::client::Failure;
use super::itself::Speaker;

/// A look at a pool's sessions: some ten milliseconds of the store.
const LOOK: usize = 20_000;
/// Enough to show how a pool's nodes are named.
const SHOWN: usize = 3;

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
        let count = ApiRequest::count_part(pool.as_str(), None, LOOK);
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

    /// Other nodes are known, and none is named as this one: with an address and the same port, or without an address.
    pub(super) fn is_unlike(&self, node: &NodeId) -> bool {
        let port = |node: &NodeId| node.as_str().parse::<SocketAddr>().ok().map(|address| address.port());
        !self.nodes.is_empty() && self.nodes.iter().all(|other| port(other) != port(node))
    }

    /// What to look at.
    pub(super) fn advice(&self, pool: &PoolName) -> String {
        if self.nodes.is_empty() {
            return "Is it the pool's name in the proxies' configuration (--pool, BERTH_POOL)?".to_owned();
        }
        let names: Vec<String> = self.nodes.iter().take(SHOWN).map(NodeId::to_string).collect();
        let more = if self.nodes.len() > SHOWN { ", …" } else { "" };
        let names = names.join(", ");
        format!(
            "Pool {pool} has {names}{more}: is this node called likewise (--node, or --pod-ip and --port)?"
        )
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
        let is_unlike = |names: &[&str], node: &str| known(names).is_unlike(&node.parse().unwrap());

        assert!(!is_unlike(&["10.0.0.1:80", "10.0.0.2:81"], "10.0.0.3:80"));
        assert!(!is_unlike(&["game-0", "game-1"], "game-2"));
        assert!(!is_unlike(&[], "10.0.0.3:80"));
        assert!(is_unlike(&["10.0.0.1:80"], "10.0.0.3:8080"));
        assert!(is_unlike(&["game-0"], "10.0.0.3:80"));
        assert!(is_unlike(&["10.0.0.1:80"], "game-0"));
        assert!(known(&[]).is_nothing() && !known(&["game-0"]).is_nothing());
    }
}
