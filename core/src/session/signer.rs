//! Ids that no one else can make: those that Berth issues may bear a signature.
//!
//! Clients can invent ids, and each costs a claim in the state cluster. An id that was signed shows that Berth gave it out. The
//! signature is half of an HMAC with SHA-256 (RFC 2104; truncated as its section 5 allows) over the name of the cookie and the id's
//! random part. Both are in hex, one after the other, and together they are the id: so the hash of the whole value is the place on
//! the ring, for Envoy's own hash policies too.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{RANDOM_DIGITS, SessionId, hex};

/// The least length of a key: that of the hash, as RFC 2104 advises.
pub const LEAST_SIGNING_KEY: usize = 32;

/// What of the HMAC an id bears.
const SIGNATURE_BYTES: usize = 16;

/// Signs the ids of one cookie, and knows those that it signed.
#[derive(Clone)]
pub struct Signer {
    /// With the key and the cookie's name taken in. The first one signs.
    keys: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// For the cookie of this name. The first key signs, and what any of them signed is accepted. `None` without a key, or if one
    /// has less than [`LEAST_SIGNING_KEY`] bytes.
    #[must_use]
    pub fn new(cookie: &str, keys: &[Vec<u8>]) -> Option<Self> {
        let with_name = |key: &Vec<u8>| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(cookie.as_bytes());
            // No cookie's name has it, so no name and id read like others.
            mac.update(b"=");
            (key.len() >= LEAST_SIGNING_KEY).then_some(mac)
        };
        let keys = keys.iter().map(with_name).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// An id of the caller's randomness.
    #[must_use]
    pub fn sign(&self, random: [u8; 16]) -> SessionId {
        let mut id: Vec<u8> = hex(&random).collect();
        if let Some(mac) = self.keys.first() {
            id.extend(signature(mac, &id));
        }
        SessionId(id)
    }

    /// Whether the id is one of [`Self::sign`], with any of the keys.
    #[must_use]
    pub fn has_signed(&self, id: &SessionId) -> bool {
        let Some((digits, given)) = id.0.split_at_checked(RANDOM_DIGITS) else { return false };
        // In constant time, so that no signature is found digit by digit.
        self.keys.iter().any(|mac| signature(mac, digits).ct_eq(given).into())
    }
}

/// In hex. Once in the filter, whose size is a budget.
#[inline(never)]
fn signature(mac: &Hmac<Sha256>, digits: &[u8]) -> Vec<u8> {
    let whole = mac.clone().chain_update(digits).finalize().into_bytes();
    hex(whole.get(..SIGNATURE_BYTES).unwrap_or_default()).collect()
}

/// Equal if they sign alike and accept the same.
impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        let marks = |signer: &Self| -> Vec<_> {
            signer.keys.iter().map(|mac| mac.clone().finalize().into_bytes()).collect()
        };
        marks(self) == marks(other)
    }
}

impl Eq for Signer {}

/// Keys are not shown.
impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Signer({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Vec<u8> {
        vec![byte; LEAST_SIGNING_KEY]
    }

    #[test]
    fn ids_of_each_key_are_known_and_no_others() {
        let old = Signer::new("sid", &[key(1)]).unwrap();
        let new = Signer::new("sid", &[key(2), key(1)]).unwrap();
        let (of_old, of_new) = (old.sign([7; 16]), new.sign([7; 16]));

        assert_eq!(of_old.as_bytes().len(), 64);
        assert!(new.has_signed(&of_old) && new.has_signed(&of_new) && old.has_signed(&of_old));
        assert!(!old.has_signed(&of_new));
        assert!(!Signer::new("other", &[key(1)]).unwrap().has_signed(&of_old), "another cookie's");
        assert!(!old.has_signed(&SessionId::from_random([7; 16])));
    }

    #[test]
    fn an_id_that_was_changed_anywhere_is_not_known() {
        let signer = Signer::new("sid", &[key(1)]).unwrap();
        let id = signer.sign([0xab; 16]);
        let known = |bytes: Vec<u8>| signer.has_signed(&SessionId::new(bytes).unwrap());
        for place in 0..id.as_bytes().len() {
            for digit in [b'0', b'1', b'A', b'-'] {
                let mut bytes = id.as_bytes().to_vec();
                bytes[place] = digit;
                assert_eq!(known(bytes), id.as_bytes()[place] == digit);
            }
        }
        for bytes in [&id.as_bytes()[..63], &id.as_bytes()[..32], &[id.as_bytes(), b"0"].concat(), b"x"] {
            assert!(!known(bytes.to_vec()));
        }
        assert!(!known(id.as_bytes().to_ascii_uppercase()), "one session has one id");
    }

    #[test]
    fn the_signature_is_an_hmac_with_sha_256() {
        // printf 'sid=00000000000000000000000000000000' | openssl dgst -sha256 -hmac 01010101010101010101010101010101
        let signer = Signer::new("sid", &[b"01010101010101010101010101010101".to_vec()]).unwrap();
        let expected = "1646e5a8240146f41508f8c32b625139";
        assert_eq!(signer.sign([0; 16]).as_bytes()[32..], *expected.as_bytes());
    }

    #[test]
    fn short_keys_make_no_signer() {
        assert!(Signer::new("sid", &[]).is_none());
        assert!(Signer::new("sid", &[key(1), vec![1; 31]]).is_none());
    }
}
