//! Active checks and cooldowns: when a node is out, and for how long.

use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::passive::check_decides;
use berth_core::roster::Roster;
use berth_core::time::Millis;

use super::{BAD, GOOD, at, clusters, host, named, snapshot, state};

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
