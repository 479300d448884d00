//! The `:authority` of calls: routers, side-cars and servers on the way take it, however Envoy's cluster is named.

use std::net::SocketAddr;

use crate::support::fake_state::{Call, FakeState};
use crate::support::patience::remembers;
use crate::support::state_away::{calls, over, state, verdict};
use crate::support::{SOON, placing, sessions};
use berth_harness::{Builder, State, World, eventually};
use serde_json::{Value, json};

const ISTIO: &str = "outbound|8650||berth.default.svc.cluster.local";
const FQDN: &str = "berth.default.svc.cluster.local";
const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Names the state cluster so, in the bootstrap and in the plugin.
fn named(builder: Builder, name: &'static str) -> Builder {
    let rename = move |json: &mut Value| cluster(json)["name"] = name.into();
    builder.configuration(move |json| state(json)["cluster"] = name.into()).bootstrap(rename)
}

/// Speaks HTTP/2 to it.
fn over_http2(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        let options = &mut cluster(json)["typed_extension_protocol_options"][HTTP]["explicit_http_config"];
        *options = json!({"http2_protocol_options": {}});
    })
}

fn cluster(json: &mut Value) -> &mut Value {
    let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.last_mut().expect("the state cluster is the last")
}

/// A second Envoy before the state services: it takes requests for this domain only, and sends them to this address.
fn routing(domain: &'static str, services: SocketAddr) -> Builder {
    World::builder().filter(false).cluster_address("berth_admin", services).bootstrap(move |json| {
        let host = &mut crate::support::manager(json)["route_config"]["virtual_hosts"][0];
        host["domains"] = json!([domain]);
        host["routes"] =
            json!([{"match": {"prefix": "/"}, "route": {"cluster": "berth_admin", "timeout": "0s"}}]);
    })
}

/// Every session is pinned, and found again.
async fn pins_all(world: &World) {
    remembers(world.envoy(0)).await;
    for key in sessions(20) {
        for outcome in ["claimed", "hit"] {
            let answer = world.get("/").header("x-session-id", &key).send().await;
            assert_eq!(verdict(&answer), (outcome, "pin"), "{key}");
        }
    }
    assert_eq!(calls(world.envoy(0), "failed").await + calls(world.envoy(0), "timed_out").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_takes_calls_over_http2_whatever_the_cluster_is_named() {
    for name in [ISTIO, "outbound_.8650_._.berth.default.svc.cluster.local", "httproute/default/berth/rule/0"]
    {
        let builder = World::builder().concurrency(1).state(State::memory());
        pins_all(&placing(over_http2(named(builder, name))).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_carry_the_host_of_the_configuration_or_of_the_name() {
    for (name, host, expected) in [
        ("berth_state", None, "berth_state"),
        (ISTIO, None, FQDN),
        ("a/b", None, "berth"),
        (ISTIO, Some("berth.example.com:8650"), "berth.example.com:8650"),
    ] {
        let fake = FakeState::start().await;
        let builder = named(over(&fake).concurrency(1), name);
        let world = placing(builder.configuration(move |json| {
            if let Some(host) = host {
                state(json)["host"] = host.into();
            }
        }))
        .await;
        world.get("/").header("x-session-id", "ada").send().await;

        for call in [Call::Resolve, Call::Changes, Call::Nodes] {
            eventually(async || fake.count(call) > 0, SOON).await;
            for asked in fake.asked(call) {
                assert!(asked.headers.contains(&("host".into(), expected.into())), "{name}: {asked:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn router_that_goes_by_the_host_takes_calls() {
    let services = World::builder().state(State::memory()).start().await;
    let router = routing(FQDN, services.state(0).address()).start().await;
    // Envoy's own checks have a host of their own.
    let checked = |json: &mut Value| {
        cluster(json)["health_checks"][0]["http_health_check"]["host"] = FQDN.into();
    };
    let before = || {
        World::builder()
            .file("envoy-state.yaml")
            .concurrency(1)
            .cluster_address("berth_state", router.envoy(0).address())
            .bootstrap(checked)
    };
    pins_all(&placing(named(before(), ISTIO)).await).await;
    let world = placing(before().configuration(|json| state(json)["host"] = FQDN.into())).await;
    let answer = world.get("/").header("x-session-id", "by-host").send().await;
    assert_eq!(verdict(&answer), ("claimed", "pin"));

    // With the wrong one each call fails, and the log says how.
    let world = placing(before()).await;
    let answer = world.get("/").header("x-session-id", "ada").send().await;
    assert_eq!(verdict(&answer), ("ring", "state_away"));
    let envoy = world.envoy(0);
    eventually(async || calls(envoy, "failed").await > 0.0, SOON).await;
    let is_logged_once = async || {
        let log = envoy.log();
        let lines = log.lines().filter(|line| line.contains("calls to the state cluster berth_state fail"));
        let lines: Vec<&str> = lines.collect();
        (lines.len() == 1 && lines[0].contains(": 404")).then_some(()).ok_or(format!("{lines:#?}"))
    };
    eventually(is_logged_once, SOON).await;
}

/// An admin cluster may have any name.
#[tokio::test(flavor = "multi_thread")]
async fn admin_is_asked_whatever_its_cluster_is_named() {
    for name in ["outbound|15000||localhost", "a/b"] {
        let rename = move |json: &mut Value| {
            let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
            let admin = clusters.iter_mut().find(|cluster| cluster["name"] == "berth_admin").unwrap();
            admin["name"] = name.into();
        };
        let builder = World::builder().bootstrap(rename);
        let world = placing(builder.configuration(move |json| json["admin_cluster"] = name.into())).await;
        let envoy = world.envoy(0);
        assert_eq!(envoy.metric("berth_polls_total", &[("result", "failed")]).await, 0.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_that_fail_are_told_of_once() {
    let world = crate::support::quick(World::builder().concurrency(1))
        .configuration(|json| json["admin_cluster"] = "no_such".into())
        .start()
        .await;
    let envoy = world.envoy(0);
    let failed = async || envoy.metric("berth_polls_total", &[("result", "failed")]).await >= 3.0;
    eventually(failed, SOON).await;

    let log = envoy.log();
    let lines = log.lines().filter(|line| line.contains("looks at the members through the cluster no_such"));
    assert_eq!(lines.filter(|line| line.contains("Envoy has no cluster of that name")).count(), 1, "{log}");
}
