//! The kinds of documents that envoy/istio has, with the fields that it uses and no others: a field that is misspelt, or that this
//! translator would ignore, is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::extension::Extension;

/// A document as what it is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Service(Object<ServiceSpec>),
    DestinationRule(Object<DestinationRuleSpec>),
    VirtualService(Object<VirtualServiceSpec>),
    Gateway(Object<GatewaySpec>),
    KubernetesGateway(Object<KubernetesGatewaySpec>),
    KubernetesRoute(Object<KubernetesRouteSpec>),
    /// Its patches have no schema of their own: applying them and Envoy itself check them.
    EnvoyFilter,
    ConfigMap(ConfigMap),
    PeerAuthentication(Object<PeerAuthenticationSpec>),
    AuthorizationPolicy(Object<AuthorizationPolicySpec>),
    /// Has no part in what the harness runs.
    Other,
}

impl Kind {
    pub(super) fn parse(document: &Value) -> Result<Self, String> {
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        Ok(match (text("apiVersion"), text("kind")) {
            ("v1", "Service") => Self::Service(read(document)?),
            ("v1", "ConfigMap") => Self::ConfigMap(read(document)?),
            ("networking.istio.io/v1", "DestinationRule") => Self::DestinationRule(read(document)?),
            ("networking.istio.io/v1", "VirtualService") => Self::VirtualService(read(document)?),
            ("networking.istio.io/v1", "Gateway") => Self::Gateway(read(document)?),
            ("extensions.istio.io/v1alpha1", _) => {
                Extension::parse(document)?;
                Self::Other
            }
            ("gateway.networking.k8s.io/v1", "Gateway") => Self::KubernetesGateway(read(document)?),
            ("gateway.networking.k8s.io/v1", "HTTPRoute") => Self::KubernetesRoute(read(document)?),
            ("networking.istio.io/v1alpha3", "EnvoyFilter") => {
                read::<Object<Value>>(document)?;
                Self::EnvoyFilter
            }
            ("networking.istio.io/v1", "Sidecar") => other::<SidecarSpec>(document)?,
            ("security.istio.io/v1", "PeerAuthentication") => Self::PeerAuthentication(read(document)?),
            ("security.istio.io/v1", "AuthorizationPolicy") => Self::AuthorizationPolicy(read(document)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => other::<NetworkPolicySpec>(document)?,
            (version, kind) => return Err(format!("unknown kind {version} {kind}")),
        })
    }
}

fn read<T: DeserializeOwned>(document: &Value) -> Result<T, String> {
    let name = |document: &Value| format!("{} {}", document["kind"], document["metadata"]["name"]);
    serde_json::from_value(document.clone()).map_err(|error| format!("{}: {error}", name(document)))
}

fn other<S: DeserializeOwned>(document: &Value) -> Result<Kind, String> {
    read::<Object<S>>(document).map(|_| Kind::Other)
}

macro_rules! fields {
    ($($(#[$meta:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(dead_code, reason = "some fields are known and change nothing that the harness runs")]
        pub(super) struct $name { $($(#[$of_field])* pub(super) $field: $type,)* }
    )*};
}

type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "apiVersion and kind have been looked at before")]
pub(super) struct Object<S> {
    api_version: String,
    kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: S,
}

fields! {
    Metadata {
        name: String,
        namespace: String,
        #[serde(default)]
        labels: Labels,
        #[serde(default)]
        annotations: Labels,
    }
    ConfigMap { api_version: String, kind: String, metadata: Metadata, data: BTreeMap<String, String>, }

    ServiceSpec {
        #[serde(rename = "type")]
        type_: Option<String>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Option<String>,
        selector: Labels,
        ports: Vec<ServicePort>,
    }
    ServicePort { name: String, app_protocol: String, port: u16, target_port: u16, }

    DestinationRuleSpec {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        #[serde(default)]
        subsets: Vec<Subset>,
    }
    Subset { name: String, labels: Option<Labels>, }
    #[derive(Default)]
    TrafficPolicy {
        tls: Option<Tls>,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
    }
    Tls { mode: String, }
    LoadBalancer { simple: Option<String>, locality_lb_setting: Option<LocalityLbSetting>, }
    LocalityLbSetting {
        enabled: Option<bool>,
        distribute: Option<Vec<Value>>,
        failover: Option<Vec<Value>>,
    }
    ConnectionPool { tcp: Option<TcpPool>, http: Option<HttpPool>, }
    TcpPool { connect_timeout: Option<String>, }
    HttpPool { idle_timeout: Option<String>, }
    OutlierDetection {
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<u32>,
        interval: Option<String>,
        base_ejection_time: Option<String>,
        max_ejection_percent: Option<u32>,
        min_health_percent: Option<u32>,
    }

    VirtualServiceSpec {
        hosts: Vec<String>,
        #[serde(default)]
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
    }
    HttpRoute {
        name: Option<String>,
        #[serde(default)]
        r#match: Vec<HttpMatch>,
        route: Vec<WeightedDestination>,
        retries: Option<Retries>,
        timeout: Option<String>,
        headers: Option<HeaderOperations>,
    }
    HeaderOperations { response: RemovedHeaders, }
    RemovedHeaders { remove: Vec<String>, }
    HttpMatch { headers: BTreeMap<String, StringMatch>, }
    StringMatch { exact: Option<String>, regex: Option<String>, }
    WeightedDestination { destination: Destination, weight: Option<u32>, }
    Destination { host: String, subset: Option<String>, port: PortNumber, }
    PortNumber { number: u16, }
    Retries { attempts: u32, retry_on: Option<String>, }

    GatewaySpec { selector: Labels, servers: Vec<Server>, }
    Server { port: ServerPort, hosts: Vec<String>, }
    ServerPort { number: u16, name: String, protocol: String, }

    KubernetesGatewaySpec { gateway_class_name: String, listeners: Vec<KubernetesListener>, }
    KubernetesListener {
        name: String,
        port: u16,
        protocol: String,
        hostname: String,
        allowed_routes: Value,
    }
    KubernetesRouteSpec {
        parent_refs: Vec<ParentRef>,
        hostnames: Vec<String>,
        rules: Vec<KubernetesRule>,
    }
    ParentRef { name: String, namespace: String, }
    KubernetesRule {
        #[serde(default)]
        matches: Vec<KubernetesMatch>,
        #[serde(default)]
        filters: Vec<KubernetesFilter>,
        backend_refs: Vec<BackendRef>,
    }
    KubernetesFilter { r#type: String, response_header_modifier: RemovedHeaders, }
    KubernetesMatch { headers: Vec<KubernetesHeader>, }
    KubernetesHeader { name: String, r#type: String, value: String, }
    BackendRef { name: String, port: u16, }

    SidecarSpec { workload_selector: WorkloadSelector, egress: Vec<Egress>, }
    WorkloadSelector { labels: Labels, }
    Egress { hosts: Vec<String>, }

    PeerAuthenticationSpec { selector: MatchLabels, mtls: Tls, }
    MatchLabels { match_labels: Labels, }
    AuthorizationPolicySpec { selector: MatchLabels, action: String, rules: Vec<AuthorizationRule>, }
    AuthorizationRule { from: Vec<From>, to: Vec<To>, }
    From { source: Source, }
    Source { principals: Vec<String>, }
    To { operation: Operation, }
    Operation { ports: Vec<String>, }

    NetworkPolicySpec { pod_selector: MatchLabels, policy_types: Vec<String>, ingress: Vec<Ingress>, }
    Ingress { from: Vec<Peer>, ports: Vec<PeerPort>, }
    Peer { namespace_selector: MatchExpressions, }
    MatchExpressions { match_expressions: Vec<MatchExpression>, }
    MatchExpression { key: String, operator: String, values: Vec<String>, }
    PeerPort { protocol: String, port: u16, }
}

impl<S> Object<S> {
    /// The same object, turned into another kind.
    pub(super) fn with<T>(self, spec: T) -> Object<T> {
        Object { api_version: self.api_version, kind: self.kind, metadata: self.metadata, spec }
    }
}

impl Metadata {
    /// Whether proxies of this namespace have the Service, by its annotation `exportTo`.
    pub(super) fn is_exported_to(&self, namespace: &str) -> bool {
        let Some(list) = self.annotations.get("networking.istio.io/exportTo") else { return true };
        let names = list.split(',').map(str::trim);
        names
            .map(|name| if name == "." { &self.namespace } else { name })
            .any(|name| name == "*" || name == namespace)
    }

    /// What a cluster's DNS calls a Service.
    pub(super) fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}
