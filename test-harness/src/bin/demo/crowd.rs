//! A few hundred sessions that keep asking, and where each was served.

use std::collections::BTreeMap;

use berth_core::ring::{Algorithm, Member, Ring, session_hash};
use berth_harness::{Client, World};
use futures_util::{StreamExt, stream};

const SESSIONS: usize = 600;
/// Requests under way at once.
const CONCURRENCY: usize = 32;

pub(crate) struct Crowd {
    sessions: Vec<String>,
}

/// One request of every session.
pub(crate) struct Look {
    /// The node that answered, by session; `None` if the answer was not 200.
    pub(crate) nodes: Vec<Option<String>>,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self { sessions: (1..=SESSIONS).map(|number| format!("player-{number}")).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) async fn look(&self, client: &Client) -> Look {
        let requests: Vec<_> =
            self.sessions.iter().map(|session| client.get("/").header("x-session-id", session)).collect();
        let nodes = requests.into_iter().map(async |request| {
            let answer = request.try_send().await.ok()?;
            (answer.status == 200).then(|| answer.node().to_owned())
        });
        Look { nodes: stream::iter(nodes).buffered(CONCURRENCY).collect().await }
    }

    /// Where the ring has each session if all these nodes are well: what `berth ring` prints.
    pub(crate) fn on_ring(&self, nodes: &[String]) -> Vec<Option<String>> {
        let members: Vec<Member> = nodes.iter().map(|node| Member { key: node.clone(), weight: 1 }).collect();
        let ring = Ring::build(&members, Algorithm::default()).expect("a few nodes make a ring");
        let owner = |session: &String| ring.candidates(session_hash(session.as_bytes())).next();
        self.sessions.iter().map(|session| owner(session).map(|index| nodes[index].clone())).collect()
    }
}

impl Look {
    pub(crate) fn failed(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_none()).count()
    }

    pub(crate) fn count_on(&self, node: &str) -> usize {
        self.nodes.iter().flatten().filter(|home| *home == node).count()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.iter().flatten() {
            *counts.entry(node.as_str()).or_default() += 1;
        }
        counts
    }

    /// The sessions that another node serves in `after`, as (from, to).
    pub(crate) fn moves<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.nodes
            .iter()
            .zip(&after.nodes)
            .filter_map(|(before, after)| Some((before.as_deref()?, after.as_deref()?)))
            .filter(|(before, after)| before != after)
    }
}

/// The names of all nodes that the endpoints hold at first.
pub(crate) fn names(world: &World) -> Vec<String> {
    world.nodes().iter().map(|node| node.name().to_owned()).collect()
}
