//! The clusters that Istio makes of Services and DestinationRules (`cluster.go`, `cluster_traffic_policy.go`).

use serde_json::{Value, json};

use super::flavour::{Flavour, Role};
use super::kinds::{Object, OutlierDetection, ServicePort, ServiceSpec, TrafficPolicy};
use super::mesh::Mesh;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Istio knows no bound unless a rule sets one.
const UNLIMITED: u32 = u32::MAX;

pub(super) fn clusters(mesh: &Mesh, flavour: &Flavour) -> Result<Vec<Value>, String> {
    let mut clusters = Vec::new();
    for service in mesh.services.iter().filter(|one| one.metadata.is_exported_to(flavour.namespace())) {
        let (policy, subsets) = mesh.rule_for(service, flavour);
        for port in &service.spec.ports {
            clusters.push(cluster(service, port, "", &policy, flavour)?);
            for subset in &subsets {
                clusters.push(cluster(service, port, &subset.name, &policy, flavour)?);
            }
        }
    }
    if flavour.role == Role::Sidecar {
        // Where requests to unknown hosts go.
        clusters.push(json!({
            "name": "PassthroughCluster",
            "type": "ORIGINAL_DST",
            "connect_timeout": "10s",
            "lb_policy": "CLUSTER_PROVIDED",
        }));
    }
    Ok(clusters)
}

/// The name of a Service's cluster; with an empty subset the one of all its pods.
pub(super) fn name(host: &str, port: u16, subset: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

fn cluster(
    service: &Object<ServiceSpec>,
    port: &ServicePort,
    subset: &str,
    policy: &TrafficPolicy,
    flavour: &Flavour,
) -> Result<Value, String> {
    let name = name(&service.metadata.host(), port.port, subset);
    let mut cluster = json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
            "service_name": name,
        },
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": UNLIMITED,
            "max_pending_requests": UNLIMITED,
            "max_requests": UNLIMITED,
            "max_retries": UNLIMITED,
            "track_remaining": true,
        }]},
        "common_lb_config": {},
    });
    if matches!(port.app_protocol.as_str(), "http2" | "grpc" | "kubernetes.io/h2c") {
        let options = http_options(&mut cluster);
        options["explicit_http_config"] = json!({"http2_protocol_options": {}});
    }
    // Only of the cluster without a subset (`OverrideHostStatus` in cluster.go).
    if subset.is_empty() && service.metadata.labels.contains_key("istio.io/persistent-session") {
        cluster["common_lb_config"]["override_host_status"] =
            json!({"statuses": ["HEALTHY", "DRAINING", "UNKNOWN", "DEGRADED"]});
    }
    balance(&mut cluster, policy)?;
    connect(&mut cluster, policy);
    if let Some(outliers) = &policy.outlier_detection {
        detect_outliers(&mut cluster, outliers);
    }
    let common = &mut cluster["common_lb_config"];
    if flavour.sends_unhealthy && common.get("healthy_panic_threshold").is_none() {
        common["healthy_panic_threshold"] = json!({"value": 0});
    }
    match policy.tls.as_ref().map(|tls| tls.mode.as_str()) {
        Some("ISTIO_MUTUAL") => cluster["transport_socket"] = mutual_tls(&name),
        None => {}
        Some(mode) => return Err(format!("{name}: tls.mode {mode} is not known here")),
    }
    if flavour.role == Role::Sidecar && service.spec.cluster_ip.as_deref() == Some("None") {
        cluster["type"] = "ORIGINAL_DST".into();
        cluster["lb_policy"] = "CLUSTER_PROVIDED".into();
        cluster.as_object_mut().unwrap().remove("eds_cluster_config");
    }
    Ok(cluster)
}

fn balance(cluster: &mut Value, policy: &TrafficPolicy) -> Result<(), String> {
    let balancer = policy.load_balancer.as_ref();
    let simple = balancer.and_then(|balancer| balancer.simple.as_deref()).unwrap_or("LEAST_REQUEST");
    if !["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"].contains(&simple) {
        return Err(format!("loadBalancer.simple {simple} is not known here"));
    }
    cluster["lb_policy"] = simple.into();
    if let Some(locality) = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref()) {
        let fails_over = policy.outlier_detection.is_some() && locality.failover.is_some();
        if locality.enabled != Some(false) && (fails_over || locality.distribute.is_some()) {
            cluster["common_lb_config"]["locality_weighted_lb_config"] = json!({});
        }
    }
    Ok(())
}

fn connect(cluster: &mut Value, policy: &TrafficPolicy) {
    let pool = policy.connection_pool.as_ref();
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    if let Some(timeout) = tcp.and_then(|tcp| tcp.connect_timeout.as_ref()) {
        cluster["connect_timeout"] = timeout.as_str().into();
    }
    let http = pool.and_then(|pool| pool.http.as_ref());
    if let Some(timeout) = http.and_then(|http| http.idle_timeout.as_ref()) {
        let options = http_options(cluster);
        options["common_http_protocol_options"] = json!({"idle_timeout": timeout});
        if options.get("explicit_http_config").is_none() {
            options["explicit_http_config"] = json!({"http_protocol_options": {}});
        }
    }
}

fn http_options(cluster: &mut Value) -> &mut Value {
    let options = &mut cluster["typed_extension_protocol_options"][HTTP_OPTIONS];
    options["@type"] = format!("type.googleapis.com/{HTTP_OPTIONS}").into();
    options
}

fn detect_outliers(cluster: &mut Value, rule: &OutlierDetection) {
    let mut outliers = json!({"enforcing_success_rate": 0});
    if let Some(errors) = rule.consecutive_5xx_errors {
        outliers["consecutive_5xx"] = errors.into();
        outliers["enforcing_consecutive_5xx"] = if errors > 0 { 100 } else { 0 }.into();
    }
    if let Some(interval) = &rule.interval {
        outliers["interval"] = interval.as_str().into();
    }
    if let Some(time) = &rule.base_ejection_time {
        outliers["base_ejection_time"] = time.as_str().into();
    }
    if let Some(percent) = rule.max_ejection_percent {
        outliers["max_ejection_percent"] = percent.into();
    }
    cluster["outlier_detection"] = outliers;
    // Set even if the rule does not mention it: Envoy's panic mode is off wherever outliers are detected.
    let panic = rule.min_health_percent.unwrap_or(0);
    cluster["common_lb_config"]["healthy_panic_threshold"] = json!({"value": panic});
}

/// The certificates come from Istio's agent, over SDS.
fn mutual_tls(name: &str) -> Value {
    let secret = |name: &str| {
        json!({"name": name, "sds_config": {
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            },
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        }})
    };
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["istio-peer-exchange", "istio", "h2"],
                "tls_certificate_sds_secret_configs": [secret("default")],
                "combined_validation_context": {
                    "default_validation_context": {},
                    "validation_context_sds_secret_config": secret("ROOTCA"),
                },
            },
            "sni": name.replace("||", "_._").replace('|', "_."),
        },
    })
}
