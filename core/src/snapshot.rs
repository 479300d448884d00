//! A pool's members, states, rings and panic as one immutable value: what a request is placed by.
//!
//! A VM holds one per pool and swaps it whole, so no request sees half of two views. Building one is cheap unless the
//! members or weights changed; only then is the ring of their priority built again.

use std::rc::Rc;

use crate::health::{HealthPolicy, State};
use crate::levels::{self, Level};
use crate::ring::{Algorithm, Candidates, Locality, Member, Ring, RingError, session_hash};
use crate::roster::{Node, Roster};
use crate::time::Millis;

/// A node as a request sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNode {
    /// What it is called: its ring key, and the node of pins.
    pub name: String,
    /// Where it is now, as `override_host` knows it.
    pub address: String,
    /// What pins may bear in place of its name: see [`Node::alias`].
    pub alias: Option<String>,
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
    /// The members, those of one priority side by side; rings and pins speak of them by index.
    pub nodes: Vec<SnapshotNode>,
    /// Nodes that vanished together: their sessions are not given away yet. In the order of their names.
    pub held: Vec<String>,
    /// For how long such sessions are kept: [`HealthPolicy::vanish_grace`].
    pub vanish_grace: Millis,
    /// Envoy's cluster cannot be steered: see [`crate::cluster::Unsupported`].
    pub unsupported: bool,
    /// Nodes are called by their addresses because their names are not known.
    pub nameless: bool,
    /// Some state changes by the passing of time alone: build again at the next tick.
    pub timed: bool,
    /// The best priority first.
    levels: Vec<Level>,
    /// Of each level, as in Envoy.
    rings: Vec<LevelRing>,
    /// Some level is in panic.
    has_panic: bool,
}

/// A ring and what it was built from.
#[derive(Debug, Clone)]
struct LevelRing {
    ring: Rc<Ring>,
    members: Rc<Vec<Member>>,
}

impl Snapshot {
    /// The view of `roster` at `now`. The rings of `previous` are kept if they would come out the same.
    ///
    /// # Errors
    /// If a ring cannot be built, for example because it would have too many points.
    pub fn build(
        roster: &Roster,
        algorithm: Algorithm,
        policy: &HealthPolicy,
        now: Millis,
        previous: Option<&Self>,
    ) -> Result<Self, RingError> {
        let mut levels = Level::of(&roster.nodes, policy, now);
        let mut rings = Vec::new();
        for level in &levels {
            let nodes = roster.nodes.get(level.start..level.end).unwrap_or_default();
            let members = members(nodes);
            let before =
                previous.and_then(|previous| previous.rings.iter().find(|ring| *ring.members == members));
            rings.push(match before {
                Some(ring) => ring.clone(),
                None => {
                    LevelRing { ring: Rc::new(Ring::build(&members, algorithm)?), members: Rc::new(members) }
                }
            });
        }
        levels::share_out(&mut levels);
        let nodes = roster
            .nodes
            .iter()
            .map(|node| SnapshotNode {
                name: node.name().to_owned(),
                address: node.address.clone(),
                alias: node.alias().map(str::to_owned),
                priority: node.priority,
                state: node.health.state(policy, now),
                returning: node.health.is_returning(),
                key_hash: session_hash(node.name().as_bytes()),
                boot: node.health.boot(),
            })
            .collect();
        let mut held: Vec<String> = roster.held(policy, now).map(str::to_owned).collect();
        held.sort_unstable();
        Ok(Self {
            version: roster.version,
            nodes,
            timed: !held.is_empty() || roster.nodes.iter().any(|node| node.health.is_timed(policy, now)),
            held,
            vanish_grace: policy.vanish_grace,
            has_panic: levels.iter().any(|level| level.is_panic),
            levels,
            rings,
            unsupported: roster.unsupported,
            nameless: roster.nameless,
        })
    }

    /// True if the health of some nodes is ignored.
    #[must_use]
    pub fn has_panic(&self) -> bool {
        self.has_panic
    }

    /// True if the health of all nodes is ignored.
    #[must_use]
    pub fn is_all_panic(&self) -> bool {
        self.has_panic && self.levels.iter().all(|level| level.is_panic)
    }

    /// True if the health of this level's nodes is ignored.
    #[must_use]
    pub fn is_panic_level(&self, level: usize) -> bool {
        self.has_panic && self.levels.get(level).is_some_and(|level| level.is_panic)
    }

    /// True if the health of the node at this place is ignored.
    #[must_use]
    pub fn is_panic_at(&self, place: usize) -> bool {
        self.has_panic
            && self.levels.iter().find(|level| place < level.end).is_some_and(|level| level.is_panic)
    }

    /// True if the node at this place may serve the sessions that it has.
    #[must_use]
    pub fn may_serve(&self, place: usize) -> bool {
        self.nodes.get(place).is_some_and(|node| self.is_panic_at(place) || node.state.serves())
    }

    /// True if the node of that name vanished together with many others, and may be back soon.
    #[must_use]
    pub fn is_held(&self, name: &str) -> bool {
        self.held.binary_search_by(|held| held.as_str().cmp(name)).is_ok()
    }

    /// All places, best first for the session with this hash: in the order of the ring of `level`, then in that of the
    /// others' rings, the best priority first.
    #[must_use]
    pub fn places(&self, level: usize, hash: u64) -> Places<'_> {
        Places { snapshot: self, first: level, hash, step: 0, current: None }
    }

    /// How many nodes [`Self::places`] looks at for the first one.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.rings.iter().map(|ring| ring.ring.looks()).max().unwrap_or(1)
    }

    /// The level from which the session with this hash draws its node, unless it has one.
    #[must_use]
    pub fn drawn_level(&self, hash: u64) -> usize {
        if self.levels.len() < 2 { 0 } else { levels::draw(&self.levels, hash) }
    }

    /// The level of the node at this place; the best level if there is no such place.
    #[must_use]
    pub fn level_of(&self, place: usize) -> usize {
        self.levels.iter().position(|level| place < level.end).unwrap_or(0)
    }

    /// True if there are nodes of several priorities.
    #[must_use]
    pub fn has_levels(&self) -> bool {
        self.levels.len() > 1
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

/// The nodes of one level as their ring knows them.
fn members(nodes: &[Node]) -> Vec<Member> {
    let mut former = "";
    let mut number = 0;
    let mut members = Vec::with_capacity(nodes.len());
    for node in nodes {
        number += u32::from(former != node.locality);
        former = &node.locality;
        let (key, weight) = (node.name().to_owned(), node.weight.saturating_mul(node.health.weight()));
        let locality = node.locality_weight.map(|weight| Locality { number, weight });
        members.push(Member { key, weight, locality });
    }
    members
}

/// Places in the order of several rings; see [`Snapshot::places`].
#[derive(Debug, Clone)]
pub struct Places<'s> {
    snapshot: &'s Snapshot,
    first: usize,
    hash: u64,
    /// Levels that were begun, and the walk through the latest.
    step: usize,
    current: Option<(usize, Candidates<'s>)>,
}

impl Places<'_> {
    /// Only those of the other levels.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        Self { step: 1, ..self }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            if let Some((start, candidates)) = &mut self.current
                && let Some(index) = candidates.next()
            {
                return Some(*start + index);
            }
            let level = match self.step.checked_sub(1) {
                None => self.first,
                Some(other) if other < self.first => other,
                Some(_) => self.step,
            };
            self.step += 1;
            let (ring, level) = (self.snapshot.rings.get(level)?, self.snapshot.levels.get(level)?);
            self.current = Some((level.start, ring.ring.candidates(self.hash)));
        }
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

        let owner = |snapshot: &Snapshot, hash: u64| snapshot.places(0, hash).next().unwrap();
        let hashes: Vec<u64> = (0..6_000_u64).map(|number| session_hash(&number.to_le_bytes())).collect();
        let share = hashes.iter().filter(|hash| owner(&after, **hash) == 1).count();
        assert!((2_800..3_200).contains(&share), "3 of 6 parts: {share}");
        for hash in hashes {
            let (was, is) = (owner(&before, hash), owner(&after, hash));
            assert!(was == is || is == 1, "{was} → {is}");
        }
    }
}
