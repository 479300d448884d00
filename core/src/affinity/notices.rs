//! Notices that nodes have yet to get: that a session is new there, or that the node was restarted since it had it.
//!
//! The state service says each only once. So a notice is kept here from the answer on until its node has answered a request that
//! carried it, and whatever becomes of the session's pin meanwhile: an outage, a node that is out or not known here yet, a
//! request that is turned away or gone. It is for one owner and one version of the pin, and dies when the pin would have expired.

use crate::decision::Notice;
use crate::pins::PinKey;
use crate::time::Millis;

/// Sessions with a notice at most. Beyond, the one that would end first gives way; its node is not notified.
const CAPACITY: usize = 10_000;

/// The notices of one pool, in the order of their sessions' keys. There are few, and mostly none.
#[derive(Debug, Default, Clone)]
pub(super) struct Notices(Vec<Kept>);

#[derive(Debug, Clone)]
struct Kept {
    key: PinKey,
    /// The owner, as the state service calls it.
    node: String,
    notice: Notice,
    until: Millis,
    /// A request has it, and its node has not answered yet.
    is_carried: bool,
}

impl Notices {
    /// Keeps a notice in place of the session's former one.
    pub(super) fn keep(&mut self, key: PinKey, node: &str, notice: Notice, until: Millis) {
        self.forget(key);
        if self.0.len() >= CAPACITY
            && let Some((first, _)) = self.0.iter().enumerate().min_by_key(|(_, kept)| kept.until)
        {
            self.0.remove(first);
        }
        let index = self.find(key).unwrap_or_else(|index| index);
        self.0.insert(index, Kept { key, node: node.to_owned(), notice, until, is_carried: false });
    }

    /// Takes over what has yet to be delivered, or may not have been: the answer goes to the configuration of the request.
    pub(super) fn succeed(&mut self, former: &Self) {
        self.0 = former.0.iter().map(|kept| Kept { is_carried: false, ..kept.clone() }).collect();
    }

    /// Its node is called otherwise from now on.
    pub(super) fn rename(&mut self, key: PinKey, from: &str, to: &str) {
        if let Some(kept) = self.kept(key).filter(|kept| kept.node == from) {
            to.clone_into(&mut kept.node);
        }
    }

    /// The notice for a session's node, if that has this name and its pin has this version.
    pub(super) fn get(&self, key: PinKey, node: &str, version: u64, now: Millis) -> Option<Notice> {
        let kept = self.0.get(self.find(key).ok()?)?;
        let fits = kept.notice.version() == version && kept.node == node && now < kept.until;
        (fits && !kept.is_carried).then(|| kept.notice.clone())
    }

    /// A request takes it to its node: no other does, unless it turns out that the node did not get it.
    pub(super) fn carry(&mut self, key: PinKey) {
        if let Some(kept) = self.kept(key) {
            kept.is_carried = true;
        }
    }

    /// The request that carried this notice has an answer, from the notice's node or from elsewhere.
    pub(super) fn arrived(&mut self, key: PinKey, notice: &Notice, is_delivered: bool) {
        let Some(kept) = self.kept(key).filter(|kept| kept.is_carried && kept.notice == *notice) else {
            return;
        };
        if is_delivered {
            self.forget(key);
        } else {
            kept.is_carried = false;
        }
    }

    /// The session is over.
    pub(super) fn forget(&mut self, key: PinKey) {
        if let Ok(index) = self.find(key) {
            self.0.remove(index);
        }
    }

    fn kept(&mut self, key: PinKey) -> Option<&mut Kept> {
        let index = self.find(key).ok()?;
        self.0.get_mut(index)
    }

    fn find(&self, key: PinKey) -> Result<usize, usize> {
        self.0.binary_search_by_key(&key, |kept| kept.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Millis = Millis(1_000);

    fn restore(version: u64) -> Notice {
        Notice::Restore { version }
    }

    #[test]
    fn a_notice_is_for_one_node_and_one_version_and_ends() {
        let mut notices = Notices::default();
        notices.keep(PinKey(1), "a", restore(3), UNTIL);
        let get = |node, version, now| notices.get(PinKey(1), node, version, Millis(now));

        assert_eq!(get("a", 3, 0), Some(restore(3)));
        assert_eq!(get("b", 3, 0), None);
        assert_eq!(get("a", 4, 0), None);
        assert_eq!(get("a", 3, 1_000), None);
        notices.forget(PinKey(1));
        assert_eq!(notices.get(PinKey(1), "a", 3, Millis(0)), None);
    }

    #[test]
    fn the_one_that_would_end_first_gives_way() {
        let mut notices = Notices::default();
        for number in 0..=CAPACITY {
            notices.keep(PinKey(number as u128), "a", restore(1), Millis(100 + number as u64));
        }

        assert_eq!(notices.0.len(), CAPACITY);
        assert_eq!(notices.get(PinKey(0), "a", 1, Millis(0)), None);
        assert!(notices.get(PinKey(CAPACITY as u128), "a", 1, Millis(0)).is_some());
    }
}
