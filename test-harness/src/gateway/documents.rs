//! The resources of `envoy/gateway/` that are translated, as far as they are used there. An unknown field is an error, so that a
//! misspelt one never goes unnoticed.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What every resource has beside its specification.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Resource<Spec> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

/// Declares structs that refuse unknown fields, named as in Kubernetes.
macro_rules! specs {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {$(
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        #[allow(dead_code, reason = "what is not translated is checked all the same")]
        pub(super) struct $name { $($(#[$attribute])* pub(super) $field: $type,)* }
    )*};
}

specs! {
    Metadata { name: String, namespace: Option<String>, }
    TargetRef { group: String, kind: String, name: String, section_name: Option<String>, }
    ParametersRef { group: String, kind: String, name: String, namespace: String, }

    GatewayClass { controller_name: String, parameters_ref: ParametersRef, }
    Gateway { gateway_class_name: String, listeners: Vec<Listener>, }
    Listener { name: String, port: u16, protocol: String, tls: Option<Tls>, }
    Tls { mode: String, certificate_refs: Vec<CertificateRef>, }
    CertificateRef { name: String, }
    EnvoyProxy { bootstrap: ProxyBootstrap, #[serde(default)] filter_order: Vec<FilterPosition>, }
    FilterPosition { name: String, before: Option<String>, after: Option<String>, }
    ProxyBootstrap { r#type: String, value: String, }

    HttpRoute { parent_refs: Vec<ParentRef>, rules: Vec<Rule>, }
    ParentRef { name: String, }
    Rule {
        name: String, matches: Vec<Match>, #[serde(default)] filters: Vec<RouteFilter>,
        backend_refs: Vec<BackendRef>,
    }
    RouteFilter { r#type: String, response_header_modifier: HeaderModifier, }
    HeaderModifier { remove: Vec<String>, }
    Match { headers: Option<Vec<HeaderMatch>>, path: PathMatch, }
    HeaderMatch { r#type: String, name: String, value: String, }
    PathMatch { r#type: String, value: String, }
    BackendRef { name: String, port: u16, }

    ClientTrafficPolicy { target_refs: Vec<TargetRef>, headers: ClientHeaders, timeout: ClientTimeout, }
    ClientHeaders { early_request_headers: EarlyHeaders, }
    EarlyHeaders { remove: Vec<String>, }
    ClientTimeout { http: ClientHttpTimeout, }
    ClientHttpTimeout { request_received_timeout: String, }

    BackendTrafficPolicy {
        target_refs: Vec<TargetRef>, load_balancer: LoadBalancer, health_check: HealthCheck,
        circuit_breaker: CircuitBreaker, retry: Retry, timeout: Timeout,
    }
    LoadBalancer {
        r#type: String, endpoint_override: Option<EndpointOverride>, consistent_hash: Option<ConsistentHash>,
    }
    EndpointOverride { extract_from: Vec<HeaderSource>, }
    HeaderSource { header: String, }
    ConsistentHash { r#type: String, header: HashHeader, }
    HashHeader { name: String, }
    HealthCheck { active: ActiveCheck, passive: PassiveCheck, }
    ActiveCheck {
        r#type: String, timeout: String, interval: String, unhealthy_threshold: u32, healthy_threshold: u32,
        http: HttpCheck,
    }
    HttpCheck { path: String, expected_statuses: Vec<u16>, }
    PassiveCheck {
        interval: String, base_ejection_time: String, max_ejection_percent: u32,
        #[serde(rename = "consecutive5XxErrors")] consecutive_5xx_errors: u32,
    }
    CircuitBreaker {
        max_connections: u32, max_pending_requests: u32, max_parallel_requests: u32, max_parallel_retries: u32,
    }
    Retry { num_retries: u32, retry_on: RetryOn, per_retry: PerRetry, }
    RetryOn { triggers: Vec<String>, }
    PerRetry { back_off: BackOff, }
    BackOff { base_interval: String, max_interval: String, }
    Timeout { tcp: TcpTimeout, http: HttpTimeout, }
    TcpTimeout { connect_timeout: String, }
    HttpTimeout { request_timeout: String, }

    EnvoyExtensionPolicy { target_refs: Vec<TargetRef>, wasm: Vec<Wasm>, }
    Wasm { name: String, #[serde(rename = "rootID")] root_id: String, code: Code, config: Map<String, Value>, }
    Code { r#type: String, image: Image, }
    Image { url: String, }

    EnvoyPatchPolicy { target_ref: TargetRef, r#type: String, json_patches: Vec<ResourcePatch>, }
    ResourcePatch { r#type: String, name: String, operation: Operation, }
    Operation {
        op: String, path: Option<String>, json_path: Option<String>, from: Option<String>, value: Option<Value>,
    }
}

/// Those of a kind.
pub(super) fn all<S: DeserializeOwned>(resources: &[Value], kind: &str) -> Result<Vec<Resource<S>>, String> {
    let of_kind = resources.iter().filter(|resource| resource["kind"] == kind);
    let read = |resource: &Value| {
        serde_json::from_value(resource.clone()).map_err(|error| format!("{}: {error}", title(resource)))
    };
    of_kind.map(read).collect()
}

/// The only one of a kind, or the last.
pub(super) fn one<S: DeserializeOwned>(resources: &[Value], kind: &str) -> Result<Resource<S>, String> {
    all(resources, kind)?.pop().ok_or(format!("there is no {kind}"))
}

/// What it is called.
pub(super) fn title(resource: &Value) -> String {
    format!("{} {}", resource["kind"], resource["metadata"]["name"]).replace('"', "")
}

/// A duration of Kubernetes (`5ms`, `3s`) as Envoy writes it.
pub(super) fn seconds(duration: &str) -> Result<String, String> {
    let fault = || format!("not a duration in ms or s: {duration}");
    if let Some(milliseconds) = duration.strip_suffix("ms") {
        let milliseconds: u32 = milliseconds.parse().map_err(|_| fault())?;
        return Ok(format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000));
    }
    let whole =
        duration.strip_suffix('s').and_then(|seconds| seconds.parse::<u32>().ok()).ok_or_else(fault)?;
    Ok(format!("{whole}s"))
}
