//! Tokens that were verified, so that a client's next request costs a hash and not a signature check.
//!
//! Only what was verified is kept. What was refused is not: otherwise any client could fill the cache with garbage
//! and push out the tokens of others. An entry needs a signature of the issuer.
//!
//! A token is known by its SHA-256, not by a fast hash: a second token of the same hash would be taken for verified.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::time::Millis;

/// What an entry costs besides its value: the slot and its share of the map's nodes.
const OVERHEAD: usize = 160;

/// What a cache knows a token by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token at one provider: what one has verified, another has not.
    #[must_use]
    pub fn of(provider: usize, token: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update((provider as u64).to_le_bytes());
        hash.update(token);
        Self(hash.finalize().into())
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
/// After a change of keys it must be cleared: a key that was withdrawn no longer verifies.
#[derive(Debug)]
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
#[derive(Debug)]
struct Slot<V> {
    digest: Digest,
    value: Option<V>,
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

    /// Remembers a token that was verified: `value` takes `bytes` and holds until `until`, which is the expiry with leeway.
    pub fn insert(&mut self, digest: Digest, value: V, bytes: usize, until: Millis) {
        if let Some(slot) = self.index.get(&digest) {
            self.remove(*slot);
        }
        let bytes = bytes.saturating_add(OVERHEAD);
        if bytes > self.limits.bytes || self.limits.entries == 0 {
            return;
        }
        while self.index.len() >= self.limits.entries || self.bytes + bytes > self.limits.bytes {
            let Some(oldest) = self.oldest else { break };
            self.remove(oldest);
        }
        let entry = Slot { digest, value: Some(value), bytes, until, newer: None, older: None };
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

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits);
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
        Digest::of(0, &token.to_le_bytes())
    }

    fn cache(entries: usize) -> Cache<u32> {
        Cache::new(Limits { entries, ..Limits::default() })
    }

    const LATER: Millis = Millis(1000);

    #[test]
    fn a_token_is_known_until_its_time_is_over() {
        let mut cache = cache(2);
        cache.insert(digest(1), 1, 10, LATER);

        assert_eq!(cache.get(&digest(1), Millis(999)), Some(&1));
        assert_eq!(cache.get(&digest(1), LATER), None);
        assert!(cache.is_empty() && cache.bytes() == 0);
    }

    #[test]
    fn one_providers_token_is_not_anothers() {
        assert_ne!(Digest::of(0, b"token"), Digest::of(1, b"token"));
    }

    #[test]
    fn the_longest_unused_gives_way() {
        let mut cache = cache(3);
        (1..=3).for_each(|token| cache.insert(digest(token), token, 0, LATER));
        cache.get(&digest(1), Millis(0));

        cache.insert(digest(4), 4, 0, LATER);

        let known: Vec<u32> =
            (1..=4).filter(|token| cache.get(&digest(*token), Millis(0)).is_some()).collect();
        assert_eq!(known, [1, 3, 4]);
    }

    #[test]
    fn large_values_push_out_several_and_too_large_ones_none() {
        let mut cache = Cache::new(Limits { entries: 10, bytes: 1000 });
        (1..=3).for_each(|token| cache.insert(digest(token), token, 100, LATER));

        cache.insert(digest(4), 4, 1000, LATER);
        assert_eq!(cache.len(), 3);
        cache.insert(digest(5), 5, 800, LATER);

        assert_eq!((cache.len(), cache.bytes()), (1, 960));
    }

    #[test]
    fn no_entries_means_no_cache() {
        let mut cache = cache(0);
        cache.insert(digest(1), 1, 0, LATER);

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
                    cache.insert(digest(token), token, 0, now + Millis(10));
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
