//! Envoy's clusters: one of each rule by its policy, and the one for metrics.

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{BackendTrafficPolicy, seconds};

pub(super) fn cluster(name: &str, policy: &BackendTrafficPolicy) -> Result<Value, String> {
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

/// The cluster that Envoy Gateway adds for its metrics: Envoy's own admin interface.
pub(super) fn prometheus_stats() -> Value {
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
