//! What a configuration at work has learned of pins: the newest that an answer or the feed said. A hit may be of nothing older.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::changelog::{Change, News, digest};
use berth_core::wire::{ApiRequest, ResolveReply, ResolveRequest, SessionKey};

/// What was learned.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The newest version that was said of each session, and the digest of its owner.
    pins: BTreeMap<SessionKey, (u64, u64)>,
    /// Sessions that ended and were not asked about since.
    ended: BTreeSet<SessionKey>,
}

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
                    self.pins.remove(key);
                    self.ended.insert(*key);
                }
                Change::Superseded(_) => {}
            }
        }
    }

    fn note(&mut self, key: SessionKey, version: u64, node: u64) {
        let newest = self.pins.entry(key).or_insert((version, node));
        if newest.0 <= version {
            *newest = (version, node);
        }
    }

    /// A question is sent.
    pub(super) fn asked(&mut self, request: &ApiRequest) {
        if !self.ended.is_empty()
            && let Ok(request) = ResolveRequest::parse(&request.body)
        {
            for ask in &request.sessions {
                self.ended.remove(&ask.key);
            }
        }
    }

    /// True if the newest that was learned of this session is that it ended, or that another node has it.
    pub(super) fn contradicts(&self, key: SessionKey, node: &str) -> bool {
        self.ended.contains(&key) || self.pins.get(&key).is_some_and(|(_, owner)| *owner != digest(node))
    }
}
