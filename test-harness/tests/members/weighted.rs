//! Weighted clusters, as a canary release has them: each session stays in one cluster and on one node, and what another
//! node answered than the session's own is never called a hit.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::state_away::{grow, verdict};
use crate::support::{SOON, placing, pool, routes, sessions, shown};
use berth_harness::{Builder, Request, Response, State, World, eventually};
use serde_json::{Value, json};

/// The nodes of the canary, which no Envoy of its own stands before.
async fn canary() -> World {
    World::builder().nodes(2).envoys(0).start().await
}

/// The shipped file with equal weights, before three nodes and these two.
fn weighted(canary: &World) -> Builder {
    let endpoint = |index: usize| {
        let address = canary.node(index).address();
        let address = json!({"address": address.ip().to_string(), "port_value": address.port()});
        json!({"endpoint": {"address": {"socket_address": address}}})
    };
    let endpoints = json!([endpoint(0), endpoint(1)]);
    World::builder().state(State::memory()).file("envoy-weighted.yaml").bootstrap(move |json| {
        let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
        let canary = clusters.iter_mut().find(|cluster| cluster["name"] == "nodes_canary").unwrap();
        canary["load_assignment"]["endpoints"][0]["lb_endpoints"] = endpoints.clone();
        each_route(json, |weighted| {
            for cluster in weighted["clusters"].as_array_mut().unwrap() {
                cluster["weight"] = 50.into();
            }
        });
    })
}

fn each_route(json: &mut Value, edit: impl Fn(&mut Value)) {
    routes(json).iter_mut().for_each(|route| edit(&mut route["route"]["weighted_clusters"]));
}

/// One request of a session, which names it in one of the ways that the sample has.
fn ask(world: &World, source: &str, id: &str) -> Request {
    match source {
        "header" => world.get("/").header("x-session-id", id),
        "cookie" => world.get("/").header("cookie", format!("theme=dark; sid={id}")),
        "query" => world.get(&format!("/page?sid={id}")),
        "path" => world.get(&format!("/ws/{id}?x=1")),
        // No id in the path, though it begins as one.
        "bare-path" => world.get(&format!("/ws/?sid={id}")),
        "subprotocol" => world.get("/page").header("sec-websocket-protocol", format!("chat, session.{id}")),
        other => panic!("{other} is no source"),
    }
}

const SOURCES: [&str; 6] = ["header", "cookie", "query", "path", "bare-path", "subprotocol"];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_id_stays_on_one_node_of_one_cluster() {
    let canary = canary().await;
    let no_ramp = |json: &mut Value| {
        json["pools"][0]["health"] = json!({"warm_up": "0s"});
    };
    let world = placing(weighted(&canary).configuration(no_ramp)).await;
    let mut homes: BTreeMap<(&str, String), String> = BTreeMap::new();
    for round in 0..6 {
        if round == 3 {
            grow(&world, 2).await;
        }
        for source in SOURCES {
            for id in sessions(30) {
                let id = format!("{source}-{id}");
                let answer = ask(&world, source, &id).send().await;
                let expected = if round == 0 { "claimed" } else { "pin" };
                let (outcome, reason) = verdict(&answer);
                assert!(reason == "pin" && (outcome == expected || round > 0), "{source}: {answer:?}");
                let home = homes.entry((source, id)).or_insert_with(|| answer.node().to_owned());
                assert_eq!(answer.node(), home, "{source}");
            }
        }
    }

    let others: BTreeSet<&str> =
        canary.nodes().iter().map(|node| node.name().to_owned().leak() as &str).collect();
    for source in SOURCES {
        let there =
            homes.iter().filter(|((of, _), home)| *of == source && others.contains(home.as_str())).count();
        assert!((5..=25).contains(&there), "{source}: {there} of 30 in the canary");
    }
    // A request without a session goes to either.
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let answer = world.get("/").send().await;
        assert_eq!(verdict(&answer), ("sessionless", "no_session"));
        seen.insert(others.contains(answer.node()));
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

/// One pool for both clusters, as a configuration of before the canary has it.
fn one_pool(builder: Builder) -> Builder {
    builder.configuration(|json| {
        json["pools"].as_array_mut().unwrap().truncate(1);
        pool(json).as_object_mut().unwrap().remove("match");
    })
}

/// `berth_requests_total` counts the outcomes that the debug headers of these answers show.
async fn counted_as_shown(world: &World, answers: &[Response]) {
    let mut outcomes: BTreeMap<&str, f64> = BTreeMap::from([("hit", 0.0), ("found", 0.0)]);
    for answer in answers {
        *outcomes.entry(shown(answer, "outcome")).or_default() += 1.0;
    }
    for (outcome, count) in outcomes {
        let counted = async || {
            let labels = [("pool", "nodes"), ("outcome", outcome)];
            let found = world.envoy(0).metric("berth_requests_total", &labels).await;
            if found == count { Ok(()) } else { Err(format!("{outcome}: {found} counted, {count} shown")) }
        };
        eventually(counted, SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_another_cluster_is_never_called_a_hit() {
    let canary = canary().await;
    let random = |json: &mut Value| {
        each_route(json, |weighted| {
            weighted.as_object_mut().unwrap().remove("use_hash_policy");
        });
    };
    let world = crate::support::quick(one_pool(weighted(&canary)).bootstrap(random)).start().await;
    let others: Vec<String> = canary.nodes().iter().map(|node| node.name().to_owned()).collect();

    let mut answers = Vec::new();
    for _ in 0..80 {
        answers.push(world.get("/").header("x-session-id", "ada").send().await);
    }

    let mut there = 0;
    for answer in &answers {
        if others.iter().any(|node| node == answer.node()) {
            there += 1;
            let (outcome, reason) = verdict(answer);
            assert!(reason == "other_cluster" && (outcome == "ring" || outcome == "claimed"), "{answer:?}");
        } else {
            assert_eq!(shown(answer, "reason"), "pin", "{answer:?}");
        }
    }
    assert!((20..=60).contains(&there), "{there} of 80");
    let labels = [("pool", "nodes"), ("reason", "other_cluster")];
    let counted =
        async || world.envoy(0).metric("berth_reassignments_total", &labels).await == f64::from(there);
    eventually(counted, SOON).await;
    counted_as_shown(&world, &answers).await;
}

/// The filter's own hash key keeps what Envoy cannot read in one cluster.
#[tokio::test(flavor = "multi_thread")]
async fn hash_key_of_every_request_keeps_composite_ids_in_one_cluster() {
    let canary = canary().await;
    let builder = one_pool(weighted(&canary)).configuration(|json| {
        pool(json)["hash_key"] = "always".into();
        let parts = json!([{"header": "x-tenant"}, {"header": "x-user"}]);
        pool(json)["session"] = json!({"sources": [{"all": parts}]});
    });
    let world = crate::support::quick(builder).start().await;
    let others: Vec<String> = canary.nodes().iter().map(|node| node.name().to_owned()).collect();

    let mut there = 0;
    for id in sessions(30) {
        let mut nodes = BTreeSet::new();
        for _ in 0..6 {
            let answer = world.get("/").header("x-tenant", "t").header("x-user", &id).send().await;
            let is_there = others.iter().any(|node| node == answer.node());
            assert_eq!(shown(&answer, "reason") == "other_cluster", is_there, "{answer:?}");
            nodes.insert((is_there, answer.node().to_owned()));
        }
        assert_eq!(nodes.len(), 1, "{id}: {nodes:?}");
        there += usize::from(nodes.first().unwrap().0);
    }
    assert!((5..=25).contains(&there), "{there} of 30 in the canary");
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_a_retry_is_never_called_a_hit() {
    let no_passive = |json: &mut Value| pool(json)["health"] = json!({"passive_failures": 0});
    // Checks that come too late to see it, and no ejection by Envoy.
    let blind = |json: &mut Value| {
        for cluster in json["static_resources"]["clusters"].as_array_mut().unwrap() {
            if let Some(cluster) =
                cluster.as_object_mut().filter(|cluster| cluster.contains_key("outlier_detection"))
            {
                cluster.remove("outlier_detection");
                cluster.remove("health_checks");
            }
        }
    };
    let world = crate::support::quick(World::builder().concurrency(1).state(State::memory()))
        .configuration(no_passive)
        .bootstrap(blind)
        .start()
        .await;
    let mut answers = vec![world.get("/").header("x-session-id", "ada").send().await];
    let home = answers[0].node().to_owned();
    // Right after the start the answer may be from before a change that was missed, and is asked for again.
    while verdict(answers.last().unwrap()) != ("hit", "pin") {
        assert!(answers.len() < 50, "{answers:#?}");
        answers.push(world.get("/").header("x-session-id", "ada").send().await);
    }

    world.node_named(&home).refuse().await;
    for _ in 0..5 {
        let answer = world.get("/").header("x-session-id", "ada").send().await;
        assert_eq!(verdict(&answer), ("ring", "retried"));
        assert_ne!(answer.node(), home);
        answers.push(answer);
    }

    counted_as_shown(&world, &answers).await;
}
