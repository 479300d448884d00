//! From a shipped bootstrap (envoy/*.yaml) to one that runs beside others on any machine. Only places change – ports,
//! files, sockets – and what a test asks for; everything else is what users copy, and so is tested.
//!
//! Each patch fails when it finds nothing to patch: a renamed cluster must not turn a test into one of nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::endpoints::{self, Endpoint, replace};
use crate::istio::SIDECAR;

/// The name of the filter in `http_filters`, by which its configuration is found.
const WASM_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const LOAD_ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// The filter, as shipped bootstraps name it.
const MODULE: &str = "target/berth.wasm";
/// What the previous filter does not know of the plugin's configuration and its pools.
const NEW_FIELDS: [&str; 2] = ["guard", "end_header"];
/// Where discovered filters are, in the world's directory.
const EXTENSIONS_FILE: &str = "ecds.json";
/// Where the endpoints of a state cluster that is discovered are.
const STATE_FILE: &str = "state.json";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster that reads the world's EDS file.
#[derive(Clone, Debug)]
pub(crate) struct EdsCluster {
    /// What it is called.
    pub(crate) name: String,
    /// What its stats are called.
    pub(crate) in_stats: String,
}

/// A bootstrap, complete but for what differs between the Envoys of a world.
#[derive(Clone, Debug)]
pub(crate) struct Bootstrap {
    json: Value,
    /// Resources of ECDS, for the filters that are discovered.
    extensions: Vec<Value>,
    /// Clusters that read the world's EDS file.
    pub(crate) eds_clusters: Vec<EdsCluster>,
    /// The port of the admin interface, if it must be one.
    pub(crate) admin_port: Option<u16>,
}

impl Bootstrap {
    /// Points a bootstrap at this tree's module and this world's nodes. `origin` says whose it is.
    pub(crate) fn new(mut json: Value, origin: &str, nodes: &Path, module: &Path) -> Self {
        assert!(
            relocate(&mut json, "envoy/nodes.yaml", nodes),
            "{origin}: no cluster reads envoy/nodes.yaml"
        );
        relocate(&mut json, MODULE, module);
        for listener in array(&mut json, "/static_resources/listeners") {
            if listener.pointer("/address/pipe").is_none() {
                listener["address"] = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
            }
        }
        Self { json, extensions: Vec::new(), eds_clusters: Vec::new(), admin_port: None }
    }

    /// Serves these resources to the filters that are discovered in `ecds.json`.
    pub(crate) fn read_extensions(&mut self, extensions: Vec<Value>, directory: &Path) {
        self.extensions = extensions;
        relocate(&mut self.json, EXTENSIONS_FILE, &directory.join(EXTENSIONS_FILE));
    }

    /// Gives these state services to the cluster that reads `state.json`, if there is one.
    pub(crate) fn find_state(&mut self, addresses: &[SocketAddr], directory: &Path) -> bool {
        let file = directory.join(STATE_FILE);
        if !relocate(&mut self.json, STATE_FILE, &file) {
            return false;
        }
        relocate(&mut self.json, SIDECAR, &directory.join(SIDECAR));
        let set: Vec<Endpoint> = addresses.iter().map(|address| Endpoint::new(*address)).collect();
        endpoints::write(
            &set,
            &json!({"resources": [{"@type": LOAD_ASSIGNMENT, "cluster_name": "state"}]}),
            &file,
        );
        true
    }

    /// Listens on this port instead of any that is free.
    pub(crate) fn listen_on(&mut self, port: u16) {
        for listener in array(&mut self.json, "/static_resources/listeners") {
            listener["address"]["socket_address"]["port_value"] = port.into();
        }
    }

    /// Takes the wasm filter out, wherever it is listed.
    pub(crate) fn remove_filter(&mut self) {
        walk(&mut self.json, &mut |value| {
            if let Some(filters) = value.get_mut("http_filters").and_then(Value::as_array_mut) {
                filters.retain(|filter| filter.pointer("/typed_config/@type") != Some(&json!(WASM_TYPE)));
            }
        });
    }

    /// Edits the plugin's configuration.
    pub(crate) fn configure(&mut self, edit: &dyn Fn(&mut Value)) {
        if self.extensions.is_empty() {
            edit_plugin(&mut self.json, edit);
        }
        self.extensions.iter_mut().for_each(|extension| edit_plugin(extension, edit));
    }

    /// Checks health this often instead; outlier detection sweeps as often.
    pub(crate) fn check_health_every(&mut self, interval: Duration) {
        let interval = format!("{:.3}s", interval.as_secs_f64());
        for cluster in array(&mut self.json, "/static_resources/clusters") {
            for check in cluster.get_mut("health_checks").and_then(Value::as_array_mut).into_iter().flatten()
            {
                for field in ["interval", "no_traffic_interval", "no_traffic_healthy_interval"] {
                    check[field] = interval.as_str().into();
                }
            }
            if let Some(outliers) = cluster.get_mut("outlier_detection") {
                outliers["interval"] = interval.as_str().into();
            }
        }
    }

    /// Points a cluster of static endpoints to these addresses instead.
    pub(crate) fn point(&mut self, cluster: &str, addresses: &[SocketAddr]) {
        let clusters = array(&mut self.json, "/static_resources/clusters").iter_mut();
        let found = clusters.into_iter().find(|found| found["name"] == cluster);
        let endpoints =
            found.and_then(|found| found.pointer_mut("/load_assignment/endpoints/0/lb_endpoints"));
        let endpoints = endpoints.unwrap_or_else(|| panic!("no cluster {cluster} with static endpoints"));
        let shipped = endpoints[0].clone();
        let to = |address: &SocketAddr| {
            let mut endpoint = shipped.clone();
            endpoint["endpoint"]["address"]["socket_address"] =
                json!({"address": address.ip().to_string(), "port_value": address.port()});
            endpoint
        };
        *endpoints = addresses.iter().map(to).collect();
    }

    /// Has each cluster but the admin interface's connect from this address.
    pub(crate) fn connect_from(&mut self, source: IpAddr) {
        let source = json!({"source_address": {"address": source.to_string(), "port_value": 0}});
        for cluster in array(&mut self.json, "/static_resources/clusters") {
            if cluster["name"] != "berth_admin" {
                cluster["upstream_bind_config"] = source.clone();
            }
        }
    }

    /// Speaks HTTP/2 to the nodes.
    pub(crate) fn speak_http2(&mut self, nodes: &Path) {
        for cluster in eds_clusters(&mut self.json, nodes) {
            let options = &mut cluster["typed_extension_protocol_options"][HTTP_OPTIONS];
            options["@type"] = format!("type.googleapis.com/{HTTP_OPTIONS}").into();
            options["explicit_http_config"] = json!({"http2_protocol_options": {}});
        }
    }

    /// The same with the previous filter in the place of `module`, and without what that would refuse.
    pub(crate) fn with_previous_filter(&self, module: &Path, previous: &Path) -> Self {
        let mut other = self.clone();
        assert!(relocate(&mut other.json, path_text(module), previous), "no filter is {}", module.display());
        let strip = |value: &mut Value| {
            value.as_object_mut().expect("an object").retain(|name, _| !NEW_FIELDS.contains(&name.as_str()));
        };
        other.configure(&|plugin| {
            strip(plugin);
            plugin["pools"].as_array_mut().into_iter().flatten().for_each(strip);
        });
        other
    }

    /// Anything else that a test needs.
    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.json);
    }

    /// Ends the patching.
    pub(crate) fn finish(&mut self, nodes: &Path, directory: &Path, module: &Path) {
        let of = |cluster: &mut Value| {
            let name = cluster["name"].as_str().expect("a name").to_owned();
            let in_stats = cluster["alt_stat_name"].as_str().map_or_else(|| name.clone(), str::to_owned);
            EdsCluster { name, in_stats }
        };
        self.eds_clusters = eds_clusters(&mut self.json, nodes).map(of).collect();
        if !self.extensions.is_empty() {
            write_extensions(self.extensions.clone(), directory, module);
        }
    }

    /// The listeners as they are before any reload.
    pub(crate) fn listeners(&self) -> Vec<Value> {
        self.json["static_resources"]["listeners"].as_array().unwrap().clone()
    }

    /// Writes what Envoy starts with. The listeners come from a file of their own, so that they can change later;
    /// the admin interface moves to `admin`, here and in the cluster that polls it.
    pub(crate) fn write(&self, file: &Path, listeners_file: &Path, admin: &Value) {
        let mut json = self.json.clone();
        json["static_resources"].as_object_mut().unwrap().remove("listeners");
        json["dynamic_resources"]["lds_config"] = json!({
            "resource_api_version": "V3",
            "path_config_source": {"path": path_text(listeners_file)},
        });
        let shipped = json["admin"]["address"].clone();
        assert!(shipped.is_object(), "the bootstrap has no admin.address");
        walk(&mut json, &mut |value| {
            if value["address"] == shipped {
                value["address"] = admin.clone();
            }
        });
        replace(file, &json);
    }
}

/// Adds a cluster of one address.
pub(crate) fn add_cluster(json: &mut Value, name: &str, address: SocketAddr) {
    let address = json!({"address": address.ip().to_string(), "port_value": address.port()});
    array(json, "/static_resources/clusters").push(json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": address}}}]}],
        },
    }));
}

/// Puts `jwt_authn` before all HTTP filters.
pub(crate) fn add_jwt_authn(json: &mut Value, provider: &Value, requests: &Value) {
    let filter = json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"players": provider},
            "rules": [{"match": requests, "requires": {"provider_name": "players"}}],
        },
    });
    let mut found = false;
    walk(json, &mut |value| {
        if let Some(filters) = value.get_mut("http_filters").and_then(Value::as_array_mut) {
            filters.insert(0, filter.clone());
            found = true;
        }
    });
    assert!(found, "the bootstrap has no list http_filters");
}

/// Writes the listeners that Envoy reads now and after each change.
pub(crate) fn write_listeners(listeners: &[Value], file: &Path) {
    let mut resources = listeners.to_vec();
    for listener in &mut resources {
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    }
    replace(file, &json!({"resources": resources}));
}

/// Writes the filters that listeners discover, now and after each change.
pub(crate) fn write_extensions(mut extensions: Vec<Value>, directory: &Path, module: &Path) {
    for extension in &mut extensions {
        extension["@type"] = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig".into();
        relocate(extension, MODULE, module);
    }
    replace(&directory.join(EXTENSIONS_FILE), &json!({"resources": extensions}));
}

/// Edits the configuration of each berth plugin below this value.
pub(crate) fn edit_plugin(json: &mut Value, edit: &dyn Fn(&mut Value)) {
    let mut found = false;
    walk(json, &mut |value| {
        if value["@type"] == WASM_TYPE {
            let configuration = value.pointer_mut("/config/configuration/value");
            let configuration = configuration.expect("the plugin has a configuration");
            match configuration.as_str().map(str::to_owned) {
                // A StringValue: JSON as text. A test of bad input may leave text, which is given as it is.
                Some(text) => {
                    let mut json = serde_json::from_str(&text).expect("the plugin's configuration is JSON");
                    edit(&mut json);
                    *configuration = match json {
                        Value::String(raw) => raw.into(),
                        json => json.to_string().into(),
                    };
                }
                // A Struct.
                None => edit(configuration),
            }
            found = true;
        }
    });
    assert!(found, "there is no wasm filter to configure");
}

/// A YAML file as JSON, its anchors resolved.
pub(crate) fn read_yaml(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn eds_clusters<'a>(json: &'a mut Value, nodes: &Path) -> impl Iterator<Item = &'a mut Value> {
    let nodes = json!(path_text(nodes));
    array(json, "/static_resources/clusters").iter_mut().filter(move |cluster| {
        cluster.pointer("/eds_cluster_config/eds_config/path_config_source/path") == Some(&nodes)
    })
}

fn array<'a>(json: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    let found = json.pointer_mut(pointer).and_then(Value::as_array_mut);
    found.unwrap_or_else(|| panic!("the bootstrap has no list {pointer}"))
}

/// Visits a value, then all values below it.
fn walk(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, visit)),
        Value::Object(fields) => fields.values_mut().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// Replaces a file's name wherever it stands; says whether it was there.
fn relocate(json: &mut Value, name: &str, to: &Path) -> bool {
    let mut found = false;
    walk(json, &mut |value| {
        if value == name {
            *value = path_text(to).into();
            found = true;
        }
    });
    found
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path of valid UTF-8")
}
