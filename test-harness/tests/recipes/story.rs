//! What the recipes have in common: two Envoys with the page's configuration before nodes that are added and die.

use berth_harness::{Builder, Client, Envoy, Request, State, World, eventually};
use futures_util::future::join_all;
use serde_json::Value;

use crate::support::patience::impatient;
use crate::support::pinning::patiently;
use crate::support::{SOON, manager, routes};

/// Requests under way at once.
const TOGETHER: usize = 20;

/// Two Envoys with this configuration of the plugin, before four nodes. What a busy machine needs is changed, and nothing else.
pub(crate) fn running(plugin: Value) -> Builder {
    patiently(impatient().nodes(4).envoys(2), State::memory())
        .configuration(move |json| *json = patient(plugin.clone()))
}

/// The configuration with looks five times a second, the debug header, and time for the state cluster.
pub(crate) fn patient(mut plugin: Value) -> Value {
    plugin["poll_interval"] = "200ms".into();
    plugin["debug_header"] = true.into();
    plugin["state"]["timeout"] = "5s".into();
    plugin
}

/// Adds this to both routes, and ends streams that are quiet for a second, where they would otherwise end after five minutes.
pub(crate) fn soon_idle(builder: Builder, route: Value) -> Builder {
    builder.bootstrap(move |json| {
        manager(json)["stream_idle_timeout"] = "1s".into();
        for action in routes(json) {
            action["route"].as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
        }
    })
}

/// Waits until every Envoy has so many of a pool's nodes in each of these states, and its workers know.
pub(crate) async fn settled(world: &World, pool: &str, states: &[(&str, u64)]) {
    for envoy in world.envoys() {
        let stat = async |name: &str| envoy.stat(&format!("wasmcustom.berth_{name}")).await;
        let seen = async || {
            for &(state, count) in states {
                let found = stat(&format!("nodes.pool.{pool}.state.{state}")).await;
                if found != count {
                    return Err(format!("{found} nodes of {pool} are {state}, not {count}"));
                }
            }
            Ok(())
        };
        eventually(seen, SOON * 2).await;
        looked_again(envoy, pool).await;
    }
}

/// Waits until an Envoy has looked at a pool's members twice from now on: each worker then has had several ticks since.
pub(crate) async fn looked_again(envoy: &Envoy, pool: &str) {
    let looks = async || envoy.stat(&format!("wasmcustom.berth_polls_total.pool.{pool}.result.ok")).await;
    let enough = looks().await + 4;
    eventually(async || looks().await >= enough, SOON).await;
}

/// The node of each session, which must be one for all Envoys.
pub(crate) async fn homes(
    world: &World,
    sessions: &[String],
    ask: impl Fn(&Client, &str) -> Request,
) -> Vec<String> {
    let clients: Vec<Client> = world.envoys().iter().map(Envoy::client).collect();
    let mut homes = Vec::new();
    for some in sessions.chunks(TOGETHER) {
        let of = async |session: &String| {
            let answers = join_all(clients.iter().map(|client| ask(client, session).send())).await;
            let nodes: Vec<&str> = answers.iter().map(berth_harness::Response::node).collect();
            assert!(nodes.iter().all(|node| *node == nodes[0]), "{session} is at {nodes:?}");
            nodes[0].to_owned()
        };
        homes.extend(join_all(some.iter().map(of)).await);
    }
    homes
}

/// A node is added and no session moves; a node dies, and its sessions move, once, and no others.
///
/// `new` is the state in which a node begins.
pub(crate) async fn survives(
    world: &World,
    (pool, new): (&str, &str),
    sessions: &[String],
    ask: impl Fn(&Client, &str) -> Request,
) {
    settled(world, pool, &[("active", 4)]).await;
    let before = homes(world, sessions, &ask).await;
    world.add_node().await;
    let grown = if new == "active" { [("active", 5), (new, 5)] } else { [("active", 4), (new, 1)] };
    settled(world, pool, &grown).await;
    assert_eq!(homes(world, sessions, &ask).await, before, "{pool}: a node was added");

    let dead = world.node_named(&before[0]);
    dead.refuse().await;
    settled(world, pool, &[("active", grown[0].1 - 1), ("cooldown", 1)]).await;
    let after = homes(world, sessions, &ask).await;

    for (session, (before, after)) in sessions.iter().zip(before.iter().zip(&after)) {
        assert_eq!(
            before != after,
            before == dead.name(),
            "{pool}: {session} was at {before}, is at {after}"
        );
    }
    assert_eq!(homes(world, sessions, &ask).await, after, "{pool}: once");
}
