//! A page in a real browser: all that it asks for is served by one node. `make test-browser` runs it, with Chromium.

use std::time::Duration;

use berth_harness::{Browser, Endpoint, PythonNodes, State, eventually};
use serde_json::{Value, json};

use crate::support::patience::impatient;
use crate::support::pinning::{all_see, patiently};
use crate::support::{manager, pool};

/// Of the listener, which the browser does not verify.
const CERTIFICATE: &str = include_str!("../../../core/testdata/token/certificate.pem");
const KEY: &str = include_str!("../../../core/testdata/token/p256.private.pem");
/// What the shipped listener gives nodes as the key of a WebSocket over HTTP/2.
const KEY_OVER_HTTP2: &str = "YmVydGggb3ZlciBIVFRQMg==";

/// TLS with HTTP/2, so that browsers speak it; and answers to preflights from pages of another port, before Berth.
fn as_browsers_see_it(json: &mut Value) {
    let context = json!({"common_tls_context": {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {"certificate_chain": {"inline_string": CERTIFICATE}, "private_key": {"inline_string": KEY}}
        ],
    }});
    let mut config = context;
    let types = "type.googleapis.com/envoy.extensions";
    config["@type"] = format!("{types}.transport_sockets.tls.v3.DownstreamTlsContext").into();
    json["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] =
        json!({"name": "envoy.transport_sockets.tls", "typed_config": config});

    let manager = manager(json);
    let filters = manager["http_filters"].as_array_mut().unwrap();
    let cors = json!({"@type": format!("{types}.filters.http.cors.v3.Cors")});
    filters.insert(0, json!({"name": "envoy.filters.http.cors", "typed_config": cors}));
    manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = json!({
        "envoy.filters.http.cors": {
            "@type": format!("{types}.filters.http.cors.v3.CorsPolicy"),
            "allow_origin_string_match": [{"prefix": "https://127.0.0.1:"}],
            "allow_methods": "GET, PUT", "allow_headers": "x-app", "allow_credentials": true,
        },
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test-browser"]
async fn all_that_a_page_asks_for_is_served_by_one_node() {
    let nodes = PythonNodes::start("web_nodes.py", 4).await;
    let session = json!({
        "sources": [{"cookie": "route"}],
        "missing": {"issue_cookie": {"name": "route", "secure": true, "same_site": "none"}},
    });
    let builder = impatient().configuration(move |json| pool(json)["session"] = session.clone());
    let world = patiently(builder, State::memory()).nodes(0).envoys(2).bootstrap(as_browsers_see_it);
    let world = world.start().await;
    let endpoints: Vec<Endpoint> = nodes.addresses().iter().map(|address| Endpoint::new(*address)).collect();
    world.edit_endpoints(|set| *set = endpoints).await;
    all_see(&world, &[("active", 4)]).await;
    let [page, api] = [0, 1].map(|index| format!("https://{}", world.envoy(index).address()));
    let site = format!("https://other.example:{}", world.envoy(1).address().port());

    // Each with a profile of its own.
    for visit in 0..3 {
        let reports = || {
            let log = nodes.log();
            let lines: Vec<Value> = log
                .lines()
                .filter_map(|line| serde_json::from_str(line.strip_prefix("report ")?).ok())
                .collect();
            lines
        };
        let browser = Browser::open(&format!("{page}/?api={api}&site={site}"));
        let reported = async || reports().get(visit).cloned();
        let seen = eventually(reported, Duration::from_secs(60)).await;
        drop(browser);
        println!("visit {visit}: {seen}");

        assert_eq!(seen.get("failure"), None, "{seen}");
        let node = &seen["page"];
        for list in ["fetches", "stream", "other"] {
            let answers = seen[list].as_array().expect("a list");
            assert!(!answers.is_empty() && answers.iter().all(|answer| answer == node), "{list}: {seen}");
        }
        let elsewhere = seen["elsewhere"].as_array().expect("a list");
        assert!(elsewhere.len() == 7 && elsewhere.iter().all(|answer| answer == &elsewhere[0]), "{seen}");
        assert_eq!(&seen["ws"]["node"], node, "{seen}");
        // The browser took its connection of HTTP/2 for the WebSocket too.
        assert_eq!((&seen["over"], &seen["ws"]["key"]), (&json!("h2"), &json!(KEY_OVER_HTTP2)), "{seen}");
    }
}
