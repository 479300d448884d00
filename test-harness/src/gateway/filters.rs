//! The filters of the policies, as a listener has them.

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{EnvoyExtensionPolicy, Resource};

/// The filters as the listener has them: switched off, and switched on by each route.
pub(super) fn wasm_filters(policies: &[Resource<EnvoyExtensionPolicy>]) -> Vec<Value> {
    let mut filters = Vec::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        for (index, wasm) in policy.spec.wasm.iter().enumerate() {
            let id = format!("envoyextensionpolicy/{namespace}/{}/wasm/{index}", policy.metadata.name);
            filters.push(json!({
                "name": format!("envoy.filters.http.wasm/{id}"),
                "disabled": true,
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.filters.http.wasm.v3.Wasm"),
                    "config": {
                        "name": wasm.name,
                        "root_id": wasm.root_id,
                        "configuration": {
                            "@type": "type.googleapis.com/google.protobuf.StringValue",
                            "value": Value::from(wasm.config.clone()).to_string(),
                        },
                        "vm_config": {
                            "vm_id": id,
                            "runtime": "envoy.wasm.runtime.v8",
                            "code": {"local": {"filename": "target/berth.wasm"}},
                        },
                    },
                },
            }));
        }
    }
    filters
}
