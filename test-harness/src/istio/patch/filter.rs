//! An EnvoyFilter as its resource says it, read strictly: what istiod would refuse, only warn of, or ignore whatever the proxy is an
//! error here that names its path.

use std::collections::BTreeMap;
use std::fmt::Debug;

use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::messages::{Message, Use, check};

pub(super) const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

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
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    #[serde(default)]
    _labels: BTreeMap<String, String>,
    #[serde(default)]
    _annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as Kubernetes writes it: such times sort as text.
    #[serde(default)]
    pub(super) creation_timestamp: String,
}

/// What an EnvoyFilter is attached to instead of a selector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
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

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ClusterMatch {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) subset: String,
    pub(super) port_number: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ListenerMatch {
    pub(super) name: String,
    pub(super) port_number: u32,
    pub(super) filter_chain: Option<FilterChainMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct FilterChainMatch {
    pub(super) name: String,
    pub(super) sni: String,
    pub(super) transport_protocol: String,
    pub(super) application_protocols: String,
    pub(super) destination_port: u32,
    pub(super) filter: Option<FilterMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FilterMatch {
    pub(super) name: String,
    pub(super) sub_filter: Option<SubFilterMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubFilterMatch {
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RouteConfigurationMatch {
    pub(super) name: String,
    pub(super) port_number: u32,
    pub(super) port_name: String,
    pub(super) gateway: String,
    pub(super) vhost: Option<VirtualHostMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct VirtualHostMatch {
    pub(super) name: String,
    pub(super) domain_name: String,
    pub(super) route: Option<RouteMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouteMatch {
    pub(super) name: String,
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Action {
    #[default]
    Any,
    Route,
    Redirect,
    DirectResponse,
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
        let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
        let mut faults = Vec::new();
        let filter = read(document, &mut faults);
        match filter {
            Some(filter) if faults.is_empty() => Ok(filter),
            _ => {
                let lines: Vec<String> =
                    faults.iter().map(|fault| format!("EnvoyFilter {name}: {fault}")).collect();
                Err(lines.join("\n"))
            }
        }
    }

    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

fn part<T: DeserializeOwned>(value: &Value, path: &str, faults: &mut Vec<String>) -> Option<T> {
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
    for (index, target) in spec.target_refs.iter().enumerate() {
        if (target.group.as_str(), target.kind.as_str()) != ("gateway.networking.k8s.io", "Gateway") {
            faults.push(format!(
                "spec.targetRefs[{index}]: expected a Gateway of gateway.networking.k8s.io; all else is for waypoints"
            ));
        }
    }
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
    patch.check_operation(path, faults);
    patch.check_match(path, faults);
    patch.check_value(&format!("{path}.patch.value"), faults);
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

    fn operations(self) -> &'static [Operation] {
        use Operation::{
            Add, InsertAfter, InsertBefore, InsertFirst, Merge, MergeAndReplaceList, Remove, Replace,
        };
        match self {
            Self::Cluster | Self::Listener | Self::FilterChain => &[Merge, MergeAndReplaceList, Remove, Add],
            // The last is accepted and ignored.
            Self::NetworkFilter | Self::HttpFilter => {
                &[Merge, Add, InsertBefore, InsertAfter, InsertFirst, Replace, Remove, MergeAndReplaceList]
            }
            Self::RouteConfiguration => &[Merge, MergeAndReplaceList],
            Self::VirtualHost => &[Merge, MergeAndReplaceList, Remove, Replace, Add],
            Self::HttpRoute => {
                &[Merge, MergeAndReplaceList, Remove, Add, InsertBefore, InsertAfter, InsertFirst]
            }
            Self::ExtensionConfig => &[Add],
            Self::ListenerFilter | Self::Bootstrap => &[],
        }
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

    fn is_for_filter(&self) -> bool {
        matches!(self.apply_to, ApplyTo::NetworkFilter | ApplyTo::HttpFilter)
    }

    fn check_operation(&self, path: &str, faults: &mut Vec<String>) {
        let acting = self.apply_to.operations();
        match self.apply_to {
            ApplyTo::Bootstrap => faults.push(format!(
                "{path}.applyTo: no Istio since 1.21 applies BOOTSTRAP; annotate the pod with sidecar.istio.io/bootstrapOverride"
            )),
            ApplyTo::ListenerFilter => faults.push(format!(
                "{path}.applyTo: LISTENER_FILTER is not translated here; Berth has no listener filter"
            )),
            _ if !acting.contains(&self.operation) => faults.push(format!(
                "{path}.patch.operation: istiod ignores {:?} for {:?}; expected one of {acting:?}",
                self.operation, self.apply_to
            )),
            _ => {}
        }
        let needs_name = matches!(self.operation, Operation::Remove | Operation::Replace);
        if self.is_for_filter() && needs_name && self.filter_name().is_none() {
            faults.push(format!(
                "{path}.match.listener.filterChain: istiod ignores {:?} without the filter's name",
                self.operation
            ));
        }
    }

    fn check_match(&self, path: &str, faults: &mut Vec<String>) {
        let path = format!("{path}.match");
        let (is_listener, is_route) = match self.apply_to {
            ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
                (true, false)
            }
            ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => (false, true),
            _ => (false, false),
        };
        let mut refuse = |name: &str, is_there: bool, belongs: bool| {
            if is_there && !belongs {
                faults.push(format!("{path}.{name}: not for {:?}", self.apply_to));
            }
        };
        refuse("cluster", self.cluster.is_some(), self.apply_to == ApplyTo::Cluster);
        refuse("listener", self.listener.is_some(), is_listener);
        refuse("routeConfiguration", self.routes.is_some(), is_route);
        let Some(filter) = self.filter() else { return };
        let path = format!("{path}.listener.filterChain.filter");
        if !self.is_for_filter() {
            faults.push(format!("{path}: istiod ignores it for {:?}", self.apply_to));
        }
        if filter.sub_filter.is_some() {
            if self.apply_to != ApplyTo::HttpFilter {
                faults.push(format!("{path}.subFilter: only for HttpFilter"));
            } else if filter.name != CONNECTION_MANAGER {
                faults.push(format!("{path}.name: expected {CONNECTION_MANAGER} beside subFilter"));
            }
        }
    }

    fn check_value(&self, path: &str, faults: &mut Vec<String>) {
        if self.operation == Operation::Remove {
            return;
        }
        if !self.value.is_object() {
            faults.push(format!("{path}: expected an object"));
            return;
        }
        if !self.merges() {
            check(self.message(), &self.value, Use::Copy, path, faults);
        } else if self.is_for_filter() {
            self.check_only(&["name", "typed_config"], path, faults);
            check(self.message(), &self.value, Use::Copy, path, faults);
            check_unpacked(self.value.get("typed_config"), &format!("{path}.typed_config"), faults);
        } else {
            check(self.message(), &self.value, Use::Merge, path, faults);
            if let Some(socket) = self.value.get("transport_socket") {
                // Istio merges into the socket that has its name, and leaves the rest of the value.
                self.check_only(&["transport_socket"], path, faults);
                let path = format!("{path}.transport_socket.typed_config");
                check_unpacked(socket.get("typed_config"), &path, faults);
            }
        }
    }

    fn check_only(&self, names: &[&str], path: &str, faults: &mut Vec<String>) {
        for name in self.value.as_object().into_iter().flat_map(|fields| fields.keys()) {
            if !names.contains(&name.as_str()) {
                faults.push(format!(
                    "{path}.{name}: istiod ignores it here; expected {} alone",
                    names.join(" and ")
                ));
            }
        }
    }
}

/// An `Any` whose fields are merged one by one.
fn check_unpacked(any: Option<&Value>, path: &str, faults: &mut Vec<String>) {
    let Some(any) = any else { return };
    match Message::in_any(any) {
        Some(message) => check(message, any, Use::Merge, path, faults),
        None => faults.push(format!("{path}: messages.txt lacks the message that @type names; add it there")),
    }
}
