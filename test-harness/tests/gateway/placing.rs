//! Sessions stay with their node, behind what Envoy Gateway makes of the shipped resources.

use berth_harness::{Client, State};
use serde_json::Value;

use crate::support::patience::nodes_become;
use crate::support::{places, sessions};
use crate::worlds::{V1_6, V1_10, Version};

/// Requests that the second rule's cluster got.
const REST: &str = "cluster.httproute/games/nodes/rule/1.upstream_rq_total";

#[tokio::test(flavor = "multi_thread")]
async fn filter_on_and_off_agree_and_clients_choose_no_node_with_1_6() {
    filter_on_and_off_agree_and_clients_choose_no_node(V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_on_and_off_agree_and_clients_choose_no_node_with_1_10() {
    filter_on_and_off_agree_and_clients_choose_no_node(V1_10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_outlive_scaling_draining_and_one_death_with_1_6() {
    pins_outlive_scaling_draining_and_one_death(V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_outlive_scaling_draining_and_one_death_with_1_10() {
    pins_outlive_scaling_draining_and_one_death(V1_10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_dead_nodes_sessions_move_by_the_ring_alone_with_1_6() {
    only_a_dead_nodes_sessions_move_by_the_ring_alone(V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_dead_nodes_sessions_move_by_the_ring_alone_with_1_10() {
    only_a_dead_nodes_sessions_move_by_the_ring_alone(V1_10).await;
}

async fn filter_on_and_off_agree_and_clients_choose_no_node(version: Version) {
    let sessions = sessions(300);
    let on = version.ring_only(version.bootstrap()).start().await;
    places(on.envoy(0)).await;

    let with_berth = on.nodes_of(&sessions).await;
    let other = on.nodes().into_iter().find(|node| node.name() != with_berth[0]).unwrap();
    let response = on
        .get("/")
        .header("x-session-id", sessions[0].as_str())
        .header("x-berth-destination", other.name())
        .header("x-berth-session", "rehomed")
        .send()
        .await;
    assert_eq!(response.node(), with_berth[0]);
    assert!(response.received().header("x-berth-session").is_none());
    assert_eq!(on.envoy(0).stat(REST).await, 0, "sessions end at the first rule's cluster");

    let switch_off = |listener: &mut Value| {
        let manager = listener.pointer_mut("/default_filter_chain/filters/0/typed_config").unwrap();
        manager["http_filters"].as_array_mut().unwrap().remove(0);
        for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap() {
            route
                .as_object_mut()
                .unwrap()
                .remove("typed_per_filter_config")
                .expect("both rules have the filter");
        }
    };
    on.envoy(0).reload_listener(switch_off).await.unwrap();
    let without = Client::new(on.envoy(0).address()).nodes_of(&sessions).await;
    assert_eq!(with_berth, without);
    assert!(on.envoy(0).stat(REST).await > 0, "without the filter requests take the second rule");
}

async fn pins_outlive_scaling_draining_and_one_death(version: Version) {
    let world = version.behind(version.bootstrap()).state(State::memory()).start().await;
    places(world.envoy(0)).await;
    let sessions = sessions(200);
    let first = world.nodes_of(&sessions).await;

    world.add_node().await;
    world.set_eds_health(1, "DRAINING").await;
    nodes_become(world.envoy(0), &[("active", 4), ("draining", 1)]).await;
    assert_eq!(world.nodes_of(&sessions).await, first, "neither a new node nor a drain moves a session");
    let pools = [("pool", "nodes")];
    assert!(world.envoy(0).metric("berth_requests_total", &pools).await > 0.0, "tags are labels");

    let dead = world.node(0);
    dead.refuse().await;
    nodes_become(world.envoy(0), &[("cooldown", 1)]).await;
    let after = world.nodes_of(&sessions).await;
    for (before, now) in first.iter().zip(&after) {
        let stays = before != dead.name();
        assert_eq!(before == now, stays, "{before} to {now}");
        assert!(stays || now != world.node(1).name(), "no session moves to a node that drains");
    }
    assert_eq!(world.nodes_of(&sessions).await, after);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

async fn only_a_dead_nodes_sessions_move_by_the_ring_alone(version: Version) {
    let world = version.ring_only(version.bootstrap()).start().await;
    places(world.envoy(0)).await;
    let sessions = sessions(200);
    let first = world.nodes_of(&sessions).await;

    let dead = world.node(0);
    assert!(first.iter().any(|node| node == dead.name()), "it has sessions");
    dead.refuse().await;
    nodes_become(world.envoy(0), &[("active", 3), ("cooldown", 1)]).await;

    let after = world.nodes_of(&sessions).await;
    for (before, now) in first.iter().zip(&after) {
        assert_eq!(before == now, before != dead.name(), "{before} to {now}");
    }
    assert_eq!(world.nodes_of(&sessions).await, after);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}
