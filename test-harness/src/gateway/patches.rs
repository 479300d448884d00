//! EnvoyPatchPolicies, applied as Envoy Gateway does (internal/xds/translator/jsonpatch.go, internal/utils/jsonpatch): each entry is on
//! its own, so neither a fault nor a `test` that fails keeps the next entry from acting; a `jsonPath` becomes JSON pointers, to
//! each of which `path` is appended; where one of an entry's pointers fails, nothing of that entry is taken.
//!
//! Stricter than Envoy Gateway: only listeners can be patched, a whole resource cannot be added, and `add` makes no parents that
//! are missing.

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{EnvoyPatchPolicy, Operation, Resource, ResourcePatch};
use super::json_path::JsonPath;

/// Applies all that can be applied, and returns what the policies' statuses then say: one line for each entry that failed.
pub(super) fn apply(listeners: &mut [Value], policies: &[Resource<EnvoyPatchPolicy>]) -> Vec<String> {
    let mut faults = Vec::new();
    for policy in policies {
        for patch in &policy.spec.json_patches {
            if let Err(fault) = apply_one(listeners, patch) {
                faults.push(format!("EnvoyPatchPolicy {}: {fault}", policy.metadata.name));
            }
        }
    }
    faults
}

fn apply_one(listeners: &mut [Value], patch: &ResourcePatch) -> Result<(), String> {
    let is_meant = |listener: &&mut Value| {
        patch.r#type == format!("{TYPES}.config.listener.v3.Listener") && listener["name"] == *patch.name
    };
    let found = listeners.iter_mut().find(is_meant);
    let listener = found.ok_or_else(|| format!("there is no {} {}", patch.r#type, patch.name))?;
    let operations: Vec<Value> =
        pointers(listener, &patch.operation)?.iter().map(|path| operation(path, &patch.operation)).collect();
    let operations: json_patch::Patch =
        serde_json::from_value(operations.into()).map_err(|error| error.to_string())?;
    json_patch::patch(listener, &operations).map_err(|error| error.to_string())
}

/// Where the operation acts.
fn pointers(listener: &Value, operation: &Operation) -> Result<Vec<String>, String> {
    let path = operation.path.as_deref().unwrap_or_default();
    let Some(json_path) = operation.json_path.as_deref() else {
        let named = Some(path).filter(|path| !path.is_empty());
        return Ok(vec![named.ok_or("an operation needs a path or a jsonPath")?.to_owned()]);
    };
    let found = JsonPath::parse(json_path)?.pointers(listener);
    if found.is_empty() {
        return Err(format!("jsonPath {json_path} selects nothing"));
    }
    let joined = |found: &String| match path.trim_start_matches('/') {
        "" => found.clone(),
        path => format!("{found}/{path}"),
    };
    Ok(found.iter().map(joined).collect())
}

/// The operation at one place, as RFC 6902 writes it.
fn operation(path: &str, operation: &Operation) -> Value {
    let mut written = json!({"op": operation.op, "path": path});
    if let Some(from) = &operation.from {
        written["from"] = from.as_str().into();
    }
    if let Some(value) = &operation.value {
        written["value"] = value.clone();
    }
    written
}
