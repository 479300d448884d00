//! Envoy's own ring beside Berth, over the same nodes.

use berth_harness::Client;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::patience::cluster;
use super::routes;

pub(crate) const RING: &str = "ring_hash.v3.RingHash";

/// Adds a cluster like `nodes` but with this policy, and a route to it for requests with the header `x-native`.
pub(crate) fn add_native(json: &mut Value, policy: &str, mut settings: Value) {
    settings["@type"] =
        format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{policy}").into();
    let mut native = cluster(json, "nodes").clone();
    native["name"] = "native".into();
    // Otherwise workers receive health and weights up to a second later than the admin interface shows them.
    native["common_lb_config"]["update_merge_window"] = "0s".into();
    native["load_balancing_policy"]["policies"] =
        json!([{"typed_extension_config": {"name": "native", "typed_config": settings}}]);
    json["static_resources"]["clusters"].as_array_mut().unwrap().push(native);
    routes(json).insert(
        0,
        json!({
            "match": {"prefix": "/", "headers": [{"name": "x-native", "present_match": true}]},
            "route": {"cluster": "native", "hash_policy": [{"header": {"header_name": "x-session-id"}}]},
        }),
    );
}

/// The node of each session in the native cluster.
pub(crate) async fn native_nodes_of(client: &Client, keys: &[String]) -> Vec<String> {
    let requests: Vec<_> = keys
        .iter()
        .map(|key| client.get("/").header("x-session-id", key).header("x-native", "yes"))
        .collect();
    let nodes = requests.into_iter().map(async |request| request.send().await.node().to_owned());
    stream::iter(nodes).buffered(32).collect().await
}
