//! Switching Berth on step by step, in front of a cluster that had an affinity of its own before: Maglev over the same
//! session id, where the shipped bootstrap sends what Berth leaves alone.

use std::time::Duration;

use berth_harness::tokens::RSA;
use berth_harness::{Builder, Envoy, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::patience::cluster;
use crate::support::tokens::by_token;
use crate::support::tokens::token;
use crate::support::{SOON, placing, quick, routes, sessions, shown};

const MAGLEV: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
/// Requests under way at once: more would find their connections refused on a busy machine.
const TOGETHER: usize = 50;

/// What the users of these tests had before Berth: Envoy's own Maglev.
fn had_maglev(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        cluster(json, "nodes_sessionless")["load_balancing_policy"] = json!({"policies": [{
            "typed_extension_config": {
                "name": "envoy.load_balancing_policies.maglev",
                "typed_config": {"@type": MAGLEV},
            },
        }]});
        let route = routes(json).last_mut().unwrap();
        route["route"]["hash_policy"] = json!([{"header": {"header_name": "x-session-id"}}]);
    })
}

/// One rule for all, switched on so far.
fn rollout(json: &mut Value, mode: &str, percent: u64) {
    json["rules"] = json!([{"name": "all", "pool": "nodes", "rollout": {"mode": mode, "percent": percent}}]);
}

async fn visit(envoy: &Envoy, session: &str) -> Response {
    let answer = envoy.client().get("/").header("x-session-id", session).send().await;
    assert_eq!(answer.status, 200, "{session}: {answer:?}");
    answer
}

/// Every session's answer, in order.
async fn visits(envoy: &Envoy, keys: &[String]) -> Vec<Response> {
    let mut answers = Vec::new();
    for some in keys.chunks(TOGETHER) {
        answers.extend(join_all(some.iter().map(|key| visit(envoy, key))).await);
    }
    answers
}

fn nodes(answers: &[Response]) -> Vec<String> {
    answers.iter().map(|answer| answer.node().to_owned()).collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

async fn results(envoy: &Envoy, result: &str) -> u64 {
    envoy.stat(&format!("wasmcustom.berth_rule_requests_total.rule.all.result.{result}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_0_to_100_percent_only_sessions_that_enter_move_and_none_comes_back() {
    let world = placing(had_maglev(World::builder().nodes(4).envoys(2))).await;
    let keys = sessions(1_000);
    let enforced = nodes(&visits(world.envoy(0), &keys).await);
    let mut before: Option<Vec<Response>> = None;

    for percent in [0, 10, 50, 100, 50, 0] {
        for envoy in world.envoys() {
            envoy.reload(|json| rollout(json, "enforce", percent)).await.unwrap();
        }
        let now = visits(world.envoy(0), &keys).await;
        let other = nodes(&visits(world.envoy(1), &keys).await);

        assert_eq!(moved(&nodes(&now), &other), 0, "at {percent} % two proxies disagree");
        let is_in = |answer: &Response| shown(answer, "reason") != "not_rolled_out";
        let share = now.iter().filter(|answer| is_in(answer)).count() as f64 / keys.len() as f64;
        println!("{percent} %: {:.1} % are in", share * 100.0);
        assert!((share - percent as f64 / 100.0).abs() < 0.04, "{share} are in at {percent} %");
        for (index, answer) in now.iter().enumerate() {
            if is_in(answer) {
                assert_eq!(answer.node(), enforced[index], "{} is in", keys[index]);
            }
            if let Some(before) = before.as_ref().map(|before| &before[index]) {
                let stayed = is_in(before) == is_in(answer);
                assert!(!stayed || before.node() == answer.node(), "{} moved at {percent} %", keys[index]);
            }
        }
        if let Some(before) = &before {
            let entered =
                before.iter().zip(&now).filter(|(before, now)| !is_in(before) && is_in(now)).count();
            let left = before.iter().zip(&now).filter(|(before, now)| is_in(before) && !is_in(now)).count();
            assert!(entered == 0 || left == 0, "at {percent} % {entered} entered and {left} left");
        }
        before = Some(now);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_moves_nothing_and_foretells_what_enforcing_moves() {
    let world = placing(had_maglev(World::builder().nodes(4))).await;
    let keys = sessions(2_000);
    let envoy = world.envoy(0);
    envoy.reload(|json| rollout(json, "off", 100)).await.unwrap();
    let before = nodes(&visits(envoy, &keys).await);

    envoy.reload(|json| rollout(json, "observe", 100)).await.unwrap();
    let observed = visits(envoy, &keys).await;
    assert_eq!(moved(&before, &nodes(&observed)), 0, "observing moves no session");
    eventually(
        async || results(envoy, "observed_same").await + results(envoy, "observed_moved").await == 2_000,
        SOON,
    )
    .await;
    let predicted = results(envoy, "observed_moved").await as usize;
    envoy.reload(|json| rollout(json, "enforce", 100)).await.unwrap();
    let enforced = nodes(&visits(envoy, &keys).await);

    let happened = moved(&before, &enforced);
    println!("predicted {predicted}, happened {happened} of {}", keys.len());
    assert!(happened > 1_000, "the two rings should disagree: {happened}");
    assert!(predicted.abs_diff(happened) <= keys.len() / 100, "predicted {predicted}, happened {happened}");
    let would: Vec<String> = observed.iter().map(|answer| shown(answer, "would").to_owned()).collect();
    assert_eq!(would, enforced, "the debug header names the node that it would have been");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_be_out_is_never_turned_away() {
    let builder =
        by_token(World::builder(), json!({"algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}]}));
    let builder = builder.configuration(|json| json["pools"][0]["session"]["missing"] = "reject".into());
    let world = quick(builder).start().await;
    let envoy = world.envoy(0);
    let bad = format!("Bearer {}", token(json!({"sid": "ada", "exp": 1})));
    let good = format!("Bearer {}", token(json!({"sid": "ada"})));
    let without = async || envoy.client().get("/").send().await;
    let with = async |bearer: &str| envoy.client().get("/").header("authorization", bearer).send().await;

    for percent in [0, 10, 99] {
        envoy.reload(|json| rollout(json, "enforce", percent)).await.unwrap();
        for answer in [without().await, with(&bad).await] {
            assert_eq!(
                (answer.status.as_u16(), shown(&answer, "reason")),
                (200, "not_rolled_out"),
                "{answer:?}"
            );
        }
        assert_eq!(with(&good).await.status, 200);
    }
    envoy.reload(|json| rollout(json, "enforce", 100)).await.unwrap();

    assert_eq!((without().await.status.as_u16(), with(&bad).await.status.as_u16()), (401, 401));
    eventually(async || results(envoy, "rejected").await == 2, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_rule_that_fits_decides() {
    let builder = World::builder().nodes(3).configuration(|json| {
        json["rules"] = json!([
            {"name": "static", "match": {"path_prefixes": ["/static/"]}, "pool": "nodes", "affinity": "off"},
            {
                "name": "named",
                "match": {"headers": [{"name": "x-tier", "one_of": ["gold"]}]},
                "pool": "nodes",
                "session": {"sources": [{"header": "x-player"}], "missing": "reject"},
            },
            {"name": "rest", "match": {"hosts": ["play.example.com"]}, "pool": "nodes"},
        ]);
    });
    let world = placing_by(builder, "play.example.com").await;
    let get = |path: &str| world.get(path).header("host", "play.example.com");

    let file = get("/static/logo.png").header("x-session-id", "ada").send().await;
    let gold = get("/").header("x-tier", "gold").header("x-player", "ada").send().await;
    let nameless = get("/").header("x-tier", "gold").header("x-session-id", "ada").send().await;
    let silver = get("/").header("x-tier", "silver").header("x-session-id", "ada").send().await;
    let stranger = world.get("/").header("host", "other.example.com").send().await;

    assert_eq!((shown(&file, "outcome"), shown(&file, "reason")), ("sessionless", "affinity_off"));
    assert!(file.received().header("x-berth-destination").is_none());
    assert_eq!(shown(&gold, "reason"), "owner");
    assert_eq!(nameless.status, 400, "{nameless:?}");
    let body = String::from_utf8_lossy(&nameless.body);
    assert!(body.contains("send one as header x-player"), "{body}");
    assert_eq!((shown(&silver, "reason"), silver.node()), ("owner", gold.node()), "one session, one ring");
    assert!(stranger.header("x-berth").is_none(), "no rule took it");
    let counted = async || {
        let metrics = world.envoy(0).prometheus().await;
        metrics.contains("berth_rule_requests_total{result=\"affinity_off\",rule=\"static\"} 1")
            || metrics.contains("berth_rule_requests_total{rule=\"static\",result=\"affinity_off\"} 1")
    };
    eventually(counted, SOON).await;
}

/// Returns once every worker knows the members, for a world that looks at host names.
async fn placing_by(builder: Builder, host: &'static str) -> World {
    let world = crate::support::quick(builder).start().await;
    let placed = async || {
        let probes = (0..24).map(|_| world.get("/").header("host", host).header("x-session-id", "p").send());
        join_all(probes).await.iter().all(|answer| shown(answer, "reason") == "owner")
    };
    eventually(placed, Duration::from_secs(10)).await;
    world
}
