//! The failures on record: by node, since it last answered.

use crate::time::Millis;

use super::{Answers, Failure, Kind, OBJECTION, Rules, WINDOW};

/// How many failed sessions of a node are distinguished; two are needed.
pub(super) const SESSIONS: usize = 3;
/// More nodes than fail at once without a panic, in 8 KB. At the limit the first of a new node's failures are not
/// counted, until another node answers, is put out, or has not failed for a [`WINDOW`].
pub const MAX_ROWS: usize = 128;
/// A row in bytes: eight numbers of eight.
const ROW: usize = 64;

/// What all VMs of an Envoy share about a pool's failures. Nearly always empty.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ledger {
    rows: Vec<Row>,
}

/// One node's failures in a row.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Row {
    node: u64,
    /// The latest failure.
    last: Millis,
    /// The first of the resets.
    suspected: Millis,
    /// Since when they would be enough; 0 if they are not.
    ready: Millis,
    connects: u32,
    resets: u32,
    /// The first that failed, 0 where there are fewer.
    sessions: [u64; SESSIONS],
}

/// What became of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is as it was.
    Unchanged,
    /// It is to be written.
    Changed,
    /// It is to be written, and then the node to be put out.
    Enough,
}

impl Ledger {
    /// Reads the shared form; `None` if `bytes` is not one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = bytes.len().is_multiple_of(ROW) && bytes.len() <= MAX_ROWS * ROW;
        let rows = is_whole.then(|| bytes.chunks_exact(ROW).map(Row::decode).collect::<Option<_>>());
        Some(Self { rows: rows.flatten()? })
    }

    /// The form that is shared.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.rows.iter().flat_map(Row::encode).flat_map(u64::to_le_bytes).collect()
    }

    /// True if no node has failed since it last answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// True if this node has failures on record.
    #[must_use]
    pub fn has(&self, node: u64) -> bool {
        self.rows.iter().any(|row| row.node == node)
    }

    /// The node answered. True if that changed anything.
    pub fn answered(&mut self, node: u64) -> bool {
        let before = self.rows.len();
        self.rows.retain(|row| row.node != node);
        self.rows.len() != before
    }

    /// Notes a failure, unless the answers that this VM remembers speak against it.
    pub fn failed(&mut self, failure: &Failure, rules: Rules, answers: &Answers, now: Millis) -> Noted {
        if rules.limit == 0 || failure.kind != Kind::Connect && rules.is_checked {
            return Noted::Unchanged;
        }
        let known = self.rows.iter().position(|row| row.node == failure.node);
        let row = known.map(|place| self.rows.swap_remove(place)).filter(|row| row.stands(answers, now));
        let mut row = row.unwrap_or_else(|| Row { node: failure.node, ..Row::default() });
        row.add(failure, now);
        row.weigh(rules, answers, now);
        if row.is_enough(rules, now) {
            return Noted::Enough;
        }
        if !row.is_empty() && self.has_room(now) {
            self.rows.push(row);
            return Noted::Changed;
        }
        if known.is_some() { Noted::Changed } else { Noted::Unchanged }
    }

    /// Drops what the answers that this VM remembers speak against, and nodes that are no longer members. Adds to `enough`
    /// the nodes that are to be put out. True if that changed anything.
    pub fn review(
        &mut self,
        rules: Rules,
        answers: &Answers,
        is_member: impl Fn(u64) -> bool,
        enough: &mut Vec<u64>,
        now: Millis,
    ) -> bool {
        let before = self.clone();
        self.rows.retain_mut(|row| {
            row.weigh(rules, answers, now);
            let stands = !row.is_empty() && row.stands(answers, now) && is_member(row.node);
            let is_enough = stands && row.is_enough(rules, now);
            if is_enough {
                enough.push(row.node);
            }
            stands && !is_enough
        });
        *self != before
    }

    fn has_room(&mut self, now: Millis) -> bool {
        if self.rows.len() < MAX_ROWS {
            return true;
        }
        let oldest = self.rows.iter().enumerate().min_by_key(|(_, row)| row.last);
        let stale = oldest.filter(|(_, row)| row.last + WINDOW < now).map(|(place, _)| place);
        stale.map(|place| self.rows.swap_remove(place)).is_some()
    }
}

impl Row {
    /// False if the node has answered since, or the clock was set back: then it is not known how long ago it was.
    fn stands(&self, answers: &Answers, now: Millis) -> bool {
        self.last <= now + WINDOW && !answers.any_after(self.node, self.last, now)
    }

    fn add(&mut self, failure: &Failure, now: Millis) {
        self.last = now;
        match failure.kind {
            Kind::Connect | Kind::Hidden => self.connects = self.connects.saturating_add(1),
            Kind::Reset => {
                if self.resets == 0 {
                    self.suspected = now;
                }
                self.resets = self.resets.saturating_add(1);
            }
        }
        if !self.sessions.contains(&failure.session)
            && let Some(free) = self.sessions.iter_mut().find(|session| **session == 0)
        {
            *free = failure.session;
        }
    }

    /// Resets and timeouts count for nothing while the node serves sessions that have not failed. Which those are is known
    /// once there are enough failures.
    fn weigh(&mut self, rules: Rules, answers: &Answers, now: Millis) {
        let sessions = self.sessions.iter().filter(|session| **session != 0).count();
        let is_ready = self.resets > 0
            && sessions > 1
            && self.connects.saturating_add(self.resets) >= rules.limit
            && !rules.is_checked;
        if !is_ready {
            self.ready = Millis(0);
        } else if answers.object(self.node, &self.sessions, self.suspected, now) {
            self.resets = 0;
            self.ready = Millis(0);
        } else if self.ready == Millis(0) {
            self.ready = now;
        }
    }

    fn is_empty(&self) -> bool {
        self.connects == 0 && self.resets == 0
    }

    fn is_enough(&self, rules: Rules, now: Millis) -> bool {
        let is_undisputed = self.ready > Millis(0) && now.since(self.ready) >= OBJECTION;
        rules.limit > 0 && (self.connects >= rules.limit || is_undisputed)
    }

    fn encode(&self) -> [u64; ROW / 8] {
        let [first, second, third] = self.sessions;
        let counts = u64::from(self.connects) << 32 | u64::from(self.resets);
        [self.node, self.last.0, self.suspected.0, self.ready.0, counts, first, second, third]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut numbers =
            bytes.chunks_exact(8).filter_map(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let mut next = || numbers.next();
        let (node, last, suspected, ready) = (next()?, Millis(next()?), Millis(next()?), Millis(next()?));
        let counts = next()?;
        let (connects, resets) = ((counts >> 32) as u32, counts as u32);
        Some(Self { node, last, suspected, ready, connects, resets, sessions: [next()?, next()?, next()?] })
    }
}
