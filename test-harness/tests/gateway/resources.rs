//! Each shipped resource is read, each patch applies, and faults are named.

use berth_core::config::Config;
use berth_harness::gateway::{NameScheme, render, shipped};
use serde_json::{Value, json};

const FILTER: &str =
    "/static_resources/listeners/0/default_filter_chain/filters/0/typed_config/http_filters/0";

/// The resource of this kind.
fn resource<'r>(resources: &'r mut [Value], kind: &str) -> &'r mut Value {
    resources.iter_mut().find(|resource| resource["kind"] == kind).unwrap()
}

#[test]
fn patches_reach_the_filter_by_both_name_schemes() {
    for scheme in [NameScheme::V1, NameScheme::V2] {
        let bootstrap = render(&shipped(scheme), scheme).unwrap();

        let filter = bootstrap.pointer(FILTER).unwrap();
        let config = &filter["typed_config"]["config"];
        assert_eq!(config["failure_policy"], "FAIL_RELOAD");
        let capabilities =
            config["capability_restriction_config"]["allowed_capabilities"].as_object().unwrap();
        assert!(capabilities.contains_key("proxy_http_call"), "{capabilities:?}");
    }
}

#[test]
fn patches_of_the_other_name_scheme_are_refused_by_name() {
    let fault = render(&shipped(NameScheme::V1), NameScheme::V2).unwrap_err();

    assert!(fault.starts_with("EnvoyPatchPolicy berth: there is no"), "{fault}");
}

#[test]
fn a_patch_with_a_broken_path_names_its_policy() {
    let mut resources = shipped(NameScheme::V1);
    let patches = resource(&mut resources, "EnvoyPatchPolicy");
    patches["spec"]["jsonPatches"][1]["operation"]["path"] = "/default_filter_chain/filters/7/name".into();

    let fault = render(&resources, NameScheme::V1).unwrap_err();

    assert!(fault.starts_with("EnvoyPatchPolicy berth: "), "{fault}");
}

#[test]
fn misspelt_fields_are_refused() {
    for (index, shipped_resource) in shipped(NameScheme::V1).iter().enumerate() {
        let mut resources = shipped(NameScheme::V1);
        resources[index]["spec"]["missspelt"] = json!(1);

        let fault = render(&resources, NameScheme::V1).unwrap_err();

        let kind = shipped_resource["kind"].as_str().unwrap();
        assert!(fault.starts_with(kind) && fault.contains("missspelt"), "{kind}: {fault}");
    }
}

#[test]
fn plugin_configuration_is_right_and_names_the_cluster_of_the_first_rule() {
    let mut resources = shipped(NameScheme::V1);
    let plugin = resource(&mut resources, "EnvoyExtensionPolicy")["spec"]["wasm"][0]["config"].clone();

    let config = Config::parse(plugin.to_string().as_bytes());

    assert!(config.is_ok(), "{config:?}");
    let bootstrap = render(&resources, NameScheme::V1).unwrap();
    let names: Vec<&Value> = bootstrap["static_resources"]["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    for named in [&plugin["pools"][0]["cluster"], &plugin["admin_cluster"], &plugin["state"]["cluster"]] {
        assert!(names.contains(&named), "{named} of {names:?}");
    }
}
