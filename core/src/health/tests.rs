use super::*;

const POLICY: HealthPolicy = HealthPolicy {
    cooldown: Millis(30_000),
    max_cooldown: Millis(300_000),
    warm_up: Millis(30_000),
    warm_up_from_percent: 10,
    ..HealthPolicy::DEFAULT
};
const BAD: HostFlags = HostFlags { unhealthy: true, ..GOOD };
const GOOD: HostFlags =
    HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };

fn at(seconds: u64) -> Millis {
    Millis(1_000_000 + seconds * 1000)
}

fn state(health: &Health, seconds: u64) -> State {
    health.state(&POLICY, at(seconds))
}

#[test]
fn stays_out_for_the_cooldown_after_it_was_last_seen_unhealthy_and_then_warms_up() {
    let mut health = Health::established();
    health.observe(BAD, &POLICY, at(0));
    health.observe(BAD, &POLICY, at(50));

    health.observe(GOOD, &POLICY, at(60));

    assert_eq!(state(&health, 59), State::Cooldown);
    assert_eq!(state(&health, 89), State::Cooldown);
    assert_eq!(state(&health, 90), State::Warming(State::WHOLE / 10));
    assert_eq!(state(&health, 119), State::Warming(31784));
    assert_eq!(state(&health, 120), State::Active);
}

#[test]
fn each_relapse_doubles_the_cooldown_up_to_its_maximum() {
    let mut health = Health::established();
    let mut now = 0;
    let mut lengths = Vec::new();
    for _ in 0..6 {
        health.observe(BAD, &POLICY, at(now));
        health.observe(GOOD, &POLICY, at(now));
        let out = (0..).find(|s| state(&health, now + s) != State::Cooldown).unwrap();
        lengths.push(out);
        now += out + 1;
    }
    assert_eq!(lengths, [30, 60, 120, 240, 300, 300]);
}

#[test]
fn a_flap_within_the_cooldown_is_a_relapse() {
    let mut health = Health::established();
    for (seconds, flags) in [(0, BAD), (1, GOOD), (2, BAD), (3, GOOD)] {
        health.observe(flags, &POLICY, at(seconds));
    }

    assert_eq!(state(&health, 62), State::Cooldown);
    assert_ne!(state(&health, 63), State::Cooldown);
}

#[test]
fn a_failure_long_after_the_last_one_counts_as_the_first() {
    let mut health = Health::established();
    health.observe(BAD, &POLICY, at(0));
    health.observe(GOOD, &POLICY, at(0));

    health.observe(BAD, &POLICY, at(331));
    health.observe(GOOD, &POLICY, at(331));

    assert_ne!(state(&health, 361), State::Cooldown);
}

#[test]
fn a_workers_report_and_envoys_check_of_one_outage_are_one_failure() {
    let mut health = Health::established();
    health.report_failure(&POLICY, at(0));
    health.observe(GOOD, &POLICY, at(1));
    health.report_failure(&POLICY, at(1));
    health.observe(BAD, &POLICY, at(2));
    health.observe(GOOD, &POLICY, at(3));

    assert_eq!(state(&health, 32), State::Cooldown);
    assert_ne!(state(&health, 33), State::Cooldown);
}

#[test]
fn a_new_node_warms_up_from_its_first_good_check_and_a_known_one_does_not() {
    let mut health = Health::joined(at(0));
    health.observe(HostFlags { pending: true, ..GOOD }, &POLICY, at(0));
    assert_eq!(state(&health, 5), State::Pending);

    health.observe(GOOD, &POLICY, at(10));

    assert_eq!(state(&health, 10), State::Warming(State::WHOLE / 10));
    assert_eq!(state(&health, 40), State::Active);
    assert_eq!(state(&Health::established(), 0), State::Active);
}

#[test]
fn degraded_and_draining_nodes_serve_but_a_failure_still_puts_them_out() {
    let mut health = Health::established();
    health.observe(HostFlags { degraded: true, ..GOOD }, &POLICY, at(0));
    assert_eq!(state(&health, 0), State::Degraded);
    health.observe(HostFlags { draining: true, ..GOOD }, &POLICY, at(1));
    assert_eq!(state(&health, 1), State::Draining);

    health.observe(HostFlags { draining: true, ..BAD }, &POLICY, at(2));

    assert_eq!(state(&health, 2), State::Cooldown);
}

fn on_record(version: u64, state: NodeState, until: Option<u64>) -> NodeRecord {
    NodeRecord {
        state,
        cooldown_until_ms: until.map(|seconds| at(seconds).0),
        version,
        ..NodeRecord::unknown("10.0.0.1:80".parse().unwrap())
    }
}

#[test]
fn what_the_operator_wants_counts_beside_what_envoy_says() {
    let mut health = Health::established();
    let wanted = [
        (NodeState::Standby, State::Standby),
        (NodeState::Degraded, State::Degraded),
        (NodeState::Draining, State::Draining),
        (NodeState::Active, State::Active),
    ];
    for (version, (wanted, expected)) in (1..).zip(wanted) {
        health.record(&on_record(version, wanted, None));
        assert_eq!(state(&health, 0), expected);
    }

    health.record(&on_record(5, NodeState::Standby, None));

    let flags = [
        (HostFlags { degraded: true, ..GOOD }, State::Degraded),
        (HostFlags { degraded: true, draining: true, ..GOOD }, State::Draining),
        (HostFlags { pending: true, ..GOOD }, State::Pending),
        (GOOD, State::Standby),
        (BAD, State::Cooldown),
    ];
    for (seconds, (flags, expected)) in (0..).zip(flags) {
        health.observe(flags, &POLICY, at(seconds));
        assert_eq!(state(&health, seconds), expected, "{flags:?}");
    }
}

/// The end was noted by a clock that was 19 s ahead, or behind, and is set right before the record is read again.
#[test]
fn a_record_that_is_read_again_sets_the_end_of_its_cooldown_right() {
    for noted in [59, 21] {
        let mut health = Health::established();
        health.record(&on_record(1, NodeState::Active, Some(noted)));

        health.record(&on_record(1, NodeState::Active, Some(40)));

        assert_eq!((state(&health, 39), state(&health, 70)), (State::Cooldown, State::Active), "{noted}");
        let known = health.clone();
        health.record(&NodeRecord {
            cooldown_until_ms: Some(at(40).0 + 900),
            ..on_record(1, NodeState::Active, None)
        });
        assert_eq!(health, known, "a call takes a moment");
    }
}

#[test]
fn a_clock_that_was_set_back_shares_no_more_than_the_length_of_a_cooldown() {
    let mut health = Health::established();
    health.observe(BAD, &POLICY, at(100));
    health.observe(GOOD, &POLICY, at(100));

    assert_eq!(health.own_cooldown_end(at(81)), Some(at(81) + POLICY.cooldown));
}

#[test]
fn only_a_newer_record_is_news() {
    let mut health = Health::established();
    health.record(&on_record(2, NodeState::Draining, Some(10)));
    let known = health.clone();

    health.record(&on_record(0, NodeState::Active, None));
    health.record(&on_record(1, NodeState::Standby, Some(90)));
    health.record(&on_record(2, NodeState::Degraded, None));

    assert_eq!(health, known);
}

#[test]
fn a_store_that_lost_its_records_is_heard_though_it_counts_from_one_again() {
    let mut health = Health::established();
    let said = |version, state, updated_ms| NodeRecord { updated_ms, ..on_record(version, state, None) };
    health.record(&said(7, NodeState::Draining, 1_000));

    health.record(&said(1, NodeState::Standby, 900));
    assert_eq!(state(&health, 0), State::Draining, "from before");
    health.record(&said(1, NodeState::Active, 2_000));

    assert_eq!(state(&health, 0), State::Active);
}

#[test]
fn a_shared_cooldown_keeps_a_node_out_and_ends_in_a_warm_up_as_a_return() {
    let mut health = Health::established();
    assert!(!health.is_timed(&POLICY, at(0)));

    health.record(&on_record(1, NodeState::Active, Some(20)));

    assert!(health.is_timed(&POLICY, at(0)) && health.is_timed(&POLICY, at(49)));
    assert_eq!(state(&health, 19), State::Cooldown);
    assert_eq!(state(&health, 20), State::Warming(State::WHOLE / 10));
    assert_eq!(state(&health, 50), State::Active);
    assert!(health.is_returning() && !health.is_timed(&POLICY, at(50)));
}

#[test]
fn the_later_end_of_own_and_shared_cooldown_counts() {
    for (until, expected) in [(10, 30), (45, 45)] {
        let mut health = Health::established();
        health.report_failure(&POLICY, at(0));
        health.record(&on_record(1, NodeState::Active, Some(until)));

        assert_eq!(state(&health, expected - 1), State::Cooldown);
        assert_eq!(state(&health, expected), State::Warming(State::WHOLE / 10));
    }
}

#[test]
fn a_shared_cooldown_that_was_over_before_the_node_joined_makes_no_return_of_it() {
    let mut health = Health::joined(at(20));
    health.record(&on_record(1, NodeState::Active, Some(10)));

    assert!(!health.is_returning());
    assert_eq!(state(&health, 20), State::Warming(State::WHOLE / 10));
}

#[test]
fn a_failure_seen_in_a_shared_cooldown_is_the_nodes_first_here() {
    let mut health = Health::established();
    health.record(&on_record(1, NodeState::Active, Some(20)));
    assert_eq!(health.own_cooldown_end(at(0)), None, "nothing to tell the others");

    health.report_failure(&POLICY, at(10));

    assert_eq!(health.own_cooldown_end(at(10)), None, "requests alone are no proof for others");
    assert_eq!(state(&health, 39), State::Cooldown);

    health.observe(BAD, &POLICY, at(11));

    assert_eq!(health.own_cooldown_end(at(11)), Some(at(41)));
}

#[test]
fn a_check_that_passes_after_the_failures_ends_the_cooldown_as_if_it_had_not_been() {
    let period = Millis(4_000);
    let mut health = Health::established();
    health.report_failure(&POLICY, at(0));
    for (seconds, expected) in [(1, State::Cooldown), (4, State::Cooldown), (5, State::Active)] {
        health.observe(GOOD, &POLICY, at(seconds));
        health.contradict(period, at(seconds));
        assert_eq!(state(&health, seconds), expected, "after {seconds} s");
    }

    // No relapse: the first failure counts as such.
    health.observe(BAD, &POLICY, at(6));
    health.observe(GOOD, &POLICY, at(6));
    health.contradict(period, at(20));
    assert_eq!(state(&health, 35), State::Cooldown, "what the check itself has seen stands");
    assert_ne!(state(&health, 36), State::Cooldown);

    // And one after it does not hide it.
    health.report_failure(&POLICY, at(40));
    health.contradict(period, at(50));
    assert_ne!(state(&health, 50), State::Cooldown);
    health.observe(BAD, &POLICY, at(51));
    health.observe(GOOD, &POLICY, at(51));
    assert_eq!(state(&health, 110), State::Cooldown, "twice as long");
}

#[test]
fn a_check_that_fails_too_or_has_not_answered_yet_contradicts_nothing() {
    for flags in [BAD, HostFlags { pending: true, ..GOOD }] {
        let mut health = Health::established();
        health.report_failure(&POLICY, at(0));

        health.observe(flags, &POLICY, at(10));
        health.contradict(Millis(4_000), at(10));

        assert_eq!(state(&health, 10), State::Cooldown, "{flags:?}");
    }
}

#[test]
fn an_ejection_is_a_failure_but_no_proof_for_others() {
    let mut health = Health::established();
    health.observe(HostFlags { ejected: true, ..GOOD }, &POLICY, at(0));
    assert_eq!((state(&health, 0), health.own_cooldown_end(at(0))), (State::Cooldown, None));

    health.observe(HostFlags { ejected: true, ..BAD }, &POLICY, at(1));

    assert_eq!(health.own_cooldown_end(at(1)), Some(at(31)));
}

#[test]
fn its_own_cooldown_ends_a_full_length_after_it_was_last_seen_unhealthy() {
    let mut health = Health::established();
    health.observe(BAD, &POLICY, at(0));
    assert_eq!(health.own_cooldown_end(at(5)), Some(at(35)), "unhealthy still");

    health.observe(GOOD, &POLICY, at(10));

    assert_eq!(health.own_cooldown_end(at(11)), Some(at(40)));
    assert_eq!(health.own_cooldown_end(at(40)), None);
}

#[test]
fn a_node_cannot_leave_and_return_to_escape_a_shared_cooldown() {
    let mut health = Health::established();
    health.record(&on_record(3, NodeState::Draining, Some(20)));

    let mut health = health.departed(at(1)).unwrap().rejoined(at(2));
    health.observe(GOOD, &POLICY, at(2));

    assert_eq!(state(&health, 19), State::Cooldown);
    assert_eq!(state(&health, 20), State::Draining, "what is wanted of it holds too");
    assert!(health.is_returning());
}

#[test]
fn a_node_that_left_is_remembered_for_a_cooldown_but_not_for_what_is_wanted_of_it() {
    let mut health = Health::established();
    health.record(&on_record(1, NodeState::Draining, Some(20)));

    assert_eq!(health.departed(at(20)), None);
}

#[test]
fn without_a_warm_up_a_node_is_active_at_once() {
    let policy = HealthPolicy { warm_up: Millis(0), ..POLICY };

    assert_eq!(Health::joined(at(0)).state(&policy, at(0)), State::Active);
}

#[test]
fn a_weight_that_no_service_takes_counts_as_the_nearest_that_it_would() {
    for (said, weight) in [(None, 1), (Some(0), 1), (Some(128), 128), (Some(129), 128), (Some(u32::MAX), 128)]
    {
        let mut health = Health::established();
        health.record(&NodeRecord { weight: said, ..on_record(1, NodeState::Active, None) });

        assert_eq!(health.weight(), weight, "{said:?}");
    }
}
