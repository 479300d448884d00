//! What EDS says of a node, and who comes and goes: a node that drains or is degraded keeps its sessions and inherits
//! none, one that is unhealthy is put out, and a new one takes over its sessions gradually.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::patience::{ask, caught_up, cluster, destination, nodes_become};
use crate::support::{SOON, pool, sessions, shown};
use berth_harness::{Builder, Client, Endpoint, World, eventually};
use serde_json::json;

/// On Berth's own ring no session moves between nodes that stay.
fn impatient() -> Builder {
    crate::support::patience::impatient().configuration(crate::support::own_ring)
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_and_degraded_nodes_keep_their_sessions_and_inherit_none() {
    for (health, state) in [("DRAINING", "draining"), ("DEGRADED", "degraded")] {
        let world = impatient().nodes(4).start().await;
        nodes_become(world.envoy(0), &[("active", 4)]).await;
        let keys = sessions(200);
        let before = world.nodes_of(&keys).await;
        let leaving = world.node(0);

        world.set_eds_health(0, health).await;
        nodes_become(world.envoy(0), &[(state, 1), ("active", 3)]).await;

        for (key, before) in keys.iter().zip(&before) {
            let response = ask(&world, key).await;
            assert_eq!((response.node(), shown(&response, "reason")), (before.as_str(), "owner"), "{health}");
            assert!(!destination(&response)[1..].contains(&leaving.name().to_owned()), "{health}");
        }
        // Nor does it get the sessions of a node that fails.
        world.node(1).fail_health();
        nodes_become(world.envoy(0), &[(state, 1), ("cooldown", 1), ("active", 2)]).await;
        for (before, now) in before.iter().zip(world.nodes_of(&keys).await) {
            assert_eq!(now == leaving.name(), before == leaving.name(), "{health}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_sessions_with_an_issued_cookie_begin_at_active_nodes_and_stay_there() {
    let world = impatient()
        .nodes(4)
        .configuration(|json| {
            pool(json)["session"] = json!({
                "sources": [{"cookie": "sid"}],
                "missing": {"issue_cookie": {"name": "sid", "secure": false}},
            });
        })
        .start()
        .await;
    world.set_eds_health(0, "DRAINING").await;
    world.set_eds_health(1, "DEGRADED").await;
    nodes_become(world.envoy(0), &[("draining", 1), ("degraded", 1), ("active", 2)]).await;

    let mut served = BTreeMap::<String, u32>::new();
    for _ in 0..100 {
        // Sessions that begin on one connection have one place.
        let first = Client::new(world.envoy(0).address()).get("/").send().await;
        assert_eq!(shown(&first, "reason"), "issued");
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap();
        let second = world.get("/").header("cookie", cookie).send().await;
        assert_eq!((second.node(), second.header("set-cookie")), (first.node(), None));
        *served.entry(first.node().to_owned()).or_default() += 1;
    }

    let count = |node: usize| served.get(world.node(node).name()).copied().unwrap_or(0);
    assert_eq!(count(0) + count(1), 0, "{served:?}");
    assert!(count(2) > 10 && count(3) > 10, "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_eds_calls_unhealthy_is_out_and_comes_back_after_its_cooldown() {
    let world = impatient().nodes(3).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(200);
    let before = world.nodes_of(&keys).await;

    world.set_eds_health(0, "UNHEALTHY").await;
    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
    let out = world.node(0);
    for (before, now) in before.iter().zip(world.nodes_of(&keys).await) {
        assert!(if before == out.name() { now != *before } else { now == *before });
    }

    let well = Instant::now();
    world.set_eds_health(0, "HEALTHY").await;
    eventually(async || world.nodes_of(&keys).await == before, SOON).await;
    assert!(well.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_node_keeps_its_sessions_until_its_checks_fail_and_then_only_they_move() {
    let world = impatient().nodes(4).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let keys = sessions(400);
    let before = world.nodes_of(&keys).await;
    let removed = world.node(0);

    world.remove_node(0).await;
    nodes_become(world.envoy(0), &[("draining", 1), ("active", 3)]).await;
    assert_eq!(world.nodes_of(&keys).await, before, "its process still runs");

    let heir = destination(
        &ask(&world, &keys[before.iter().position(|node| node == removed.name()).unwrap()]).await,
    )[1]
    .clone();
    removed.refuse().await;
    nodes_become(world.envoy(0), &[("draining", 0), ("cooldown", 0), ("active", 3)]).await;
    let after = world.nodes_of(&keys).await;
    for (before, now) in before.iter().zip(&after) {
        assert!(if before == removed.name() { now != before } else { now == before });
    }
    assert_eq!(after[before.iter().position(|node| node == removed.name()).unwrap()], heir);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_node_is_unknown_and_not_failed_until_its_first_check_is_answered() {
    let world = impatient()
        .nodes(4)
        .bootstrap(|json| cluster(json, "nodes")["health_checks"][0]["timeout"] = "60s".into())
        .start()
        .await;
    let newcomer = world.node(3);
    world.remove_node(3).await;
    newcomer.fail_health();
    nodes_become(world.envoy(0), &[("active", 3), ("draining", 0), ("cooldown", 0)]).await;
    let keys = sessions(200);
    let before = world.nodes_of(&keys).await;

    newcomer.hang();
    world.edit_endpoints(|set| set.push(Endpoint::new(newcomer.address()))).await;

    nodes_become(world.envoy(0), &[("active", 3), ("pending", 1), ("cooldown", 0)]).await;
    assert_eq!(world.nodes_of(&keys).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_node_takes_over_its_sessions_gradually_and_no_others_move() {
    // One worker: with two, one may be a tick ahead of the other.
    let world = impatient()
        .concurrency(1)
        .nodes(3)
        .configuration(|json| pool(json)["health"]["warm_up"] = "3s".into())
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(400);
    let before = world.nodes_of(&keys).await;

    let added = world.add_node().await;
    let mut shares = BTreeSet::new();
    let mut moved = BTreeSet::new();
    let sample = async || {
        let warm = active(&world).await == 4;
        let now = world.nodes_of(&keys).await;
        let mut here = BTreeSet::new();
        for ((key, before), now) in keys.iter().zip(&before).zip(&now) {
            if now == added.name() {
                here.insert(key.clone());
            } else {
                assert_eq!(now, before, "{key} moved between old nodes");
            }
        }
        assert!(here.is_superset(&moved), "sessions went away again");
        shares.insert(here.len());
        moved = here;
        warm
    };
    eventually(sample, SOON).await;
    caught_up(world.envoy(0)).await;

    let all = world.nodes_of(&keys).await.iter().filter(|node| *node == added.name()).count();
    let first = shares.iter().find(|share| **share > 0).unwrap();
    assert!(*first * 2 < all, "the ramp begins low: {shares:?} of {all}");
    assert!(shares.len() >= 5, "the ramp is gradual: {shares:?} of {all}");
}

async fn active(world: &World) -> u64 {
    world.envoy(0).stat("wasmcustom.berth_nodes.pool.nodes.state.active").await
}
