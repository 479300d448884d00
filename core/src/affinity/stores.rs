//! Which store the answers come from. All pins of a pool are in one: of two, each would give a session to another node.

use std::collections::VecDeque;

use crate::time::Millis;
use crate::wire::StoreId;

/// A worker that asks different services in turn meets a former store again within so many others.
const REMEMBERED: usize = 4;
/// Services look at their store's name every two seconds. Until all of them have seen that it was emptied, both names come.
const SETTLED: Millis = Millis(10_000);
/// Two stores are reported once in this time.
const AGAIN: Millis = Millis(600_000);
/// After a service has refused what newer ones compare, nothing is said to be compared for so long.
const PAUSE: Millis = Millis(60_000);
/// No call is under way for longer.
const UNDER_WAY: Millis = Millis(10_000);

/// The stores that answered.
#[derive(Debug, Default, Clone)]
pub(super) struct Stores {
    /// With the time when each was first seen; the latest of them at the end.
    seen: VecDeque<(StoreId, Millis)>,
    reported: Option<Millis>,
    /// The service compares what is said of pins, and refuses nothing of it.
    compares: bool,
    refused: Option<Millis>,
}

impl Stores {
    /// A store answered. If an earlier one still answers after a while, it is not one that was emptied: there are two.
    pub(super) fn answered(&mut self, store: Option<&StoreId>, now: Millis) -> Option<(StoreId, StoreId)> {
        let store = store?;
        if self.refused.is_none_or(|since| PAUSE.is_over(since, now)) {
            (self.compares, self.refused) = (true, None);
        }
        if store.is_unknown() || self.seen.back().is_some_and(|(latest, _)| latest == store) {
            return None;
        }
        if !self.seen.iter().any(|(seen, _)| seen == store) {
            self.seen.push_back((store.clone(), now));
            if self.seen.len() > REMEMBERED {
                self.seen.pop_front();
            }
            return None;
        }
        let (latest, since) = self.seen.back().cloned()?;
        let is_due =
            SETTLED.is_over(since, now) && self.reported.is_none_or(|reported| AGAIN.is_over(reported, now));
        is_due.then(|| {
            self.reported = Some(now);
            (latest, store.clone())
        })
    }

    /// A service refused a call: perhaps one of before, beside newer ones. For a while nothing is said that it would refuse. True
    /// if something was, in this call as well: it may have been under way when that began.
    pub(super) fn refused(&mut self, now: Millis) -> bool {
        if std::mem::take(&mut self.compares) {
            self.refused = Some(now);
        }
        self.refused.is_some_and(|since| !UNDER_WAY.is_over(since, now))
    }

    /// True if what is known of pins may be said.
    pub(super) fn compares(&self) -> bool {
        self.compares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that made a report; one comes each second.
    fn reports(answers: &[&str]) -> Vec<usize> {
        let mut stores = Stores::default();
        let reports = answers.iter().enumerate().filter_map(|(at, store)| {
            let now = Millis(1_000_000 + 1_000 * at as u64);
            stores.answered(Some(&StoreId::new(store)), now).map(|_| at)
        });
        reports.collect()
    }

    #[test]
    fn a_store_that_was_emptied_is_not_two_although_services_learn_of_it_one_after_the_other() {
        assert_eq!(reports(&["a", "a", "b", "b", "c", "d", "e", "f"]), [0; 0]);
        let mut answers = vec!["a", "b", "a", "b", "a"];
        answers.extend(["b"; 40]);
        assert_eq!(reports(&answers), [0; 0]);
    }

    #[test]
    fn two_stores_in_turn_are_reported_once() {
        assert_eq!(reports(&["a", "b"].repeat(20)), [12]);
        assert_eq!(reports(&["a", "b", "c"].repeat(20)), [12]);
    }

    #[test]
    fn a_name_that_the_service_does_not_know_says_only_that_it_compares() {
        let mut stores = Stores::default();
        assert!(stores.answered(Some(&StoreId::unknown()), Millis(1)).is_none() && stores.compares());
        assert!(stores.refused(Millis(2)) && !stores.compares());
        stores.answered(Some(&StoreId::unknown()), Millis(3));
        // A call that was under way by then may have said it too, a later one not.
        assert!(!stores.compares() && stores.refused(Millis(4)) && !stores.refused(Millis(10_002)));
        stores.answered(Some(&StoreId::unknown()), Millis(60_005));
        assert!(stores.compares());
    }
}
