//! What the clusters of others cost: in a mesh an Envoy has thousands that no pool names. From 1.38 on its admin interface
//! shows those that a look asks for; before that it shows all, each time.

use std::time::{Duration, Instant};

use berth_harness::{Envoy, World, eventually};
use serde_json::{Value, json};

use crate::support::fake_admin::{Answer, FakeAdmin};
use crate::support::{SOON, places, quick};

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
async fn looks_are_rarer_where_envoy_shows_the_clusters_of_others_too() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = quick(World::builder().concurrency(4)).cluster_address("berth_admin", admin.address());
    let world = world.start().await;
    let own = world.envoy(0).admin("/clusters").await;
    admin.tell(&own);
    places(world.envoy(0)).await;

    // 3 MB: every 0.9 s instead of 0.2 s.
    let line = "outbound|8080||service.team.svc.cluster.local::10.0.0.1:8080::cx_active::0\n";
    admin.tell(&(own + &line.repeat(3_000_000 / line.len())));
    let before = admin.polls().len();
    eventually(async || admin.polls().len() >= before + 4, SOON).await;

    let polls = admin.polls();
    let took = polls[before + 3] - polls[before + 1];
    assert!(took > Duration::from_millis(1_400), "two intervals in {took:?}");
    // The others do not take its rare looks for its end.
    assert_eq!(world.envoy(0).stat("wasmcustom.berth_leader_changes_total.pool.nodes").await, 1);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
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
        "look: {:.3} MB, {:.1} ms of the main thread, {:.1} ms of the worker; {:.0} looks in {MEASURED:?} take {:.1} % of the main thread",
        bytes as f64 / 1e6,
        main / busy.2,
        (busy.1 - idle.1).max(0.0) / busy.2,
        busy.2,
        main / MEASURED.as_secs_f64() / 10.0,
    );
}
