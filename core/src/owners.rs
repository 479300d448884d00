//! Whether the owner that the state cluster names can be used here, and which nodes this proxy tells it cannot be.
//!
//! Two proxies do not see members come and go at the same moment. An owner that this one does not know, or has not seen
//! well yet, may be a node that another one has just given a session to: it gets time to appear before the session is
//! taken from it. A member that left is gone at once: Envoy could not reach it anyway. Nothing here looks at sessions.

use std::collections::{BTreeMap, VecDeque};

use crate::health::State;
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::{MAX_UNUSABLE, NodeId};

/// How long an owner may be unknown here. Longer than two proxies' views of a membership are apart (a poll of each, and
/// the first health check), and short for a session whose owner is indeed no more.
const GRACE: Millis = Millis(5_000);
/// Nodes that left and are still named; more than leave together in one deploy of a rolling kind.
const MAX_GONE: usize = 32;
/// Unknown owners under watch.
const MAX_UNKNOWN: usize = 64;
/// An unknown owner that nobody named for so long is forgotten.
const FORGOTTEN_AFTER: Millis = Millis(600_000);

/// What can be done with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Send the session there: its place in the snapshot.
    Usable(usize),
    /// Not here and now. Another proxy may know better: ask again soon.
    Unknown,
    /// It is out, or gone: ask again and say so.
    Unusable,
}

/// What one VM knows of the nodes that may be named as owners.
#[derive(Debug, Default)]
pub struct Owners {
    /// By place in the snapshot; `None` for an address that is not `ip:port`, which no pin can name.
    ids: Vec<Option<NodeId>>,
    places: BTreeMap<NodeId, usize>,
    /// Left, the latest last.
    gone: VecDeque<NodeId>,
    /// Named as owners while unknown or never seen well: since when.
    unknown: BTreeMap<NodeId, Millis>,
    /// Of members, and of those that left.
    boots: BTreeMap<NodeId, u64>,
}

impl Owners {
    /// Takes over the members of a new snapshot. Returns the places of those that were started anew, also if they say
    /// so for the first time: the state cluster does not know yet with which start their sessions began.
    pub fn adopt(&mut self, snapshot: &Snapshot, now: Millis) -> Vec<usize> {
        self.ids = snapshot.nodes.iter().map(|node| node.name.parse().ok()).collect();
        let before = std::mem::take(&mut self.places);
        self.places = self.ids.iter().enumerate().filter_map(|(place, id)| Some(((*id)?, place))).collect();
        let (places, gone) = (&self.places, &mut self.gone);
        gone.retain(|id| !places.contains_key(id));
        gone.extend(before.into_keys().filter(|id| !places.contains_key(id)));
        let surplus = gone.len().saturating_sub(MAX_GONE);
        gone.drain(..surplus);
        self.unknown.retain(|id, since| {
            // One that serves needs no time, one that is out or gone has had it.
            let is_pending =
                |place: &usize| snapshot.nodes.get(*place).is_some_and(|node| node.state == State::Pending);
            places.get(id).is_none_or(is_pending) && !gone.contains(id) && now.since(*since) < FORGOTTEN_AFTER
        });
        self.boots.retain(|id, _| places.contains_key(id) || gone.contains(id));
        self.started(snapshot)
    }

    fn started(&mut self, snapshot: &Snapshot) -> Vec<usize> {
        let boots = &mut self.boots;
        let nodes = snapshot.nodes.iter().zip(&self.ids).enumerate();
        // One that has just come back is not on record yet, and is no other than before until it is.
        let said = nodes.filter_map(|(place, (node, id))| Some((place, (*id)?, node.boot?)));
        said.filter(|(_, id, boot)| boots.insert(*id, *boot) != Some(*boot))
            .map(|(place, ..)| place)
            .collect()
    }

    /// The names of candidates on the wire, with their places.
    #[must_use]
    pub fn names(&self, places: &[usize]) -> Vec<NodeId> {
        places.iter().filter_map(|place| self.ids.get(*place).copied().flatten()).collect()
    }

    /// What can be done with `owner`; notes it if it is not known.
    pub fn judge(&mut self, owner: NodeId, snapshot: &Snapshot, now: Millis) -> Standing {
        let place = self.places.get(&owner).copied();
        let state = place.and_then(|place| snapshot.nodes.get(place)).map(|node| node.state);
        match (place, state) {
            (Some(place), Some(state)) if snapshot.is_panic_at(place) || state.serves() => {
                Standing::Usable(place)
            }
            // The other proxy has seen it well, or it would own nothing.
            (Some(place), Some(State::Pending)) => match self.has_had_its_time(owner, now) {
                true => Standing::Unusable,
                false => Standing::Usable(place),
            },
            (Some(_), _) => Standing::Unusable,
            (None, _) if self.gone.contains(&owner) || self.has_had_its_time(owner, now) => {
                Standing::Unusable
            }
            (None, _) => Standing::Unknown,
        }
    }

    /// The nodes that may not serve a session now, each once. None in panic, when health is not believed.
    #[must_use]
    pub fn unusable(&self, snapshot: &Snapshot, now: Millis) -> Vec<NodeId> {
        if snapshot.has_panic() {
            return Vec::new();
        }
        let out = snapshot.nodes.iter().zip(&self.ids).filter(|(node, _)| node.state == State::Cooldown);
        let overdue = self.unknown.iter().filter(|(_, since)| now.since(**since) >= GRACE);
        let mut named: Vec<NodeId> = out.filter_map(|(_, id)| *id).collect();
        named.extend(self.gone.iter().rev().chain(overdue.map(|(id, _)| id)));
        named.truncate(MAX_UNUSABLE);
        named
    }

    fn has_had_its_time(&mut self, owner: NodeId, now: Millis) -> bool {
        if self.unknown.len() >= MAX_UNKNOWN && !self.unknown.contains_key(&owner) {
            let oldest = self.unknown.iter().min_by_key(|(_, since)| **since).map(|(id, _)| *id);
            oldest.map(|id| self.unknown.remove(&id));
        }
        let since = self.unknown.entry(owner).or_insert(now);
        // A clock that was set back must not prolong it.
        *since = now.min(*since);
        now.since(*since) >= GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthPolicy;
    use crate::membership::{HostFlags, Observation};
    use crate::ring::{Algorithm, RingSize};
    use crate::roster::Roster;
    use crate::wire::NodeRecord;

    fn at(seconds: u64) -> Millis {
        Millis(1_000_000 + seconds * 1000)
    }

    fn node(number: usize) -> NodeId {
        format!("10.0.0.{number}:80").parse().unwrap()
    }

    /// The nodes with these numbers, the second value of each saying what Envoy says of it.
    fn look(roster: &mut Roster, members: &[(usize, HostFlags)], now: Millis) -> Snapshot {
        let host = |&(number, flags): &(usize, HostFlags)| Observation {
            address: node(number).to_string(),
            weight: 1,
            flags,
            ..Observation::default()
        };
        let policy = HealthPolicy { warm_up: Millis(0), ..HealthPolicy::default() };
        roster.observe(members.iter().map(host).collect(), &policy, now);
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(3));
        Snapshot::build(roster, algorithm, &policy, now, None).unwrap()
    }

    const GOOD: HostFlags =
        HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };
    const BAD: HostFlags = HostFlags { unhealthy: true, ..GOOD };
    const PENDING: HostFlags = HostFlags { pending: true, ..GOOD };

    #[test]
    fn a_member_that_serves_is_usable_and_one_in_cooldown_is_named() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (2, GOOD), (3, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (3, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));

        assert_eq!(owners.judge(node(1), &snapshot, at(1)), Standing::Usable(0));
        assert_eq!(owners.judge(node(2), &snapshot, at(1)), Standing::Unusable);
        assert_eq!(owners.unusable(&snapshot, at(1)), [node(2)]);
        assert_eq!(owners.names(&[2, 0]), [node(3), node(1)]);
    }

    #[test]
    fn in_panic_everybody_is_usable_and_nobody_is_named() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (2, GOOD), (3, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (3, BAD)], at(1));
        owners.adopt(&snapshot, at(1));

        assert_eq!(owners.judge(node(2), &snapshot, at(1)), Standing::Usable(1));
        assert!(owners.unusable(&snapshot, at(1)).is_empty());
    }

    #[test]
    fn a_member_that_left_is_gone_until_it_is_back() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(0));
        owners.adopt(&snapshot, at(0));
        let snapshot = look(&mut roster, &[(1, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));
        assert_eq!(owners.judge(node(2), &snapshot, at(1)), Standing::Unusable);
        assert_eq!(owners.unusable(&snapshot, at(1)), [node(2)]);

        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(2));
        owners.adopt(&snapshot, at(2));

        assert_eq!(owners.judge(node(2), &snapshot, at(2)), Standing::Usable(1));
        assert!(owners.unusable(&snapshot, at(2)).is_empty());
    }

    #[test]
    fn an_owner_that_is_not_known_here_gets_time_to_appear() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let snapshot = look(&mut roster, &[(1, GOOD)], at(0));
        owners.adopt(&snapshot, at(0));

        assert_eq!(owners.judge(node(2), &snapshot, at(0)), Standing::Unknown);
        assert_eq!(owners.judge(node(2), &snapshot, at(4)), Standing::Unknown);
        assert!(owners.unusable(&snapshot, at(4)).is_empty());
        assert_eq!(owners.judge(node(2), &snapshot, at(5)), Standing::Unusable);
        assert_eq!(owners.unusable(&snapshot, at(5)), [node(2)]);

        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(6));
        owners.adopt(&snapshot, at(6));
        assert_eq!(owners.judge(node(2), &snapshot, at(6)), Standing::Usable(1));
    }

    #[test]
    fn an_owner_whose_first_check_has_not_answered_here_is_believed_for_the_same_time() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, PENDING)], at(1));
        owners.adopt(&snapshot, at(1));

        assert_eq!(owners.judge(node(2), &snapshot, at(1)), Standing::Usable(1));
        assert_eq!(owners.judge(node(2), &snapshot, at(6)), Standing::Unusable);
        assert_eq!(owners.unusable(&snapshot, at(6)), [node(2)]);
    }

    /// The service refuses a question that names a node twice, and so every question of a worker.
    #[test]
    fn an_owner_that_was_unknown_and_then_failed_or_left_is_named_once() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (4, GOOD)], at(0));
        let snapshot =
            look(&mut roster, &[(1, GOOD), (2, PENDING), (3, PENDING), (4, GOOD), (5, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));
        owners.judge(node(2), &snapshot, at(1));
        owners.judge(node(3), &snapshot, at(1));
        look(&mut roster, &[(1, GOOD), (2, GOOD), (4, GOOD), (5, GOOD)], at(2));

        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (4, GOOD), (5, GOOD)], at(3));
        owners.adopt(&snapshot, at(3));

        assert_eq!(owners.unusable(&snapshot, at(60)), [node(2), node(3)]);
    }

    #[test]
    fn a_node_that_was_started_anew_is_told_of_once_also_after_it_was_away() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let policy = HealthPolicy::default();
        let says = |version, boot_id: &str| NodeRecord {
            version,
            boot_id: Some(boot_id.into()),
            ..NodeRecord::unknown(node(2))
        };
        let none: [usize; 0] = [];
        look(&mut roster, &[(1, GOOD), (2, GOOD)], at(0));
        let mut started = |roster: &mut Roster, records: &[NodeRecord], members: &[(usize, HostFlags)]| {
            roster.record(records, &policy, at(1));
            owners.adopt(&look(roster, members, at(1)), at(1))
        };

        assert_eq!(started(&mut roster, &[], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[says(1, "a")], &[(1, GOOD), (2, GOOD)]), [1]);
        assert_eq!(started(&mut roster, &[says(2, "a")], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[], &[(1, GOOD)]), none);
        assert_eq!(started(&mut roster, &[], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[says(2, "a")], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[says(3, "b")], &[(1, GOOD), (2, GOOD)]), [1]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest_stay() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let all: Vec<(usize, HostFlags)> = (0..100).map(|number| (number, GOOD)).collect();
        let snapshot = look(&mut roster, &all, at(0));
        owners.adopt(&snapshot, at(0));
        let snapshot = look(&mut roster, &[(0, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));
        assert_eq!(owners.unusable(&snapshot, at(1)).len(), MAX_GONE);

        for number in 100..250 {
            assert_eq!(owners.judge(node(number), &snapshot, at(2)), Standing::Unknown, "{number}");
        }
        assert_eq!(owners.unknown.len(), MAX_UNKNOWN);
        assert_eq!(owners.judge(node(249), &snapshot, at(7)), Standing::Unusable);
        assert!(owners.unusable(&snapshot, at(7)).len() <= MAX_UNUSABLE);
    }
}
