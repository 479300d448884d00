//! Tests of a state cluster that fails: worlds that have one, and what Berth counts of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_core::wire::{SessionKey, SessionReply};
use berth_harness::{Builder, Client, Envoy, Response, State, World, eventually};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use super::fake_state::FakeState;
use super::patience::caught_up;
use super::{SHIPPED_RING, SOON, owners, pool, shown};

/// Failures in a row that open a breaker.
pub(crate) const FAILURES: usize = 5;

/// Connections that surely reach every worker: that one of two gets none of 16 happens once in 30,000 runs.
const CONNECTIONS: usize = 16;

/// How long a worker's start takes at most, and a tick.
const START: Duration = Duration::from_millis(600);

/// A world whose state cluster is this fake.
pub(crate) fn over(fake: &FakeState) -> Builder {
    World::builder().file("envoy-state.yaml").cluster_address("berth_state", fake.address())
}

/// The state cluster in a plugin configuration.
pub(crate) fn state(json: &mut Value) -> &mut Value {
    &mut json["state"]
}

/// How many calls to the state cluster came to this end.
pub(crate) async fn calls(envoy: &Envoy, result: &str) -> f64 {
    envoy.metric("berth_state_calls_total", &[("pool", "nodes"), ("result", result)]).await
}

/// How many workers do not ask the state cluster now.
pub(crate) async fn open_breakers(envoy: &Envoy) -> f64 {
    envoy.metric("berth_state_breaker_open", &[("pool", "nodes")]).await
}

/// Waits until the time is over in which workers that have just started wait for first answers. To be called after each of them
/// has had a request that names a session.
pub(crate) async fn start_is_over() {
    let since = Instant::now();
    eventually(async || since.elapsed() > START, SOON).await;
}

/// A Redis that a busy machine does not keep from answering in time.
pub(crate) fn patient_redis() -> State {
    State::redis().flag("--store-timeout", "1s")
}

/// Five nodes that take their sessions at once.
pub(crate) fn five() -> Builder {
    World::builder().nodes(5).configuration(|json| {
        pool(json)["health"] = json!({"cooldown": "5s", "warm_up": "0s"});
    })
}

/// Adds nodes, and waits until they take new sessions.
pub(crate) async fn grow(world: &World, nodes: usize) {
    let before = world.nodes().len();
    for _ in 0..nodes {
        world.add_node().await;
    }
    for envoy in world.envoys() {
        let active = async || {
            envoy.stat("wasmcustom.berth_nodes.pool.nodes.state.active").await == (before + nodes) as u64
        };
        eventually(active, SOON).await;
        caught_up(envoy).await;
    }
}

/// How many sessions have an owner that the ring would not choose.
pub(crate) fn moved_by_ring(world: &World, keys: &[String], nodes: &[String]) -> usize {
    owners(world, SHIPPED_RING, keys).iter().zip(nodes).filter(|(owner, node)| owner != node).count()
}

/// Waits until every worker of every Envoy asks the state cluster again.
pub(crate) async fn breakers_close(world: &World) {
    for envoy in world.envoys() {
        // Only a request that misses probes, and by a breaker's last backoff one in five seconds.
        let closed = async || {
            let probes = connections(envoy);
            let probes = probes.iter().enumerate().map(|(place, client)| {
                let session = format!("probe-{}-{place}", unique());
                client.get("/").header("x-session-id", session).send()
            });
            join_all(probes).await;
            open_breakers(envoy).await == 0.0
        };
        eventually(closed, SOON * 2).await;
    }
}

/// Clients of a connection each, which together reach every worker.
pub(crate) fn connections(envoy: &Envoy) -> Vec<Client> {
    (0..CONNECTIONS).map(|_| Client::new(envoy.address())).collect()
}

/// The nodes of each session by each of these clients: all the same one as long as all workers agree.
pub(crate) async fn nodes_by(clients: &[Client], sessions: &[String]) -> Vec<BTreeSet<String>> {
    let by_one = async |client: &Client| {
        let mut nodes = Vec::new();
        for session in sessions {
            let answer = client.get("/").header("x-session-id", session).send().await;
            assert_eq!(answer.status, 200, "{session}: {answer:?}");
            nodes.push(answer.node().to_owned());
        }
        nodes
    };
    let by_each = join_all(clients.iter().map(by_one)).await;
    (0..sessions.len()).map(|place| by_each.iter().map(|nodes| nodes[place].clone()).collect()).collect()
}

/// The node of each session, once the workers behind all of these clients have learned it from the state cluster.
pub(crate) async fn pinned_by(clients: &[Client], sessions: &[String]) -> Vec<String> {
    let ask = async |client: &Client, session: &String| {
        let answer = client.get("/").header("x-session-id", session).send().await;
        match verdict(&answer) {
            (_, "pin") => Ok(answer.node().to_owned()),
            other => Err(format!("{session}: {other:?}")),
        }
    };
    let pinned = async || {
        let mut nodes = Vec::new();
        for session in sessions {
            let found = join_all(clients.iter().map(|client| ask(client, session))).await;
            let found = found.into_iter().collect::<Result<BTreeSet<String>, String>>()?;
            assert_eq!(found.len(), 1, "{session} is at {found:?}");
            nodes.extend(found);
        }
        Ok::<_, String>(nodes)
    };
    eventually(pinned, SOON * 2).await
}

/// What every worker says, where each session is at one node only.
pub(crate) fn only(nodes: &[String]) -> Vec<BTreeSet<String>> {
    nodes.iter().map(|node| BTreeSet::from([node.clone()])).collect()
}

/// Waits until every worker of every Envoy sends each session where its pin in the store says.
pub(crate) async fn all_agree(world: &World, sessions: &[String]) {
    let clients: Vec<Client> = world.envoys().iter().flat_map(connections).collect();
    let agree = async || {
        let found = nodes_by(&clients, sessions).await;
        for (session, nodes) in sessions.iter().zip(found) {
            let pin = stored(world, session).await?;
            if nodes != pin.iter().cloned().collect() {
                return Err(format!("{session} is at {nodes:?}, and in the store at {pin:?}"));
            }
        }
        Ok(())
    };
    eventually(agree, SOON * 2).await;
}

/// The owner of a session according to the state service; an error while the service does not answer.
async fn stored(world: &World, session: &str) -> Result<Option<String>, String> {
    let path = format!("/v1/sessions/{}?pool=nodes", SessionKey::new("nodes", session.as_bytes()));
    let answer = world.state(0).request(Method::GET, &path).send().await;
    match answer.status.as_u16() {
        200 => {
            let pin: SessionReply = serde_json::from_slice(&answer.body).expect("a pin");
            Ok(Some(pin.node.to_string()))
        }
        404 => Ok(None),
        status => Err(format!("{status}: {:?}", answer.body)),
    }
}

/// Outcome and reason, as the debug header has them.
#[track_caller]
pub(crate) fn verdict(answer: &Response) -> (&str, &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    (shown(answer, "outcome"), shown(answer, "reason"))
}

fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
