//! Sessions stay at their node over every protocol that Envoy speaks, and open streams stay as they are.

use std::collections::BTreeSet;

use crate::support::{SOON, placing, sessions, shown};
use berth_harness::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn websockets_open_at_their_sessions_node() {
    let world = placing(World::builder().nodes(5)).await;
    let keys = sessions(20);
    let nodes = world.nodes_of(&keys).await;
    assert!(nodes.iter().collect::<BTreeSet<_>>().len() > 2);

    for (key, node) in keys.iter().zip(&nodes) {
        for request in [world.get("/").header("x-session-id", key), world.get(&format!("/ws/{key}"))] {
            let mut socket = request.websocket().await;

            assert_eq!(socket.node(), node);
            let debug = format!("outcome=ring; node={node}; reason=owner");
            assert_eq!(socket.headers()["x-berth"], debug.as_str());
            assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_reach_their_sessions_node() {
    let world = placing(World::builder().nodes(5).http2_nodes()).await;
    let keys = sessions(20);
    let nodes = world.nodes_of(&keys).await;

    for (key, node) in keys.iter().zip(&nodes) {
        for _ in 0..2 {
            let call = world.client().grpc("/berth.Test/Echo", key.as_bytes()).header("x-session-id", key);
            let answer = call.send().await;

            assert_eq!((answer.node(), shown(&answer, "outcome")), (node.as_str(), "ring"));
            assert_eq!(&answer.body[5..], key.as_bytes());
            assert_eq!(answer.trailers["grpc-status"], "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_are_placed_as_http1_clients_are() {
    let world = placing(World::builder().nodes(5)).await;
    let keys = sessions(50);
    let nodes = world.nodes_of(&keys).await;

    for (key, node) in keys.iter().zip(&nodes) {
        let answer = world.get("/").http2().header("x-session-id", key).send().await;
        assert_eq!(answer.node(), node);
        let posted = world.client().post(&format!("/?sid={key}"), "body").http2().send().await;
        assert_eq!((posted.node(), posted.received().body_length), (node.as_str(), 4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_outlive_the_coming_and_going_of_other_nodes() {
    let world = placing(World::builder().nodes(4)).await;
    let leaving = world.node(0);
    let mut sockets = Vec::new();
    for key in sessions(30) {
        let socket = world.get("/").header("x-session-id", &key).websocket().await;
        if socket.node() != leaving.name() {
            sockets.push((key, socket));
        }
    }
    assert!(sockets.len() > 10);

    leaving.refuse().await;
    world.remove_node(0).await;
    let added = world.add_node().await;
    let moved = async || world.nodes_of(&sessions(200)).await.iter().any(|node| node == added.name());
    eventually(moved, SOON).await;

    for (key, socket) in &mut sockets {
        assert_eq!(socket.echo(key).await.as_ref(), Some(&*key), "at {}", socket.node());
    }
    assert_eq!(world.envoy(0).stat("cluster.nodes.upstream_rq_active").await, sockets.len() as u64);
}
