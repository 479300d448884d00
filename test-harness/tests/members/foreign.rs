//! What the clusters of others cost: in a mesh an Envoy has thousands that no pool names. From 1.38 on its admin interface
//! shows those that a look asks for; before that it shows all, each time.

use std::time::{Duration, Instant};

use berth_harness::{Envoy, World, eventually};
use serde_json::{Value, json};

use crate::support::SOON;

/// A large mesh without `Sidecar` resources: each proxy has every service.
const CLUSTERS: usize = 2_000;
const HOSTS_OF_EACH: usize = 2;

/// How long looks are measured. Nothing is asked of the admin interface meanwhile: its answers about stats cost far more than
/// what is measured.
const MEASURED: Duration = Duration::from_secs(6);

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

/// The CPU time of the main thread and of all others, and how many looks there were, within the measured time.
async fn measure(envoy: &Envoy) -> (f64, f64, f64) {
    let looks_before = looks(envoy).await;
    let (main, others) = envoy.thread_times();
    let begin = Instant::now();
    eventually(async || begin.elapsed() > MEASURED, 2 * MEASURED).await;
    let (main_after, others_after) = envoy.thread_times();
    let milliseconds = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1000.0;
    let made = looks(envoy).await - looks_before;
    (milliseconds(main, main_after), milliseconds(others, others_after), made as f64)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: scripts/test-matrix runs it on each Envoy"]
async fn the_cost_of_a_look_beside_foreign_clusters() {
    let (mut measured, mut bytes) = (Vec::new(), 0);
    // What runs beside looks: checks, ticks, flushes of metrics.
    for interval in ["60s", "100ms"] {
        let world = world(interval).await;
        let envoy = world.envoy(0);
        eventually(async || looks(envoy).await >= 1, SOON).await;
        measured.push(measure(envoy).await);
        bytes = envoy.admin("/clusters?filter=%5E(nodes)%24").await.len();
        assert_eq!(envoy.wasm_failures().await, 0);
    }

    let (idle, busy) = (measured[0], measured[1]);
    assert!(busy.2 >= 1.0, "no look in {MEASURED:?}");
    let main = (busy.0 - idle.0).max(0.0);
    println!(
        "look: {:.2} MB, {:.1} ms of the main thread, {:.1} ms of the worker; {:.0} looks in {MEASURED:?} take {:.1} % of the main thread",
        bytes as f64 / 1e6,
        main / busy.2,
        (busy.1 - idle.1).max(0.0) / busy.2,
        busy.2,
        main / MEASURED.as_secs_f64() / 10.0,
    );
}
