//! The breaker under any history: it protects the state cluster when it should, and never for longer than it may.
use berth_core::breaker::{Breaker, BreakerPolicy, Permit};
use berth_core::time::Millis;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Ask,
    Succeed,
    Fail(u64),
    Pass(u64),
    SetBack(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Ask),
        1 => Just(Step::Succeed),
        4 => any::<u64>().prop_map(Step::Fail),
        3 => (0..3_000_u64).prop_map(Step::Pass),
        1 => (0..3_000_u64).prop_map(Step::SetBack),
    ]
}

fn any_policy() -> impl Strategy<Value = BreakerPolicy> {
    let millis = || prop_oneof![4 => 0..6_000_u64, 1 => Just(u64::MAX)].prop_map(Millis);
    (0..7_u32, millis(), 0..6_000_u64, 0..200_u64).prop_map(|(failures, backoff, max, probe)| BreakerPolicy {
        failures,
        backoff,
        max_backoff: Millis(max),
        probe_timeout: Millis(probe),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn lets_somebody_through_before_long_and_one_at_a_time(
        policy in any_policy(),
        steps in prop::collection::vec(any_step(), 1..100),
    ) {
        let mut breaker = Breaker::new(policy);
        let (mut now, mut in_a_row, mut probed) = (Millis(10_000_000), 0_u32, None::<Millis>);
        let mut latest = now;
        for step in steps {
            latest = latest.max(now);
            match step {
                Step::Pass(millis) => now = now + Millis(millis),
                Step::SetBack(millis) => now = Millis(now.0 - millis),
                Step::Ask => match breaker.allow(now) {
                    Permit::Allow => prop_assert!(!breaker.is_open()),
                    Permit::Deny => prop_assert!(breaker.is_open()),
                    Permit::Probe => {
                        let apart = probed.is_none_or(|before| {
                            now < before || now.since(before) >= policy.probe_timeout
                        });
                        prop_assert!(breaker.is_open() && apart, "two probes at a time");
                        probed = Some(now);
                    }
                },
                Step::Succeed => {
                    prop_assert_eq!(breaker.succeeded(), in_a_row >= policy.failures && policy.failures > 0);
                    prop_assert_eq!(breaker.allow(now), Permit::Allow);
                    (in_a_row, probed) = (0, None);
                }
                Step::Fail(random) => {
                    let first = in_a_row + 1 == policy.failures;
                    in_a_row += 1;
                    prop_assert_eq!(breaker.failed(now, random), first || probed.is_some());
                    probed = None;
                }
            }
            prop_assert_eq!(breaker.is_open(), policy.failures > 0 && in_a_row >= policy.failures);
        }

        // Somebody may try after the longest wait, whatever happened.
        let later = latest.max(now) + policy.max_backoff.max(policy.probe_timeout);
        prop_assert_ne!(breaker.allow(later), Permit::Deny);
    }
}
