//! The recipes of docs/identity.md, with the servers and clients that their users run: PyPI's `mcp` and `python-socketio`.
//!
//! Each client goes through one of two Envoys with two workers each, over as many connections as its library likes.

use berth_harness::{Builder, Endpoint, PythonNodes, State, World, run_python};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::patience::impatient;
use crate::support::pinning::{all_see, patiently};
use crate::support::pool;

const NODES: usize = 4;
const CLIENTS: usize = 24;
/// What each client asks its node in turn.
const CALLS: u64 = 6;

/// Two Envoys before nodes of this program.
async fn before(nodes: &PythonNodes, builder: Builder) -> World {
    let world = builder.nodes(0).envoys(2).start().await;
    let endpoints: Vec<Endpoint> = nodes.addresses().iter().map(|address| Endpoint::new(*address)).collect();
    world.edit_endpoints(|set| *set = endpoints).await;
    all_see(&world, &[("active", NODES as u64)]).await;
    world
}

fn with_session(session: Value) -> Builder {
    impatient().configuration(move |json| pool(json)["session"] = session.clone())
}

/// What the clients of a program saw.
async fn play(world: &World, program: &str, mode: &str, path: &str) -> Vec<Value> {
    let urls = world.envoys().iter().map(|envoy| format!("http://{}{path}", envoy.address()));
    let arguments: Vec<String> = [CLIENTS.to_string(), mode.to_owned()].into_iter().chain(urls).collect();
    let seen = run_python(program, &arguments).await;
    seen.as_array().expect("a list").clone()
}

/// How many clients had one node count all their calls, and how many nodes had any of them.
fn whole(seen: &[Value]) -> (usize, usize) {
    let counts: Value = (1..=CALLS).collect::<Vec<u64>>().into();
    let is_whole = |client: &&Value| {
        client["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1) && client["counts"] == counts
    };
    let nodes: std::collections::BTreeSet<String> =
        seen.iter().filter(is_whole).map(|client| client["nodes"][0].to_string()).collect();
    (seen.iter().filter(is_whole).count(), nodes.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mcp_client_stays_with_the_server_that_began_its_session() {
    let nodes = PythonNodes::start("mcp_nodes.py", NODES).await;
    let learn = json!({"sources": [{"header": "mcp-session-id", "learn": true}]});
    let world = before(&nodes, patiently(with_session(learn), State::memory())).await;

    let seen = play(&world, "mcp_clients.py", "legacy", "/mcp").await;

    let (clients, used) = whole(&seen);
    assert!(clients == CLIENTS && used > 1, "{clients} of {CLIENTS} at {used} nodes: {seen:?}");
    // Each ended its session by DELETE, at the server that had it.
    for address in nodes.addresses() {
        let direct = berth_harness::Client::new(*address).request(Method::GET, "/sessions").send().await;
        assert_eq!(direct.body, "0", "{address} has sessions left");
    }
    // The revision of 2026-07-28 has no sessions: any server will do, and Berth leaves its requests alone.
    let seen = play(&world, "mcp_clients.py", "auto", "/mcp").await;
    let failed: Vec<&Value> = seen.iter().filter(|client| client.get("failure").is_some()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let is_spread = |client: &Value| client["nodes"].as_array().is_some_and(|nodes| nodes.len() > 1);
    assert!(seen.iter().any(is_spread), "they need no affinity: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_socketio_client_stays_with_its_server_by_a_second_cookie() {
    let nodes = PythonNodes::start("socketio_nodes.py", NODES).await;
    let route = json!({"sources": [{"cookie": "route"}], "missing": {"issue_cookie": {"name": "route"}}});
    let world = before(&nodes, patiently(with_session(route), State::memory())).await;

    for mode in ["upgrade", "polling"] {
        let seen = play(&world, "socketio_clients.py", mode, "").await;

        let (clients, used) = whole(&seen);
        assert!(clients == CLIENTS && used > 1, "{mode}: {clients} of {CLIENTS} at {used}: {seen:?}");
        let transport = if mode == "upgrade" { "websocket" } else { "polling" };
        assert!(seen.iter().all(|client| client["transport"] == transport), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_socketio_client_stays_with_its_server_by_an_id_that_its_answer_repeats() {
    let nodes = PythonNodes::start("socketio_nodes.py", NODES).await;
    let learn = json!({"sources": [{"query": "sid"}, {"cookie": "io", "learn": true}]});
    let world = before(&nodes, patiently(with_session(learn), State::memory())).await;

    // Also one that keeps no cookies: later requests have the id in their query.
    for mode in ["bare", "polling"] {
        let seen = play(&world, "socketio_clients.py", mode, "").await;

        let (clients, used) = whole(&seen);
        assert!(clients == CLIENTS && used > 1, "{mode}: {clients} of {CLIENTS} at {used}: {seen:?}");
    }
}
