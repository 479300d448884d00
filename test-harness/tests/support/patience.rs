//! Tests of nodes that fail and change: an impatient world, and waiting until Berth knows what Envoy knows.

use std::time::Duration;

use berth_harness::{Backend, Builder, Client, Envoy, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{PROBES, SOON, pool, sessions, shown};

/// A world that looks at its nodes five times a second, with short cooldowns and no ramps.
pub(crate) fn impatient() -> Builder {
    World::builder().health_interval(Duration::from_millis(200)).configuration(|json| {
        json["poll_interval"] = "200ms".into();
        pool(json)["health"] = json!({"cooldown": "2s", "warm_up": "0s"});
    })
}

/// One in which only the filter's own count tells of failures, and a node that is put out stays out.
pub(crate) fn unchecked() -> Builder {
    let cooldown = |json: &mut Value| pool(json)["health"]["cooldown"] = "30s".into();
    impatient().configuration(cooldown).bootstrap(|json| {
        let nodes = cluster(json, "nodes").as_object_mut().unwrap();
        assert!(nodes.remove("health_checks").is_some() && nodes.remove("outlier_detection").is_some());
    })
}

/// Another session of this node.
pub(crate) async fn fellow(world: &World, owner: &Backend) -> String {
    for session in sessions(100) {
        if ask(world, &session).await.node() == owner.name() {
            return session;
        }
    }
    panic!("no session of 100 is at {}", owner.name());
}

/// A request of this session.
pub(crate) async fn ask(world: &World, session: &str) -> Response {
    world.get("/").header("x-session-id", session).send().await
}

/// Closes a node's port, and waits until Envoy knows that its connections are gone: a request that it has just put on one
/// of them could not be sent again.
pub(crate) async fn refuse(world: &World, node: &Backend) {
    node.refuse().await;
    let line = format!("nodes::{}::cx_active::0", node.name());
    eventually(async || world.envoy(0).admin("/clusters").await.lines().any(|found| found == line), SOON)
        .await;
}

/// The cluster of this name in a bootstrap.
pub(crate) fn cluster<'j>(json: &'j mut Value, name: &str) -> &'j mut Value {
    let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.iter_mut().find(|cluster| cluster["name"] == name).unwrap()
}

/// Waits until Berth reports this many nodes in each of these states and every worker knows it.
pub(crate) async fn nodes_become(envoy: &Envoy, states: &[(&str, u64)]) {
    let seen = async || {
        for &(state, count) in states {
            let found = envoy.stat(&format!("wasmcustom.berth_nodes.pool.nodes.state.{state}")).await;
            if found != count {
                return Err(format!("{found} nodes are {state}, not {count}"));
            }
        }
        Ok(())
    };
    eventually(seen, SOON * 2).await;
    caught_up(envoy).await;
}

/// Waits until the members are known, for a world whose filter does not poll for them.
pub(crate) async fn members_become_known(world: &World) {
    let known = async || {
        let requests = (0..20).map(|_| ask(world, "ada"));
        join_all(requests).await.iter().all(|response| shown(response, "reason") != "no_snapshot")
    };
    eventually(known, SOON).await;
}

/// Waits until Berth has looked at its members twice from now on: each worker then has had several ticks since.
pub(crate) async fn caught_up(envoy: &Envoy) {
    // One look may be answered but not counted yet, and another one be under way.
    let enough = polls(envoy).await + 4;
    eventually(async || polls(envoy).await >= enough, SOON).await;
}

/// Waits until every worker remembers a session. With the first answer of the feed of changes it asks again about those that it knew
/// before.
pub(crate) async fn remembers(envoy: &Envoy) {
    let all_hit = async || {
        let requests = (0..PROBES).map(|_| {
            let client = Client::new(envoy.address());
            client.get("/").header("x-session-id", "remembered").send()
        });
        join_all(requests).await.iter().all(|answer| shown(answer, "outcome") == "hit")
    };
    eventually(all_hit, SOON).await;
}

async fn polls(envoy: &Envoy) -> u64 {
    envoy.stat("wasmcustom.berth_polls_total.pool.nodes.result.ok").await
}

/// The destination as the node received it: owner first, then its successors.
#[track_caller]
pub(crate) fn destination(response: &Response) -> Vec<String> {
    let received = response.received();
    let header = received.header("x-berth-destination").expect("a destination");
    String::from_utf8_lossy(header).split(',').map(str::to_owned).collect()
}
