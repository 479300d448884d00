//! `make bench`: what a request costs Envoy with the filter, beside Envoy's own hash policies in the same run.
//!
//! Arms take turns, because machines drift; the figure is Envoy's own CPU time (user and system, from /proc) over the
//! requests it served, which repeats within a few percent where throughput does not. Always as a process: a
//! container's first process is not Envoy's.

use std::fmt::Write as _;
use std::time::Duration;

use berth_harness::{Builder, State, World, eventually};
use serde_json::{Value, json};

const ROUNDS: usize = 7;
const REQUESTS: usize = 20_000;
const NODES: usize = 3;

struct Arm {
    name: &'static str,
    world: World,
    /// CPU µs per request, a round each.
    costs: Vec<f64>,
}

#[tokio::main]
async fn main() {
    let arms = [
        ("native round robin", World::builder().filter(false)),
        (
            "native ring_hash",
            World::builder().filter(false).bootstrap(|json| hash_natively(json, "ring_hash.v3.RingHash")),
        ),
        (
            "native maglev",
            World::builder().filter(false).bootstrap(|json| hash_natively(json, "maglev.v3.Maglev")),
        ),
        ("Berth, session in a header", quiet(World::builder())),
        (
            "Berth, the same without learning from responses",
            quiet(World::builder()).bootstrap(without_response),
        ),
        ("Berth with pins, a hit", quiet(World::builder().state(State::memory()))),
        ("Berth, envoy-metadata.yaml", quiet(World::builder().file("envoy-metadata.yaml"))),
    ];
    let mut started = Vec::new();
    for (name, builder) in arms {
        // One worker, so that all requests meet the same caches.
        let world = builder.nodes(NODES).concurrency(1).start().await;
        started.push(Arm { name, world, costs: Vec::new() });
    }
    let sessions: Vec<String> = (0..REQUESTS).map(|number| format!("session-{}", number % 1000)).collect();
    for arm in &started {
        ready(&arm.world).await;
        arm.world.nodes_of(&sessions[..2000]).await;
    }
    for _ in 0..ROUNDS {
        for arm in &mut started {
            let before = arm.world.envoy(0).cpu_time();
            arm.world.nodes_of(&sessions).await;
            let spent = arm.world.envoy(0).cpu_time() - before;
            arm.costs.push(spent.as_secs_f64() * 1e6 / REQUESTS as f64);
        }
    }
    report(&started);
}

/// The debug header is opt-in; a benchmark does not opt in.
fn quiet(builder: Builder) -> Builder {
    builder.configuration(|json| json["debug_header"] = false.into())
}

/// With the filter: until it has its snapshot.
async fn ready(world: &World) {
    let placed = async || {
        let answer = world.get("/").header("x-session-id", "ready").send().await;
        answer.status == 200
    };
    eventually(placed, Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Routes everything to cluster `nodes` by a policy of Envoy's own, on the same header.
fn hash_natively(json: &mut Value, policy: &str) {
    for cluster in json["static_resources"]["clusters"].as_array_mut().into_iter().flatten() {
        if cluster["name"] == "nodes" {
            let package = policy.split('.').next().unwrap_or_default();
            cluster["load_balancing_policy"] = json!({"policies": [{"typed_extension_config": {
                "name": format!("envoy.load_balancing_policies.{package}"),
                "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{policy}")},
            }}]});
        }
    }
    let routes = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    if let Some(routes) = json.pointer_mut(routes).and_then(Value::as_array_mut) {
        routes.truncate(1);
        if let Some(matches) = routes.first_mut().and_then(|route| route["match"].as_object_mut()) {
            matches.remove("headers");
        }
    }
}

/// Neither of the callbacks by which the filter learns from responses: what passive health costs.
fn without_response(json: &mut Value) {
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/capability_restriction_config/allowed_capabilities";
    if let Some(capabilities) = json.pointer_mut(filters).and_then(Value::as_object_mut) {
        capabilities.remove("proxy_on_response_headers");
        capabilities.remove("proxy_on_log");
    }
}

fn report(arms: &[Arm]) {
    let median = |costs: &[f64]| {
        let mut sorted = costs.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    // A round's arms are seconds apart, rounds are minutes: the ratio within a round drifts least.
    let base = &arms[1].costs;
    let ratio =
        |costs: &[f64]| median(&costs.iter().zip(base).map(|(cost, base)| cost / base).collect::<Vec<_>>());
    let mut text = format!(
        "# What a request costs Envoy\n\nCPU µs per request, one worker, {NODES} nodes, {ROUNDS} rounds of {REQUESTS} requests in turn; median (least to most),\nand the median of each round's ratio.\n\n| arm | µs | against ring_hash |\n|---|---|---|\n"
    );
    let mut rows = Vec::new();
    for arm in arms {
        let cost = median(&arm.costs);
        let (least, most) = arm.costs.iter().fold((f64::MAX, 0f64), |(l, m), &c| (l.min(c), m.max(c)));
        let _ =
            writeln!(text, "| {} | {cost:.1} ({least:.1}–{most:.1}) | {:.2}× |", arm.name, ratio(&arm.costs));
        rows.push(
            json!({"arm": arm.name, "cpu_us_per_request": cost, "rounds": arm.costs, "ratio": ratio(&arm.costs)}),
        );
    }
    print!("{text}");
    let directory = berth_harness::root().join("target/bench");
    let written = std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(directory.join("report.md"), &text))
        .and_then(|()| {
            std::fs::write(directory.join("report.json"), format!("{:#}\n", json!({"request_cost": rows})))
        });
    if let Err(error) = written {
        eprintln!("bench: {}: {error}", directory.display());
        std::process::exit(1);
    }
}
