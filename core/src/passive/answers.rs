//! Which sessions each node answered lately, as one VM saw it.

use crate::time::Millis;

use super::WINDOW;
use super::ledger::SESSIONS;

/// One more than the failed sessions that a record can name: so at least one of these is of another session, if as many
/// had an answer.
const REMEMBERED: usize = SESSIONS + 1;

/// The latest answers of each member, a fixed number of them, in the order of the snapshot.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    nodes: Vec<Latest>,
}

/// Of one node, the last first. Never used: at 0.
#[derive(Debug, Clone, Copy)]
struct Latest {
    node: u64,
    answers: [(u64, Millis); REMEMBERED],
}

impl Latest {
    fn none(node: u64) -> Self {
        Self { node, answers: [(0, Millis(0)); REMEMBERED] }
    }

    fn note(&mut self, session: u64, now: Millis) {
        let known = self.answers.iter().position(|(known, _)| *known == session);
        let place = known.unwrap_or(REMEMBERED - 1);
        if let Some(newer) = self.answers.get_mut(..=place) {
            newer.rotate_right(1);
        }
        if let Some(first) = self.answers.first_mut() {
            *first = (session, now);
        }
    }
}

impl Answers {
    /// Takes over the members of a new snapshot, by the hashes of their names.
    pub fn adopt(&mut self, members: impl Iterator<Item = u64> + Clone) {
        if members.clone().eq(self.nodes.iter().map(|latest| latest.node)) {
            return;
        }
        let mut known = std::mem::take(&mut self.nodes);
        known.sort_unstable_by_key(|latest| latest.node);
        let latest = |node| {
            let place = known.binary_search_by_key(&node, |latest| latest.node).ok();
            place.and_then(|place| known.get(place)).copied().unwrap_or_else(|| Latest::none(node))
        };
        self.nodes = members.map(latest).collect();
    }

    /// The node, which a snapshot has at this place, answered.
    pub(super) fn note(&mut self, place: usize, node: u64, session: u64, now: Millis) {
        match self.nodes.get_mut(place) {
            Some(latest) if latest.node == node => latest.note(session, now),
            // The request was placed by an older snapshot.
            _ => {
                if let Some(latest) = self.nodes.iter_mut().find(|latest| latest.node == node) {
                    latest.note(session, now);
                }
            }
        }
    }

    /// True if the node has answered since.
    pub(super) fn any_after(&self, node: u64, since: Millis, now: Millis) -> bool {
        self.of(node).any(|(_, at)| since < at && at <= now)
    }

    /// True if the node, under suspicion `since` then, answered another session than these, not long before or after.
    pub(super) fn object(&self, node: u64, sessions: &[u64], since: Millis, now: Millis) -> bool {
        self.of(node).any(|(session, at)| since <= at + WINDOW && at <= now && !sessions.contains(&session))
    }

    fn of(&self, node: u64) -> impl Iterator<Item = (u64, Millis)> {
        let latest = self.nodes.iter().find(|latest| latest.node == node);
        latest.into_iter().flat_map(|latest| latest.answers).filter(|(_, at)| *at > Millis(0))
    }
}
