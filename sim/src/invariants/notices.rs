//! What nodes have to be notified of, from the answer of the state service until the node has answered a request that says so.

use std::collections::BTreeMap;

use berth_core::wire::SessionKey;

/// The engine keeps a notice for as long as the pin is believed, which is 45 s in these runs.
const KEPT: u64 = 40_000;

/// What is yet to be said.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// By configuration at work, and session.
    untold: BTreeMap<(u32, SessionKey), Untold>,
    /// Sessions of nodes that were restarted, until the state service was asked about them: which node, and when.
    restarted: BTreeMap<SessionKey, (String, u64)>,
}

#[derive(Debug, Clone)]
struct Untold {
    node: String,
    since: u64,
    /// The request that says so and has no answer yet.
    carrier: Option<u32>,
}

impl Notices {
    /// The state service says that a session is new to its node.
    pub(super) fn learn(&mut self, worker: u32, key: SessionKey, node: String, now: u64) {
        self.untold.insert((worker, key), Untold { node, since: now, carrier: None });
    }

    /// A request of the session is sent to `node`, with a notice or without. False if it should have had one.
    pub(super) fn sent(
        &mut self,
        place: (u32, SessionKey),
        node: &str,
        notifies: Option<u32>,
        now: u64,
    ) -> bool {
        let Some(untold) = self.untold.get_mut(&place) else { return true };
        if untold.node != node || now > untold.since + KEPT {
            self.untold.remove(&place);
            return true;
        }
        match notifies {
            Some(stream) => untold.carrier = Some(stream),
            None if untold.carrier.is_none() => {
                self.untold.remove(&place);
                return false;
            }
            None => {}
        }
        true
    }

    /// A request has an answer, or ended without one.
    pub(super) fn answered(&mut self, place: (u32, SessionKey), stream: u32, is_by_its_node: bool) {
        let Some(untold) = self.untold.get_mut(&place) else { return };
        if untold.carrier == Some(stream) {
            untold.carrier = None;
            if is_by_its_node {
                self.untold.remove(&place);
            }
        }
    }

    /// The session has another owner, or none.
    pub(super) fn forget(&mut self, key: SessionKey) {
        self.untold.retain(|(_, other), _| *other != key);
        self.restarted.remove(&key);
    }

    /// What a configuration has yet to say, the one after it says too.
    pub(super) fn reloaded(&mut self, former: u32, next: u32) {
        let copies = self.untold.iter().filter(|((worker, _), _)| *worker == former);
        let copies =
            copies.map(|((_, key), untold)| ((next, *key), Untold { carrier: None, ..untold.clone() }));
        let copies: Vec<_> = copies.collect();
        self.untold.extend(copies);
    }

    /// A configuration is at work no longer.
    pub(super) fn ended(&mut self, worker: u32) {
        self.untold.retain(|(other, _), _| *other != worker);
    }

    /// The node of a session was started again.
    pub(super) fn restarted(&mut self, key: SessionKey, node: &str, now: u64) {
        self.restarted.insert(key, (node.to_owned(), now));
    }

    /// The state service was asked about a session, and says what its node has to know.
    pub(super) fn asked(&mut self, key: SessionKey) {
        self.restarted.remove(&key);
    }

    /// Since when `node` lacks this session without that anybody asked.
    pub(super) fn unasked(&self, key: SessionKey, node: &str) -> Option<u64> {
        self.restarted.get(&key).filter(|(restarted, _)| restarted == node).map(|(_, since)| *since)
    }

    /// The store has lost what it knew of nodes.
    pub(super) fn failed_over(&mut self) {
        self.restarted.clear();
    }
}
