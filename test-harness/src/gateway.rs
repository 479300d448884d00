//! What Envoy Gateway makes of the resources in `envoy/gateway/`: a bootstrap that a real Envoy runs. Only what those use is known.
//!
//! It differs from what a proxy of Envoy Gateway gets in these points. The module is a local file, and not fetched from
//! `wasm_cluster`; routes are within the listener and clusters within the bootstrap, in place of ADS; endpoints come from the
//! file `envoy/nodes.yaml`; there is no listener for readiness and metrics.

mod documents;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::documents::{
    BackendTrafficPolicy, ClientTrafficPolicy, EnvoyExtensionPolicy, EnvoyPatchPolicy, EnvoyProxy, Gateway,
    GatewayClass, HttpRoute, Resource, Rule,
};
use crate::root;

const TYPES: &str = "type.googleapis.com/envoy";
/// Those of Envoy that a BackendTrafficPolicy may name for HTTP.
const TRIGGERS: [&str; 6] =
    ["5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "refused-stream"];

/// How Envoy Gateway names what patches refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameScheme {
    /// 1.5 to 1.9: a listener is called `<namespace>/<gateway>/<listener>`.
    V1,
    /// From 1.10 on: by its port.
    V2,
}

impl NameScheme {
    /// The file with the patches for these names.
    pub fn patches(self) -> &'static str {
        match self {
            Self::V1 => "patches-v1.yaml",
            Self::V2 => "patches-v2.yaml",
        }
    }
}

/// The shipped resources, with the patches for these names.
///
/// # Panics
/// If a file is missing or no YAML.
pub fn shipped(scheme: NameScheme) -> Vec<Value> {
    let read = |name| {
        let file = root().join("envoy/gateway").join(name);
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        let parsed = documents.map(Value::deserialize);
        parsed.collect::<Result<Vec<_>, _>>().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    ["gateway.yaml", "route.yaml", "filter.yaml", scheme.patches()].into_iter().flat_map(read).collect()
}

/// The bootstrap that these resources give, its patches applied.
///
/// # Errors
/// If a resource has a fault, or one is missing, or a patch does not apply: with the resource's name.
pub fn render(resources: &[Value], scheme: NameScheme) -> Result<Value, String> {
    let known = [
        "GatewayClass",
        "EnvoyProxy",
        "Gateway",
        "HTTPRoute",
        "ClientTrafficPolicy",
        "BackendTrafficPolicy",
        "EnvoyExtensionPolicy",
        "EnvoyPatchPolicy",
    ];
    if let Some(other) = resources.iter().find(|one| !known.iter().any(|kind| one["kind"] == **kind)) {
        return Err(format!("a resource of unknown kind: {}", title(other)));
    }
    one::<GatewayClass>(resources, "GatewayClass")?;
    let proxy = one::<EnvoyProxy>(resources, "EnvoyProxy")?.spec.bootstrap;
    let gateway = one::<Gateway>(resources, "Gateway")?;
    let route = one::<HttpRoute>(resources, "HTTPRoute")?;
    let clients = one::<ClientTrafficPolicy>(resources, "ClientTrafficPolicy")?.spec;
    let traffic = all::<BackendTrafficPolicy>(resources, "BackendTrafficPolicy")?;
    let filters = wasm_filters(&all(resources, "EnvoyExtensionPolicy")?);

    let (mut routes, mut clusters) = (Vec::new(), Vec::new());
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let targets = |policy: &&Resource<BackendTrafficPolicy>| {
            let mut refs = policy.spec.target_refs.iter();
            refs.any(|target| {
                target.name == route.metadata.name && target.section_name.as_ref() == Some(&rule.name)
            })
        };
        let policy =
            traffic.iter().find(targets).ok_or(format!("no BackendTrafficPolicy for {}", rule.name))?;
        let namespace = route.metadata.namespace.as_deref().unwrap_or("default");
        let name = format!("httproute/{namespace}/{}/rule/{index}", route.metadata.name);
        routes.push(http_route(&name, rule, &policy.spec, &filters)?);
        clusters.push(cluster(&name, &policy.spec)?);
    }
    let listener = listener(&gateway, &clients, &filters, &routes, scheme);
    let listener = patched(listener, &all(resources, "EnvoyPatchPolicy")?)?;
    let own = json!({
        // Envoy Gateway gives these as arguments.
        "node": {"id": gateway.metadata.name, "cluster": gateway.metadata.name},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 19000}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    });
    let mut bootstrap = merged(own, prometheus_stats());
    if proxy.r#type != "Merge" {
        return Err(format!("EnvoyProxy: the bootstrap's type is {}, not Merge", proxy.r#type));
    }
    let addition = serde_yaml_ng::from_str(&proxy.value).map_err(|error| format!("EnvoyProxy: {error}"))?;
    bootstrap = merged(bootstrap, addition);
    Ok(bootstrap)
}

fn title(resource: &Value) -> String {
    format!("{} {}", resource["kind"], resource["metadata"]["name"]).replace('"', "")
}

fn all<S: DeserializeOwned>(resources: &[Value], kind: &str) -> Result<Vec<Resource<S>>, String> {
    let of_kind = resources.iter().filter(|resource| resource["kind"] == kind);
    let read = |resource: &Value| {
        serde_json::from_value(resource.clone()).map_err(|error| format!("{}: {error}", title(resource)))
    };
    of_kind.map(read).collect()
}

fn one<S: DeserializeOwned>(resources: &[Value], kind: &str) -> Result<Resource<S>, String> {
    all(resources, kind)?.pop().ok_or(format!("there is no {kind}"))
}

/// The filters as the listener has them: switched off, and switched on by each route.
fn wasm_filters(policies: &[Resource<EnvoyExtensionPolicy>]) -> Vec<Value> {
    let mut filters = Vec::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        for (index, wasm) in policy.spec.wasm.iter().enumerate() {
            let id = format!("envoyextensionpolicy/{namespace}/{}/wasm/{index}", policy.metadata.name);
            filters.push(json!({
                "name": format!("envoy.filters.http.wasm/{id}"),
                "disabled": true,
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.filters.http.wasm.v3.Wasm"),
                    "config": {
                        "name": wasm.name,
                        "root_id": wasm.root_id,
                        "configuration": {
                            "@type": "type.googleapis.com/google.protobuf.StringValue",
                            "value": Value::from(wasm.config.clone()).to_string(),
                        },
                        "vm_config": {
                            "vm_id": id,
                            "runtime": "envoy.wasm.runtime.v8",
                            "code": {"local": {"filename": "target/berth.wasm"}},
                        },
                    },
                },
            }));
        }
    }
    filters
}

fn http_route(
    cluster: &str,
    rule: &Rule,
    policy: &BackendTrafficPolicy,
    filters: &[Value],
) -> Result<Value, String> {
    let [found] = rule.matches.as_slice() else {
        return Err(format!("rule {}: one match is known, not {}", rule.name, rule.matches.len()));
    };
    let mut matched = json!({"prefix": found.path.value});
    let headers = found.headers.iter().flatten().map(|header| match header.r#type.as_str() {
        "RegularExpression" => {
            Ok(json!({"name": header.name, "string_match": {"safe_regex": {"regex": header.value}}}))
        }
        other => Err(format!("rule {}: a header match of type {other}", rule.name)),
    });
    let headers = headers.collect::<Result<Vec<_>, _>>()?;
    if !headers.is_empty() {
        matched["headers"] = headers.into();
    }
    let switched_on = filters.iter().map(|filter| {
        let on = json!({"@type": format!("{TYPES}.config.route.v3.FilterConfig"), "config": {}});
        (filter["name"].as_str().unwrap().to_owned(), on)
    });
    let retry = &policy.retry;
    if let Some(other) = retry.retry_on.triggers.iter().find(|trigger| !TRIGGERS.contains(&trigger.as_str()))
    {
        return Err(format!("rule {}: there is no retry trigger {other}", rule.name));
    }
    let mut action = json!({
        "cluster": cluster,
        "timeout": seconds(&policy.timeout.http.request_timeout)?,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "retry_policy": {
            "retry_on": retry.retry_on.triggers.join(","),
            "num_retries": retry.num_retries,
            "retriable_status_codes": [503],
            "retry_back_off": {
                "base_interval": seconds(&retry.per_retry.back_off.base_interval)?,
                "max_interval": seconds(&retry.per_retry.back_off.max_interval)?,
            },
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                },
            }],
        },
    });
    if let Some(hash) = &policy.load_balancer.consistent_hash {
        action["hash_policy"] = json!([{"header": {"header_name": hash.header.name}}]);
    }
    Ok(json!({
        "name": format!("{cluster}/match/0/*"),
        "match": matched,
        "route": action,
        "typed_per_filter_config": switched_on.collect::<serde_json::Map<_, _>>(),
    }))
}

fn cluster(name: &str, policy: &BackendTrafficPolicy) -> Result<Value, String> {
    let policy_named = |kind: &str, mut config: Value| {
        let message: String = kind.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        config["@type"] = format!("{TYPES}.extensions.load_balancing_policies.{kind}.v3.{message}").into();
        let name = format!("envoy.load_balancing_policies.{kind}");
        json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]})
    };
    let balancer = &policy.load_balancer;
    let weighted = json!({"locality_lb_config": {"locality_weighted_lb_config": {}}});
    let (legacy, fallback) = match balancer.r#type.as_str() {
        "ConsistentHash" => ("MAGLEV", policy_named("maglev", json!({}))),
        "LeastRequest" => ("LEAST_REQUEST", policy_named("least_request", weighted)),
        other => return Err(format!("a load balancer of type {other}")),
    };
    let (legacy, balancing) = match &balancer.endpoint_override {
        Some(named) => {
            let sources = named.extract_from.iter().map(|source| json!({"header": source.header}));
            let sources: Vec<Value> = sources.collect();
            let config = json!({"override_host_sources": sources, "fallback_policy": fallback});
            ("CLUSTER_PROVIDED", policy_named("override_host", config))
        }
        None => (legacy, fallback),
    };
    let (active, passive) = (&policy.health_check.active, &policy.health_check.passive);
    let statuses =
        active.http.expected_statuses.iter().map(|status| json!({"start": status, "end": status + 1}));
    let breaker = &policy.circuit_breaker;
    Ok(json!({
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": "nodes",
            "eds_config": {"resource_api_version": "V3", "path_config_source": {"path": "envoy/nodes.yaml"}},
        },
        "connect_timeout": seconds(&policy.timeout.tcp.connect_timeout)?,
        "common_lb_config": {},
        "dns_lookup_family": "V4_PREFERRED",
        "ignore_health_on_host_removal": true,
        "per_connection_buffer_limit_bytes": 32768,
        "lb_policy": legacy,
        "load_balancing_policy": balancing,
        "health_checks": [{
            "timeout": seconds(&active.timeout)?,
            "interval": seconds(&active.interval)?,
            "unhealthy_threshold": active.unhealthy_threshold,
            "healthy_threshold": active.healthy_threshold,
            "http_health_check": {
                "host": "*", "path": active.http.path, "expected_statuses": statuses.collect::<Vec<_>>(),
            },
        }],
        "outlier_detection": {
            "consecutive_5xx": passive.consecutive_5xx_errors,
            "interval": seconds(&passive.interval)?,
            "base_ejection_time": seconds(&passive.base_ejection_time)?,
            "max_ejection_percent": passive.max_ejection_percent,
        },
        "circuit_breakers": {"thresholds": [{
            "max_connections": breaker.max_connections,
            "max_pending_requests": breaker.max_pending_requests,
            "max_requests": breaker.max_parallel_requests,
            "max_retries": breaker.max_parallel_retries,
        }]},
    }))
}

fn listener(
    gateway: &Resource<Gateway>,
    clients: &ClientTrafficPolicy,
    filters: &[Value],
    routes: &[Value],
    scheme: NameScheme,
) -> Value {
    let listener = &gateway.spec.listeners[0];
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or("default");
    let path = format!("{namespace}/{}/{}", gateway.metadata.name, listener.name);
    let (name, chain, host) = match scheme {
        NameScheme::V1 => (path.clone(), path.clone(), format!("{path}/*")),
        NameScheme::V2 => (format!("tcp-{}", listener.port), format!("http-{}", listener.port), "*".into()),
    };
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": true,
        },
    });
    let removed = clients.headers.early_request_headers.remove.iter().map(|name| json!({"remove": name}));
    let port = if listener.port < 1024 { listener.port + 10000 } else { listener.port };
    let manager =
        format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    let early = format!("{TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation");
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "per_connection_buffer_limit_bytes": 32768,
        "default_filter_chain": {"name": chain, "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": manager,
                "stat_prefix": format!("http-{port}"),
                "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
                "http2_protocol_options": {
                    "initial_connection_window_size": 1_048_576,
                    "initial_stream_window_size": 65536,
                    "max_concurrent_streams": 100,
                },
                "early_header_mutation_extensions": [{
                    "name": "envoy.http.early_header_mutation.header_mutation",
                    "typed_config": {"@type": early, "mutations": removed.collect::<Vec<_>>()},
                }],
                "request_timeout": clients.timeout.http.request_received_timeout,
                "merge_slashes": true,
                "normalize_path": true,
                "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
                "server_header_transformation": "PASS_THROUGH",
                "use_remote_address": true,
                "http_filters": filters.iter().cloned().chain([router]).collect::<Vec<_>>(),
                "route_config": {
                    "name": chain,
                    "ignore_port_in_host_matching": true,
                    "virtual_hosts": [{"name": host, "domains": ["*"], "routes": routes}],
                },
            },
        }]},
    })
}

/// Applies the policies to the listener, the only resource that the shipped ones change.
fn patched(mut listener: Value, policies: &[Resource<EnvoyPatchPolicy>]) -> Result<Value, String> {
    for policy in policies {
        let fault = |what: String| format!("EnvoyPatchPolicy {}: {what}", policy.metadata.name);
        for patch in &policy.spec.json_patches {
            if patch.r#type != format!("{TYPES}.config.listener.v3.Listener")
                || listener["name"] != *patch.name
            {
                return Err(fault(format!("there is no {} {}", patch.r#type, patch.name)));
            }
            let operations = serde_json::from_value::<json_patch::Patch>(json!([patch.operation]));
            let operations = operations.map_err(|error| fault(error.to_string()))?;
            json_patch::patch(&mut listener, &operations).map_err(|error| fault(error.to_string()))?;
        }
    }
    Ok(listener)
}

/// The cluster that Envoy Gateway adds for its metrics: Envoy's own admin interface.
fn prometheus_stats() -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 19000}});
    json!({"static_resources": {"clusters": [{
        "name": "prometheus_stats",
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": "prometheus_stats",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }]}})
}

/// Merges as Protocol Buffers do: lists are appended, messages merged, the rest replaced.
fn merged(base: Value, addition: Value) -> Value {
    match (base, addition) {
        (Value::Object(mut base), Value::Object(addition)) => {
            for (name, value) in addition {
                let merged = merged(base.remove(&name).unwrap_or_default(), value);
                base.insert(name, merged);
            }
            base.into()
        }
        (Value::Array(mut base), Value::Array(addition)) => {
            base.extend(addition);
            base.into()
        }
        (_, addition) => addition,
    }
}

/// A duration of Kubernetes (`5ms`, `3s`) as Envoy writes it.
fn seconds(duration: &str) -> Result<String, String> {
    let fault = || format!("not a duration in ms or s: {duration}");
    if let Some(milliseconds) = duration.strip_suffix("ms") {
        let milliseconds: u32 = milliseconds.parse().map_err(|_| fault())?;
        return Ok(format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000));
    }
    let whole =
        duration.strip_suffix('s').and_then(|seconds| seconds.parse::<u32>().ok()).ok_or_else(fault)?;
    Ok(format!("{whole}s"))
}
