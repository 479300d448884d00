use super::*;
use crate::health::State;
use crate::membership::HostFlags;
use crate::wire::NodeState;

const POLICY: HealthPolicy = HealthPolicy {
    cooldown: Millis(10_000),
    max_cooldown: Millis(40_000),
    warm_up: Millis(0),
    panic_threshold: 50,
    panic_hold: Millis(5_000),
    ..HealthPolicy::DEFAULT
};

fn seen(unhealthy: &[bool]) -> Vec<Observation> {
    let host = |(index, &unhealthy): (usize, &bool)| Observation {
        address: format!("10.0.0.{index}:80"),
        weight: 1,
        flags: HostFlags { unhealthy, ..HostFlags::default() },
        ..Observation::default()
    };
    unhealthy.iter().enumerate().map(host).collect()
}

fn at(seconds: u64) -> Millis {
    Millis(1_000_000 + seconds * 1000)
}

#[test]
fn a_look_that_shows_nothing_new_changes_nothing() {
    let mut roster = Roster::default();

    assert!(roster.observe(seen(&[false, true]), &POLICY, at(0)));
    assert!(!roster.observe(seen(&[false, true]), &POLICY, at(1)));
    assert_eq!(roster.version, 1);
}

#[test]
fn nodes_that_come_to_others_warm_up_and_the_first_of_all_do_not() {
    let policy = HealthPolicy { warm_up: Millis(30_000), ..POLICY };
    let mut roster = Roster::default();
    let states = |roster: &Roster, now| -> Vec<State> {
        roster.nodes.iter().map(|node| node.health.state(&policy, now)).collect()
    };

    roster.observe(Vec::new(), &policy, at(0));
    roster.observe(seen(&[false, false]), &policy, at(1));
    assert_eq!(states(&roster, at(1)), [State::Active; 2]);

    roster.observe(seen(&[false, false, false]), &policy, at(2));
    assert_eq!(states(&roster, at(2))[..2], [State::Active; 2]);
    assert!(matches!(states(&roster, at(2))[2], State::Warming(_)));
}

#[test]
fn a_node_that_leaves_and_returns_is_still_in_its_cooldown_and_relapses() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));
    roster.observe(seen(&[false, false, true]), &POLICY, at(1));
    roster.observe(seen(&[false, false]), &POLICY, at(2));

    roster.observe(seen(&[false, false, false]), &POLICY, at(3));

    let state = |roster: &Roster, seconds| roster.nodes[2].health.state(&POLICY, at(seconds));
    assert_eq!(state(&roster, 11), State::Cooldown, "10 s after it left, when it was unhealthy");
    assert_eq!(state(&roster, 12), State::Active);

    roster.observe(seen(&[false, false, true]), &POLICY, at(20));
    roster.observe(seen(&[false, false, false]), &POLICY, at(20));
    assert_eq!(state(&roster, 39), State::Cooldown, "doubled");
    assert_eq!(Roster::decode(&roster.encode()), Some(roster));
}

#[test]
fn two_of_three_down_is_panic_which_ends_only_after_it_has_held() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));
    roster.observe(seen(&[false, true, true]), &POLICY, at(1));
    assert!(roster.has_panic());

    // The two are well at 2 s, out of cooldown at 12 s, and calm returns at 17 s.
    let mut on = Vec::new();
    for second in 2..=18 {
        roster.observe(seen(&[false, false, false]), &POLICY, at(second));
        on.push(roster.has_panic());
    }

    assert_eq!(on.iter().filter(|on| **on).count(), 15, "{on:?}");
    assert_eq!(on.last(), Some(&false));
}

#[test]
fn half_of_the_nodes_is_enough() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, true]), &POLICY, at(0));

    assert!(!roster.has_panic());
}

#[test]
fn a_workers_report_reaches_the_roster_and_an_unknown_node_is_ignored() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));

    assert!(roster.report_failure("10.0.0.1:80", &POLICY, at(1)));
    assert!(!roster.report_failure("10.9.9.9:80", &POLICY, at(1)));

    assert_eq!(roster.nodes[1].health.state(&POLICY, at(2)), State::Cooldown);
}

fn on_record(node: u64, version: u64, state: NodeState, until: Option<u64>) -> NodeRecord {
    NodeRecord {
        state,
        cooldown_until_ms: until.map(|seconds| at(seconds).0),
        version,
        ..NodeRecord::unknown(format!("10.0.0.{node}:80").parse().unwrap())
    }
}

#[test]
fn a_record_is_news_once_and_of_members_only() {
    let records = [
        on_record(1, 2, NodeState::Standby, None),
        on_record(1, 1, NodeState::Draining, None),
        on_record(9, 7, NodeState::Draining, None),
    ];
    let mut roster = Roster::default();
    assert!(!roster.record(&records, &POLICY, at(0)), "not to be taken for the first look");
    assert_eq!(roster, Roster::default());
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));

    assert!(roster.record(&records, &POLICY, at(1)));
    assert!(!roster.record(&records, &POLICY, at(2)));
    assert!(!roster.record(&[], &POLICY, at(2)));

    assert_eq!(roster.version, 2);
    let states: Vec<State> = roster.nodes.iter().map(|node| node.health.state(&POLICY, at(2))).collect();
    assert_eq!(states, [State::Active, State::Standby, State::Active]);
}

#[test]
fn an_operator_cannot_cause_panic_but_shared_cooldowns_of_most_can() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));
    let all = |state, until: [Option<u64>; 3], version| {
        let record = |(node, until)| on_record(node, version, state, until);
        (0..).zip(until).map(record).collect::<Vec<_>>()
    };

    for (version, state) in (1..).zip([NodeState::Draining, NodeState::Degraded, NodeState::Standby]) {
        roster.record(&all(state, [None; 3], version), &POLICY, at(1));
        assert!(!roster.has_panic(), "{state:?}");
    }
    roster.record(&all(NodeState::Active, [None, Some(9), Some(9)], 4), &POLICY, at(1));

    assert!(roster.has_panic());
}

#[test]
fn a_node_that_leaves_and_returns_is_still_in_its_shared_cooldown_as_it_was_last_extended() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));
    roster.record(&[on_record(2, 1, NodeState::Active, Some(10))], &POLICY, at(1));
    roster.observe(seen(&[false, false]), &POLICY, at(2));
    roster.record(&[on_record(2, 2, NodeState::Active, Some(15))], &POLICY, at(3));

    roster.observe(seen(&[false, false, false]), &POLICY, at(4));

    let state = |seconds| roster.nodes[2].health.state(&POLICY, at(seconds));
    assert_eq!(state(14), State::Cooldown);
    assert_eq!(state(15), State::Active);
}

#[test]
fn only_cooldowns_that_a_check_or_eds_began_are_shared() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false; 8]), &POLICY, at(0));
    let one = [false, true, false, false, false, false, false, false];
    roster.observe(seen(&one), &POLICY, at(0));
    roster.report_failure("10.0.0.2:80", &POLICY, at(1));
    roster.record(&[on_record(3, 1, NodeState::Active, Some(99))], &POLICY, at(1));

    let shared: Vec<_> = roster.cooldowns(at(5), at(5)).collect();

    assert_eq!(shared, [("10.0.0.1:80", at(15))]);
}

#[test]
fn where_envoy_checks_nodes_itself_its_check_decides() {
    let ejected = || {
        let mut hosts = seen(&[false; 4]);
        hosts[3].flags.ejected = true;
        hosts
    };
    let mut roster = Roster::default();
    roster.observe(seen(&[false; 4]), &POLICY, at(0));
    roster.observe(ejected(), &POLICY, at(0));
    assert_eq!(roster.nodes[3].health.state(&POLICY, at(0)), State::Cooldown, "nothing else tells");

    let mut roster = Roster { check_period: Some(Millis(4_000)), ..Roster::default() };
    roster.observe(seen(&[false; 4]), &POLICY, at(0));
    roster.observe(ejected(), &POLICY, at(0));
    roster.report_failure("10.0.0.1:80", &POLICY, at(1));
    let states =
        |roster: &Roster, seconds| [1, 3].map(|node| roster.nodes[node].health.state(&POLICY, at(seconds)));
    assert_eq!(states(&roster, 1), [State::Cooldown, State::Active]);

    assert!(roster.observe(ejected(), &POLICY, at(6)), "the check has passed since");

    assert_eq!(states(&roster, 6), [State::Active; 2]);
    assert_eq!(Roster::decode(&roster.encode()), Some(roster));
}

#[test]
fn a_forgotten_record_leaves_a_node_like_any_other() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false; 2]), &POLICY, at(0));
    let mut drained = on_record(1, 4, NodeState::Draining, Some(99));
    drained.weight = Some(3);
    roster.record(&[drained.clone()], &POLICY, at(1));
    assert_eq!(roster.nodes[1].health.state(&POLICY, at(1)), State::Cooldown);

    assert!(roster.record(&[drained.without_all(2_000).unwrap()], &POLICY, at(2)));

    assert_eq!(roster.nodes[1].health.state(&POLICY, at(2)), State::Active);
    assert_eq!(roster.nodes[1].health.weight(), 1);
}

#[test]
fn what_is_not_on_record_takes_no_room() {
    let mut roster = Roster::default();
    roster.observe(seen(&[true]), &POLICY, at(0));

    assert!(!String::from_utf8(roster.encode()).unwrap().contains("operator"));
}

#[test]
fn what_is_published_is_what_is_read() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, true, false]), &POLICY, at(0));
    roster.report_failure("10.0.0.0:80", &POLICY, at(1));
    roster.record(&[on_record(2, 1, NodeState::Standby, Some(99))], &POLICY, at(1));

    assert_eq!(Roster::decode(&roster.encode()), Some(roster));
    assert_eq!(Roster::decode(b"{\"version\":1}"), None);
}

/// Two priorities: which nodes of each are unhealthy.
fn two_levels(best: &[bool], next: &[bool]) -> Vec<Observation> {
    let mut hosts = seen(&[best, next].concat());
    hosts.iter_mut().skip(best.len()).for_each(|host| host.priority = 1);
    hosts
}

fn is_panic(roster: &Roster, priority: u32) -> bool {
    let level = roster.nodes.iter().filter(|node| node.priority == priority);
    let panicking: BTreeSet<bool> = level.map(|node| node.health.is_in_panic()).collect();
    assert_eq!(panicking.len(), 1, "all nodes of a priority say the same");
    panicking.contains(&true)
}

#[test]
fn nodes_of_all_priorities_take_part_the_best_first() {
    let mut hosts = two_levels(&[false, false], &[false, false]);
    hosts.rotate_left(3);
    let mut roster = Roster::default();
    roster.observe(hosts, &POLICY, at(0));

    let levels: Vec<Vec<&str>> = roster
        .nodes
        .chunk_by(|a, b| a.priority == b.priority)
        .map(|nodes| nodes.iter().map(Node::name).collect())
        .collect();
    assert_eq!(levels, [["10.0.0.0:80", "10.0.0.1:80"], ["10.0.0.3:80", "10.0.0.2:80"]]);
    assert_eq!(Roster::decode(&roster.encode()), Some(roster));
}

#[test]
fn a_priority_is_in_panic_only_if_all_together_fall_short_and_each_calms_down_by_itself() {
    let (well, out) = ([false; 2], [true; 2]);
    let mut roster = Roster::default();
    roster.observe(two_levels(&well, &well), &POLICY, at(0));
    let mut panics = |best: &[bool], next: &[bool], seconds| {
        roster.observe(two_levels(best, next), &POLICY, at(seconds));
        [0, 1].map(|priority| is_panic(&roster, priority))
    };

    assert_eq!(panics(&out, &well, 1), [false, false], "the other one has it all");
    assert_eq!(panics(&out, &[true, false], 2), [false, false], "half of the other one is enough");
    assert_eq!(panics(&out, &out, 3), [true, true]);
    // All are well at 4 s, out of cooldown from 14 s on, and calm returns 5 s later.
    assert_eq!(panics(&well, &well, 4), [true, true]);
    assert_eq!(panics(&well, &well, 14), [true, true]);
    assert_eq!(panics(&well, &well, 18), [true, true]);
    assert_eq!(panics(&well, &well, 19), [false, false]);
}

#[test]
fn a_node_that_changes_its_priority_does_not_take_its_panic_along() {
    let mut roster = Roster::default();
    let few = [true, true, true, true, false];
    roster.observe(two_levels(&[false; 2], &[false; 5]), &POLICY, at(0));
    roster.observe(two_levels(&[true, false], &few), &POLICY, at(1));
    assert_eq!([0, 1].map(|priority| is_panic(&roster, priority)), [false, true]);

    let mut hosts = two_levels(&[true, false], &few);
    hosts[6].priority = 0;
    roster.observe(hosts, &POLICY, at(2));

    assert!(!is_panic(&roster, 0));
}

#[test]
fn what_failed_in_panic_is_not_shared_and_what_failed_in_another_priority_is() {
    let mut roster = Roster::default();
    let few = [false, true, true, true, true];
    roster.observe(two_levels(&[false; 5], &[false; 2]), &POLICY, at(0));
    roster.observe(two_levels(&few, &[false, true]), &POLICY, at(1));
    assert_eq!([0, 1].map(|priority| is_panic(&roster, priority)), [true, false]);

    let shared: Vec<_> = roster.cooldowns(at(2), at(2)).map(|(node, _)| node).collect();

    assert_eq!(shared, ["10.0.0.6:80"]);
}

#[test]
fn a_roster_of_a_release_with_one_panic_for_all_is_read_as_calm() {
    let old = r#"{"version": 7, "nodes": [{"address": "a:1", "weight": 1}], "panic": {"recovering": 5}}"#;

    let roster = Roster::decode(old.as_bytes()).unwrap();

    assert_eq!((roster.version, roster.has_panic()), (7, false));
}

/// The nodes with these numbers, all well.
fn members(numbers: impl IntoIterator<Item = usize>) -> Vec<Observation> {
    let host =
        |number| Observation { address: format!("10.0.0.{number}:80"), weight: 1, ..Observation::default() };
    numbers.into_iter().map(host).collect()
}

fn held(roster: &Roster, seconds: u64) -> Vec<String> {
    let mut held: Vec<String> = roster.held(&POLICY, at(seconds)).map(str::to_owned).collect();
    held.sort();
    held
}

#[test]
fn few_that_vanish_are_gone_at_once_and_many_are_held_for_the_grace_time() {
    let mut roster = Roster::default();
    roster.observe(members(0..10), &POLICY, at(0));

    roster.observe(members(1..10), &POLICY, at(10));
    assert!(held(&roster, 10).is_empty());

    roster.observe(members(7..10), &POLICY, at(20));
    assert_eq!(held(&roster, 20).len(), 6);
    assert_eq!(held(&roster, 29).len(), 6);
    assert!(held(&roster, 30).is_empty(), "the grace time is over");
}

#[test]
fn many_that_vanish_one_after_the_other_are_held_too() {
    let mut roster = Roster::default();
    roster.observe(members(0..10), &POLICY, at(0));

    roster.observe(members(3..10), &POLICY, at(10));
    assert!(held(&roster, 10).is_empty(), "seven of ten are enough");
    roster.observe(members(6..10), &POLICY, at(12));
    assert_eq!(held(&roster, 12).len(), 6);
    assert_eq!(held(&roster, 21).len(), 3, "each has its own grace time");
}

#[test]
fn nodes_that_are_replaced_have_not_vanished() {
    let mut roster = Roster::default();
    roster.observe(members(0..10), &POLICY, at(0));

    // Blue/green: all new nodes in the same look, then in the one before.
    roster.observe(members(10..20), &POLICY, at(10));
    assert!(held(&roster, 10).is_empty());
    roster.observe(members(10..30), &POLICY, at(18));
    roster.observe(members(20..30), &POLICY, at(20));
    assert!(held(&roster, 20).is_empty());
    // New ones that came long before are no replacements, but half of all is enough.
    roster.observe(members(20..40), &POLICY, at(40));
    roster.observe(members(30..40), &POLICY, at(60));
    assert!(held(&roster, 60).is_empty());
}

#[test]
fn nodes_that_announced_it_or_were_out_have_not_vanished() {
    let mut roster = Roster::default();
    let flagged = |flags: HostFlags| -> Vec<Observation> {
        let mut all = members(0..10);
        all.iter_mut().take(6).for_each(|host| host.flags = flags);
        all
    };
    for flags in [
        HostFlags { draining: true, ..HostFlags::default() },
        HostFlags { unhealthy: true, ..HostFlags::default() },
        HostFlags { pending: true, ..HostFlags::default() },
    ] {
        roster.observe(flagged(flags), &POLICY, at(0));
        roster.observe(members(6..10), &POLICY, at(1));
        assert!(held(&roster, 1).is_empty(), "{flags:?}");
        roster = Roster::default();
    }

    roster.observe(members(0..10), &POLICY, at(0));
    let drained = |number: usize| NodeRecord {
        state: NodeState::Draining,
        version: 1,
        ..NodeRecord::unknown(format!("10.0.0.{number}:80").parse().unwrap())
    };
    let records: Vec<NodeRecord> = (0..6).map(drained).collect();
    roster.record(&records, &POLICY, at(1));
    roster.observe(members(6..10), &POLICY, at(2));
    assert!(held(&roster, 2).is_empty());
}

#[test]
fn a_held_node_that_is_back_is_as_it_was_and_the_others_stay_held() {
    let policy = HealthPolicy { warm_up: Millis(30_000), ..POLICY };
    let mut roster = Roster::default();
    roster.observe(members(0..10), &policy, at(0));
    roster.observe(members(6..10), &policy, at(10));
    assert_eq!(held(&roster, 10).len(), 6);

    roster.observe(members(3..10), &policy, at(13));

    assert!(roster.nodes.iter().all(|node| node.health.state(&policy, at(13)) == State::Active));
    assert_eq!(held(&roster, 13), ["10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80"]);
    roster.observe(members(0..10), &policy, at(30));
    let warming = |node: &&Node| matches!(node.health.state(&policy, at(30)), State::Warming(_));
    assert_eq!(roster.nodes.iter().filter(warming).count(), 3, "too late, they are new");
}

#[test]
fn without_a_grace_time_or_without_panic_nothing_is_held() {
    for policy in
        [HealthPolicy { vanish_grace: Millis(0), ..POLICY }, HealthPolicy { panic_threshold: 0, ..POLICY }]
    {
        let mut roster = Roster::default();
        roster.observe(members(0..10), &policy, at(0));
        roster.observe(members(9..10), &policy, at(1));
        assert_eq!(roster.held(&policy, at(1)).count(), 0);
    }
}

#[test]
fn what_is_remembered_of_the_vanished_ends_with_the_grace_time() {
    let mut roster = Roster::default();
    for round in 0..1000 {
        let from = round * 10;
        roster.observe(members(from..from + 10), &POLICY, at(round as u64));
    }
    assert!(roster.encode().len() < 20_000, "{} bytes", roster.encode().len());
    roster.observe(members(9_990..10_000), &POLICY, at(2000));
    assert!(roster.gone.is_empty());
}

/// A node that has not been seen unhealthy lately is not kept out by what was seen before.
#[test]
fn without_sight_an_unhealthy_node_is_out_for_one_cooldown_after_it_was_last_seen() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(0));
    roster.observe(seen(&[true, false, false]), &POLICY, at(100));
    roster.observe(seen(&[true, false, false]), &POLICY, at(110));

    // While the leader cannot see, what it shares ends a cooldown after the last look, whatever the time.
    let shared = roster.cooldowns(at(110), at(115)).map(|(_, until)| until).collect::<Vec<_>>();
    assert_eq!(shared, [at(120)]);
    assert!(roster.lose_sight(at(110), &POLICY, at(115)));
    assert_eq!(roster.nodes[0].health.state(&POLICY, at(119)), State::Cooldown);
    assert_eq!(roster.nodes[0].health.state(&POLICY, at(120)), State::Active);
    for seconds in [140, 1_000, 36_000] {
        assert!(!roster.lose_sight(at(110), &POLICY, at(seconds)), "it is blind already");
        assert_eq!(roster.cooldowns(at(110), at(seconds)).count(), 0);
        assert_eq!(roster.nodes[0].health.state(&POLICY, at(seconds)), State::Active);
    }

    // What Envoy says when it is seen again counts at once.
    roster.observe(seen(&[true, false, false]), &POLICY, at(40_000));
    assert_eq!(roster.nodes[0].health.state(&POLICY, at(40_000)), State::Cooldown);
}

#[test]
fn after_a_long_time_without_sight_nodes_that_came_meanwhile_do_not_warm_up() {
    let policy = HealthPolicy { warm_up: Millis(30_000), ..POLICY };
    let mut roster = Roster::default();
    roster.observe(members(0..3), &policy, at(0));
    roster.lose_sight(at(0), &policy, at(40));

    roster.observe(members(2..6), &policy, at(600));

    assert!(roster.nodes.iter().all(|node| node.health.state(&policy, at(600)) == State::Active));
}

fn named(addresses: &[&str], unhealthy: &[bool]) -> Vec<Observation> {
    let hosts = seen(unhealthy).into_iter().zip(addresses).enumerate();
    let host = |(index, (host, address)): (usize, (Observation, &&str))| Observation {
        address: (*address).to_owned(),
        name: Some(format!("pod-{index}")),
        ..host
    };
    hosts.map(host).collect()
}

#[test]
fn a_named_node_that_moves_is_not_what_was_seen_at_its_old_address() {
    let mut roster = Roster::default();
    roster.observe(named(&["a:1", "b:1", "c:1"], &[false; 3]), &POLICY, at(0));
    roster.observe(named(&["a:1", "b:1", "c:1"], &[false, true, false]), &POLICY, at(1));
    assert_eq!(roster.nodes[1].health.state(&POLICY, at(1)), State::Cooldown);

    // Envoy shows it as failed until its first check.
    roster.observe(named(&["a:1", "new:1", "c:1"], &[false, true, false]), &POLICY, at(2));

    assert_eq!((roster.nodes[1].name(), roster.nodes[1].address.as_str()), ("pod-1", "new:1"));
    assert_eq!(roster.nodes[1].health.state(&POLICY, at(2)), State::Pending);
    roster.observe(named(&["a:1", "new:1", "c:1"], &[false, true, false]), &POLICY, at(3));
    assert_eq!(roster.nodes[1].health.state(&POLICY, at(3)), State::Pending, "nothing has answered yet");
    roster.observe(named(&["a:1", "new:1", "c:1"], &[false; 3]), &POLICY, at(4));
    assert_eq!(roster.nodes[1].health.state(&POLICY, at(4)), State::Active);
}

#[test]
fn a_named_node_that_left_in_its_cooldown_has_none_at_another_address() {
    for (address, state) in [("b:1", State::Cooldown), ("new:1", State::Active)] {
        let mut roster = Roster::default();
        roster.observe(named(&["a:1", "b:1"], &[false, true]), &POLICY, at(0));
        roster.observe(named(&["a:1", "b:1"], &[false, false]), &POLICY, at(1));
        roster.observe(named(&["a:1", "b:1"], &[false, true]), &POLICY, at(2));
        roster.observe(named(&["a:1"], &[false]), &POLICY, at(3));

        roster.observe(named(&["a:1", address], &[false, false]), &POLICY, at(4));

        assert_eq!(roster.nodes[1].health.state(&POLICY, at(4)), state);
    }
}

#[test]
fn what_the_configuration_says_is_another_version_and_is_published() {
    let mut roster = Roster::default();
    let mut facts = ClusterFacts::default();
    facts.check_period = Some(Millis(4000));
    assert!(!roster.learn(Some(&facts), true), "before the first look there is no version");
    roster.observe(seen(&[false]), &POLICY, at(0));
    assert!(!roster.learn(Some(&facts), true));

    assert!(roster.learn(Some(&ClusterFacts::default()), true));

    assert_eq!(roster.version, 2);
    roster.learn(Some(&facts), true);
    assert_eq!(Roster::decode(&roster.encode()).unwrap().check_period, Some(Millis(4000)));
}

/// Each of its times is as long ago as it was, and what is over stays over.
#[test]
fn a_clock_that_was_set_back_revives_no_cooldown() {
    let mut roster = Roster::default();
    roster.observe(seen(&[false, false, false]), &POLICY, at(99));
    roster.observe(seen(&[false, false, true]), &POLICY, at(100));
    roster.observe(seen(&[false, false, false]), &POLICY, at(101));
    roster.observe(seen(&[false, false, false]), &POLICY, at(115));

    assert_eq!(roster.cooldowns(at(115), at(105)).count(), 0, "nothing is shared before the next look");
    roster.observe_after((at(115), Millis(1_000)), seen(&[false, false, false]), &POLICY, at(105));

    assert_eq!(roster.cooldowns(at(105), at(105)).count(), 0);
    assert!(roster.nodes.iter().all(|node| node.health.state(&POLICY, at(105)) == State::Active));
}
