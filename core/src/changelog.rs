//! What the VMs of one Envoy share of the changes feed: the latest changes, and how far each VM has read.
//!
//! One of them polls the state cluster and appends; the others read on from where they stopped. The log is bounded, so
//! a reader can fall off its end, and the poller itself can have missed changes: either way all a reader can do is
//! doubt its pins, which are then resolved again. Encoded as fixed-size records, since a busy log is read often.

use std::collections::VecDeque;

use xxhash_rust::xxh64::xxh64;

use crate::wire::SessionKey;

/// What a tick may miss: at ten ticks a second, 40,000 changes a second.
pub const CAPACITY: usize = 4_096;
/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has this pin now. What is known of it is compared with both: after a write that the store lost, two nodes may have
    /// had the same version.
    Pinned {
        /// The pin's version.
        version: u64,
        /// The owner, as [`digest`] has it.
        node: u64,
    },
    /// It has no pin any more.
    Ended,
    /// Its pin stays, but there is news of it: its token was replaced by one of this version; `None` if that is not known, or
    /// if the news is another.
    Superseded(Option<u32>),
}

/// A node's name, short enough for a record of fixed size.
#[must_use]
pub fn digest(node: &str) -> u64 {
    xxh64(node.as_bytes(), 0)
}

/// A version that no pin has.
const ENDED: u64 = u64::MAX;
/// The same; then the token's version stands in place of the node.
const SUPERSEDED: u64 = u64::MAX - 1;
/// In place of a token's version: it is not known.
const UNKNOWN: u64 = u64::MAX;

impl Change {
    fn encode(self) -> (u64, u64) {
        match self {
            Self::Pinned { version, node } => (version.min(SUPERSEDED - 1), node),
            Self::Ended => (ENDED, 0),
            Self::Superseded(version) => (SUPERSEDED, version.map_or(UNKNOWN, u64::from)),
        }
    }

    fn decode(version: u64, node: u64) -> Self {
        match version {
            ENDED => Self::Ended,
            SUPERSEDED => Self::Superseded(u32::try_from(node).ok()),
            version => Self::Pinned { version, node },
        }
    }
}

const RECORD: usize = 32;

/// The latest changes of a pool's pins.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ChangeLog {
    head: Head,
    /// The last of them has the number `head.next - 1`.
    changes: VecDeque<(SessionKey, Change)>,
}

/// How far a log goes; published beside it, so that a reader that is up to date copies only this.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the next change.
    next: u64,
    /// Changes were missed that would have had numbers below this one.
    gap: u64,
}

impl Head {
    /// The form that is published.
    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        (u128::from(self.next) << 64 | u128::from(self.gap)).to_le_bytes()
    }

    /// Reads a published one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let both = u128::from_le_bytes(bytes.try_into().ok()?);
        Some(Self { next: (both >> 64) as u64, gap: both as u64 })
    }
}

impl ChangeLog {
    /// Appends what became of sessions.
    pub fn append(&mut self, changes: impl IntoIterator<Item = (SessionKey, Change)>) {
        for change in changes {
            self.changes.push_back(change);
            self.head.next += 1;
        }
        let surplus = self.changes.len().saturating_sub(CAPACITY);
        self.changes.drain(..surplus);
    }

    /// Changes may have been missed here.
    pub fn note_gap(&mut self) {
        // A number of its own, or a reader that is up to date would not notice.
        self.head.next += 1;
        self.head.gap = self.head.next;
        self.changes.clear();
    }

    /// How far it goes.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The form that is published.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + RECORD * self.changes.len());
        bytes.extend_from_slice(&self.head.encode());
        for (key, change) in &self.changes {
            let (version, node) = change.encode();
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&version.to_le_bytes());
            bytes.extend_from_slice(&node.to_le_bytes());
        }
        bytes
    }

    /// Reads a published log; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, records) = bytes.split_at_checked(16)?;
        let (records, rest) = records.as_chunks::<RECORD>();
        if !rest.is_empty() {
            return None;
        }
        let read = |record: &[u8; RECORD]| {
            let (key, change) = record.split_first_chunk::<16>()?;
            let (version, node) = change.split_first_chunk::<8>()?;
            let change =
                Change::decode(u64::from_le_bytes(*version), u64::from_le_bytes(node.try_into().ok()?));
            Some((SessionKey::from_bytes(*key), change))
        };
        Some(Self { head: Head::decode(head)?, changes: records.iter().map(read).collect::<Option<_>>()? })
    }
}

/// How far one VM has read.
#[derive(Debug, Default, Clone)]
pub struct Reader {
    read: Option<u64>,
}

/// What a reader has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Any of the pool's pins may have changed: from now on they are only hints.
    Missed,
    /// Outdate these pins.
    Changes(Vec<(SessionKey, Change)>),
}

impl Reader {
    /// True if there is something to read.
    #[must_use]
    pub fn is_behind(&self, head: Head) -> bool {
        self.read != Some(head.next)
    }

    /// Reads to the end of the log. A first look has missed nothing: there was nothing to outdate.
    pub fn catch_up(&mut self, log: &ChangeLog) -> News {
        let next = log.head.next;
        let Some(read) = self.read.replace(next) else { return News::Changes(Vec::new()) };
        let first = next - (log.changes.len() as u64).min(next);
        // Another log than before has smaller numbers.
        if read > next || read < log.head.gap || read < first {
            return News::Missed;
        }
        let seen = usize::try_from(read - first).unwrap_or(usize::MAX);
        News::Changes(log.changes.iter().skip(seen).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64) -> (SessionKey, Change) {
        let node = digest("10.0.0.1:80");
        (SessionKey::new("nodes", &number.to_le_bytes()), Change::Pinned { version: number + 2, node })
    }

    #[test]
    fn each_reader_gets_each_change_once() {
        let (mut log, mut reader) = (ChangeLog::default(), Reader::default());
        assert_eq!(reader.catch_up(&log), News::Changes(Vec::new()));

        log.append([change(0), change(1)]);
        assert!(reader.is_behind(log.head()));
        assert_eq!(reader.catch_up(&log), News::Changes(vec![change(0), change(1)]));
        assert!(!reader.is_behind(log.head()));
        log.append([change(2)]);
        assert_eq!(reader.catch_up(&log), News::Changes(vec![change(2)]));
        assert_eq!(reader.catch_up(&log), News::Changes(Vec::new()));
    }

    #[test]
    fn who_comes_first_to_a_long_log_has_missed_nothing() {
        let mut log = ChangeLog::default();
        log.append((0..10_000).map(change));

        assert_eq!(Reader::default().catch_up(&log), News::Changes(Vec::new()));
    }

    #[test]
    fn who_falls_off_the_end_has_missed_some() {
        let (mut log, mut reader) = (ChangeLog::default(), Reader::default());
        reader.catch_up(&log);
        log.append((0..CAPACITY as u64).map(change));
        let News::Changes(changes) = reader.catch_up(&log) else { panic!() };
        assert_eq!(changes.len(), CAPACITY);

        log.append((0..=CAPACITY as u64).map(change));

        assert_eq!(reader.catch_up(&log), News::Missed);
        assert_eq!(reader.catch_up(&log), News::Changes(Vec::new()));
    }

    #[test]
    fn a_gap_is_noticed_by_everybody_once_and_what_follows_it_is_read() {
        let (mut log, mut early, mut late) = (ChangeLog::default(), Reader::default(), Reader::default());
        early.catch_up(&log);
        late.catch_up(&log);
        log.note_gap();
        assert!(early.is_behind(log.head()));
        assert_eq!(early.catch_up(&log), News::Missed);

        log.append([change(1)]);

        assert_eq!(early.catch_up(&log), News::Changes(vec![change(1)]));
        assert_eq!(late.catch_up(&log), News::Missed);
        log.note_gap();
        log.note_gap();
        assert_eq!(early.catch_up(&log), News::Missed);
        assert_eq!(early.catch_up(&log), News::Changes(Vec::new()));
    }

    #[test]
    fn what_is_published_is_what_is_read_and_nothing_else_is() {
        let mut log = ChangeLog::default();
        log.append((0..5_000).map(change));
        let others = [0, 7, u32::MAX].map(|version| Change::Superseded(Some(version)));
        let others = others.into_iter().chain([Change::Ended, Change::Superseded(None)]);
        log.append(others.map(|other| (change(7).0, other)));

        assert_eq!(ChangeLog::decode(&log.encode()).as_ref(), Some(&log));
        assert_eq!(Head::decode(&log.head().encode()), Some(log.head()));
        assert_eq!(ChangeLog::decode(&log.encode()[1..]), None);
        assert_eq!(ChangeLog::decode(b""), None);
        assert_eq!(Head::decode(b"7"), None);
    }
}
