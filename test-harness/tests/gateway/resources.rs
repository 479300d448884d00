//! Each shipped resource is read, faults in them are named, and what must agree with envoy.yaml or between them does.

use berth_core::config::Config;
use berth_harness::gateway::{NameScheme, render, shipped};
use berth_harness::root;
use serde_json::{Value, json};

/// The first resource of this kind.
pub(crate) fn resource<'r>(resources: &'r mut [Value], kind: &str) -> &'r mut Value {
    resources.iter_mut().find(|resource| resource["kind"] == kind).unwrap()
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

#[test]
fn tags_and_capabilities_are_those_of_the_reference_bootstrap() {
    let reference = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
    let reference: Value = serde_yaml_ng::from_str(&reference).unwrap();
    let capabilities = |bootstrap: &Value, chain: &str| {
        let manager = format!("/static_resources/listeners/0/{chain}/filters/0/typed_config/http_filters/0");
        bootstrap.pointer(&manager).unwrap()["typed_config"]["config"]["capability_restriction_config"]
            .clone()
    };

    for scheme in [NameScheme::V1, NameScheme::V2] {
        let bootstrap = render(&shipped(scheme), scheme).unwrap();

        let tags = &bootstrap["stats_config"]["stats_tags"];
        assert_eq!(tags.as_array().map(Vec::len), Some(7));
        assert_eq!(*tags, reference["stats_config"]["stats_tags"]);
        assert_eq!(
            capabilities(&bootstrap, "default_filter_chain"),
            capabilities(&reference, "filter_chains/0")
        );
    }
}
