//! The Gateway API, which Istio turns into its own Gateways and VirtualServices (`pilot/pkg/config/kube/gateway`).

use std::collections::BTreeMap;

use super::kinds::{
    BackendRef, Destination, GatewaySpec, HeaderOperations, HttpMatch, HttpRoute, KubernetesFilter,
    KubernetesGatewaySpec, KubernetesMatch, KubernetesRouteSpec, Object, PortNumber, RemovedHeaders, Server,
    ServerPort, StringMatch, VirtualServiceSpec, WeightedDestination,
};

pub(super) fn gateway(gateway: Object<KubernetesGatewaySpec>) -> Object<GatewaySpec> {
    let server = |listener: &super::kinds::KubernetesListener| Server {
        port: ServerPort {
            number: listener.port,
            name: listener.name.clone(),
            protocol: listener.protocol.clone(),
        },
        hosts: vec![listener.hostname.clone()],
    };
    let servers = gateway.spec.listeners.iter().map(server).collect();
    gateway.with(GatewaySpec { selector: BTreeMap::new(), servers })
}

pub(super) fn routes(route: Object<KubernetesRouteSpec>) -> Result<Object<VirtualServiceSpec>, String> {
    let namespace = route.metadata.namespace.clone();
    let mut http = Vec::new();
    for rule in &route.spec.rules {
        let destination = |backend: &BackendRef| WeightedDestination {
            destination: Destination {
                host: format!("{}.{namespace}.svc.cluster.local", backend.name),
                subset: None,
                port: PortNumber { number: backend.port },
            },
            weight: None,
        };
        http.push(HttpRoute {
            name: None,
            r#match: rule.matches.iter().map(matcher).collect::<Result<_, _>>()?,
            route: rule.backend_refs.iter().map(destination).collect(),
            retries: None,
            timeout: None,
            headers: removed(&rule.filters)?,
        });
    }
    let gateway = |parent: &super::kinds::ParentRef| format!("{}/{}", parent.namespace, parent.name);
    let gateways = route.spec.parent_refs.iter().map(gateway).collect();
    let hosts = route.spec.hostnames.clone();
    Ok(route.with(VirtualServiceSpec { hosts, gateways, http }))
}

fn removed(filters: &[KubernetesFilter]) -> Result<Option<HeaderOperations>, String> {
    if let Some(other) = filters.iter().find(|filter| filter.r#type != "ResponseHeaderModifier") {
        return Err(format!("a filter of type {}", other.r#type));
    }
    let remove: Vec<String> =
        filters.iter().flat_map(|filter| filter.response_header_modifier.remove.clone()).collect();
    Ok((!remove.is_empty()).then_some(HeaderOperations { response: RemovedHeaders { remove } }))
}

fn matcher(one: &KubernetesMatch) -> Result<HttpMatch, String> {
    let mut headers = BTreeMap::new();
    for header in &one.headers {
        let text = Some(header.value.clone());
        let matcher = match header.r#type.as_str() {
            "RegularExpression" => StringMatch { exact: None, regex: text },
            "Exact" => StringMatch { exact: text, regex: None },
            other => return Err(format!("a header of type {other}")),
        };
        headers.insert(header.name.clone(), matcher);
    }
    Ok(HttpMatch { headers })
}
