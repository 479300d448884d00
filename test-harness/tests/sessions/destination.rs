//! A client never chooses its node: whatever it sends in Berth's own headers, on every way through the proxy.

use crate::support::{
    SHIPPED_RING, manager, owners, placing, pool, quick, raw_header, routes, sessions, shown,
};
use berth_harness::hyper::Method;
use berth_harness::{Builder, Client, World, free_address};
use serde_json::json;

/// Requests by which a node's share is judged: none of three nodes gets all of so many by chance.
const TRIES: usize = 16;

/// What a client may try to get to a node. `key` is a session of that node.
fn attempts(victim: &str, key: &str) -> Vec<String> {
    vec![
        format!("x-berth-destination: {victim}\r\n"),
        format!("X-Berth-Destination: {victim}\r\n"),
        format!("x-berth-destination: {victim},{victim},{victim}\r\n"),
        format!("x-berth-destination: {victim}\r\n").repeat(3),
        format!("x-berth-destination: nowhere\r\nX-BERTH-DESTINATION:\t{victim} \r\n"),
        format!("x-berth-hash-key: {key}\r\n"),
        format!("X-Berth-Hash-Key: {key}\r\nx-berth-destination: unplaced\r\n"),
        format!("x-berth-hash-key: {key}\r\nx-berth-hash-key: {key}\r\nx-berth-destination: {victim}\r\n"),
    ]
}

/// The node of a raw GET.
async fn node_of(client: &Client, headers: &str) -> String {
    let answer = client.raw(format!("GET / HTTP/1.1\r\nhost: berth\r\n{headers}\r\n")).await;
    raw_header(&answer, "x-node").unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&answer.bytes)))
}

/// A session of this node, as the client can find it out.
async fn session_of(client: &Client, node: &str) -> String {
    let keys = sessions(100);
    let nodes = client.nodes_of(&keys).await;
    keys.into_iter().zip(nodes).find(|(_, at)| at == node).expect("a session of each node").0
}

/// Sessions go where they go without any attempt.
async fn assert_sessions_stay(world: &World) {
    let client = world.client();
    for victim in world.nodes() {
        let key = session_of(&client, victim.name()).await;
        for session in sessions(6) {
            let home = node_of(&client, &format!("x-session-id: {session}\r\n")).await;
            for attempt in attempts(victim.name(), &key) {
                let node = node_of(&client, &format!("{attempt}x-session-id: {session}\r\n")).await;
                assert_eq!(node, home, "{attempt}");
            }
            let http2 = world.get("/").http2().header("x-session-id", &session);
            let http2 = http2.header("x-berth-destination", victim.name()).header("x-berth-hash-key", &key);
            assert_eq!(http2.send().await.node(), home);
        }
    }
}

/// A request that names a node in Berth's own headers is not bound to it: no attempt reaches that node every time. Each
/// request carries `headers`.
async fn assert_spread(world: &World, headers: &str) {
    let client = world.client();
    for victim in world.nodes() {
        // Known to the attacker from elsewhere: the ring is no secret.
        let key = sessions(100).into_iter().zip(owners(world, SHIPPED_RING, &sessions(100)));
        let key = key.into_iter().find(|(_, owner)| owner == victim.name()).unwrap().0;
        for attempt in attempts(victim.name(), &key) {
            let mut reached = 0;
            for _ in 0..TRIES {
                let node = node_of(&client, &format!("{attempt}{headers}")).await;
                reached += usize::from(node == victim.name());
            }
            assert!(reached < TRIES, "{attempt} reached its node each time");
        }
        let mut reached = 0;
        for _ in 0..TRIES {
            let request =
                world.request(Method::GET, "/").http2().header("x-berth-destination", victim.name());
            let answer = request.header("x-berth-hash-key", &key).send().await;
            assert_eq!(answer.received().header("x-berth-destination"), None);
            reached += usize::from(answer.node() == victim.name());
        }
        assert!(reached < TRIES, "HTTP/2 reached its node each time");
    }
}

/// Without the listener's own protection: what the filter does alone.
fn unprotected(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        let removed = manager(json).as_object_mut().unwrap().remove("early_header_mutation_extensions");
        assert!(removed.is_some());
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_sessionless_requests_are_placed_by_berth_alone() {
    for builder in [World::builder(), unprotected(World::builder())] {
        let world = placing(builder).await;

        assert_sessions_stay(&world).await;
        assert_spread(&world, "").await;
        assert_spread(&world, "cookie: theme=dark\r\n").await;

        world.envoy(0).reload(|json| json["poll_interval"] = "300ms".into()).await.unwrap();
        assert_sessions_stay(&world).await;
        assert_spread(&world, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_no_pool_takes_choose_no_node() {
    for builder in [World::builder(), unprotected(World::builder())] {
        let builder = builder.configuration(|json| pool(json)["match"] = json!({"hosts": ["game.example"]}));
        let world = quick(builder).start().await;

        assert_spread(&world, "").await;
        assert_spread(&world, "x-session-id: ada\r\n").await;
        assert!(world.get("/").send().await.header("x-berth").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_chooses_before_the_members_are_known() {
    for builder in [World::builder(), unprotected(World::builder())] {
        let world = quick(builder.cluster_address("berth_admin", free_address())).start().await;
        let answer = world.get("/").header("x-session-id", "ada").send().await;
        assert_eq!(shown(&answer, "reason"), "no_snapshot");

        assert_sessions_stay(&world).await;
        assert_spread(&world, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_without_the_filter_are_protected_by_the_listener() {
    for file in ["envoy.yaml", "envoy-metadata.yaml"] {
        let world = World::builder().file(file).bootstrap(|json| {
            for route in routes(json) {
                route["typed_per_filter_config"]["berth"] = json!({
                    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true,
                });
            }
        });
        let world = quick(world).start().await;
        assert!(world.get("/").header("x-session-id", "ada").send().await.header("x-berth").is_none());

        assert_spread(&world, "").await;
        assert_spread(&world, "x-session-id: ada\r\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_wiring_places_the_same_and_shows_nodes_no_destination() {
    let keys = sessions(200);
    for (file, is_visible) in [("envoy.yaml", true), ("envoy-metadata.yaml", false)] {
        let world = placing(World::builder().file(file).nodes(5)).await;

        assert_eq!(world.nodes_of(&keys).await, owners(&world, SHIPPED_RING, &keys), "{file}");
        for key in &keys[..10] {
            let answer = world.get("/").header("x-session-id", key).send().await;
            assert_eq!(answer.received().header("x-berth-destination").is_some(), is_visible, "{file}");
            assert_eq!(answer.received().header("x-berth-hash-key"), None, "{file}");
        }

        // A node that is gone is left for the next on the list, in the same request.
        world.node(0).refuse().await;
        for (key, node) in keys.iter().zip(world.nodes_of(&keys).await) {
            assert_ne!(node, world.node(0).name(), "{file} {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_wiring_lets_no_client_choose() {
    for builder in [World::builder(), unprotected(World::builder())] {
        let world = placing(builder.file("envoy-metadata.yaml")).await;

        assert_sessions_stay(&world).await;
        assert_spread(&world, "").await;
    }
}
