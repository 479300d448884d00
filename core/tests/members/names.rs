//! Nodes have names: pins follow them, and a name that is not known is not gone.

use berth_core::cluster::ClusterFacts;
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::owners::{Owners, PROVISIONAL, Standing, provisional_time};
use berth_core::roster::{Node, Roster};
use berth_core::time::Millis;

use super::{GOOD, at, clusters, host, named, snapshot};

/// A proxy whose first looks had no answer from /config_dump names its nodes by address. It must not tell the state
/// cluster that the names which all pins bear are gone.
#[test]
fn names_that_are_not_known_yet_are_not_gone() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    let mut owners = Owners::default();
    roster.learn(None, true);
    roster.observe((0..4).map(|n| host(&format!("10.0.0.{n}:80"), None, GOOD)).collect(), &policy, at(0));
    owners.adopt(&snapshot(&roster, &policy, at(0)), at(0));
    let view = snapshot(&roster, &policy, at(12));
    let owner = "db-1".parse().unwrap();
    assert_eq!(owners.judge(&owner, Some(Millis(3_600_000)), &view, at(12)), Standing::Unknown);
    // A node that is called by its address everywhere is gone if it is not there.
    let owner = "10.0.0.9:80".parse().unwrap();
    assert_eq!(owners.judge(&owner, Some(Millis(3_600_000)), &view, at(12)), Standing::Unusable);
}

/// A proxy that cannot see names does not ask four times a second for each session of a named node.
#[test]
fn an_owner_with_a_name_that_cannot_be_seen_is_asked_for_less_often() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe(vec![host("10.0.0.1:80", None, GOOD)], &policy, at(0));
    let mut time = |facts: Option<&ClusterFacts>, owner: &str, owned: Option<u64>| {
        roster.learn(facts, true);
        provisional_time(&owner.parse().unwrap(), owned.map(Millis), &snapshot(&roster, &policy, at(0)))
    };

    assert_eq!(time(None, "db-1", Some(100)), PROVISIONAL);
    assert!(time(None, "10.0.0.9:80", Some(100)) < PROVISIONAL, "another proxy has seen it first");
    assert!(time(Some(&ClusterFacts::default()), "db-1", Some(100)) < PROVISIONAL);
    // One that other proxies have known for long does not appear from one moment to the next.
    assert_eq!(time(None, "10.0.0.9:80", Some(3_600_000)), PROVISIONAL);
    assert_eq!(time(None, "10.0.0.9:80", None), PROVISIONAL);
}

/// The same nodes get names, or lose them: no node has left or come, and pins of before find their node.
#[test]
fn nodes_that_get_names_are_the_same_nodes() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    let mut owners = Owners::default();
    let plain = || (0..4).map(|n| host(&format!("10.0.0.{n}:80"), None, GOOD)).collect::<Vec<_>>();
    roster.observe(plain(), &policy, at(0));
    owners.adopt(&snapshot(&roster, &policy, at(0)), at(0));
    roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(60));
    let view = snapshot(&roster, &policy, at(60));
    owners.adopt(&view, at(60));

    assert_eq!(view.count_states()[0], 4, "none warms up");
    assert!(view.held.is_empty());
    for n in 0..4 {
        let address = format!("10.0.0.{n}:80").parse().unwrap();
        assert_eq!(owners.judge(&address, Some(Millis(3_600_000)), &view, at(70)), Standing::Usable(n));
    }
    assert!(owners.unusable(&[], &view, at(70)).is_empty());

    roster.observe(plain(), &policy, at(120));
    assert_eq!(snapshot(&roster, &policy, at(120)).count_states()[0], 4);
}

/// What a pin that is older than the names calls its node is the node's, not the address's.
#[test]
fn a_pin_that_is_older_than_the_names_follows_its_node_to_another_address() {
    let policy = HealthPolicy::default();
    let (mut roster, mut owners) = (Roster::default(), Owners::default());
    let plain = |n: usize| host(&format!("10.0.0.{n}:80"), None, GOOD);
    let mut look = |hosts: Vec<Observation>, second: u64| {
        roster.observe(hosts, &policy, at(second));
        roster = Roster::decode(&roster.encode()).unwrap();
        let view = snapshot(&roster, &policy, at(second));
        owners.adopt(&view, at(second));
        let judge = |owner: &str| match owners.judge(
            &owner.parse().unwrap(),
            Some(Millis(3_600_000)),
            &view,
            at(second),
        ) {
            Standing::Usable(place) => view.nodes[place].name.clone(),
            other => format!("{other:?}"),
        };
        ["10.0.0.2:80", "10.0.0.3:80", "db-2", "db-3"].map(judge)
    };
    let own = ["db-2", "db-3", "db-2", "db-3"];
    look((0..4).map(plain).collect(), 0);
    assert_eq!(look((0..4).map(|n| named(n, 0, GOOD)).collect(), 60), own);

    // One moves, and another takes its address over; then both move on.
    let first = || [named(0, 0, GOOD), named(1, 0, GOOD)];
    let after = |second: &str, third: &str| {
        let moved = [host(second, Some("db-2"), GOOD), host(third, Some("db-3"), GOOD)];
        first().into_iter().chain(moved).collect::<Vec<_>>()
    };
    for (round, (second, third)) in (2..).zip([
        ("10.0.0.3:80", "10.0.1.3:80"),
        ("10.0.2.2:80", "10.0.0.2:80"),
        ("10.0.0.3:80", "10.0.1.3:80"),
    ]) {
        assert_eq!(look(after(second, third), round * 60), own);
    }
    // A new node at that address does not take the pin either, nor while the node that has it is held.
    let new = || host("10.0.0.3:80", Some("db-9"), GOOD);
    let hosts = after("10.0.2.2:80", "10.0.1.3:80").into_iter().chain([new()]);
    assert_eq!(look(hosts.collect(), 600), own);
    assert_eq!(look(vec![new()], 660), ["Held"; 4]);
    // When it is gone for good, another that has moved to its address is not taken for it.
    look(after("10.0.0.3:80", "10.0.1.3:80"), 663);
    let hosts = first().into_iter().chain([host("10.0.0.3:80", Some("db-2"), GOOD)]).collect();
    assert_eq!(look(hosts, 720), ["db-2", "Unusable", "db-2", "Unusable"]);
}

/// Names are taken away, or two hosts come to bear one: the hosts are there, so pins of before find them.
#[test]
fn pins_find_a_node_by_the_name_that_it_had() {
    let policy = HealthPolicy::default();
    let (mut roster, mut owners) = (Roster::default(), Owners::default());
    let plain = |n: usize| host(&format!("10.0.0.{n}:80"), None, GOOD);
    let mut look = |hosts: Vec<Observation>, second: u64| {
        roster.observe(hosts, &policy, at(second));
        roster = Roster::decode(&roster.encode()).unwrap();
        let view = snapshot(&roster, &policy, at(second));
        owners.adopt(&view, at(second));
        let ids = ["db-1", "10.0.0.1:80"].map(|id| id.parse().unwrap());
        assert!(owners.unusable(&ids[..1], &view, at(second)).is_empty(), "{second}");
        ids.map(|id| owners.judge(&id, Some(Millis(3_600_000)), &view, at(second)))
    };
    let (named_all, plain_all) =
        (|| (0..4).map(|n| named(n, 0, GOOD)).collect(), || (0..4).map(plain).collect());
    look(named_all(), 0);

    for second in [60, 120] {
        assert_eq!(look(plain_all(), second), [Standing::Usable(1); 2], "{second}");
    }
    // As for any node: with many others it is held, and its host may be back with the name or without it.
    assert_eq!(look(vec![plain(0)], 180), [Standing::Held; 2]);
    assert_eq!(look(plain_all(), 183), [Standing::Usable(1); 2]);
    assert_eq!(look(named_all(), 240), [Standing::Usable(1); 2]);
    assert_eq!(look(vec![plain(0)], 300), [Standing::Held; 2]);
    assert_eq!(look(plain_all(), 303), [Standing::Usable(1); 2]);
    // Another node gets the name.
    let other = host("10.0.1.9:80", Some("db-1"), GOOD);
    assert_eq!(
        look((0..4).map(plain).chain([other]).collect(), 360),
        [Standing::Usable(4), Standing::Usable(1)]
    );
}

/// Nothing is compared with each of 10,000 others: that took most of a minute.
#[test]
fn ten_thousand_nodes_get_names_and_lose_them_in_one_look() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    let plain = |n: usize| host(&format!("10.0.{}.{}:80", n / 250, n % 250), None, GOOD);
    let with_name = |n: usize| Observation { name: Some(format!("db-{n}")), ..plain(n) };
    roster.observe((0..10_000).map(plain).collect(), &policy, at(0));
    for round in 1..=10 {
        roster.observe((0..10_000).map(with_name).collect(), &policy, at(round * 60));
        roster.observe((0..10_000).map(plain).collect(), &policy, at(round * 60 + 30));
    }
    let is_active = |node: &Node| node.health.state(&policy, at(700)) == State::Active;
    assert!(
        roster.nodes.len() == 10_000 && roster.nodes.iter().all(is_active),
        "no node left, and no node is new"
    );
}

/// It starts while the control plane has lost most nodes: other proxies hold what these own, and it cannot tell that they are gone.
#[test]
fn a_proxy_that_has_just_started_calls_no_owner_gone_that_others_may_hold() {
    let owner = "db-3".parse().unwrap();
    for (grace, gone_from) in [(10_000, 10), (0, 5), (2_000, 5)] {
        let policy = HealthPolicy { vanish_grace: Millis(grace), ..HealthPolicy::default() };
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        roster.observe(vec![named(0, 0, GOOD)], &policy, at(0));
        let view = snapshot(&roster, &policy, at(0));
        owners.adopt(&view, at(0));
        for second in 0..15 {
            let standing = owners.judge(&owner, Some(Millis(3_600_000)), &view, at(second));
            let expected = if second < gone_from { Standing::Unknown } else { Standing::Unusable };
            assert_eq!(standing, expected, "{grace} ms: {second}");
        }
        // One that it sees leave alone is gone at once.
        roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(1));
        owners.adopt(&snapshot(&roster, &policy, at(1)), at(1));
        roster.observe((0..3).map(|n| named(n, 0, GOOD)).collect(), &policy, at(2));
        let view = snapshot(&roster, &policy, at(2));
        owners.adopt(&view, at(2));
        assert_eq!(owners.judge(&owner, Some(Millis(0)), &view, at(2)), Standing::Unusable);
    }
}

/// What was read is of other hosts than those that are there: a node that moved is called by its address until it is read again.
#[test]
fn a_name_that_is_not_current_is_unknown_also_if_it_has_a_port() {
    let policy = HealthPolicy::default();
    let facts = clusters("");
    let (mut roster, mut owners) = (Roster::default(), Owners::default());
    roster.learn(facts.get("nodes"), false);
    roster.observe(vec![host("10.0.0.1:80", None, GOOD)], &policy, at(0));
    owners.adopt(&snapshot(&roster, &policy, at(0)), at(0));
    let view = snapshot(&roster, &policy, at(60));
    let judge = |owner: &str| owners.judge(&owner.parse().unwrap(), Some(Millis(3_600_000)), &view, at(60));

    assert_eq!(judge("db-1"), Standing::Unknown);
    assert_eq!(judge("db-1.svc:5432"), Standing::Unknown);
    assert_eq!(judge("10.0.0.2:80"), Standing::Unusable);
    assert_eq!(judge("envoy://gone/1"), Standing::Unusable);
}
