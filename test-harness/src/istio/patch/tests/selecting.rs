//! Which EnvoyFilters act on a proxy, and in which order.

use super::*;

/// An EnvoyFilter that adds a cluster of its own name.
fn adding(name: &str, edit: impl FnOnce(&mut Value)) -> EnvoyFilter {
    let mut document =
        document(json!([patch("CLUSTER", json!({"context": "ANY"}), "ADD", json!({"name": name}))]));
    document["metadata"]["name"] = name.into();
    edit(&mut document);
    EnvoyFilter::parse(&document).unwrap()
}

fn order(filters: &[EnvoyFilter], proxy: &Proxy) -> Vec<String> {
    let mut resources = Resources::default();
    apply(&mut resources, filters, proxy);
    resources.clusters.iter().map(|cluster| cluster["name"].as_str().unwrap().to_owned()).collect()
}

fn acts(proxy: &Proxy, edit: impl FnOnce(&mut Value)) -> bool {
    !order(&[adding("a", edit)], proxy).is_empty()
}

#[test]
fn order_is_priority_root_namespace_age_and_name() {
    let filters = [
        adding("z", |_| {}),
        adding("b", |_| {}),
        adding("new", |filter| filter["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into()),
        adding("old", |filter| filter["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into()),
        adding("root", |filter| filter["metadata"]["namespace"] = "istio-system".into()),
        adding("late", |filter| filter["spec"]["priority"] = 1.into()),
        adding("early", |filter| filter["spec"]["priority"] = (-1).into()),
    ];

    assert_eq!(order(&filters, &gateway()), ["early", "root", "b", "z", "old", "new", "late"]);
}

#[test]
fn another_namespaces_filter_does_not_act_but_the_root_namespaces_does() {
    assert!(acts(&gateway(), |_| {}));
    assert!(acts(&gateway(), |filter| filter["metadata"]["namespace"] = "istio-system".into()));
    assert!(!acts(&gateway(), |filter| filter["metadata"]["namespace"] = "default".into()));
}

#[test]
fn every_label_of_the_selector_must_be_there() {
    let with = |labels: Value| {
        acts(&gateway(), |filter| filter["spec"]["workloadSelector"] = json!({"labels": labels}))
    };

    assert!(with(json!({})));
    assert!(with(json!({"istio": "ingressgateway"})));
    assert!(!with(json!({"istio": "other"})));
    assert!(!with(json!({"istio": "ingressgateway", "app": "x"})));
}

#[test]
fn target_refs_select_gateways_of_the_gateway_api_alone() {
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "main"}]);
    let with_target = |filter: &mut Value| filter["spec"]["targetRefs"] = target.clone();
    let label = ("gateway.networking.k8s.io/gateway-name".to_owned(), "main".to_owned());
    let of_gateway_api = Proxy { labels: [label].into(), ..gateway() };

    assert!(acts(&of_gateway_api, with_target));
    assert!(!acts(&gateway(), with_target));
    assert!(!acts(&of_gateway_api, |filter| {
        with_target(filter);
        filter["metadata"]["namespace"] = "istio-system".into();
    }));
}

#[test]
fn proxy_version_is_a_regular_expression_that_may_match_anywhere() {
    let with = |version: &str| {
        acts(&gateway(), |filter| {
            filter["spec"]["configPatches"][0]["match"] = json!({"proxy": {"proxyVersion": version}});
        })
    };

    assert!(with(r"^1\.31.*"));
    assert!(with(r"31"));
    assert!(with(r"^1\.(30|31)\."));
    assert!(!with(r"^1\.30.*"));
}

#[test]
fn filters_that_do_not_select_the_proxy_have_no_outcome() {
    let filters = [
        adding("here", |_| {}),
        adding("elsewhere", |filter| filter["metadata"]["namespace"] = "default".into()),
    ];

    let outcomes = apply(&mut Resources::default(), &filters, &gateway());

    let expected = Outcome { filter: "ingress/here".into(), patch: 0, changed: 1, dropped: None };
    assert_eq!(outcomes, [expected]);
}
