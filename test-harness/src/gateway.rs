//! What Envoy Gateway makes of the resources in `envoy/gateway/`: a bootstrap that a real Envoy runs. Only what those use is known.
//!
//! It differs from what a proxy of Envoy Gateway gets in these points. The module is a local file, and not fetched from
//! `wasm_cluster`; routes are within the listener and clusters within the bootstrap, in place of ADS; endpoints come from the
//! file `envoy/nodes.yaml`; there is no listener for readiness and metrics. Certificates are still asked of ADS: a test that runs
//! a listener with TLS puts its own in their place.

mod clusters;
mod documents;
mod filters;
mod json_path;
mod listeners;
mod patches;
mod routes;

use serde::Deserialize;
use serde_json::{Value, json};

use self::clusters::{cluster, prometheus_stats};
use self::documents::{
    BackendTrafficPolicy, ClientTrafficPolicy, EnvoyExtensionPolicy, EnvoyProxy, Gateway, GatewayClass,
    HttpRoute, Resource, all, one, title,
};
use self::filters::{acting_on, ordered, router, wasm_filters};
use self::listeners::listeners;
use self::routes::http_route;
use crate::root;

const TYPES: &str = "type.googleapis.com/envoy";

/// How Envoy Gateway names what patches refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameScheme {
    /// 1.6 to 1.9: a listener is called `<namespace>/<gateway>/<listener>`.
    V1,
    /// From 1.10 on, and before that with the runtime flag `XDSNameSchemeV2`: by its port.
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

/// What Envoy Gateway makes of resources.
#[derive(Clone, Debug)]
pub struct Translation {
    /// What a proxy runs, faults or not.
    pub bootstrap: Value,
    /// What the EnvoyPatchPolicies' statuses say: each patch that does not apply, with its policy's name.
    pub faults: Vec<String>,
}

/// The bootstrap that these resources give, its patches applied.
///
/// # Errors
/// If a resource has a fault, or one is missing, or patches do not apply: all of them, with the policy's name.
pub fn render(resources: &[Value], scheme: NameScheme) -> Result<Value, String> {
    let Translation { bootstrap, faults } = translate(resources, scheme)?;
    if faults.is_empty() { Ok(bootstrap) } else { Err(faults.join("\n")) }
}

/// As [`render`], but a patch that does not apply is left out, as Envoy Gateway does it.
///
/// # Errors
/// If a resource has a fault, or one is missing.
pub fn translate(resources: &[Value], scheme: NameScheme) -> Result<Translation, String> {
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
    let EnvoyProxy { bootstrap: proxy, filter_order } = one(resources, "EnvoyProxy")?.spec;
    let gateway = one::<Gateway>(resources, "Gateway")?;
    let route = one::<HttpRoute>(resources, "HTTPRoute")?;
    let clients = one::<ClientTrafficPolicy>(resources, "ClientTrafficPolicy")?.spec;
    let traffic = all::<BackendTrafficPolicy>(resources, "BackendTrafficPolicy")?;
    let extensions = all::<EnvoyExtensionPolicy>(resources, "EnvoyExtensionPolicy")?;
    let filters = wasm_filters(&extensions);
    let acting = acting_on(&extensions, &gateway.metadata.name, &route.metadata.name)?;
    let switched_on = wasm_filters(acting);

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
        routes.push(http_route(&name, rule, &policy.spec, &switched_on)?);
        clusters.push(cluster(&name, &policy.spec)?);
    }
    let filters = filters.into_iter().chain([router()]).collect();
    let filters = ordered(filters, &filter_order).map_err(|fault| format!("EnvoyProxy: {fault}"))?;
    let mut listeners = listeners(&gateway, &clients, &filters, &routes, scheme)?;
    let faults = patches::apply(&mut listeners, &all(resources, "EnvoyPatchPolicy")?);
    let own = json!({
        // Envoy Gateway gives these as arguments.
        "node": {"id": gateway.metadata.name, "cluster": gateway.metadata.name},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 19000}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    });
    let mut bootstrap = merged(own, prometheus_stats());
    if proxy.r#type != "Merge" {
        return Err(format!("EnvoyProxy: the bootstrap's type is {}, not Merge", proxy.r#type));
    }
    let addition = serde_yaml_ng::from_str(&proxy.value).map_err(|error| format!("EnvoyProxy: {error}"))?;
    bootstrap = merged(bootstrap, addition);
    Ok(Translation { bootstrap, faults })
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
