//! Failed requests: recorded where all VMs see them, and put out of use when that is enough.

use berth_core::event::Counter;
use berth_core::passive::{Failure, Ledger, Noted};
use berth_core::proxy::Verdict;
use berth_core::time::Millis;

use super::Worker;
use crate::host;

impl Worker {
    /// Records what a response says of nodes.
    pub(crate) fn note_verdicts(&self, pool: usize, verdicts: &[Verdict]) {
        for verdict in verdicts {
            match verdict {
                Verdict::Answered(node) => {
                    self.keep_record(pool, |ledger| ledger.answered(*node));
                }
                Verdict::Failed(failure) => self.note_failure(pool, failure),
            }
        }
    }

    /// A request failed by the node's fault. If that is enough all VMs learn of it, this one at once.
    fn note_failure(&self, pool: usize, failure: &Failure) {
        // A request to a node that is out was on its way before.
        if self.pool(pool).is_none_or(|pool| pool.is_out(failure.node)) {
            return;
        }
        let now = host::now();
        let mut noted = Noted::Unchanged;
        let is_kept = self.keep_record(pool, |ledger| {
            noted = self.pool(pool).map_or(Noted::Unchanged, |pool| {
                ledger.failed(failure, pool.failure_rules(), &pool.failures.answers, now)
            });
            noted != Noted::Unchanged
        });
        if is_kept && noted == Noted::Enough {
            self.put_out(pool, failure.node, now);
        }
    }

    /// Compares the failures on record with the answers that this VM remembers.
    pub(crate) fn review_failures(&self, pool: usize, now: Millis) {
        let Some(link) = self.links.get(pool) else { return };
        let record = link.failures.read();
        let is_empty = record.is_empty();
        self.set_record(pool, record);
        if is_empty || self.pool(pool).is_none_or(|pool| pool.snapshot().is_none()) {
            return;
        }
        let mut enough = Vec::new();
        let is_kept = self.keep_record(pool, |ledger| {
            enough.clear();
            self.pool(pool).is_some_and(|pool| {
                let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
                ledger.review(rules, answers, |node| pool.name_of(node).is_some(), &mut enough, now)
            })
        });
        for node in enough.into_iter().filter(|_| is_kept) {
            self.put_out(pool, node, now);
        }
    }

    /// Changes the record of failures. False if other VMs kept getting in between.
    fn keep_record(&self, pool: usize, change: impl FnMut(&mut Ledger) -> bool) -> bool {
        let record = self.links.get(pool).and_then(|link| link.failures.update(change));
        let is_kept = record.is_some();
        if let Some(record) = record {
            self.set_record(pool, record);
        }
        is_kept
    }

    fn set_record(&self, pool: usize, record: Ledger) {
        if let Some(mut pool) = self.pool(pool) {
            pool.failures.ledger = record;
        }
    }

    fn put_out(&self, pool: usize, node: u64, now: Millis) {
        let name = self.pool(pool).and_then(|pool| pool.name_of(node).map(str::to_owned));
        if let Some(name) = name {
            self.count(pool, Counter::PassiveEjections);
            self.change_roster(pool, now, |roster, policy| roster.report_failure(&name, policy, now));
        }
    }
}
