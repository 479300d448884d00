//! The patches reach Berth's filter wherever it is, and only it; those that do not apply are named.

use berth_harness::gateway::{NameScheme, Translation, render, shipped, translate};
use serde_json::{Value, json};

use crate::resources::resource;
use crate::tls::with_tls;

const BERTH: &str = "envoy.filters.http.wasm/envoyextensionpolicy/games/berth/wasm/0";
const SCHEMES: [NameScheme; 2] = [NameScheme::V1, NameScheme::V2];

/// The HTTP filters of a listener, by where its filter chain is.
fn filters<'b>(bootstrap: &'b Value, listener: usize, chain: &str) -> &'b Vec<Value> {
    let path = format!("/static_resources/listeners/{listener}/{chain}/filters/0/typed_config/http_filters");
    bootstrap.pointer(&path).and_then(Value::as_array).unwrap_or_else(|| panic!("no {path}"))
}

fn is_patched(filter: &Value) -> bool {
    let config = &filter["typed_config"]["config"];
    let capabilities = &config["capability_restriction_config"]["allowed_capabilities"];
    let parts = [config["failure_policy"] == "FAIL_RELOAD", capabilities["proxy_http_call"] == json!({})];
    assert_eq!(parts[0], parts[1], "both patches or neither: {config}");
    parts[0]
}

/// The shipped resources, with the wasm filter of another route, which comes before Berth's.
fn beside_another(scheme: NameScheme) -> Vec<Value> {
    let mut resources = shipped(scheme);
    let mut other = resource(&mut resources, "EnvoyExtensionPolicy").clone();
    other["metadata"]["name"] = "audit".into();
    other["spec"]["targetRefs"] =
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "audited"}]);
    other["spec"]["wasm"][0]["name"] = "audit".into();
    resources.push(other);
    resources
}

#[test]
fn another_wasm_filter_before_berths_keeps_its_configuration() {
    for scheme in SCHEMES {
        let bootstrap = render(&beside_another(scheme), scheme).unwrap();

        let filters = filters(&bootstrap, 0, "default_filter_chain");
        let [other, berth, router] = &filters[..] else { panic!("{filters:?}") };
        assert_eq!(other["name"], BERTH.replace("berth", "audit"));
        assert!(!is_patched(other));
        assert_eq!(berth["name"], BERTH);
        assert!(is_patched(berth));
        assert_eq!(router["name"], "envoy.filters.http.router");
    }
}

/// The filters that the nodes' routes have switched on.
fn switched_on(bootstrap: &Value) -> Vec<String> {
    let path = "/static_resources/listeners/0/default_filter_chain/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    let mut names = Vec::new();
    for route in bootstrap.pointer(path).unwrap().as_array().unwrap() {
        names.extend(route["typed_per_filter_config"].as_object().unwrap().keys().cloned());
    }
    names
}

#[test]
fn policy_of_the_nodes_own_route_takes_berths_place_and_a_second_one_of_the_gateway_is_refused() {
    for scheme in SCHEMES {
        assert_eq!(switched_on(&render(&beside_another(scheme), scheme).unwrap()), [BERTH, BERTH]);

        let mut resources = beside_another(scheme);
        resources.last_mut().unwrap()["spec"]["targetRefs"][0]["name"] = "nodes".into();
        let audit = BERTH.replace("berth", "audit");
        assert_eq!(switched_on(&render(&resources, scheme).unwrap()), [audit.as_str(), audit.as_str()]);

        let of_berth = resource(&mut resources, "EnvoyExtensionPolicy")["spec"]["targetRefs"].clone();
        resources.last_mut().unwrap()["spec"]["targetRefs"] = of_berth;
        let fault = render(&resources, scheme).unwrap_err();
        assert!(fault.contains("has attached to the Gateway public already"), "{fault}");
    }
}

#[test]
fn listener_with_tls_gets_the_patches_by_its_own_name() {
    for scheme in SCHEMES {
        let bootstrap = render(&with_tls(scheme), scheme).unwrap();

        assert!(is_patched(&filters(&bootstrap, 0, "default_filter_chain")[0]));
        assert!(is_patched(&filters(&bootstrap, 1, "filter_chains/0")[0]));
        assert!(bootstrap["static_resources"]["listeners"][1].get("default_filter_chain").is_none());
    }
}

#[test]
fn patches_that_select_nothing_are_all_reported_and_the_proxy_runs_without_them() {
    for scheme in SCHEMES {
        let mut resources = beside_another(scheme);
        // As after a change in filter.yaml that was not made in the patches.
        resource(&mut resources, "EnvoyExtensionPolicy")["metadata"]["name"] = "sticky".into();

        let Translation { bootstrap, faults } = translate(&resources, scheme).unwrap();

        assert_eq!(faults.len(), 2, "{faults:?}");
        for fault in faults {
            let named = fault.starts_with("EnvoyPatchPolicy berth: jsonPath ..http_filters");
            assert!(named && fault.ends_with("selects nothing"), "{fault}");
        }
        assert!(!filters(&bootstrap, 0, "default_filter_chain").iter().any(is_patched));
    }
}

#[test]
fn a_fault_does_not_keep_the_next_patch_from_acting() {
    let mut resources = shipped(NameScheme::V1);
    let patches = &mut resource(&mut resources, "EnvoyPatchPolicy")["spec"]["jsonPatches"];
    let listener = json!({"type": patches[0]["type"], "name": patches[0]["name"]});
    let entry = |operation: Value| {
        let mut entry = listener.clone();
        entry["operation"] = operation;
        entry
    };
    let faulty = [
        entry(json!({"op": "test", "path": "/name", "value": "another"})),
        entry(json!({"op": "add", "path": "/default_filter_chain/filters/7/name", "value": "x"})),
        entry(json!({"op": "add", "value": "x"})),
        entry(json!({"op": "add", "jsonPath": "..http_filters", "path": "/0/name", "value": "x"})),
    ];
    patches.as_array_mut().unwrap().splice(0..0, faulty);

    let Translation { bootstrap, faults } = translate(&resources, NameScheme::V1).unwrap();

    assert_eq!(faults.len(), 4, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.starts_with("EnvoyPatchPolicy berth: ")), "{faults:?}");
    assert!(is_patched(&filters(&bootstrap, 0, "default_filter_chain")[0]));
    let reported = render(&resources, NameScheme::V1).unwrap_err();
    assert!(faults.iter().all(|fault| reported.contains(fault)), "{reported}");
}

#[test]
fn patches_of_the_other_name_scheme_are_refused_by_name() {
    for (files, proxy) in [(NameScheme::V1, NameScheme::V2), (NameScheme::V2, NameScheme::V1)] {
        let faults = translate(&shipped(files), proxy).unwrap().faults;

        assert_eq!(faults.len(), 2, "{faults:?}");
        let named = |fault: &String| fault.starts_with("EnvoyPatchPolicy berth: there is no");
        assert!(faults.iter().all(named), "{faults:?}");
    }
}
