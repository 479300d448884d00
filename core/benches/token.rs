//! What a token costs: a signature check by each algorithm, and a token that was checked before.
//!
//! `cargo bench -p berth-core --bench token`

use std::hint::black_box;

use berth_core::time::Millis;
use berth_core::token::{Algorithm, Cache, Claims, Digest, Key, Keys, Limits, Policy, Unverified, verify};
use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use spki::der::pem;

const NOW: Millis = Millis(1_800_000_000_000);
const SECRET: &[u8; 64] = &[7; 64];

fn key_pair(algorithm: Algorithm) -> (Key, EncodingKey) {
    let der = |pem: &str| pem::decode_vec(pem.as_bytes()).unwrap().1;
    let public = |pem: &str| Key::pem(None, pem).unwrap();
    match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            (Key::secret(None, SECRET).unwrap(), EncodingKey::from_secret(SECRET))
        }
        Algorithm::Es256 => (
            public(include_str!("../testdata/token/p256.pem")),
            EncodingKey::from_ec_der(&der(include_str!("../testdata/token/p256.private.pem"))),
        ),
        Algorithm::Es384 => (
            public(include_str!("../testdata/token/p384.pem")),
            EncodingKey::from_ec_der(&der(include_str!("../testdata/token/p384.private.pem"))),
        ),
        Algorithm::EdDsa => (
            public(include_str!("../testdata/token/ed25519.pem")),
            EncodingKey::from_ed_der(&der(include_str!("../testdata/token/ed25519.private.pem"))),
        ),
        _ => (
            public(include_str!("../testdata/token/rsa-2048.pem")),
            EncodingKey::from_rsa_der(&der(include_str!("../testdata/token/rsa-2048.private.pem"))),
        ),
    }
}

/// The claims of a common identity provider, about 300 bytes.
fn token(algorithm: Algorithm, key: &EncodingKey, player: u32) -> String {
    let claims = json!({
        "iss": "https://id.example.com/realms/games",
        "aud": ["games", "account"],
        "sub": format!("f3c1a4de-7f3f-4a56-9c0e-0000{player:08x}"),
        "exp": NOW.0 / 1000 + 300,
        "iat": NOW.0 / 1000,
        "azp": "web",
        "scope": "openid profile email",
        "player": {"id": player},
    });
    let header = Header::new(algorithm.name().parse().unwrap());
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}

fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token/verify");
    for (name, algorithm) in Algorithm::ALL {
        let (public, private) = key_pair(algorithm);
        let tokens: Vec<String> = (0..16).map(|player| token(algorithm, &private, player)).collect();
        let keys = Keys::new(vec![public]);
        let policy = Policy {
            issuer: Some("https://id.example.com/realms/games".to_owned()),
            audiences: vec!["games".to_owned()],
            ..Policy::new(vec![algorithm])
        };
        let mut next = tokens.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| verify(next.next().unwrap().as_bytes(), &keys, &policy, NOW).unwrap());
        });
    }
}

fn hits(criterion: &mut Criterion) {
    let (public, private) = key_pair(Algorithm::Rs256);
    let one = token(Algorithm::Rs256, &private, 0);
    let (keys, policy) = (Keys::new(vec![public]), Policy::new(vec![Algorithm::Rs256]));
    let (claims, signer) =
        Unverified::read(one.as_bytes(), &keys, &policy).unwrap().verify(&policy, NOW).unwrap();
    // As long as a signed one; a digest does not look at what it says.
    let tokens: Vec<String> =
        (0..10_000).map(|player| one.replacen("eyJ", &format!("{player:08}"), 1)).collect();
    let mut cache: Cache<Claims> = Cache::new(Limits::default());
    for token in &tokens {
        cache.insert(Digest::of(token.as_bytes()), signer, claims.clone(), 300, Millis(u64::MAX));
    }
    assert_eq!(cache.len(), 10_000);
    let mut next = tokens.iter().step_by(7).cycle();
    criterion.bench_function("token/hit of 10000", |bencher| {
        bencher.iter(|| {
            let digest = Digest::of(next.next().unwrap().as_bytes());
            black_box(cache.get(&digest, NOW).unwrap());
        });
    });
}

criterion_group!(benches, checks, hits);
criterion_main!(benches);
