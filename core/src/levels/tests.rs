use super::*;

/// Hosts of one priority: all, healthy, degraded, excluded; as in Envoy's own tests.
type Hosts = (u64, u64, u64, u64);

fn levels(hosts: &[Hosts], threshold: u32) -> Vec<Level> {
    let level = |&(hosts, healthy, degraded, excluded): &Hosts| Level {
        known: hosts - excluded,
        serving: healthy + degraded,
        healthy,
        degraded,
        ..Level::default()
    };
    let mut levels: Vec<Level> = hosts.iter().map(level).collect();
    let policy = HealthPolicy { panic_threshold: threshold, ..HealthPolicy::DEFAULT };
    find_panic(&mut levels, &policy, Millis(1));
    share_out(&mut levels);
    levels
}

/// Panics, and loads of healthy and of degraded hosts.
fn computed(hosts: &[Hosts], threshold: u32) -> (Vec<bool>, Vec<u64>, Vec<u64>) {
    let levels = levels(hosts, threshold);
    let loads = |round: usize| levels.iter().map(|level| level.loads[round]).collect();
    (levels.iter().map(|level| level.is_panic).collect(), loads(0), loads(1))
}

/// What Envoy v1.40 expects of itself in `LoadBalancerBaseTest` of
/// `test/extensions/load_balancing_policies/common/load_balancer_impl_base_test.cc`: `PrioritySelection`,
/// `OverProvisioningFactor`, `GentleFailover` and `GentleFailoverWithExtraLevels`. Left out are excluded hosts in a panic of
/// all levels, which Envoy counts and Berth does not: nothing is known of them.
#[test]
fn loads_and_panic_are_those_of_envoys_own_tests() {
    const SOME: u32 = 50;
    const NONE: u32 = 0;
    type Case<'c> = (&'c [Hosts], u32, &'c [u64], &'c [u64], &'c [bool]);
    let (no, yes) = (false, true);
    let cases: &[Case<'_>] = &[
        (&[(1, 0, 0, 0), (1, 0, 0, 0)], SOME, &[50, 50], &[0, 0], &[yes, yes]),
        (&[(1, 0, 0, 0), (2, 0, 0, 0)], SOME, &[34, 66], &[0, 0], &[yes, yes]),
        (&[(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0)], SOME, &[0, 0, 100], &[0, 0, 0], &[no, no, no]),
        (&[(1, 1, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0)], SOME, &[100, 0, 0], &[0, 0, 0], &[no, no, no]),
        (&[(4, 2, 0, 0), (4, 2, 0, 0)], SOME, &[70, 30], &[0, 0], &[no, no]),
        (&[(1, 1, 0, 0), (1, 1, 0, 0)], SOME, &[100, 0], &[0, 0], &[no, no]),
        (&[(2, 1, 0, 0), (2, 1, 0, 0)], SOME, &[70, 30], &[0, 0], &[no, no]),
        (&[(4, 1, 0, 0), (2, 2, 0, 0)], SOME, &[35, 65], &[0, 0], &[no, no]),
        (&[(4, 1, 0, 0), (4, 1, 0, 0)], SOME, &[50, 50], &[0, 0], &[yes, yes]),
        (&[(4, 1, 0, 3), (5, 1, 0, 0)], SOME, &[100, 0], &[0, 0], &[no, no]),
        (&[(4, 1, 0, 0), (4, 1, 0, 0), (4, 1, 0, 0)], SOME, &[35, 35, 30], &[0, 0, 0], &[no, no, no]),
        (&[(5, 1, 0, 0), (5, 1, 0, 0), (5, 1, 0, 0)], SOME, &[34, 33, 33], &[0, 0, 0], &[yes, yes, yes]),
        (&[(5, 0, 0, 0), (5, 0, 0, 0), (5, 5, 0, 0)], SOME, &[0, 0, 100], &[0, 0, 0], &[no, no, no]),
        (&[(5, 0, 0, 0), (5, 0, 0, 0), (5, 4, 0, 0)], SOME, &[0, 0, 100], &[0, 0, 0], &[no, no, no]),
        (&[(5, 0, 0, 0), (5, 0, 0, 0), (5, 2, 0, 0)], SOME, &[34, 33, 33], &[0, 0, 0], &[yes, yes, yes]),
        (&[(5, 0, 5, 0), (5, 2, 2, 0), (5, 2, 0, 0)], SOME, &[0, 56, 44], &[0, 0, 0], &[no, no, no]),
        (&[(5, 0, 0, 0), (3, 0, 0, 0), (2, 0, 0, 0)], SOME, &[50, 30, 20], &[0, 0, 0], &[yes, yes, yes]),
        (&[(5, 0, 0, 0), (6, 2, 0, 0), (3, 1, 0, 0)], SOME, &[37, 42, 21], &[0, 0, 0], &[yes, yes, yes]),
        (&[(5, 0, 1, 0), (5, 0, 5, 0), (5, 1, 0, 0)], SOME, &[0, 0, 28], &[28, 44, 0], &[no, no, no]),
        (&[(5, 0, 0, 0), (5, 0, 2, 0), (5, 0, 1, 0)], NONE, &[0, 0, 0], &[0, 67, 33], &[no, no, no]),
        (&[(5, 0, 0, 0), (5, 0, 2, 0), (5, 0, 1, 0)], SOME, &[34, 33, 33], &[0, 0, 0], &[yes, yes, yes]),
        (&[(3, 0, 0, 0), (3, 0, 0, 0), (3, 0, 0, 0)], SOME, &[34, 33, 33], &[0, 0, 0], &[yes, yes, yes]),
        // Envoy says that the empty priority is in panic too; it has no node that would notice.
        (&[(0, 0, 0, 0), (6, 0, 0, 0), (3, 0, 0, 0)], SOME, &[0, 67, 33], &[0, 0, 0], &[no, yes, yes]),
    ];
    for (hosts, threshold, healthy, degraded, panics) in cases {
        let expected = (panics.to_vec(), healthy.to_vec(), degraded.to_vec());
        assert_eq!(computed(hosts, *threshold), expected, "{hosts:?} at {threshold}");
    }
}

#[test]
fn a_level_that_gets_nothing_is_in_no_panic_while_another_one_serves() {
    // Envoy calls the first one a panic, and sends no request there.
    assert_eq!(computed(&[(4, 0, 0, 0), (2, 1, 0, 0)], 50), (vec![false, false], vec![0, 100], vec![0, 0]));
    // One of five is left: it gets 28 of 98 parts, and those of the other four nodes with it.
    assert_eq!(computed(&[(5, 1, 0, 0), (2, 1, 0, 0)], 50), (vec![true, false], vec![29, 71], vec![0, 0]));
}

/// Up to 72 % a threshold means what it says; Envoy sees no reason for panic above.
#[test]
fn a_single_level_is_in_panic_below_the_threshold_and_below_full_availability() {
    for (serving, threshold, panic) in [
        (49, 50, true),
        (50, 50, false),
        (71, 72, true),
        (72, 73, false),
        (99, 100, false),
        (0, 0, false),
        (0, 1, true),
    ] {
        assert_eq!(computed(&[(100, serving, 0, 0)], threshold).0, [panic], "{serving} at {threshold}");
    }
}

#[test]
fn whatever_the_numbers_all_sessions_are_given_out_and_none_to_an_empty_level() {
    let hosts: Vec<Hosts> = (0..4_u64)
        .flat_map(|all| {
            (0..=all).flat_map(move |healthy| (0..=all - healthy).map(move |d| (all, healthy, d, 0)))
        })
        .collect();
    for one in &hosts {
        for two in &hosts {
            for three in &hosts {
                let levels = [*one, *two, *three];
                for threshold in [0, 50, 100] {
                    let (panics, healthy, degraded) = computed(&levels, threshold);
                    assert_eq!(healthy.iter().chain(&degraded).sum::<u64>(), 100, "{levels:?}");
                    for (index, (all, some, d, _)) in levels.iter().enumerate() {
                        let is_better_off = levels.iter().any(|level| level.1 + level.2 > 0);
                        let load = healthy[index] + degraded[index];
                        // If no level has a usable host, each level in panic gets requests.
                        assert!(!panics[index] || load > 0 || is_better_off, "{levels:?}");
                        assert!(
                            *all > 0
                                || load == 0
                                || levels.iter().all(|level| level.0 == 0 || threshold == 0)
                        );
                        assert!(some + d > 0 || panics[index] || load == 0 || !is_better_off, "{levels:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn draws_are_as_frequent_as_the_loads_say_and_degraded_ones_come_last() {
    let level = |healthy, degraded| Level { loads: [healthy, degraded], ..Level::default() };
    let levels = [level(20, 15), level(30, 35)];

    let drawn: Vec<usize> = (0..100).map(|hash| draw(&levels, hash)).collect();

    assert_eq!(drawn, [vec![0; 20], vec![1; 30], vec![0; 15], vec![1; 35]].concat());
    assert_eq!(draw(&levels, 120), 1);
    assert_eq!(draw(&levels, u64::MAX), draw(&levels, u64::MAX % 100));
    assert_eq!(draw(&[], 7), 0);
}
