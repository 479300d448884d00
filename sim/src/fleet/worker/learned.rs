//! What a configuration at work has learned of pins: the newest that an answer or the feed said. A hit may be of nothing older.

use std::collections::BTreeMap;

use berth_core::changelog::{Change, News, digest};

use berth_core::wire::{ResolveReply, SessionKey};

/// The newest version that was said of each session, and the digest of its owner.
#[derive(Debug, Default)]
pub(super) struct Learned(BTreeMap<SessionKey, (u64, u64)>);

impl Learned {
    /// An answer arrives.
    pub(super) fn answer(&mut self, body: &[u8]) {
        let Ok(reply) = serde_json::from_slice::<ResolveReply>(body) else { return };
        for pin in reply.pins {
            self.note(pin.key, pin.version, digest(pin.node.as_str()));
        }
    }

    /// The feed is read.
    pub(super) fn news(&mut self, news: &News) {
        let News::Changes(changes) = news else { return };
        for (key, change) in changes {
            match *change {
                Change::Pinned { version, node } => self.note(*key, version, node),
                Change::Ended => {
                    self.0.remove(key);
                }
                Change::Superseded(_) => {}
            }
        }
    }

    fn note(&mut self, key: SessionKey, version: u64, node: u64) {
        let newest = self.0.entry(key).or_insert((version, node));
        if newest.0 <= version {
            *newest = (version, node);
        }
    }

    /// True if the newest that was learned of this session is that another node has it.
    pub(super) fn contradicts(&self, key: SessionKey, node: &str) -> bool {
        self.0.get(&key).is_some_and(|(_, owner)| *owner != digest(node))
    }
}
