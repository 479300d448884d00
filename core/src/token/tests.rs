//! What a token must be like, promise by promise. The keys are in `testdata/token`, which says how they were made.

mod attacks;
mod claims;
mod keys;
mod padding;
mod rfc;
mod suite;

use jsonwebtoken::EncodingKey;
use serde_json::json;
use spki::der::pem;

use super::*;

const NOW: Millis = Millis(1_800_000_000_000);
const SECRET: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const RSA: &str = include_str!("../../testdata/token/rsa-2048.pem");
const P256: &str = include_str!("../../testdata/token/p256.pem");
const P384: &str = include_str!("../../testdata/token/p384.pem");
const ED25519: &str = include_str!("../../testdata/token/ed25519.pem");

/// The key that verifies what `sign` signs by this algorithm.
fn key(algorithm: Algorithm) -> Key {
    let pem = match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            return Key::secret(Some("a"), SECRET).unwrap();
        }
        Algorithm::Es256 => P256,
        Algorithm::Es384 => P384,
        Algorithm::EdDsa => ED25519,
        _ => RSA,
    };
    Key::pem(Some("a"), pem).unwrap()
}

fn keys(algorithm: Algorithm) -> Keys {
    Keys::new(vec![key(algorithm)])
}

fn private_key(algorithm: Algorithm) -> EncodingKey {
    let der = |pem: &str| pem::decode_vec(pem.as_bytes()).unwrap().1;
    match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => EncodingKey::from_secret(SECRET),
        Algorithm::Es256 => {
            EncodingKey::from_ec_der(&der(include_str!("../../testdata/token/p256.private.pem")))
        }
        Algorithm::Es384 => {
            EncodingKey::from_ec_der(&der(include_str!("../../testdata/token/p384.private.pem")))
        }
        Algorithm::EdDsa => {
            EncodingKey::from_ed_der(&der(include_str!("../../testdata/token/ed25519.private.pem")))
        }
        _ => EncodingKey::from_rsa_der(&der(include_str!("../../testdata/token/rsa-2048.private.pem"))),
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A token whose header and payload are these bytes, signed by the issuer.
fn sign(algorithm: Algorithm, header: &str, payload: &[u8]) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &private_key(algorithm), algorithm.backend()).unwrap();
    format!("{signed}.{signature}")
}

fn header(algorithm: Algorithm) -> String {
    json!({"alg": algorithm.name(), "typ": "JWT", "kid": "a"}).to_string()
}

fn payload() -> Vec<u8> {
    json!({"sub": "ada", "player": {"id": 42}, "exp": NOW.0 / 1000 + 60}).to_string().into_bytes()
}

/// A token that is all right.
fn token(algorithm: Algorithm) -> String {
    sign(algorithm, &header(algorithm), &payload())
}

/// The verdict of a provider that trusts the test key for this algorithm.
fn verdict(algorithm: Algorithm, token: impl AsRef<[u8]>) -> Result<Claims, Refusal> {
    verify(token.as_ref(), &keys(algorithm), &Policy::new(vec![algorithm]), NOW)
}

fn refusal(algorithm: Algorithm, token: impl AsRef<[u8]>) -> Refusal {
    verdict(algorithm, token).unwrap_err()
}

#[test]
fn what_the_issuer_signed_is_accepted_whatever_it_signs_by() {
    for (name, algorithm) in Algorithm::ALL {
        let claims =
            verdict(algorithm, token(algorithm)).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));

        assert_eq!(claims.text(&ClaimPath::parse("player.id").unwrap()).as_deref(), Some("42"), "{name}");
        assert_eq!(claims.expires(), Some(Millis(NOW.0 + 60_000)));
    }
}

#[test]
fn what_another_key_signed_is_refused() {
    for (name, algorithm) in Algorithm::ALL {
        let token = token(algorithm);
        let (_, signature) = token.rsplit_once('.').unwrap();
        let (signed, _) = self::token(Algorithm::Hs256)
            .rsplit_once('.')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let foreign = signed.replacen(&encode(header(Algorithm::Hs256)), &encode(header(algorithm)), 1);
        let foreign =
            foreign.replacen(&encode(payload()), &encode(r#"{"sub": "eve", "exp": 9999999999}"#), 1);

        assert_eq!(refusal(algorithm, format!("{foreign}.{signature}")), Refusal::Signature, "{name}");
    }
}

#[test]
fn every_reason_has_a_name_of_its_own_and_only_expiry_is_told_to_clients() {
    let names: std::collections::BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    let challenges: std::collections::BTreeSet<&str> =
        Refusal::ALL.iter().map(|refusal| refusal.challenge()).collect();

    assert_eq!(names.len(), Refusal::ALL.len());
    assert_eq!(challenges.len(), 2);
    assert!(Refusal::Expired.challenge().contains("expired"));
    assert_eq!(Refusal::Signature.challenge(), Refusal::UnknownKey.challenge());
}
