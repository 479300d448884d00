//! A node fails: the very request that notices it succeeds, the node stays out for its cooldown, a relapse doubles
//! that, and its sessions come back gradually.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_harness::eventually;
use serde_json::{Value, json};

use crate::support::patience::{
    ask, cluster, destination, impatient, members_become_known, nodes_become, refuse,
};
use crate::support::{SOON, pool, sessions, shown};

/// For tests in which only traffic may tell of a failure.
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn request_to_a_refusing_owner_succeeds_on_the_successor_that_the_ring_names() {
    let world = impatient()
        .nodes(5)
        .health_interval(NEVER)
        .configuration(|json| pool(json)["health"]["cooldown"] = "30s".into())
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 5)]).await;
    let keys = sessions(200);
    let mut destinations = Vec::new();
    for key in &keys {
        let response = ask(&world, key).await;
        let nodes = destination(&response);
        assert_eq!((nodes.len(), nodes[0].as_str()), (3, response.node()));
        destinations.push(nodes);
    }
    let dead = world.node(0);
    refuse(&world, &dead).await;

    let mut reasons = Vec::new();
    for (key, nodes) in keys.iter().zip(&destinations) {
        let response = ask(&world, key).await;
        let heir = if nodes[0] == dead.name() { &nodes[1] } else { &nodes[0] };
        assert_eq!((response.status.as_u16(), response.node()), (200, heir.as_str()));
        if nodes[0] == dead.name() {
            reasons.push(shown(&response, "reason").to_owned());
        }
    }
    // A few requests found out by themselves. The rest were spared.
    assert_eq!(reasons[0], "retried");
    let found_out = reasons.iter().filter(|reason| *reason == "retried").count();
    assert!((3..=6).contains(&found_out), "{reasons:?}");
    assert!(reasons.iter().all(|reason| ["retried", "cooldown"].contains(&reason.as_str())), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_stays_out_for_its_cooldown_and_twice_as_long_after_a_relapse() {
    let world = impatient().nodes(3).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let owner = world.node_named(ask(&world, "ada").await.node());

    for cooldown in [2, 4] {
        owner.refuse().await;
        nodes_become(world.envoy(0), &[("cooldown", 1)]).await;
        let heir = ask(&world, "ada").await;
        assert_ne!(heir.node(), owner.name());
        assert_eq!(shown(&heir, "reason"), "cooldown");

        let well = Instant::now();
        owner.restart().await;
        eventually(async || ask(&world, "ada").await.node() == owner.name(), SOON).await;

        let out = well.elapsed();
        assert!(out >= Duration::from_secs(cooldown), "out for {out:?}, not {cooldown} s");
        nodes_become(world.envoy(0), &[("active", 3)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_come_back_gradually_after_the_cooldown_and_others_never_move() {
    // One worker: with two, one may be a tick ahead of the other.
    let world = impatient()
        .concurrency(1)
        .configuration(|json| {
            pool(json)["health"]["cooldown"] = "500ms".into();
            pool(json)["health"]["warm_up"] = "3s".into();
        })
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(300);
    let before = world.nodes_of(&keys).await;
    let node = world.node(0);
    let at_home = before.iter().filter(|home| *home == node.name()).count();
    node.refuse().await;
    nodes_become(world.envoy(0), &[("cooldown", 1)]).await;
    node.restart().await;

    let mut shares = BTreeSet::new();
    let mut back = BTreeSet::new();
    let sample = async || {
        let now = world.nodes_of(&keys).await;
        let mut here = BTreeSet::new();
        for ((key, before), now) in keys.iter().zip(&before).zip(&now) {
            if before != node.name() {
                assert_eq!(now, before, "{key} has nothing to do with it");
            } else if now == before {
                here.insert(key.clone());
            }
        }
        assert!(here.is_superset(&back), "sessions went away again");
        shares.insert(here.len());
        back = here;
        back.len() == at_home
    };
    eventually(sample, SOON).await;

    let first = shares.iter().find(|share| **share > 0).unwrap();
    assert!(*first * 2 < at_home, "the ramp begins low: {shares:?} of {at_home}");
    assert!(shares.len() >= 5, "the ramp is gradual: {shares:?} of {at_home}");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_was_sent_is_never_sent_to_a_second_node() {
    let world = impatient().health_interval(NEVER).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let owner = world.node_named(ask(&world, "ada").await.node());
    let others = || {
        world
            .nodes()
            .iter()
            .filter(|node| node.name() != owner.name())
            .map(|node| node.requests())
            .sum::<u64>()
    };
    let before = owner.requests();
    owner.reset();

    let post = world.client().post("/", "order").header("x-session-id", "ada").send().await;
    let get = ask(&world, "ada").await;

    assert_eq!((post.status.as_u16(), get.status.as_u16()), (503, 503));
    assert_eq!((owner.requests(), others()), (before + 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn post_to_a_refusing_owner_reaches_the_successor_whole() {
    let world = impatient().health_interval(NEVER).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let nodes = destination(&ask(&world, "ada").await);
    refuse(&world, &world.node_named(&nodes[0])).await;

    let body = vec![b'x'; 100_000];
    let post = world.client().post("/", body).header("x-session-id", "ada").send().await;

    assert_eq!((post.status.as_u16(), post.node()), (200, nodes[1].as_str()));
    assert_eq!(post.received().body_length, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_owner_is_put_out_by_its_active_check() {
    let world = impatient()
        .bootstrap(|json| cluster(json, "nodes")["health_checks"][0]["timeout"] = "0.3s".into())
        .start()
        .await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let nodes = destination(&ask(&world, "ada").await);
    world.node_named(&nodes[0]).hang();

    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;

    let response = ask(&world, "ada").await;
    assert_eq!((response.node(), shown(&response, "reason")), (nodes[1].as_str(), "cooldown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_envoy_calls_an_outlier_is_put_out() {
    // Where Envoy checks its nodes too, that check decides.
    let unchecked = |json: &mut Value| {
        assert!(cluster(json, "nodes").as_object_mut().unwrap().remove("health_checks").is_some());
    };
    let world = impatient().bootstrap(unchecked).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let nodes = destination(&ask(&world, "ada").await);
    world.node_named(&nodes[0]).fail(500);

    for _ in 0..5 {
        assert_eq!(ask(&world, "ada").await.status, 500);
    }

    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
    assert_eq!(ask(&world, "ada").await.node(), nodes[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_a_node_that_was_not_named_is_counted_as_a_reassignment() {
    // A member that Envoy does not know: its fallback policy picks another node.
    let world = impatient()
        .configuration(|json| {
            let pool = pool(json).as_object_mut().unwrap();
            pool.remove("cluster");
            pool.insert("members".into(), json!(["127.0.0.1:1"]));
        })
        .start()
        .await;
    members_become_known(&world).await;

    let response = ask(&world, "ada").await;

    assert_eq!((response.status.as_u16(), shown(&response, "reason")), (200, "retried"));
    assert_eq!(shown(&response, "node"), response.node());
    let labels = [("pool", "nodes"), ("reason", "retried")];
    let counted = async || world.envoy(0).metric("berth_reassignments_total", &labels).await >= 1.0;
    eventually(counted, SOON).await;
}
