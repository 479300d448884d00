//! JSON Web Tokens: whether one is what its issuer signed, for us and for now, and what it claims.
//!
//! Decides by bytes, keys, a policy and `now` alone. It decides neither where keys come from nor what a refusal means for
//! the request. The arithmetic is `jsonwebtoken`'s; what is taken apart, in which order and what is refused is here,
//! because that is where tokens are attacked: a header is the sender's word until a key has confirmed it, so it selects
//! among what the policy allows and nothing more. Keys within a header (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
//!
//! Read next: `jws` for what a token may look like, `keys` for which key may say that it is true, `claims` for what it
//! says, [`Cache`] for not doing all that twice.

mod algorithm;
mod cache;
mod claims;
mod failed;
mod json;
mod jwks;
mod jws;
mod keys;
mod outlook;
mod path;
mod pem;
mod refusal;
mod source;
mod wanted;

pub use self::algorithm::Algorithm;
pub use self::cache::{Cache, Digest, Limits};
pub use self::claims::Claims;
pub use self::failed::Failed;
pub use self::jwks::{JwksError, MAX_BYTES as MAX_JWKS};
pub use self::keys::{Key, KeyError, KeyTag, Keys};
pub use self::outlook::{Outlook, outlook};
pub use self::path::{ClaimPath, ClaimPathError};
pub use self::refusal::Refusal;
pub use self::source::{TokenSource, find, locate};
pub use self::wanted::{Facts, Form, Slot, Wanted};

use self::jws::Jws;
use self::keys::Candidates;
use crate::time::Millis;

/// The longest token that is looked at. Envoy takes 60 KiB of headers in all; tokens with a user's every group are 8 KiB.
pub const MAX_TOKEN: usize = 16 * 1024;
/// The longest `kid`: ten times what issuers use. Each is compared with those of all keys.
pub(crate) const MAX_KEY_ID: usize = 1024;
/// How many keys one token may be tried with: each costs a signature check, and the sender pays nothing. More than two of one id, the
/// old and the new, are an issuer's mistake.
const MAX_TRIES: usize = 4;

/// What a token must satisfy besides its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Those that may have signed it. There is no default: a verifier that lets the token choose is the classic mistake.
    pub algorithms: Vec<Algorithm>,
    /// What `iss` must be, character by character.
    pub issuer: Option<String>,
    /// One of them must be in `aud`; none means that `aud` is not looked at.
    pub audiences: Vec<String>,
    /// How far the issuer's clock may be from ours.
    pub leeway: Millis,
    /// Refuse tokens that never expire.
    pub require_expiry: bool,
    /// Try several keys with a token that names none of them.
    pub try_keys: bool,
    /// Accept tokens whose issuer pads base64 with `=`, as AWS's load balancer does, besides those without.
    pub allow_padding: bool,
}

impl Policy {
    /// The default leeway: clocks that NTP keeps are within it by far.
    pub const DEFAULT_LEEWAY: Millis = Millis(60_000);

    /// One that asks for nothing but a signature by one of `algorithms` and an expiry that is not over.
    #[must_use]
    pub fn new(algorithms: Vec<Algorithm>) -> Self {
        Self {
            algorithms,
            issuer: None,
            audiences: Vec::new(),
            leeway: Self::DEFAULT_LEEWAY,
            require_expiry: true,
            try_keys: false,
            allow_padding: false,
        }
    }
}

/// Reads a token in compact form and checks it: first the signature, then what it claims, so that who cannot sign learns
/// nothing about the policy.
///
/// # Errors
/// The first reason to refuse it. [`Refusal::UnknownKey`] may be cured by fetching keys again.
///
/// ```
/// use berth_core::time::Millis;
/// use berth_core::token::{self, Algorithm, Key, Keys, Policy, Refusal};
///
/// let keys = Keys::new(vec![Key::secret(Some("a"), b"a secret of at least 32 bytes ..")?]);
/// let policy = Policy::new(vec![Algorithm::Hs256]);
///
/// let refusal = token::verify(b"eyJhbGciOiJub25lIn0.e30.", &keys, &policy, Millis(0)).unwrap_err();
/// assert_eq!(refusal, Refusal::Algorithm);
/// # Ok::<(), token::KeyError>(())
/// ```
pub fn verify(token: &[u8], keys: &Keys, policy: &Policy, now: Millis) -> Result<Claims, Refusal> {
    Unverified::read(token, keys, policy)?.verify(policy, now).map(|(claims, _)| claims)
}

/// A token taken apart, with the keys that may have signed it. Nothing of it is true yet, and no signature was checked.
pub struct Unverified<'t, 'k> {
    jws: Jws<'t>,
    keys: Vec<&'k Key>,
}

impl<'t, 'k> Unverified<'t, 'k> {
    /// Takes a token apart, and finds the keys that it may be signed with.
    ///
    /// # Errors
    /// The first reason to refuse it, whatever its signature.
    pub fn read(token: &'t [u8], keys: &'k Keys, policy: &Policy) -> Result<Self, Refusal> {
        let jws = Jws::read(token, policy.allow_padding)?;
        if !policy.algorithms.contains(&jws.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let Candidates { keys, are_named } = keys.candidates(jws.key_id.as_deref(), jws.algorithm)?;
        if !are_named && !policy.try_keys && keys.len() > 1 {
            return Err(Refusal::AmbiguousKey);
        }
        Ok(Self { jws, keys })
    }

    /// The least time that checking its signature may take, in microseconds, where others can send what costs it: 0 for secrets.
    #[must_use]
    pub fn least_cost(&self) -> u64 {
        self.jws.algorithm.least_cost() * self.keys.len() as u64
    }

    /// How far ahead of `now` the token says that its time begins.
    #[must_use]
    pub fn ahead(&self, now: Millis) -> Option<Millis> {
        let claims = self.jws.payload().and_then(|payload| Claims::from_payload(&payload)).ok()?;
        claims.begins().map(|begins| begins.since(now))
    }

    /// Checks the signature, then the claims. With these comes the key that signed them.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn verify(&self, policy: &Policy, now: Millis) -> Result<(Claims, KeyTag), Refusal> {
        let Jws { algorithm, signed, signature, .. } = &self.jws;
        let signer = self.keys.iter().find(|key| key.verifies(*algorithm, signed, signature));
        let signer = signer.ok_or(Refusal::Signature)?.tag();
        let claims = Claims::from_payload(&self.jws.payload()?)?;
        claims.check(policy, now)?;
        Ok((claims, signer))
    }
}

#[cfg(test)]
mod tests;
