//! What a request costs whose session a header names.

use berth_harness::{Builder, Request, State, World};
use serde_json::{Value, json};

use crate::arm::{Arm, HEADER, NODES, native, quiet, start};
use crate::report::{Report, against, median, spread};

/// Enough for the median of paired ratios to settle within a percent.
const ROUNDS: usize = 15;
const REQUESTS: usize = 20_000;
const SESSIONS: usize = 1_000;
/// Where the plugin is in a shipped bootstrap.
const PLUGIN: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";
/// The arm that the others are held against.
const BASE: &str = "native ring_hash";

pub(crate) async fn measure(report: &mut Report) {
    let arms = [
        ("native round robin", World::builder().filter(false)),
        (BASE, native("ring_hash.v3.RingHash")),
        ("native maglev", native("maglev.v3.Maglev")),
        ("Berth, session in a header", quiet(World::builder())),
        (
            "Berth, the same without learning from responses",
            quiet(World::builder()).bootstrap(without_response),
        ),
        ("Berth with pins, a hit", quiet(World::builder().state(State::memory()))),
        ("Berth, envoy-metadata.yaml", quiet(World::builder().file("envoy-metadata.yaml"))),
    ];
    let mut arms: Vec<(String, Builder)> =
        arms.into_iter().map(|(name, builder)| (name.to_owned(), builder)).collect();
    // Builds of the filter in turn, because no two runs are alike.
    let others = std::env::var("BERTH_BENCH_OTHER").unwrap_or_default();
    for other in others.split(':').filter(|file| !file.is_empty()) {
        let (ring, pins) = (other.to_owned(), other.to_owned());
        let by_ring = quiet(World::builder()).bootstrap(move |json| load(json, &ring));
        arms.push((format!("{other}, session in a header"), by_ring));
        let by_pins = quiet(World::builder().state(State::memory())).bootstrap(move |json| load(json, &pins));
        arms.push((format!("{other} with pins, a hit"), by_pins));
    }
    if let Ok(part) = std::env::var("BERTH_BENCH_ARMS") {
        arms.retain(|(name, _)| name == BASE || name.contains(&part));
    }
    let mut started = Vec::new();
    for (name, builder) in arms {
        let arm = Arm::of(&start(builder).await);
        arm.warm_up(&requests(&arm, 2 * SESSIONS)).await;
        started.push((name, arm));
    }
    // The order shifts, so that no arm always follows the same other one.
    for round in 0..ROUNDS {
        for turn in 0..started.len() {
            let place = (round + turn) % started.len();
            let arm = &mut started[place].1;
            let requests = requests(arm, REQUESTS);
            arm.round(requests).await;
        }
    }
    let base = started.iter().find(|(name, _)| name == BASE).map_or(&[][..], |(_, arm)| &arm.costs);

    report.section(
        "What a request costs Envoy",
        &format!(
            "CPU µs per request, one worker, {NODES} nodes, {ROUNDS} rounds of {REQUESTS} requests in turn; median \
             (least to most),\nand the median of each round's ratio."
        ),
    );
    report.table(&["arm", "µs", "against ring_hash"]);
    let mut json = Vec::new();
    for (name, arm) in &started {
        let ratio = against(&arm.costs, base);
        report.row(&[name.as_str(), &spread(&arm.costs), &format!("{ratio:.2}×")]);
        json.push(json!({
            "arm": name, "cpu_us_per_request": median(&arm.costs), "rounds": arm.costs, "ratio": ratio,
        }));
    }
    report.json("request_cost", json);
}

fn requests(arm: &Arm, count: usize) -> Vec<Request> {
    let session = |number: usize| format!("session-{}", number % SESSIONS);
    (0..count).map(|number| arm.world.get("/").header(HEADER, session(number))).collect()
}

/// Another build of the filter, with every callback that any release asked for.
fn load(json: &mut Value, file: &str) {
    if let Some(plugin) = json.pointer_mut(PLUGIN) {
        plugin["vm_config"]["code"]["local"]["filename"] = file.into();
        plugin["capability_restriction_config"]["allowed_capabilities"]["proxy_on_log"] = json!({});
    }
}

/// Without the callback by which the filter learns from responses: what passive health costs.
fn without_response(json: &mut Value) {
    let plugin = json.pointer_mut(PLUGIN).map(|plugin| &mut plugin["capability_restriction_config"]);
    let capabilities = plugin.and_then(|restriction| restriction["allowed_capabilities"].as_object_mut());
    capabilities.and_then(|capabilities| capabilities.remove("proxy_on_response_headers"));
}
