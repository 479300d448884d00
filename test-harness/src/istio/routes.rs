//! The route configurations that Istio makes of VirtualServices (`gateway.go`, `httproute.go`, `route/route.go`).

use serde_json::{Value, json};

use super::clusters;
use super::flavour::{Flavour, Role};
use super::kinds::{
    HttpMatch, HttpRoute, Object, Retries, ServiceSpec, VirtualServiceSpec, WeightedDestination,
};
use super::mesh::Mesh;

/// The ClusterIP that Kubernetes gave the first Service, so that the harness's client, which calls 127.0.0.1, calls that Service.
const FIRST_CLUSTER_IP: u8 = 1;
const PREVIOUS_HOSTS: &str =
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

/// The route configuration that a gateway's listener of a port asks for.
pub(super) fn gateway_route_name(flavour: &Flavour) -> String {
    format!("http.{}", flavour.gateway_port)
}

/// The ports of HTTP Services: each has a listener and a route configuration in a sidecar.
pub(super) fn http_ports(mesh: &Mesh) -> Vec<u16> {
    let all = mesh.services.iter().flat_map(|service| &service.spec.ports);
    let mut ports: Vec<u16> = all.map(|port| port.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub(super) fn routes(mesh: &Mesh, flavour: &Flavour) -> Result<Vec<Value>, String> {
    match flavour.role {
        Role::Gateway => Ok(vec![configuration(&gateway_route_name(flavour), &gateway_hosts(mesh)?)]),
        Role::Sidecar => {
            let of_port = |port: u16| Ok(configuration(&port.to_string(), &sidecar_hosts(mesh, port)?));
            http_ports(mesh).into_iter().map(of_port).collect()
        }
    }
}

fn configuration(name: &str, hosts: &[Value]) -> Value {
    json!({
        "name": name,
        "virtual_hosts": hosts,
        "validate_clusters": false,
        "ignore_port_in_host_matching": true,
    })
}

fn gateway_hosts(mesh: &Mesh) -> Result<Vec<Value>, String> {
    let mut hosts = Vec::new();
    for gateway in &mesh.gateways {
        let name = format!("{}/{}", gateway.metadata.namespace, gateway.metadata.name);
        for server in &gateway.spec.servers {
            if server.port.protocol != "HTTP" {
                return Err(format!("protocol {} of a Gateway is not known here", server.port.protocol));
            }
            let bound = mesh.routes.iter().filter(|routes| routes.spec.gateways.contains(&name));
            for routes in bound {
                let served = routes.spec.hosts.iter().filter(|host| server.hosts.contains(host));
                for host in served {
                    hosts.push(json!({
                        "name": format!("{host}:{}", server.port.number),
                        "domains": [host],
                        "routes": of_virtual_service(routes)?,
                        "include_request_attempt_count": true,
                    }));
                }
            }
        }
    }
    Ok(hosts)
}

fn sidecar_hosts(mesh: &Mesh, port: u16) -> Result<Vec<Value>, String> {
    let mut hosts = Vec::new();
    for (index, service) in (FIRST_CLUSTER_IP..).zip(&mesh.services) {
        if service.spec.ports.iter().all(|of_service| of_service.port != port) {
            continue;
        }
        let host = service.metadata.host();
        let own = |routes: &&Object<VirtualServiceSpec>| {
            let in_mesh =
                routes.spec.gateways.is_empty() || routes.spec.gateways.iter().any(|of| of == "mesh");
            in_mesh && routes.spec.hosts.contains(&host)
        };
        let routes = match mesh.routes.iter().find(own) {
            Some(routes) => of_virtual_service(routes)?,
            None => vec![route(&json!({"prefix": "/"}), "default", cluster_action(&host, port), None, None)],
        };
        hosts.push(json!({
            "name": format!("{host}:{port}"),
            "domains": domains(service, index),
            "routes": routes,
            "include_request_attempt_count": true,
        }));
    }
    hosts.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    hosts.push(json!({
        "name": "allow_any",
        "domains": ["*"],
        "routes": [{
            "name": "allow_any",
            "match": {"prefix": "/"},
            "route": {"cluster": "PassthroughCluster", "timeout": "0s"},
        }],
        "include_request_attempt_count": true,
    }));
    Ok(hosts)
}

/// All names of a Service within its namespace, and its ClusterIP.
fn domains(service: &Object<ServiceSpec>, index: u8) -> Vec<String> {
    let (name, namespace) = (&service.metadata.name, &service.metadata.namespace);
    let mut domains = vec![
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        service.metadata.host(),
    ];
    domains.push(format!("127.0.0.{index}"));
    domains
}

fn of_virtual_service(routes: &Object<VirtualServiceSpec>) -> Result<Vec<Value>, String> {
    let mut all: Vec<Value> = Vec::new();
    for http in &routes.spec.http {
        if http.r#match.is_empty() {
            all.push(of_http(http, &json!({"prefix": "/"}))?);
        }
        for one in &http.r#match {
            all.push(of_http(http, &matcher(one))?);
        }
    }
    // Catch-all routes last.
    all.sort_by_key(|route| route["match"].get("headers").is_none());
    Ok(all)
}

fn of_http(http: &HttpRoute, matcher: &Value) -> Result<Value, String> {
    let action = match &http.route[..] {
        [only] => json!({"cluster": destination(only)}),
        several => {
            let weight = |route: &WeightedDestination| match route.weight {
                None => Err("a destination of several has no weight"),
                Some(weight) => Ok(json!({"name": destination(route), "weight": weight})),
            };
            let weighted = several.iter().filter(|route| route.weight != Some(0)).map(weight);
            json!({"weighted_clusters": {"clusters": weighted.collect::<Result<Vec<_>, _>>()?}})
        }
    };
    let name = http.name.as_deref().unwrap_or("default");
    let mut route = route(matcher, name, action, http.timeout.as_deref(), http.retries.as_ref());
    if let Some(headers) = &http.headers {
        route["response_headers_to_remove"] = headers.response.remove.clone().into();
    }
    Ok(route)
}

fn route(
    matcher: &Value,
    name: &str,
    mut action: Value,
    timeout: Option<&str>,
    retries: Option<&Retries>,
) -> Value {
    action["timeout"] = timeout.unwrap_or("0s").into();
    action["max_grpc_timeout"] = "0s".into();
    if retries.is_none_or(|retries| retries.attempts > 0) {
        action["retry_policy"] = retry_policy(retries);
    }
    let mut matcher = matcher.clone();
    matcher["case_sensitive"] = true.into();
    json!({"name": name, "match": matcher, "route": action})
}

fn retry_policy(retries: Option<&Retries>) -> Value {
    let by_default = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    json!({
        "retry_on": retries.and_then(|retries| retries.retry_on.as_deref()).unwrap_or(by_default),
        "num_retries": retries.map_or(2, |retries| retries.attempts),
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": PREVIOUS_HOSTS},
        }],
        "host_selection_retry_max_attempts": "5",
    })
}

fn matcher(one: &HttpMatch) -> Value {
    let header = |(name, text): (&String, &super::kinds::StringMatch)| match (&text.exact, &text.regex) {
        (Some(exact), _) => json!({"name": name, "string_match": {"exact": exact}}),
        // Not a regular expression for Istio, but a presence.
        (None, Some(regex)) if regex != "*" => {
            json!({"name": name, "string_match": {"safe_regex": {"regex": regex}}})
        }
        _ => json!({"name": name, "present_match": true}),
    };
    json!({"prefix": "/", "headers": one.headers.iter().map(header).collect::<Vec<_>>()})
}

fn destination(route: &WeightedDestination) -> String {
    let to = &route.destination;
    clusters::name(&to.host, to.port.number, to.subset.as_deref().unwrap_or_default())
}

fn cluster_action(host: &str, port: u16) -> Value {
    json!({"cluster": clusters::name(host, port, "")})
}
