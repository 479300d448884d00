//! What a request costs whose session a header or a cookie names.

use berth_harness::{Builder, Request, Response, State, World};
use serde_json::{Value, json};

use crate::arm::{Arm, HEADER, NODES, native, quiet, ready, start};
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
/// No secret.
const SIGNING_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// How requests name their sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Header,
    Cookie,
    /// As Berth issued them.
    IssuedCookie,
}

/// Requests that are weighed.
struct Weighed {
    name: String,
    arm: Arm,
    /// The header that names each session.
    sessions: Vec<(&'static str, String)>,
}

impl Weighed {
    fn requests(&self, count: usize) -> Vec<Request> {
        let sessions = self.sessions.iter().cycle().take(count);
        sessions.map(|(name, value)| self.arm.world.get("/").header(name, value.as_str())).collect()
    }
}

pub(crate) async fn measure(report: &mut Report) {
    let hit = || quiet(World::builder().state(State::memory()));
    let arms = [
        ("native round robin", World::builder().filter(false)),
        (BASE, native("ring_hash.v3.RingHash")),
        ("native maglev", native("maglev.v3.Maglev")),
        ("Berth, session in a header", quiet(World::builder())),
        (
            "Berth, the same without learning from responses",
            quiet(World::builder()).bootstrap(without_response),
        ),
        ("Berth with pins, a hit", hit()),
        (
            "Berth with pins, a hit, `guard: filter`",
            hit().configuration(|json| json["guard"] = "filter".into()),
        ),
        ("Berth, envoy-metadata.yaml", quiet(World::builder().file("envoy-metadata.yaml"))),
    ];
    let by_cookie = [
        ("Berth with pins, a hit by a cookie", Named::Cookie, cookie(hit(), json!({"name": "sid"}))),
        (
            "Berth with pins, a hit by a signed cookie",
            Named::IssuedCookie,
            cookie(hit(), json!({"name": "sid", "signing_keys": [SIGNING_KEY]})),
        ),
    ];
    let by_header = arms.into_iter().map(|(name, builder)| (name, Named::Header, builder));
    let mut arms: Vec<(String, Named, Builder)> =
        by_header.chain(by_cookie).map(|(name, named, builder)| (name.to_owned(), named, builder)).collect();
    // Builds of the filter in turn, because no two runs are alike.
    let others = std::env::var("BERTH_BENCH_OTHER").unwrap_or_default();
    for other in others.split(':').filter(|file| !file.is_empty()) {
        let (ring, pins) = (other.to_owned(), other.to_owned());
        let by_ring = quiet(World::builder()).bootstrap(move |json| load(json, &ring));
        arms.push((format!("{other}, session in a header"), Named::Header, by_ring));
        let by_pins = hit().bootstrap(move |json| load(json, &pins));
        arms.push((format!("{other} with pins, a hit"), Named::Header, by_pins));
    }
    if let Ok(part) = std::env::var("BERTH_BENCH_ARMS") {
        arms.retain(|(name, ..)| name == BASE || name.contains(&part));
    }
    let mut started = Vec::new();
    for (name, named, builder) in arms {
        let arm = Arm::of(&start(builder).await);
        let sessions = sessions(&arm, named).await;
        let weighed = Weighed { name, arm, sessions };
        weighed.arm.warm_up(&weighed.requests(2 * SESSIONS)).await;
        started.push(weighed);
    }
    // The order shifts, so that no arm always follows the same other one.
    for round in 0..ROUNDS {
        for turn in 0..started.len() {
            let place = (round + turn) % started.len();
            let requests = started[place].requests(REQUESTS);
            started[place].arm.round(requests).await;
        }
    }
    let base = started.iter().find(|one| one.name == BASE).map_or(&[][..], |one| &one.arm.costs);

    report.section(
        "What a request costs Envoy",
        &format!(
            "CPU µs per request, one worker, {NODES} nodes, {ROUNDS} rounds of {REQUESTS} requests in turn; median \
             (least to most),\nand the median of each round's ratio."
        ),
    );
    report.table(&["arm", "µs", "against ring_hash"]);
    let mut json = Vec::new();
    for Weighed { name, arm, .. } in &started {
        let ratio = against(&arm.costs, base);
        report.row(&[name.as_str(), &spread(&arm.costs), &format!("{ratio:.2}×")]);
        json.push(json!({
            "arm": name, "cpu_us_per_request": median(&arm.costs), "rounds": arm.costs, "ratio": ratio,
        }));
    }
    report.json("request_cost", json);
}

/// How each session is named.
async fn sessions(arm: &Arm, named: Named) -> Vec<(&'static str, String)> {
    let number = |number: usize| format!("session-{number}");
    match named {
        Named::Header => (0..SESSIONS).map(|at| (HEADER, number(at))).collect(),
        Named::Cookie => (0..SESSIONS).map(|at| ("cookie", format!("sid={}", number(at)))).collect(),
        Named::IssuedCookie => {
            ready(&arm.world.get("/")).await;
            let asked = (0..SESSIONS).map(|_| arm.world.get("/")).collect();
            let answers = arm.world.client().send_all(asked).await;
            let cookie =
                |answer: &Response| answer.header("set-cookie")?.split(';').next().map(str::to_owned);
            answers.iter().filter_map(cookie).map(|cookie| ("cookie", cookie)).collect()
        }
    }
}

/// Sessions are named by a cookie that Berth issues.
fn cookie(builder: Builder, issue: Value) -> Builder {
    builder.configuration(move |json| {
        json["pools"][0]["session"] =
            json!({"sources": [{"cookie": "sid"}], "missing": {"issue_cookie": issue}});
    })
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
