//! WasmPlugin and TrafficExtension: what istiod makes of them (`pilot/pkg/model/extensions.go`, `core/extension/`), and what Istio's agent
//! makes of every Wasm filter that istiod sends ([`pull`]).
//!
//! Both become an HTTP filter that comes by ECDS, before EnvoyFilters act. Where Istio's API has less than Envoy's, so has the result:
//! no capability list, no `vm_id`, no place behind CORS and faults. Lua, network filters, ports in `match` and `vmConfig` are not
//! translated and are errors.

mod agent;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::filter::{CONNECTION_MANAGER, Metadata, Target, check_targets, part, whole};
use super::patch::{Proxy, Resources, Role, filter_chains, select};

pub use self::agent::pull;

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
/// Since this minor version a WasmPlugin is turned into a TrafficExtension first, which gives it another name.
const TRANSLATES: u32 = 30;

/// One WasmPlugin, or one TrafficExtension.
#[derive(Clone, Debug)]
pub struct Extension {
    metadata: Metadata,
    is_wasm_plugin: bool,
    selector: BTreeMap<String, String>,
    targets: Vec<Target>,
    phase: Phase,
    priority: Option<i32>,
    modes: Vec<Mode>,
    wasm: Wasm,
}

/// In the order of their filters.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "UPPERCASE")]
enum Phase {
    Authn,
    Authz,
    Stats,
    #[default]
    #[serde(alias = "UNSPECIFIED_PHASE", alias = "UNSPECIFIED_EXECUTION_PHASE")]
    Unspecified,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    Client,
    Server,
    ClientAndServer,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wasm {
    url: String,
    #[serde(default)]
    sha256: String,
    image_pull_policy: Option<PullPolicy>,
    image_pull_secret: Option<String>,
    plugin_config: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    plugin_name: String,
    #[serde(default)]
    fail_strategy: FailStrategy,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum PullPolicy {
    IfNotPresent,
    Always,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum FailStrategy {
    #[default]
    #[serde(rename = "FAIL_CLOSE")]
    Close,
    #[serde(rename = "FAIL_OPEN")]
    Open,
    #[serde(rename = "FAIL_RELOAD")]
    Reload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: Value,
}

/// What the specs of both have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Common {
    selector: Option<Selector>,
    #[serde(default)]
    target_refs: Vec<Target>,
    #[serde(default)]
    phase: Phase,
    priority: Option<i32>,
    #[serde(default)]
    r#match: Vec<Traffic>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Traffic {
    mode: Mode,
}

impl Extension {
    /// Reads a WasmPlugin or a TrafficExtension.
    ///
    /// # Errors
    /// Every fault, one a line: the document, the path, and what is expected.
    pub fn parse(document: &Value) -> Result<Self, String> {
        whole(document, read)
    }

    /// `namespace.name`, as this version of Istio has it.
    fn name(&self, istio: u32) -> String {
        let Metadata { name, namespace, .. } = &self.metadata;
        let mark = if self.is_translated(istio) { "~istio-translated-wasmplugin" } else { "" };
        format!("{namespace}.{name}{mark}")
    }

    /// The name of the filter, and of the resource that it asks for.
    fn resource_name(&self, istio: u32) -> String {
        let is_plugin = self.is_wasm_plugin && !self.is_translated(istio);
        let kind = if is_plugin { "wasmplugin" } else { "trafficextension" };
        format!("extensions.istio.io/{kind}/{}", self.name(istio))
    }

    fn is_translated(&self, istio: u32) -> bool {
        self.is_wasm_plugin && istio >= TRANSLATES
    }

    fn resource(&self, istio: u32) -> Value {
        let mut config = json!({
            "name": self.name(istio),
            "root_id": self.wasm.plugin_name,
            "failure_policy": match self.wasm.fail_strategy {
                FailStrategy::Close => "FAIL_CLOSED",
                FailStrategy::Open => "FAIL_OPEN",
                FailStrategy::Reload => "FAIL_RELOAD",
            },
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": self.wasm.code(),
                "environment_variables": {"key_values": self.wasm.for_the_agent()},
            },
        });
        if let Some(plugin) = self.wasm.plugin_config.as_ref().filter(|plugin| !plugin.is_empty()) {
            config["configuration"] = json!({
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": Value::Object(plugin.clone()).to_string(),
            });
        }
        json!({"name": self.resource_name(istio), "typed_config": {"@type": WASM, "config": config}})
    }

    fn is_for(&self, is_inbound: bool) -> bool {
        let own = if is_inbound { Mode::Server } else { Mode::Client };
        self.modes.is_empty() || self.modes.iter().any(|&mode| mode == own || mode == Mode::ClientAndServer)
    }
}

impl Wasm {
    fn code(&self) -> Value {
        if let Some(file) = self.url.strip_prefix("file://") {
            return json!({"local": {"filename": file}});
        }
        let uri = if self.url.contains("://") { self.url.clone() } else { format!("oci://{}", self.url) };
        json!({"remote": {
            "http_uri": {"uri": uri, "timeout": "30s", "cluster": "_"},
            "sha256": self.sha256,
        }})
    }

    fn for_the_agent(&self) -> Value {
        let mut variables = json!({"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"});
        if let Some(policy) = self.image_pull_policy {
            variables["ISTIO_META_WASM_IMAGE_PULL_POLICY"] = format!("{policy:?}").into();
        }
        if let Some(secret) = &self.image_pull_secret {
            variables["ISTIO_META_WASM_IMAGE_PULL_SECRET"] = secret.as_str().into();
        }
        variables
    }
}

fn read(document: &Value, faults: &mut Vec<String>) -> Option<Extension> {
    let mut raw: Document = part(document, "document", faults)?;
    let is_wasm_plugin = match (raw.kind.as_str(), raw.api_version.as_str()) {
        ("WasmPlugin", "extensions.istio.io/v1alpha1") => true,
        ("TrafficExtension", "extensions.istio.io/v1alpha1") => false,
        (kind, version) => {
            faults.push(format!(
                "kind: expected WasmPlugin or TrafficExtension of extensions.istio.io/v1alpha1, not {kind} of {version}"
            ));
            return None;
        }
    };
    let metadata: Option<Metadata> = part(&raw.metadata, "metadata", faults);
    let mut common = serde_json::Map::new();
    let spec = raw.spec.as_object_mut()?;
    for name in ["selector", "targetRefs", "phase", "priority", "match"] {
        common.extend(spec.remove_entry(name));
    }
    let common: Option<Common> = part(&Value::Object(common), "spec", faults);
    let wasm: Option<Wasm> = if is_wasm_plugin {
        part(&raw.spec, "spec", faults)
    } else {
        let wasm = spec.remove("wasm").unwrap_or_default();
        faults.extend(
            spec.keys()
                .map(|name| format!("spec.{name}: unknown field; expected wasm beside the common ones")),
        );
        part(&wasm, "spec.wasm", faults)
    };
    let common = common?;
    if common.selector.is_some() && !common.target_refs.is_empty() {
        faults.push("spec: expected selector or targetRefs, not both".into());
    }
    check_targets(&common.target_refs, faults);
    Some(Extension {
        metadata: metadata?,
        is_wasm_plugin,
        selector: common.selector.map(|selector| selector.match_labels).unwrap_or_default(),
        targets: common.target_refs,
        phase: common.phase,
        priority: common.priority,
        modes: common.r#match.into_iter().map(|traffic| traffic.mode).collect(),
        wasm: wasm?,
    })
}

/// Adds those that select the proxy to its listeners, and their resources. EnvoyFilters act after this.
///
/// # Errors
/// If this version of Istio does not know one of them.
pub fn install(resources: &mut Resources, extensions: &[Extension], proxy: &Proxy) -> Result<(), String> {
    let istio = proxy.istio_minor();
    if let Some(unknown) = extensions.iter().find(|one| !one.is_wasm_plugin && istio < TRANSLATES) {
        return Err(format!("TrafficExtension {}: Istio has it since 1.{TRANSLATES}", unknown.metadata.name));
    }
    for extension in in_order(extensions, proxy) {
        let mut is_used = false;
        for listener in &mut resources.listeners {
            let is_inbound = proxy.role == Role::Sidecar && listener["traffic_direction"] == "INBOUND";
            if extension.is_for(is_inbound) {
                is_used |= insert(listener, extension, istio);
            }
        }
        if is_used {
            resources.extensions.push(extension.resource(istio));
        }
    }
    Ok(())
}

/// By phase; in a phase the highest priority first, then the proxy's own namespace, the oldest, and by name. A missing priority is the lowest.
fn in_order<'e>(extensions: &'e [Extension], proxy: &Proxy) -> Vec<&'e Extension> {
    let selects =
        |one: &&Extension| select::selects(&one.metadata.namespace, &one.selector, &one.targets, proxy);
    let mut chosen: Vec<&Extension> = extensions.iter().filter(selects).collect();
    chosen.sort_by_cached_key(|one| {
        let Metadata { name, namespace, creation_timestamp, .. } = &one.metadata;
        let priority = std::cmp::Reverse(one.priority.unwrap_or(i32::MIN));
        (one.phase, priority, *namespace != proxy.namespace, creation_timestamp.clone(), name.clone())
    });
    chosen
}

/// Inserts the filter into each connection manager, behind those of earlier phases and of higher priority.
fn insert(listener: &mut Value, extension: &Extension, istio: u32) -> bool {
    let filter = json!({"name": extension.resource_name(istio), "config_discovery": {
        "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        "type_urls": [WASM, RBAC],
    }});
    let mut is_used = false;
    for chain in filter_chains::all(listener) {
        for manager in filter_chains::list(chain, "filters").filter(|one| one["name"] == CONNECTION_MANAGER) {
            let filters = manager.pointer_mut("/typed_config/http_filters").and_then(Value::as_array_mut);
            let Some(filters) = filters else { continue };
            let is_later =
                |filter: &Value| extension.phase.precedes(filter["name"].as_str().unwrap_or_default());
            let index = filters.iter().position(is_later).unwrap_or(filters.len());
            filters.insert(index, filter.clone());
            is_used = true;
        }
    }
    is_used
}

impl Phase {
    /// Whether a filter that is there already comes later (`buildHTTPConnectionManager`).
    fn precedes(self, filter: &str) -> bool {
        let starts = match filter {
            "istio.metadata_exchange" => None,
            "envoy.filters.http.jwt_authn" | "istio_authn" => Some(Self::Authn),
            "envoy.filters.http.rbac" => Some(Self::Authz),
            other if other.starts_with("extensions.istio.io/") => None,
            _ => Some(Self::Unspecified),
        };
        starts.is_some_and(|last_before| self <= last_before)
    }
}

#[cfg(test)]
mod tests;
