//! Redis behind the state cluster fails: requests go on, sessions that are known stay where they are, what a replica
//! has confirmed is never lost, and afterwards all agree again.

use std::slice::from_ref;
use std::time::Duration;

use berth_core::wire::{ResolveReply, SessionKey};
use berth_harness::{Builder, State, World, eventually};
use hyper::Method;
use serde_json::json;

use crate::support::state_away::{
    all_agree, breakers_close, connections, five, grow, moved_by_ring, nodes_by, only, open_breakers,
    patient_redis, pinned_by, state,
};
use crate::support::{SHIPPED_RING, SOON, owners, placing, sessions};

/// Twenty times the state timeout: what a busy machine adds is not the filter's doing.
const BRIEFLY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn known_sessions_stay_with_their_owners_when_redis_is_killed_and_forgets_them() {
    let world = placing(five().state(patient_redis())).await;
    let keys = sessions(60);
    let clients = connections(world.envoy(0));
    let nodes = pinned_by(&clients, &keys).await;
    grow(&world, 2).await;
    assert!(moved_by_ring(&world, &keys, &nodes) > 5);
    let resyncs = async || world.envoy(0).metric("berth_resyncs_total", &[("pool", "nodes")]).await;
    let before = resyncs().await;

    world.redis().kill();

    strangers_go_by_the_ring(&world, "killed").await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&nodes));
    world.redis().restart();
    eventually(async || resyncs().await >= before + 2.0, SOON).await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&nodes));
    breakers_close(&world).await;
    all_agree(&world, &keys).await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&nodes));
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_agree_on_what_redis_knew_once_it_no_longer_hangs() {
    let world = placing(five().envoys(2).state(State::redis())).await;
    let keys = sessions(40);
    let [first, second] = [0, 1].map(|envoy| world.envoy(envoy).client());
    let mut nodes = pinned_by(from_ref(&first), &keys[..20]).await;
    nodes.extend(pinned_by(from_ref(&second), &keys[20..]).await);
    grow(&world, 2).await;
    assert!(moved_by_ring(&world, &keys, &nodes) > 3);

    world.redis().pause();

    strangers_go_by_the_ring(&world, "paused").await;
    for client in [&first, &second] {
        for key in &keys {
            let answer = client.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    world.redis().resume();
    all_agree(&world, &keys).await;
    assert_eq!(second.nodes_of(&keys).await, nodes, "pins are what they were");
    breakers_close(&world).await;
}

/// The service names each way not to take writes (state/tests/readiness.rs). These are two in which Redis still answers.
#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_redis_is_full_or_fenced_and_known_sessions_stay() {
    let world = placing(five().state(patient_redis())).await;
    let keys = sessions(40);
    let clients = connections(world.envoy(0));
    let nodes = pinned_by(&clients, &keys).await;
    grow(&world, 2).await;
    assert!(moved_by_ring(&world, &keys, &nodes) > 3);
    for setting in ["maxmemory", "min-replicas-to-write"] {
        let set =
            |value: &str| assert_eq!(world.redis().cli(&["CONFIG", "SET", setting, value]).trim(), "OK");
        set("1");

        strangers_go_by_the_ring(&world, setting).await;
        assert_eq!(nodes_by(&clients, &keys).await, only(&nodes), "{setting}");

        set("0");
        breakers_close(&world).await;
        all_agree(&world, &keys).await;
        assert_eq!(nodes_by(&clients, &keys).await, only(&nodes), "{setting}");
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_a_primary_of_a_redis_cluster_is_replaced() {
    let world = placing(patient(five()).envoys(2).state(cluster())).await;
    let keys = sessions(60);
    let nodes = pinned_by(&[world.client()], &keys).await;
    grow(&world, 2).await;

    let killed = world.redis_primary_of("nodes", &keys[0]).expect("a primary");
    world.redis_cluster().servers[killed].kill();

    let mut asked = 0;
    let replaced = async || {
        for (place, envoy) in world.envoys().iter().enumerate() {
            for key in ["known", "new"].map(|kind| {
                if kind == "new" { format!("new-{place}-{asked}") } else { keys[asked % 60].clone() }
            }) {
                let answer = envoy.client().get("/").header("x-session-id", &key).within(SOON).send().await;
                assert_eq!(answer.status, 200, "{key}: {answer:?}");
            }
        }
        asked += 1;
        world.redis_primary_of("nodes", &keys[0]).is_some_and(|primary| primary != killed)
    };
    eventually(replaced, SOON * 2).await;

    all_agree(&world, &keys).await;
    assert_eq!(world.nodes_of(&keys).await, nodes, "pins are what they were");
    breakers_close(&world).await;
    for envoy in world.envoys() {
        assert_eq!(envoy.wasm_failures().await, 0);
    }
}

/// The service's own tests lose unconfirmed writes beside the confirmed ones (state/tests/cluster.rs). This one shows
/// that Envoy sends a session where a confirmed write says, after the primary that took it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_confirmed_is_where_sessions_go_after_a_failover() {
    let quorum = cluster().flag("--durability", "quorum");
    let world = placing(patient(five()).state(quorum)).await;
    let keys = sessions(60);
    let ring = owners(&world, SHIPPED_RING, &keys);
    let elsewhere = |place: usize| {
        world
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .filter(|node| *node != ring[place])
            .nth(place % 4)
    };
    let mut confirmed = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        let node = elsewhere(place).expect("one of five");
        let session = json!({"key": SessionKey::new("nodes", key.as_bytes()), "candidates": [node]});
        let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
        let answer = world.state(0).request(Method::POST, "/v1/resolve").body(body).send().await;
        let reply: ResolveReply = serde_json::from_slice(&answer.body).expect("a reply");
        if reply.pins[0].durable == Some(true) {
            confirmed.push((key.clone(), node));
        }
    }
    assert!(confirmed.len() > 50, "{} of 60 were confirmed", confirmed.len());

    let killed = world.redis_primary_of("nodes", &confirmed[0].0).expect("a primary");
    world.redis_cluster().servers[killed].kill();

    let replaced =
        async || world.redis_primary_of("nodes", &confirmed[0].0).is_some_and(|primary| primary != killed);
    eventually(replaced, SOON * 2).await;
    breakers_close(&world).await;
    let (keys, nodes): (Vec<String>, Vec<String>) = confirmed.into_iter().unzip();
    let there = async || {
        for (key, node) in keys.iter().zip(&nodes) {
            let answer = world.get("/").header("x-session-id", key).send().await;
            if answer.node() != node {
                return Err(format!("{key}: {:?} instead of {node}", answer.header("x-berth")));
            }
        }
        Ok(())
    };
    eventually(there, SOON * 2).await;
}

fn cluster() -> State {
    State::redis_cluster().flag("--store-timeout", "1s")
}

/// Waits for as long as a store may take that waits for a replica.
fn patient(builder: Builder) -> Builder {
    builder.configuration(|json| state(json)["timeout"] = "2s".into())
}

/// Every Envoy places new sessions by the ring, soon, until its breakers are open; then at once.
async fn strangers_go_by_the_ring(world: &World, prefix: &str) {
    for (place, envoy) in world.envoys().iter().enumerate() {
        let strangers: Vec<String> =
            sessions(20).iter().map(|key| format!("{prefix}-{place}-{key}")).collect();
        let ring = owners(world, SHIPPED_RING, &strangers);
        let clients = connections(envoy);
        for ((key, owner), client) in strangers.iter().zip(&ring).zip(clients.iter().cycle()) {
            let answer = client.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
            assert_eq!((answer.status.as_u16(), answer.node()), (200, owner.as_str()), "{key}: {answer:?}");
        }
        eventually(async || open_breakers(envoy).await >= 1.0, SOON).await;
    }
}
