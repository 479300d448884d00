//! From what istiod sends to files that an Envoy of the harness starts with. The parent's documentation lists what differs from a
//! proxy of Istio; all of it is done here.

use serde_json::{Value, json};

use super::extension::pull;
use super::mesh::Mesh;
use super::patch::Resources;
use super::peers;
use super::{Istio, Role};

/// A bootstrap, and what else its Envoy reads.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) bootstrap: Value,
    /// Resources of ECDS, as the agent passes them on. Listeners name the file `ecds.json`.
    pub(crate) extensions: Vec<Value>,
    pub(crate) envoy: &'static str,
}

/// Istio's proxies write this one at `proxyAdminPort`.
const ADMIN_PORT: u16 = 15000;

impl Istio {
    /// What the harness starts.
    ///
    /// # Errors
    /// If a document has what this translator or the patches do not know.
    pub(crate) fn render(&self) -> Result<Rendered, String> {
        let (mut resources, _) = self.patched()?;
        let mut extensions = std::mem::take(&mut resources.extensions);
        for extension in &mut extensions {
            pull(extension, self.has_image.then_some("target/berth.wasm"))?;
        }
        let mut bootstrap = bootstrap();
        if let Some(custom) = self.custom_bootstrap()? {
            append(&mut bootstrap, &custom);
        }
        serve_from_files(&mut resources)?;
        if self.flavour.role == Role::Gateway {
            answer_at_loopback(&mut resources.listeners);
        }
        let statics = &mut bootstrap["static_resources"];
        statics["listeners"] = resources.listeners.into();
        let clusters = statics["clusters"].as_array_mut().expect("a list");
        clusters.extend(resources.clusters);
        peers::install(&mut bootstrap, &Mesh::new(&self.documents)?, &self.account)?;
        Ok(Rendered { bootstrap, extensions, envoy: self.flavour.envoy })
    }
}

/// What the agent starts every proxy with (`envoy_bootstrap.json`).
fn bootstrap() -> Value {
    let admin = json!({"socket_address": {"address": "127.0.0.1", "port_value": ADMIN_PORT}});
    let prefix = |prefix: &str| json!({"prefix": prefix});
    let kept = [
        "reporter=",
        "cluster_manager",
        "listener_manager",
        "server",
        "cluster.xds-grpc",
        "wasm",
        "component",
        "istio",
    ];
    let for_the_harness = ["cluster.", "extension_config_discovery.", "http."];
    json!({
        "node": {"id": "proxy", "cluster": "istio-proxy"},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                "buffer_size_kb": 64,
            },
        }],
        "stats_config": {
            "use_all_default_tags": false,
            "stats_tags": [
                {"tag_name": "cluster_name", "regex": "^cluster(\\.(.+);)"},
                {"tag_name": "response_code", "regex": "_rq(_(\\d{3}))$"},
                {"tag_name": "component", "regex": "(component\\.(.+?)\\.)"},
                {"tag_name": "tag", "regex": "(tag\\.(.+?);\\.)"},
                {"tag_name": "wasm_filter", "regex": "(wasm_filter\\.(.+?)\\.)"},
            ],
            "stats_matcher": {"inclusion_list": {
                "patterns": kept.into_iter().chain(for_the_harness).map(prefix).collect::<Vec<_>>(),
            }},
        },
        "admin": {"address": admin},
        "static_resources": {"clusters": [{
            "name": "prometheus_stats",
            "alt_stat_name": "prometheus_stats;",
            "type": "STATIC",
            "connect_timeout": "0.250s",
            "lb_policy": "ROUND_ROBIN",
            "load_assignment": {
                "cluster_name": "prometheus_stats",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": admin}}]}],
            },
        }]},
    })
}

/// As Envoy merges two bootstraps: lists append, messages merge.
fn append(to: &mut Value, more: &Value) {
    match (to, more) {
        (Value::Object(to), Value::Object(more)) => {
            for (key, value) in more {
                append(to.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(to), Value::Array(more)) => to.extend(more.iter().cloned()),
        (to, more) => *to = more.clone(),
    }
}

fn serve_from_files(resources: &mut Resources) -> Result<(), String> {
    for cluster in &mut resources.clusters {
        if let Some(eds) = cluster.get_mut("eds_cluster_config") {
            *eds = json!({"service_name": "nodes", "eds_config": from_file("envoy/nodes.yaml")});
        }
    }
    let routes = std::mem::take(&mut resources.routes);
    for listener in &mut resources.listeners {
        listener.as_object_mut().expect("a listener").remove("bind_to_port");
        for manager in managers(listener) {
            if let Some(rds) = manager.as_object_mut().and_then(|manager| manager.remove("rds")) {
                let found = routes.iter().find(|routes| routes["name"] == rds["route_config_name"]);
                manager["route_config"] = found.ok_or_else(|| format!("no routes for {rds}"))?.clone();
            }
            for filter in manager["http_filters"].as_array_mut().into_iter().flatten() {
                if let Some(source) = filter.pointer_mut("/config_discovery/config_source") {
                    *source = from_file("ecds.json");
                }
            }
        }
    }
    Ok(())
}

pub(super) fn from_file(path: &str) -> Value {
    json!({"resource_api_version": "V3", "path_config_source": {"path": path}})
}

fn answer_at_loopback(listeners: &mut [Value]) {
    for manager in listeners.iter_mut().flat_map(managers) {
        let hosts = manager["route_config"]["virtual_hosts"].as_array_mut();
        if let Some(host) = hosts.and_then(|hosts| hosts.first_mut()) {
            host["domains"].as_array_mut().expect("domains").push("127.0.0.1".into());
        }
    }
}

/// The HTTP connection managers of a listener.
fn managers(listener: &mut Value) -> impl Iterator<Item = &mut Value> {
    let chains = listener["filter_chains"].as_array_mut().into_iter().flatten();
    let filters = chains.flat_map(|chain| chain["filters"].as_array_mut().into_iter().flatten());
    filters
        .filter(|filter| filter["name"] == "envoy.filters.network.http_connection_manager")
        .map(|filter| &mut filter["typed_config"])
}
