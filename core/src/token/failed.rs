//! Tokens whose check failed lately, so that the same forgery sent again costs a hash and not a signature check.
//!
//! A table of fixed size, in which a token has one place by its SHA-256 and pushes out what was there: garbage that is sent once
//! each pushes out other garbage, and nothing else. A token is believed to be bad for a short time only, as a clock may be set right.

use super::{Digest, Refusal};
use crate::time::Millis;

/// 48 KB of a worker and provider, allocated with the first failure.
const SLOTS: usize = 1_024;
/// A forgery costs one check in this time.
const REMEMBERED: Millis = Millis(60_000);

/// Of one provider. After a change of keys it must be cleared.
#[derive(Debug, Clone, Default)]
pub struct Failed(Vec<Option<Failure>>);

#[derive(Debug, Clone, Copy)]
struct Failure {
    digest: Digest,
    refusal: Refusal,
    at: Millis,
}

impl Failed {
    /// Why this token was refused, if it was lately.
    #[must_use]
    pub fn get(&self, digest: &Digest, now: Millis) -> Option<Refusal> {
        let known = self.0.get(place(digest)).and_then(Option::as_ref)?;
        let is_it = known.digest == *digest && !REMEMBERED.is_over(known.at, now);
        is_it.then_some(known.refusal)
    }

    /// The check of this token failed.
    pub fn note(&mut self, digest: Digest, refusal: Refusal, now: Millis) {
        if self.0.is_empty() {
            self.0.resize(SLOTS, None);
        }
        if let Some(slot) = self.0.get_mut(place(&digest)) {
            *slot = Some(Failure { digest, refusal, at: now });
        }
    }

    /// Other keys may verify them.
    pub fn clear(&mut self) {
        self.0.fill(None);
    }
}

fn place(digest: &Digest) -> usize {
    usize::from(digest.low_bits()) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_known_for_a_minute_and_until_keys_change() {
        let mut failed = Failed::default();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        assert_eq!(failed.get(&one, Millis(0)), None);
        failed.note(one, Refusal::Signature, Millis(1_000));

        assert_eq!(failed.get(&one, Millis(60_999)), Some(Refusal::Signature));
        assert_eq!(failed.get(&other, Millis(1_000)), None);
        assert_eq!(failed.get(&one, Millis(61_000)), None);
        assert_eq!(failed.get(&one, Millis(0)), None, "the clock was set back");
        failed.clear();
        assert_eq!(failed.get(&one, Millis(1_000)), None);
    }

    #[test]
    fn garbage_takes_no_more_memory_than_its_table() {
        let mut failed = Failed::default();
        let digests: Vec<Digest> = (0..100_000_u32).map(|token| Digest::of(&token.to_le_bytes())).collect();
        for digest in &digests {
            failed.note(*digest, Refusal::Signature, Millis(0));
            assert_eq!(failed.get(digest, Millis(0)), Some(Refusal::Signature));
        }

        assert_eq!(failed.0.capacity(), SLOTS);
        let known = digests.iter().filter(|digest| failed.get(digest, Millis(0)).is_some()).count();
        assert_eq!(known, SLOTS);
    }
}
