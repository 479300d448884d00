//! Requests of one session with different terms: older and newer tokens, stricter and looser rules, at the same moment,
//! one after another, and while the state service does not answer.

use berth_core::wire::NodeChange;
use berth_harness::tokens::{RSA, now};
use berth_harness::{Builder, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::patience::{ask, impatient, nodes_become};
use crate::support::pinning::{all_see, notices, patiently_pinned};
use crate::support::tokens::token;
use crate::support::{SOON, pool, sessions, shown};

/// Sessions are named by tokens that have versions and former ids, or by a header.
fn by_versions(builder: Builder, session: Value) -> Builder {
    patiently_pinned(builder, &[]).configuration(move |json| {
        json["jwt_providers"] =
            json!([{"name": "players", "algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}]}]);
        let mut session = session.clone();
        session["sources"] = json!([
            {"jwt": "players", "claim": "sid", "previous": "prev", "version": "sv", "created": "began"},
            {"header": "x-session-id"},
        ]);
        pool(json)["session"] = session;
    })
}

/// Requests with `x-class: strict` are served strictly.
fn strictly_or_not(json: &mut Value) {
    let strict = json!({"headers": [{"name": "x-class", "one_of": ["strict"]}]});
    json["rules"] = json!([
        {"name": "strict", "match": strict, "pool": "nodes", "affinity": "strict"},
        {"name": "prefer", "pool": "nodes"},
    ]);
}

async fn with(world: &World, envoy: usize, claims: Value) -> Response {
    let bearer = format!("Bearer {}", token(claims));
    world.envoy(envoy).client().get("/").header("authorization", bearer).send().await
}

fn version(version: u32) -> Value {
    json!({"sid": "ada", "sv": version})
}

/// Until so many requests are under way.
async fn under_way(world: &World, envoy: usize, count: u64) {
    let active = async || world.envoy(envoy).stat("http.ingress.downstream_rq_active").await;
    eventually(async || active().await == count, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_that_waits_gets_its_own_verdict() {
    let world =
        by_versions(impatient().envoys(2).concurrency(1), json!({"superseded": "reject"})).start().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 3)]).await;
    }
    for (session, order) in [("ada", [1, 2, 1]), ("eve", [2, 1, 2])] {
        let version = |sv: u32| json!({"sid": session, "sv": sv});
        // The second proxy does not know it, and cannot learn it yet.
        let home = with(&world, 0, version(2)).await.node().to_owned();
        world.state(0).pause();
        let mut waiting = Vec::new();
        for (place, sv) in order.into_iter().enumerate() {
            let bearer = format!("Bearer {}", token(version(sv)));
            let request = world.envoy(1).client().get("/").header("authorization", bearer);
            waiting.push(tokio::spawn(request.send()));
            under_way(&world, 1, place as u64 + 1).await;
        }
        world.state(0).resume();

        for (sv, answer) in order.into_iter().zip(join_all(waiting).await) {
            let answer = answer.unwrap();
            let expected = if sv == 2 { (200, home.as_str()) } else { (401, "") };
            let node = if answer.status == 200 { answer.node() } else { "" };
            assert_eq!((answer.status.as_u16(), node), expected, "{sv} of {order:?}: {answer:?}");
        }
    }
    // What is known needs no question.
    assert_eq!(with(&world, 1, version(1)).await.status, 401);
    assert_eq!(shown(&with(&world, 1, version(2)).await, "outcome"), "hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_several_versions_in_turn_cost_one_question_each() {
    let world = by_versions(impatient().concurrency(1), json!({})).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let home = with(&world, 0, version(3)).await.node().to_owned();
    with(&world, 0, version(4)).await;

    for sv in [3, 4, 3, 4, 2] {
        let answer = with(&world, 0, version(sv)).await;
        assert_eq!((shown(&answer, "outcome"), answer.node()), ("hit", home.as_str()), "{sv}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_token_stays_with_its_node_also_while_nobody_answers() {
    let world = by_versions(impatient().nodes(3).concurrency(1), json!({})).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(40);
    let mut homes = Vec::new();
    for key in &keys {
        homes.push(with(&world, 0, json!({"sid": key, "sv": 1})).await.node().to_owned());
    }
    for _ in 0..3 {
        world.add_node().await;
    }
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    world.state(0).kill();

    let mut strangers = 0;
    for (key, home) in keys.iter().zip(&homes) {
        for claims in [
            json!({"sid": key, "sv": 2}),
            json!({"sid": key, "sv": 1}),
            json!({"sid": format!("{key}-renewed"), "prev": key, "sv": 3}),
        ] {
            let answer = with(&world, 0, claims.clone()).await;
            assert_eq!((answer.status.as_u16(), answer.node()), (200, home.as_str()), "{claims}");
        }
        let stranger = with(&world, 0, json!({"sid": format!("{key}-renewed-too"), "sv": 3})).await;
        strangers += usize::from(stranger.node() != home);
    }
    assert!(strangers > 0, "by the ring alone some would have moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_request_that_waits_with_a_looser_one_is_still_strict() {
    let world = patiently_pinned(impatient().nodes(3).concurrency(1), &[])
        .configuration(|json| {
            json["state"]["timeout"] = "2s".into();
            strictly_or_not(json);
        })
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    world.state(0).pause();
    let strict = world.get("/").header("x-class", "strict").header("x-session-id", "ada");

    let (looser, strict) = tokio::join!(ask(&world, "ada"), async {
        under_way(&world, 0, 1).await;
        strict.send().await
    });

    assert_eq!((looser.status.as_u16(), shown(&looser, "reason")), (200, "state_away"), "{looser:?}");
    assert_eq!((strict.status.as_u16(), shown(&strict, "reason")), (503, "state_away"), "{strict:?}");
    world.state(0).resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn looser_request_while_nobody_answers_takes_no_strict_session_from_its_node() {
    let world = by_versions(impatient().nodes(3).concurrency(1), json!({}))
        .configuration(strictly_or_not)
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let home = with(&world, 0, version(1)).await.node().to_owned();
    world.state(0).kill();

    // The newer token needs a call to the state service, which does not answer.
    assert_eq!(shown(&with(&world, 0, version(2)).await, "reason"), "state_away");

    let bearer = format!("Bearer {}", token(version(2)));
    let strict = world.get("/").header("x-class", "strict").header("authorization", bearer).send().await;
    assert_eq!((strict.status.as_u16(), strict.node()), (200, home.as_str()), "{strict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_started_anew_is_told_of_a_session_though_an_old_token_was_first_to_ask() {
    let world =
        by_versions(impatient().envoys(2).concurrency(1), json!({"superseded": "reject"})).start().await;
    all_see(&world, &[("active", 3)]).await;
    let starts = async |boot_id: &str| {
        let change = NodeChange { boot_id: Some(boot_id.to_owned()), ..NodeChange::default() };
        for node in world.nodes() {
            world.state(0).change_node("nodes", node.name(), &change).await;
        }
    };
    starts("first").await;
    let home = with(&world, 0, version(2)).await.node().to_owned();
    starts("second").await;

    // The second proxy does not know that it is old: its question is the one whose answer says so.
    assert_eq!(with(&world, 1, version(1)).await.status, 401);
    let current = [with(&world, 1, version(2)).await, with(&world, 1, version(2)).await];

    assert!(current.iter().all(|answer| answer.node() == home), "{current:?}");
    assert_eq!(notices(&current).into_iter().collect::<Vec<_>>(), [("restore; version=N".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_whose_beginning_cannot_be_believed_has_no_session() {
    let world = by_versions(impatient(), json!({"max_age": "1h"})).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let began = async |began: Value| {
        let answer = with(&world, 0, json!({"sid": "ada", "began": began})).await;
        (answer.status.as_u16(), answer.header("www-authenticate").is_some())
    };

    assert_eq!(began(json!(now() - 60)).await, (200, false));
    assert_eq!(began(json!(now() - 3_700)).await, (401, true), "too old");
    assert_eq!(began(json!(now() * 1_000)).await, (401, true), "in milliseconds");
    assert_eq!(began(json!(now() * 1_000_000_000)).await, (401, true), "in nanoseconds");
    assert_eq!(began(json!(1e300)).await, (401, true));
    assert_eq!(began(json!("today")).await, (401, true));
    assert_eq!(began(Value::Null).await, (401, true));
    // None of them had the state cluster refuse a question.
    let failed = [("pool", "nodes"), ("result", "failed")];
    assert_eq!(world.envoy(0).metric("berth_state_calls_total", &failed).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn former_id_by_a_header_says_where_a_session_was_and_ends_nobody_elses() {
    let world = by_versions(impatient(), json!({"superseded": "reject", "previous_header": "x-former"}))
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let victim = with(&world, 0, version(3)).await.node().to_owned();

    let mallory = format!("Bearer {}", token(json!({"sid": "mallory", "sv": 1_000})));
    let answer = world.get("/").header("authorization", mallory).header("x-former", "ada").send().await;

    assert_eq!(answer.status, 200);
    // Nor does it help to leave the token out; whatever it is answered.
    for _ in 0..8 {
        world.get("/").header("x-session-id", "mallory").header("x-former", "ada").send().await;
    }
    assert_eq!(world.pin_of("nodes", "ada").await.unwrap().session_version, Some(3));
    let still = with(&world, 0, version(3)).await;
    assert_eq!((still.status.as_u16(), still.node()), (200, victim.as_str()));
    // Without versions it is what it is for.
    let former = ask(&world, "eve").await.node().to_owned();
    for key in sessions(12) {
        let heir = world.get("/").header("x-session-id", &key).header("x-former", "eve").send().await;
        assert_eq!(heir.node(), former, "{key}");
    }
}
