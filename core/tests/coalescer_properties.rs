//! Coalescing under any interleaving: no waiter is lost, no waiter is released twice, no session is asked about twice
//! at a time.
use std::collections::{BTreeMap, BTreeSet};

use berth_core::coalescer::{Coalescer, CoalescerLimits, Join, Refusal, Released};
use berth_core::pins::WireKey;
use berth_core::time::Millis;
use proptest::prelude::*;

/// Of a worker whose start lasts up to so long; most have none.
fn limits(start: u64) -> CoalescerLimits {
    CoalescerLimits { sessions: 5, calls: 3, timeout: Millis(50), start: Millis(start) }
}

#[derive(Debug, Clone)]
enum Step {
    /// Session, stream.
    Join(u8, u32),
    /// At most so many, from a stream or the root, with this token.
    Send(usize, Option<u32>, u32),
    SendFails(usize),
    DropBatch(usize),
    Ended(u32),
    Fails(u32),
    Gone(u32),
    Overdue,
    Pass(u64),
    SetBack(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (stream, token, most) = (0..12_u32, 0..6_u32, 0..4_usize);
    prop_oneof![
        8 => (0..8_u8, stream.clone()).prop_map(|(session, stream)| Step::Join(session, stream)),
        5 => (most.clone(), prop::option::of(stream.clone()), token.clone())
            .prop_map(|(most, owner, token)| Step::Send(most, owner, token)),
        1 => most.clone().prop_map(Step::SendFails),
        1 => most.prop_map(Step::DropBatch),
        4 => token.clone().prop_map(Step::Ended),
        2 => token.prop_map(Step::Fails),
        3 => stream.prop_map(Step::Gone),
        2 => Just(Step::Overdue),
        3 => (0..40_u64).prop_map(Step::Pass),
        1 => (0..100_u64).prop_map(Step::SetBack),
    ]
}

/// What is true of the streams and calls, derived from the steps alone.
#[derive(Default)]
struct World {
    /// Which session each stream waits for.
    waiting: BTreeMap<u32, u8>,
    /// Calls that may still be answered.
    calls: BTreeMap<u32, Call>,
}

struct Call {
    keys: Vec<WireKey>,
    owner: Option<u32>,
    since: Millis,
}

impl World {
    fn resume(&mut self, released: &[Released<u8>]) -> Result<(), TestCaseError> {
        for Released { key, request, waiters } in released {
            prop_assert_eq!(*key, wire(*request));
            for waiter in waiters {
                prop_assert_eq!(self.waiting.remove(waiter), Some(*request), "released, but not waiting");
            }
        }
        Ok(())
    }
}

fn wire(session: u8) -> WireKey {
    WireKey([session; 16])
}

fn check(start: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let limits = limits(start);
    let mut coalescer = Coalescer::new(limits);
    let (mut world, mut now) = (World::default(), Millis(1_000_000));
    let mut latest = now;
    // When the first request waited.
    let mut first = None;
    for step in steps {
        latest = latest.max(now);
        match *step {
            Step::Pass(millis) => now = now + Millis(millis),
            Step::SetBack(millis) => now = Millis(now.0 - millis),
            Step::Join(session, stream) => match coalescer.join(wire(session), stream, now, || session) {
                Join::Lead | Join::Wait => {
                    prop_assert_eq!(world.waiting.insert(stream, session), None);
                    first = first.or(Some(now));
                }
                Join::Refused(Refusal::AlreadyWaiting) => prop_assert!(world.waiting.contains_key(&stream)),
                Join::Refused(Refusal::Full) => prop_assert_eq!(coalescer.sessions(), limits.sessions),
            },
            Step::Send(most, owner, token) => {
                let Some(batch) = coalescer.take_batch(now, most) else { continue };
                prop_assert!(!batch.keys().is_empty() && batch.keys().len() <= most.max(1));
                world.calls.remove(&token);
                let asked: BTreeSet<_> = world.calls.values().flat_map(|call| &call.keys).collect();
                prop_assert!(batch.keys().iter().all(|key| !asked.contains(key)), "asked twice at a time");
                let keys = batch.keys().to_vec();
                let waited_for = |key: &WireKey| world.waiting.values().any(|session| wire(*session) == *key);
                prop_assert!(keys.iter().all(waited_for), "asked for a session without a waiter");
                coalescer.sent(batch, token, owner, now);
                world.calls.insert(token, Call { keys, owner, since: now });
            }
            Step::SendFails(most) => {
                if let Some(batch) = coalescer.take_batch(now, most) {
                    let released = coalescer.not_sent(batch, now);
                    let is_early = first.is_some_and(|first| now >= first && now.since(first).0 < start);
                    let is_asked_again = is_early && !was_set_back(steps);
                    prop_assert!(
                        released.is_empty() || !is_asked_again,
                        "released to the ring during the start"
                    );
                    world.resume(&released)?;
                }
            }
            Step::Fails(token) => {
                world.resume(&coalescer.failed(token, now))?;
                world.calls.remove(&token);
                prop_assert!(coalescer.failed(token, now).is_empty(), "failed twice");
            }
            Step::DropBatch(most) => drop(coalescer.take_batch(now, most)),
            Step::Ended(token) => {
                let released = coalescer.answered(token);
                let call = world.calls.remove(&token);
                prop_assert!(call.is_some() || released.is_empty(), "an answer to no call");
                if let Some(Call { keys, .. }) = call {
                    let of_call = |released: &Released<u8>| keys.contains(&released.key);
                    prop_assert!(released.iter().all(of_call));
                }
                world.resume(&released)?;
                prop_assert!(coalescer.answered(token).is_empty(), "answered twice");
            }
            Step::Gone(stream) => {
                coalescer.stream_gone(stream);
                world.waiting.remove(&stream);
                world.calls.retain(|_, call| call.owner != Some(stream));
            }
            Step::Overdue => {
                let released = coalescer.overdue(now);
                prop_assert!(released.iter().all(|released| !released.waiters.is_empty()));
                world.resume(&released)?;
                // A call so old is given up, and may be made again.
                let lost = limits.timeout.0 * 8 + start;
                world.calls.retain(|_, call| now >= call.since && now.since(call.since).0 < lost);
            }
        }
        prop_assert_eq!(coalescer.waiters(), world.waiting.len());
        prop_assert!(coalescer.sessions() <= limits.sessions && coalescer.calls() <= limits.calls);
    }

    // Only waiters whose batch was lost depend on a timeout.
    for token in std::mem::take(&mut world.calls).into_keys() {
        world.resume(&coalescer.answered(token))?;
    }
    world.resume(&coalescer.overdue(now))?;
    while let Some(batch) = coalescer.take_batch(now, 2) {
        coalescer.sent(batch, 99, None, now);
        world.resume(&coalescer.answered(99))?;
    }
    let is_lost = |step: &Step| matches!(step, Step::DropBatch(_));
    prop_assert!(world.waiting.is_empty() || steps.iter().any(is_lost), "forgotten");

    // Whatever happened, after their time all have been released, and after a while nothing is left.
    world.resume(&coalescer.overdue(latest.max(now) + limits.timeout.max(limits.start)))?;
    prop_assert!(world.waiting.is_empty() && coalescer.waiters() == 0);
    coalescer.overdue(latest.max(now) + Millis(limits.timeout.0 * 8 + start));
    prop_assert!(coalescer.is_idle() && coalescer.calls() == 0);
    Ok(())
}

fn was_set_back(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::SetBack(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn releases_each_waiter_exactly_once(
        start in prop_oneof![Just(0_u64), 1..600_u64],
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        check(start, &steps)?;
    }
}
