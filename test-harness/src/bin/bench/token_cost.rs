//! What a token costs, remembered or verified again, beside Envoy's own `jwt_authn`. That does the same: it verifies the
//! token and passes the claim on, here in a header that ring_hash hashes.
//!
//! Tokens are signed before anything is measured. Berth has a second Envoy for HS256, as secrets and public keys are
//! never in one provider.

use std::rc::Rc;

use berth_harness::tokens::{Algorithm, SECRET, key_set, now, sign};
use berth_harness::{Builder, Request, World};
use serde_json::{Value, json};

use crate::arm::{Arm, HEADER, NODES, native, quiet, start};
use crate::report::{Report, against, median, spread};

const ROUNDS: usize = 5;
/// Of verified tokens; some take a millisecond.
const REQUESTS: usize = 3_000;
const REQUESTS_CACHED: usize = 20_000;
/// Tokens of each algorithm.
const TOKENS: usize = 500;
/// By keys that are published; the keys' ids are these names.
const PUBLIC: [Algorithm; 5] =
    [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
/// By a secret.
const SHARED: Algorithm = Algorithm::HS256;
const ISSUER: &str = "https://id.example.com";

/// The same task by either.
struct Pair {
    name: String,
    tokens: Vec<String>,
    requests: usize,
    native: Arm,
    berth: Arm,
}

pub(crate) async fn measure(report: &mut Report) {
    let mut pairs = Vec::new();
    let [native, berth] = [start(natively(true)).await, start(by_keys(true)).await];
    pairs.push(Pair::new(Algorithm::RS256, "remembered", REQUESTS_CACHED, &native, &berth));
    let [native, berth] = [start(natively(false)).await, start(by_keys(false)).await];
    let secret = start(by_secret()).await;
    for algorithm in PUBLIC {
        pairs.push(Pair::new(algorithm, "verified", REQUESTS, &native, &berth));
    }
    pairs.push(Pair::new(SHARED, "verified", REQUESTS, &native, &secret));
    for pair in &pairs {
        for arm in [&pair.native, &pair.berth] {
            arm.warm_up(&pair.asking(arm, TOKENS)).await;
        }
    }
    for _ in 0..ROUNDS {
        for pair in &mut pairs {
            let [native, berth] = [&pair.native, &pair.berth].map(|arm| pair.asking(arm, pair.requests));
            pair.native.round(native).await;
            pair.berth.round(berth).await;
        }
    }

    report.section(
        "What a token costs Envoy",
        &format!(
            "CPU µs per request whose session a token names, one worker, {NODES} nodes, {ROUNDS} rounds in turn; median\n\
             (least to most), and the median of each round's ratio. jwt_authn hands the claim on to ring_hash. Verified: \
             each time\nanew, with no cache on either side; remembered: by the cache of either."
        ),
    );
    report.table(&["token", "jwt_authn + ring_hash, µs", "Berth, µs", "against jwt_authn"]);
    let mut json = Vec::new();
    for Pair { name, native, berth, .. } in &pairs {
        let ratio = against(&berth.costs, &native.costs);
        report.row(&[name, &spread(&native.costs), &spread(&berth.costs), &format!("{ratio:.2}×")]);
        json.push(json!({
            "token": name,
            "jwt_authn_cpu_us_per_request": median(&native.costs), "jwt_authn_rounds": native.costs,
            "berth_cpu_us_per_request": median(&berth.costs), "berth_rounds": berth.costs,
            "ratio": ratio,
        }));
    }
    report.json("token_cost", json);
}

impl Pair {
    fn new(algorithm: Algorithm, what: &str, requests: usize, native: &Rc<World>, berth: &Rc<World>) -> Self {
        Self {
            name: format!("{algorithm:?}, {what}"),
            tokens: (0..TOKENS).map(|number| token(algorithm, number)).collect(),
            requests,
            native: Arm::of(native),
            berth: Arm::of(berth),
        }
    }

    fn asking(&self, arm: &Arm, count: usize) -> Vec<Request> {
        let token = |number: usize| format!("Bearer {}", self.tokens[number % self.tokens.len()]);
        (0..count).map(|number| arm.world.get("/").header("authorization", token(number))).collect()
    }
}

fn token(algorithm: Algorithm, number: usize) -> String {
    let claims = json!({
        "iss": ISSUER, "sid": format!("session-{number}"), "exp": now() + 3600,
    });
    sign(algorithm, &format!("{algorithm:?}"), claims)
}

fn natively(remembers: bool) -> Builder {
    let mut provider = json!({
        "issuer": ISSUER,
        "local_jwks": {"inline_string": published(PUBLIC.into_iter().chain([SHARED]))},
        "claim_to_headers": [{"header_name": HEADER, "claim_name": "sid"}],
    });
    if remembers {
        provider["jwt_cache_config"] = json!({"jwt_cache_size": 2 * TOKENS});
    }
    native("ring_hash.v3.RingHash").jwt_authn(provider, json!({"prefix": "/"}))
}

fn by_keys(remembers: bool) -> Builder {
    let names: Vec<String> = PUBLIC.iter().map(|algorithm| format!("{algorithm:?}")).collect();
    let jwks: Value = serde_json::from_str(&published(PUBLIC.into_iter())).expect("a key set is JSON");
    let mut provider = json!({"algorithms": names, "jwks": jwks});
    if !remembers {
        provider["max_cached"] = 0.into();
    }
    by_berth(provider)
}

fn by_secret() -> Builder {
    by_berth(json!({
        "algorithms": ["HS256"],
        "keys": [{"kid": "HS256", "secret": SECRET}],
        "max_cached": 0,
    }))
}

fn by_berth(mut provider: Value) -> Builder {
    provider["name"] = "players".into();
    provider["issuer"] = ISSUER.into();
    quiet(World::builder()).configuration(move |json| {
        json["jwt_providers"] = json!([provider]);
        json["pools"][0]["session"] = json!({"sources": [{"jwt": "players", "claim": "sid"}]});
    })
}

fn published(algorithms: impl Iterator<Item = Algorithm>) -> String {
    let keys: Vec<(String, Algorithm)> =
        algorithms.map(|algorithm| (format!("{algorithm:?}"), algorithm)).collect();
    let keys: Vec<(&str, Algorithm)> =
        keys.iter().map(|(kid, algorithm)| (kid.as_str(), *algorithm)).collect();
    key_set(&keys)
}
