//! From a hash to a slot: open addressing over four bytes a bucket.
//!
//! Keys stay in the slab, so the index does not store them: a bucket is a slot's number and eight bits of its hash,
//! which spare nearly all visits to wrong slots. Removing shifts the followers back instead of leaving a tombstone, so
//! years of eviction neither slow it down nor make it grow; `hashbrown` does both when it is kept full. Any length
//! will do, not only powers of two, so a full cache pays for the buckets it needs.

/// Slots have 24 bits of a bucket; one of their numbers means an empty one.
pub(super) const MAX_SLOTS: u32 = (1 << TAG_SHIFT) - 1;
const TAG_SHIFT: u32 = 24;
const EMPTY: u32 = 0;
/// The smallest table that is not empty.
const FIRST_LENGTH: usize = 64;

/// The buckets of one index.
#[derive(Debug, Default, Clone)]
pub(super) struct Index {
    buckets: Vec<u32>,
}

impl Index {
    /// How many buckets `slots` slots want. Two thirds full, removing looks at five entries on average; at four fifths,
    /// which would save two bytes a pin, at thirteen.
    pub(super) fn length_for(slots: u32) -> usize {
        slots as usize + (slots as usize).div_ceil(2)
    }

    /// The length to rebuild at before one more than `used` slots are in it; `None` if there is room. It doubles, but
    /// the last step goes all the way: the longest rebuild is then one of a cache at most half full.
    pub(super) fn wants_length(&self, used: u32, capacity: u32) -> Option<usize> {
        let (wanted, last) = (Self::length_for(used.saturating_add(1)), Self::length_for(capacity));
        if self.buckets.len() >= wanted {
            return None;
        }
        let doubled = (self.buckets.len() * 2).max(FIRST_LENGTH).max(wanted);
        Some(if doubled * 2 > last { last } else { doubled })
    }

    /// Starts again with `length` buckets and these slots. The old ones are given back first, so that the peak is not
    /// the sum of both.
    pub(super) fn rebuild(&mut self, length: usize, slots: impl Iterator<Item = (u64, u32)>) {
        self.buckets = Vec::new();
        self.buckets = vec![EMPTY; length];
        for (hash, slot) in slots {
            self.insert(hash, slot);
        }
    }

    /// The slot with this hash that `is` the one.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.probe(hash, |bucket| tag_of(bucket) == tag(hash) && is(slot_of(bucket)))
            .and_then(|place| self.buckets.get(place).map(|bucket| slot_of(*bucket)))
    }

    /// Adds a slot that is not in it. The caller has made room.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        let home = self.home(hash);
        let (wrapped, first) = self.buckets.split_at_mut_checked(home).unwrap_or_default();
        if let Some(bucket) = first.iter_mut().chain(wrapped).find(|bucket| **bucket == EMPTY) {
            *bucket = tag(hash) | (slot + 1);
        }
    }

    /// Takes a slot out; `hash_of` tells the hashes of its neighbours.
    pub(super) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let length = self.buckets.len();
        let Some(mut hole) = self.probe(hash, |bucket| slot_of(bucket) == slot) else { return };
        let mut place = hole;
        for _ in 1..length {
            place = if place + 1 == length { 0 } else { place + 1 };
            let bucket = self.buckets.get(place).copied().unwrap_or(EMPTY);
            if bucket == EMPTY {
                break;
            }
            // A follower may move into the hole unless it would then stand before its home.
            let distance = |from: usize| if place >= from { place - from } else { place + length - from };
            if distance(self.home(hash_of(slot_of(bucket)))) >= distance(hole) {
                self.set(hole, bucket);
                hole = place;
            }
        }
        self.set(hole, EMPTY);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<u32>()
    }

    /// The first bucket from its home on that fits, before the first empty one.
    fn probe(&self, hash: u64, fits: impl Fn(u32) -> bool) -> Option<usize> {
        let home = self.home(hash);
        let (wrapped, first) = self.buckets.split_at_checked(home)?;
        for (place, &bucket) in first.iter().enumerate() {
            if bucket == EMPTY {
                return None;
            }
            if fits(bucket) {
                return Some(home + place);
            }
        }
        for (place, &bucket) in wrapped.iter().enumerate() {
            if bucket == EMPTY {
                return None;
            }
            if fits(bucket) {
                return Some(place);
            }
        }
        None
    }

    /// Where a search begins: the hash's upper half as a fraction of the length.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn set(&mut self, place: usize, value: u32) {
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket = value;
        }
    }
}

fn tag(hash: u64) -> u32 {
    (hash as u32) << TAG_SHIFT
}

fn tag_of(bucket: u32) -> u32 {
    bucket & !MAX_SLOTS
}

fn slot_of(bucket: u32) -> u32 {
    (bucket & MAX_SLOTS).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Hashes that crowd at the table's end, so that clusters wrap.
    fn hash(slot: u32) -> u64 {
        let near = u64::from(slot % 5) << 24;
        (u64::from(u32::MAX) - near) << 32 | u64::from(slot)
    }

    fn full(slots: u32) -> Index {
        let mut index = Index::default();
        index.rebuild(Index::length_for(slots), (0..slots).map(|slot| (hash(slot), slot)));
        index
    }

    #[test]
    fn finds_what_is_in_it_and_nothing_else() {
        let index = full(300);

        for slot in 0..300 {
            assert_eq!(index.find(hash(slot), |found| found == slot), Some(slot));
        }
        assert_eq!(index.find(hash(300), |found| found == 300), None);
        assert_eq!(Index::default().find(7, |_| true), None);
    }

    #[test]
    fn removing_in_any_order_loses_nobody_else() {
        let mut index = full(300);
        let mut left: BTreeMap<u32, u64> = (0..300).map(|slot| (slot, hash(slot))).collect();

        for step in 0..300_u32 {
            let gone = step * 7 % 300;
            index.remove(hash(gone), gone, hash);
            left.remove(&gone);
            assert_eq!(index.find(hash(gone), |found| found == gone), None);
            for (slot, hash) in &left {
                assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot), "after {step} removals");
            }
        }

        assert!(index.buckets.iter().all(|bucket| *bucket == EMPTY));
    }

    #[test]
    fn grows_by_doubling_and_stops_at_what_the_capacity_needs() {
        let mut index = Index::default();
        let mut lengths = Vec::new();
        for used in 0..1_000 {
            if let Some(length) = index.wants_length(used, 1_000) {
                index.rebuild(length, (0..used).map(|slot| (hash(slot), slot)));
                lengths.push(length);
            }
            index.insert(hash(used), used);
        }

        assert_eq!(lengths, [64, 128, 256, 512, 1_500]);
        assert_eq!(index.find(hash(999), |found| found == 999), Some(999));
    }

    #[test]
    fn a_tiny_capacity_still_has_a_bucket_to_spare() {
        let mut index = Index::default();
        let length = index.wants_length(0, 1).unwrap();
        index.rebuild(length, std::iter::once((hash(0), 0)));

        assert_eq!(length, 2);
        assert_eq!(index.find(hash(1), |found| found == 1), None);
    }
}
