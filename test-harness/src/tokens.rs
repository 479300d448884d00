//! Tokens as an issuer signs them, with the keys of core's tests, and the key sets that it publishes. The keys are
//! public: they are in this repository.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

pub use jsonwebtoken::Algorithm;

/// For the HS algorithms: 64 bytes.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// A public key, as the next two.
pub const RSA: &str = include_str!("../../core/testdata/token/rsa-2048.pem");
/// On the curve P-256.
pub const P256: &str = include_str!("../../core/testdata/token/p256.pem");
/// Of EdDSA.
pub const ED25519: &str = include_str!("../../core/testdata/token/ed25519.pem");

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims, and an expiry in ten minutes unless they have one.
///
/// # Panics
/// If there is no private key for the algorithm's curve.
pub fn sign(algorithm: Algorithm, kid: &str, mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = (now() + 600).into();
    }
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    encode(&header, &claims, &private_key(algorithm)).unwrap()
}

/// These bytes below this header, signed whatever they say; the key of HS256 is `secret` here.
pub fn sign_bytes(algorithm: Algorithm, secret: &str, header: &Value, payload: &[u8]) -> String {
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(secret.as_bytes()),
        other => private_key(other),
    };
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

/// The same with its base64 padded, and signed as it stands: what AWS's load balancer sends.
pub fn sign_padded(algorithm: Algorithm, header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", URL_SAFE.encode(header.to_string()), URL_SAFE.encode(claims.to_string()));
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &private_key(algorithm), algorithm).unwrap();
    format!("{signed}.{}", URL_SAFE.encode(URL_SAFE_NO_PAD.decode(signature).unwrap()))
}

/// What the issuer publishes: public keys of these algorithms by these ids.
pub fn key_set(keys: &[(&str, Algorithm)]) -> String {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(kid, algorithm)| {
            let mut jwk = Jwk::from_encoding_key(&private_key(*algorithm), *algorithm).unwrap();
            jwk.common.key_id = Some((*kid).to_owned());
            serde_json::to_value(jwk).unwrap()
        })
        .collect();
    json!({"keys": keys}).to_string()
}

fn private_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::ES256 => {
            EncodingKey::from_ec_der(&der(include_str!("../../core/testdata/token/p256.private.pem")))
        }
        Algorithm::ES384 => {
            EncodingKey::from_ec_der(&der(include_str!("../../core/testdata/token/p384.private.pem")))
        }
        Algorithm::EdDSA => {
            EncodingKey::from_ed_der(&der(include_str!("../../core/testdata/token/ed25519.private.pem")))
        }
        _ => EncodingKey::from_rsa_der(&der(include_str!("../../core/testdata/token/rsa-2048.private.pem"))),
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}
