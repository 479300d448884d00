//! What Berth makes of the kinds of Envoy clusters.

use berth_core::cluster::{Clusters, Unsupported};

/// A policy that Envoy never uses, since it takes the first that it knows, and a subset policy without selectors, which
/// parts nothing, are no reason to leave a good cluster alone.
#[test]
fn a_subset_policy_that_parts_nothing_does_not_disable_berth() {
    let over = |fallback: &str| {
        format!(
            r#"{{"typed_extension_config":{{"name":"o","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost","fallback_policy":{{"policies":[{fallback}]}}}}}}}}"#
        )
    };
    let policy = |kind: &str| {
        format!(
            r#"{{"typed_extension_config":{{"name":"p","typed_config":{{"@type":"type.googleapis.com/x.{kind}"}}}}}}"#
        )
    };
    for policies in [
        format!("{},{}", over(&policy("RingHash")), policy("Subset")),
        over(&format!("{},{}", policy("RingHash"), policy("Subset"))),
        over(&policy("Subset")),
    ] {
        let json = format!(
            r#"{{"configs":[{{"static_clusters":[{{"cluster":{{"name":"nodes","load_balancing_policy":{{"policies":[{policies}]}}}}}}]}}]}}"#
        );
        let clusters = Clusters::read(json.as_bytes()).unwrap();
        assert_eq!(clusters.get("nodes").unwrap().unsupported, None, "{policies}");
    }
}

/// The name of a cluster's extension is free text; its type is not.
#[test]
fn a_kind_of_cluster_is_known_by_its_type_whatever_it_is_called() {
    for (name, package, unsupported) in [
        ("mine", "aggregate", Some(Unsupported::Aggregate)),
        ("mine", "dynamic_forward_proxy", Some(Unsupported::DynamicForwardProxy)),
        ("envoy.clusters.aggregate", "dns", None),
    ] {
        let json = format!(
            r#"{{"configs":[{{"static_clusters":[{{"cluster":{{"name":"nodes","cluster_type":{{"name":"{name}","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.clusters.{package}.v3.ClusterConfig"}}}}}}}}]}}]}}"#
        );
        let clusters = Clusters::read(json.as_bytes()).unwrap();
        assert_eq!(clusters.get("nodes").unwrap().unsupported, unsupported, "{name}: {package}");
    }
}
