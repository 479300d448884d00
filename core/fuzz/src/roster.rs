//! Any bytes where a published roster should be: one whose sessions can be placed, or none.

use std::collections::BTreeSet;

use berth_core::health::HealthPolicy;
use berth_core::placement::Placement;
use berth_core::ring::{Algorithm, RingSize};
use berth_core::roster::{Node, Roster};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

const POLICY: HealthPolicy = HealthPolicy::DEFAULT;
/// The ends of time, and a moment between.
const TIMES: [Millis; 4] = [Millis(0), Millis(1_000_000), Millis(1_030_000), Millis(u64::MAX)];
/// Every algorithm, each with a bound on its size: weights of any u32 are taken as they are.
const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::RingHash(RingSize::Envoy { minimum: 64, maximum: 1024 }),
    Algorithm::Maglev { table_size: 251 },
    Algorithm::Rendezvous,
];
/// A ring without such a bound is only built up to this many points, to be fast, or if it must be refused.
const FEW_POINTS: u64 = 20_000;
const VIRTUAL_NODES: u32 = 16;

/// Reads the roster, uses it as it is, and goes on with it.
pub fn check(input: &[u8]) {
    let Some(mut roster) = Roster::decode(input) else { return };
    assert_eq!(Roster::decode(&roster.encode()).as_ref(), Some(&roster), "published as it is");

    for now in TIMES {
        check_placements(&roster, &POLICY, now);
        let last = roster.nodes.last().map(|node| node.address.clone()).unwrap_or_default();
        let version = roster.version;
        let news = roster.report_failure(&last, &POLICY, now);
        assert_eq!(news, roster.version != version, "the version tells the news");
        roster.reassess(&POLICY, now);
    }
    check_placements(&roster, &POLICY, Millis(1_000_000));
}

/// What holds for the placements of any roster.
pub fn check_placements(roster: &Roster, policy: &HealthPolicy, now: Millis) {
    // Each priority has a ring of its own.
    let points = |nodes: &[Node]| {
        let weights = || nodes.iter().map(|node| u64::from(node.weight.saturating_mul(node.health.weight())));
        u64::from(VIRTUAL_NODES) * weights().sum::<u64>() / weights().min().unwrap_or(1)
    };
    let virtual_nodes = roster.nodes.chunk_by(|a, b| a.priority == b.priority).map(points).max().unwrap_or(0);
    let by_weight = Algorithm::RingHash(RingSize::VirtualNodes(VIRTUAL_NODES));
    if virtual_nodes > FEW_POINTS {
        let refused = virtual_nodes > berth_core::ring::MAXIMUM_POINTS + u64::from(VIRTUAL_NODES);
        let is_refused = || Snapshot::build(roster, by_weight, policy, now, None).is_err();
        assert!(!refused || is_refused(), "a ring of {virtual_nodes} points is refused");
    } else {
        check_snapshot(&Snapshot::build(roster, by_weight, policy, now, None).unwrap());
    }
    ALGORITHMS.into_iter().for_each(|algorithm| check_view(roster, algorithm, policy, now));
}

/// What holds for the view of any roster, by an algorithm whose size is bounded.
pub fn check_view(roster: &Roster, algorithm: Algorithm, policy: &HealthPolicy, now: Millis) {
    let snapshot = Snapshot::build(roster, algorithm, policy, now, None).unwrap();
    let again = Snapshot::build(roster, algorithm, policy, now, Some(&snapshot)).unwrap();
    assert_eq!(snapshot.nodes, again.nodes, "the same roster at the same time is the same view");
    check_snapshot(&snapshot);
}

fn check_snapshot(snapshot: &Snapshot) {
    assert_eq!(snapshot.count_states().iter().sum::<u64>(), snapshot.nodes.len() as u64);
    for hash in [0, 1, 1 << 32, 0x9e37_79b9_7f4a_7c15, u64::MAX] {
        let Ok(placement) = Placement::of(snapshot, hash) else { continue };
        let nodes: Vec<_> = placement.nodes(snapshot).collect();
        let addresses: BTreeSet<_> = nodes.iter().map(|node| &node.address).collect();
        assert!((1..=3).contains(&nodes.len()), "{nodes:?}");
        assert_eq!(nodes.len(), placement.indexes().count(), "a placement names members only");
        assert_eq!(nodes.len(), addresses.len(), "a placement names each node once: {nodes:?}");
        assert!(placement.indexes().all(|place| snapshot.may_serve(place)), "{nodes:?}");

        let mut destination = Vec::new();
        placement.write_destination(snapshot, &mut destination);
        let texts: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        assert_eq!(destination, texts.join(",").as_bytes());
    }
}
