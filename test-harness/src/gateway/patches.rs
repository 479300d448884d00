//! EnvoyPatchPolicies.

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{EnvoyPatchPolicy, Resource};

/// Applies the policies to the listener, the only resource that the shipped ones change.
pub(super) fn patched(mut listener: Value, policies: &[Resource<EnvoyPatchPolicy>]) -> Result<Value, String> {
    for policy in policies {
        let fault = |what: String| format!("EnvoyPatchPolicy {}: {what}", policy.metadata.name);
        for patch in &policy.spec.json_patches {
            if patch.r#type != format!("{TYPES}.config.listener.v3.Listener")
                || listener["name"] != *patch.name
            {
                return Err(fault(format!("there is no {} {}", patch.r#type, patch.name)));
            }
            let operations = serde_json::from_value::<json_patch::Patch>(json!([patch.operation]));
            let operations = operations.map_err(|error| fault(error.to_string()))?;
            json_patch::patch(&mut listener, &operations).map_err(|error| fault(error.to_string()))?;
        }
    }
    Ok(listener)
}
