//! What a worker knows of one provider's tokens: the keys that its issuer publishes, the tokens that they have verified, and some that they have not.
//!
//! The configurations of one worker share it while their provider verifies alike, also while a former one goes on for a time.
//! So a reload forgets no token, and a key that is withdrawn is withdrawn for all of them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::config::{JwtProvider, Verification};
use crate::time::Millis;
use crate::token::{Cache, Digest, Facts, Failed, KeyTag, Keys, Limits, Refusal, Wanted};

/// Of one provider.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Those that the issuer publishes.
    keys: Rc<Keys>,
    verified: Cache<Rc<Facts>>,
    failed: Failed,
}

impl Known {
    pub(super) fn new(limits: Limits) -> Self {
        Self { keys: Rc::default(), verified: Cache::new(limits), failed: Failed::default() }
    }

    /// What the same provider knew under a former configuration, if what is true there is true here.
    pub(super) fn of_former(
        former: &Rc<RefCell<Self>>,
        (before, wanted_before): (&JwtProvider, &Wanted),
        (config, wanted): (&JwtProvider, &Wanted),
    ) -> Option<Rc<RefCell<Self>>> {
        if before.name != config.name || wanted_before != wanted {
            return None;
        }
        let known = match (&before.verification, &config.verification) {
            (Verification::Remote(before, from), Verification::Remote(policy, now_from))
                if before == policy && from.are_at(now_from) =>
            {
                Rc::clone(former)
            }
            (Verification::Keys(before, were), Verification::Keys(policy, keys)) if before == policy => {
                if were == keys {
                    Rc::clone(former)
                } else {
                    // The former configuration goes on with its own keys.
                    let mut known = former.borrow().clone();
                    known.forget_all_but(keys);
                    Rc::new(RefCell::new(known))
                }
            }
            _ => return None,
        };
        known.borrow_mut().verified.limit(config.cached);
        Some(known)
    }

    /// The keys that the issuer publishes.
    pub(super) fn keys(&self) -> Rc<Keys> {
        Rc::clone(&self.keys)
    }

    /// The issuer has published these. Tokens of a key that was withdrawn are no longer good.
    pub(super) fn set_keys(&mut self, keys: Keys) {
        if *self.keys != keys {
            self.forget_all_but(&keys);
        }
        self.keys = Rc::new(keys);
    }

    /// What a token says that was verified before.
    pub(super) fn verified(&mut self, digest: &Digest, tick: Millis) -> Option<Rc<Facts>> {
        self.verified.get(digest, tick).cloned()
    }

    /// This key has verified a token, which is good until then.
    pub(super) fn note_verified(&mut self, digest: Digest, signer: KeyTag, facts: &Rc<Facts>, until: Millis) {
        self.verified.insert(digest, signer, Rc::clone(facts), facts.bytes(), until);
    }

    /// Why a token was refused whose check failed lately.
    pub(super) fn refused(&self, digest: &Digest, now: Millis) -> Option<Refusal> {
        self.failed.get(digest, now)
    }

    /// The check of a token failed.
    pub(super) fn note_refused(&mut self, digest: Digest, refusal: Refusal, now: Millis) {
        self.failed.note(digest, refusal, now);
    }

    fn forget_all_but(&mut self, keys: &Keys) {
        self.failed.clear();
        self.verified.retain(|key| keys.have(key));
    }
}
