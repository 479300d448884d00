//! Tokens that were verified, so that a client's next request costs a hash and not a signature check.
//!
//! Only what was verified is kept. What was refused is not: otherwise any client could fill the cache with garbage
//! and push out the tokens of others. An entry needs a signature of the issuer.
//!
//! A token is known by its SHA-256, not by a fast hash: a second token of the same hash would be taken for verified. Each
//! entry says which key verified its token, so that a key that is withdrawn takes its tokens with it and no others.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::KeyTag;
use crate::time::Millis;

/// What an entry costs besides its value: the slot and its share of the map's nodes.
const OVERHEAD: usize = 160;

/// What a cache knows a token by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token. Each provider has a cache of its own: what one has verified, another has not.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Some of its bits.
    pub(super) fn low_bits(&self) -> u16 {
        self.0.first_chunk().copied().map_or(0, u16::from_le_bytes)
    }
}

/// How much a cache may hold; the limit that is reached first holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many tokens; 0 keeps none.
    pub entries: usize,
    /// The memory that they may take, roughly.
    pub bytes: usize,
}

/// 10,000 players of a worker, with a few hundred bytes of claims each.
impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 8_000_000 }
    }
}

/// What is known of verified tokens, the longest unused of which give way.
///
/// After a change of keys the tokens of those that were withdrawn must go: see [`Cache::retain`].
#[derive(Debug, Clone)]
pub struct Cache<V> {
    limits: Limits,
    bytes: usize,
    index: BTreeMap<Digest, usize>,
    slots: Vec<Slot<V>>,
    /// Slots without a value.
    free: Vec<usize>,
    newest: Option<usize>,
    oldest: Option<usize>,
}

/// One entry, between the one that was used after it and the one that was used before it.
#[derive(Debug, Clone)]
struct Slot<V> {
    digest: Digest,
    value: Option<V>,
    signer: KeyTag,
    bytes: usize,
    until: Millis,
    newer: Option<usize>,
    older: Option<usize>,
}

impl<V> Cache<V> {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            index: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: None,
            oldest: None,
        }
    }

    /// What is known of a token, unless its time is over.
    pub fn get(&mut self, digest: &Digest, now: Millis) -> Option<&V> {
        let slot = *self.index.get(digest)?;
        if self.slots.get(slot).is_none_or(|slot| now >= slot.until) {
            self.remove(slot);
            return None;
        }
        if self.newest != Some(slot) {
            self.unlink(slot);
            self.link(slot);
        }
        self.slots.get(slot)?.value.as_ref()
    }

    /// Remembers a token that `signer` verified: `value` takes `bytes` and holds until `until`, which is the expiry with leeway.
    pub fn insert(&mut self, digest: Digest, signer: KeyTag, value: V, bytes: usize, until: Millis) {
        if let Some(slot) = self.index.get(&digest) {
            self.remove(*slot);
        }
        let bytes = bytes.saturating_add(OVERHEAD);
        if bytes > self.limits.bytes || self.limits.entries == 0 {
            return;
        }
        self.make_room(1, bytes);
        let entry = Slot { digest, value: Some(value), signer, bytes, until, newer: None, older: None };
        let slot = match self.free.pop().and_then(|slot| Some((slot, self.slots.get_mut(slot)?))) {
            Some((slot, place)) => {
                *place = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        };
        self.bytes += bytes;
        self.index.insert(digest, slot);
        self.link(slot);
    }

    /// Forgets the tokens of all keys but these.
    pub fn retain(&mut self, is_key: impl Fn(KeyTag) -> bool) {
        for slot in 0..self.slots.len() {
            if self.slots.get(slot).is_some_and(|entry| entry.value.is_some() && !is_key(entry.signer)) {
                self.remove(slot);
            }
        }
    }

    /// Holds so much from now on.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.make_room(0, 0);
    }

    /// How many tokens are known, with those whose time is over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if no token is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The memory that they take, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has the longest unused give way to so much more.
    fn make_room(&mut self, entries: usize, bytes: usize) {
        while self.index.len() + entries > self.limits.entries || self.bytes + bytes > self.limits.bytes {
            let Some(oldest) = self.oldest else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, slot: usize) {
        self.unlink(slot);
        let Some(entry) = self.slots.get_mut(slot) else { return };
        self.index.remove(&entry.digest);
        self.bytes -= entry.bytes;
        entry.value = None;
        self.free.push(slot);
    }

    /// Makes it the newest.
    fn link(&mut self, slot: usize) {
        let before = self.newest.replace(slot);
        if let Some(entry) = self.slots.get_mut(slot) {
            (entry.newer, entry.older) = (None, before);
        }
        match before.and_then(|before| self.slots.get_mut(before)) {
            Some(before) => before.newer = Some(slot),
            None => self.oldest = Some(slot),
        }
    }

    /// Joins its neighbours.
    fn unlink(&mut self, slot: usize) {
        let Some((newer, older)) = self.slots.get(slot).map(|entry| (entry.newer, entry.older)) else {
            return;
        };
        match newer.and_then(|newer| self.slots.get_mut(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match older.and_then(|older| self.slots.get_mut(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(token: u32) -> Digest {
        Digest::of(&token.to_le_bytes())
    }

    /// Even tokens are signed by one key, odd ones by another.
    fn insert(cache: &mut Cache<u32>, token: u32, bytes: usize, until: Millis) {
        cache.insert(digest(token), KeyTag(u64::from(token % 2)), token, bytes, until);
    }

    fn known(cache: &mut Cache<u32>) -> Vec<u32> {
        (0..10).filter(|token| cache.get(&digest(*token), Millis(0)).is_some()).collect()
    }

    fn cache(entries: usize) -> Cache<u32> {
        Cache::new(Limits { entries, ..Limits::default() })
    }

    const LATER: Millis = Millis(1000);

    #[test]
    fn a_token_is_known_until_its_time_is_over() {
        let mut cache = cache(2);
        insert(&mut cache, 1, 10, LATER);

        assert_eq!(cache.get(&digest(1), Millis(999)), Some(&1));
        assert_eq!(cache.get(&digest(1), LATER), None);
        assert!(cache.is_empty() && cache.bytes() == 0);
    }

    #[test]
    fn a_key_that_is_withdrawn_takes_its_tokens_with_it_and_no_others() {
        let mut cache = cache(10);
        (1..=5).for_each(|token| insert(&mut cache, token, 10, LATER));

        cache.retain(|key| key == KeyTag(1));

        assert_eq!(known(&mut cache), [1, 3, 5]);
        insert(&mut cache, 6, 10, LATER);
        assert_eq!((cache.len(), cache.slots.len()), (4, 5), "what is free is used again");
        cache.retain(|_| false);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn with_less_room_the_longest_unused_give_way() {
        let mut cache = cache(10);
        (1..=5).for_each(|token| insert(&mut cache, token, 10, LATER));

        cache.limit(Limits { entries: 2, ..Limits::default() });

        assert_eq!(known(&mut cache), [4, 5]);
        cache.limit(Limits { entries: 3, ..Limits::default() });
        (6..=9).for_each(|token| insert(&mut cache, token, 10, LATER));
        assert_eq!(known(&mut cache), [7, 8, 9]);
    }

    #[test]
    fn the_longest_unused_gives_way() {
        let mut cache = cache(3);
        (1..=3).for_each(|token| insert(&mut cache, token, 0, LATER));
        cache.get(&digest(1), Millis(0));

        insert(&mut cache, 4, 0, LATER);

        let known: Vec<u32> =
            (1..=4).filter(|token| cache.get(&digest(*token), Millis(0)).is_some()).collect();
        assert_eq!(known, [1, 3, 4]);
    }

    #[test]
    fn large_values_push_out_several_and_too_large_ones_none() {
        let mut cache = Cache::new(Limits { entries: 10, bytes: 1000 });
        (1..=3).for_each(|token| insert(&mut cache, token, 100, LATER));

        insert(&mut cache, 4, 1000, LATER);
        assert_eq!(cache.len(), 3);
        insert(&mut cache, 5, 800, LATER);

        assert_eq!((cache.len(), cache.bytes()), (1, 960));
    }

    #[test]
    fn no_entries_means_no_cache() {
        let mut cache = cache(0);
        insert(&mut cache, 1, 0, LATER);

        assert!(cache.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn does_what_a_list_would(steps in proptest::collection::vec((0u32..12, 0u64..4, proptest::bool::ANY), 0..200)) {
            let mut cache = cache(4);
            let mut model: Vec<(u32, Millis)> = Vec::new();
            let mut now = Millis(0);
            for (token, wait, is_insert) in steps {
                now = now + Millis(wait);
                let known = model.iter().position(|(known, _)| *known == token).map(|at| model.remove(at));
                if is_insert {
                    insert(&mut cache, token, 0, now + Millis(10));
                    model.push((token, now + Millis(10)));
                    if model.len() > 4 {
                        model.remove(0);
                    }
                } else {
                    let expected = known.filter(|(_, until)| now < *until);
                    proptest::prop_assert_eq!(cache.get(&digest(token), now).copied(), expected.map(|(token, _)| token));
                    model.extend(expected);
                }
                proptest::prop_assert_eq!(cache.len(), model.len());
                proptest::prop_assert!(cache.slots.len() <= 4);
            }
        }
    }
}
