//! The keys of a provider, and which of them a token may be tried with.
//!
//! A [`Key`] that exists is one that can verify: too small, off its curve, or of a kind that is not offered, and it is not
//! made. Nothing of a key is in `Debug` output or in an error.

use std::{error, fmt};

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use sha2::{Digest as _, Sha256};

use super::algorithm::KeyKind;
use super::{Algorithm, MAX_TRIES, Refusal, pem};

/// Smaller RSA keys are within reach of factoring (RFC 7518, section 3.3); larger ones than the backend takes cost a
/// millisecond a token.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// The largest exponent in use is 65537; a huge one makes each check expensive.
const MAX_EXPONENT_BYTES: usize = 4;
/// As long as the shortest hash (RFC 7518, section 3.2).
const LEAST_SECRET: usize = 32;

/// One key that can verify.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    /// The only one it is for, if its publisher says so.
    algorithm: Option<Algorithm>,
    kind: KeyKind,
    material: DecodingKey,
    /// Of all of the above, to tell whether keys have changed.
    fingerprint: [u8; 32],
}

impl Key {
    /// A secret that is shared with the issuer.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`] if it has less than 32 bytes.
    pub fn secret(id: Option<&str>, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < LEAST_SECRET {
            return Err(KeyError::ShortSecret);
        }
        Self::new(id, KeyKind::Secret(secret.len()), DecodingKey::from_secret(secret), &[secret])
    }

    /// A public key as OpenSSL writes it: `PUBLIC KEY` (RFC 7468) or `RSA PUBLIC KEY`.
    ///
    /// # Errors
    /// If it is something else, or not of a kind that is offered.
    pub fn pem(id: Option<&str>, text: &str) -> Result<Self, KeyError> {
        pem::read(id, text)
    }

    /// Modulus and exponent, big-endian.
    pub(super) fn rsa(id: Option<&str>, modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&(modulus.len() * 8 - unused)) {
            return Err(KeyError::RsaSize);
        }
        // Odd, and at least 3: 1 would accept a signature that is the message.
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        let is_sound = is_odd(modulus) && is_odd(exponent) && exponent != [1];
        if !is_sound || exponent.len() > MAX_EXPONENT_BYTES {
            return Err(KeyError::Invalid);
        }
        let material = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Self::new(id, KeyKind::Rsa, material, &[modulus, exponent])
    }

    /// An uncompressed point (SEC 1, section 2.3.3) on P-256 or P-384, by its length.
    pub(super) fn ec(id: Option<&str>, point: &[u8]) -> Result<Self, KeyError> {
        let kind = match point {
            [4, coordinates @ ..] if coordinates.len() == 2 * 32 => KeyKind::P256,
            [4, coordinates @ ..] if coordinates.len() == 2 * 48 => KeyKind::P384,
            _ => return Err(KeyError::Invalid),
        };
        Self::new(id, kind, DecodingKey::from_ec_der(point), &[point])
    }

    /// A point on Ed25519.
    pub(super) fn ed25519(id: Option<&str>, point: &[u8]) -> Result<Self, KeyError> {
        // The backend counts on this length.
        if point.len() != 32 {
            return Err(KeyError::Invalid);
        }
        Self::new(id, KeyKind::Ed25519, DecodingKey::from_ed_der(point), &[point])
    }

    /// The same, for this algorithm only.
    pub(super) fn only_for(self, algorithm: Algorithm) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.fingerprint);
        hash.update(algorithm.name());
        Self { algorithm: Some(algorithm), fingerprint: hash.finalize().into(), ..self }
    }

    fn new(
        id: Option<&str>,
        kind: KeyKind,
        material: DecodingKey,
        parts: &[&[u8]],
    ) -> Result<Self, KeyError> {
        let mut hash = Sha256::new();
        for part in [id.map_or(b"".as_slice(), str::as_bytes)].iter().chain(parts) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update([u8::from(id.is_some()), kind.number()]);
        let key = Self {
            id: id.map(str::to_owned),
            algorithm: None,
            kind,
            material,
            fingerprint: hash.finalize().into(),
        };
        // Points that are not on their curve show now, not with the first token.
        let is_usable = Algorithm::ALL.iter().any(|(_, algorithm)| {
            (DEFAULT_PROVIDER.verifier_factory)(&algorithm.backend(), &key.material).is_ok()
        });
        if is_usable { Ok(key) } else { Err(KeyError::Invalid) }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it is shared with the issuer.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, KeyKind::Secret(_))
    }

    /// Whether it may verify what is signed by `algorithm`.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm.fits(self.kind) && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// What tells it from any other key, in few bytes.
    #[must_use]
    pub fn tag(&self) -> KeyTag {
        KeyTag(self.fingerprint.first_chunk().copied().map_or(0, u64::from_le_bytes))
    }

    /// Whether this key signed `message`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &Vec<u8>) -> bool {
        // Through the provider, not `jsonwebtoken::crypto::verify`: that one asks a global which provider is installed,
        // panics if another crate turned a second one on, and links the signers.
        self.fits(algorithm)
            && (DEFAULT_PROVIDER.verifier_factory)(&algorithm.backend(), &self.material)
                .is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }
}

/// Configurations are logged; keys must not be.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            KeyKind::Secret(_) => "secret",
            KeyKind::Rsa => "RSA",
            KeyKind::P256 => "P-256",
            KeyKind::P384 => "P-384",
            KeyKind::Ed25519 => "Ed25519",
        };
        write!(f, "Key({kind}, {:?})", self.id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Key {}

/// What tells a key from others: with its id, its algorithm and its material.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyTag(pub(super) u64);

/// The keys of one provider.
///
/// Two are equal if they hold the same keys, in whatever order: then what was verified with the one still is with the other.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        let are_in = |some: &Self, all: &Self| some.0.iter().all(|key| all.0.contains(key));
        are_in(self, other) && are_in(other, self)
    }
}

impl Eq for Keys {}

impl Keys {
    /// These keys.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if this key is one of them.
    #[must_use]
    pub fn have(&self, key: KeyTag) -> bool {
        self.0.iter().any(|known| known.tag() == key)
    }

    /// The same for equal keys, however they were written; never 0.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let each = self.0.iter().enumerate();
        let once = each.filter(|(place, key)| self.0.iter().take(*place).all(|known| known != *key));
        // A sum does not depend on the order.
        once.fold(0_u64, |sum, (_, key)| sum.wrapping_add(key.tag().0)).max(1)
    }

    /// Whether any of them may verify what is signed by one of `algorithms`.
    #[must_use]
    pub fn fit_any(&self, algorithms: &[Algorithm]) -> bool {
        self.0.iter().any(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm)))
    }

    /// Those that a token with this header may be signed with. Keys of the id that it names; if no key has it, keys
    /// without an id, which may have any. A token that names none may be signed with any key.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Candidates<'_>, Refusal> {
        let are_named = id.is_some() && self.0.iter().any(|key| key.id() == id);
        let is_named = |key: &&Key| match (are_named, id) {
            (true, _) => key.id() == id,
            (false, Some(_)) => key.id.is_none(),
            (false, None) => true,
        };
        let keys: Vec<&Key> =
            self.0.iter().filter(is_named).filter(|key| key.fits(algorithm)).take(MAX_TRIES).collect();
        match keys.is_empty() {
            false => Ok(Candidates { keys, are_named }),
            true if are_named => Err(Refusal::Algorithm),
            true => Err(Refusal::UnknownKey),
        }
    }
}

/// The keys that a token may be signed with.
pub(super) struct Candidates<'k> {
    /// At least one, and no more than a token is tried with.
    pub(super) keys: Vec<&'k Key>,
    /// The token names them. Otherwise any of them may have signed it.
    pub(super) are_named: bool,
}

/// Why a key cannot be used. Nothing of the key is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// A secret that could be guessed.
    ShortSecret,
    /// An RSA key that could be factored, or that is beyond what is offered.
    RsaSize,
    /// Not PEM.
    NotPem,
    /// PEM, but of something else.
    NotPublicKey,
    /// A private key, which has no business here.
    PrivateKey,
    /// Of a kind or on a curve that is not offered.
    Unsupported,
    /// Not a key: off its curve, of a wrong length, or with parameters that no issuer would choose.
    Invalid,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortSecret => write!(f, "is too short: take at least {LEAST_SECRET} random bytes"),
            Self::RsaSize => {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                write!(
                    f,
                    "is an RSA key of another size than {least} to {most} bits: take a larger or smaller one"
                )
            }
            Self::NotPem => {
                f.write_str("is not PEM: it begins with -----BEGIN PUBLIC KEY-----, its lines are kept")
            }
            Self::NotPublicKey => {
                f.write_str("is not a public key: openssl pkey -pubout, or openssl x509 -pubkey, writes one")
            }
            Self::PrivateKey => f.write_str(
                "is a private key: keep it with the issuer, give what openssl pkey -pubout writes of it",
            ),
            Self::Unsupported => {
                f.write_str("is of a kind that is not offered: take RSA, P-256, P-384 or Ed25519")
            }
            Self::Invalid => f.write_str("is not a usable key: make a new one"),
        }
    }
}

impl error::Error for KeyError {}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
