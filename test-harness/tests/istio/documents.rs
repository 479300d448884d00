//! The documents of envoy/istio/: they parse strictly, each of their patches acts where it is meant to and nowhere else, and what
//! they name in each other is there.

use std::collections::BTreeSet;

use berth_core::config::{Config, Membership};
use berth_harness::istio::{Documents, Flavour, Istio};
use berth_harness::{World, root};
use serde_json::{Value, json};

const FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";

fn yaml(file: &str) -> Value {
    serde_yaml_ng::from_str(&std::fs::read_to_string(root().join(file)).unwrap()).unwrap()
}

/// The filter's configuration, as the EnvoyFilter berth-plugin has it.
fn plugin(documents: &Documents) -> Value {
    let found = documents.of_kind("EnvoyFilter").find(|filter| filter["metadata"]["name"] == "berth-plugin");
    found.unwrap().pointer("/spec/configPatches/0/patch/value/typed_config/config").unwrap().clone()
}

fn configuration(documents: &Documents) -> Value {
    serde_json::from_str(plugin(documents)["configuration"]["value"].as_str().unwrap()).unwrap()
}

fn named<'r>(resources: &'r [Value], name: &str) -> &'r Value {
    resources.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_patch_acts_in_every_flavour_it_is_for() {
    for flavour in Flavour::ALL {
        let (_, outcomes) = Istio::new(flavour).patched().unwrap();

        let filters: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.filter.as_str()).collect();
        assert_eq!(filters.len(), 3, "{filters:?}");
        for outcome in &outcomes {
            assert!(outcome.changed > 0 && outcome.dropped.is_none(), "{flavour:?}: {outcome:?}");
        }
    }
}

#[test]
fn patches_change_the_subset_the_state_service_and_berths_listeners_alone() {
    for flavour in Flavour::ALL {
        let istio = Istio::new(flavour);
        let generated = istio.generated().unwrap();
        let (patched, _) = istio.patched().unwrap();

        assert_eq!(patched.routes, generated.routes);
        let changed = |before: &[Value], after: &[Value]| -> Vec<String> {
            let pairs = before.iter().zip(after).filter(|(before, after)| before != after);
            pairs.map(|(before, _)| before["name"].as_str().unwrap().to_owned()).collect()
        };
        let clusters = [
            "outbound|8080|berth|nodes.games.svc.cluster.local",
            "outbound|8650||berth-state.berth.svc.cluster.local",
        ];
        assert_eq!(changed(&generated.clusters, &patched.clusters), clusters);
        let listeners = changed(&generated.listeners, &patched.listeners);
        assert_eq!(listeners, [generated.listeners[0]["name"].as_str().unwrap()], "{flavour:?}");

        // The filter is the last before the router, behind CORS and faults.
        let filters = patched.listeners[0].pointer(FILTERS).unwrap().as_array().unwrap();
        let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
        assert_eq!(
            names[names.len() - 3..],
            ["envoy.filters.http.cors", "berth", "envoy.filters.http.router"]
        );
        assert_eq!(patched.extensions.len(), 1);
    }
}

#[test]
fn the_filters_configuration_is_right_and_names_what_is_there() {
    for flavour in Flavour::ALL {
        let istio = Istio::new(flavour);
        let documents = Documents::of(flavour.overlay());
        let config = Config::parse(configuration(&documents).to_string().as_bytes()).unwrap();
        let clusters = istio.generated().unwrap().clusters;
        let has = |name: &str| clusters.iter().any(|cluster| cluster["name"] == name);

        // A static cluster of every proxy.
        assert_eq!(config.admin_cluster, "prometheus_stats");
        assert!(matches!(&config.pools[0].membership, Membership::Cluster(name) if has(name)));
        let json = configuration(&documents);
        assert!(has(json["state"]["cluster"].as_str().unwrap()));
        for cluster in json["pools"][0]["match"]["clusters"].as_array().unwrap() {
            assert!(has(cluster.as_str().unwrap()));
        }
    }
}

#[test]
fn only_namespaces_that_the_state_service_is_exported_to_have_its_cluster() {
    for (namespaces, is_there) in
        [("berth,istio-ingress", true), ("*", true), ("berth, games", false), (".", false)]
    {
        let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
            documents.with("Service", "berth-state", |service| {
                service["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": namespaces});
            })
        });
        let clusters = istio.generated().unwrap().clusters;
        let found =
            clusters.iter().any(|cluster| cluster["name"].as_str().unwrap().contains("|berth-state."));
        assert_eq!(found, is_there, "{namespaces}");
    }
}

#[test]
#[should_panic(expected = "mtls.mode PERMISSIVE")]
fn a_policy_of_another_namespace_guards_nothing() {
    let istio = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        documents.with("PeerAuthentication", "berth-state", |peers| {
            peers["metadata"]["namespace"] = "games".into();
        })
    });
    let _ = World::builder().istio(&istio);
}

#[test]
fn capabilities_and_labels_are_those_of_the_reference() {
    let reference = yaml("envoy/envoy.yaml");
    let manager =
        reference.pointer("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config").unwrap();
    let of_reference = &manager["http_filters"][0]["typed_config"]["config"];

    for overlay in ["gateway", "sidecar"] {
        let documents = Documents::of(overlay);
        let config = plugin(&documents);
        for field in ["capability_restriction_config", "failure_policy", "root_id"] {
            assert_eq!(config[field], of_reference[field], "{overlay}");
        }
        let map = documents.of_kind("ConfigMap").next().unwrap();
        let bootstrap: Value =
            serde_json::from_str(map["data"]["custom_bootstrap.json"].as_str().unwrap()).unwrap();
        assert_eq!(bootstrap, json!({"stats_config": reference["stats_config"]}));
    }
}

#[test]
fn ring_and_hash_policy_of_the_cluster_are_those_of_the_pool() {
    for flavour in Flavour::ALL {
        let (patched, _) = Istio::new(flavour).patched().unwrap();
        let json = configuration(&Documents::of(flavour.overlay()));
        let pool = &json["pools"][0];
        let cluster = named(&patched.clusters, pool["cluster"].as_str().unwrap());
        let fallback = "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy\
                        /policies/0/typed_extension_config/typed_config";
        let ring = cluster.pointer(fallback).unwrap();

        assert_eq!(pool["ring"], json!({"minimum_ring_size": ring["minimum_ring_size"]}));
        let policies = ring["consistent_hashing_lb_config"]["hash_policy"].as_array().unwrap();
        let mut expected = vec![json!({"header": {"header_name": "x-berth-hash-key"}, "terminal": true})];
        for source in pool["session"]["sources"].as_array().unwrap() {
            let (kind, name) = source.as_object().unwrap().iter().next().unwrap();
            match kind.as_str() {
                "header" => expected.push(json!({"header": {"header_name": name}, "terminal": true})),
                "cookie" => expected.push(json!({"cookie": {"name": name}, "terminal": true})),
                "query" => expected.push(json!({"query_parameter": {"name": name}, "terminal": true})),
                // Envoy's hash policies do not read it.
                "path" => {}
                other => panic!("a source {other}"),
            }
        }
        assert_eq!(*policies, expected);
    }
}

#[test]
fn a_proxy_of_another_workload_gets_nothing_of_it() {
    for flavour in Flavour::ALL {
        let istio = Istio::new(flavour).documents(|documents| {
            ["berth-lb", "berth-http"].into_iter().fold(documents, |documents, name| {
                documents.with("EnvoyFilter", name, |filter| {
                    filter["spec"]["workloadSelector"]["labels"] = json!({"app": "another"});
                })
            })
        });

        let (patched, _) = istio.patched().unwrap();

        let generated = istio.generated().unwrap();
        assert_eq!(patched.clusters, generated.clusters);
        assert_eq!(patched.listeners, generated.listeners);
    }
}

#[test]
fn misspelt_fields_are_errors() {
    let wrong = Istio::new(Flavour::GATEWAY_1_31).documents(|documents| {
        documents.with("DestinationRule", "nodes", |rule| {
            rule["spec"]["trafficPolicy"]["localityLBSetting"] = json!({"enabled": false});
        })
    });

    assert!(wrong.generated().unwrap_err().contains("localityLBSetting"));
}

#[test]
fn readme_names_every_file_with_a_line_to_change() {
    let directory = root().join("envoy/istio");
    let readme = std::fs::read_to_string(directory.join("README.md")).unwrap();
    let mut files = vec![directory.clone()];
    let mut marked = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "yaml") {
            let name = path.strip_prefix(&directory).unwrap().to_str().unwrap().to_owned();
            if std::fs::read_to_string(&path).unwrap().contains("CHANGE") {
                marked += 1;
                assert!(readme.contains(&format!("`{name}`")), "README.md does not name {name}");
            }
        }
    }
    assert!(marked >= 7, "{marked} files");
}
