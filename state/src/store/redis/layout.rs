//! Where things are in Redis, and how positions in its sixteen logs make one cursor.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `berth:{pool/s}:pin:KEY` | string | a pin (`resolve.lua` has its form); s is the first hex digit of KEY |
//! | `berth:{pool/s}:ended:KEY` | string | the version of a session that was ended a short while ago; a blank before it if it had no pin, and behind it if it has begun again |
//! | `berth:{pool/s}:clock` | string | the latest version that a session of the shard was given |
//! | `berth:{pool/s}:nodes` | hash | of each node what resolving needs, and when that was changed; a copy in each shard |
//! | `berth:{pool/s}:changes` | stream | the changes of the shard's sessions; those of nodes in shard 0 |
//! | `berth:{pool/0}:records` | hash | the nodes' whole records |
//! | `berth:{pool/0}:store` | string | which store this is: a random name that is there until the store is emptied |
//! | `berth:{pool/s}:probe` | string | nothing: it is written to see whether the shard takes writes |
//!
//! All of it ends by itself. Pins, ends and clocks have their time; logs and what is recorded of nodes live as long as proxies
//! ask for changes, a day and a month longer.

use std::fmt;

use berth_core::wire::{Cursor, NodeRecord, PoolName, SessionKey};

/// Slots of a pool. Enough to spread one pool over a cluster of sixteen primaries, few enough to read sixteen logs many
/// times a second. It must never change: with another number every pin would be in another place.
pub(super) const SHARDS: usize = 16;

/// One shard of one pool.
#[derive(Clone)]
pub(super) struct Shard {
    /// `berth:{pool/s}:`
    prefix: String,
    index: usize,
}

/// The shard of a session: its key's first hex digit.
fn index(key: SessionKey) -> usize {
    usize::from(key.as_bytes()[0] >> 4)
}

impl Shard {
    pub(super) fn of(pool: &PoolName, key: SessionKey) -> Self {
        Self::numbered(pool, index(key))
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn holds(&self, key: SessionKey) -> bool {
        self.index == index(key)
    }

    /// The one that has the nodes' records.
    pub(super) fn home(pool: &PoolName) -> Self {
        Self::numbered(pool, 0)
    }

    /// All of a pool, in order.
    pub(super) fn all(pool: &PoolName) -> impl Iterator<Item = Self> {
        (0..SHARDS).map(move |index| Self::numbered(pool, index))
    }

    fn numbered(pool: &PoolName, index: usize) -> Self {
        Self { prefix: format!("berth:{{{pool}/{index:x}}}:"), index }
    }

    /// Any key of the shard has its slot.
    pub(super) fn slot_key(&self) -> &str {
        &self.prefix
    }

    pub(super) fn pin(&self, key: SessionKey) -> String {
        format!("{}pin:{key}", self.prefix)
    }

    /// The shard and the session of a pin's key.
    pub(super) fn of_pin(pool: &PoolName, pin: &str) -> Option<(Self, SessionKey)> {
        let key = pin.rsplit_once(':')?.1.parse().ok()?;
        let shard = Self::of(pool, key);
        (shard.pin(key) == pin).then_some((shard, key))
    }

    pub(super) fn ended(&self, key: SessionKey) -> String {
        format!("{}ended:{key}", self.prefix)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    pub(super) fn changes(&self) -> String {
        format!("{}changes", self.prefix)
    }

    pub(super) fn clock(&self) -> String {
        format!("{}clock", self.prefix)
    }

    pub(super) fn store(&self) -> String {
        format!("{}store", self.prefix)
    }

    pub(super) fn records(&self) -> String {
        format!("{}records", self.prefix)
    }

    /// What the probe of readiness writes.
    pub(super) fn probe(&self) -> String {
        format!("{}probe", self.prefix)
    }

    /// What tells one event of this shard from all others of the pool.
    pub(super) fn event_cursor(&self, position: Position) -> Cursor {
        let mut positions = [Position::default(); SHARDS];
        if let Some(place) = positions.get_mut(self.index) {
            *place = position;
        }
        cursor(&positions)
    }
}

/// Slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key with a hash tag: CRC-16/XMODEM of the tag (Redis Cluster specification, "Hash tags").
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or(key, |(tag, _)| tag);
    let crc = tag.bytes().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16_384
}

/// What the keys of all pins of a pool match, in any shard. A pool's name has no letter that means something in a pattern.
pub(super) fn pins(pool: &PoolName) -> String {
    format!("berth:{{{pool}/?}}:pin:*")
}

/// What `resolve.lua` reads of a node.
pub(super) fn node_text(record: &NodeRecord) -> String {
    let cooldown = record.cooldown_until_ms.unwrap_or(0);
    let boot_id = record.boot_id.as_deref().unwrap_or_default();
    format!("{}|{}|{cooldown}|{boot_id}", record.version, record.state.name())
}

/// A place in one stream: milliseconds and a number within them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) time_ms: u64,
    number: u64,
}

impl Position {
    /// From Redis' own `time-number`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (time, number) = text.split_once('-')?;
        Some(Self { time_ms: time.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time_ms, self.number)
    }
}

/// `r`, then `.shard~time-number` in base 36 for each shard that has a position.
pub(super) fn cursor(positions: &[Position; SHARDS]) -> Cursor {
    let mut text = String::from("r");
    for (shard, position) in positions.iter().enumerate() {
        if *position != Position::default() {
            text.push('.');
            base36(&mut text, shard as u64);
            text.push('~');
            base36(&mut text, position.time_ms);
            text.push('-');
            base36(&mut text, position.number);
        }
    }
    match text.parse() {
        Ok(cursor) => cursor,
        // 16 × (2 × 13 digits + 4) is less than the longest cursor.
        Err(_) => unreachable!("sixteen positions fit a cursor"),
    }
}

/// `None` if the cursor is not of this store.
pub(super) fn positions(cursor: &Cursor) -> Option<[Position; SHARDS]> {
    let mut positions = [Position::default(); SHARDS];
    let mut parts = cursor.as_str().split('.');
    if parts.next() != Some("r") {
        return None;
    }
    for part in parts {
        let (shard, position) = part.split_once('~')?;
        let (time, number) = position.split_once('-')?;
        let from36 = |text| u64::from_str_radix(text, 36).ok();
        *positions.get_mut(usize::try_from(from36(shard)?).ok()?)? =
            Position { time_ms: from36(time)?, number: from36(number)? };
    }
    Some(positions)
}

fn base36(text: &mut String, mut number: u64) {
    let mut digits = Vec::with_capacity(13);
    loop {
        digits.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    text.extend(digits.iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_survives_a_trip() {
        let mut there = [Position::default(); SHARDS];
        assert_eq!(cursor(&there).as_str(), "r");
        assert_eq!(positions(&cursor(&there)), Some(there));

        there[0] = Position { time_ms: 1_767_225_600_123, number: 0 };
        there[15] = Position { time_ms: u64::MAX, number: u64::MAX };
        assert_eq!(positions(&cursor(&there)), Some(there));

        there = [Position { time_ms: u64::MAX, number: u64::MAX }; SHARDS];
        assert_eq!(positions(&cursor(&there)), Some(there));
    }

    #[test]
    fn cursors_of_others_are_known_as_such() {
        for text in ["m1-2", "r.g", "r.0~", "r.g~1-1", "r.zz~1-1", "r.0~1", "r..", "x"] {
            assert_eq!(positions(&text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of CRC-16/XMODEM.
        assert_eq!(slot("a{123456789}b"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
    }

    #[test]
    fn all_keys_of_a_shard_have_one_slot() {
        let pool: PoolName = "nodes".parse().unwrap();
        let key = SessionKey::new("nodes", b"alice");
        let shard = Shard::of(&pool, key);
        assert_eq!(shard.pin(key), format!("berth:{{nodes/b}}:pin:{key}"));
        assert!(shard.changes().starts_with(shard.slot_key()));
    }

    #[test]
    fn only_a_key_that_is_a_pins_is_read_as_one() {
        let pool: PoolName = "nodes".parse().unwrap();
        let key = SessionKey::new("nodes", b"alice");
        let pin = Shard::of(&pool, key).pin(key);

        let (shard, found) = Shard::of_pin(&pool, &pin).unwrap();
        assert_eq!((shard.index(), found), (0xb, key));
        let of_another_shard = pin.replace("/b", "/c");
        for other in ["", "berth:{nodes/b}:pin:", "berth:{nodes/b}:pin:x", of_another_shard.as_str()] {
            assert!(Shard::of_pin(&pool, other).is_none(), "{other}");
        }
    }
}
