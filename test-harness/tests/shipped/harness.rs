//! The harness keeps its own promises, without the filter: what it starts serves, what it changes is seen.

use std::time::Duration;

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::routes;
use berth_core::wire::{Outcome, Pin, ResolveReply, SessionKey};
use berth_harness::hyper::Method;
use berth_harness::{
    Builder, Client, Issuer, Ports, Response, State, StatusCode, World, eventually, free_address,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn reaches_nodes_with_every_byte() {
    let world = World::builder().filter(false).start().await;

    let response = world
        .get("/a?b=c")
        .header("x-bytes", b"\xff\x80 ok")
        .header("x-berth-destination", "1.2.3.4:5")
        .header("x-berth-session", "ada")
        .send()
        .await;

    assert_eq!(response.status, 200);
    assert!(world.nodes().iter().any(|node| node.name() == response.node()));
    let received = response.received();
    assert_eq!((received.method.as_str(), received.path.as_str()), ("GET", "/a?b=c"));
    assert_eq!(received.header("x-bytes"), Some(&b"\xff\x80 ok"[..]));
    assert_eq!(received.header("x-berth-destination"), None);
    assert_eq!(received.header("x-berth-session"), None);
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
async fn issuer_publishes_what_it_is_told_leaves_and_is_back_where_it_was() {
    let issuer = Issuer::start("first".into());
    let published = async || {
        let answer = Client::new(issuer.address()).get("/jwks.json").try_send().await;
        answer.ok().map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
    };

    assert_eq!(published().await.as_deref(), Some("first"));
    issuer.publish("second".into());
    assert_eq!(published().await.as_deref(), Some("second"));
    issuer.refuse().await;
    assert_eq!(published().await, None);
    issuer.restart().await;
    assert_eq!(published().await.as_deref(), Some("second"));
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

/// A world that passes calls of the state service's API on to its cluster, as the filter would make them.
fn calling(builder: Builder) -> Builder {
    builder.filter(false).bootstrap(|json| {
        let calls = json!({"match": {"prefix": "/v1/"}, "route": {"cluster": "berth_state"}});
        routes(json).insert(0, calls);
    })
}

async fn resolve(client: &Client, session: &str, candidate: &str) -> Response {
    let key = SessionKey::new("nodes", session.as_bytes());
    let body = json!({"pool": "nodes", "sessions": [{"key": key, "candidates": [candidate]}]});
    client.post("/v1/resolve", body.to_string()).send().await
}

#[track_caller]
fn pin(response: &Response) -> Pin {
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_slice::<ResolveReply>(&response.body).unwrap().pins.remove(0)
}

#[tokio::test]
async fn state_services_share_a_store_and_come_back() {
    let world = calling(World::builder().state(State::redis().services(2))).start().await;
    let client = world.client();
    let (node, other) = (world.node(0), world.node(1));

    let outcomes: Vec<Outcome> = vec![
        pin(&resolve(&client, "ada", node.name()).await).outcome,
        pin(&resolve(&client, "ada", other.name()).await).outcome,
    ];
    assert_eq!(outcomes, [Outcome::Claimed, Outcome::Found]);
    let calls = [("call", "resolve"), ("status", "200")];
    for service in world.states() {
        assert_eq!(service.metric("berth_state_requests_total", &calls).await, 1.0);
        assert_eq!(service.pin_of("nodes", "ada").await.unwrap().node.to_string(), node.name());
    }
    assert_eq!(world.state_metric("berth_state_resolved_total", &[]).await, 2.0);
    world.set_node_state(node.name(), "draining").await;
    let owner = world.pin_of("nodes", "ada").await.unwrap().owner;
    assert_eq!(owner.state.name(), "draining");

    let first = world.state(0);
    let quickly = Duration::from_millis(200);
    let health = async || first.request(Method::GET, "/healthz").within(quickly).try_send().await;
    first.kill();
    assert!(health().await.is_err());
    assert!(world.pin_of("nodes", "ada").await.is_some());
    first.restart().await;
    first.pause();
    assert!(health().await.is_err());
    first.resume();
    assert!(health().await.is_ok());

    assert!(world.end_session("nodes", "ada").await);
    assert!(world.pin_of("nodes", "ada").await.is_none());
}

#[tokio::test]
async fn envoy_calls_ready_state_services_only() {
    let interval = Duration::from_millis(200);
    let builder = World::builder().state(State::redis().services(2)).health_interval(interval);
    let world = calling(builder).start().await;
    let client = world.client();
    let healthy = async |count| world.envoy(0).stat("cluster.berth_state.membership_healthy").await == count;

    world.state(0).kill();
    eventually(async || healthy(1).await, SOON).await;
    assert_eq!(pin(&resolve(&client, "ada", "10.0.0.1:80").await).outcome, Outcome::Claimed);

    // No service is ready: Envoy answers for itself, at once.
    world.redis().pause();
    eventually(async || healthy(0).await, SOON).await;
    let refused = resolve(&client, "ada", "10.0.0.1:80").await;
    assert_eq!(
        (refused.status, &refused.body[..]),
        (StatusCode::SERVICE_UNAVAILABLE, &b"no healthy upstream"[..])
    );

    // A service starts even while its store is away.
    world.redis().kill();
    world.state(0).restart().await;
    world.redis().restart();
    eventually(async || healthy(2).await, SOON).await;
    assert_eq!(pin(&resolve(&client, "ada", "10.0.0.1:80").await).outcome, Outcome::Claimed);
}

#[tokio::test]
async fn state_in_memory_takes_flags_a_token_and_a_port() {
    let [proxy, admin, first_node, state] = [(); 4].map(|()| free_address().port());
    let ports = Ports { proxy, admin, first_node, state: Some(state) };
    let setup = State::memory().flag("--ttl", "60s").token("secret");
    let world = calling(World::builder().nodes(1).state(setup).ports(ports)).start().await;
    assert_eq!(world.state(0).address().port(), state);

    assert_eq!(resolve(&world.client(), "ada", "10.0.0.1:80").await.status, 401);
    let key = SessionKey::new("nodes", b"ada");
    let body = json!({"pool": "nodes", "sessions": [{"key": key, "candidates": ["10.0.0.1:80"]}]});
    let request = world.state(0).request(Method::POST, "/v1/resolve").body(body.to_string());
    assert_eq!(request.send().await.status, 200);
    assert!(world.pin_of("nodes", "ada").await.unwrap().ttl_ms <= 60_000);
    world.state(0).restart().await;
    assert!(world.pin_of("nodes", "ada").await.is_none());

    let wrong = World::builder().filter(false).state(State::memory().flag("--ttl", "soon")).try_start().await;
    let failure = wrong.unwrap_err();
    assert!(failure.contains("--ttl"), "{failure}");
}

#[tokio::test]
async fn redis_cluster_loses_and_changes_primaries() {
    // A store that is busy with itself on a busy machine may need longer than the default.
    let state = State::redis_cluster().flag("--store-timeout", "1s");
    let world = calling(World::builder().nodes(1).state(state)).start().await;
    let (client, cluster) = (world.client(), world.redis_cluster());
    let resolved = async || resolve(&client, "ada", "10.0.0.1:80").await.status == 200;
    assert_eq!(cluster.primaries().len(), 3);
    assert!(resolved().await);

    let before = world.redis_primary_of("nodes", "ada").unwrap();
    cluster.failover(before);
    let primary = world.redis_primary_of("nodes", "ada").unwrap();
    assert_ne!(primary, before);
    assert!(world.pin_of("nodes", "ada").await.is_some());

    let place = cluster.primaries().iter().position(|index| *index == primary).unwrap();
    assert_eq!(cluster.kill_primary(place), primary);
    eventually(resolved, SOON).await;
    assert_eq!(world.redis_primary_of("nodes", "ada"), Some(before));
    cluster.servers[primary].restart();
    eventually(async || cluster.is_whole(), SOON).await;
}

#[tokio::test]
async fn fake_state_cluster_answers_as_told() {
    let fake = FakeState::start().await;
    let builder = World::builder().file("envoy-state.yaml").cluster_address("berth_state", fake.address());
    let world = calling(builder.nodes(1)).start().await;
    let ask = async || resolve(&world.client(), "ada", "10.0.0.1:80").await;

    assert_eq!(pin(&ask().await).node.to_string(), "10.0.0.1:80");
    assert_eq!(fake.resolves()[0]["sessions"][0]["candidates"], json!(["10.0.0.1:80"]));
    assert_eq!(world.get("/v1/changes?pool=nodes&wait=1").send().await.status, 200);
    assert_eq!(fake.asked(Call::Changes)[0].parameter("pool"), Some("nodes"));

    fake.set(Reply::Status(500));
    assert_eq!(ask().await.status, 500);
    fake.set(Reply::Garbage);
    assert!(serde_json::from_slice::<Value>(&ask().await.body).is_err());
    fake.set(Reply::Empty);
    assert!(ask().await.body.is_empty());
    fake.set(Reply::Body("{}".into()));
    assert_eq!(ask().await.body, "{}");
    fake.set(Reply::Reset);
    assert_eq!(ask().await.status, 503);
    fake.set(Reply::Late(Duration::from_millis(50)));
    assert_eq!(pin(&ask().await).outcome, Outcome::Claimed);
    assert_eq!(fake.count(Call::Resolve), 7);

    // These never end well, so they are asked directly, and not waited for.
    let direct = Client::new(fake.address());
    for reply in [Reply::HalfABody, Reply::Silence] {
        fake.set(reply);
        let request = direct.post("/v1/resolve", r#"{"sessions": []}"#).within(Duration::from_millis(300));
        assert!(request.try_send().await.is_err());
    }
    fake.set(Reply::HugeBody);
    let huge = direct.post("/v1/resolve", r#"{"sessions": []}"#).send().await;
    assert!(huge.body.len() > 32 * 1024 * 1024);
}
