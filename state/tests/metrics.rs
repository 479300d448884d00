//! What Prometheus reads of the service is what dashboards and alerts were written for: `testdata/metrics.txt` is a scrape
//! from when they were.
#[path = "support/http.rs"]
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_core::wire::SessionKey;
use berth_state::store::{Keeping, Memory};
use berth_state::{Access, Limits};
use serde_json::json;

use http::Service;

const SCRAPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/metrics.txt");
const HEAD: &str =
    "# A scrape of the service after the requests of tests/metrics.rs. UPDATE=1 rewrites it.\n";
const NODES: [&str; 2] = ["10.0.0.1:80", "10.0.0.2:80"];

/// A sample's name and its labels.
type Series = (String, BTreeSet<(String, String)>);

#[derive(Debug, PartialEq)]
struct Family {
    help: String,
    kind: String,
    /// The values of those that are the same in each run.
    samples: BTreeMap<Series, Option<f64>>,
}

/// The text format of Prometheus, as far as the service uses it.
fn read(scrape: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in scrape.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (name, help) = head.split_once(' ').unwrap();
            current = name.to_owned();
            let family = Family { help: help.to_owned(), kind: String::new(), samples: BTreeMap::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} is there twice");
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').unwrap();
            assert_eq!(name, current);
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert!(name.starts_with(current.as_str()), "{name} is not of {current}");
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            let labels = labels.map(label).collect();
            let is_time = name.ends_with("_seconds_bucket") || name.ends_with("_seconds_sum");
            // The one of the request before may not have ended yet.
            let is_same = !is_time && name != "berth_state_connections";
            let value = value.parse::<f64>().unwrap();
            let samples = &mut families.get_mut(&current).unwrap().samples;
            let known = samples.insert((name.to_owned(), labels), is_same.then_some(value));
            assert!(known.is_none(), "{series} is there twice");
        }
    }
    families
}

/// A bound is the number that is written, however it is written.
fn label(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap();
    let value = value.trim_matches('"');
    let value = if name == "le" { value.parse::<f64>().unwrap().to_string() } else { value.to_owned() };
    (name.to_owned(), value)
}

/// A service that was asked something of every kind.
fn scrape() -> String {
    let access = Access { token: Some("t".to_owned()), ..Access::default() };
    let service = Service::start(Limits { access, ..Limits::default() }, || {
        Arc::new(Memory::new(Keeping::default(), Arc::new(http::now)))
    });
    let ask = |method: &str, path: &str, body: &str, status: u16| {
        let reply = service.ask_with(method, path, body, &["authorization: Bearer t"]);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    };
    let key = SessionKey::new("nodes", b"alice").to_string();
    let resolve = |unusable: &[&str]| {
        let session = json!({"key": key, "candidates": NODES, "unusable": unusable});
        json!({"pool": "nodes", "sessions": [session]}).to_string()
    };
    ask("POST", "/v1/resolve", &resolve(&[]), 200);
    ask("POST", "/v1/resolve", &resolve(&[]), 200);
    ask("POST", "/v1/resolve", &resolve(&NODES[..1]), 200);
    // The session is on the second node, which starts again.
    let node = format!("/v1/nodes/{}?pool=nodes", NODES[1]);
    ask("PUT", &node, r#"{"boot_id": "1"}"#, 200);
    ask("POST", "/v1/resolve", &resolve(&[]), 200);
    ask("PUT", &node, r#"{"boot_id": "2"}"#, 200);
    ask("POST", "/v1/resolve", &resolve(&[]), 200);
    ask("POST", "/v1/resolve", "", 400);
    ask("POST", "/v1/resolve", &" ".repeat((1 << 20) + 1), 413);
    ask("GET", "/v1/resolve", "", 405);
    ask("POST", "/v1/touch", &json!({"pool": "nodes", "keys": [key]}).to_string(), 200);
    ask("GET", "/v1/changes?pool=nodes", "", 200);
    ask("GET", "/v1/nodes?pool=nodes", "", 200);
    ask("GET", "/v1/nodes/10.0.0.9:80?pool=nodes", "", 404);
    ask("GET", &format!("/v1/sessions/{key}?pool=nodes"), "", 200);
    assert_eq!(service.ask("GET", "/v1/nodes?pool=nodes", "").status, 401);
    let wrong = service.ask_with("GET", "/v1/nodes?pool=nodes", "", &["authorization: Bearer u"]);
    assert_eq!(wrong.status, 401);

    let reply = service.ask("GET", "/metrics", "");
    assert!(reply.head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8"), "{reply:?}");
    reply.body
}

#[test]
fn names_types_and_labels_are_those_that_dashboards_know() {
    let scrape = scrape();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(SCRAPE, HEAD.to_owned() + &scrape).unwrap();
    }

    let golden = std::fs::read_to_string(SCRAPE).unwrap();

    let (known, found) = (read(&golden), read(&scrape));
    assert_eq!(known.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (name, family) in &known {
        assert_eq!(family, &found[name], "{name}");
    }
}
