//! What becomes of a WasmPlugin and of a TrafficExtension, at istiod and at the agent.
#![expect(clippy::needless_pass_by_value, reason = "tests write values in place")]

use super::*;

fn proxy(istio: &str) -> Proxy {
    Proxy {
        role: Role::Gateway,
        namespace: "ingress".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        istio_version: istio.into(),
    }
}

fn plugin(name: &str, fields: Value) -> Extension {
    Extension::parse(&document("WasmPlugin", name, fields)).unwrap()
}

fn document(kind: &str, name: &str, fields: Value) -> Value {
    let mut document = json!({
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "ingress"},
        "spec": {},
    });
    if kind == "WasmPlugin" {
        document["spec"]["url"] = "oci://registry/berth:1".into();
    }
    document["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

/// A gateway whose manager has these filters.
fn with_filters(filters: &[&str]) -> Resources {
    let filters: Vec<Value> = filters.iter().map(|name| json!({"name": name, "typed_config": {}})).collect();
    Resources {
        listeners: vec![json!({"name": "0.0.0.0_8080", "traffic_direction": "OUTBOUND", "filter_chains": [{
            "filters": [{"name": CONNECTION_MANAGER, "typed_config": {"http_filters": filters}}],
        }]})],
        ..Resources::default()
    }
}

fn installed(istio: &str, extensions: &[Extension]) -> Resources {
    let mut resources = with_filters(&[
        "istio.metadata_exchange",
        "envoy.filters.http.jwt_authn",
        "envoy.filters.http.rbac",
        "envoy.filters.http.cors",
        "envoy.filters.http.router",
    ]);
    install(&mut resources, extensions, &proxy(istio)).unwrap();
    resources
}

fn names(resources: &Resources) -> Vec<&str> {
    let filters = resources.listeners[0].pointer("/filter_chains/0/filters/0/typed_config/http_filters");
    let names = filters.unwrap().as_array().unwrap().iter().map(|filter| filter["name"].as_str().unwrap());
    names.map(|name| name.rsplit(['.', '/']).next().unwrap()).collect()
}

#[test]
fn filter_stands_at_its_phase_by_priority() {
    let phases = [("AUTHN", "a"), ("AUTHZ", "b"), ("STATS", "c"), ("UNSPECIFIED_PHASE", "d")];
    let mut plugins: Vec<Extension> =
        phases.iter().rev().map(|(phase, name)| plugin(name, json!({"phase": phase}))).collect();
    plugins.push(plugin("first", json!({"priority": 10})));
    plugins.push(plugin("second", json!({"priority": -10})));

    let resources = installed("1.29.0", &plugins);

    // Before CORS, whatever the phase. Without a priority comes last.
    let expected =
        ["metadata_exchange", "a", "jwt_authn", "b", "rbac", "c", "first", "second", "d", "cors", "router"];
    assert_eq!(names(&resources), expected);
}

#[test]
fn resource_has_what_the_api_offers_and_no_more() {
    let plugin = plugin(
        "berth",
        json!({
            "pluginName": "berth",
            "failStrategy": "FAIL_RELOAD",
            "pluginConfig": {"v": 1, "pools": []},
            "imagePullPolicy": "Always",
            "sha256": "ab",
        }),
    );

    let resources = installed("1.29.0", &[plugin]);

    let expected = json!({
        "name": "extensions.istio.io/wasmplugin/ingress.berth",
        "typed_config": {"@type": WASM, "config": {
            "name": "ingress.berth",
            "root_id": "berth",
            "failure_policy": "FAIL_RELOAD",
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": "{\"pools\":[],\"v\":1}",
            },
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"remote": {
                    "http_uri": {"uri": "oci://registry/berth:1", "timeout": "30s", "cluster": "_"},
                    "sha256": "ab",
                }},
                "environment_variables": {"key_values": {
                    "ISTIO_META_WASM_IMAGE_PULL_POLICY": "Always",
                    "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1",
                }},
            },
        }},
    });
    assert_eq!(resources.extensions, [expected]);
}

#[test]
fn names_differ_by_kind_and_version() {
    let wasm = json!({"wasm": {"url": "registry/berth:1"}});
    let traffic = Extension::parse(&document("TrafficExtension", "berth", wasm)).unwrap();
    let name = |istio: &str, extension: &Extension| {
        installed(istio, std::slice::from_ref(extension)).extensions[0]["name"].as_str().unwrap().to_owned()
    };

    let plugin = plugin("berth", json!({}));
    assert_eq!(name("1.29.3", &plugin), "extensions.istio.io/wasmplugin/ingress.berth");
    assert_eq!(
        name("1.30.0", &plugin),
        "extensions.istio.io/trafficextension/ingress.berth~istio-translated-wasmplugin"
    );
    assert_eq!(name("1.30.0", &traffic), "extensions.istio.io/trafficextension/ingress.berth");
    let refused = install(&mut with_filters(&[]), &[traffic], &proxy("1.29.3"));
    assert!(refused.unwrap_err().contains("since 1.30"));
}

#[test]
fn image_without_a_scheme_is_an_oci_image() {
    let code = |url: &str| {
        let plugin = plugin("berth", json!({"url": url}));
        let resource = installed("1.31.0", &[plugin]).extensions.remove(0);
        resource.pointer("/typed_config/config/vm_config/code").unwrap().clone()
    };

    assert_eq!(code("registry/berth:1")["remote"]["http_uri"]["uri"], "oci://registry/berth:1");
    assert_eq!(code("https://registry/berth")["remote"]["http_uri"]["uri"], "https://registry/berth");
    assert_eq!(code("file:///etc/berth.wasm"), json!({"local": {"filename": "/etc/berth.wasm"}}));
}

#[test]
fn selector_and_mode_choose_the_listeners() {
    let acts = |fields: Value| !installed("1.31.0", &[plugin("berth", fields)]).extensions.is_empty();

    assert!(acts(json!({"selector": {"matchLabels": {"istio": "ingressgateway"}}})));
    assert!(!acts(json!({"selector": {"matchLabels": {"istio": "other"}}})));
    assert!(acts(json!({"match": [{"mode": "CLIENT"}]})));
    assert!(!acts(json!({"match": [{"mode": "SERVER"}]})));
}

#[test]
fn faults_name_document_path_and_field() {
    let fault = |kind: &str, fields: Value| Extension::parse(&document(kind, "berth", fields)).unwrap_err();

    let capabilities = fault("WasmPlugin", json!({"capabilities": {}}));
    assert!(
        capabilities.starts_with("WasmPlugin berth: spec: unknown field `capabilities`"),
        "{capabilities}"
    );
    let lua = fault("TrafficExtension", json!({"lua": {"inlineCode": "x"}}));
    assert!(lua.contains("spec.lua: unknown field"), "{lua}");
    let ports = fault("WasmPlugin", json!({"match": [{"mode": "CLIENT", "ports": []}]}));
    assert!(ports.contains("ports"), "{ports}");
    let strategy = fault("WasmPlugin", json!({"failStrategy": "RELOAD"}));
    assert!(strategy.contains("FAIL_RELOAD"), "{strategy}");
}

mod agent {
    use super::*;

    fn resource(strategy: &str) -> Value {
        let plugin = plugin("berth", json!({"failStrategy": strategy, "imagePullPolicy": "Always"}));
        installed("1.31.0", &[plugin]).extensions.remove(0)
    }

    #[test]
    fn image_becomes_a_local_file_and_its_own_variables_go() {
        let mut pulled = resource("FAIL_CLOSE");

        pull(&mut pulled, Some("target/berth.wasm")).unwrap();

        let vm =
            json!({"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": "target/berth.wasm"}}});
        assert_eq!(pulled["typed_config"]["config"]["vm_config"], vm);
    }

    #[test]
    fn variables_of_the_module_stay() {
        let mut pulled = resource("FAIL_CLOSE");
        let environment = pulled.pointer_mut("/typed_config/config/vm_config/environment_variables").unwrap();
        environment["key_values"]["OWN"] = "x".into();

        pull(&mut pulled, Some("target/berth.wasm")).unwrap();

        let environment = pulled.pointer("/typed_config/config/vm_config/environment_variables").unwrap();
        assert_eq!(*environment, json!({"key_values": {"OWN": "x"}}));
    }

    #[test]
    fn without_the_image_no_request_passes_unless_it_fails_open() {
        let without_image = |mut resource: Value| {
            pull(&mut resource, None).unwrap();
            resource["typed_config"].clone()
        };
        let deny = json!({"@type": RBAC, "rules_stat_prefix": "wasm-default-deny", "rules": {}});
        let allow = json!({"@type": RBAC, "rules_stat_prefix": "wasm-default-allow"});

        assert_eq!(without_image(resource("FAIL_CLOSE")), deny);
        assert_eq!(without_image(resource("FAIL_RELOAD")), deny);
        assert_eq!(without_image(resource("FAIL_OPEN")), allow);
        let mut deprecated = resource("FAIL_CLOSE");
        deprecated["typed_config"]["config"]["failure_policy"] = "UNSPECIFIED".into();
        deprecated["typed_config"]["config"]["fail_open"] = true.into();
        assert_eq!(without_image(deprecated), allow);
    }

    #[test]
    fn local_code_and_other_filters_are_left_alone() {
        let local = json!({"name": "x", "typed_config": {"@type": WASM, "config": {"vm_config": {"code": {"local": {"filename": "a"}}}}}});
        let other = json!({"name": "x", "typed_config": {"@type": RBAC}});
        for resource in [local, other] {
            let mut pulled = resource.clone();
            pull(&mut pulled, None).unwrap();
            assert_eq!(pulled, resource);
        }
        let mut empty = json!({"name": "x", "typed_config": {"@type": WASM, "config": {}}});
        assert!(pull(&mut empty, None).unwrap_err().contains("no code"));
    }
}
