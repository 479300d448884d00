//! Other ways to have it, and other shapes of the same mesh.

use berth_harness::istio::{Documents, Flavour, Istio};
use berth_harness::{World, eventually};
use serde_json::{Value, json};

use crate::support::patience::{ask, destination, nodes_become};
use crate::support::{SHIPPED_RING, SOON, owners, sessions, shown};
use crate::worlds::{PODS, builder, started};

const ALL_PODS: &str = "outbound|8080||nodes.games.svc.cluster.local";

/// What envoy/istio/README.md says of one route: three changes.
fn one_route(documents: Documents) -> Documents {
    documents
        .with("VirtualService", "nodes-at-gateway", |routes| {
            routes["spec"]["http"].as_array_mut().unwrap().remove(0);
        })
        .with("EnvoyFilter", "berth-lb", |filter| {
            filter["spec"]["configPatches"][0]["match"]["cluster"]["name"] = ALL_PODS.into();
        })
        .with("EnvoyFilter", "berth-plugin", |filter| {
            let config = "/spec/configPatches/0/patch/value/typed_config/config/configuration/value";
            let text = filter.pointer_mut(config).unwrap();
            let mut json: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            json["pools"][0]["cluster"] = ALL_PODS.into();
            *text = json.to_string().into();
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_route_is_enough_for_sessions() {
    let istio = Istio::new(Flavour::GATEWAY_1_28).documents(one_route);
    let (_, outcomes) = istio.patched().unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.changed > 0), "{outcomes:?}");
    let world = started(&istio).await;
    let keys = sessions(60);

    let before = world.nodes_of(&keys).await;

    assert_eq!(before, owners(&world, SHIPPED_RING, &keys));
    istio.pods(&world).terminating(0).await;
    nodes_become(world.envoy(0), &[("draining", 1)]).await;
    assert_eq!(world.nodes_of(&keys).await, before);
    // Requests without a session go to any pod: one after the other they reach several.
    let mut sessionless = Vec::new();
    for _ in 0..40 {
        sessionless.push(world.get("/").send().await.node().to_owned());
    }
    sessionless.sort();
    sessionless.dedup();
    assert!(sessionless.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_api_routes_sessions_to_a_second_service() {
    // The account that Istio gives the pods of a Gateway `games`.
    let istio = Istio::with(Flavour::GATEWAY_1_31, Documents::of("gateway-api"))
        .account("cluster.local/ns/istio-ingress/sa/games-istio");
    let (_, outcomes) = istio.patched().unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.changed > 0 && outcome.dropped.is_none()), "{outcomes:?}");
    let world = started(&istio).await;
    let keys = sessions(60);

    let before = world.nodes_of(&keys).await;

    assert_eq!(before, owners(&world, SHIPPED_RING, &keys));
    assert!(world.pin_of("nodes", &keys[0]).await.is_some(), "the state service knows it");
    assert_eq!(shown(&world.get("/").send().await, "outcome"), "sessionless");
    // The next of the list answers.
    let gone = world.node_named(&before[0]);
    gone.refuse().await;
    for (before, after) in before.iter().zip(&world.nodes_of(&keys).await) {
        assert_eq!(before != after, before == gone.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn istios_own_resources_can_bring_the_filter() {
    for (flavour, file) in [
        (Flavour::GATEWAY_1_28, "extension/wasmplugin.yaml"),
        (Flavour::GATEWAY_1_31, "extension/trafficextension.yaml"),
    ] {
        let shipped = Istio::new(flavour).patched().unwrap().0;
        let istio = Istio::new(flavour).documents(|documents| {
            let documents = documents.without("EnvoyFilter", "berth-plugin").and_file(file);
            documents.with("EnvoyFilter", "berth-http", |filter| {
                filter["spec"]["configPatches"].as_array_mut().unwrap().truncate(1);
            })
        });
        let (resources, outcomes) = istio.patched().unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.changed > 0), "{file}: {outcomes:?}");
        // The same configuration, which is a structure there.
        let configuration = |extension: &Value| -> Value {
            let text = extension.pointer("/typed_config/config/configuration/value").unwrap();
            serde_json::from_str(text.as_str().unwrap()).unwrap()
        };
        assert_eq!(configuration(&resources.extensions[0]), configuration(&shipped.extensions[0]), "{file}");

        let world = started(&istio).await;
        let keys = sessions(40);
        assert_eq!(world.nodes_of(&keys).await, owners(&world, SHIPPED_RING, &keys), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_zone_that_fails_go_to_the_others_once() {
    let istio = Istio::new(Flavour::GATEWAY_1_31);
    let world = started(&istio).await;
    for (pod, zone) in ["a", "a", "b", "b"].into_iter().enumerate() {
        world.edit_endpoint(pod, |endpoint| endpoint.locality = (zone.into(), 0)).await;
    }
    let keys = sessions(60);
    let before = world.nodes_of(&keys).await;
    assert_eq!(before, owners(&world, SHIPPED_RING, &keys), "zones have no part in it");
    let zone: Vec<String> = (0..2).map(|pod| world.node(pod).name().to_owned()).collect();

    for pod in 0..2 {
        istio.pods(&world).unready(pod).await;
    }
    nodes_become(world.envoy(0), &[("active", 2)]).await;
    let after = world.nodes_of(&keys).await;

    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before != after, zone.contains(before));
    }
    for pod in 0..2 {
        istio.pods(&world).ready(pod).await;
    }
    nodes_become(world.envoy(0), &[("active", PODS as u64)]).await;
    assert_eq!(world.nodes_of(&keys).await, after, "and not back");
}

/// Ambient pods behind a gateway: each endpoint is an internal listener with the pod's address as its id. Here that listener connects
/// to the pod itself, where Istio's opens a tunnel.
fn ambient(json: &mut Value) {
    let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
    let of_nodes =
        |cluster: &&mut Value| cluster["name"].as_str().unwrap().ends_with("|nodes.games.svc.cluster.local");
    for cluster in clusters.iter_mut().filter(of_nodes) {
        let file = cluster["eds_cluster_config"]["eds_config"]["path_config_source"]["path"].take();
        let text = std::fs::read_to_string(file.as_str().unwrap()).unwrap();
        let mut assignment = serde_json::from_str::<Value>(&text).unwrap()["resources"][0].take();
        for endpoint in assignment["endpoints"][0]["lb_endpoints"].as_array_mut().unwrap() {
            let pod = endpoint["endpoint"]["address"]["socket_address"].take();
            let id = format!("{}:{}", pod["address"].as_str().unwrap(), pod["port_value"]);
            endpoint["endpoint"]["address"] = json!({"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": id}});
            endpoint["metadata"]["filter_metadata"] = json!({
                "envoy.filters.listener.original_dst": {"local": id},
                "envoy.transport_socket_match": {"tunnel": "http"},
            });
        }
        let fields = assignment.as_object_mut().unwrap();
        fields.remove("@type");
        let cluster = cluster.as_object_mut().unwrap();
        cluster.remove("eds_cluster_config");
        cluster.insert("type".into(), "STATIC".into());
        cluster.insert("load_assignment".into(), assignment);
        cluster.insert("transport_socket_matches".into(), json!([{
            "name": "hbone",
            "match": {"tunnel": "http"},
            "transport_socket": {
                "name": "envoy.transport_sockets.internal_upstream",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                    "passthrough_metadata": [{"kind": {"host": {}}, "name": "envoy.filters.listener.original_dst"}],
                    "transport_socket": {
                        "name": "envoy.transport_sockets.raw_buffer",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
                    },
                },
            },
        }]));
    }
    clusters.push(json!({
        "name": "connect_originate", "type": "ORIGINAL_DST", "connect_timeout": "2s", "lb_policy": "CLUSTER_PROVIDED",
    }));
    json["static_resources"]["listeners"].as_array_mut().unwrap().push(json!({
        "name": "connect_originate",
        "internal_listener": {},
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "connect_originate",
                "cluster": "connect_originate",
            },
        }]}],
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn ambient_pods_behind_a_gateway_keep_their_sessions() {
    let world: World = builder(&Istio::new(Flavour::GATEWAY_1_31)).bootstrap(ambient).start().await;
    nodes_become(world.envoy(0), &[("active", PODS as u64)]).await;
    let keys = sessions(40);
    let before = world.nodes_of(&keys).await;
    let answer = ask(&world, &keys[0]).await;
    assert_eq!(destination(&answer)[0], format!("envoy://connect_originate/{}", answer.node()));
    assert_eq!(world.nodes_of(&keys).await, before);

    let gone = world.node_named(&before[0]);
    gone.refuse().await;

    // The tunnel's end takes a request before it connects to the pod, so the first ones may fail.
    let lost: Vec<&String> =
        keys.iter().zip(&before).filter(|(_, node)| *node == gone.name()).map(|(key, _)| key).collect();
    let are_placed = async || {
        let mut failed = Vec::new();
        for key in &lost {
            let answer = ask(&world, key).await;
            failed.extend((answer.status != 200).then_some(answer));
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    };
    eventually(are_placed, 3 * SOON).await;
    let after = world.nodes_of(&keys).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before != after, before == gone.name());
    }
    let pin = world.pin_of("nodes", &keys[0]).await.unwrap();
    assert!(serde_json::to_string(&pin).unwrap().contains("envoy://connect_originate/"));
    assert_eq!(shown(&ask(&world, &keys[0]).await, "reason"), "pin");
}
