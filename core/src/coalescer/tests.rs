use super::*;

const LIMITS: CoalescerLimits =
    CoalescerLimits { sessions: 3, calls: 2, timeout: Millis(50), start: Millis(0) };

fn key(number: u8) -> WireKey {
    WireKey([number; 16])
}

fn coalescer() -> Coalescer<u8> {
    Coalescer::new(LIMITS)
}

/// Joins session `number` as `waiter`.
fn join(coalescer: &mut Coalescer<u8>, number: u8, waiter: u32, now: u64) -> Join {
    coalescer.join(key(number), waiter, Millis(now), || number)
}

fn send(coalescer: &mut Coalescer<u8>, token: u32, owner: Option<u32>, now: u64) -> Vec<WireKey> {
    let batch = coalescer.take_batch(Millis(now), 64).unwrap();
    let keys = batch.keys().to_vec();
    coalescer.sent(batch, token, owner, Millis(now));
    keys
}

fn released(number: u8, waiters: &[u32]) -> Released<u8> {
    Released { key: key(number), request: number, waiters: waiters.to_vec() }
}

#[test]
fn two_hundred_first_requests_of_one_session_make_one_call() {
    let mut coalescer = coalescer();
    assert_eq!(join(&mut coalescer, 1, 0, 0), Join::Lead);
    send(&mut coalescer, 7, Some(0), 0);

    for waiter in 1..200 {
        assert_eq!(join(&mut coalescer, 1, waiter, 1), Join::Wait);
    }

    assert!(coalescer.take_batch(Millis(2), 64).is_none());
    assert_eq!(coalescer.answered(7), [released(1, &(0..200).collect::<Vec<_>>())]);
    assert!(coalescer.is_idle() && coalescer.waiters() == 0 && coalescer.calls() == 0);
}

#[test]
fn what_finds_no_call_free_goes_out_together_when_one_ends() {
    let mut coalescer = Coalescer::new(CoalescerLimits { calls: 1, ..LIMITS });
    join(&mut coalescer, 1, 1, 0);
    send(&mut coalescer, 7, Some(1), 0);
    assert_eq!(join(&mut coalescer, 2, 2, 0), Join::Wait);
    assert_eq!(join(&mut coalescer, 3, 3, 0), Join::Wait);
    assert!(coalescer.take_batch(Millis(0), 64).is_none());

    coalescer.answered(7);

    assert_eq!(send(&mut coalescer, 8, None, 1), [key(2), key(3)]);
}

#[test]
fn beyond_its_limits_nobody_waits() {
    let mut coalescer = coalescer();
    for number in 1..=3 {
        join(&mut coalescer, number, number.into(), 0);
    }

    assert_eq!(join(&mut coalescer, 4, 4, 0), Join::Refused(Refusal::Full));
    assert_eq!(join(&mut coalescer, 2, 3, 0), Join::Refused(Refusal::AlreadyWaiting));
    assert_eq!(join(&mut coalescer, 3, 5, 0), Join::Wait);
}

#[test]
fn a_leader_that_goes_leaves_its_lookups_to_the_root() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 0);
    join(&mut coalescer, 2, 20, 0);
    send(&mut coalescer, 7, Some(10), 0);
    join(&mut coalescer, 1, 11, 1);
    join(&mut coalescer, 3, 30, 1);

    coalescer.stream_gone(10);

    assert!(coalescer.answered(7).is_empty());
    assert_eq!(send(&mut coalescer, 8, None, 2), [key(1), key(2), key(3)], "the oldest first");
    assert_eq!(coalescer.answered(8), [released(1, &[11]), released(2, &[20]), released(3, &[30])]);
}

#[test]
fn nobody_is_asked_about_for_whom_nobody_waits() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 0);
    coalescer.stream_gone(10);
    assert!(coalescer.is_idle() && coalescer.take_batch(Millis(0), 64).is_none());

    join(&mut coalescer, 2, 20, 0);
    send(&mut coalescer, 7, Some(20), 0);
    coalescer.stream_gone(20);
    assert!(coalescer.is_idle(), "its answer would be dropped");
}

#[test]
fn who_waits_too_long_goes_on_and_the_answer_is_still_good_for_the_cache() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 0);
    send(&mut coalescer, 7, Some(10), 0);
    assert!(coalescer.overdue(Millis(49)).is_empty());

    assert_eq!(coalescer.overdue(Millis(50)), [released(1, &[10])]);

    assert_eq!(join(&mut coalescer, 1, 11, 60), Join::Wait, "one call at a time");
    assert!(coalescer.overdue(Millis(109)).is_empty());
    assert_eq!(coalescer.answered(7), [released(1, &[11])]);

    join(&mut coalescer, 1, 12, 120);
    send(&mut coalescer, 8, Some(12), 120);
    coalescer.overdue(Millis(170));
    assert_eq!(coalescer.answered(8), [released(1, &[])]);
}

#[test]
fn a_call_that_is_never_heard_of_again_holds_its_place_only_for_a_while() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 0);
    send(&mut coalescer, 7, None, 0);
    join(&mut coalescer, 2, 20, 0);
    drop(coalescer.take_batch(Millis(0), 64));
    coalescer.overdue(Millis(399));
    assert_eq!((coalescer.calls(), coalescer.sessions()), (2, 2));
    join(&mut coalescer, 1, 11, 399);

    coalescer.overdue(Millis(400));

    assert_eq!((coalescer.calls(), coalescer.sessions()), (0, 1));
    assert!(coalescer.answered(7).is_empty());
    assert_eq!(send(&mut coalescer, 8, None, 401), [key(1)]);
}

#[test]
fn a_call_that_cannot_be_made_releases_its_waiters() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 0);
    let batch = coalescer.take_batch(Millis(0), 64).unwrap();

    assert_eq!(coalescer.not_sent(batch, Millis(1)), [released(1, &[10])]);

    assert!(coalescer.is_idle() && coalescer.calls() == 0);
}

#[test]
fn a_clock_set_back_keeps_nobody_waiting() {
    let mut coalescer = coalescer();
    join(&mut coalescer, 1, 10, 1_000_000);

    assert_eq!(coalescer.overdue(Millis(5)), [released(1, &[10])]);
}

const START: CoalescerLimits = CoalescerLimits { start: Millis(500), ..LIMITS };

#[test]
fn a_starting_worker_asks_again_with_each_tick_until_its_time_is_up() {
    let mut coalescer = Coalescer::new(START);
    assert_eq!(join(&mut coalescer, 1, 10, 0), Join::Lead);
    for tick in 0..49 {
        let batch = coalescer.take_batch(Millis(tick * 10), 64).unwrap();
        assert!(coalescer.not_sent(batch, Millis(tick * 10)).is_empty());
        assert!(coalescer.take_batch(Millis(tick * 10), 64).is_none(), "not before the next tick");
        assert!(coalescer.overdue(Millis(tick * 10 + 10)).is_empty());
    }

    assert_eq!(coalescer.overdue(Millis(500)), [released(1, &[10])]);

    assert!(!coalescer.is_starting() && coalescer.is_idle());
    assert!(coalescer.take_failed_start() && !coalescer.take_failed_start(), "once");
    join(&mut coalescer, 1, 11, 501);
    let batch = coalescer.take_batch(Millis(501), 64).unwrap();
    assert_eq!(coalescer.not_sent(batch, Millis(501)), [released(1, &[11])], "no request waits after that");
}

#[test]
fn the_time_of_a_start_counts_from_its_first_request() {
    let mut coalescer = Coalescer::new(START);
    coalescer.begin_start(Millis(0));
    join(&mut coalescer, 1, 10, 300);
    join(&mut coalescer, 2, 20, 490);
    assert_eq!(coalescer.starts_since(), Some(Millis(0)));
    assert_eq!(coalescer.call_timeout(Millis(300)), Millis(200));
    assert_eq!(coalescer.call_timeout(Millis(490)), Millis(50), "never less than without a start");

    assert!(coalescer.overdue(Millis(499)).is_empty() && !coalescer.take_failed_start());
    // A request that comes before the next tick changes nothing of that.
    assert_eq!(join(&mut coalescer, 3, 30, 500), Join::Lead);
    assert_eq!(coalescer.overdue(Millis(501)), [released(1, &[10])]);
    assert!(coalescer.take_failed_start());
    assert_eq!(coalescer.overdue(Millis(540)), [released(2, &[20])]);
}

#[test]
fn a_call_of_a_start_that_fails_is_made_again_until_the_start_is_over() {
    let mut coalescer = Coalescer::new(START);
    join(&mut coalescer, 1, 10, 0);
    send(&mut coalescer, 7, Some(10), 0);
    join(&mut coalescer, 2, 20, 1);
    send(&mut coalescer, 8, Some(20), 1);

    assert!(coalescer.failed(7, Millis(50)).is_empty());
    assert_eq!(join(&mut coalescer, 3, 30, 51), Join::Wait, "the next tick asks for all");
    assert!(coalescer.overdue(Millis(60)).is_empty());
    send(&mut coalescer, 9, None, 60);
    assert_eq!(coalescer.answered(8), [released(2, &[20])]);

    // One answer does not answer the others: they keep their deadline, and later waiters have it too.
    assert!(coalescer.is_starting() && coalescer.overdue(Millis(200)).is_empty());
    assert!(coalescer.failed(9, Millis(200)).is_empty());
    assert!(coalescer.overdue(Millis(210)).is_empty());
    send(&mut coalescer, 10, None, 210);
    assert_eq!(coalescer.answered(10), [released(1, &[10]), released(3, &[30])]);
    assert!(coalescer.overdue(Millis(500)).is_empty() && !coalescer.is_starting());
    assert!(!coalescer.take_failed_start());
    join(&mut coalescer, 3, 31, 501);
    send(&mut coalescer, 11, None, 501);
    assert_eq!(coalescer.failed(11, Millis(510)), [released(3, &[31])]);
}

#[test]
fn a_new_root_goes_on_where_the_former_was() {
    let mut former = Coalescer::new(START);
    join(&mut former, 1, 10, 0);
    send(&mut former, 7, Some(10), 0);
    former.answered(7);
    former.overdue(Millis(500));

    let mut coalescer = Coalescer::new(START);
    coalescer.succeed(&former);

    join(&mut coalescer, 1, 11, 1_000);
    let batch = coalescer.take_batch(Millis(1_000), 64).unwrap();
    assert_eq!(coalescer.not_sent(batch, Millis(1_000)), [released(1, &[11])]);
}

#[test]
fn a_clock_set_back_ends_a_start() {
    let mut coalescer = Coalescer::new(START);
    join(&mut coalescer, 1, 10, 1_000_000);

    assert_eq!(coalescer.overdue(Millis(5)), [released(1, &[10])]);
    assert!(!coalescer.is_starting());
}
