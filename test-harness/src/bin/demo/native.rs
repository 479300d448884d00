//! Envoy's own ring_hash beside Berth: the same Envoy, nodes, health checks and points on the ring, without the filter.
//!
//! A request with the header `x-native` takes a route of its own on which the filter is switched off. It may do what is
//! good practice without Berth: its retries avoid the host that failed.

use berth_core::ring::{Algorithm, RingSize};
use serde_json::{Value, json};

pub(crate) const HEADER: &str = "x-native";

const CLUSTERS: &str = "/static_resources/clusters";
const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";

/// The least points of the rings in envoy/envoy-state.yaml, Berth's and Envoy's.
pub(crate) const MINIMUM_RING_SIZE: u64 = 3072;

/// Its placement, as it follows from the fallback ring of envoy/envoy-state.yaml.
pub(crate) fn algorithm() -> Algorithm {
    Algorithm::RingHash(RingSize::Envoy { minimum: MINIMUM_RING_SIZE, maximum: 8_388_608 })
}

/// Adds the cluster and its route to a shipped bootstrap.
pub(crate) fn add(json: &mut Value) {
    let clusters = json.pointer_mut(CLUSTERS).and_then(Value::as_array_mut).expect("clusters");
    let nodes = clusters.iter().find(|cluster| cluster["name"] == "nodes").expect("cluster nodes");
    let mut native = nodes.clone();
    native["name"] = "native".into();
    let fallback = "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy";
    native["load_balancing_policy"] = nodes.pointer(fallback).expect("the fallback ring").clone();
    clusters.push(native);

    let routes = json.pointer_mut(ROUTES).and_then(Value::as_array_mut).expect("routes");
    let mut route = routes[0].clone();
    route["match"]["headers"] = json!([{"name": HEADER, "present_match": true}]);
    route["route"]["cluster"] = "native".into();
    let retry = &mut route["route"]["retry_policy"];
    retry["retry_host_predicate"] = json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        },
    }]);
    retry["host_selection_retry_max_attempts"] = 10.into();
    route["typed_per_filter_config"] = json!({"berth": {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true,
    }});
    routes.insert(0, route);
}
