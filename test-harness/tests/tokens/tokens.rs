//! Sessions that are named by tokens: whose word is believed, whose is not, and the keys that tell.

use std::time::Duration;

use berth_harness::tokens::{Algorithm, ED25519, P256, RSA, SECRET, key_set, now, sign, sign_bytes};
use berth_harness::{Builder, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::fake_admin::{Answer, FakeAdmin};
use crate::support::tokens::{by_token, counted, token};
use crate::support::{SOON, placing, quick, raw_header, sessions, shown};

/// A token with an unknown key has the issuer asked once in this time, from the last answer on; until then it is refused.
const REFETCH: Duration = Duration::from_millis(5_200);

/// Keys of every kind that the configuration can have.
fn rsa_only() -> Value {
    json!({"algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}]})
}

async fn with_token(world: &World, token: &str) -> Response {
    world.get("/").header("authorization", format!("Bearer {token}")).send().await
}

async fn count(world: &World, result: &str) -> u64 {
    world.envoy(0).stat(&counted(result)).await
}

/// A world whose sessions are named by a header too, so that it can be seen which node is a session's.
async fn begin(builder: Builder, provider: Value) -> World {
    let builder = by_token(builder, provider).configuration(|json| {
        json["pools"][0]["session"]["sources"]
            .as_array_mut()
            .unwrap()
            .push(json!({"header": "x-session-id"}));
    });
    placing(builder).await
}

/// Waits until an unknown key has the issuer asked again.
async fn may_ask_again(issuer: &FakeAdmin) {
    let rested = async || issuer.polls().last().is_none_or(|asked| asked.elapsed() >= REFETCH);
    eventually(rested, SOON).await;
}

fn remote() -> Value {
    json!({
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "remote_jwks": {
            "cluster": "idp", "host": "id.example.com", "path": "/jwks.json", "refresh": "10s", "timeout": "500ms",
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn token_names_its_session_wherever_it_is_and_however_it_is_signed() {
    let provider = |algorithms: Value, keys: Value, name: &str| json!({"name": name, "algorithms": algorithms, "keys": keys});
    let builder = World::builder().configuration(move |json| {
        let mut public = provider(
            json!(["RS256", "PS512", "ES256", "EdDSA"]),
            json!([{"kid": "r", "pem": RSA}, {"kid": "e", "pem": P256}, {"kid": "o", "pem": ED25519}]),
            "public",
        );
        public["from"] = json!([
            {"header": "authorization", "prefix": "Bearer "},
            {"header": "x-token"}, {"cookie": "token"}, {"query": "token"}, {"subprotocol": "jwt."},
        ]);
        let secret = provider(json!(["HS256"]), json!([{"kid": "s", "secret": SECRET}]), "secret");
        json["jwt_providers"] = json!([public, secret]);
        json["pools"][0]["session"] = json!({"sources": [
            {"jwt": "public", "claim": "player.id"}, {"header": "x-session-id"}, {"jwt": "secret", "claim": "sub"},
        ]});
    });
    let world = placing(builder).await;
    for key in sessions(8) {
        let node = world.get("/").header("x-session-id", &key).send().await.node().to_owned();
        let claims = json!({"player": {"id": key}});
        let rsa = sign(Algorithm::RS256, "r", claims.clone());

        let answers = [
            world.get("/").header("authorization", format!("bearer {rsa}")).send().await,
            world.get("/").header("x-token", &rsa).send().await,
            world.get("/").header("cookie", format!("theme=dark; token={rsa}")).send().await,
            world.get(&format!("/play?token={rsa}")).send().await,
            world.get("/").header("sec-websocket-protocol", format!("chat, jwt.{rsa}")).send().await,
            world.get("/").header("x-token", sign(Algorithm::PS512, "r", claims.clone())).send().await,
            world.get("/").header("x-token", sign(Algorithm::ES256, "e", claims.clone())).send().await,
            world.get("/").header("x-token", sign(Algorithm::EdDSA, "o", claims.clone())).send().await,
        ];
        for (place, answer) in answers.iter().enumerate() {
            assert_eq!(
                (answer.status.as_u16(), shown(answer, "outcome")),
                (200, "ring"),
                "{place}: {answer:?}"
            );
            assert_eq!(answer.node(), node, "{place}: {key}");
        }
    }
    // What one provider refuses may be another one's token; but nothing weaker counts beside it.
    let by_header = world.get("/").header("x-session-id", "grace").send().await.node().to_owned();
    let with = async |token: String| {
        let bearer = format!("Bearer {token}");
        world.get("/").header("authorization", bearer).header("x-session-id", "ada").send().await
    };
    let secret = with(sign(Algorithm::HS256, "s", json!({"sub": "grace"}))).await;
    assert_eq!((secret.status.as_u16(), secret.node()), (200, by_header.as_str()), "{secret:?}");
    let nobodys = sign_bytes(Algorithm::HS256, &"x".repeat(64), &json!({"alg": "HS256", "kid": "s"}), b"{}");
    assert_eq!(with(nobodys).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_is_not_to_be_believed_gets_401_and_no_reason() {
    let world = begin(World::builder(), rsa_only()).await;
    let good = token(json!({"sid": "ada"}));
    assert_eq!(with_token(&world, &good).await.status, 200);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIn0";
    let bad = [
        ("expired", token(json!({"sid": "ada", "exp": now() - 3_600}))),
        ("signature", format!("{signed}.AAAA{}", &signature[4..])),
        ("signature", format!("{signed}.{}", "A".repeat(342))),
        ("algorithm", format!("{none}.{payload}.")),
        ("algorithm", sign(Algorithm::HS256, "a", json!({"sid": "ada"}))),
        ("algorithm", sign(Algorithm::ES256, "a", json!({"sid": "ada"}))),
        ("unknown_key", sign(Algorithm::RS256, "b", json!({"sid": "ada"}))),
        ("not_yet_valid", token(json!({"sid": "ada", "nbf": now() + 3_600}))),
        ("malformed", format!("{signed}.{signature}=")),
        ("malformed", format!("{header}.{payload}.{signature}.{signature}")),
        ("malformed", "not-a-token".to_owned()),
        ("too_large", format!("{signed}.{}", "A".repeat(32 * 1024))),
    ];
    for (result, token) in &bad {
        let before = count(&world, result).await;

        let answer = with_token(&world, token).await;

        assert_eq!(answer.status, 401, "{result}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        let says = if *result == "expired" { "the token has expired" } else { "the token is not accepted" };
        assert_eq!(challenge, format!("Bearer error=\"invalid_token\", error_description=\"{says}\""));
        let counted = async || match count(&world, result).await - before {
            1 => Ok(()),
            more => Err(format!("{result} is counted {more} times: {token:.60}")),
        };
        eventually(counted, SOON).await;
    }
    for bytes in [&b"Bearer \xff\xfe.\x80.\xc3"[..], b"Bearer ..", b"Bearer e30.e30.e30", b"Bearer \xe2\x82"]
    {
        let answer = world.get("/").header("authorization", bytes).send().await;
        assert_eq!(answer.status, 401, "{bytes:?}: {answer:?}");
    }
    // It ends there: a session id beside it counts for nothing.
    let beside =
        world.get("/").header("authorization", "Bearer x").header("x-session-id", "eve").send().await;
    assert_eq!(beside.status, 401);
    // Other schemes are no tokens.
    let basic =
        world.get("/").header("authorization", "Basic Zm9v").header("x-session-id", "eve").send().await;
    assert_eq!((basic.status.as_u16(), shown(&basic, "outcome")), (200, "ring"));
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_that_is_shared_with_the_issuer_names_sessions_too() {
    let provider = json!({"algorithms": ["HS256"], "keys": [{"kid": "s", "secret": SECRET}]});
    let world = begin(World::builder(), provider).await;

    for key in sessions(8) {
        let node = world.get("/").header("x-session-id", &key).send().await.node().to_owned();
        let answer = with_token(&world, &sign(Algorithm::HS256, "s", json!({"sid": key}))).await;
        assert_eq!((shown(&answer, "outcome"), answer.node()), ("ring", node.as_str()), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_is_made_to_mislead_is_refused() {
    let world = begin(World::builder(), rsa_only()).await;
    let claims = json!({"sid": "ada", "exp": now() + 600}).to_string();
    let own = |header: Value, payload: &[u8]| sign_bytes(Algorithm::RS256, RSA, &header, payload);
    let head = || json!({"alg": "RS256", "kid": "a"});
    let misleading = [
        // The public key, which everybody has, taken for a secret.
        (
            "algorithm",
            sign_bytes(Algorithm::HS256, RSA, &json!({"alg": "HS256", "kid": "a"}), claims.as_bytes()),
        ),
        ("algorithm", own(json!({"alg": "none", "kid": "a"}), claims.as_bytes())),
        ("critical", own(json!({"alg": "RS256", "kid": "a", "crit": ["exp"]}), claims.as_bytes())),
        ("critical", own(json!({"alg": "RS256", "kid": "a", "b64": false}), claims.as_bytes())),
        ("claim_missing", own(head(), br#"{"sid": "ada"}"#)),
        ("claim_type", own(head(), br#"{"sid": "ada", "exp": "soon"}"#)),
        ("malformed", own(head(), b"\xff\xfe")),
        ("malformed", own(head(), br#"["ada"]"#)),
    ];

    for (result, token) in &misleading {
        let before = count(&world, result).await;
        let answer = with_token(&world, token).await;
        assert_eq!(answer.status, 401, "{result}: {answer:?}");
        assert_eq!(answer.body, "berth: this request needs a valid token\n", "{result}");
        eventually(async || count(&world, result).await == before + 1, SOON).await;
    }
    let head = "GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ";
    let huge = world.raw(format!("{head}{}\r\n\r\n", "a".repeat(64 * 1024))).await;

    let status = String::from_utf8_lossy(&huge.bytes).lines().next().unwrap_or_default().to_owned();
    assert!(status.contains(" 431 "), "more than Envoy takes of headers: {status}");
    assert_eq!(raw_header(&huge, "x-node"), None);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_token_can_count_as_none() {
    let mut provider = rsa_only();
    provider["on_invalid"] = "sessionless".into();
    let world = begin(World::builder(), provider).await;

    let answer = with_token(&world, &token(json!({"sid": "ada", "exp": 1}))).await;

    assert_eq!(answer.status, 200);
    assert_eq!((shown(&answer, "outcome"), shown(&answer, "reason")), ("sessionless", "token_refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_is_checked_once_by_each_worker() {
    let world = begin(World::builder().concurrency(1), rsa_only()).await;
    let token = token(json!({"sid": "ada"}));

    for _ in 0..50 {
        assert_eq!(with_token(&world, &token).await.status, 200);
    }

    eventually(async || count(&world, "cached").await == 49, SOON).await;
    assert_eq!(count(&world, "verified").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_rotate_under_1000_sessions_cost_nobody_a_request() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let world = placing(by_token(World::builder(), remote()).add_cluster("idp", issuer.address())).await;
    let keys = sessions(1_000);
    let visit = async |algorithm: Algorithm, kid: &str| {
        let mut nodes = Vec::new();
        for some in keys.chunks(50) {
            let signed: Vec<String> =
                some.iter().map(|key| sign(algorithm, kid, json!({"sid": key}))).collect();
            for answer in join_all(signed.iter().map(|token| with_token(&world, token))).await {
                assert_eq!(answer.status, 200, "{kid}: {answer:?}");
                nodes.push(answer.node().to_owned());
            }
        }
        nodes
    };
    let before = visit(Algorithm::RS256, "a").await;

    issuer.tell(&key_set(&[("a", Algorithm::RS256), ("b", Algorithm::ES256)]));
    may_ask_again(&issuer).await;
    assert_eq!(visit(Algorithm::ES256, "b").await, before, "new keys, same sessions");
    issuer.tell(&key_set(&[("b", Algorithm::ES256), ("c", Algorithm::EdDSA)]));
    may_ask_again(&issuer).await;
    assert_eq!(visit(Algorithm::EdDSA, "c").await, before);
    // What was withdrawn is refused as soon as it is known to be.
    let old = token(json!({"sid": "session-0"}));
    eventually(async || with_token(&world, &old).await.status == 401, SOON * 2).await;

    let fetches = issuer.polls().len();
    let made_up = join_all((0..200).map(|number| {
        let token = sign(Algorithm::RS256, &format!("made-up-{number}"), json!({"sid": "eve"}));
        async { with_token(&world, &{ token }).await.status }
    }))
    .await;
    assert!(made_up.iter().all(|status| *status == 401), "{made_up:?}");
    let more = issuer.polls().len() - fetches;
    println!("{fetches} fetches for two rotations, {more} more for 200 made-up keys");
    assert!(more <= 3, "200 made-up keys had the issuer asked {more} times");
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_tokens_of_a_new_key_wait_for_one_fetch_and_pass() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let mut rarely = remote();
    rarely["remote_jwks"]["refresh"] = "1h".into();
    let world = placing(by_token(World::builder(), rarely).add_cluster("idp", issuer.address())).await;
    assert_eq!(with_token(&world, &token(json!({"sid": "ada"}))).await.status, 200);
    assert_eq!(issuer.polls().len(), 1, "keys are fetched once for all workers");
    issuer.tell(&key_set(&[("a", Algorithm::RS256), ("b", Algorithm::ES256)]));
    may_ask_again(&issuer).await;

    let answers = join_all(sessions(50).iter().map(|session| {
        let token = sign(Algorithm::ES256, "b", json!({"sid": session}));
        async { with_token(&world, &{ token }).await.status }
    }))
    .await;

    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(issuer.polls().len(), 2, "nothing but the unknown key had the issuer asked");
    // What is unknown after that is refused at once.
    let early = sign(Algorithm::RS256, "c", json!({"sid": "ada"}));
    assert_eq!(with_token(&world, &early).await.status, 401);
    assert_eq!(issuer.polls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_that_is_down_for_several_refreshes_costs_nothing() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let world = placing(by_token(World::builder(), remote()).add_cluster("idp", issuer.address())).await;
    let visit = async |session: &str| with_token(&world, &token(json!({"sid": session}))).await.status;
    assert_eq!(visit("ada").await, 200);

    for failure in [Answer::Status(500), Answer::Silence, Answer::Garbage, Answer::HangUp] {
        issuer.set(failure.clone());
        let asked = issuer.polls().len();
        eventually(async || issuer.polls().len() > asked, SOON * 2).await;
        for session in sessions(20) {
            assert_eq!(visit(&session).await, 200, "{failure:?}");
        }
    }
    issuer.tell(&key_set(&[("b", Algorithm::ES256)]));
    let new = sign(Algorithm::ES256, "b", json!({"sid": "ada"}));
    eventually(async || with_token(&world, &new).await.status == 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_an_issuer_that_is_gone() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let world = placing(by_token(World::builder(), remote()).add_cluster("idp", issuer.address())).await;
    let visit = async |session: &str| with_token(&world, &token(json!({"sid": session}))).await.status;
    assert_eq!(visit("ada").await, 200);

    // Ends the connection that Envoy keeps; no other is accepted.
    issuer.set(Answer::HangUp);
    drop(issuer);
    let failed = "wasmcustom.berth_jwks_fetches_total.provider.players.result.failed";
    eventually(async || world.envoy(0).stat(failed).await >= 4, SOON * 6).await;

    for session in sessions(20) {
        assert_eq!(visit(&session).await, 200, "{session}");
    }
    let unknown = sign(Algorithm::RS256, "b", json!({"sid": "ada"}));
    assert_eq!(
        with_token(&world, &unknown).await.status,
        401,
        "a token signed with an unknown key is still refused"
    );
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_with_an_unknown_key_waits_for_one_fetch_however_slow_that_is() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let mut slow = remote();
    slow["remote_jwks"]["refresh"] = "1h".into();
    // Longer than the time after which another fetch may be asked for.
    slow["remote_jwks"]["timeout"] = "6s".into();
    let world =
        placing(by_token(World::builder().concurrency(1), slow).add_cluster("idp", issuer.address())).await;
    assert_eq!(with_token(&world, &token(json!({"sid": "ada"}))).await.status, 200);
    may_ask_again(&issuer).await;
    issuer.set(Answer::Silence);
    let asked = issuer.polls().len();

    let unknown = with_token(&world, &sign(Algorithm::RS256, "b", json!({"sid": "ada"}))).await;

    assert_eq!(unknown.status, 401, "{unknown:?}");
    assert_eq!(issuer.polls().len(), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_on_holds_up_nobody_for_keys() {
    let issuer = FakeAdmin::start(Answer::Silence).await;
    let mut slow = remote();
    slow["remote_jwks"]["timeout"] = "30s".into();
    let builder =
        by_token(World::builder(), slow).add_cluster("idp", issuer.address()).configuration(|json| {
            let gold = json!({"claims": [{"jwt": "players", "claim": "tier", "one_of": ["gold"]}]});
            json["rules"] = json!([
                {"name": "gold", "pool": "nodes", "match": gold, "rollout": {"mode": "observe"}},
                {"name": "rest", "pool": "nodes", "rollout": {"mode": "observe"}},
            ]);
        });
    let world = quick(builder).start().await;

    let early = world.get("/").header("authorization", format!("Bearer {}", token(json!({"sid": "ada"}))));

    assert_eq!(early.within(SOON).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_key_the_client_is_told_to_try_again() {
    let issuer = FakeAdmin::start(Answer::Status(503)).await;
    let world =
        quick(by_token(World::builder(), remote()).add_cluster("idp", issuer.address())).start().await;
    let token = token(json!({"sid": "ada"}));

    let early = with_token(&world, &token).await;
    assert_eq!(early.status, 503, "{early:?}");
    assert!(early.header("retry-after").is_some() && early.header("www-authenticate").is_none());

    issuer.tell(&key_set(&[("a", Algorithm::RS256)]));
    eventually(async || with_token(&world, &token).await.status == 200, SOON * 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_requests_wait_for_the_keys_and_pass() {
    let issuer = FakeAdmin::start(Answer::Page(key_set(&[("a", Algorithm::RS256)]).into())).await;
    let world = by_token(World::builder(), remote()).add_cluster("idp", issuer.address()).start().await;

    let answers = join_all(sessions(50).iter().map(|session| {
        let token = token(json!({"sid": session}));
        async { with_token(&world, &{ token }).await.status }
    }))
    .await;

    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_choose_the_rule() {
    let builder = by_token(World::builder(), rsa_only()).configuration(|json| {
        json["rules"] = json!([
            {
                "name": "gold",
                "match": {"claims": [{"jwt": "players", "claim": "tier", "one_of": ["gold"]}]},
                "pool": "nodes",
            },
            {"name": "rest", "pool": "nodes", "affinity": "off"},
        ]);
    });
    let world = quick(builder).start().await;
    let gold = token(json!({"sid": "ada", "tier": "gold"}));
    eventually(async || shown(&with_token(&world, &gold).await, "reason") == "owner", SOON).await;

    let silver = with_token(&world, &token(json!({"sid": "ada", "tier": "silver"}))).await;
    let forged =
        with_token(&world, &sign(Algorithm::HS256, "a", json!({"sid": "ada", "tier": "gold"}))).await;

    assert_eq!(shown(&silver, "reason"), "affinity_off");
    assert_eq!(shown(&forged, "reason"), "affinity_off", "a token that is refused fits no rule");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_choose_the_pool() {
    let builder = by_token(World::builder(), rsa_only()).configuration(|json| {
        let mut gold = json["pools"][0].clone();
        gold["name"] = "gold".into();
        json["pools"].as_array_mut().unwrap().push(gold);
        json["rules"] = json!([
            {
                "name": "gold",
                "match": {"claims": [{"jwt": "players", "claim": "tier", "one_of": ["gold"]}]},
                "pool": "gold",
            },
            {"name": "rest", "pool": "nodes"},
        ]);
    });
    let world = quick(builder).start().await;
    let placed = async |tier: &str| {
        let answer = with_token(&world, &token(json!({"sid": "ada", "tier": tier}))).await;
        shown(&answer, "reason") == "owner"
    };
    eventually(async || placed("gold").await && placed("silver").await, SOON).await;

    for pool in ["gold", "nodes"] {
        let stat = format!("wasmcustom.berth_requests_total.pool.{pool}.outcome.ring");
        eventually(async || world.envoy(0).stat(&stat).await >= 1, SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jwt_authn_has_verified_is_taken_and_nothing_else() {
    let builder = World::builder()
        .configuration(|json| {
            json["jwt_providers"] =
                json!([{"name": "players", "verified_upstream": {"payload_in_metadata": "players"}}]);
            json["pools"][0]["session"] = json!({"sources": [
                {"jwt": "players", "claim": "player.id"}, {"jwt": "players", "claim": "number"}, {"header": "x-session-id"},
            ]});
        })
        .jwt_authn(
            json!({
                "local_jwks": {"inline_string": key_set(&[("a", Algorithm::RS256)])},
                "payload_in_metadata": "players",
            }),
            json!({"prefix": "/verified"}),
        );
    let world = placing(builder).await;
    let at = async |path: &str, token: &str| {
        world.get(path).header("authorization", format!("Bearer {token}")).send().await
    };
    let by_header = async |id: &str| world.get("/").header("x-session-id", id).send().await.node().to_owned();
    for id in sessions(6).iter().chain(["12345678".to_owned()].iter()) {
        let answer = at("/verified", &token(json!({"player": {"id": id}}))).await;
        assert_eq!(
            (shown(&answer, "outcome"), answer.node()),
            ("ring", by_header(id).await.as_str()),
            "{answer:?}"
        );
    }
    for number in [7_u64, 1_700_000_000, 4_294_967_296] {
        let answer = at("/verified", &token(json!({"number": number}))).await;
        assert_eq!(answer.node(), by_header(&number.to_string()).await, "{number}: {answer:?}");
    }

    let unverified = at("/elsewhere", &token(json!({"player": {"id": "ada"}}))).await;
    assert_eq!((unverified.status.as_u16(), shown(&unverified, "outcome")), (200, "sessionless"));
    let forged = at("/verified", &sign(Algorithm::ES256, "a", json!({"player": {"id": "ada"}}))).await;
    assert_eq!(forged.status, 401, "that is jwt_authn's answer");
}
