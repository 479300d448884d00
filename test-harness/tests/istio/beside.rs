//! What Berth leaves alone: other Services of the same listener, and all requests once its policy is removed or its image is missing.

use berth_harness::istio::{Documents, Flavour, Istio, Role};
use berth_harness::{World, eventually};
use serde_json::json;

use crate::support::pinning::of;
use crate::support::{SOON, sessions, shown};
use crate::worlds::{PODS, beside_a_lobby, started};

#[tokio::test(flavor = "multi_thread")]
async fn other_services_of_the_listener_are_left_alone() {
    for flavour in [Flavour::GATEWAY_1_28, Flavour::SIDECAR] {
        let world = started(&Istio::new(flavour).documents(beside_a_lobby)).await;
        let host = match flavour.role {
            Role::Gateway => "lobby.example.com",
            Role::Sidecar => "lobby.games",
        };

        let mut nodes = Vec::new();
        for _ in 0..40 {
            // What a client says of Berth is removed for them too.
            let request = of(&world.client(), "ada").header("host", host).header("x-berth-destination", "x");
            let answer = request.send().await;
            assert_eq!(answer.received().header("x-berth-destination"), None);
            assert_eq!(answer.header("x-berth"), None);
            nodes.push(answer.node().to_owned());
        }
        nodes.sort();
        nodes.dedup();
        assert_eq!(nodes.len(), PODS, "spread over all, though they have a session id");

        let own = of(&world.client(), "ada").send().await;
        assert_eq!(shown(&own, "outcome"), "claimed", "{flavour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_policy_every_request_is_served() {
    let istio =
        Istio::new(Flavour::GATEWAY_1_31).documents(|documents| documents.without("EnvoyFilter", "berth-lb"));
    let world = started(&istio).await;

    for key in sessions(30) {
        assert_eq!(of(&world.client(), &key).send().await.status, 200);
        assert_eq!(world.get("/").send().await.status, 200);
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_image_cannot_be_pulled_requests_get_403() {
    let istio = Istio::new(Flavour::GATEWAY_1_31);
    let world = World::builder().istio(&istio.clone().without_image()).start().await;
    for request in [world.get("/"), of(&world.client(), "ada")] {
        let answer = request.send().await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (403, &b"RBAC: access denied"[..]));
    }

    // istiod sends the filter again, and the pull succeeds: no restart is needed.
    world.serve_extensions(&istio);

    let is_served = async || {
        let answer = of(&world.client(), "ada").send().await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status) }
    };
    // The module is compiled meanwhile.
    eventually(is_served, 2 * SOON).await;
    assert_eq!(world.get("/").send().await.status, 200);
}

/// Two versions of the nodes: 9 of 10 requests without a session go to the first one.
fn canary(documents: Documents) -> Documents {
    let cluster = |version: &str| format!("outbound|8080|{version}|nodes.games.svc.cluster.local");
    let to = |version: &str, weight: u32| {
        let host = "nodes.games.svc.cluster.local";
        json!({"destination": {"host": host, "subset": version, "port": {"number": 8080}}, "weight": weight})
    };
    documents
        .with("DestinationRule", "nodes", |rule| {
            let subsets = rule["spec"]["subsets"].as_array_mut().unwrap();
            subsets
                .extend(["v1", "v2"].map(|version| json!({"name": version, "labels": {"version": version}})));
        })
        .with("VirtualService", "nodes-at-gateway", |routes| {
            routes["spec"]["http"][1]["route"] = json!([to("v1", 90), to("v2", 10)]);
        })
        .with("EnvoyFilter", "berth-plugin", |filter| {
            let config = "/spec/configPatches/0/patch/value/typed_config/config/configuration/value";
            let text = filter.pointer_mut(config).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            json["pools"][0]["match"]["clusters"] = json!([cluster("v1"), cluster("v2")]);
            *text = json.to_string().into();
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn session_stays_with_its_version_whatever_the_weights_become() {
    let world = started(&Istio::new(Flavour::GATEWAY_1_31).documents(canary)).await;
    let keys = sessions(60);
    let before = world.nodes_of(&keys).await;

    let turned = world.envoy(0).reload_listener(|listener| {
        let routes = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
        let weighted =
            &mut listener.pointer_mut(routes).unwrap()[1]["route"]["weighted_clusters"]["clusters"];
        weighted[0]["weight"] = 10.into();
        weighted[1]["weight"] = 90.into();
    });
    turned.await.unwrap();

    assert_eq!(world.nodes_of(&keys).await, before);
    assert_eq!(shown(&world.get("/").send().await, "outcome"), "sessionless");
}
