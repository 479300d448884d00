//! What is refused, and how the message names it.

use super::*;

fn faults(patch: Value) -> String {
    EnvoyFilter::parse(&document(json!([patch]))).unwrap_err()
}

#[test]
fn fault_names_document_path_and_what_is_expected() {
    let fault = faults(patch("CLUSTER", json!({"cluster": {"nmae": "x"}}), "MERGE", json!({})));
    assert_eq!(
        fault.split(" at line").next().unwrap(),
        "EnvoyFilter test: spec.configPatches[0].match: unknown field `nmae`, expected one of `name`, `service`, `subset`, `portNumber`"
    );

    let fault = faults(patch("CLUSTER", json!({}), "MERGE", json!({"common_lb_config": {"panic": 1}})));
    assert!(
        fault.starts_with(
            "EnvoyFilter test: spec.configPatches[0].patch.value.common_lb_config.panic: unknown field of \
             envoy.config.cluster.v3.Cluster.CommonLbConfig; expected one of close_connections_on_host_set_change"
        ),
        "{fault}"
    );
}

#[test]
fn every_fault_is_reported() {
    let mut document = document(json!([
        patch("CLUSTER", json!({}), "MERGE", json!({"lbPolicy": "RANDOM"})),
        patch("ROUTE_CONFIGURATION", json!({}), "ADD", json!({})),
    ]));
    document["metadata"]["owner"] = "x".into();

    let faults = EnvoyFilter::parse(&document).unwrap_err();

    assert_eq!(faults.lines().count(), 3, "{faults}");
}

#[test]
fn kinds_that_do_nothing_are_refused_with_the_reason() {
    let bootstrap = faults(patch("BOOTSTRAP", json!({}), "MERGE", json!({})));
    assert!(bootstrap.contains("bootstrapOverride"), "{bootstrap}");
    let listener_filter = faults(patch("LISTENER_FILTER", json!({}), "ADD", json!({})));
    assert!(listener_filter.contains("not translated"), "{listener_filter}");
}

#[test]
fn operations_that_istiod_ignores_are_refused() {
    for (apply_to, operation) in [
        ("CLUSTER", "REPLACE"),
        ("ROUTE_CONFIGURATION", "REMOVE"),
        ("VIRTUAL_HOST", "INSERT"),
        ("HTTP_ROUTE", "REPLACE"),
        ("EXTENSION_CONFIG", "MERGE"),
        ("HTTP_FILTER", "REMOVE"),
    ] {
        let faults = faults(patch(apply_to, json!({}), operation, json!({})));
        assert!(faults.contains("ignores") || faults.contains("unknown variant"), "{faults}");
    }
}

#[test]
fn matches_for_another_kind_are_refused() {
    let route = json!({"routeConfiguration": {"name": "http.80"}});
    assert!(
        faults(patch("CLUSTER", route, "MERGE", json!({})))
            .contains("match.routeConfiguration: not for Cluster")
    );
    let sub_filter =
        patch("NETWORK_FILTER", in_manager("envoy.filters.http.router"), "ADD", json!({"name": "x"}));
    assert!(faults(sub_filter).contains("subFilter: only for HttpFilter"));
    // Not implemented by istiod, so it would match every port.
    let port_name = json!({"listener": {"portName": "http"}});
    assert!(faults(patch("LISTENER", port_name, "MERGE", json!({}))).contains("portName"));
}

#[test]
fn merges_that_cannot_be_judged_are_refused() {
    let opaque = faults(patch(
        "CLUSTER",
        json!({}),
        "MERGE",
        json!({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT"}}),
    ));
    assert!(opaque.contains("lb_subset_config: messages.txt lacks this message"), "{opaque}");
    let value = json!({"typed_config": {"@type": "type.googleapis.com/unknown", "a": 1}});
    assert!(faults(patch("HTTP_FILTER", json!({}), "MERGE", value)).contains("@type"));
}

#[test]
fn empty_any_is_refused_because_it_keeps_the_fields_it_should_replace() {
    let value = json!({"upstream_config": {"name": "x", "typed_config": {"@type": "type.googleapis.com/a"}}});

    assert!(faults(patch("CLUSTER", json!({}), "MERGE", value)).contains("nothing but @type"));
}

#[test]
fn transport_socket_stands_alone() {
    let value = json!({"transport_socket": {"name": "x"}, "connect_timeout": "1s"});

    assert!(
        faults(patch("CLUSTER", json!({}), "MERGE", value))
            .contains("connect_timeout: istiod ignores it here")
    );
}

#[test]
fn selector_and_targets_exclude_each_other() {
    let mut document = document(json!([]));
    document["spec"]["workloadSelector"] = json!({"labels": {"a": "b"}});
    document["spec"]["targetRefs"] =
        json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "main"}]);

    assert!(EnvoyFilter::parse(&document).unwrap_err().contains("not both"));
}

#[test]
fn values_of_the_wrong_form_are_refused() {
    for (value, expected) in [
        (json!({"connect_timeout": 5}), "a duration"),
        (json!({"health_checks": {}}), "a list"),
        (json!({"common_lb_config": []}), "an object"),
        (json!({"name": 1}), "a string"),
        (json!({"lb_policy": true}), "a name"),
    ] {
        let faults = faults(patch("CLUSTER", json!({}), "MERGE", value));
        assert!(faults.contains(expected), "{faults}");
    }
}
