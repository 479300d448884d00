//! Ids for new sessions: random, but those of one connection have one place.
//!
//! A browser without a cookie may send several requests at once, each of which begins a session, and keeps one of the cookies.
//! The ids must differ, since behind a CDN one connection carries many users. So only the place is shared: ids that are
//! issued on one downstream connection within [`SHARED_FOR`] are such that the ring has them on one node. Whichever cookie the
//! browser keeps, its session is on the node that answered all of these requests.
//!
//! An id for a certain node is found by trial: ids are drawn until the ring names the node. With n nodes that takes n trials,
//! whatever their weights. Ids that belong to other nodes are kept for later, so that an id costs about one trial in the long
//! run. The ring, the pin and Envoy's own hash agree on such an id, so nothing else has to know about connections.

use std::collections::{BTreeMap, VecDeque};

use crate::attributes::Attributes;
use crate::placement::{Placement, takes_new};
use crate::session::{CookieTemplate, SessionId};
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
/// Trials for one node, per node of the pool: while no ids are kept, a node with a quarter of the usual weight is missed once in
/// fifty times.
const TRIALS_PER_NODE: usize = 16;
/// In small pools also a node with a hundredth of all weight is found.
const LEAST_TRIALS_FOR_NODE: usize = 1_024;
/// Looks at nodes while one request waits. A rendezvous ring looks at each node in each trial: of a thousand nodes it finds
/// some only once enough ids are kept.
const LOOKS: usize = 200_000;
/// Ids that are kept of each node: what a place needs. 512 KB for a thousand nodes.
const KEPT: usize = SHARED_BY as usize;

/// The connections of one pool on which sessions began lately, and ids for the next ones.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The oldest first.
    latest: VecDeque<Place>,
    /// Random ids that no session has yet, by the hash of their node's name.
    kept: BTreeMap<u64, Vec<[u8; 16]>>,
}

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
        cookie: &CookieTemplate,
        snapshot: Option<&Snapshot>,
        attributes: &dyn Attributes,
    ) -> Option<SessionId> {
        let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.nodes.is_empty()) else {
            return Some(cookie.new_id(attributes.random()?));
        };
        let Some(connection) = connection(attributes) else {
            return id_for_any(cookie, snapshot, attributes);
        };
        let now = attributes.now();
        while self.latest.front().is_some_and(|place| SHARED_FOR.is_over(place.since, now)) {
            self.latest.pop_front();
        }
        let known = self.latest.iter_mut().rfind(|place| place.connection == connection);
        if let Some(place) = known.filter(|place| place.ids < SHARED_BY)
            && let Some(node) = snapshot.nodes.iter().position(|node| node.key_hash == place.node)
            && takes_new(snapshot, node)
        {
            place.ids += 1;
            let id = self.kept_for(cookie, snapshot, node);
            if let Some(id) = id.or_else(|| self.search(cookie, snapshot, node, attributes)) {
                return Some(id);
            }
        }
        let id = id_for_any(cookie, snapshot, attributes)?;
        if let Some(node) = owner(snapshot, id.hash()).and_then(|owner| snapshot.nodes.get(owner)) {
            if self.latest.len() == CONNECTIONS {
                self.latest.pop_front();
            }
            self.latest.push_back(Place { connection, node: node.key_hash, since: now, ids: 1 });
        }
        Some(id)
    }

    /// An id that was kept for the node at this place.
    fn kept_for(&mut self, cookie: &CookieTemplate, snapshot: &Snapshot, node: usize) -> Option<SessionId> {
        let kept = self.kept.get_mut(&snapshot.nodes.get(node)?.key_hash)?;
        // Others have another node by now.
        std::iter::from_fn(|| kept.pop())
            .map(|random| cookie.new_id(random))
            .find(|id| belongs_to(snapshot, node, id))
    }

    /// A new id for the node at this place. What belongs to others is kept for them.
    fn search(
        &mut self,
        cookie: &CookieTemplate,
        snapshot: &Snapshot,
        node: usize,
        attributes: &dyn Attributes,
    ) -> Option<SessionId> {
        let nodes = snapshot.nodes.len();
        let affordable = LOOKS.checked_div(snapshot.looks()).unwrap_or(LOOKS);
        let trials = LEAST_TRIALS_FOR_NODE.max(nodes * TRIALS_PER_NODE).min(affordable);
        for _ in 0..trials {
            let random = attributes.random()?;
            let id = cookie.new_id(random);
            let place = first_place(snapshot, id.hash())?;
            if place != node {
                self.keep(snapshot, place, random);
            } else if belongs_to(snapshot, node, &id) {
                return Some(id);
            }
        }
        None
    }

    fn keep(&mut self, snapshot: &Snapshot, place: usize, random: [u8; 16]) {
        let Some(node) = snapshot.nodes.get(place) else { return };
        if self.kept.len() > snapshot.nodes.len() {
            self.kept.retain(|kept, _| snapshot.nodes.iter().any(|node| node.key_hash == *kept));
        }
        let kept = self.kept.entry(node.key_hash).or_default();
        if kept.len() < KEPT {
            kept.push(random);
        }
    }
}

/// An id whose owner takes new sessions, if there is one soon.
fn id_for_any(
    cookie: &CookieTemplate,
    snapshot: &Snapshot,
    attributes: &dyn Attributes,
) -> Option<SessionId> {
    let mut id = cookie.new_id(attributes.random()?);
    for _ in 1..TRIALS {
        let placement = Placement::of(snapshot, id.hash());
        if placement.is_ok_and(|placement| placement.takes_new(snapshot)) {
            break;
        }
        id = cookie.new_id(attributes.random()?);
    }
    Some(id)
}

/// True if the node at this place owns the id, and not only as a stand-in: the session also stays when another node comes back.
fn belongs_to(snapshot: &Snapshot, node: usize, id: &SessionId) -> bool {
    let hash = id.hash();
    first_place(snapshot, hash) == Some(node) && owner(snapshot, hash) == Some(node)
}

/// The first place on the hash's ring, whatever is said of the node there.
fn first_place(snapshot: &Snapshot, hash: u64) -> Option<usize> {
    snapshot.places(snapshot.drawn_level(hash), hash).next()
}

fn owner(snapshot: &Snapshot, hash: u64) -> Option<usize> {
    Placement::of(snapshot, hash).ok()?.owner()
}

/// Envoy's number of the connection that the request came on.
fn connection(attributes: &dyn Attributes) -> Option<u64> {
    Some(u64::from_le_bytes(*attributes.property(&["connection", "id"])?.first_chunk()?))
}
