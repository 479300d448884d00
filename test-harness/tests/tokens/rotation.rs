//! What a token says of its session besides the id: what it was called before, which version it has, when it began; and
//! how firmly a rule keeps it.

use berth_harness::tokens::{RSA, now};
use berth_harness::{Builder, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::patience::{ask, impatient, nodes_become};
use crate::support::pinning::{notices, patiently_pinned};
use crate::support::tokens::token;
use crate::support::{SOON, pool, sessions, shown};

/// Sessions are named by tokens, with all that a token can say of them.
fn rotating(builder: Builder, session: Value) -> Builder {
    patiently_pinned(builder, &[]).configuration(move |json| {
        json["jwt_providers"] =
            json!([{"name": "players", "algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}]}]);
        let source = json!({
            "jwt": "players", "claim": "sid", "previous": "prev", "version": "sv", "created": "iat",
        });
        let mut session = session.clone();
        session["sources"] = json!([source]);
        pool(json)["session"] = session;
    })
}

async fn with(world: &World, envoy: usize, claims: Value) -> Response {
    let bearer = format!("Bearer {}", token(claims));
    world.envoy(envoy).client().get("/").header("authorization", bearer).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_id_stays_on_its_node_on_both_proxies_before_and_after_a_scale_out() {
    let world = rotating(impatient().nodes(4).envoys(2), json!({})).start().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 4)]).await;
    }
    let keys = sessions(40);
    let mut homes = Vec::new();
    for key in &keys {
        homes.push(with(&world, 0, json!({"sid": key, "sv": 1})).await.node().to_owned());
    }
    let renewed = |key: &String| json!({"sid": format!("{key}-renewed"), "prev": key, "sv": 2});
    let (early, late) = keys.split_at(20);

    for (key, home) in early.iter().zip(&homes) {
        for envoy in [1, 0] {
            assert_eq!(with(&world, envoy, renewed(key)).await.node(), home, "{key} at {envoy}");
        }
    }
    world.add_node().await;
    world.add_node().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 6)]).await;
    }
    for (key, home) in keys.iter().zip(&homes) {
        for envoy in [0, 1] {
            assert_eq!(
                with(&world, envoy, renewed(key)).await.node(),
                home,
                "{key} at {envoy}, with more nodes"
            );
            let replayed = with(&world, envoy, json!({"sid": key, "sv": 1})).await;
            assert_eq!((replayed.status.as_u16(), replayed.node()), (200, home.as_str()), "{key}, replayed");
            assert_eq!(with(&world, envoy, renewed(key)).await.node(), home, "{key} after the replay");
        }
    }
    let by_ring = join_all(late.iter().map(|key| ask_ring(&world, key))).await;
    let moved =
        late.iter().zip(&homes[20..]).zip(&by_ring).filter(|((_, home), ring)| *home != *ring).count();
    assert!(moved > 0, "by the ring alone some renewed ids would have moved");
}

/// A token that is renewed after its node has died: the new node learns whose sessions it takes over.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_id_of_a_dead_node_is_rehomed_from_it() {
    let world = rotating(impatient(), json!({})).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let home = with(&world, 0, json!({"sid": "ada", "sv": 1})).await.node().to_owned();
    let nodes = world.nodes();
    let dead = nodes.iter().find(|node| node.name() == home).unwrap();
    dead.refuse().await;
    nodes_become(world.envoy(0), &[("active", 2), ("cooldown", 1)]).await;

    let renewed = with(&world, 0, json!({"sid": "ada-2", "prev": "ada", "sv": 2})).await;

    assert_ne!(renewed.node(), home);
    let notice = format!("rehomed; from={home}; version=N");
    assert_eq!(notices([&renewed]), [(notice, 1)].into());
}

/// Where a renewed id would have gone had it been a new session.
async fn ask_ring(world: &World, key: &str) -> String {
    with(world, 0, json!({"sid": format!("{key}-stranger"), "sv": 1})).await.node().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_was_replaced_is_refused_if_only_the_latest_counts() {
    let world = rotating(impatient().envoys(2), json!({"superseded": "reject"})).start().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 3)]).await;
    }
    let version = |version: u32| json!({"sid": "ada", "sv": version});
    let home = with(&world, 0, version(1)).await.node().to_owned();
    assert_eq!(with(&world, 1, version(1)).await.node(), home);

    assert_eq!(with(&world, 0, version(2)).await.node(), home);

    for envoy in [0, 1] {
        eventually(async || with(&world, envoy, version(1)).await.status == 401, SOON).await;
        let refused = with(&world, envoy, version(1)).await;
        assert!(refused.header("www-authenticate").is_some(), "{refused:?}");
        let latest = with(&world, envoy, version(2)).await;
        assert_eq!((latest.status.as_u16(), latest.node()), (200, home.as_str()));
    }
    // A renewed id replaces the former one as well.
    let renewed = json!({"sid": "ada-2", "prev": "ada", "sv": 3});
    assert_eq!(with(&world, 0, renewed).await.node(), home);
    eventually(async || with(&world, 0, version(2)).await.status == 401, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_ends_at_its_age_and_says_so() {
    let world = rotating(impatient(), json!({"max_age": "1h", "ttl": "5m"})).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;

    let young = with(&world, 0, json!({"sid": "ada", "iat": now() - 60})).await;
    let old = with(&world, 0, json!({"sid": "eve", "iat": now() - 3_700})).await;

    assert_eq!(young.status, 200);
    assert_eq!(old.status, 401, "{old:?}");
    let pin = world.pin_of("nodes", "ada").await.unwrap();
    let ends = pin.ends_ms.unwrap() / 1000;
    assert!((now() + 3_500..=now() + 3_540).contains(&ends), "{pin:?}");
    assert!(pin.ttl_ms <= 300_000, "{pin:?}");
    assert_eq!(pin.created_ms.map(|at| at / 1000), Some(ends - 3_600));
}

/// Every class of service in front of the same nodes.
fn classes(builder: Builder) -> Builder {
    patiently_pinned(builder, &[]).configuration(|json| {
        let rule = |affinity: &str| {
            json!({
                "name": affinity,
                "match": {"headers": [{"name": "x-class", "one_of": [affinity]}]},
                "pool": "nodes",
                "affinity": affinity,
            })
        };
        json["rules"] = json!([rule("strict"), rule("off"), {"name": "prefer", "pool": "nodes"}]);
    })
}

async fn of_class(world: &World, class: &str, session: &str) -> Response {
    world.get("/").header("x-class", class).header("x-session-id", session).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_waits_for_its_node_and_prefer_moves_when_it_dies() {
    let world = classes(impatient().nodes(3)).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let (strict, prefer) = (named("strict", 30), named("prefer", 30));
    let mut homes = Vec::new();
    for key in &strict {
        homes.push(of_class(&world, "strict", key).await.node().to_owned());
    }
    for key in &prefer {
        ask(&world, key).await;
    }
    let dead = world.node_named(&homes[0]);

    dead.refuse().await;
    nodes_become(world.envoy(0), &[("cooldown", 1)]).await;

    for (key, home) in strict.iter().zip(&homes) {
        let answer = of_class(&world, "strict", key).await;
        if home == dead.name() {
            assert_eq!(answer.status, 503, "{key}: {answer:?}");
            assert!(answer.header("retry-after").is_some(), "{key}: {answer:?}");
            assert_eq!(shown(&answer, "reason"), "pin_unavailable");
        } else {
            assert_eq!((answer.status.as_u16(), answer.node()), (200, home.as_str()), "{key}");
        }
    }
    for key in &prefer {
        let answer = ask(&world, key).await;
        assert!(answer.status == 200 && answer.node() != dead.name(), "{key}: {answer:?}");
    }
    for key in &named("late", 30) {
        let answer = of_class(&world, "strict", key).await;
        assert!(answer.status == 200 && answer.node() != dead.name(), "{key} is new: {answer:?}");
    }
    for _ in 0..20 {
        assert_eq!(of_class(&world, "off", "ada").await.status, 200);
    }
    let withheld = "wasmcustom.berth_rule_requests_total.rule.strict.result.withheld";
    let at_home = homes.iter().filter(|home| *home == dead.name()).count() as u64;
    eventually(async || world.envoy(0).stat(withheld).await == at_home, SOON).await;

    dead.restart().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    for (key, home) in strict.iter().zip(&homes) {
        let answer = of_class(&world, "strict", key).await;
        assert_eq!((answer.status.as_u16(), answer.node()), (200, home.as_str()), "{key}");
        assert!(world.pin_of("nodes", key).await.unwrap().events.is_empty(), "{key} was moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_node_keeps_strict_and_preferring_sessions_and_gets_no_new_ones() {
    let world = classes(impatient().nodes(3)).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(40);
    let mut homes = Vec::new();
    for key in &keys {
        homes.push(of_class(&world, "strict", key).await.node().to_owned());
    }
    let leaving = homes[0].clone();

    world.set_node_state(&leaving, "draining").await;
    nodes_become(world.envoy(0), &[("draining", 1)]).await;

    for (key, home) in keys.iter().zip(&homes) {
        for class in ["strict", "prefer"] {
            let answer = of_class(&world, class, key).await;
            assert_eq!((answer.status.as_u16(), answer.node()), (200, home.as_str()), "{class} {key}");
        }
    }
    for key in &named("new", 30) {
        for class in ["strict", "prefer"] {
            let answer = of_class(&world, class, &format!("{class}-{key}")).await;
            assert!(answer.status == 200 && answer.node() != leaving, "{class} {key}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_session_of_a_node_that_left_begins_elsewhere_only_once_it_has_ended() {
    let world = classes(impatient().nodes(3)).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let home = of_class(&world, "strict", "ada").await.node().to_owned();
    let place = world.nodes().iter().position(|node| node.name() == home).unwrap();
    // While a node passes its checks, Envoy keeps it though EDS does not list it any more.
    world.node(place).refuse().await;
    world.remove_node(place).await;
    nodes_become(world.envoy(0), &[("active", 2), ("cooldown", 0)]).await;

    for _ in 0..20 {
        let answer = of_class(&world, "strict", "ada").await;
        assert_eq!((answer.status.as_u16(), shown(&answer, "reason")), (503, "pin_unavailable"));
    }
    assert!(world.state(0).end_session("nodes", "ada").await);

    let elsewhere = async || of_class(&world, "strict", "ada").await.status == 200;
    eventually(elsewhere, SOON).await;
    assert_ne!(of_class(&world, "strict", "ada").await.node(), home);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_without_an_answer_serves_whom_it_knows_and_withholds_the_others() {
    let world = classes(impatient().nodes(3).concurrency(1)).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let known = of_class(&world, "strict", "ada").await.node().to_owned();
    world.state(0).kill();

    let answer = of_class(&world, "strict", "ada").await;
    let stranger = of_class(&world, "strict", "eve").await;

    assert_eq!((answer.status.as_u16(), answer.node()), (200, known.as_str()));
    assert_eq!(stranger.status, 503, "{stranger:?}");
    assert_eq!(shown(&stranger, "reason"), "state_away");
    assert_eq!(of_class(&world, "prefer", "eve").await.status, 200);
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}
