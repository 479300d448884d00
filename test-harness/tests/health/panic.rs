//! Too few usable nodes to believe what health says: sessions go home as if all were well, or are turned away at once,
//! as configured, until enough nodes have been usable for a while.

use std::time::{Duration, Instant};

use crate::support::patience::{ask, cluster, impatient, nodes_become};
use crate::support::{SOON, pool, sessions, shown};
use berth_harness::{Builder, Response, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stay_at_home_while_most_nodes_only_seem_unhealthy() {
    let world = patient().start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(100);
    let before = world.nodes_of(&keys).await;

    for node in [0, 1] {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 2)]).await;

    assert_eq!(panic(&world).await, 1.0);
    assert_eq!(world.nodes_of(&keys).await, before);
    let response = ask(&world, "ada").await;
    assert_eq!((shown(&response, "outcome"), shown(&response, "reason")), ("panic", "owner"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_find_the_last_node_and_panic_ends_once_enough_are_back_for_a_while() {
    let world = patient().start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(100);
    let before = world.nodes_of(&keys).await;

    for node in [0, 1] {
        world.node(node).refuse().await;
    }
    nodes_become(world.envoy(0), &[("cooldown", 2)]).await;
    assert_eq!(panic(&world).await, 1.0);
    for key in &keys {
        let response = ask(&world, key).await;
        assert_eq!((response.status.as_u16(), response.node()), (200, world.node(2).name()));
        assert_eq!(shown(&response, "outcome"), "panic");
    }

    let well = Instant::now();
    for node in [0, 1] {
        world.node(node).restart().await;
    }
    // Long before anybody trusts their health again.
    let home = async || world.nodes_of(&keys).await == before;
    eventually(home, SOON).await;
    assert_eq!(shown(&ask(&world, "ada").await, "outcome"), "panic");

    eventually(async || shown(&ask(&world, "ada").await, "outcome") == "ring", SOON).await;
    let length = well.elapsed();
    // Their cooldown of 2 s, then panic_hold.
    assert!(length >= Duration::from_secs(3), "panic ended {length:?} after they were well");
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    assert_eq!(panic(&world).await, 0.0);
    assert_eq!(world.nodes_of(&keys).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_find_the_last_of_many_nodes() {
    let world = patient().nodes(6).start().await;
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    for node in 0..5 {
        world.node(node).refuse().await;
    }
    nodes_become(world.envoy(0), &[("cooldown", 5), ("active", 1)]).await;

    for key in sessions(100) {
        let response = ask(&world, &key).await;
        assert_eq!((response.status.as_u16(), shown(&response, "outcome")), (200, "panic"));
        assert_eq!(response.node(), world.node(5).name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_is_answered_with_503_when_every_node_refuses() {
    let world = patient().start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    for node in world.nodes() {
        node.refuse().await;
    }
    nodes_become(world.envoy(0), &[("cooldown", 3)]).await;

    let response = ask(&world, "ada").await;

    assert_eq!((response.status.as_u16(), shown(&response, "outcome")), (503, "panic"));
    let body = String::from_utf8_lossy(&response.body);
    assert!(body.contains("connect"), "{body}");

    for node in world.nodes() {
        node.restart().await;
    }
    eventually(async || ask(&world, "ada").await.status == 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reject_turns_sessions_away_before_they_reach_a_node() {
    let world = patient().configuration(|json| pool(json)["on_panic"] = "reject".into()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    for node in [0, 1] {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 2)]).await;

    for key in sessions(20) {
        is_rejected(&ask(&world, &key).await, "1", "too few nodes are usable");
    }
    let post = world.client().post("/", "order").header("x-session-id", "ada").send().await;
    is_rejected(&post, "1", "too few nodes are usable");

    assert_eq!(world.nodes().iter().map(|node| node.requests()).sum::<u64>(), 0);
    let labels = [("pool", "nodes"), ("outcome", "rejected")];
    let counted = async || world.envoy(0).metric("berth_requests_total", &labels).await == 21.0;
    eventually(counted, SOON).await;
    // The panic rule protects sessions: a request without one still gets a node.
    assert_eq!(world.get("/").send().await.status, 200);

    for node in world.nodes() {
        node.serve();
    }
    eventually(async || ask(&world, "ada").await.status == 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threshold_of_zero_never_panics() {
    let world = patient().configuration(|json| pool(json)["panic_threshold"] = 0.into()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(100);

    for node in [0, 1] {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 2), ("active", 1)]).await;
    assert!(world.nodes_of(&keys).await.iter().all(|node| node == world.node(2).name()));

    world.node(2).fail_health();
    nodes_become(world.envoy(0), &[("cooldown", 3)]).await;
    let served = world.nodes().iter().map(|node| node.requests()).sum::<u64>();
    for key in &keys {
        is_rejected(&ask(&world, key).await, "1", "no node is usable");
    }
    assert_eq!(world.nodes().iter().map(|node| node.requests()).sum::<u64>(), served);
    assert_eq!(panic(&world).await, 0.0);
}

#[track_caller]
fn is_rejected(response: &Response, wait: &str, reason: &str) {
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some(wait));
    assert_eq!(shown(response, "outcome"), "rejected");
    let body = String::from_utf8_lossy(&response.body);
    assert!(body.contains(reason), "{body}");
}

/// Panic holds for a second. Envoy's outlier detection is out of it: it would keep nodes ejected for half a minute.
fn patient() -> Builder {
    impatient().configuration(|json| pool(json)["panic_hold"] = "1s".into()).bootstrap(|json| {
        assert!(cluster(json, "nodes").as_object_mut().unwrap().remove("outlier_detection").is_some());
    })
}

async fn panic(world: &World) -> f64 {
    world.envoy(0).metric("berth_panic", &[("pool", "nodes")]).await
}
