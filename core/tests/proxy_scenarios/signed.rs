//! Tokens as an issuer signs them, with the keys of `testdata/token`, and what came of them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use berth_core::proxy::{Proxy, token_results};
use berth_core::token::Key;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::fake::{Fake, NOW, of, see_members};

pub(crate) const RSA: &str = include_str!("../../testdata/token/rsa-2048.pem");
pub(crate) const P256: &str = include_str!("../../testdata/token/p256.pem");

/// One pool without a state service, whose sessions the tokens of this provider name.
pub(crate) fn by_token(provider: &Value) -> Proxy {
    let mut provider = provider.clone();
    provider["name"] = "players".into();
    let mut proxy = of(&json!({
        "v": 1,
        "jwt_providers": [provider],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}], "missing": "reject"}
        }]
    }));
    see_members(&mut proxy);
    proxy
}

/// A provider whose issuer publishes its keys.
pub(crate) fn remote() -> Value {
    json!({
        "algorithms": ["RS256", "ES256"],
        "remote_jwks": {"cluster": "idp", "host": "id.example.com", "path": "/jwks.json"}
    })
}

pub(crate) fn key(id: &str, pem: &str) -> Key {
    Key::pem(Some(id), pem).unwrap()
}

/// A token with these claims and an hour to live; `RS256` or `ES256`.
pub(crate) fn sign(algorithm: &str, id: Option<&str>, mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = (NOW.0 / 1000 + 3_600).into();
    }
    let mut header = json!({"alg": algorithm});
    if let Some(id) = id {
        header["kid"] = id.into();
    }
    let private = match algorithm {
        "RS256" => EncodingKey::from_rsa_der(&der(include_str!("../../testdata/token/rsa-2048.private.pem"))),
        _ => EncodingKey::from_ec_der(&der(include_str!("../../testdata/token/p256.private.pem"))),
    };
    let signed = [&header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &private, algorithm.parse().unwrap()).unwrap();
    format!("{signed}.{signature}")
}

pub(crate) fn bearing(token: &str) -> Fake {
    Fake::new(&[("authorization", &format!("Bearer {token}"))])
}

/// What came of tokens since this was last asked.
pub(crate) fn results(proxy: &Proxy) -> BTreeMap<&'static str, u64> {
    let names: Vec<&str> = token_results().collect();
    let provider = proxy.tokens.iter().next().unwrap();
    provider.take_counts().map(|(index, count)| (names[index], count)).collect()
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}
