//! What holds for placements whatever Envoy says of its hosts, in any order and at any time.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use berth_core::event::{Outcome, Reason};
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::{HostFlags, Observation};
use berth_core::placement::{MAX_CANDIDATES, Placement, for_new, pinned};
use berth_core::ring::{Algorithm, RingSize, session_hash};
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{NodeRecord, NodeState};

const SESSIONS: usize = 100;
/// Small rings: thousands of them are built here.
const ALGORITHM: Algorithm = Algorithm::RingHash(RingSize::VirtualNodes(16));

/// What may happen to a pool.
#[derive(Debug, Clone)]
enum Event {
    See(Vec<Observation>),
    Report(String),
    Record(Vec<NodeRecord>),
    /// This many seconds go by, or back.
    Wait(i64),
}

fn flags() -> impl Strategy<Value = HostFlags> {
    let flag = |percent| prop::bool::weighted(percent);
    (flag(0.25), flag(0.1), flag(0.15), flag(0.15)).prop_map(|(unhealthy, pending, degraded, draining)| {
        HostFlags { unhealthy, pending, degraded, draining, ejected: false }
    })
}

/// Of one priority for the most part.
fn host() -> impl Strategy<Value = Observation> {
    let priority = prop_oneof![6 => Just(0_u32), 2 => Just(1), 1 => Just(3)];
    (0..8_u32, 1..4_u32, priority, flags()).prop_map(|(number, weight, priority, flags)| Observation {
        address: format!("10.0.0.{number}:80"),
        weight,
        priority,
        flags,
        ..Observation::default()
    })
}

/// What an operator, and proxies that saw a node fail, put on record; of one node and version there is only one.
fn record() -> impl Strategy<Value = NodeRecord> {
    (0..9_u64, 0..20_u64).prop_map(|(number, version)| {
        let draw = session_hash(format!("{number} {version}").as_bytes());
        let (_, state) = NodeState::ALL[draw as usize % NodeState::ALL.len()];
        NodeRecord {
            state,
            cooldown_until_ms: (draw >> 8).is_multiple_of(3).then_some(1_000_000 + (draw >> 16) % 600_000),
            version,
            ..NodeRecord::unknown(format!("10.0.0.{number}:80").parse().unwrap())
        }
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => vec(host(), 0..8).prop_map(Event::See),
        1 => (0..9_u32).prop_map(|number| Event::Report(format!("10.0.0.{number}:80"))),
        1 => vec(record(), 0..4).prop_map(Event::Record),
        4 => (0..40_i64).prop_map(Event::Wait),
        1 => (-4000..4000_i64).prop_map(Event::Wait),
    ]
}

/// What may happen to a pool whose hosts are all of one priority.
fn event_of_one_priority() -> impl Strategy<Value = Event> {
    event().prop_map(|mut event| {
        if let Event::See(hosts) = &mut event {
            hosts.iter_mut().for_each(|host| host.priority = 0);
        }
        event
    })
}

fn policy() -> impl Strategy<Value = HealthPolicy> {
    (0..40_u64, 0..120_u64, 0..40_u64, 0..=100_u32, 0..=100_u32, 0..10_u64).prop_map(
        |(cooldown, more, warm_up, warm_up_from_percent, panic_threshold, panic_hold)| HealthPolicy {
            cooldown: Millis(cooldown * 1000),
            max_cooldown: Millis((cooldown + more) * 1000),
            warm_up: Millis(warm_up * 1000),
            warm_up_from_percent,
            panic_threshold,
            panic_hold: Millis(panic_hold * 1000),
            ..HealthPolicy::DEFAULT
        },
    )
}

/// A policy that believes health whatever it says, so that states alone decide.
fn without_panic() -> impl Strategy<Value = HealthPolicy> {
    policy().prop_map(|policy| HealthPolicy { panic_threshold: 0, ..policy })
}

/// A roster to which all this happened, and the time.
fn after(events: Vec<Event>, policy: &HealthPolicy) -> (Roster, Millis) {
    let mut roster = Roster::default();
    let mut now = Millis(1_000_000);
    for event in events {
        match event {
            Event::See(hosts) => drop(roster.observe(hosts, policy, now)),
            Event::Report(address) => drop(roster.report_failure(&address, policy, now)),
            Event::Record(records) => drop(roster.record(&records, policy, now)),
            Event::Wait(seconds) => {
                now = Millis(now.0.saturating_add_signed(seconds * 1000));
                roster.reassess(policy, now);
            }
        }
    }
    (roster, now)
}

fn look(roster: &Roster, policy: &HealthPolicy, now: Millis) -> Snapshot {
    Snapshot::build(roster, ALGORITHM, policy, now, None).unwrap()
}

fn placements(snapshot: &Snapshot) -> Vec<Option<Placement>> {
    let place = |index| Placement::of(snapshot, session_hash(format!("user-{index}").as_bytes())).ok();
    (0..SESSIONS).map(place).collect()
}

fn owners(snapshot: &Snapshot) -> Vec<Option<String>> {
    let owner = |placement: Placement| placement.nodes(snapshot).next().map(|node| node.address.clone());
    placements(snapshot).into_iter().map(|placement| placement.and_then(owner)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // Some promises speak of one kind of pool only; it takes a few tries to make one.
        max_global_rejects: 1_000_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_placement_names_distinct_members_that_may_serve(events in vec(event(), 0..30), policy in policy()) {
        let (roster, now) = after(events, &policy);
        let snapshot = look(&roster, &policy, now);
        let may_serve = |place: usize| snapshot.may_serve(place);

        for placement in placements(&snapshot) {
            prop_assert_eq!(placement.is_some(), (0..snapshot.nodes.len()).any(may_serve));
            let Some(placement) = placement else { continue };
            let nodes: Vec<_> = placement.nodes(&snapshot).collect();
            let distinct: BTreeSet<_> = nodes.iter().map(|node| &node.address).collect();
            prop_assert!((1..=3).contains(&nodes.len()) && distinct.len() == nodes.len(), "{:?}", nodes);
            prop_assert!(placement.indexes().all(may_serve), "{:?}", nodes);
        }
    }

    #[test]
    fn a_pin_comes_first_and_no_node_twice(events in vec(event(), 0..30), policy in policy()) {
        let (roster, now) = after(events, &policy);
        let snapshot = look(&roster, &policy, now);

        for (owner, session) in (0..snapshot.nodes.len()).zip(0..) {
            let hash = session_hash(format!("user-{session}").as_bytes());
            let placement = pinned(&snapshot, hash, owner, Outcome::Found);
            prop_assert_eq!((placement.outcome, placement.reason), (Outcome::Found, Reason::Pin));
            let indexes: Vec<usize> = placement.indexes().collect();
            prop_assert_eq!(indexes.first(), Some(&owner));
            let distinct: BTreeSet<_> = indexes.iter().collect();
            prop_assert!(indexes.len() <= MAX_CANDIDATES && distinct.len() == indexes.len(), "{:?}", indexes);
            let successors = &indexes[1..];
            let state = |place: &usize| snapshot.nodes[*place].state;
            let takes_over = |place: &usize| match snapshot.is_panic_at(*place) {
                true => state(place).serves(),
                false => matches!(state(place), State::Active | State::Warming(_)),
            };
            let in_panic = |place: &usize| snapshot.is_panic_at(*place);
            prop_assert!(
                if in_panic(&owner) {
                    successors.is_sorted_by_key(|place| !state(place).serves())
                        && successors.iter().all(|place| takes_over(place) || in_panic(place))
                } else {
                    successors.iter().all(takes_over)
                },
                "{:?}", indexes
            );
        }
    }

    #[test]
    fn a_session_without_owner_goes_where_the_ring_puts_it_if_that_node_takes_new_ones(
        events in vec(event(), 0..30),
        policy in policy(),
        most in 1..9_usize,
    ) {
        let (roster, now) = after(events, &policy);
        let snapshot = look(&roster, &policy, now);
        let somebody = snapshot.nodes.iter().enumerate().any(|(place, node)| {
            node.state.serves() || snapshot.is_panic_at(place) && node.state != State::Pending
        });

        for (session, placement) in placements(&snapshot).into_iter().enumerate() {
            let hash = session_hash(format!("user-{session}").as_bytes());
            let candidates = for_new(&snapshot, hash, most);
            prop_assert_eq!(!candidates.is_empty(), somebody);
            let distinct: BTreeSet<_> = candidates.iter().collect();
            prop_assert!(candidates.len() <= most && distinct.len() == candidates.len(), "{:?}", candidates);
            let Some(placement) = placement.filter(|placement| placement.takes_new(&snapshot)) else { continue };
            if somebody {
                prop_assert_eq!(candidates.first().copied(), placement.indexes().next());
            }
        }
    }

    #[test]
    fn no_state_that_an_operator_wants_brings_panic_or_ends_it(
        events in vec(event(), 0..30),
        policy in policy(),
    ) {
        let only_states = |records: Vec<NodeRecord>| {
            records.into_iter().map(|record| NodeRecord { cooldown_until_ms: None, ..record }).collect()
        };
        // What was drained before it left is not waited for, and is new when it comes back: that is what it is for.
        let policy = HealthPolicy { vanish_grace: Millis(0), ..policy };
        let with = |keep: bool| {
            let events = events.clone().into_iter().map(|event| match event {
                Event::Record(_) if !keep => Event::Record(Vec::new()),
                Event::Record(records) => Event::Record(only_states(records)),
                other => other,
            });
            after(events.collect(), &policy).0
        };

        let (with, without) = (with(true), with(false));
        let is_panic = |roster: &Roster, priority| {
            roster.nodes.iter().any(|node| node.priority == priority && node.health.is_in_panic())
        };
        for priority in 0..4 {
            prop_assert_eq!(is_panic(&with, priority), is_panic(&without, priority));
        }
    }

    #[test]
    fn records_may_come_in_any_order_and_often(
        events in vec(event(), 0..20),
        policy in without_panic(),
        (records, shuffled) in vec(record(), 0..20).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        parts in 1..6_usize,
    ) {
        let (mut at_once, now) = after(events, &policy);
        let mut one_by_one = at_once.clone();

        at_once.record(&records, &policy, now);
        for some in shuffled.chunks(parts) {
            one_by_one.record(some, &policy, now);
        }

        prop_assert_eq!(&at_once.nodes, &one_by_one.nodes);
        prop_assert!(!at_once.record(&shuffled, &policy, now));
    }

    #[test]
    fn two_views_of_one_roster_at_one_time_agree(
        events in vec(event(), 0..30),
        policy in policy(),
        earlier in 0..60_u64,
    ) {
        let (roster, now) = after(events, &policy);
        let published = Roster::decode(&roster.encode()).unwrap();
        prop_assert_eq!(&published, &roster);
        // One VM looks for the first time, the other has kept its ring from an earlier look.
        let before = look(&roster, &policy, Millis(now.0.saturating_sub(earlier * 1000)));

        let fresh = look(&published, &policy, now);
        let kept = Snapshot::build(&roster, ALGORITHM, &policy, now, Some(&before)).unwrap();

        prop_assert_eq!(&fresh.nodes, &kept.nodes);
        prop_assert_eq!(placements(&fresh), placements(&kept));
    }

    #[test]
    fn as_time_goes_by_sessions_move_only_to_nodes_that_get_warmer(
        events in vec(event_of_one_priority(), 0..30),
        policy in without_panic(),
        steps in vec(0..20_u64, 1..6),
    ) {
        let (roster, mut now) = after(events, &policy);
        let mut before = look(&roster, &policy, now);
        for seconds in steps {
            now = now + Millis(seconds * 1000);
            let after = look(&roster, &policy, now);
            let warmer = |address: &String| {
                let share = |snapshot: &Snapshot| {
                    let node = snapshot.nodes.iter().find(|node| node.address == *address).unwrap();
                    match node.state {
                        State::Warming(share) => Some(share),
                        state if state.serves() => Some(State::WHOLE),
                        _ => None,
                    }
                };
                share(&after) > share(&before)
            };
            for (was, is) in owners(&before).iter().zip(owners(&after)).filter(|(was, is)| *was != is) {
                prop_assert!(is.as_ref().is_some_and(warmer), "{:?} to {:?}\n{:?}\n{:?}", was, is, before, after);
            }
            before = after;
        }
    }

    #[test]
    fn a_node_that_fails_moves_no_session_but_its_own(
        events in vec(event_of_one_priority(), 0..30),
        policy in without_panic(),
        failing in 0..8_usize,
    ) {
        let (mut roster, now) = after(events, &policy);
        let before = look(&roster, &policy, now);
        // Long enough to be out at all.
        let failing_policy = HealthPolicy { cooldown: Millis(1000), ..policy.clone() };
        let Some(address) = roster.nodes.get(failing).map(|node| node.address.clone()) else { return Ok(()) };
        // If a node fails while it is new, its sessions are not known.
        prop_assume!(before.nodes.iter().all(|node| !matches!(node.state, State::Warming(_) | State::Pending)));

        roster.report_failure(&address, &failing_policy, now);

        let after = look(&roster, &policy, now);
        for (was, is) in owners(&before).into_iter().zip(owners(&after)).filter(|(was, is)| was != is) {
            prop_assert_eq!(was.as_ref(), Some(&address), "moved to {:?}", is);
        }
    }

    #[test]
    fn a_new_node_takes_sessions_from_others_and_gives_none(
        weights in vec(flags(), 1..7),
        seconds in 0..40_u64,
        policy in without_panic(),
    ) {
        let host = |(number, flags): (usize, HostFlags)| Observation {
            address: format!("10.0.0.{number}:80"),
            weight: 1,
            flags,
            ..Observation::default()
        };
        let old: Vec<Observation> = weights.into_iter().enumerate().map(host).collect();
        let newcomer = host((99, HostFlags::default()));
        let joined = newcomer.address.clone();
        let mut roster = Roster::default();
        let start = Millis(1_000_000);
        roster.observe(old.clone(), &policy, start);
        let later = start + Millis(seconds * 1000);
        // Those that were unhealthy stay so: no cooldown may end meanwhile.
        let before = owners(&look(&roster, &policy, later));

        roster.observe(old.into_iter().chain([newcomer]).collect(), &policy, start);

        for (was, is) in before.iter().zip(owners(&look(&roster, &policy, later))).filter(|(was, is)| *was != is) {
            prop_assert_eq!(is.as_ref(), Some(&joined), "from {:?}", was);
        }
    }

    #[test]
    fn the_end_of_a_panic_moves_nobody_but_from_nodes_that_are_still_out(
        unhealthy in vec(any::<bool>(), 2..8),
        policy in policy(),
        down in 0..20_u64,
    ) {
        let seen = |unhealthy: &[bool]| -> Vec<Observation> {
            let host = |(number, unhealthy): (usize, &bool)| Observation {
                address: format!("10.0.0.{number}:80"),
                weight: 1,
                flags: HostFlags { unhealthy: *unhealthy, ..HostFlags::default() },
                ..Observation::default()
            };
            unhealthy.iter().enumerate().map(host).collect()
        };
        let well = vec![false; unhealthy.len()];
        let start = Millis(1_000_000);
        let mut roster = Roster::default();
        roster.observe(seen(&well), &policy, start);
        roster.observe(seen(&unhealthy), &policy, start);
        prop_assume!(roster.has_panic());
        let during = owners(&look(&roster, &policy, start));

        let mut now = start + Millis(down * 1000);
        roster.observe(seen(&well), &policy, now);
        while roster.has_panic() {
            now = now + Millis(1000);
            roster.reassess(&policy, now);
            prop_assert!(now < start + Millis(1_000_000), "panic never ends");
        }

        let after = look(&roster, &policy, now);
        for (was, is) in during.iter().zip(owners(&after)).filter(|(was, is)| *was != is) {
            let left = after.nodes.iter().find(|node| Some(&node.address) == was.as_ref()).unwrap();
            prop_assert!(!left.state.serves(), "{:?} to {:?}", left, is);
        }
    }
}
