//! Sessions whose pins the store lost while a proxy knew where they were: they stay there, or come back.

use std::collections::BTreeMap;

use berth_core::wire::SessionKey;

/// Where a session was when the store lost its pin, and which life of which proxy knew that.
#[derive(Debug, Clone)]
pub struct Lost {
    /// When that was.
    pub at: u64,
    /// The node.
    pub node: String,
    /// The proxy.
    pub proxy: usize,
    /// Grows with each start of it.
    pub life: u32,
}

/// Of each session the latest loss.
#[derive(Debug, Default)]
pub(super) struct Kept {
    sessions: BTreeMap<SessionKey, Lost>,
}

impl Kept {
    pub(super) fn lost(&mut self, key: SessionKey, lost: Lost) {
        self.sessions.insert(key, lost);
    }

    /// It moved with a cause, or ended.
    pub(super) fn forget(&mut self, key: SessionKey) {
        self.sessions.remove(&key);
    }

    /// Those that were lost at that time.
    pub(super) fn take(&mut self, at: u64) -> Vec<(SessionKey, Lost)> {
        self.sessions.extract_if(.., |_, lost| lost.at == at).collect()
    }
}
