//! What Envoy's configuration says of a cluster and its host list does not: weights of localities, names that are hashed,
//! one address in two priorities, and kinds of clusters that cannot be steered.

use std::collections::BTreeMap;

use crate::support::fake_admin::{Answer, FakeAdmin};
use crate::support::native::native_nodes_of;
use crate::support::patience::{ask, caught_up, cluster, impatient, nodes_become, unchecked};
use crate::support::{SOON, pool, routes, sessions, shown};
use berth_core::wire::SessionKey;
use berth_harness::hyper::Method;
use berth_harness::{Builder, EndpointSet, Envoy, State, World, eventually};
use serde_json::{Value, json};

const POLICIES: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies";
const OVERRIDE: &str = "/load_balancing_policy/policies/0/typed_extension_config/typed_config";

/// Envoy's own ring of three or four nodes, and Berth's, of the same size.
const RING_SIZE: u32 = 2048;

/// A world whose ring is as Envoy's own with these settings. Requests with the header `x-native` go to that.
fn beside_native(builder: Builder, policy: &str, settings: Value) -> Builder {
    let kind = if policy.starts_with("maglev") { "maglev" } else { "ring_hash" };
    let mut settings = settings;
    settings["@type"] = format!("{POLICIES}.{policy}").into();
    let ring = if kind == "maglev" {
        json!({"algorithm": kind})
    } else {
        settings["minimum_ring_size"] = RING_SIZE.into();
        json!({"minimum_ring_size": RING_SIZE})
    };
    let hashing = json!([{"typed_extension_config": {"name": "native", "typed_config": settings}}]);
    builder.configuration(move |json| pool(json)["ring"] = ring.clone()).bootstrap(move |json| {
        let nodes = cluster(json, "nodes");
        nodes["common_lb_config"]["update_merge_window"] = "0s".into();
        nodes.pointer_mut(OVERRIDE).unwrap()["fallback_policy"]["policies"] = hashing.clone();
        let mut native = nodes.clone();
        native["name"] = "native".into();
        native["load_balancing_policy"]["policies"] = hashing.clone();
        json["static_resources"]["clusters"].as_array_mut().unwrap().push(native);
        let hash_policy = json!([{"header": {"header_name": "x-session-id"}}]);
        let is_native = json!({"prefix": "/", "headers": [{"name": "x-native", "present_match": true}]});
        let route = json!({"match": is_native, "route": {"cluster": "native", "hash_policy": hash_policy}});
        routes(json).insert(0, route);
    })
}

/// Waits until both rings are of so many nodes that all are well.
async fn all_well(world: &World, nodes: u64) {
    let well = async || {
        let hosts = world.envoy(0).clusters().await;
        let native: Vec<_> = hosts.iter().filter(|host| host.cluster == "native").collect();
        let is_well = native.len() as u64 == nodes && native.iter().all(|host| host.is_healthy());
        if is_well { Ok(()) } else { Err(format!("{native:?}")) }
    };
    eventually(well, SOON).await;
    nodes_become(world.envoy(0), &[("active", nodes), ("cooldown", 0), ("pending", 0)]).await;
}

/// How many of these sessions each node has.
fn shares(nodes: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for node in nodes {
        *shares.entry(node.as_str()).or_default() += 1;
    }
    shares
}

fn set_localities(set: &mut EndpointSet, localities: [(&str, u32); 4]) {
    for (endpoint, (zone, weight)) in set.iter_mut().zip(localities) {
        endpoint.locality = (zone.into(), weight);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn localities_share_by_their_weights_as_in_envoys_own_ring() {
    // Their names are not in the order of the list: Envoy's ring goes by names.
    let weighted = [("y", 95), ("y", 95), ("x", 5), ("x", 5)];
    let unweighted = [("y", 95), ("y", 95), ("x", 0), ("x", 0)];
    for policy in ["ring_hash.v3.RingHash", "maglev.v3.Maglev"] {
        let by_locality = json!({"locality_weighted_lb_config": {}});
        let world = beside_native(impatient().nodes(4), policy, by_locality).start().await;
        let light = [world.node(2), world.node(3)];
        let keys = sessions(1000);

        // Five standard deviations: the ports, and with them the ring, are others in each run. Without weights it is half.
        for (localities, expected) in [(weighted, 15..=90), (unweighted, 0..=0)] {
            // A change of weights alone shows in no list of hosts: another order does.
            world.edit_endpoints(|set| set_localities(set, localities)).await;
            world.edit_endpoints(|set| set.swap(2, 3)).await;
            all_well(&world, 4).await;

            let placed = world.nodes_of(&keys).await;

            let on_light: usize =
                light.iter().map(|node| shares(&placed).get(node.name()).copied().unwrap_or(0)).sum();
            assert!(expected.contains(&on_light), "{policy}: {on_light} of 1000, not {expected:?}");
            let native = native_nodes_of(&world.client(), &keys).await;
            assert_eq!(differing(&placed, &native), 0, "{policy}");
        }
    }
}

fn differing(some: &[String], others: &[String]) -> usize {
    some.iter().zip(others).filter(|(one, other)| one != other).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_option_weights_of_localities_count_for_nothing() {
    let world = beside_native(impatient().nodes(4), "ring_hash.v3.RingHash", json!({})).start().await;
    world.edit_endpoints(|set| set_localities(set, [("x", 95), ("x", 95), ("y", 5), ("y", 5)])).await;
    all_well(&world, 4).await;
    let keys = sessions(300);

    let placed = world.nodes_of(&keys).await;

    assert_eq!(differing(&placed, &native_nodes_of(&world.client(), &keys).await), 0);
    assert_eq!(shares(&placed).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_in_two_priorities_is_one_node_of_the_first() {
    let world = impatient().nodes(3).bootstrap(|json| {
        let nodes = cluster(json, "nodes");
        let file = nodes["eds_cluster_config"]["eds_config"]["path_config_source"]["path"].as_str().unwrap();
        let eds: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let [a, b, c] =
            [0, 1, 2].map(|node| eds["resources"][0]["endpoints"][0]["lb_endpoints"][node].clone());
        nodes["type"] = "STATIC".into();
        nodes.as_object_mut().unwrap().remove("eds_cluster_config");
        nodes["load_assignment"] = json!({"cluster_name": "nodes", "endpoints": [
            {"priority": 0, "lb_endpoints": [a, b.clone()]},
            {"priority": 1, "lb_endpoints": [b, c]},
        ]});
    });
    let world = world.start().await;
    let owner = async || shown(&ask(&world, "ada").await, "reason") == "owner";
    eventually(owner, SOON).await;
    caught_up(world.envoy(0)).await;
    let [a, b] = [0, 1].map(|node| world.node(node));

    let placed = world.nodes_of(&sessions(60)).await;

    let shares = shares(&placed);
    assert_eq!(shares.keys().copied().collect::<Vec<_>>().len(), 2, "{shares:?}");
    assert!(shares[a.name()] >= 15 && shares[b.name()] >= 15, "{shares:?}");
}

/// Three nodes of the world have a name each, as their host name or hash key; a fourth waits. Names are there from the
/// start: to Envoy a host that is given another name is another host, beside the former one.
fn name(set: &mut EndpointSet, by_hash_key: bool) {
    set.truncate(3);
    for (number, endpoint) in set.iter_mut().enumerate() {
        let name = format!("pod-{number}");
        if by_hash_key {
            endpoint.metadata = json!({"envoy.lb": {"hash_key": name}});
        } else {
            endpoint.hostname = name;
        }
    }
}

/// As [`beside_native`], with endpoints that are edited before the start.
fn by_name(builder: Builder, by_hash_key: bool, edit: impl Fn(&mut Vec<Value>) + Send + 'static) -> Builder {
    let settings = if by_hash_key {
        json!({})
    } else {
        json!({"consistent_hashing_lb_config": {"use_hostname_for_hashing": true}})
    };
    beside_native(builder, "ring_hash.v3.RingHash", settings).bootstrap(move |json| {
        let file = &cluster(json, "nodes")["eds_cluster_config"]["eds_config"]["path_config_source"]["path"];
        let file = file.as_str().unwrap();
        let mut eds: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        edit(eds["resources"][0]["endpoints"][0]["lb_endpoints"].as_array_mut().unwrap());
        std::fs::write(file, eds.to_string()).unwrap();
    })
}

async fn named_nodes(builder: Builder, by_hash_key: bool) -> World {
    let edit = move |endpoints: &mut Vec<Value>| {
        endpoints.truncate(3);
        for (number, endpoint) in endpoints.iter_mut().enumerate() {
            let name = format!("pod-{number}");
            if by_hash_key {
                endpoint["metadata"] = json!({"filter_metadata": {"envoy.lb": {"hash_key": name}}});
            } else {
                endpoint["endpoint"]["hostname"] = name.into();
            }
        }
    };
    let world = by_name(builder.nodes(4), by_hash_key, edit).start().await;
    all_well(&world, 3).await;
    world
}

/// The node pod-1 is gone from where it was, and is back elsewhere.
async fn move_pod_1(world: &World, by_hash_key: bool) {
    world.node(1).refuse().await;
    let address = world.node(3).address();
    world
        .edit_endpoints(|set| {
            name(set, by_hash_key);
            set[1].address = address;
        })
        .await;
    let here = world.node(3);
    let moved = async || {
        let hosts = world.envoy(0).clusters().await;
        let mut hosts = hosts.iter().filter(|host| ["nodes", "native"].contains(&host.cluster.as_str()));
        hosts.clone().filter(|host| host.address == here.name()).count() == 2
            && hosts.all(|host| host.is_healthy() && host.address != world.node(1).name())
    };
    eventually(moved, SOON).await;
    all_well(world, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_hashes_names_is_placed_by_names_also_after_a_node_moved() {
    for by_hash_key in [false, true] {
        let world = named_nodes(impatient(), by_hash_key).await;
        let keys = sessions(300);
        let before = world.nodes_of(&keys).await;
        assert_eq!(differing(&before, &native_nodes_of(&world.client(), &keys).await), 0);

        move_pod_1(&world, by_hash_key).await;

        let after = world.nodes_of(&keys).await;
        let (old, new) = (world.node(1), world.node(3));
        let expected: Vec<String> = before
            .iter()
            .map(|node| if node == old.name() { new.name().into() } else { node.clone() })
            .collect();
        assert_eq!(differing(&after, &expected), 0, "by hash key: {by_hash_key}");
        assert_eq!(differing(&after, &native_nodes_of(&world.client(), &keys).await), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_follow_a_named_node_to_its_new_address() {
    for by_hash_key in [false, true] {
        let builder = crate::support::pinning::patiently(impatient(), State::memory());
        let world = named_nodes(builder, by_hash_key).await;
        let keys = sessions(60);
        let before = world.nodes_of(&keys).await;

        move_pod_1(&world, by_hash_key).await;

        let (old, new) = (world.node(1), world.node(3));
        let mut moved = 0;
        for (key, before) in keys.iter().zip(&before) {
            let answer = ask(&world, key).await;
            let expected = if before == old.name() { new.name() } else { before };
            assert_eq!(answer.node(), expected, "{answer:?}");
            assert!(["hit", "found"].contains(&shown(&answer, "outcome")), "{answer:?}");
            moved += usize::from(before == old.name());
        }
        assert!(moved > 5, "{moved} sessions of 60");
        let pin = world.pin_of("nodes", &keys[0]).await.unwrap();
        assert!(pin.node.to_string().starts_with("pod-"), "{}", pin.node);
        let rehomed = [("pool", "nodes"), ("reason", "rehomed")];
        assert_eq!(world.envoy(0).metric("berth_reassignments_total", &rehomed).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_tell_no_node_apart_are_said_once_and_addresses_are_used() {
    let edit = |endpoints: &mut Vec<Value>| {
        for (endpoint, name) in endpoints.iter_mut().zip(["same", "same", "a|b", "pod-3"]) {
            endpoint["endpoint"]["hostname"] = name.into();
        }
    };
    let world = by_name(impatient().nodes(4), false, edit).start().await;
    all_well(&world, 4).await;

    let placed = world.nodes_of(&sessions(400)).await;

    let shares = shares(&placed);
    assert!(shares.len() == 4 && shares.values().all(|share| *share > 40), "{shares:?}");
    assert_eq!(warnings(world.envoy(0), "hashes hosts by name"), 1);
}

/// How many lines of the log warn of that.
fn warnings(envoy: &Envoy, of: &str) -> usize {
    envoy.log().lines().filter(|line| line.contains("cluster ") && line.contains(of)).count()
}

/// A world whose cluster cannot be steered: all requests are Envoy's, and it is said once.
async fn is_left_to_envoy(world: &World, warning: &str) {
    let envoy = world.envoy(0);
    let known = async || shown(&ask(world, "ada").await, "reason") == "unsupported_cluster";
    eventually(known, SOON).await;
    caught_up(envoy).await;

    for key in sessions(20) {
        let answer = ask(world, &key).await;
        assert_eq!(answer.status, 200);
        assert_eq!((shown(&answer, "outcome"), shown(&answer, "reason")), ("ring", "unsupported_cluster"));
        assert_eq!(world.pin_of("nodes", &key).await, None);
    }
    let unplaced = async || {
        envoy.metric("berth_unplaced_total", &[("pool", "nodes"), ("reason", "unsupported_cluster")]).await
    };
    eventually(async || unplaced().await >= 20.0, SOON).await;
    assert_eq!(warnings(envoy, warning), 1, "{warning}");
}

fn pinned() -> Builder {
    crate::support::pinning::patiently(impatient().nodes(4), State::memory())
}

#[tokio::test(flavor = "multi_thread")]
async fn subsets_are_left_to_envoy_which_obeys_the_route() {
    for inside in [true, false] {
        let world = pinned().bootstrap(move |json| {
            let subset = |inner: &Value| {
                let settings = json!({
                    "@type": format!("{POLICIES}.subset.v3.Subset"),
                    "fallback_policy": "NO_FALLBACK",
                    "subset_selectors": [{"keys": ["version"]}],
                    "subset_lb_policy": inner.clone(),
                });
                json!({"policies": [{"typed_extension_config": {"name": "subset", "typed_config": settings}}]})
            };
            let nodes = cluster(json, "nodes");
            if inside {
                let policy = &mut nodes.pointer_mut(OVERRIDE).unwrap()["fallback_policy"];
                *policy = subset(policy);
            } else {
                nodes["load_balancing_policy"] = subset(&nodes["load_balancing_policy"]);
            }
            let to_v1 = json!({"filter_metadata": {"envoy.lb": {"version": "v1"}}});
            routes(json)[0]["route"]["metadata_match"] = to_v1;
        });
        let world = world.start().await;
        let versions = ["v1", "v1", "v2", "v2"];
        world
            .edit_endpoints(|set| {
                for (endpoint, version) in set.iter_mut().zip(versions) {
                    endpoint.metadata = json!({"envoy.lb": {"version": version}});
                }
            })
            .await;

        is_left_to_envoy(&world, "has a subset policy").await;

        let keys = sessions(60);
        let placed = world.nodes_of(&keys).await;
        let v1 = [world.node(0), world.node(1)];
        assert!(placed.iter().all(|node| v1.iter().any(|one| one.name() == node)), "{:?}", shares(&placed));
        assert_eq!(shares(&placed).len(), 2);
        assert_eq!(world.nodes_of(&keys).await, placed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_is_left_to_envoy_and_the_cluster_inside_is_placed() {
    let aggregate = |json: &mut Value| {
        let kind = json!({"name": "envoy.clusters.aggregate", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
            "clusters": ["nodes"],
        }});
        json["static_resources"]["clusters"].as_array_mut().unwrap().push(json!({
            "name": "all", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": kind,
        }));
        routes(json)[0]["route"]["cluster"] = "all".into();
    };
    let world = pinned().configuration(|json| pool(json)["cluster"] = "all".into()).bootstrap(aggregate);
    let world = world.start().await;

    is_left_to_envoy(&world, "is an aggregate").await;

    let keys = sessions(20);
    assert_eq!(world.nodes_of(&keys).await, world.nodes_of(&keys).await);

    let world = pinned().bootstrap(aggregate).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let first = ask(&world, "ada").await;
    assert_eq!(shown(&first, "outcome"), "claimed");
    assert_eq!(ask(&world, "ada").await.node(), first.node());
    assert_eq!(warnings(world.envoy(0), "left to Envoy"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn original_destinations_are_left_to_envoy() {
    let world = pinned().bootstrap(|json| {
        let nodes = cluster(json, "nodes");
        *nodes = json!({
            "name": "nodes", "connect_timeout": "1s", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"use_http_header": true},
        });
    });
    let world = world.start().await;
    let there = world.node(2);
    let ask = async |key: &str| {
        let request = world.get("/").header("x-session-id", key);
        request.header("x-envoy-original-dst-host", there.name()).send().await
    };
    eventually(async || shown(&ask("ada").await, "reason") == "unsupported_cluster", SOON).await;

    for key in sessions(20) {
        let answer = ask(&key).await;
        assert_eq!((answer.status.as_u16(), answer.node()), (200, there.name()));
        assert_eq!(world.pin_of("nodes", &key).await, None);
    }

    assert_eq!(warnings(world.envoy(0), "is of type ORIGINAL_DST"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_reads_no_destination_is_said_once() {
    let world = impatient().bootstrap(|json| {
        let nodes = cluster(json, "nodes");
        nodes.as_object_mut().unwrap().remove("load_balancing_policy");
        nodes["lb_policy"] = "RING_HASH".into();
    });
    let world = world.start().await;

    nodes_become(world.envoy(0), &[("active", 3)]).await;

    assert_eq!(warnings(world.envoy(0), "has no override_host policy"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_get_names_while_they_serve_keep_their_sessions() {
    let world = crate::support::pinning::patiently(unchecked().nodes(3), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(60);
    let before = world.nodes_of(&keys).await;

    world.edit_endpoints(|set| name(set, true)).await;
    // The configuration has been read since: a new session's pin bears a name.
    let is_named = async || {
        let session = format!("new-{:?}", std::time::Instant::now());
        ask(&world, &session).await;
        world.pin_of("nodes", &session).await.is_some_and(|pin| pin.node.as_str().starts_with("pod-"))
    };
    // Names alone show in no list of hosts: it is read again after 30 s at the latest.
    eventually(is_named, SOON * 4).await;

    for (key, before) in keys.iter().zip(&before) {
        let answer = ask(&world, key).await;
        assert_eq!(answer.node(), before, "{answer:?}");
        assert!(["hit", "found"].contains(&shown(&answer, "outcome")), "{answer:?}");
    }
    let rehomed = "wasmcustom.berth_reassignments_total.pool.nodes.reason.rehomed";
    assert_eq!(world.envoy(0).stat(rehomed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_that_cannot_read_names_gives_no_session_of_a_named_node_away() {
    // It says who the hosts are, and 404 to questions about the configuration.
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let builder = crate::support::pinning::patiently(impatient().nodes(3), State::memory());
    let world = builder.cluster_address("berth_admin", admin.address()).start().await;
    admin.tell(&world.envoy(0).admin("/clusters").await);
    crate::support::places(world.envoy(0)).await;
    let keys = sessions(20);
    let asks: Vec<Value> = keys
        .iter()
        .map(|key| json!({"key": SessionKey::new("nodes", key.as_bytes()), "candidates": ["pod-1"]}))
        .collect();
    let body = json!({"pool": "nodes", "sessions": asks}).to_string();
    let reply = world.state(0).request(Method::POST, "/v1/resolve").body(body).send().await;
    assert_eq!(reply.status, 200);

    // Longer than an owner that is not known here is given to appear.
    let since = std::time::Instant::now();
    let is_over = async || {
        for key in &keys {
            assert_eq!(shown(&ask(&world, key).await, "reason"), "state_away");
        }
        since.elapsed() > std::time::Duration::from_secs(8)
    };
    eventually(is_over, SOON * 2).await;

    for key in &keys {
        let pin = world.pin_of("nodes", key).await.unwrap();
        assert!(pin.node.as_str() == "pod-1" && pin.events.is_empty(), "{pin:?}");
    }
}
