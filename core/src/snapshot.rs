//! A pool's members, states, ring and panic as one immutable value: what a request is placed by.
//!
//! A VM holds one per pool and swaps it whole, so no request sees half of two views. Building one is cheap unless the
//! members or weights changed; only then is the ring built again.

use std::rc::Rc;

use crate::health::{HealthPolicy, State};
use crate::ring::{Algorithm, Locality, Member, Ring, RingError, session_hash};
use crate::roster::Roster;
use crate::time::Millis;

/// A node as a request sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNode {
    /// What it is called: its ring key, and the node of pins.
    pub name: String,
    /// Where it is now, as `override_host` knows it.
    pub address: String,
    /// Envoy's priority; 0 is the first choice.
    pub priority: u32,
    /// What it may be given.
    pub state: State,
    /// It was in cooldown before it began to warm up, or is so still.
    pub returning: bool,
    /// The hash of its address, by which it draws its share of sessions while it warms up.
    pub key_hash: u64,
    /// Different after each start, if the node says so at all.
    pub boot: Option<u64>,
}

/// One view of a pool.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The version of the roster it was built from.
    pub version: u64,
    /// The members; the ring speaks of them by index.
    pub nodes: Vec<SnapshotNode>,
    /// Health is ignored.
    pub panic: bool,
    /// Envoy's cluster cannot be steered: see [`crate::cluster::Unsupported`].
    pub unsupported: bool,
    /// Some state changes by the passing of time alone: build again at the next tick.
    pub timed: bool,
    ring: Rc<Ring>,
    members: Rc<Vec<Member>>,
}

impl Snapshot {
    /// The view of `roster` at `now`. The ring of `previous` is kept if it would come out the same.
    ///
    /// # Errors
    /// If the ring cannot be built, for example because it would have too many points.
    pub fn build(
        roster: &Roster,
        algorithm: Algorithm,
        policy: &HealthPolicy,
        now: Millis,
        previous: Option<&Self>,
    ) -> Result<Self, RingError> {
        let mut former = "";
        let mut number = 0;
        let members: Vec<Member> = roster
            .nodes
            .iter()
            .map(|node| {
                number += u32::from(former != node.locality);
                former = &node.locality;
                Member {
                    key: node.name().to_owned(),
                    weight: node.weight.saturating_mul(node.health.weight()),
                    locality: node.locality_weight.map(|weight| Locality { number, weight }),
                }
            })
            .collect();
        let (ring, members) = match previous {
            Some(previous) if *previous.members == members => {
                (Rc::clone(&previous.ring), Rc::clone(&previous.members))
            }
            _ => (Rc::new(Ring::build(&members, algorithm)?), Rc::new(members)),
        };
        let nodes = roster
            .nodes
            .iter()
            .map(|node| SnapshotNode {
                name: node.name().to_owned(),
                address: node.address.clone(),
                priority: node.priority,
                state: node.health.state(policy, now),
                returning: node.health.is_returning(),
                key_hash: session_hash(node.name().as_bytes()),
                boot: node.health.boot(),
            })
            .collect();
        Ok(Self {
            version: roster.version,
            nodes,
            panic: roster.panic.is_on(),
            unsupported: roster.unsupported,
            timed: roster.nodes.iter().any(|node| node.health.is_timed(policy, now)),
            ring,
            members,
        })
    }

    /// True if the health of the node at this place is ignored.
    #[must_use]
    pub fn is_panic_at(&self, place: usize) -> bool {
        self.panic && place < self.nodes.len()
    }

    /// True if the node at this place may serve the sessions that it has.
    #[must_use]
    pub fn may_serve(&self, place: usize) -> bool {
        self.nodes.get(place).is_some_and(|node| self.is_panic_at(place) || node.state.serves())
    }

    /// The ring of the members.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// How many nodes are in each state, in the order of [`State::NAMES`].
    #[must_use]
    pub fn count_states(&self) -> [u64; State::NAMES.len()] {
        let mut counts = [0; State::NAMES.len()];
        for node in &self.nodes {
            if let Some(count) = counts.get_mut(node.state.index()) {
                *count += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Observation;
    use crate::ring::RingSize;
    use crate::wire::NodeRecord;

    #[test]
    fn an_operators_weight_multiplies_envoys_and_leaves_other_points_where_they_are() {
        let policy = HealthPolicy::default();
        let host = |number: usize| Observation {
            address: format!("10.0.0.{number}:80"),
            weight: 2,
            ..Observation::default()
        };
        let mut roster = Roster::default();
        roster.observe((0..4).map(host).collect(), &policy, Millis(1));
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(512));
        let before = Snapshot::build(&roster, algorithm, &policy, Millis(1), None).unwrap();

        let node = "10.0.0.1:80".parse().unwrap();
        let heavier = NodeRecord { weight: Some(3), version: 1, ..NodeRecord::unknown(node) };
        assert!(roster.record(&[heavier], &policy, Millis(2)));
        let after = Snapshot::build(&roster, algorithm, &policy, Millis(2), Some(&before)).unwrap();

        let owner = |snapshot: &Snapshot, hash: u64| snapshot.ring().candidates(hash).next().unwrap();
        let hashes: Vec<u64> = (0..6_000_u64).map(|number| session_hash(&number.to_le_bytes())).collect();
        let share = hashes.iter().filter(|hash| owner(&after, **hash) == 1).count();
        assert!((2_800..3_200).contains(&share), "3 of 6 parts: {share}");
        for hash in hashes {
            let (was, is) = (owner(&before, hash), owner(&after, hash));
            assert!(was == is || is == 1, "{was} → {is}");
        }
    }
}
