//! Berth's metrics get the same labels in both ways of envoy/istio: by the proxy's bootstrap, and by Prometheus' relabelling.

use std::collections::{BTreeMap, BTreeSet};

use berth_harness::istio::{Flavour, Istio};
use berth_harness::root;
use regex::Regex;
use serde_json::Value;

use crate::support::pinning::of;
use crate::worlds::started;

/// A metric's name as `__name__`, and its labels.
type Series = BTreeMap<String, String>;

/// Berth's series, as this proxy shows them.
async fn series(istio: &Istio) -> BTreeSet<Series> {
    let world = started(istio).await;
    of(&world.client(), "ada").send().await;
    let page = world.envoy(0).prometheus().await;
    let lines = page.lines().filter(|line| line.starts_with("berth_"));
    lines.map(|line| parse(line.rsplit_once(' ').expect("a value").0)).collect()
}

fn parse(series: &str) -> Series {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
    labels.chain([("__name__".to_owned(), name.to_owned())]).collect()
}

/// What Prometheus' action `replace` does.
fn relabel(mut series: Series, rules: &[Value]) -> Series {
    for rule in rules {
        let text = |field: &str| rule[field].as_str().expect("a text");
        let source = rule["sourceLabels"][0].as_str().expect("one label");
        let whole = Regex::new(&format!("^(?:{})$", text("regex"))).expect("a regular expression");
        let value = series.get(source).cloned().unwrap_or_default();
        let Some(found) = whole.captures(&value) else { continue };
        let expand = |template: &str| {
            let mut expanded = String::new();
            found.expand(template, &mut expanded);
            expanded
        };
        series.insert(expand(text("targetLabel")), expand(text("replacement")));
    }
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_give_the_same_labels() {
    let file = root().join("envoy/istio/metrics/relabelings.yaml");
    let file: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let rules = file["metricRelabelings"].as_array().unwrap();
    let istio = Istio::new(Flavour::GATEWAY_1_31);

    let by_proxy = series(&istio.clone().overriding_bootstrap()).await;
    let without = series(&istio).await;
    let by_prometheus = without.iter().map(|series| relabel(series.clone(), rules)).collect();

    assert_eq!(by_proxy, by_prometheus);
    assert_ne!(by_proxy, without);
    let expected = [("__name__", "berth_nodes"), ("pool", "nodes"), ("state", "active")];
    assert!(
        by_proxy.contains(&expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        "{by_proxy:?}"
    );
}
