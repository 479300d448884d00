//! An EnvoyFilter as its resource says it, read strictly: what istiod would refuse, only warn of, or ignore whatever the proxy is an
//! error here that names its path.

mod check;
mod matching;

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::messages::Message;

pub(super) use self::matching::{
    Action, ClusterMatch, FilterMatch, ListenerMatch, RouteConfigurationMatch, VirtualHostMatch,
};

pub(in crate::istio) const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// One EnvoyFilter.
#[derive(Clone, Debug)]
pub struct EnvoyFilter {
    pub(super) metadata: Metadata,
    pub(super) priority: i32,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) targets: Vec<Target>,
    pub(super) patches: Vec<Patch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Metadata {
    pub(in crate::istio) name: String,
    pub(in crate::istio) namespace: String,
    #[serde(default)]
    _labels: BTreeMap<String, String>,
    #[serde(default)]
    _annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as Kubernetes writes it: such times sort as text.
    #[serde(default)]
    pub(in crate::istio) creation_timestamp: String,
}

/// What an EnvoyFilter is attached to instead of a selector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::istio) struct Target {
    pub(in crate::istio) group: String,
    pub(in crate::istio) kind: String,
    pub(in crate::istio) name: String,
}

/// One change, and what it changes.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub(super) apply_to: ApplyTo,
    pub(super) context: Context,
    pub(super) version: Option<Regex>,
    pub(super) cluster: Option<ClusterMatch>,
    pub(super) listener: Option<ListenerMatch>,
    pub(super) routes: Option<RouteConfigurationMatch>,
    pub(super) operation: Operation,
    pub(super) value: Value,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ApplyTo {
    Cluster,
    Listener,
    FilterChain,
    NetworkFilter,
    HttpFilter,
    RouteConfiguration,
    VirtualHost,
    HttpRoute,
    ExtensionConfig,
    ListenerFilter,
    Bootstrap,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Context {
    Any,
    SidecarInbound,
    SidecarOutbound,
    Gateway,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Operation {
    Merge,
    MergeAndReplaceList,
    Add,
    Remove,
    InsertBefore,
    InsertAfter,
    InsertFirst,
    Replace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawFilter {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    metadata: Value,
    spec: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSpec {
    workload_selector: Option<RawSelector>,
    #[serde(default)]
    target_refs: Vec<Target>,
    config_patches: Vec<Value>,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelector {
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPatch {
    apply_to: ApplyTo,
    #[serde(default)]
    r#match: Value,
    patch: RawChange,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChange {
    operation: Operation,
    #[serde(default)]
    value: Value,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RawMatch {
    context: Option<Context>,
    proxy: Option<RawProxy>,
    cluster: Option<ClusterMatch>,
    listener: Option<ListenerMatch>,
    route_configuration: Option<RouteConfigurationMatch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawProxy {
    proxy_version: String,
}

impl EnvoyFilter {
    /// Reads an EnvoyFilter document.
    ///
    /// # Errors
    /// Every fault, one a line: the document, the path, and what is expected.
    pub fn parse(document: &Value) -> Result<Self, String> {
        whole(document, read)
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

/// A document if it has no fault; else every fault, one a line.
pub(in crate::istio) fn whole<T>(
    document: &Value,
    read: impl Fn(&Value, &mut Vec<String>) -> Option<T>,
) -> Result<T, String> {
    let mut faults = Vec::new();
    let found = read(document, &mut faults).filter(|_| faults.is_empty());
    found.ok_or_else(|| {
        let kind = document["kind"].as_str().unwrap_or("document");
        let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
        let lines: Vec<String> = faults.iter().map(|fault| format!("{kind} {name}: {fault}")).collect();
        lines.join("\n")
    })
}

/// Part of a document.
pub(in crate::istio) fn part<T: DeserializeOwned>(
    value: &Value,
    path: &str,
    faults: &mut Vec<String>,
) -> Option<T> {
    serde_json::from_value(value.clone()).map_err(|error| faults.push(format!("{path}: {error}"))).ok()
}

fn read(document: &Value, faults: &mut Vec<String>) -> Option<EnvoyFilter> {
    let raw: RawFilter = part(document, "document", faults)?;
    if raw.kind != "EnvoyFilter" || raw.api_version != "networking.istio.io/v1alpha3" {
        faults.push(format!(
            "kind: expected EnvoyFilter of networking.istio.io/v1alpha3, not {} of {}",
            raw.kind, raw.api_version
        ));
    }
    let metadata: Option<Metadata> = part(&raw.metadata, "metadata", faults);
    let spec: RawSpec = part(&raw.spec, "spec", faults)?;
    if spec.workload_selector.is_some() && !spec.target_refs.is_empty() {
        faults.push("spec: expected workloadSelector or targetRefs, not both".into());
    }
    check_targets(&spec.target_refs, faults);
    let mut patches = Vec::new();
    for (index, patch) in spec.config_patches.iter().enumerate() {
        patches.extend(read_patch(patch, &format!("spec.configPatches[{index}]"), faults));
    }
    Some(EnvoyFilter {
        metadata: metadata?,
        priority: spec.priority,
        selector: spec.workload_selector.map(|selector| selector.labels).unwrap_or_default(),
        targets: spec.target_refs,
        patches,
    })
}

pub(in crate::istio) fn check_targets(targets: &[Target], faults: &mut Vec<String>) {
    for (index, target) in targets.iter().enumerate() {
        if (target.group.as_str(), target.kind.as_str()) != ("gateway.networking.k8s.io", "Gateway") {
            faults.push(format!(
                "spec.targetRefs[{index}]: expected a Gateway of gateway.networking.k8s.io; all else is for waypoints"
            ));
        }
    }
}

fn read_patch(value: &Value, path: &str, faults: &mut Vec<String>) -> Option<Patch> {
    let raw: RawPatch = part(value, path, faults)?;
    let matched = if raw.r#match.is_null() {
        RawMatch::default()
    } else {
        part(&raw.r#match, &format!("{path}.match"), faults)?
    };
    let version = matched.proxy.and_then(|proxy| {
        let version = Regex::new(&proxy.proxy_version);
        version.map_err(|error| faults.push(format!("{path}.match.proxy.proxyVersion: {error}"))).ok()
    });
    let patch = Patch {
        apply_to: raw.apply_to,
        context: matched.context.unwrap_or(Context::Any),
        version,
        cluster: matched.cluster,
        listener: matched.listener,
        routes: matched.route_configuration,
        operation: raw.apply_to.operation(raw.patch.operation),
        value: raw.patch.value,
    };
    patch.check(path, faults);
    Some(patch)
}

impl ApplyTo {
    /// What istiod makes of an operation: where there is no order, an insertion is an addition.
    fn operation(self, written: Operation) -> Operation {
        let is_insertion =
            matches!(written, Operation::InsertBefore | Operation::InsertAfter | Operation::InsertFirst);
        let has_order = matches!(self, Self::NetworkFilter | Self::HttpFilter | Self::HttpRoute);
        if is_insertion && !has_order { Operation::Add } else { written }
    }

    fn message(self) -> &'static Message {
        let name = match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::FilterChain => "envoy.config.listener.v3.FilterChain",
            Self::NetworkFilter => "envoy.config.listener.v3.Filter",
            Self::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
            Self::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::HttpRoute => "envoy.config.route.v3.Route",
            Self::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
            Self::ListenerFilter | Self::Bootstrap => "envoy.config.listener.v3.ListenerFilter",
        };
        Message::named(name).expect("the table has the messages that patches are for")
    }
}

impl Patch {
    pub(super) fn merges(&self) -> bool {
        matches!(self.operation, Operation::Merge | Operation::MergeAndReplaceList)
    }

    /// The message that its value is.
    pub(super) fn message(&self) -> &'static Message {
        self.apply_to.message()
    }

    pub(super) fn filter(&self) -> Option<&FilterMatch> {
        self.listener.as_ref()?.filter_chain.as_ref()?.filter.as_ref()
    }

    /// The match for the object itself: of a network filter the filter's, of an HTTP filter the sub-filter's.
    pub(super) fn filter_name(&self) -> Option<&str> {
        let filter = self.filter()?;
        match self.apply_to {
            ApplyTo::HttpFilter => Some(&filter.sub_filter.as_ref()?.name),
            _ => Some(&filter.name),
        }
    }
}
