//! Pools: by host, path or cluster a request comes to one of several, each with its own ring, policy and metrics.

use crate::support::{SOON, owners, quick, routes, sessions, shown};
use berth_core::ring::Algorithm;
use berth_harness::{Client, Request, Response, World, eventually};
use serde_json::{Value, json};

const RENDEZVOUS: Algorithm = Algorithm::Rendezvous;
const MAGLEV: Algorithm = Algorithm::Maglev { table_size: 65_537 };

/// Pools on the same nodes. They differ in how they place sessions and in how they treat a request without one.
fn pools() -> Value {
    let pool = |name: &str, matches: Value, ring: &str, missing: Value| {
        json!({
            "name": name,
            "cluster": "nodes",
            "match": matches,
            "ring": {"algorithm": ring},
            "session": {"sources": [{"header": "x-session-id"}, {"cookie": "sid"}], "missing": missing},
        })
    };
    json!([
        pool("exact", json!({"hosts": ["Game.example.com"]}), "ring_hash", "pass".into()),
        pool(
            "wildcard",
            json!({"hosts": ["*.example.com"], "path_prefixes": ["/"]}),
            "rendezvous",
            json!({"issue_cookie": {"name": "sid"}})
        ),
        pool("docs", json!({"path_prefixes": ["/docs/", "/wiki"]}), "maglev", "reject".into()),
        pool("routed", json!({"clusters": ["nodes"]}), "rendezvous", "reject".into()),
    ])
}

async fn world() -> World {
    let builder = World::builder().nodes(5).configuration(|json| json["pools"] = pools()).bootstrap(|json| {
        // A route that names the cluster before Berth has set any header.
        let route = json!({"match": {"prefix": "/routed"}, "route": {"cluster": "nodes"}});
        routes(json).insert(1, route);
    });
    let world = quick(builder).start().await;
    for pool in ["exact", "wildcard", "docs", "routed"] {
        let stat = format!("wasmcustom.berth_nodes.pool.{pool}.state.active");
        eventually(async || world.envoy(0).stat(&stat).await == 5, SOON).await;
        // The gauge is the leader's view; this is every worker's.
        let placed = async || {
            for _ in 0..24 {
                let client = Client::new(world.envoy(0).address());
                let request = client.get(path_of(pool)).header("host", host_of(pool));
                let answer = request.header("x-session-id", "probe").send().await;
                if shown(&answer, "reason") != "owner" {
                    return false;
                }
            }
            true
        };
        eventually(placed, SOON).await;
    }
    world
}

fn host_of(pool: &str) -> &'static str {
    match pool {
        "exact" => "game.example.com",
        "wildcard" => "chat.example.com",
        _ => "other.test",
    }
}

fn path_of(pool: &str) -> &'static str {
    match pool {
        "docs" => "/docs/",
        "routed" => "/routed",
        _ => "/",
    }
}

fn get(world: &World, host: &str, path: &str) -> Request {
    world.get(path).header("host", host)
}

/// Which pool takes such a request, by what each does without a session.
fn taken_by(answer: &Response) -> &'static str {
    match (answer.status.as_u16(), answer.header("set-cookie").is_some(), answer.header("x-berth")) {
        (200, true, Some(_)) => "wildcard",
        (200, false, Some(_)) => "exact",
        (400, false, Some(_)) => "docs or routed",
        (200, false, None) => "none",
        _ => panic!("{answer:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_path_and_cluster_choose_the_pool() {
    let world = world().await;

    for (host, path, pool) in [
        ("game.example.com", "/", "exact"),
        ("GAME.example.COM", "/docs/", "exact"),
        ("game.example.com:8443", "/routed", "exact"),
        ("chat.example.com", "/", "wildcard"),
        ("a.b.EXAMPLE.com:80", "/docs/", "wildcard"),
        ("example.com", "/", "none"),
        ("badexample.com", "/", "none"),
        ("game.example.com.evil.test", "/", "none"),
        ("other.test", "/docs/a?b=c", "docs or routed"),
        ("other.test", "/docs", "none"),
        ("other.test", "/wikipedia", "docs or routed"),
        ("other.test", "/a/docs/", "none"),
        ("other.test", "/routed/a", "docs or routed"),
        ("[::1]:80", "/", "none"),
    ] {
        let answer = get(&world, host, path).send().await;
        assert_eq!(taken_by(&answer), pool, "{host} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pool_has_its_own_ring() {
    let world = world().await;
    let keys = sessions(100);
    let expected =
        [Algorithm::default(), RENDEZVOUS, MAGLEV].map(|algorithm| owners(&world, algorithm, &keys));
    assert!(expected[0] != expected[1] && expected[1] != expected[2] && expected[2] != expected[0]);
    let [ring_hash, rendezvous, maglev] = expected;

    for (pool, owners) in
        [("exact", ring_hash), ("wildcard", rendezvous.clone()), ("docs", maglev), ("routed", rendezvous)]
    {
        for (key, owner) in keys.iter().zip(owners) {
            let request = get(&world, host_of(pool), path_of(pool)).header("x-session-id", key);
            assert_eq!(request.send().await.node(), owner, "{pool} {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pool_counts_for_itself_and_bypassed_requests_are_counted() {
    let world = world().await;
    let envoy = world.envoy(0);
    let count = async |pool: &str, outcome: &str| {
        envoy.metric("berth_requests_total", &[("pool", pool), ("outcome", outcome)]).await
    };
    let bypassed = async || envoy.stat("wasmcustom.berth_bypassed_total").await;
    // Workers hand in their counts at each tick, of which there are several in two intervals.
    let polls = async || envoy.stat("wasmcustom.berth_polls_total.pool.exact.result.ok").await;
    let enough = polls().await + 3;
    eventually(async || polls().await >= enough, SOON).await;
    let mut before = Vec::new();
    for pool in ["exact", "wildcard", "docs", "routed"] {
        before.push(count(pool, "ring").await);
    }
    assert_eq!(bypassed().await, 0);

    let pools = [("exact", 1), ("wildcard", 2), ("docs", 3), ("routed", 4)];
    for (pool, times) in pools {
        for _ in 0..times {
            let request = get(&world, host_of(pool), path_of(pool)).header("x-session-id", "ada");
            assert_eq!(request.send().await.status, 200);
        }
    }
    for _ in 0..5 {
        let answer = get(&world, "other.test", "/").header("x-session-id", "ada").send().await;
        assert_eq!((answer.status.as_u16(), taken_by(&answer)), (200, "none"));
    }
    get(&world, host_of("docs"), path_of("docs")).send().await;

    eventually(async || bypassed().await == 5, SOON).await;
    eventually(async || count("docs", "rejected").await == 1.0, SOON).await;
    for ((pool, times), before) in pools.into_iter().zip(before) {
        let counted = async || count(pool, "ring").await - before;
        eventually(async || counted().await == f64::from(times), SOON).await;
    }
    assert_eq!(count("routed", "rejected").await, 0.0);
}
