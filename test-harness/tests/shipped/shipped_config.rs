//! The files in envoy/ work as they are, and what they say of each other and of Berth is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::support::{SOON, manager, placing, plugin, sessions, shown};
use berth_core::config::Config;
use berth_harness::{State, World, eventually, root, validate};
use serde_json::{Value, json};

/// Every bootstrap of envoy/, by its path from the top of the tree.
fn bootstraps() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("envoy")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.map(|name| name.into_string().unwrap());
    let bootstraps = names.filter(|name| name.starts_with("envoy") && name.ends_with(".yaml"));
    let mut found: Vec<PathBuf> = bootstraps.map(|name| PathBuf::from("envoy").join(name)).collect();
    found.sort();
    found
}

fn read(file: &PathBuf) -> Value {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn listener(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]
}

#[test]
fn envoy_accepts_every_bootstrap() {
    let files = bootstraps();
    assert!(files.len() >= 2, "{files:?}");

    for file in files {
        validate(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

#[test]
fn plugin_configurations_are_right() {
    for file in bootstraps() {
        let mut bootstrap = read(&file);
        let text = plugin(listener(&mut bootstrap))["configuration"]["value"].take();
        let config = Config::parse(text.as_str().expect("JSON text").as_bytes()).unwrap();

        // What it names is there.
        let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
        let has = |name: &str| clusters.iter().any(|cluster| cluster["name"] == name);
        assert!(has(&config.admin_cluster), "{}", file.display());
        for pool in &config.pools {
            assert!(matches!(&pool.membership, berth_core::config::Membership::Cluster(name) if has(name)));
        }
    }
}

#[test]
fn metadata_wiring_differs_in_its_filter_and_its_source_only() {
    let mut metadata = read(&"envoy/envoy-metadata.yaml".into());

    let filters = manager(&mut metadata)["http_filters"].as_array_mut().unwrap();
    let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
    let router = "envoy.filters.http.router";
    assert_eq!(names, ["berth", "envoy.filters.http.header_to_metadata", "websocket_key", router]);
    filters.remove(1);
    let override_host = "/load_balancing_policy/policies/0/typed_extension_config/typed_config";
    let sources = metadata["static_resources"]["clusters"][0].pointer_mut(override_host).unwrap();
    let source = sources["override_host_sources"].take();
    assert_eq!(source, json!([{"metadata": {"key": "berth", "path": [{"key": "destination"}]}}]));
    sources["override_host_sources"] = json!([{"header": "x-berth-destination"}]);

    assert_eq!(metadata, read(&"envoy/envoy.yaml".into()));
}

#[test]
fn state_wiring_adds_its_cluster_and_nothing_else() {
    let mut state = read(&"envoy/envoy-state.yaml".into());

    let clusters = state["static_resources"]["clusters"].as_array_mut().unwrap();
    assert_eq!(clusters.pop().unwrap()["name"], "berth_state");
    let plugin = plugin(listener(&mut state));
    let text = plugin["configuration"]["value"].take();
    let mut configuration: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    let added = configuration.as_object_mut().unwrap().remove("state");
    assert_eq!(added, Some(json!({"cluster": "berth_state"})));
    // Ends need a state cluster. Where the filter reads them, the route leaves them to it, and without a session another removes them.
    let reads = configuration["pools"][0].as_object_mut().unwrap().remove("end_header");
    assert_eq!(reads, Some(json!(true)));
    plugin["configuration"]["value"] = configuration;
    let routes = &mut manager(&mut state)["route_config"];
    assert_eq!(routes["response_headers_to_remove"].take(), json!(["x-berth"]));
    routes["response_headers_to_remove"] = json!(["x-berth", "x-berth-end"]);
    let sessionless = routes["virtual_hosts"][0]["routes"].as_array_mut().unwrap().last_mut().unwrap();
    let removed = sessionless.as_object_mut().unwrap().remove("response_headers_to_remove");
    assert_eq!(removed, Some(json!(["x-berth-end"])));

    let mut reference = read(&"envoy/envoy.yaml".into());
    let text = &mut crate::support::plugin(listener(&mut reference))["configuration"]["value"];
    *text = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(state, reference);
}

#[test]
fn weighted_wiring_has_a_canary_and_is_as_state_wiring_otherwise() {
    let (mut weighted, mut state) =
        (read(&"envoy/envoy-weighted.yaml".into()), read(&"envoy/envoy-state.yaml".into()));
    for bootstrap in [&mut weighted, &mut state] {
        manager(bootstrap)["route_config"].take();
        let plugin = plugin(listener(bootstrap));
        let text = plugin["configuration"]["value"].take();
        plugin["configuration"]["value"] = serde_json::from_str(text.as_str().unwrap()).unwrap();
    }
    let mut pools = plugin(listener(&mut weighted))["configuration"]["value"]["pools"].take();
    let mut pool = plugin(listener(&mut state))["configuration"]["value"]["pools"].take();
    // Its routes remove what nodes say of ends.
    pool[0].as_object_mut().unwrap().remove("end_header");
    // Each pool is that of the other file, with a cluster of its own.
    for (pool, cluster) in pools.as_array_mut().unwrap().iter_mut().zip(["nodes", "nodes_canary"]) {
        let matched = pool.as_object_mut().unwrap().remove("match");
        assert_eq!((matched, &pool["cluster"]), (Some(json!({"clusters": [cluster]})), &json!(cluster)));
    }
    pools[1]["cluster"] = "nodes".into();
    pools[1]["name"] = "nodes".into();
    assert_eq!(pools[0], pool[0]);
    assert_eq!(pools[1], pool[0]);

    let weighted = weighted["static_resources"]["clusters"].take();
    let state = state["static_resources"]["clusters"].take();
    let others: Vec<&Value> = [0, 2, 3].iter().map(|place| &weighted[place]).collect();
    assert_eq!(others, [&state[0], &state[2], &state[3]]);
    let mut canary = weighted[1].clone();
    for field in ["name", "type"] {
        canary[field] = state[0][field].clone();
    }
    canary.as_object_mut().unwrap().remove("load_assignment");
    canary["eds_cluster_config"] = state[0]["eds_cluster_config"].clone();
    assert_eq!(canary, state[0]);
}

/// What Envoy does by itself where the filter is switched off: one route, whose ring gets the same session id.
fn without_filter(listener: &mut Value) {
    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
    manager["http_filters"].as_array_mut().unwrap().retain(|filter| filter["name"] != "berth");
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
    routes.truncate(1);
    routes[0]["match"].as_object_mut().unwrap().remove("headers");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_rings_agree_as_shipped_at_any_number_of_nodes() {
    for (file, nodes) in [
        ("envoy.yaml", 3),
        ("envoy.yaml", 4),
        ("envoy.yaml", 8),
        ("envoy-metadata.yaml", 5),
        ("envoy-state.yaml", 4),
    ] {
        let builder = World::builder().nodes(nodes).concurrency(1);
        let builder =
            if file == "envoy-state.yaml" { builder.state(State::memory()) } else { builder.file(file) };
        let world = placing(builder).await;
        let keys = sessions(300);
        let with = world.nodes_of(&keys).await;

        world.envoy(0).reload_listener(without_filter).await.unwrap();
        let without = world.nodes_of(&keys).await;

        let differ = with.iter().zip(&without).filter(|(with, without)| with != without).count();
        assert_eq!(differ, 0, "{file}, {nodes} nodes");
    }
}

#[test]
fn rings_of_pools_are_those_of_their_clusters() {
    for file in bootstraps() {
        let mut bootstrap = read(&file);
        let text = plugin(listener(&mut bootstrap))["configuration"]["value"].take();
        let configuration: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
        for pool in configuration["pools"].as_array().unwrap() {
            let cluster = clusters.iter().find(|cluster| cluster["name"] == pool["cluster"]).unwrap();
            let policy = "/load_balancing_policy/policies/0/typed_extension_config/typed_config";
            let fallback = format!("{policy}/fallback_policy/policies/0/typed_extension_config/typed_config");
            let size = &cluster.pointer(&fallback).unwrap()["minimum_ring_size"];
            assert_eq!(pool["ring"], json!({"minimum_ring_size": size}), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_shows_metrics_with_their_labels() {
    let world = placing(World::builder()).await;
    world.get("/?sid=ada").send().await;
    world.get("/").send().await;

    let expected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([
        ("berth_bypassed_total", BTreeSet::new()),
        ("berth_dropped_total", BTreeSet::from(["pool", "reason"])),
        ("berth_ended_total", BTreeSet::from(["pool"])),
        ("berth_leader_changes_total", BTreeSet::from(["pool"])),
        ("berth_learned_total", BTreeSet::from(["pool", "result"])),
        ("berth_membership_age_seconds", BTreeSet::from(["pool"])),
        ("berth_nodes", BTreeSet::from(["pool", "state"])),
        ("berth_forged_total", BTreeSet::from(["pool"])),
        ("berth_bypassed_forged_total", BTreeSet::new()),
        ("berth_panic", BTreeSet::from(["pool"])),
        ("berth_passive_ejections_total", BTreeSet::from(["pool"])),
        ("berth_pins", BTreeSet::from(["pool"])),
        ("berth_polls_total", BTreeSet::from(["pool", "result"])),
        ("berth_reassignments_total", BTreeSet::from(["pool", "reason"])),
        ("berth_requests_total", BTreeSet::from(["pool", "outcome"])),
        ("berth_restored_total", BTreeSet::from(["pool"])),
        ("berth_resyncs_total", BTreeSet::from(["pool"])),
        ("berth_returned_total", BTreeSet::from(["pool"])),
        ("berth_state_breaker_open", BTreeSet::from(["pool"])),
        ("berth_state_calls_total", BTreeSet::from(["pool", "result"])),
        ("berth_unplaced_total", BTreeSet::from(["pool", "reason"])),
    ]);
    let page = world.envoy(0).prometheus().await;
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in page.lines().filter(|line| line.contains("berth_") && line.starts_with(|c: char| c != '#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        if name.starts_with("envoy_") {
            continue; // Envoy's own stats of the cluster berth_admin
        }
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels: BTreeMap<&str, &str> = labels.collect();
        assert!(labels.get("pool").is_none_or(|pool| *pool == "\"nodes\""), "{line}");
        found.entry(name).or_default().extend(labels.into_keys());
    }
    assert_eq!(found, expected);

    let envoy = world.envoy(0);
    assert_eq!(envoy.metric("berth_nodes", &[("pool", "nodes"), ("state", "active")]).await, 3.0);
    let sessionless = [("pool", "nodes"), ("outcome", "sessionless")];
    eventually(async || envoy.metric("berth_requests_total", &sessionless).await == 1.0, SOON).await;
    assert!(envoy.metric("berth_polls_total", &[("result", "ok")]).await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bootstrap_serves_on_the_oldest_envoy_too() {
    for file in bootstraps() {
        let file = file.file_name().unwrap().to_str().unwrap();
        let builder = World::builder().nodes(4).envoy_version("1.36.2");
        let builder = match file {
            "envoy-state.yaml" => builder.state(State::memory()),
            // All its sessions in the cluster whose nodes the world has.
            "envoy-weighted.yaml" => builder.state(State::memory()).file(file).bootstrap(|json| {
                for route in crate::support::routes(json) {
                    route["route"]["weighted_clusters"]["clusters"][1]["weight"] = 0.into();
                }
            }),
            _ => builder.file(file),
        };
        let world = placing(builder).await;
        assert!(world.envoy(0).admin("/server_info").await.contains("/1.36.2/"));

        let keys = sessions(100);
        let nodes = world.nodes_of(&keys).await;
        assert_eq!(nodes, crate::support::owners(&world, crate::support::SHIPPED_RING, &keys), "{file}");
        assert_eq!(shown(&world.get("/").send().await, "outcome"), "sessionless");

        // The list is walked when its first node is gone.
        let gone = world.node(0);
        gone.refuse().await;
        let (key, _) = keys.iter().zip(&nodes).find(|(_, node)| *node == gone.name()).unwrap();
        let answer = world.get("/").header("x-session-id", key).send().await;
        assert_eq!(answer.status, 200, "{file}");
        assert_eq!((shown(&answer, "reason"), shown(&answer, "node")), ("retried", answer.node()));
        for (node, before) in world.nodes_of(&keys).await.iter().zip(&nodes) {
            assert!(node != gone.name() && (node == before || before == gone.name()), "{file}");
        }
        assert_eq!(world.envoy(0).wasm_failures().await, 0);
    }
}
