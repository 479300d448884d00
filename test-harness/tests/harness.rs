//! The harness keeps its own promises, without the filter: what it starts serves, what it changes is seen.

use std::time::Duration;

use berth_harness::{StatusCode, World, eventually};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn reaches_nodes_with_every_byte() {
    let world = World::builder().filter(false).start().await;

    let response = world
        .get("/a?b=c")
        .header("x-bytes", b"\xff\x80 ok")
        .header("x-berth-destination", "1.2.3.4:5")
        .send()
        .await;

    assert_eq!(response.status, 200);
    assert!(world.nodes().iter().any(|node| node.name() == response.node()));
    let received = response.received();
    assert_eq!((received.method.as_str(), received.path.as_str()), ("GET", "/a?b=c"));
    assert_eq!(received.header("x-bytes"), Some(&b"\xff\x80 ok"[..]));
    assert_eq!(received.header("x-berth-destination"), None);
    assert_eq!(world.nodes().iter().map(|node| node.requests()).sum::<u64>(), 1);
}

#[tokio::test]
async fn sends_ten_thousand_requests() {
    let world = World::builder().filter(false).start().await;

    let keys: Vec<String> = (0..10_000).map(|key| format!("session-{key}")).collect();
    let nodes = world.nodes_of(&keys).await;

    assert_eq!(nodes.len(), keys.len());
    for node in world.nodes() {
        let served = nodes.iter().filter(|name| *name == node.name()).count();
        assert_eq!(served as u64, node.requests());
    }
}

#[tokio::test]
async fn shows_changed_endpoints_to_all_envoys() {
    let world = World::builder().filter(false).nodes(2).envoys(2).start().await;

    let added = world.add_node().await;
    world.set_weight(0, 3).await;
    world.set_eds_health(1, "DRAINING").await;
    world.reorder().await;
    world.remove_node(0).await;

    for envoy in world.envoys() {
        let hosts = envoy.clusters().await;
        let host =
            |name: &str| hosts.iter().find(|host| host.cluster == "nodes" && host.address == name).cloned();
        assert_eq!(host(world.node(1).name()).unwrap().eds_health, "DRAINING");
        assert!(host(world.node(0).name()).is_none_or(|host| host.has("pending_dynamic_removal")));
        eventually(async || envoy.client().get("/").send().await.node() == added.name(), SOON).await;
    }
}

#[tokio::test]
async fn node_fails_as_told_and_comes_back() {
    let world =
        World::builder().filter(false).nodes(1).health_interval(Duration::from_millis(200)).start().await;
    let node = world.node(0);

    node.fail(507);
    assert_eq!(world.get("/").send().await.status, 507);
    node.slow(300);
    assert_eq!(world.get("/").send().await.status, 200);
    node.hang();
    assert!(world.get("/").within(Duration::from_millis(300)).try_send().await.is_err());
    node.reset();
    assert_eq!(world.get("/").send().await.status, 503);

    node.serve();
    node.refuse().await;
    let refused = world.get("/").send().await;
    assert_eq!(refused.status, 503);
    node.restart().await;
    eventually(async || world.get("/").send().await.status == 200, SOON).await;

    node.fail_health();
    let unhealthy = async || {
        let hosts = world.envoy(0).clusters().await;
        hosts.iter().any(|host| host.cluster == "nodes" && host.has("failed_active_health_check"))
    };
    eventually(unhealthy, SOON).await;
}

#[tokio::test]
async fn reload_serves_or_tells_why_not() {
    let world = World::builder().filter(false).start().await;
    let envoy = world.envoy(0);
    let address = envoy.address();
    let manager = "/filter_chains/0/filters/0/typed_config";

    let answer = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 418}}]);
    let taken = envoy.reload_listener(|listener| {
        let hosts = format!("{manager}/route_config/virtual_hosts/0/routes");
        *listener.pointer_mut(&hosts).unwrap() = answer;
    });
    assert_eq!(taken.await, Ok(()));
    assert_eq!(world.get("/").send().await.status, 418);
    assert_eq!(envoy.address(), address);

    let refused = envoy.reload_listener(|listener| {
        listener.pointer_mut(manager).unwrap()["route_config"]["virtual_hosts"][0]["domains"] = json!([]);
    });
    let reason = refused.await.unwrap_err().to_string();
    assert!(reason.contains("Domains"), "{reason}");
    assert_eq!(world.get("/").send().await.status, 418);

    envoy.restart().await;
    assert_eq!(world.get("/").send().await.status, 418);
}

#[tokio::test]
async fn refused_bootstrap_tells_why() {
    let started =
        World::builder().filter(false).bootstrap(|json| json["no_such_field"] = json!(1)).try_start().await;

    let failure = started.unwrap_err();
    assert!(failure.contains("no_such_field"), "{failure}");
}

#[tokio::test]
async fn websocket_echoes() {
    let world = World::builder().filter(false).start().await;

    let mut socket =
        world.get("/ws/ada").header("sec-websocket-protocol", "session.ada, chat").websocket().await;

    assert!(world.nodes().iter().any(|node| node.name() == socket.node()));
    assert_eq!(socket.protocol(), Some("session.ada"));
    assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));

    world.node_named(socket.node()).refuse().await;
    assert_eq!(socket.receive().await, None);
}

#[tokio::test]
async fn grpc_calls_succeed() {
    let world = World::builder().filter(false).http2_nodes().start().await;

    let response = world.client().grpc("/berth.Test/Echo", b"message").send().await;

    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(&response.body[5..], b"message");
    assert_eq!(response.trailers["grpc-status"], "0");
    assert!(!response.node().is_empty());
}

#[tokio::test]
async fn raw_bytes_get_an_answer() {
    let world = World::builder().filter(false).start().await;

    let good = world.raw(b"GET / HTTP/1.1\r\nhost: berth\r\n\r\n").await;
    let bad = world.raw(b"\x00\xff garbage\r\n\r\n").await;

    assert_eq!((good.status(), good.closed), (Some(200), false));
    assert_eq!((bad.status(), bad.closed), (Some(400), true));
}

#[tokio::test]
async fn reads_metrics_and_runs_the_older_envoy() {
    let world = World::builder().filter(false).envoy_version("1.36.2").start().await;
    let envoy = world.envoy(0);

    world.get("/").send().await;

    assert!(envoy.admin("/server_info").await.contains("/1.36.2/"));
    let labels = [("envoy_cluster_name", "nodes_sessionless")];
    eventually(async || envoy.metric("envoy_cluster_upstream_rq_total", &labels).await == 1.0, SOON).await;
    assert_eq!(envoy.stat("cluster.nodes_sessionless.upstream_rq_total").await, 1);
    assert_eq!(envoy.try_stat("cluster.nodes_sessionless.no_such_stat").await, None);
    assert_eq!(envoy.wasm_failures().await, 0);
}

#[tokio::test]
async fn killed_envoy_comes_back_and_ends_with_the_world() {
    let world = World::builder().filter(false).start().await;

    world.envoy(0).kill();
    world.add_node().await;
    world.envoy(0).restart().await;
    let hosts = world.envoy(0).clusters().await;
    assert_eq!(hosts.iter().filter(|host| host.cluster == "nodes" && host.is_healthy()).count(), 4);

    let client = world.client();
    assert_eq!(client.get("/").send().await.status, 200);
    drop(world);
    assert!(client.get("/").try_send().await.is_err());
}
