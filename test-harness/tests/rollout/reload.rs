//! A good configuration takes over without anybody noticing: no request fails, no session moves, nothing is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{SOON, placing, pool, sessions};
use berth_harness::{Builder, Client, World, eventually};
use serde_json::json;

/// Sessions that are asked for all the time.
const SESSIONS: usize = 20;

fn without_ramp(builder: Builder) -> Builder {
    builder.health_interval(Duration::from_millis(200)).configuration(|json| {
        pool(json)["health"] = json!({"cooldown": "5m", "warm_up": "0s"});
    })
}

/// Requests the sessions in turn, each time on a new connection, until `stop` is set. Returns the number of requests
/// and which answers were wrong.
async fn hammer(world: Arc<World>, nodes: Vec<String>, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        for (key, node) in sessions(SESSIONS).iter().zip(&nodes) {
            let client = Client::new(world.envoy(0).address());
            let answer = client.get("/").header("x-session-id", key).try_send().await;
            count += 1;
            let header = match &answer {
                Ok(answer) if answer.status == 200 && answer.node() == node => {
                    answer.header("x-berth").unwrap_or("")
                }
                _ => "another answer",
            };
            // Silent once the reload has switched the header off.
            if !header.is_empty() && !header.ends_with("reason=owner") {
                wrong.push(format!("{key} of {node}: {header}: {answer:?}"));
            }
        }
    }
    (count, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn good_reload_moves_no_session_and_leaves_no_gap() {
    let world = Arc::new(placing(without_ramp(World::builder().nodes(5))).await);
    let nodes = world.nodes_of(&sessions(SESSIONS)).await;
    let unplaced =
        async || world.envoy(0).stat("wasmcustom.berth_unplaced_total.pool.nodes.reason.no_snapshot").await;
    let unplaced_before = unplaced().await;
    let stop = Arc::new(AtomicBool::new(false));
    let hammers: Vec<_> =
        (0..4).map(|_| tokio::spawn(hammer(Arc::clone(&world), nodes.clone(), Arc::clone(&stop)))).collect();

    let envoy = world.envoy(0);
    envoy.reload(|json| pool(json)["health"]["cooldown"] = "10s".into()).await.unwrap();
    envoy.reload(|json| json["poll_interval"] = "300ms".into()).await.unwrap();
    envoy.reload(|json| pool(json)["session"]["missing"] = "reject".into()).await.unwrap();
    assert_eq!(world.get("/").send().await.status, 400, "the new configuration is at work");
    envoy.reload(|json| json["debug_header"] = false.into()).await.unwrap();
    // The former roots are gone only when their connections are.
    eventually(async || envoy.stat("listener_manager.total_filter_chains_draining").await == 0, SOON).await;
    stop.store(true, Ordering::Relaxed);

    let mut requests = 0;
    for hammer in hammers {
        let (count, wrong) = hammer.await.unwrap();
        assert!(wrong.is_empty(), "{} of {count}: {:#?}", wrong.len(), wrong.first());
        requests += count;
    }
    assert!(requests > 100, "only {requests} requests met the reloads");
    assert_eq!(unplaced().await, unplaced_before);
    assert_eq!(envoy.wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_goes_on() {
    let world = placing(World::builder().nodes(3)).await;
    let keep_alive = world.client();
    let nodes = keep_alive.nodes_of(&sessions(SESSIONS)).await;
    let node = world.node_named(&nodes[0]);
    let mut socket = world.get("/ws/session-0").websocket().await;

    node.slow(300);
    let before = node.requests();
    let slow = tokio::spawn(keep_alive.get("/").header("x-session-id", "session-0").send());
    eventually(async || node.requests() > before, SOON).await;
    world.envoy(0).reload(|json| json["debug_header"] = false.into()).await.unwrap();

    assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));
    assert_eq!((slow.await.unwrap().node(), nodes[0].as_str()), (node.name(), node.name()));
    node.serve();
    assert_eq!(keep_alive.nodes_of(&sessions(SESSIONS)).await, nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn cooldown_outlives_a_reload() {
    let world = placing(without_ramp(World::builder().nodes(4))).await;
    let (envoy, sick) = (world.envoy(0), world.node(0));
    let keys = sessions(100);
    let is_left = async || world.nodes_of(&keys).await.iter().all(|node| node != sick.name());
    let health = async |healthy: bool| {
        let hosts = envoy.clusters().await;
        hosts.iter().filter(|host| host.address == sick.name()).all(|host| host.is_healthy() == healthy)
    };

    sick.fail_health();
    eventually(async || health(false).await, SOON).await;
    eventually(is_left, SOON).await;
    sick.serve();
    eventually(async || health(true).await, SOON).await;
    let moved = world.nodes_of(&keys).await;

    envoy.reload(|json| json["poll_interval"] = "250ms".into()).await.unwrap();
    assert_eq!(world.nodes_of(&keys).await, moved, "the reload has not forgotten");
    // Nor do the polls of the new configuration bring the node back.
    let polls = async || envoy.stat("wasmcustom.berth_polls_total.pool.nodes.result.ok").await;
    let enough = polls().await + 5;
    eventually(async || polls().await > enough, SOON).await;
    assert_eq!(world.nodes_of(&keys).await, moved);
    assert_eq!(envoy.stat("wasmcustom.berth_nodes.pool.nodes.state.cooldown").await, 1);
}
