//! Patches of clusters (`cluster_patch.go`).

use serde_json::Value;

use super::active::Active;
use super::filter::{ApplyTo, ClusterMatch, Context, Operation};
use super::merge::merge_any;

/// Clusters that the proxy has from its bootstrap and not from istiod.
const OF_BOOTSTRAP: [&str; 4] = ["prometheus_stats", "agent", "sds-grpc", "xds-grpc"];

pub(super) fn patch(clusters: &mut Vec<Value>, patches: &[Active<'_>], contexts: &[Context]) {
    let mut added = Vec::new();
    for &context in contexts {
        let own = |cluster: &&mut Value| context_of(&name_of(cluster), contexts) == Some(context);
        for cluster in clusters.iter_mut().filter(own) {
            patch_cluster(cluster, patches, context);
        }
        for active in patches.iter().filter(|active| active.is_for(ApplyTo::Cluster, context)) {
            // The match counts for nothing here; without a context it is not for the inbound side.
            let is_wanted = context != Context::SidecarInbound || active.patch.context != Context::Any;
            if active.is(Operation::Add) && is_wanted {
                added.push(active.patch.value.clone());
                active.changed(1);
            }
        }
    }
    clusters.retain(|cluster| !cluster.is_null());
    clusters.append(&mut added);
}

fn name_of(cluster: &Value) -> String {
    cluster["name"].as_str().unwrap_or_default().to_owned()
}

fn context_of(name: &str, contexts: &[Context]) -> Option<Context> {
    if OF_BOOTSTRAP.contains(&name) {
        return None;
    }
    let is_inbound = name.starts_with("inbound|") || name.starts_with("Inbound");
    let context = if is_inbound { contexts.last() } else { contexts.first() };
    context.copied()
}

fn patch_cluster(cluster: &mut Value, patches: &[Active<'_>], context: Context) {
    for active in patches.iter().filter(|active| active.is_for(ApplyTo::Cluster, context)) {
        if active.is(Operation::Add) || !matches(active.patch.cluster.as_ref(), &name_of(cluster)) {
            continue;
        }
        if active.is(Operation::Remove) {
            *cluster = Value::Null;
            active.changed(1);
            return;
        }
        match active.patch.value.get("transport_socket") {
            None => active.merge_into(cluster),
            Some(socket) => match merge_socket(cluster, socket) {
                Ok(()) => active.changed(1),
                Err(reason) => active.drop_because(reason),
            },
        }
    }
}

/// Merges into the first socket match of this name, or else the cluster's socket if it has that name; else replaces the socket.
fn merge_socket(cluster: &mut Value, socket: &Value) -> Result<(), String> {
    let has_matches =
        cluster["transport_socket_matches"].as_array().is_some_and(|matches| !matches.is_empty());
    let target = if has_matches {
        let matches = cluster["transport_socket_matches"].as_array_mut().into_iter().flatten();
        let mut sockets = matches.filter_map(|one| one.get_mut("transport_socket"));
        let found = sockets.find(|old| old["name"] == socket["name"]);
        Some(found.ok_or("the cluster has transport_socket_matches, and not one of this name")?)
    } else {
        cluster.get_mut("transport_socket").filter(|old| old["name"] == socket["name"])
    };
    let Some(target) = target else {
        cluster["transport_socket"] = socket.clone();
        return Ok(());
    };
    match (target.get_mut("typed_config"), socket.get("typed_config")) {
        (Some(old), Some(new)) => merge_any(old, new),
        _ => Err("one of the two sockets has no typed_config".into()),
    }
}

fn matches(wanted: Option<&ClusterMatch>, name: &str) -> bool {
    let Some(wanted) = wanted else { return true };
    if !wanted.name.is_empty() {
        return wanted.name == name;
    }
    // direction|port|subset|host
    let mut parts = name.split('|').skip(1);
    let mut next = || parts.next().unwrap_or_default();
    let (port, subset, host) = (next(), next(), next());
    (wanted.subset.is_empty() || wanted.subset == subset)
        && (wanted.service.is_empty() || wanted.service == host)
        && (wanted.port_number == 0 || wanted.port_number.to_string() == port)
}
