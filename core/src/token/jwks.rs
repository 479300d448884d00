//! Sets of keys as issuers publish them (RFC 7517).
//!
//! A set holds keys for others too: of a kind that is not offered, for encryption, of a size that is not trusted. Such keys
//! are skipped, because a new kind of key must not take the old ones down. A set of which nothing is left is an error.

use std::{error, fmt};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, Key, Keys, MAX_KEY_ID, json};

/// No set may be longer. The largest in use have some ten keys with certificates of 2 KiB each.
pub const MAX_BYTES: usize = 64 * 1024;
/// More keys would never be tried: see `MAX_TRIES`.
pub(crate) const MAX_KEYS: usize = 64;

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwksError {
    /// Larger than any issuer's.
    TooLarge,
    /// Not a JSON object with an array `keys`, or a member is given twice.
    Malformed,
    /// More keys than any issuer has.
    TooManyKeys,
    /// No key of it can be used.
    NoUsableKey,
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(
                f,
                "is larger than {MAX_BYTES} bytes: publish only keys that are in use, without certificates (x5c)"
            ),
            Self::Malformed => f.write_str("is not a JSON object with an array of keys, each member once"),
            Self::TooManyKeys => {
                write!(f, "has more than {MAX_KEYS} keys: publish only those that are in use")
            }
            Self::NoUsableKey => f.write_str(
                "has no usable key: one for signatures (RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519)",
            ),
        }
    }
}

impl error::Error for JwksError {}

/// Where a set comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Published: a secret in it is no longer secret, so it is skipped.
    Remote,
    /// In the configuration.
    Inline,
}

impl Keys {
    /// The usable keys of a set that an issuer published.
    ///
    /// # Errors
    /// If it is not a set of keys, too large, or has no usable key. Secrets (`oct`) are not usable: everybody can read them.
    pub fn from_jwks(json: &[u8]) -> Result<Self, JwksError> {
        read(&parse(json)?, Origin::Remote)
    }

    /// The usable keys of a set that an operator keeps, which may hold secrets.
    ///
    /// # Errors
    /// If it is not a set of keys, too large, or has no usable key.
    pub fn from_configured_jwks(json: &[u8]) -> Result<Self, JwksError> {
        read(&parse(json)?, Origin::Inline)
    }

    /// The same, within a document that was parsed already.
    pub(crate) fn from_inline_jwks(set: &Map<String, Value>) -> Result<Self, JwksError> {
        read(set, Origin::Inline)
    }
}

fn parse(json: &[u8]) -> Result<Map<String, Value>, JwksError> {
    if json.len() > MAX_BYTES {
        return Err(JwksError::TooLarge);
    }
    json::object(json).ok_or(JwksError::Malformed)
}

fn read(set: &Map<String, Value>, origin: Origin) -> Result<Keys, JwksError> {
    let keys = set.get("keys").and_then(Value::as_array).ok_or(JwksError::Malformed)?;
    if keys.len() > MAX_KEYS {
        return Err(JwksError::TooManyKeys);
    }
    let keys: Vec<Key> =
        keys.iter().filter_map(Value::as_object).filter_map(|jwk| read_key(jwk, origin)).collect();
    if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(Keys::new(keys)) }
}

/// `None` if it cannot verify tokens, for whatever reason.
fn read_key(jwk: &Map<String, Value>, origin: Origin) -> Option<Key> {
    if !is_for_signatures(jwk) {
        return None;
    }
    let id = text(jwk, "kid")?;
    if id.is_some_and(|id| id.len() > MAX_KEY_ID) {
        return None;
    }
    let number = |name| jwk.get(name).and_then(Value::as_str).and_then(decode);
    let curve = jwk.get("crv").and_then(Value::as_str);
    let key = match (jwk.get("kty")?.as_str()?, curve) {
        ("RSA", _) => Key::rsa(id, &number("n")?, &number("e")?),
        ("EC", Some("P-256")) => Key::ec(id, &point(&number("x")?, &number("y")?, 32)?),
        ("EC", Some("P-384")) => Key::ec(id, &point(&number("x")?, &number("y")?, 48)?),
        ("OKP", Some("Ed25519")) => Key::ed25519(id, &number("x")?),
        ("oct", _) if origin == Origin::Inline => Key::secret(id, &number("k")?),
        _ => return None,
    };
    let key = key.ok()?;
    let Some(name) = text(jwk, "alg")? else { return Some(key) };
    let algorithm = Algorithm::named(name).filter(|algorithm| key.fits(*algorithm))?;
    Some(key.only_for(algorithm))
}

/// Whether its publisher means it for verifying signatures.
fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let usage = jwk.get("use").is_none_or(|usage| usage == "sig");
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    usage && operations
}

/// A member that may be missing, but if it is there must be a string.
fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Option<Option<&'j str>> {
    jwk.get(name).map_or(Some(None), |value| value.as_str().map(Some))
}

/// Both coordinates must have the length of the curve (RFC 7518, section 6.2.1.2).
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
