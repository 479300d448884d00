//! What goes wrong if a document says something else: the message or symptom that envoy/istio/README.md names.

use berth_harness::eventually;
use berth_harness::istio::{Documents, Flavour, Istio};
use serde_json::{Value, json};

use crate::support::patience::nodes_become;
use crate::support::pinning::of;
use crate::support::{SHIPPED_RING, SOON, owners, sessions, shown};
use crate::worlds::{PODS, beside_a_lobby, builder, started};

/// Why Envoy does not start with this.
async fn refusal(istio: &Istio) -> String {
    builder(istio).nodes(1).try_start().await.expect_err("Envoy takes it")
}

fn policy(documents: Documents, edit: impl FnOnce(&mut Value)) -> Documents {
    documents.with("DestinationRule", "nodes", |rule| edit(&mut rule["spec"]["trafficPolicy"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn locality_weights_are_refused() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        policy(documents, |policy| {
            policy["loadBalancer"]["localityLbSetting"] = json!({"failover": [{"from": "a", "to": "b"}]});
        })
    });

    let refusal = refusal(&istio).await;

    assert!(refusal.contains("cannot be combined with partial fields"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headless_service_is_refused_in_a_sidecar() {
    let istio = Istio::new(Flavour::SIDECAR).documents(|documents| {
        beside_a_lobby(documents)
            .with("Service", "nodes", |service| service["spec"]["clusterIP"] = "None".into())
    });

    let refusal = refusal(&istio).await;

    assert!(refusal.contains("cluster provided LB not specified but cluster"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_websocket_is_refused() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        documents.with("EnvoyFilter", "berth-http", |filter| {
            let value = filter.pointer_mut("/spec/configPatches/0/patch/value/typed_config").unwrap();
            value["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
        })
    });

    let refusal = refusal(&istio).await;

    assert!(refusal.contains("multiple upgrade configs with the same name"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_header_label_pods_that_terminate_lose_their_sessions_at_once() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        documents.with("Service", "nodes", |service| {
            service["metadata"]["labels"] = json!({"istio.io/persistent-session-header": "x-session-id"});
        })
    });
    let world = started(&istio).await;
    let keys = sessions(40);
    let before = world.nodes_of(&keys).await;

    istio.pods(&world).terminating(0).await;
    nodes_become(world.envoy(0), &[("active", PODS as u64 - 1), ("draining", 0)]).await;

    // It still serves.
    let terminating = world.node(0).name().to_owned();
    let after = world.nodes_of(&keys).await;
    assert!(before.contains(&terminating) && !after.contains(&terminating), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_of_the_proxys_own_namespace_takes_the_subset_away() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        documents.and(json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "other", "namespace": "istio-ingress"},
            "spec": {"host": "nodes.games.svc.cluster.local"},
        }))
    });
    let (_, outcomes) = istio.patched().unwrap();
    let silent: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| outcome.changed == 0)
        .map(|outcome| outcome.filter.as_str())
        .collect();
    assert_eq!(silent.len(), 1, "{outcomes:?}");

    let world = builder(&istio).start().await;

    // Sessions take the route to the subset, whose cluster is not there; all other requests are served.
    let refused = async || of(&world.client(), "ada").send().await.status == 503;
    eventually(refused, SOON).await;
    assert_eq!(world.get("/").send().await.status, 200);
    let unknown = "wasmcustom.berth_polls_total.pool.nodes.result.unknown_cluster";
    eventually(async || world.envoy(0).stat(unknown).await > 0, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_whose_service_account_is_not_named_gets_no_answer_from_the_state_service() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).account("cluster.local/ns/istio-ingress/sa/other");
    let world = builder(&istio).start().await;
    nodes_become(world.envoy(0), &[("active", PODS as u64)]).await;

    // The service's sidecar refuses its checks and calls. The ring decides.
    let is_away = async || {
        let answer = of(&world.client(), "ada").send().await;
        assert_eq!(answer.status, 200);
        if shown(&answer, "reason") == "state_away" { Ok(()) } else { Err(answer) }
    };
    eventually(is_away, SOON).await;
    let keys = sessions(30);
    assert_eq!(world.nodes_of(&keys).await, owners(&world, SHIPPED_RING, &keys));
    assert!(world.pin_of("nodes", "ada").await.is_none());
    assert!(world.envoy(0).log().contains("calls to the state cluster outbound|8650||berth-state"));
    let denied = world.envoy(0).stat("http.inbound_0.0.0.0_8650;.rbac.denied").await;
    assert!(denied > 0, "{denied}");
}
