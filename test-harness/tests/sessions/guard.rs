//! Headers of Berth's own that others send: with each `guard`, those of clients reach no node, and those of nodes no client.

use berth_harness::{Builder, Client, Envoy, State, World, eventually};
use serde_json::{Value, json};

use crate::support::pinning::{all_see, patiently};
use crate::support::{SOON, manager, pool, quick, raw_header, routes};

/// As a client may send them: in any case, twice, empty, not UTF-8.
const FORGED: [&[u8]; 4] = [
    b"x-berth-session: rehomed; from=evil; version=9\r\nX-Berth-Session: restore; version=1\r\nx-berth-hash-key: bob\r\n",
    b"x-berth-session: \xff\xfe\r\nx-berth-hash-key: \x80\r\n",
    b"x-berth-session:\r\nx-berth-hash-key:\r\nx-berth-destination:\r\n",
    b"X-BERTH-HASH-KEY: a\r\nx-berth-hash-key: b\r\nx-berth-destination: evil\r\nx-berth-destination: evil\r\n",
];
const SPOKEN: [&[(&str, &str)]; 3] = [
    &[("x-berth", "outcome=evil"), ("x-berth", "outcome=worse")],
    &[("x-berth-end", "0"), ("x-berth-end", "2")],
    &[("x-berth", ""), ("x-berth-end", "")],
];
/// More hits than lie between two checks.
const HITS: usize = 600;

/// A worker with pins, for requests to `game.example` alone, that says nothing of its own.
fn guarded(guard: &str) -> Builder {
    let guard = guard.to_owned();
    let builder = quick(World::builder().file("envoy-state.yaml").concurrency(1).nodes(1));
    patiently(builder, State::memory()).configuration(move |json| {
        json["guard"] = guard.as_str().into();
        json["debug_header"] = false.into();
        pool(json)["match"] = json!({"hosts": ["game.example"]});
    })
}

/// Whatever the listener and its routes remove in the shipped file.
fn unprotected(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        let manager = manager(json).as_object_mut().unwrap();
        assert!(manager.remove("early_header_mutation_extensions").is_some());
        let config = manager["route_config"].as_object_mut().unwrap();
        assert!(config.remove("response_headers_to_remove").is_some());
        for route in routes(json) {
            route.as_object_mut().unwrap().remove("response_headers_to_remove");
        }
    })
}

/// The paths of a request through the filter, each as the headers that take it there.
fn paths(number: usize) -> Vec<(&'static str, String)> {
    vec![
        ("miss", format!("host: game.example\r\nx-session-id: new-{number}\r\n")),
        ("hit", "host: game.example\r\nx-session-id: ada\r\n".to_owned()),
        ("sessionless", "host: game.example\r\n".to_owned()),
        ("bypassed", "host: other.example\r\nx-session-id: ada\r\n".to_owned()),
    ]
}

/// The names of Berth's own headers that the node saw, and those that the client did.
async fn seen(client: &Client, path: &str, forged: &[u8]) -> (Vec<String>, Vec<&'static str>) {
    let request = [b"GET / HTTP/1.1\r\n", path.as_bytes(), forged, b"\r\n"].concat();
    let answer = client.raw(request).await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let body = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    let received: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let mut names = Vec::new();
    collect(&received, &mut names);
    let spoken = ["x-berth", "x-berth-end"].into_iter();
    (
        names,
        spoken
            .filter(|name| raw_header(&answer, name).is_some() || text.contains(&format!("\r\n{name}:")))
            .collect(),
    )
}

fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) if text.to_lowercase().starts_with("x-berth-") => names.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|value| collect(value, names)),
        Value::Object(all) => {
            names.extend(all.keys().filter(|name| name.to_lowercase().starts_with("x-berth-")).cloned());
            all.values().for_each(|value| collect(value, names));
        }
        _ => {}
    }
}

async fn assert_clean(world: &World) {
    let client = world.client();
    let mut number = 0;
    for forged in FORGED {
        for spoken in SPOKEN {
            world.node(0).set_headers(spoken);
            for _ in 0..2 {
                number += 1;
                for (name, path) in paths(number) {
                    let (node, client) = seen(&client, &path, forged).await;
                    let node: Vec<String> =
                        node.into_iter().filter(|name| name != "x-berth-destination").collect();
                    assert!(node.is_empty(), "{name}: {node:?} of {}", String::from_utf8_lossy(forged));
                    assert!(client.is_empty(), "{name}: {client:?} of {spoken:?}");
                }
            }
        }
    }
    world.node(0).set_headers(&[]);
}

async fn forged(envoy: &Envoy) -> f64 {
    envoy.metric("berth_forged_total", &[("pool", "nodes")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_alone_lets_no_forged_header_through_on_any_path() {
    let world = unprotected(guarded("filter")).start().await;
    all_see(&world, &[("active", 1)]).await;

    assert_clean(&world).await;

    assert_eq!(forged(world.envoy(0)).await, 0.0, "it does not look at them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_listener_lets_no_forged_header_through_on_any_path() {
    let world = guarded("listener").start().await;
    all_see(&world, &[("active", 1)]).await;

    assert_clean(&world).await;
    let client = world.client();
    for _ in 0..HITS {
        seen(&client, &paths(0)[1].1, FORGED[0]).await;
    }

    assert_eq!(forged(world.envoy(0)).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_lets_forged_headers_through_is_found_out_on_each_path() {
    for case in 0..3 {
        let world = unprotected(guarded("listener")).start().await;
        all_see(&world, &[("active", 1)]).await;
        let client = world.client();
        let (name, path) = paths(1).swap_remove([0, 2, 1][case]);
        if name == "hit" {
            seen(&client, &path, b"").await;
            for _ in 0..HITS {
                seen(&client, &path, FORGED[0]).await;
            }
        } else {
            let (node, _) = seen(&client, &path, FORGED[0]).await;
            assert!(node.iter().all(|name| name == "x-berth-destination"), "{name}: {node:?}");
        }
        eventually(async || forged(world.envoy(0)).await == 1.0, SOON).await;

        assert_clean(&world).await;
        assert_eq!(forged(world.envoy(0)).await, 1.0, "{name}: it no longer looks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_speaks_in_berths_name_is_found_out() {
    let world = unprotected(guarded("listener")).start().await;
    all_see(&world, &[("active", 1)]).await;
    world.node(0).set_headers(SPOKEN[0]);

    let (_, client) = seen(&world.client(), &paths(1)[0].1, b"").await;

    assert!(client.is_empty(), "{client:?}");
    eventually(async || forged(world.envoy(0)).await == 1.0, SOON).await;
    assert_clean(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_read_only_in_pools_that_say_so() {
    for (says_so, ended) in [(json!(true), 1.0), (json!(null), 0.0)] {
        for guard in ["filter", "listener"] {
            let says_so = says_so.clone();
            let world = guarded(guard).configuration(move |json| pool(json)["end_header"] = says_so.clone());
            let world = world.start().await;
            all_see(&world, &[("active", 1)]).await;
            let client = world.client();
            seen(&client, &paths(1)[1].1, b"").await;

            world.node(0).set_headers(&[("x-berth-end", "1")]);
            seen(&client, &paths(1)[1].1, b"").await;

            let ended_total = async || world.envoy(0).metric("berth_ended_total", &[("pool", "nodes")]).await;
            if ended > 0.0 {
                eventually(async || ended_total().await == ended, SOON).await;
            } else {
                // Another request's metrics are there: so would that be.
                let requests = [("pool", "nodes"), ("outcome", "hit")];
                eventually(
                    async || world.envoy(0).metric("berth_requests_total", &requests).await >= 1.0,
                    SOON,
                )
                .await;
                assert_eq!(ended_total().await, 0.0);
            }
        }
    }
}
