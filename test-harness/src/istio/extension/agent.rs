//! What Istio's agent does to the resources of ECDS on their way to Envoy (`pkg/wasm/convert.go`): it pulls images.

use serde_json::{Value, json};

use super::{RBAC, WASM};

/// What the agent reads from the VM's environment, and takes away.
const FOR_THE_AGENT: &str = "ISTIO_META_";

/// What Istio's agent makes of a resource of ECDS: code from elsewhere becomes this local file, or, if it cannot be pulled, the filter
/// becomes one that lets every request pass (`FAIL_OPEN`) or none.
///
/// # Errors
/// If a Wasm filter has no code.
pub fn pull(extension: &mut Value, module: Option<&str>) -> Result<(), String> {
    let name = extension["name"].clone();
    let Some(typed) = extension.get_mut("typed_config").filter(|typed| typed["@type"] == WASM) else {
        return Ok(());
    };
    let code = &typed["config"]["vm_config"]["code"];
    if code.get("remote").is_none() {
        return code.get("local").map(|_| ()).ok_or_else(|| format!("{name} has no code"));
    }
    let Some(module) = module else {
        *typed = substitute(&typed["config"]);
        return Ok(());
    };
    let vm = &mut typed["config"]["vm_config"];
    vm["code"] = json!({"local": {"filename": module}});
    let variables = vm.pointer_mut("/environment_variables/key_values").and_then(Value::as_object_mut);
    let Some(variables) = variables else { return Ok(()) };
    variables.retain(|variable, _| !variable.starts_with(FOR_THE_AGENT));
    if variables.is_empty() {
        let environment = vm["environment_variables"].as_object_mut().expect("it has variables");
        environment.remove("key_values");
        if environment.is_empty() {
            vm.as_object_mut().expect("a message").remove("environment_variables");
        }
    }
    Ok(())
}

fn substitute(config: &Value) -> Value {
    let fails_open = match config["failure_policy"].as_str() {
        None | Some("UNSPECIFIED") => config["fail_open"] == true,
        Some(policy) => policy == "FAIL_OPEN",
    };
    if fails_open {
        json!({"@type": RBAC, "rules_stat_prefix": "wasm-default-allow"})
    } else {
        json!({"@type": RBAC, "rules_stat_prefix": "wasm-default-deny", "rules": {}})
    }
}
