//! Which EnvoyFilters a proxy gets, and in which order.

use super::filter::{EnvoyFilter, Metadata};
use super::{Proxy, Role};

/// Istio's root namespace, whose EnvoyFilters are for all namespaces.
const ROOT_NAMESPACE: &str = "istio-system";
/// The label of a pod that Istio makes for a Gateway of the Gateway API.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The EnvoyFilters of a proxy: by priority, the root namespace's first, the oldest first, then by name.
pub(super) fn in_order<'f>(filters: &'f [EnvoyFilter], proxy: &Proxy) -> Vec<&'f EnvoyFilter> {
    let mut chosen: Vec<&EnvoyFilter> = filters.iter().filter(|filter| selects(filter, proxy)).collect();
    chosen.sort_by_cached_key(|filter| {
        let Metadata { name, namespace, creation_timestamp, .. } = &filter.metadata;
        let is_local = namespace != ROOT_NAMESPACE;
        (filter.priority, is_local, creation_timestamp.clone(), format!("{name}.{namespace}"))
    });
    chosen
}

fn selects(filter: &EnvoyFilter, proxy: &Proxy) -> bool {
    let namespace = &filter.metadata.namespace;
    if *namespace != proxy.namespace && namespace != ROOT_NAMESPACE {
        return false;
    }
    if filter.targets.is_empty() {
        return filter.selector.iter().all(|(key, value)| proxy.labels.get(key) == Some(value));
    }
    // A target is in the filter's own namespace.
    let gateway = proxy.labels.get(GATEWAY_NAME).filter(|_| proxy.role == Role::Gateway);
    *namespace == proxy.namespace && filter.targets.iter().any(|target| Some(&target.name) == gateway)
}
