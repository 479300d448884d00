//! What the clusters of others cost: in a mesh an Envoy has thousands that no pool names. From 1.38 on its admin interface
//! shows those that a look asks for; before that it shows all, each time.

use std::time::{Duration, Instant};

use berth_harness::{Envoy, World, eventually};
use serde_json::{Value, json};

use crate::support::SOON;

/// A large mesh without `Sidecar` resources: each proxy has every service.
const CLUSTERS: usize = 2_000;
const HOSTS_OF_EACH: usize = 2;

/// Looks that are measured together.
const LOOKS: u64 = 5;
/// Stretched intervals of all of them, on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Clusters of the names and the size that Istio gives them, whose hosts are not there.
fn foreign() -> Vec<Value> {
    let host = |cluster: usize, host: usize| {
        let address = format!("10.{}.{}.{}", cluster / 250, cluster % 250, host + 1);
        json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": 8080}}}})
    };
    let cluster = |number: usize| {
        let name = format!("outbound|8080||service-{number:04}.team-{:02}.svc.cluster.local", number % 40);
        let hosts: Vec<Value> = (0..HOSTS_OF_EACH).map(|of| host(number, of)).collect();
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        })
    };
    (0..CLUSTERS).map(cluster).collect()
}

async fn world(poll_interval: &'static str) -> World {
    let builder = World::builder().nodes(4).concurrency(1);
    let builder = builder.configuration(move |json| json["poll_interval"] = poll_interval.into());
    let add =
        |json: &mut Value| json["static_resources"]["clusters"].as_array_mut().unwrap().extend(foreign());
    builder.bootstrap(add).start().await
}

async fn looks(envoy: &Envoy) -> u64 {
    envoy.stat("wasmcustom.berth_polls_total.pool.nodes.result.ok").await
}

/// CPU time of the main thread and of all others, and when.
fn used(envoy: &Envoy) -> (Duration, Duration, Instant) {
    let (main, others) = envoy.thread_times();
    (main, others, Instant::now())
}

/// What runs beside looks: checks, ticks, flushes of metrics.
async fn idle() -> (f64, f64) {
    let world = world("60s").await;
    let envoy = world.envoy(0);
    eventually(async || looks(envoy).await >= 1, SOON).await;
    let before = used(envoy);
    // Without looks there is nothing else to wait for.
    eventually(async || before.2.elapsed() > Duration::from_secs(5), LONG).await;
    share(&before, &used(envoy))
}

fn share(before: &(Duration, Duration, Instant), after: &(Duration, Duration, Instant)) -> (f64, f64) {
    let time = (after.2 - before.2).as_secs_f64();
    ((after.0 - before.0).as_secs_f64() / time, (after.1 - before.1).as_secs_f64() / time)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: scripts/test-matrix runs it on each Envoy"]
async fn the_cost_of_a_look_beside_foreign_clusters() {
    let idle = idle().await;
    let world = world("100ms").await;
    let envoy = world.envoy(0);
    let bytes = envoy.admin("/clusters?filter=%5E(nodes)%24").await.len();
    eventually(async || looks(envoy).await >= 2, LONG).await;

    let (first, before) = (looks(envoy).await, used(envoy));
    eventually(async || looks(envoy).await >= first + LOOKS, LONG).await;
    let (made, after) = ((looks(envoy).await - first) as f64, used(envoy));

    let time = (after.2 - before.2).as_secs_f64();
    let share = share(&before, &after);
    let each = |share: f64, idle: f64| (share - idle).max(0.0) * time * 1000.0 / made;
    println!(
        "look: {bytes} bytes, {:.1} ms of the main thread, {:.1} ms of the worker, every {:.2} s: {:.1} % of the main thread",
        each(share.0, idle.0),
        each(share.1, idle.1),
        time / made,
        (share.0 - idle.0).max(0.0) * 100.0,
    );
    assert_eq!(envoy.wasm_failures().await, 0);
}
