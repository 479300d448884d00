use proptest::prelude::*;

use super::ledger::{MAX_ROWS, Noted};
use super::*;

const DOWNSTREAM_TERMINATION: u64 = 1 << 14;
const RULES: Rules = Rules { limit: 3, is_checked: false };
const NODE: u64 = 7;
const NONE: &[u64] = &[];
/// Some sessions.
const ADA: u64 = 1;
const BOB: u64 = 2;
const EVE: u64 = 3;

fn at(milliseconds: u64) -> Millis {
    Millis(1_000_000 + milliseconds)
}

/// Some VMs of one Envoy, and what they share.
struct Vms {
    record: Ledger,
    vms: Vec<Failures>,
    rules: Rules,
    out: Vec<u64>,
}

impl Vms {
    fn new(count: usize) -> Self {
        let mut vms: Vec<Failures> = (0..count).map(|_| Failures::default()).collect();
        vms.iter_mut().for_each(|vm| vm.answers.adopt([NODE, 8, 9].into_iter()));
        Self { record: Ledger::default(), vms, rules: RULES, out: Vec::new() }
    }

    fn fail(&mut self, vm: usize, kind: Kind, session: u64, now: Millis) {
        let failure = Failure { node: NODE, kind, session };
        let noted = self.record.failed(&failure, self.rules, &self.vms[vm].answers, now);
        if noted == Noted::Enough {
            self.out.push(NODE);
        }
        self.vms[vm].ledger = self.record.clone();
    }

    fn answer(&mut self, vm: usize, session: u64, now: Millis) {
        if self.vms[vm].answered(0, NODE, session, now) {
            self.record.answered(NODE);
            self.vms[vm].ledger = self.record.clone();
        }
    }

    fn tick(&mut self, now: Millis) {
        for vm in &mut self.vms {
            self.record.review(self.rules, &vm.answers, |_| true, &mut self.out, now);
            vm.ledger = Ledger::decode(&self.record.encode()).expect("what was written can be read");
        }
    }
}

#[test]
fn flags_tell_who_is_to_blame() {
    let failed = |kind| Evidence::Failed(kind);
    let cases = [
        (0, Evidence::Answered),
        (CONNECT, failed(Kind::Connect)),
        (CONNECT | RETRY_LIMIT, failed(Kind::Connect)),
        (1 << 2, failed(Kind::Reset)),
        (1 << 4, failed(Kind::Reset)),
        (1 << 6, failed(Kind::Reset)),
        (1 << 23, failed(Kind::Reset)),
        (DELAYED, Evidence::Answered),
        (RETRY_LIMIT, Evidence::Answered),
        (DOWNSTREAM_TERMINATION, Evidence::None),
        (DOWNSTREAM_TERMINATION | 1 << 6, Evidence::None),
        (1 << 1, Evidence::None),
        (1 << 3, Evidence::None),
        (1 << 7, Evidence::None),
        (1 << 16, Evidence::None),
        (u64::MAX, Evidence::None),
    ];
    for (flags, expected) in cases {
        assert_eq!(evidence(flags), expected, "{flags:#x}");
    }
}

#[test]
fn what_a_retry_hid_was_never_sent_unless_the_end_says_otherwise() {
    assert_eq!(hidden_failure(0), Some(Kind::Hidden));
    assert_eq!(hidden_failure(CONNECT | RETRY_LIMIT), Some(Kind::Hidden));
    assert_eq!(hidden_failure(1 << 6), Some(Kind::Reset));
    assert_eq!(hidden_failure(RETRY_LIMIT), None, "a bad answer, as those before it may have been");
    assert_eq!(hidden_failure(1 << 7), None);
}

/// A retry hides which kind it was, so where Envoy checks its nodes one client's requests count for nothing.
#[test]
fn what_a_retry_hid_counts_only_where_no_check_decides() {
    for (is_checked, expected) in [(false, Noted::Enough), (true, Noted::Unchanged)] {
        let rules = Rules { limit: 3, is_checked };
        let mut ledger = Ledger::default();
        let failure = Failure { node: 7, kind: Kind::Hidden, session: 1 };
        let noted = (0..3).map(|n| ledger.failed(&failure, rules, &Answers::default(), at(n))).last();
        assert_eq!(noted, Some(expected));
    }
}

#[test]
fn connect_failures_of_one_session_are_enough_whichever_worker_sees_them() {
    let mut vms = Vms::new(3);

    for vm in 0..3 {
        assert!(vms.out.is_empty());
        vms.fail(vm, Kind::Connect, ADA, at(vm as u64));
    }

    assert_eq!(vms.out, [NODE]);
    assert!(vms.record.is_empty(), "counted from the start again");
}

#[test]
fn an_answer_anywhere_breaks_the_row() {
    let mut vms = Vms::new(2);
    for round in 0..4 {
        vms.fail(0, Kind::Connect, ADA, at(1_000 * round));
        vms.fail(0, Kind::Connect, BOB, at(1_000 * round + 1));
        // Before it has learned of the failures, and after.
        if round % 2 == 0 {
            vms.tick(at(1_000 * round + 250));
        }
        vms.answer(1, EVE, at(1_000 * round + 300));
        vms.tick(at(1_000 * round + 500));
    }

    assert_eq!(vms.out, NONE);
}

#[test]
fn resets_of_one_session_are_never_enough() {
    let mut vms = Vms::new(1);
    for round in 0..100 {
        vms.fail(0, Kind::Reset, ADA, at(100 * round));
        vms.tick(at(100 * round + 50));
    }

    assert_eq!(vms.out, NONE);
}

#[test]
fn resets_of_two_sessions_are_enough_once_every_vm_could_object() {
    let mut vms = Vms::new(2);
    for (now, session) in [(0, ADA), (1, BOB), (2, ADA)] {
        vms.fail(0, Kind::Reset, session, at(now));
    }
    vms.tick(at(2_001));
    assert_eq!(vms.out, NONE);

    vms.tick(at(2_002));

    assert_eq!(vms.out, [NODE]);
}

#[test]
fn the_wait_begins_when_there_are_enough() {
    let mut vms = Vms::new(2);
    for (now, session) in [(0, ADA), (5_000, BOB), (5_001, ADA)] {
        vms.fail(0, Kind::Reset, session, at(now));
        vms.tick(at(now));
    }
    vms.tick(at(7_000));
    assert_eq!(vms.out, NONE);

    vms.tick(at(7_001));

    assert_eq!(vms.out, [NODE]);
}

#[test]
fn sessions_that_were_served_before_and_then_all_failed_do_not_speak_for_the_node() {
    let mut vms = Vms::new(2);
    for (vm, session) in [(0, ADA), (1, BOB)] {
        vms.answer(vm, session, at(0));
    }
    for (now, vm, session) in [(1, 0, ADA), (300, 1, ADA), (600, 0, ADA), (900, 1, BOB)] {
        vms.tick(at(now));
        vms.fail(vm, Kind::Reset, session, at(now));
    }
    for tick in 0..9 {
        vms.tick(at(900 + 250 * tick));
    }

    assert_eq!(vms.out, [NODE]);
}

#[test]
fn two_resets_are_too_few_though_of_two_sessions() {
    let mut vms = Vms::new(1);
    vms.fail(0, Kind::Reset, ADA, at(0));
    vms.fail(0, Kind::Reset, BOB, at(0));

    vms.tick(at(5_000));

    assert_eq!(vms.out, NONE);
}

#[test]
fn a_session_that_was_served_ten_seconds_ago_speaks_for_the_node_and_one_that_failed_does_not() {
    for (served, session, expected) in
        [(1, EVE, &[][..]), (10_000, EVE, &[]), (10_001, EVE, &[NODE]), (1, BOB, &[NODE]), (1, ADA, &[NODE])]
    {
        for vm in [0, 1] {
            let mut vms = Vms::new(2);
            vms.answer(vm, session, at(0));
            for failed in [ADA, BOB, ADA, BOB] {
                vms.fail(0, Kind::Reset, failed, at(served));
            }
            for tick in 0..10 {
                vms.tick(at(served + 250 * tick));
            }
            assert_eq!(vms.out, expected, "{session} served {served} ms before, by worker {vm}");
        }
    }
}

#[test]
fn a_busy_node_that_hangs_is_put_out_when_its_last_answer_is_ten_seconds_old() {
    let mut vms = Vms::new(2);
    for session in 0..20 {
        vms.answer(session as usize % 2, 100 + session, at(session));
    }
    let mut out = None;
    for round in 0..100 {
        let now = at(250 * round);
        vms.fail(round as usize % 2, Kind::Reset, 100 + round % 20, now);
        vms.tick(now);
        if !vms.out.is_empty() {
            out = out.or(Some(250 * round));
        }
    }

    assert!((10_000..13_500).contains(&out.unwrap()), "{out:?}");
}

#[test]
fn where_envoy_checks_nodes_itself_only_failed_connections_count() {
    let mut vms = Vms::new(1);
    for session in [ADA, BOB, EVE] {
        vms.fail(0, Kind::Reset, session, at(0));
    }
    // The worker learns of the checks only now.
    vms.rules.is_checked = true;
    vms.tick(at(3_000));
    assert_eq!(vms.out, NONE);

    for _ in 0..3 {
        vms.fail(0, Kind::Connect, ADA, at(3_000));
    }
    assert_eq!(vms.out, [NODE]);
}

#[test]
fn a_limit_of_zero_switches_it_off() {
    let mut vms = Vms::new(1);
    vms.rules.limit = 0;
    for _ in 0..10 {
        vms.fail(0, Kind::Connect, ADA, at(0));
    }

    assert!(vms.out.is_empty() && vms.record.is_empty());
}

#[test]
fn failures_of_a_node_that_left_are_dropped() {
    let mut vms = Vms::new(1);
    vms.fail(0, Kind::Connect, ADA, at(0));

    assert!(vms.record.review(RULES, &vms.vms[0].answers, |node| node != NODE, &mut Vec::new(), at(1)));

    assert!(vms.record.is_empty());
}

#[test]
fn a_clock_that_was_set_back_drops_what_cannot_be_dated() {
    let mut vms = Vms::new(1);
    vms.fail(0, Kind::Connect, ADA, at(3_600_000));
    vms.fail(0, Kind::Connect, ADA, at(3_600_000));
    vms.fail(0, Kind::Connect, ADA, at(0));
    assert_eq!(vms.out, NONE);

    vms.answer(0, EVE, at(3_600_000));
    for session in [ADA, BOB, ADA] {
        vms.fail(0, Kind::Reset, session, at(1));
    }
    vms.tick(at(2_001));

    assert_eq!(vms.out, [NODE], "an answer of the future speaks for no node");
}

#[test]
fn at_the_limit_and_at_ten_times_it_every_node_that_goes_on_failing_is_put_out() {
    for count in [MAX_ROWS as u64, 10 * MAX_ROWS as u64] {
        let mut record = Ledger::default();
        let mut out = std::collections::BTreeSet::new();
        let answers = Answers::default();
        for round in 0..100 {
            for node in (0..count).filter(|node| !out.contains(node)).collect::<Vec<_>>() {
                let failure = Failure { node, kind: Kind::Connect, session: ADA };
                if record.failed(&failure, RULES, &answers, at(round)) == Noted::Enough {
                    out.insert(node);
                }
                assert!(record.encode().len() <= 8_192);
            }
        }
        assert_eq!(out.len() as u64, count);
    }
}

#[test]
fn rows_that_went_quiet_give_way() {
    let mut record = Ledger::default();
    let answers = Answers::default();
    let failure = |node| Failure { node, kind: Kind::Connect, session: ADA };
    for node in 0..MAX_ROWS as u64 {
        record.failed(&failure(node), RULES, &answers, at(0));
    }

    assert_eq!(record.failed(&failure(1_000), RULES, &answers, at(10_000)), Noted::Unchanged);
    assert_eq!(record.failed(&failure(1_000), RULES, &answers, at(10_001)), Noted::Changed);
}

#[test]
fn what_is_no_record_is_none() {
    assert_eq!(Ledger::decode(&[]), Some(Ledger::default()));
    assert_eq!(Ledger::decode(&[0; 63]), None);
    assert_eq!(Ledger::decode(&[0; 64 * (MAX_ROWS + 1)]), None);
}

/// What a client may do that wants a node out: fail with any of its ids, and be answered, through any worker.
fn moves() -> impl Strategy<Value = Vec<(u64, bool, u64, usize)>> {
    prop::collection::vec((0..200_u64, any::<bool>(), 1..9_u64, 0..4_usize), 1..600)
}

proptest! {
    /// One other session has an answer every nine seconds, from one worker.
    #[test]
    fn one_client_puts_out_no_node_that_serves_another_session(moves in moves(), phase in 0..250_u64) {
        let mut vms = Vms::new(4);
        let (mut now, mut served, mut ticked) = (10_000, 0, 10_000);
        for (pause, fails, id, vm) in moves {
            for _ in 0..pause {
                now += 1;
                if now >= served + 9_000 {
                    // By the clock of the latest tick.
                    vms.answer(0, 999, at(ticked));
                    served = now;
                }
                if now >= ticked + 250 + phase % 2 {
                    ticked = now;
                    vms.tick(at(now));
                }
            }
            if served == 0 {
                continue;
            }
            if fails {
                vms.fail(vm, Kind::Reset, id, at(now));
            } else {
                vms.answer(vm, id, at(ticked));
            }
            prop_assert_eq!(&vms.out[..], NONE);
        }
    }

    #[test]
    fn what_was_written_is_read(failures in prop::collection::vec((0..9_u64, any::<bool>(), any::<u64>()), 0..40)) {
        let mut record = Ledger::default();
        for (node, connects, session) in failures {
            let kind = if connects { Kind::Connect } else { Kind::Reset };
            record.failed(&Failure { node, kind, session }, Rules { limit: 99, ..RULES }, &Answers::default(), at(0));
        }
        prop_assert_eq!(Ledger::decode(&record.encode()), Some(record));
    }
}
