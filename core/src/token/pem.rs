//! Public keys in PEM: which kind they are and the numbers in them.

use pkcs1::RsaPublicKey;
use spki::SubjectPublicKeyInfoRef;
use spki::der::asn1::{AnyRef, ObjectIdentifier};
use spki::der::pem;

use super::{Key, KeyError};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

pub(super) fn read(id: Option<&str>, text: &str) -> Result<Key, KeyError> {
    // Configurations indent and wrap; the form itself is strict.
    let (label, der) =
        pem::decode_vec(text.trim().as_bytes()).map_err(|_| match text.contains("PRIVATE KEY-----") {
            true => KeyError::PrivateKey,
            false => KeyError::NotPem,
        })?;
    match label {
        "PUBLIC KEY" => read_spki(id, &der),
        "RSA PUBLIC KEY" => read_rsa(id, &der),
        _ if label.ends_with("PRIVATE KEY") => Err(KeyError::PrivateKey),
        _ => Err(KeyError::NotPublicKey),
    }
}

fn read_spki(id: Option<&str>, der: &[u8]) -> Result<Key, KeyError> {
    let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| KeyError::Invalid)?;
    let key = info.subject_public_key.as_bytes().ok_or(KeyError::Invalid)?;
    let curve =
        info.algorithm.parameters.and_then(|any: AnyRef<'_>| any.decode_as::<ObjectIdentifier>().ok());
    match (info.algorithm.oid, curve, key.len()) {
        (RSA, ..) => read_rsa(id, key),
        // A point's length must be that of the curve that is named.
        (EC, Some(P256), 65) | (EC, Some(P384), 97) => Key::ec(id, key),
        (EC, Some(P256 | P384), _) => Err(KeyError::Invalid),
        (ED25519, ..) => Key::ed25519(id, key),
        _ => Err(KeyError::Unsupported),
    }
}

fn read_rsa(id: Option<&str>, der: &[u8]) -> Result<Key, KeyError> {
    let key = RsaPublicKey::try_from(der).map_err(|_| KeyError::Invalid)?;
    Key::rsa(id, key.modulus.as_bytes(), key.public_exponent.as_bytes())
}
