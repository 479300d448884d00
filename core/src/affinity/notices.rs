//! Notices that nodes have yet to get: that a session is new there, or that the node was restarted since it had it.
//!
//! The state service says each only once. So a notice is kept here from the answer on until a request has carried it, and
//! whatever becomes of the session's pin meanwhile: an outage, a node that is out or not known here yet, a request that is
//! turned away or gone. It is for one owner and one version of the pin, and dies when the pin would have expired.

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
        self.0.insert(index, Kept { key, node: node.to_owned(), notice, until });
    }

    /// The notice for a session's node, if that is one of these names and its pin has this version.
    pub(super) fn get(&self, key: PinKey, names: [&str; 2], version: u64, now: Millis) -> Option<Notice> {
        let kept = self.0.get(self.find(key).ok()?)?;
        let fits =
            kept.notice.version() == version && names.contains(&kept.node.as_str()) && now < kept.until;
        fits.then(|| kept.notice.clone())
    }

    /// The node was notified, or the session is over.
    pub(super) fn forget(&mut self, key: PinKey) {
        if let Ok(index) = self.find(key) {
            self.0.remove(index);
        }
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
        let get = |node, version, now| notices.get(PinKey(1), [node, node], version, Millis(now));

        assert_eq!(get("a", 3, 0), Some(restore(3)));
        assert_eq!(get("b", 3, 0), None);
        assert_eq!(get("a", 4, 0), None);
        assert_eq!(get("a", 3, 1_000), None);
        notices.forget(PinKey(1));
        assert_eq!(notices.get(PinKey(1), ["a", "a"], 3, Millis(0)), None);
    }

    #[test]
    fn the_one_that_would_end_first_gives_way() {
        let mut notices = Notices::default();
        for number in 0..=CAPACITY {
            notices.keep(PinKey(number as u128), "a", restore(1), Millis(100 + number as u64));
        }

        assert_eq!(notices.0.len(), CAPACITY);
        assert_eq!(notices.get(PinKey(0), ["a", "a"], 1, Millis(0)), None);
        assert!(notices.get(PinKey(CAPACITY as u128), ["a", "a"], 1, Millis(0)).is_some());
    }
}
