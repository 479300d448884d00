//! An issuer of tests: tokens signed with the keys of core's tests, and the key sets that it publishes.
//!
//! The state service's tests include it by path, as neither crate may depend on the other; so it knows nothing of worlds.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// For the HS algorithms: 64 bytes.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub(crate) const RSA: &str = include_str!("../../../core/testdata/token/rsa-2048.pem");
pub(crate) const P256: &str = include_str!("../../../core/testdata/token/p256.pem");
pub(crate) const ED25519: &str = include_str!("../../../core/testdata/token/ed25519.pem");

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims, and an expiry unless they have one.
pub(crate) fn sign(algorithm: Algorithm, kid: &str, mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = (now() + 600).into();
    }
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    encode(&header, &claims, &private_key(algorithm)).unwrap()
}

/// These bytes below this header, signed whatever they say; the key of HS256 is `secret` here.
pub(crate) fn sign_bytes(algorithm: Algorithm, secret: &str, header: &Value, payload: &[u8]) -> String {
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", text(header.to_string().as_bytes()), text(payload));
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(secret.as_bytes()),
        other => private_key(other),
    };
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

/// A token by the RSA key, known as `a`.
pub(crate) fn token(claims: Value) -> String {
    sign(Algorithm::RS256, "a", claims)
}

/// What the issuer publishes: public keys of these algorithms by these ids.
pub(crate) fn key_set(keys: &[(&str, Algorithm)]) -> String {
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
        Algorithm::HS256 => EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::ES256 => {
            EncodingKey::from_ec_der(&der(include_str!("../../../core/testdata/token/p256.private.pem")))
        }
        Algorithm::EdDSA => {
            EncodingKey::from_ed_der(&der(include_str!("../../../core/testdata/token/ed25519.private.pem")))
        }
        _ => {
            EncodingKey::from_rsa_der(&der(include_str!("../../../core/testdata/token/rsa-2048.private.pem")))
        }
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}
