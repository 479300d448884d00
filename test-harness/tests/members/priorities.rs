//! Nodes of several priorities: sessions without a node draw one as Envoy's own ring has them draw it, those that have a node
//! stay with it in whatever priority it is, and a priority that is lost costs each of its sessions one move.

use std::collections::BTreeSet;

use crate::support::native::{RING, add_native, native_nodes_of};
use crate::support::patience::{ask, caught_up, cluster, impatient, nodes_become};
use crate::support::pinning::{all_see, moved, patiently_pinned};
use crate::support::{SOON, pool, sessions, shown};
use berth_harness::{Builder, EndpointSet, Envoy, Response, World, eventually};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_priority_costs_each_session_one_move_and_no_request_a_retry() {
    let world = patiently_pinned(impatient().nodes(6), &[]).start().await;
    set_priorities(&world, 4).await;
    all_see(&world, &[("active", 6)]).await;
    let keys = sessions(60);
    let before = world.nodes_of(&keys).await;
    assert!(before.iter().all(|node| is_of(&world, 0..4, node)), "{before:?}");

    for node in 0..4 {
        world.node(node).refuse().await;
    }
    all_see(&world, &[("cooldown", 4), ("active", 2)]).await;
    let retries = retries(&world).await;
    let after = answers(&world, &keys, "rehomed").await;
    assert!(after.iter().all(|node| is_of(&world, 4..6, node)), "{after:?}");
    answers(&world, &fresh("new", 60), "claimed").await;
    assert_eq!(answers(&world, &keys, "hit").await, after);
    assert_eq!(self::retries(&world).await, retries);
    assert_eq!((panic(&world).await, rehomed(&world).await), (0.0, 60));

    for node in 0..4 {
        world.node(node).restart().await;
    }
    all_see(&world, &[("cooldown", 0), ("active", 6)]).await;

    assert_eq!(answers(&world, &keys, "hit").await, after, "no session moves back");
    let new = answers(&world, &fresh("newer", 60), "claimed").await;
    assert!(new.iter().all(|node| is_of(&world, 0..4, node)), "{new:?}");
    assert_eq!(rehomed(&world).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_priority_that_is_not_checked_is_survived_by_the_first_request_and_then_left() {
    for pinned in [false, true] {
        let world = unchecked(impatient().nodes(5).concurrency(1));
        let world = if pinned { patiently_pinned(world, &[]) } else { world }.start().await;
        set_priorities(&world, 3).await;
        nodes_become(world.envoy(0), &[("active", 5)]).await;
        let keys = sessions(40);
        let before = world.nodes_of(&keys).await;
        assert!(before.iter().all(|node| is_of(&world, 0..3, node)));

        for node in 0..3 {
            world.node(node).refuse().await;
        }

        for key in keys.iter().chain(&fresh("new", 40)) {
            let answer = ask(&world, key).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(is_of(&world, 3..5, answer.node()), "{answer:?}");
        }
        eventually(
            async || {
                let before = retries(&world).await;
                world.nodes_of(&sessions(80)).await;
                retries(&world).await == before
            },
            SOON,
        )
        .await;
        assert_eq!(panic(&world).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_a_node_are_where_envoys_own_ring_has_them_whichever_nodes_fail() {
    let size = json!({"minimum_ring_size": 1024});
    let native = size.clone();
    let world = impatient()
        .nodes(4)
        .configuration(move |json| {
            pool(json)["ring"] = size.clone();
            pool(json)["panic_hold"] = "0s".into();
        })
        .bootstrap(move |json| {
            assert!(cluster(json, "nodes").as_object_mut().unwrap().remove("outlier_detection").is_some());
            add_native(json, RING, native.clone());
        })
        .start()
        .await;
    set_priorities_to(&world, 2, beyond_a_gap(world.envoy(0)).await).await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let keys = sessions(1000);
    assert_eq!(agreed(&world, &keys, 0).await, [2, 0]);

    // Half of the best; then half of each; then all but one, when the best has none; then all, which is panic.
    for (node, nodes, in_panic) in [(0, [1, 2], 0.0), (3, [1, 1], 0.0), (1, [0, 1], 0.0), (2, [2, 2], 1.0)] {
        world.node(node).fail_health();
        let failed = agreed_on(&world, node).await;
        assert_eq!(agreed(&world, &keys, failed).await, nodes, "after {failed}");
        assert_eq!(panic(&world).await, in_panic);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_that_leaves_and_comes_back_moves_each_session_once() {
    let world = patiently_pinned(unchecked(impatient().nodes(4)), &[]).start().await;
    set_priorities(&world, 2).await;
    all_see(&world, &[("active", 4)]).await;
    let keys = sessions(50);
    let before = world.nodes_of(&keys).await;
    assert!(before.iter().all(|node| is_of(&world, 0..2, node)));
    let mut left = EndpointSet::new();

    world.edit_endpoints(|set| left = set.extract_if(.., |endpoint| endpoint.priority == 0).collect()).await;
    all_see(&world, &[("active", 2)]).await;
    let is_rehomed = async || {
        world.nodes_of(&keys).await;
        rehomed(&world).await == 50
    };
    eventually(is_rehomed, SOON * 2).await;
    let after = answers(&world, &keys, "hit").await;
    assert!(after.iter().all(|node| is_of(&world, 2..4, node)), "{after:?}");

    world.edit_endpoints(|set| set.splice(0..0, left).for_each(drop)).await;
    all_see(&world, &[("active", 4)]).await;

    assert_eq!(answers(&world, &keys, "hit").await, after);
    assert_eq!(rehomed(&world).await, 50);
    let new = answers(&world, &fresh("new", 50), "claimed").await;
    assert!(new.iter().all(|node| is_of(&world, 0..2, node)), "{new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pin_is_rewritten_while_all_priorities_are_in_panic() {
    let world = impatient().nodes(4).configuration(|json| pool(json)["panic_hold"] = "1s".into());
    let world = patiently_pinned(world, &[]).start().await;
    set_priorities(&world, 2).await;
    all_see(&world, &[("active", 4)]).await;
    let keys = sessions(60);
    let first = world.nodes_of(&keys).await;
    // Some are pinned to the other priority.
    for node in [0, 1] {
        world.node(node).fail_health();
    }
    all_see(&world, &[("cooldown", 2)]).await;
    let before = world.nodes_of(&keys).await;
    assert_eq!(moved(&keys, &first, &before).len(), 60);
    for node in [0, 1] {
        world.node(node).serve();
    }
    all_see(&world, &[("active", 4)]).await;
    let more = fresh("more", 60);
    let before = [before, world.nodes_of(&more).await].concat();
    let keys = [keys, more].concat();

    for node in world.nodes() {
        node.fail_health();
    }
    all_see(&world, &[("cooldown", 4)]).await;

    assert_eq!(panic(&world).await, 1.0);
    assert_eq!(answers(&world, &keys, "panic").await, before);
    for node in world.nodes() {
        node.serve();
    }
    all_see(&world, &[("active", 4)]).await;
    eventually(async || panic(&world).await == 0.0, SOON).await;
    caught_up(world.envoy(0)).await;
    assert_eq!(answers(&world, &keys, "hit").await, before);
    assert_eq!(rehomed(&world).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_panic_turns_away_the_sessions_of_the_priority_in_panic_only() {
    // One of five and one of two serve: 28 and 70 of the 100 that would be enough.
    let world = impatient().nodes(7).configuration(|json| {
        pool(json)["on_panic"] = "reject".into();
        pool(json)["health"]["cooldown"] = "60s".into();
    });
    let world = world.bootstrap(|json| {
        assert!(cluster(json, "nodes").as_object_mut().unwrap().remove("outlier_detection").is_some());
    });
    let world = world.start().await;
    set_priorities(&world, 5).await;
    nodes_become(world.envoy(0), &[("active", 7)]).await;

    for node in [0, 1, 2, 3, 5] {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 5), ("active", 2)]).await;

    assert_eq!(panic(&world).await, 1.0);
    let mut seen = BTreeSet::new();
    for key in sessions(100) {
        let answer = ask(&world, &key).await;
        let status = answer.status.as_u16();
        assert!(status == 503 || answer.node() == world.node(6).name(), "{answer:?}");
        seen.insert((status, shown(&answer, "outcome").to_owned()));
    }
    let both = [(200, "ring".to_owned()), (503, "rejected".to_owned())];
    assert_eq!(seen, BTreeSet::from(both));
}

/// The nodes from this one on are of priority 1.
async fn set_priorities(world: &World, best: usize) {
    set_priorities_to(world, best, 1).await;
}

/// Priority 2: that there is no host of priority 1 is allowed. But 1 where Envoy ends at such a gap: before 1.39, in patches of before
/// September 2026, in clusters whose own policy is `ring_hash` or `maglev`, as that of the native cluster is
/// (<https://github.com/envoyproxy/envoy/issues/44349>). Below `override_host` the same policy takes it.
async fn beyond_a_gap(envoy: &Envoy) -> u32 {
    let info: Value = serde_json::from_str(&envoy.admin("/server_info").await).unwrap();
    let version =
        info["version"].as_str().and_then(|text| text.split('/').nth(1)).expect("commit/version/build");
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).expect("major.minor");
    if minor < 39 { 1 } else { 2 }
}

/// The nodes from this one on are of this priority.
async fn set_priorities_to(world: &World, best: usize, next: u32) {
    let set = |set: &mut EndpointSet| set.iter_mut().skip(best).for_each(|endpoint| endpoint.priority = next);
    world.edit_endpoints(set).await;
    let is_applied = async || {
        let hosts = world.envoy(0).clusters().await;
        let here = hosts.iter().filter(|host| host.cluster == "nodes" && host.priority == u64::from(next));
        here.count() == world.nodes().len() - best
    };
    eventually(is_applied, SOON).await;
    for envoy in world.envoys() {
        caught_up(envoy).await;
    }
}

/// The nodes are not asked how they are: what is known of them is what requests come to.
fn unchecked(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        for part in ["outlier_detection", "health_checks"] {
            assert!(cluster(json, "nodes").as_object_mut().unwrap().remove(part).is_some());
        }
    })
}

fn is_of(world: &World, mut nodes: std::ops::Range<usize>, name: &str) -> bool {
    nodes.any(|node| world.node(node).name() == name)
}

/// Sessions that were never asked for.
fn fresh(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// The node of each session, which answers 200 and says that this is what became of it.
async fn answers(world: &World, keys: &[String], outcome: &str) -> Vec<String> {
    // A worker that has not seen the session yet reports "found" in place of "hit".
    let is_outcome = |value: &str| value == outcome || value == "found" && outcome == "hit";
    let is_right = |answer: &Response| answer.status == 200 && is_outcome(shown(answer, "outcome"));
    let mut nodes = Vec::new();
    for key in keys {
        let answer = ask(world, key).await;
        assert!(is_right(&answer), "{key} is no {outcome}: {answer:?}");
        nodes.push(answer.node().to_owned());
    }
    nodes
}

/// Attempts after the first, of all requests.
async fn retries(world: &World) -> u64 {
    world.envoy(0).stat("cluster.nodes.upstream_rq_retry").await
}

async fn rehomed(world: &World) -> u64 {
    world.envoy(0).stat("wasmcustom.berth_reassignments_total.pool.nodes.reason.rehomed").await
}

async fn panic(world: &World) -> f64 {
    world.envoy(0).metric("berth_panic", &[("pool", "nodes")]).await
}

/// Waits until Berth, and both clusters of Envoy, know that this node fails its checks; how many do.
async fn agreed_on(world: &World, node: usize) -> u64 {
    let node = world.node(node);
    let is_known = async || {
        let hosts = world.envoy(0).clusters().await;
        let here = hosts.iter().filter(|host| host.address == node.name());
        let mut missing = here
            .filter(|host| host.cluster != "nodes_sessionless" && !host.has("failed_active_health_check"));
        missing.next().map_or(Ok(()), |host| Err(format!("{host:?}")))
    };
    eventually(is_known, SOON).await;
    caught_up(world.envoy(0)).await;
    let hosts = world.envoy(0).clusters().await;
    let failed =
        hosts.iter().filter(|host| host.cluster == "nodes" && host.has("failed_active_health_check"));
    failed.count() as u64
}

/// How many nodes of each priority of two serve these sessions, which is for each the node of the native cluster.
async fn agreed(world: &World, keys: &[String], failed: u64) -> [usize; 2] {
    // The native cluster has checks of its own, whose first answers may come later.
    let is_known = async || {
        let hosts = world.envoy(0).clusters().await;
        let out = hosts.iter().filter(|host| host.cluster == "native" && !host.is_healthy());
        out.count() as u64 == failed
    };
    eventually(is_known, SOON).await;
    nodes_become(world.envoy(0), &[("cooldown", failed), ("active", 4 - failed)]).await;
    let placed = world.nodes_of(keys).await;
    let native = native_nodes_of(&world.client(), keys).await;
    let differing = placed.iter().zip(&native).filter(|(placed, native)| placed != native).count();
    assert_eq!(
        differing,
        0,
        "of {} keys are elsewhere than in the native cluster, {failed} failed",
        keys.len()
    );
    let serving = |nodes: std::ops::Range<usize>| {
        nodes.filter(|node| placed.iter().any(|name| name == world.node(*node).name())).count()
    };
    [serving(0..2), serving(2..4)]
}
