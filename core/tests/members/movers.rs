//! Nodes that vanish, move, return or are held, alone and many at once.

use berth_core::health::{HealthPolicy, State};
use berth_core::membership::{HostFlags, Observation};
use berth_core::owners::{Owners, Standing};
use berth_core::roster::Roster;
use berth_core::time::Millis;

use super::{BAD, GOOD, at, homes, host, named, snapshot, state};

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
