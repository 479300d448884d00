//! What forgers, crowds, reloads and broken issuers cost everybody else: as little as can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use berth_harness::tokens::{Algorithm, RSA, key_set, sign, sign_bytes};
use berth_harness::{Client, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::fake_admin::{Answer, FakeAdmin};
use crate::support::tokens::{by_token, counted, token};
use crate::support::{SOON, manager, placing, sessions, shown};

async fn bearing(world: &World, token: &str) -> Response {
    world.get("/").header("authorization", format!("Bearer {token}")).send().await
}

async fn count(world: &World, result: &str) -> u64 {
    world.envoy(0).stat(&counted(result)).await
}

fn tokens_of(count: usize) -> Vec<String> {
    sessions(count).iter().map(|session| token(json!({"sid": session}))).collect()
}

/// Every token is good. Returns where their sessions are.
async fn visit(world: &World, tokens: &[String]) -> Vec<String> {
    let mut nodes = Vec::new();
    for token in tokens {
        let answer = bearing(world, token).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        nodes.push(answer.node().to_owned());
    }
    nodes
}

fn remote(cluster: &str) -> Value {
    json!({
        "algorithms": ["RS256", "ES256"],
        "remote_jwks": {
            "cluster": cluster, "host": "id.example.com", "path": "/jwks.json", "refresh": "10s", "timeout": "5s",
        },
    })
}

/// A token that any of eight keys could have signed, and none did.
fn forged(number: usize) -> String {
    let claims = json!({"sid": "eve", "number": number, "exp": 4_000_000_000_u64}).to_string();
    let token = sign_bytes(Algorithm::ES256, "", &json!({"alg": "ES256"}), claims.as_bytes());
    let header = "eyJhbGciOiJFUzM4NCJ9";
    let (_, rest) = token.split_once('.').unwrap();
    // As long as one of P-384.
    let (payload, signature) = rest.rsplit_once('.').unwrap();
    format!("{header}.{payload}.{signature}{}", &"A".repeat(42))
}

/// ES384 tokens of an issuer with eight keys; the client's address is what it says.
fn eight_keys(without_kid: &'static str) -> berth_harness::Builder {
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|id| (id, Algorithm::ES384));
    let set: Value = serde_json::from_str(&key_set(&ids)).unwrap();
    let provider = json!({"algorithms": ["ES384"], "jwks": set, "without_kid": without_kid});
    by_token(World::builder().concurrency(1), provider).bootstrap(|json| {
        manager(json)["use_remote_address"] = true.into();
        manager(json)["xff_num_trusted_hops"] = 1.into();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn forgeries_without_kid_leave_known_tokens_alone_and_let_logins_in() {
    let world = Arc::new(placing(eight_keys("try_keys")).await);
    let login = |session: &str| sign(Algorithm::ES384, "a", json!({"sid": session}));
    let known: Vec<String> = sessions(4).iter().map(|session| login(session)).collect();
    let homes = visit(&world, &known).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let statuses: Arc<[AtomicUsize; 2]> = Arc::default();
    let forgers: Vec<_> = (0..48)
        .map(|_| {
            let (world, stop, sent, statuses) =
                (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&statuses));
            tokio::spawn(async move {
                let client = Client::new(world.envoy(0).address());
                while !stop.load(Ordering::Relaxed) {
                    let token = forged(sent.fetch_add(1, Ordering::Relaxed));
                    let request = client.get("/").header("authorization", format!("Bearer {token}"));
                    let answer = request.header("x-forwarded-for", "10.9.9.9").send().await;
                    match answer.status.as_u16() {
                        401 => statuses[0].fetch_add(1, Ordering::Relaxed),
                        503 => statuses[1].fetch_add(1, Ordering::Relaxed),
                        _ => panic!("a forged token passed: {answer:?}"),
                    };
                }
            })
        })
        .collect();
    // The time for checks is spent by then, and forgeries wait.
    eventually(async || sent.load(Ordering::Relaxed) > 100, SOON * 3).await;

    let logins = (0..12).map(|number| {
        let token = login(&format!("login-{number}"));
        let world = Arc::clone(&world);
        async move {
            let client = Client::new(world.envoy(0).address());
            let passes = async || {
                let request = client.get("/").header("authorization", format!("Bearer {token}"));
                let answer = request.header("x-forwarded-for", format!("10.0.0.{number}")).send().await;
                assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
                answer.status == 200
            };
            eventually(passes, SOON * 3).await;
        }
    });
    let old = async {
        for _ in 0..25 {
            assert_eq!(visit(&world, &known).await, homes, "a known token is not checked again");
        }
    };
    tokio::join!(join_all(logins), old);
    eventually(async || statuses[1].load(Ordering::Relaxed) > 0, SOON * 3).await;
    stop.store(true, Ordering::Relaxed);
    for forger in forgers {
        forger.await.unwrap();
    }

    assert_eq!(count(&world, "verified").await, 16, "each good token was checked once");
    eventually(async || count(&world, "unchecked").await > 0, SOON).await;
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_without_kid_is_refused_unchecked_where_several_keys_fit() {
    let world = placing(eight_keys("one_key")).await;

    for number in 0..50 {
        assert_eq!(bearing(&world, &forged(number)).await.status, 401);
    }

    eventually(async || count(&world, "ambiguous_key").await == 50, SOON).await;
    assert_eq!(count(&world, "signature").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn crowd_that_waits_for_one_issuer_leaves_anothers_tokens_their_places() {
    let (silent, other) = (
        FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await,
        FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await,
    );
    let builder = World::builder().concurrency(1).configuration(|json| {
        let provider = |name: &str, header: &str| {
            let mut provider = remote(name);
            provider["name"] = name.into();
            provider["from"] = json!([{"header": header}]);
            provider["remote_jwks"]["refresh"] = "1h".into();
            provider["remote_jwks"]["timeout"] = "30s".into();
            provider
        };
        json["jwt_providers"] = json!([provider("silent", "x-silent"), provider("other", "x-other")]);
        json["pools"][0]["session"] = json!({"sources": [
            {"jwt": "silent", "claim": "sid"}, {"jwt": "other", "claim": "sid"},
        ]});
    });
    let builder = builder.add_cluster("silent", silent.address()).add_cluster("other", other.address());
    let world = Arc::new(placing(builder).await);
    let with = async |header: &str, token: String| world.get("/").header(header, token).send().await;
    for header in ["x-silent", "x-other"] {
        assert_eq!(with(header, token(json!({"sid": "ada"}))).await.status, 200);
    }
    silent.set(Answer::Silence);
    other.tell(&key_set(&[("a", Algorithm::RS256), ("b", Algorithm::ES256)]));
    let rested = async || {
        let rest = std::time::Duration::from_millis(5_200);
        [&silent, &other].iter().all(|issuer| issuer.polls().last().is_none_or(|at| at.elapsed() >= rest))
    };
    eventually(rested, SOON).await;

    let unknown = sign(Algorithm::ES256, "b", json!({"sid": "eve"}));
    let crowd: Vec<_> = (0..1_100)
        .map(|_| {
            let client = Client::new(world.envoy(0).address());
            let request = client.get("/").header("x-silent", &unknown);
            tokio::spawn(async move { request.try_send().await.map(|answer| answer.status.as_u16()) })
        })
        .collect();
    let unchecked = "wasmcustom.berth_tokens_total.provider.silent.result.unchecked";
    eventually(async || world.envoy(0).stat(unchecked).await >= 1_100 - 1_024, SOON * 3).await;

    let answer = with("x-other", sign(Algorithm::ES256, "b", json!({"sid": "bob"}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let turned_away = crowd.iter().filter(|request| request.is_finished()).count();
    assert!((1..=1_100 - 1_024).contains(&turned_away), "{turned_away} of the crowd were answered");
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_verifies_no_token_again() {
    let provider = json!({"algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}]});
    let world = placing(by_token(World::builder().concurrency(1), provider)).await;
    let tokens = tokens_of(20);
    let homes = visit(&world, &tokens).await;
    eventually(async || count(&world, "verified").await == 20, SOON).await;

    for interval in ["300ms", "350ms"] {
        world.envoy(0).reload(|json| json["poll_interval"] = interval.into()).await.unwrap();
        assert_eq!(visit(&world, &tokens).await, homes);
    }

    eventually(async || count(&world, "cached").await == 40, SOON).await;
    assert_eq!(count(&world, "verified").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_set_in_another_order_and_form_has_no_token_verified_again() {
    let keys = [("a", Algorithm::RS256), ("b", Algorithm::ES256)];
    let issuer = FakeAdmin::start(Answer::Page(key_set(&keys).into())).await;
    let builder = by_token(World::builder().concurrency(1), remote("idp"));
    let world = placing(builder.add_cluster("idp", issuer.address())).await;
    let tokens = tokens_of(20);
    visit(&world, &tokens).await;
    eventually(async || count(&world, "verified").await == 20, SOON).await;

    let mut set: Value = serde_json::from_str(&key_set(&keys)).unwrap();
    set["keys"].as_array_mut().unwrap().reverse();
    issuer.tell(&serde_json::to_string_pretty(&set).unwrap());
    let fetched =
        async || world.envoy(0).stat("wasmcustom.berth_jwks_fetches_total.provider.players.result.ok").await;
    let before = fetched().await;
    eventually(async || fetched().await > before, SOON * 2).await;
    visit(&world, &tokens).await;

    eventually(async || count(&world, "cached").await == 20, SOON).await;
    assert_eq!(count(&world, "verified").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_that_redirects_or_answers_too_much_leaves_the_known_keys() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let builder = by_token(World::builder().concurrency(1), remote("idp"));
    let world = placing(builder.add_cluster("idp", issuer.address())).await;
    visit(&world, &tokens_of(1)).await;
    let failed = async || {
        world.envoy(0).stat("wasmcustom.berth_jwks_fetches_total.provider.players.result.failed").await
    };
    let many = |count: usize, one: &str| {
        let keys = vec![serde_json::from_str::<Value>(one).unwrap(); count];
        Answer::Page(json!({ "keys": keys }).to_string().into())
    };

    for answer in [
        Answer::Redirect("https://elsewhere.example.com/jwks.json".into()),
        many(10_000, "{}"),
        Answer::Page("x".repeat(2 << 20).into()),
        many(1, &json!({"kid": "k".repeat(100_000)}).to_string()),
        Answer::HugeBody,
    ] {
        issuer.set(answer.clone());
        let before = failed().await;
        eventually(async || failed().await > before, SOON * 3).await;
        // Another session, which no worker knows.
        let fresh = token(json!({"sid": "grace", "failures": before}));
        let passed = bearing(&world, &fresh).await;
        assert_eq!((passed.status.as_u16(), shown(&passed, "reason")), (200, "owner"));
    }

    let huge = bearing(&world, &sign(Algorithm::RS256, &"k".repeat(8_000), json!({"sid": "eve"}))).await;
    assert_eq!(huge.status, 401);
    eventually(async || count(&world, "too_large").await == 1, SOON).await;
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}
