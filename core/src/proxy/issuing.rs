//! Ids for new sessions: random, but those of one connection have one place.
//!
//! A browser without a cookie may send several requests at once, each of which begins a session, and keeps one of the cookies.
//! The ids must differ, since behind a CDN one connection carries many users. So only the place is shared: ids that are
//! issued on one downstream connection within [`SHARED_FOR`] are such that the ring has them on one node. Whichever cookie the
//! browser keeps, its session is on the node that answered all of these requests.
//!
//! An id for a certain node is found by trial: Berth counts on from a random number until the ring names the node. With n
//! nodes that takes n trials on average, whatever their weights. The ring, the pin and Envoy's own hash agree on such an id,
//! so nothing else has to know about connections.

use std::collections::VecDeque;

use crate::attributes::Attributes;
use crate::placement::{Placement, takes_new};
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::Millis;

/// Longer than a page takes until its first answer has come, and the cookie with it.
const SHARED_FOR: Millis = Millis(2_000);
/// Ids that share a place at most: more than a page's requests without a cookie, and few enough that one node does not get all
/// new sessions of a CDN's connection.
const SHARED_BY: u32 = 32;
/// Connections that are remembered; the oldest is forgotten first. 40 KB at most, and 512 new browsers a second.
const CONNECTIONS: usize = 1_024;
/// Trials for an owner that takes new sessions: enough while one node in ten does.
const TRIALS: usize = 64;
/// Trials for one node, per node of the pool. One of equal weight is missed once in nine million times.
const TRIALS_PER_NODE: usize = 16;
/// In small pools, where trials are quick, also a node with a hundredth of all weight is found.
const LEAST_TRIALS_FOR_NODE: usize = 1_024;

/// The connections of one pool on which sessions began lately, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(VecDeque<Place>);

/// Where the sessions of a connection begin.
#[derive(Debug)]
struct Place {
    connection: u64,
    /// The hash of the node's name.
    node: u64,
    /// When the first one began.
    since: Millis,
    ids: u32,
}

impl Connections {
    /// An id for a new session; `None` without a source of randomness. Without members any id will do.
    pub(super) fn issue(
        &mut self,
        snapshot: Option<&Snapshot>,
        attributes: &dyn Attributes,
    ) -> Option<SessionId> {
        let first = u128::from_le_bytes(attributes.random()?);
        let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.nodes.is_empty()) else {
            return Some(SessionId::from_random(first.to_le_bytes()));
        };
        let Some(connection) = connection(attributes) else { return Some(id_for_any(snapshot, first)) };
        let now = attributes.now();
        self.forget(now);
        let known = self.0.iter_mut().rfind(|place| place.connection == connection);
        if let Some(place) = known.filter(|place| place.ids < SHARED_BY)
            && let Some(node) = snapshot.nodes.iter().position(|node| node.key_hash == place.node)
            && let Some(id) = id_for(snapshot, first, node)
        {
            place.ids += 1;
            return Some(id);
        }
        let id = id_for_any(snapshot, first);
        if let Some(node) = owner(snapshot, id.hash()).and_then(|owner| snapshot.nodes.get(owner)) {
            if self.0.len() == CONNECTIONS {
                self.0.pop_front();
            }
            self.0.push_back(Place { connection, node: node.key_hash, since: now, ids: 1 });
        }
        Some(id)
    }

    fn forget(&mut self, now: Millis) {
        while self.0.front().is_some_and(|place| SHARED_FOR.is_over(place.since, now)) {
            self.0.pop_front();
        }
    }
}

/// The first id from here on whose owner takes new sessions, if there is one soon.
fn id_for_any(snapshot: &Snapshot, first: u128) -> SessionId {
    let fits = |id: &SessionId| {
        Placement::of(snapshot, id.hash()).is_ok_and(|placement| placement.takes_new(snapshot))
    };
    ids(first).take(TRIALS).find(fits).unwrap_or_else(|| SessionId::from_random(first.to_le_bytes()))
}

/// The first id from here on that belongs to the node at this place, if that takes new sessions.
///
/// It is the first node of the id's ring, not only a stand-in, so the session also stays when a better one comes back.
fn id_for(snapshot: &Snapshot, first: u128, node: usize) -> Option<SessionId> {
    if !takes_new(snapshot, node) {
        return None;
    }
    let trials = LEAST_TRIALS_FOR_NODE.max(snapshot.nodes.len() * TRIALS_PER_NODE);
    let fits = |id: &SessionId| {
        let hash = id.hash();
        snapshot.places(snapshot.drawn_level(hash), hash).next() == Some(node)
            && owner(snapshot, hash) == Some(node)
    };
    ids(first).take(trials).find(fits)
}

fn ids(first: u128) -> impl Iterator<Item = SessionId> {
    (0..).map(move |step| SessionId::from_random(first.wrapping_add(step).to_le_bytes()))
}

fn owner(snapshot: &Snapshot, hash: u64) -> Option<usize> {
    Placement::of(snapshot, hash).ok()?.owner()
}

/// Envoy's number of the connection that the request came on.
fn connection(attributes: &dyn Attributes) -> Option<u64> {
    Some(u64::from_le_bytes(*attributes.property(&["connection", "id"])?.first_chunk()?))
}
