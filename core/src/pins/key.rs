//! The two names of a session: a quick one within the VM, and the one that leaves the proxy.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::wire::SessionKey;

/// A session within one VM, in 96 bits: no client can find out which ids share a bucket, and of 100,000 that are known at once
/// two are the same by a chance of 10^-19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinKey(pub u128);

impl PinKey {
    /// XXH3 of the id, keyed with the VM's random seed. A hit thus needs no SHA-256.
    #[must_use]
    pub fn of(seed: u64, id: &[u8]) -> Self {
        Self(xxh3_128_with_seed(id, seed) >> 32)
    }

    pub(super) fn hash(self) -> u64 {
        self.0 as u64
    }
}

/// A session as all proxies and the state cluster know it: the first half of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireKey(pub [u8; 16]);

impl WireKey {
    /// Clients can choose ids whose SHA-256 begin alike; with the seed in it they cannot choose a bucket.
    pub(super) fn hash(self, seed: u64) -> u64 {
        let value = u128::from_le_bytes(self.0);
        let (low, high) = (value as u64 ^ seed, (value >> 64) as u64 ^ seed.rotate_left(32));
        let product = u128::from(low) * u128::from(high);
        // Zero would swallow the other factor; the keys' own bits do not.
        (product as u64 ^ (product >> 64) as u64) ^ low.rotate_left(17)
    }
}

impl From<SessionKey> for WireKey {
    fn from(key: SessionKey) -> Self {
        Self(*key.as_bytes())
    }
}

impl From<WireKey> for SessionKey {
    fn from(key: WireKey) -> Self {
        Self::from_bytes(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_on_the_wire_and_in_the_cache() {
        let key = SessionKey::new("nodes", b"alice");

        assert_eq!(SessionKey::from(WireKey::from(key)), key);
    }

    #[test]
    fn another_seed_gives_another_key_and_another_bucket() {
        assert_ne!(PinKey::of(1, b"alice"), PinKey::of(2, b"alice"));
        assert_ne!(PinKey::of(1, b""), PinKey::of(1, b"\0"));
        assert_ne!(WireKey([7; 16]).hash(1), WireKey([7; 16]).hash(2));
    }

    /// Ids whose hashes begin alike can be ground out by anybody.
    #[test]
    fn wire_keys_that_begin_alike_do_not_share_a_bucket() {
        let bucket = |tail: u64| {
            let mut bytes = [9; 16];
            bytes[8..].copy_from_slice(&tail.to_le_bytes());
            WireKey(bytes).hash(0x1234_5678_9ABC_DEF1) >> 54
        };
        let mut counts = [0; 1_024];
        (0..10_240).for_each(|tail| counts[bucket(tail) as usize] += 1);

        assert!(counts.iter().all(|count| *count < 40), "{counts:?}");
    }
}
