//! Members as Envoy has them, across modules: what its configuration says, what follows for a node's state, and what that
//! means for the owner that a pin names.

use berth_core::cluster::{ClusterFacts, Clusters, Unsupported};
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::{HostFlags, Observation};
use berth_core::owners::{Owners, PROVISIONAL, Standing, provisional_time};
use berth_core::passive::check_decides;
use berth_core::placement::Placement;
use berth_core::ring::{Algorithm, RingSize, session_hash};
use berth_core::roster::{Node, Roster};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

const GOOD: HostFlags =
    HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };
const BAD: HostFlags = HostFlags { unhealthy: true, ..GOOD };

fn at(seconds: u64) -> Millis {
    Millis(1_000_000 + seconds * 1000)
}

fn host(address: &str, name: Option<&str>, flags: HostFlags) -> Observation {
    Observation {
        address: address.into(),
        name: name.map(str::to_owned),
        weight: 1,
        flags,
        ..Observation::default()
    }
}

fn named(number: usize, at: usize, flags: HostFlags) -> Observation {
    host(&format!("10.0.{at}.{number}:80"), Some(&format!("db-{number}")), flags)
}

fn snapshot(roster: &Roster, policy: &HealthPolicy, now: Millis) -> Snapshot {
    Snapshot::build(roster, Algorithm::RingHash(RingSize::VirtualNodes(3)), policy, now, None).unwrap()
}

fn state(roster: &Roster, name: &str, policy: &HealthPolicy, now: Millis) -> State {
    roster.nodes.iter().find(|node| node.name() == name).unwrap().health.state(policy, now)
}

fn clusters(checks: &str) -> Clusters {
    let json = format!(
        r#"{{"configs":[{{"dynamic_active_clusters":[{{"cluster":{{"name":"nodes","type":"EDS","health_checks":[{checks}]}}}}]}}]}}"#
    );
    Clusters::read(json.as_bytes()).unwrap()
}

/// Three checks in a row must fail: that is when a check has "surely come to a result".
#[test]
fn a_check_comes_to_a_result_after_its_unhealthy_threshold() {
    let facts = clusters(
        r#"{"timeout":"1s","interval":"5s","no_traffic_interval":"5s","unhealthy_threshold":3,"healthy_threshold":1}"#,
    );
    let period = facts.get("nodes").unwrap().check_period.unwrap();
    assert!(period >= Millis(15_000), "{period:?}");
}

/// The same seen from the roster: a node that refuses connections is let back before its checks can have said so.
#[test]
fn a_dead_node_is_not_let_back_before_its_check_can_have_failed() {
    let policy = HealthPolicy::default();
    let facts = clusters(
        r#"{"timeout":"1s","interval":"5s","no_traffic_interval":"5s","unhealthy_threshold":3,"healthy_threshold":1}"#,
    );
    let mut roster = Roster::default();
    let look = |roster: &mut Roster, flags, now| {
        roster.learn(facts.get("nodes"), true);
        let hosts = (1..=4).map(|n| host(&format!("10.0.0.{n}:80"), None, if n == 1 { flags } else { GOOD }));
        roster.observe(hosts.collect(), &policy, now);
    };
    look(&mut roster, GOOD, at(0));
    roster.report_failure("10.0.0.1:80", &policy, at(100));
    // It died at 100; Envoy flags it after its third failed check, at 115 at the latest.
    for second in 101..115 {
        look(&mut roster, GOOD, at(second));
        assert_eq!(state(&roster, "10.0.0.1:80", &policy, at(second)), State::Cooldown, "{second}");
    }
}

/// A held StatefulSet pod comes back under another address; its first check has not been answered.
#[test]
fn a_held_node_that_returns_elsewhere_is_not_put_out_by_its_first_sight() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    roster.observe((0..1).map(|n| named(n, 0, GOOD)).collect(), &policy, at(60));
    assert_eq!(roster.held(&policy, at(60)).count(), 6, "by name and by address");
    roster.observe(
        (0..4).map(|n| named(n, usize::from(n > 0), if n > 0 { BAD } else { GOOD })).collect(),
        &policy,
        at(63),
    );
    assert_ne!(state(&roster, "db-1", &policy, at(63)), State::Cooldown);
}

/// Most nodes change their address together and boot for longer than two proxies' views can be apart, at once or after they
/// were gone for a moment: as for nodes that fail together, no session is given away.
#[test]
fn many_nodes_that_move_together_keep_their_sessions_until_they_are_up() {
    for is_gone_first in [false, true] {
        let policy = HealthPolicy::default();
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let mut look = |moved: usize, flags: HostFlags, second: u64| {
            let host = |n| if n < moved { named(n, 1, flags) } else { named(n, 0, GOOD) };
            let from = if is_gone_first && second == 60 { moved } else { 0 };
            roster.observe((from..10).map(host).collect(), &policy, at(second));
            let view = snapshot(&roster, &policy, at(second));
            owners.adopt(&view, at(second));
            let standing = owners.judge(&"db-1".parse().unwrap(), Some(Millis(3_600_000)), &view, at(second));
            (standing, owners.unusable(&[], &view, at(second)).len(), view)
        };
        look(0, GOOD, 0);
        for second in 60..100 {
            let (standing, named, _) = look(7, BAD, second);
            let is_kept = match standing {
                Standing::Usable(place) => place == 1,
                _ => is_gone_first && second == 60 && standing == Standing::Held,
            };
            assert!(is_kept && named == 0, "{second}: {standing:?}");
        }

        look(7, GOOD, 100);
        let (standing, _, view) = look(7, GOOD, 106);
        assert!(!view.has_panic() && standing == Standing::Usable(1));
        assert_eq!(view.count_states()[0], 10, "none warms up");
    }
}

#[test]
fn few_nodes_that_move_and_many_new_ones_are_no_panic() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe((0..10).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    let host = |n: usize| named(n, usize::from(n < 5), if (5..10).contains(&n) { GOOD } else { BAD });
    roster.observe((0..40).map(host).collect(), &policy, at(60));
    assert!(!roster.has_panic(), "half of those that are known serve");
}

/// A node that is away again before its first check has answered was known all the same.
#[test]
fn many_nodes_that_vanish_while_they_boot_are_held() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe((0..10).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    let moved = |n: usize| if n < 7 { named(n, 1, BAD) } else { named(n, 0, GOOD) };
    roster.observe((0..10).map(moved).collect(), &policy, at(60));
    roster.observe((7..10).map(moved).collect(), &policy, at(70));
    assert_eq!(roster.held(&policy, at(70)).count(), 14, "by name and by address");
}

/// The same of one that left in a cooldown.
#[test]
fn a_node_that_left_in_cooldown_and_returns_elsewhere_waits_for_its_first_check() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    roster.observe((0..4).map(|n| named(n, 0, if n == 1 { BAD } else { GOOD })).collect(), &policy, at(60));
    roster.observe([0, 2, 3].into_iter().map(|n| named(n, 0, GOOD)).collect(), &policy, at(61));
    roster.observe(
        (0..4).map(|n| named(n, usize::from(n == 1), if n == 1 { BAD } else { GOOD })).collect(),
        &policy,
        at(65),
    );
    assert_ne!(state(&roster, "db-1", &policy, at(65)), State::Cooldown);
}

/// Which node each of 1,000 sessions has by the ring alone.
fn homes(roster: &Roster, policy: &HealthPolicy, now: Millis) -> Vec<String> {
    let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(512));
    let view = Snapshot::build(roster, algorithm, policy, now, None).unwrap();
    let home = |number: u32| {
        let placement = Placement::of(&view, session_hash(&number.to_le_bytes())).unwrap();
        placement.nodes(&view).next().unwrap().name.clone()
    };
    (0..1000).map(home).collect()
}

/// Without pins, a warm-up that begins a second time takes a node's sessions away. It makes no difference whether the proxy
/// saw the nodes join, nor whether their first check has answered when they are back.
#[test]
fn a_node_that_returns_or_moves_has_all_its_sessions_when_it_is_well() {
    let policy = HealthPolicy::default();
    type Hosts = fn(HostFlags) -> Vec<Observation>;
    let cases: [(&str, Hosts, Hosts); 3] = [
        ("all are gone for 3 s", |_| vec![], |back| (0..10).map(|n| named(n, 0, back)).collect()),
        (
            "six of ten are gone for 3 s",
            |_| (6..10).map(|n| named(n, 0, GOOD)).collect(),
            |back| (0..10).map(|n| named(n, 0, if n < 6 { back } else { GOOD })).collect(),
        ),
        (
            "one of ten moves",
            |flags| {
                (0..10).map(|n| named(n, usize::from(n == 2), if n == 2 { flags } else { GOOD })).collect()
            },
            |back| (0..10).map(|n| named(n, usize::from(n == 2), if n == 2 { back } else { GOOD })).collect(),
        ),
    ];
    for ((case, away, back), first, boots) in cases
        .into_iter()
        .flat_map(|case| [(case, 10, false), (case, 1, false), (case, 10, true), (case, 1, true)])
    {
        let mut roster = Roster::default();
        for (nodes, second) in [(first, 0), (10, 100), (10, 3600)] {
            roster.observe((0..nodes).map(|n| named(n, 0, GOOD)).collect(), &policy, at(second));
        }
        let before = homes(&roster, &policy, at(3600));

        let flags = if boots { BAD } else { GOOD };
        roster.observe(away(flags), &policy, at(3601));
        roster.observe(back(flags), &policy, at(3604));
        roster.observe(back(GOOD), &policy, at(3606));

        for second in [3606, 3610, 3620, 3640] {
            let after = homes(&roster, &policy, at(second));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert_eq!(moved, 0, "{case}, {first} at first, {boots}: {second}");
        }
    }
}

/// Its share is that of the proxies that did not see it move. One that was never well begins with its first good check.
#[test]
fn a_node_that_moves_or_returns_in_its_warm_up_goes_on_with_it() {
    let policy = HealthPolicy::default();
    let looked = |looks: &[(u64, usize, HostFlags)]| {
        let mut roster = Roster::default();
        roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
        for (second, at_address, flags) in looks {
            let new = named(4, *at_address, *flags);
            roster.observe((0..4).map(|n| named(n, 0, GOOD)).chain([new]).collect(), &policy, at(*second));
        }
        roster
    };
    let unmoved = looked(&[(100, 0, GOOD)]);
    let moved = looked(&[(100, 0, GOOD), (110, 1, BAD), (115, 1, GOOD)]);
    let never_well = looked(&[(100, 0, BAD), (110, 1, BAD), (115, 1, GOOD)]);
    let mut away = looked(&[(100, 0, GOOD)]);
    for (count, second) in [(0, 110), (5, 113)] {
        away.observe((0..count).map(|n| named(n, 0, GOOD)).collect(), &policy, at(second));
    }

    for second in [115, 125, 130] {
        let expected = state(&unmoved, "db-4", &policy, at(second));
        assert_eq!(state(&moved, "db-4", &policy, at(second)), expected, "moved: {second}");
        assert_eq!(state(&away, "db-4", &policy, at(second)), expected, "away: {second}");
    }
    assert_eq!(state(&never_well, "db-4", &policy, at(115)), State::Warming(State::WHOLE / 10));
}

#[test]
fn a_clock_that_is_set_back_warms_no_node_up_again() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    for (nodes, second) in [(1, 1000), (4, 2000), (4, 2030), (4, 500)] {
        roster.observe((0..nodes).map(|n| named(n, 0, GOOD)).collect(), &policy, at(second));
    }
    assert_eq!(snapshot(&roster, &policy, at(500)).count_states()[0], 4);
}

/// A cooldown that is over says nothing of what its first check will find.
#[test]
fn a_node_that_was_in_a_cooldown_once_waits_for_its_first_check_like_any_other() {
    let policy = HealthPolicy::default();
    let all =
        |bad: &[usize]| (0..4).map(|n| named(n, 0, if bad.contains(&n) { BAD } else { GOOD })).collect();
    let mut known = Roster::default();
    for (second, bad) in [(0, &[][..]), (10, &[1]), (20, &[]), (200, &[])] {
        known.observe(all(bad), &policy, at(second));
    }

    let mut held = known.clone();
    held.observe(vec![named(0, 0, GOOD)], &policy, at(201));
    held.observe(all(&[1, 2]), &policy, at(203));
    let mut rejoined = known.clone();
    rejoined.observe([0, 2, 3].map(|n| named(n, 0, GOOD)).into(), &policy, at(201));
    rejoined.observe(all(&[1]), &policy, at(220));

    assert_eq!(["db-1", "db-2"].map(|name| state(&held, name, &policy, at(203))), [State::Pending; 2]);
    assert_eq!(state(&rejoined, "db-1", &policy, at(220)), State::Pending);
    for mut roster in [held, rejoined] {
        roster.report_failure("db-1", &policy, at(230));
        roster.observe(all(&[1]), &policy, at(231));
        assert_eq!(state(&roster, "db-1", &policy, at(231)), State::Cooldown, "in its own cooldown");
    }
}

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

/// While Envoy was not seen all nodes were replaced: they are no reason to hold the old ones.
#[test]
fn replacements_that_came_while_blind_count() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    roster.observe((0..10).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    assert!(roster.lose_sight(at(0), &policy, at(60)));
    roster.observe((10..19).map(|n| named(n, 0, GOOD)).collect(), &policy, at(120));
    assert_eq!(roster.held(&policy, at(120)).count(), 0);
}

/// Whatever became of it before, what counts is how it left last.
#[test]
fn a_node_that_flaps_stays_in_the_cooldown_in_which_it_left_last() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    let all = |bad: Option<usize>| -> Vec<Observation> {
        (0..4).map(|n| named(n, 0, if bad == Some(n) { BAD } else { GOOD })).collect()
    };
    for (second, bad) in [(0, None), (10, Some(1)), (20, None), (200, None)] {
        roster.observe(all(bad), &policy, at(second));
    }
    // Its cooldown is over; it vanishes with two others, and they are back in time.
    roster.observe(vec![named(0, 0, GOOD)], &policy, at(201));
    roster.observe(all(None), &policy, at(203));
    // It fails, leaves and returns.
    roster.observe(all(Some(1)), &policy, at(260));
    roster.observe([0, 2, 3].map(|n| named(n, 0, GOOD)).into(), &policy, at(261));
    roster.observe(all(None), &policy, at(265));

    assert_eq!(state(&roster, "db-1", &policy, at(265)), State::Cooldown);
}

/// Envoy's cluster is empty for a moment: thousands of nodes are gone, and back.
#[test]
fn thousands_of_nodes_vanish_and_return_in_one_look() {
    let policy = HealthPolicy::default();
    let mut roster = Roster::default();
    let all = || -> Vec<Observation> {
        (0..20_000).map(|n| host(&format!("10.0.{}.{}:80", n / 250, n % 250), None, GOOD)).collect()
    };
    let rounds = 5;
    for round in 0..rounds {
        roster.observe(all(), &policy, at(round * 10));
        roster.observe(vec![], &policy, at(round * 10 + 1));
        assert_eq!(roster.held(&policy, at(round * 10 + 1)).count(), 20_000);
    }
    roster.observe(all(), &policy, at(rounds * 10));
    assert_eq!(snapshot(&roster, &policy, at(rounds * 10)).count_states()[0], 20_000);
}

/// A panic that is over does not begin again because a held node brings it back.
#[test]
fn a_held_node_does_not_bring_an_old_panic_back() {
    let policy = HealthPolicy { panic_hold: Millis(2_000), ..HealthPolicy::default() };
    let mut roster = Roster::default();
    let all = |bad: &[usize], there: &[usize]| -> Vec<Observation> {
        there.iter().map(|n| named(*n, 0, if bad.contains(n) { BAD } else { GOOD })).collect()
    };
    let ten: Vec<usize> = (0..10).collect();
    roster.observe(all(&[], &ten), &policy, at(0));
    roster.observe(all(&[0, 1, 2, 3, 4, 5], &ten), &policy, at(60));
    assert!(roster.has_panic());
    // The six fail for good, are gone; three of the rest vanish with them.
    roster.observe(all(&[], &[9]), &policy, at(61));
    assert_eq!(roster.held(&policy, at(61)).count(), 6, "by name and by address");
    for second in 62..67 {
        roster.observe(all(&[], &[9]), &policy, at(second));
    }
    assert!(!roster.has_panic());
    roster.observe(all(&[], &[6, 7, 8, 9]), &policy, at(68));
    assert!(!roster.has_panic());
}

/// A policy that Envoy never uses, since it takes the first that it knows, and a subset policy without selectors, which
/// parts nothing, are no reason to leave a good cluster alone.
#[test]
fn a_subset_policy_that_parts_nothing_does_not_disable_berth() {
    let over = |fallback: &str| {
        format!(
            r#"{{"typed_extension_config":{{"name":"o","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost","fallback_policy":{{"policies":[{fallback}]}}}}}}}}"#
        )
    };
    let policy = |kind: &str| {
        format!(
            r#"{{"typed_extension_config":{{"name":"p","typed_config":{{"@type":"type.googleapis.com/x.{kind}"}}}}}}"#
        )
    };
    for policies in [
        format!("{},{}", over(&policy("RingHash")), policy("Subset")),
        over(&format!("{},{}", policy("RingHash"), policy("Subset"))),
        over(&policy("Subset")),
    ] {
        let json = format!(
            r#"{{"configs":[{{"static_clusters":[{{"cluster":{{"name":"nodes","load_balancing_policy":{{"policies":[{policies}]}}}}}}]}}]}}"#
        );
        let clusters = Clusters::read(json.as_bytes()).unwrap();
        assert_eq!(clusters.get("nodes").unwrap().unsupported, None, "{policies}");
    }
}

/// The name of a cluster's extension is free text; its type is not.
#[test]
fn a_kind_of_cluster_is_known_by_its_type_whatever_it_is_called() {
    for (name, package, unsupported) in [
        ("mine", "aggregate", Some(Unsupported::Aggregate)),
        ("mine", "dynamic_forward_proxy", Some(Unsupported::DynamicForwardProxy)),
        ("envoy.clusters.aggregate", "dns", None),
    ] {
        let json = format!(
            r#"{{"configs":[{{"static_clusters":[{{"cluster":{{"name":"nodes","cluster_type":{{"name":"{name}","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.clusters.{package}.v3.ClusterConfig"}}}}}}}}]}}]}}"#
        );
        let clusters = Clusters::read(json.as_bytes()).unwrap();
        assert_eq!(clusters.get("nodes").unwrap().unsupported, unsupported, "{name}: {package}");
    }
}

/// Envoy's default interval without traffic, and a threshold and a jitter that are common: the check decides all the same.
#[test]
fn common_checks_decide() {
    for (more, longest) in [
        (r#""unhealthy_threshold":1"#, 61_000),
        (r#""unhealthy_threshold":2"#, 67_000),
        (r#""unhealthy_threshold":3"#, 73_000),
        (r#""unhealthy_threshold":3,"interval_jitter":"1s""#, 76_000),
        (r#""unhealthy_threshold":3,"interval_jitter_percent":10"#, 80_000),
        (r#""unhealthy_threshold":1,"interval_jitter_percent":100"#, 121_000),
    ] {
        let facts = clusters(&format!(r#"{{"timeout":"1s","interval":"5s",{more}}}"#));
        let period = facts.get("nodes").unwrap().check_period;
        assert_eq!(period, Some(Millis(longest)), "{more}");
        assert_eq!(check_decides(period), longest <= 120_000, "{more}");
    }
    assert!(!check_decides(None) && !check_decides(Some(Millis(3_600_000))));
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

/// A pin that is older than the node's name is held like one that bears it.
#[test]
fn a_held_node_is_held_by_its_address_too_and_waits_for_its_checks_when_it_is_back() {
    let policy = HealthPolicy::default();
    let (mut roster, mut owners) = (Roster::default(), Owners::default());
    roster.observe((0..4).map(|n| named(n, 0, GOOD)).collect(), &policy, at(0));
    owners.adopt(&snapshot(&roster, &policy, at(0)), at(0));
    roster.observe(vec![named(0, 0, GOOD)], &policy, at(60));
    let view = snapshot(&roster, &policy, at(60));
    owners.adopt(&view, at(60));
    for owner in ["db-3", "10.0.0.3:80"] {
        let standing = owners.judge(&owner.parse().unwrap(), Some(Millis(3_600_000)), &view, at(60));
        assert_eq!(standing, Standing::Held, "{owner}");
    }

    roster.observe(vec![named(0, 0, GOOD), named(3, 0, BAD)], &policy, at(62));
    assert_eq!(state(&roster, "db-3", &policy, at(62)), State::Pending);
    let view = snapshot(&roster, &policy, at(62));
    owners.adopt(&view, at(62));
    assert!(!view.has_panic());
    for owner in ["db-3", "10.0.0.3:80"] {
        let standing = owners.judge(&owner.parse().unwrap(), Some(Millis(3_600_000)), &view, at(62));
        assert_eq!(standing, Standing::Usable(1), "{owner}: its first check has time to answer");
    }
}

/// Nothing was seen for a while, and then the node is well: its cooldown runs from the last look that found it otherwise.
#[test]
fn a_gap_between_two_looks_prolongs_no_cooldown() {
    let policy = HealthPolicy::default();
    let (mut roster, mut ends) = (Roster::default(), Vec::new());
    for gap in [1, 20] {
        let at = |second: u64| at(gap * 1_000 + second);
        let hosts = |flags| vec![named(0, 0, GOOD), named(1, 0, GOOD), named(2, 0, flags)];
        roster.observe(hosts(GOOD), &policy, at(0));
        roster.observe(hosts(BAD), &policy, at(1));
        roster.observe_after((at(1), Millis(1_000)), hosts(GOOD), &policy, at(1 + gap));

        let is_out = |second: &u64| state(&roster, "db-2", &policy, at(*second)) == State::Cooldown;
        ends.push((1 + gap..200).find(|second| !is_out(second)).unwrap());
        roster = Roster::default();
    }
    // From the good look if it is the next one, else from two pauses after the last bad one.
    assert_eq!(ends, [32, 33]);
}
