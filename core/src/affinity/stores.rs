//! Which store the answers come from. All pins of a pool are in one: of two, each would give a session to another node.

use std::collections::VecDeque;

use crate::wire::StoreId;

/// Who asks different services in turn meets a former store again within so many others.
const REMEMBERED: usize = 4;

/// The stores that answered.
#[derive(Debug, Default, Clone)]
pub(super) struct Stores {
    /// The latest at the end, each once.
    seen: VecDeque<StoreId>,
    /// The service compares what is said of pins, and refuses nothing of it.
    compares: bool,
    has_told: bool,
}

impl Stores {
    /// A store answered. If an earlier one has come back, that is not one that was emptied: there are two, which is said once.
    pub(super) fn answered(&mut self, store: Option<&StoreId>) -> Option<(StoreId, StoreId)> {
        let store = store?;
        self.compares = true;
        if self.seen.back() == Some(store) {
            return None;
        }
        let before = self.seen.back().cloned();
        let is_back = self.seen.contains(store);
        self.seen.retain(|seen| seen != store);
        self.seen.push_back(store.clone());
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        if !is_back || std::mem::replace(&mut self.has_told, true) {
            return None;
        }
        Some((before?, store.clone()))
    }

    /// A service refused a call: it may be one of before, beside newer ones. From now on nothing is said that it would refuse,
    /// until a newer one answers.
    pub(super) fn refused(&mut self) {
        self.compares = false;
    }

    /// True if what is known of pins may be said.
    pub(super) fn compares(&self) -> bool {
        self.compares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(answers: &[&str]) -> Vec<usize> {
        let mut stores = Stores::default();
        let reported = answers.iter().enumerate().filter_map(|(at, store)| {
            let store = StoreId::new(store);
            stores.answered(Some(&store)).map(|_| at)
        });
        reported.collect()
    }

    #[test]
    fn a_store_that_was_emptied_is_not_two() {
        assert_eq!(reported(&["a", "a", "b", "b", "c", "d", "e", "f"]), [0; 0]);
    }

    #[test]
    fn two_stores_in_turn_are_reported_once() {
        assert_eq!(reported(&["a", "b", "a", "b", "a"]), [2]);
        assert_eq!(reported(&["a", "b", "c", "a", "b", "c"]), [3]);
    }
}
