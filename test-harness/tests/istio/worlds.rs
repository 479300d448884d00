//! Worlds of this file's tests: a proxy of Istio before pods that hold sessions.

use berth_harness::istio::{Documents, Istio};
use berth_harness::{Builder, State, World};
use serde_json::{Value, json};

use crate::support::patience::nodes_become;
use crate::support::pool;

/// How many pods there are at first.
pub(crate) const PODS: usize = 4;

/// Looks at its pods ten times a second, has short cooldowns and no ramps, and shows what it decides.
pub(crate) fn builder(istio: &Istio) -> Builder {
    World::builder().istio(istio).nodes(PODS).state(State::memory()).configuration(|json| {
        json["poll_interval"] = "100ms".into();
        json["debug_header"] = true.into();
        // What happens without an answer is another file's matter.
        json["state"]["timeout"] = "5s".into();
        pool(json)["health"] = json!({"cooldown": "1s", "warm_up": "0s"});
    })
}

/// With another Service of the same port, `lobby`, which the gateway serves as lobby.example.com.
pub(crate) fn beside_a_lobby(documents: Documents) -> Documents {
    let host = "lobby.games.svc.cluster.local";
    let is_at_gateway = documents.of_kind("Gateway").next().is_some();
    let documents = documents.and(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "lobby", "namespace": "games"},
        "spec": {
            "selector": {"app": "lobby"},
            "ports": [{"name": "http", "appProtocol": "http", "port": 8080, "targetPort": 8080}],
        },
    }));
    if !is_at_gateway {
        return documents;
    }
    let hosts = |gateway: &mut Value| {
        gateway["spec"]["servers"][0]["hosts"].as_array_mut().unwrap().push("lobby.example.com".into())
    };
    documents.with("Gateway", "games", hosts).and(json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "lobby", "namespace": "games"},
        "spec": {
            "hosts": ["lobby.example.com"],
            "gateways": ["istio-ingress/games"],
            "http": [{"route": [{"destination": {"host": host, "port": {"number": 8080}}}]}],
        },
    }))
}

/// A world whose workers know all pods.
pub(crate) async fn started(istio: &Istio) -> World {
    let world = builder(istio).start().await;
    nodes_become(world.envoy(0), &[("active", PODS as u64)]).await;
    world
}
