//! One test for each trap: what a patch does not do counts as much as what it does.

mod merging;
mod placing;
mod reading;
mod routing;
mod selecting;

use serde_json::{Value, json};

use super::{EnvoyFilter, Outcome, Proxy, Resources, Role, apply};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const MANAGER_TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const GAMES: &str = "outbound|80||games.default.svc.cluster.local";
const SUBSET: &str = "outbound|80|berth|games.default.svc.cluster.local";

fn gateway() -> Proxy {
    Proxy {
        role: Role::Gateway,
        namespace: "ingress".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        istio_version: "1.31.0".into(),
    }
}

fn sidecar() -> Proxy {
    Proxy { role: Role::Sidecar, ..gateway() }
}

/// An EnvoyFilter of the gateway's namespace with these patches.
fn document(patches: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "test", "namespace": "ingress"},
        "spec": {"configPatches": patches},
    })
}

fn patch(apply_to: &str, matched: Value, operation: &str, value: Value) -> Value {
    json!({"applyTo": apply_to, "match": matched, "patch": {"operation": operation, "value": value}})
}

fn apply_all(resources: &mut Resources, proxy: &Proxy, patches: Value) -> Vec<Outcome> {
    let filter = EnvoyFilter::parse(&document(patches)).unwrap();
    apply(resources, &[filter], proxy)
}

/// How many objects one patch changed in a gateway, or why none.
fn change(resources: &mut Resources, patch: Value) -> Result<usize, String> {
    let outcome = apply_all(resources, &gateway(), json!([patch])).remove(0);
    if outcome.changed > 0 { Ok(outcome.changed) } else { Err(outcome.dropped.unwrap()) }
}

fn merge_cluster(cluster: Value, value: Value) -> Value {
    let mut resources = Resources { clusters: vec![cluster], ..Resources::default() };
    let _ = change(&mut resources, patch("CLUSTER", json!({}), "MERGE", value));
    resources.clusters.remove(0)
}

fn http_filter(name: &str, config: &str) -> Value {
    let config = format!("type.googleapis.com/envoy.extensions.filters.http.{config}");
    json!({"name": name, "typed_config": {"@type": config}})
}

/// A listener with one chain, whose manager has the filters cors and router.
fn listener(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [{"name": MANAGER, "typed_config": {
            "@type": MANAGER_TYPE,
            "stat_prefix": "outbound",
            "use_remote_address": true,
            "rds": {"route_config_name": "http.8080"},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [
                http_filter("envoy.filters.http.cors", "cors.v3.Cors"),
                http_filter("envoy.filters.http.router", "router.v3.Router"),
            ],
        }}]}],
    })
}

fn with_listener() -> Resources {
    Resources { listeners: vec![listener("0.0.0.0_8080", 8080)], ..Resources::default() }
}

fn manager(resources: &Resources) -> &Value {
    resources.listeners[0].pointer("/filter_chains/0/filters/0/typed_config").unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// What matches a filter of the manager.
fn in_manager(filter: &str) -> Value {
    json!({"listener": {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": filter}}}}})
}
