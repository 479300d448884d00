//! With a state cluster: what a session's first request asks, what the next ones need not, and who gets new sessions.

use std::collections::BTreeMap;

use berth_core::wire::{NodeChange, NodeState};
use berth_harness::{Response, State, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::patience::{ask, caught_up, impatient, nodes_become};
use crate::support::pinning::patiently;
use crate::support::{SOON, placing, pool, sessions, shown};

#[tokio::test(flavor = "multi_thread")]
async fn first_request_claims_and_the_next_ones_ask_nobody() {
    let world = patiently(impatient().concurrency(1), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let first = ask(&world, "ada").await;
    assert_eq!((shown(&first, "outcome"), shown(&first, "reason")), ("claimed", "pin"), "{first:?}");

    let resolves = resolves(&world).await;
    for _ in 0..20 {
        let next = ask(&world, "ada").await;
        assert_eq!((shown(&next, "outcome"), next.node()), ("hit", first.node()));
    }

    assert_eq!(self::resolves(&world).await, resolves);
    let pin = world.pin_of("nodes", "ada").await.unwrap();
    assert!(pin.node.to_string() == first.node() && pin.events.is_empty(), "{pin:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_proxies_agree_by_asking_once_each() {
    let state = State::redis().services(2).flag("--store-timeout", "4s");
    let world = patiently(impatient().envoys(2), state).start().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 3)]).await;
    }
    let first = ask(&world, "ada").await;

    let mut asked = 0;
    for envoy in world.envoys() {
        let client = berth_harness::Client::new(envoy.address());
        let requests = (0..40).map(|_| client.get("/").header("x-session-id", "ada").send());
        for answer in join_all(requests).await {
            assert_eq!(answer.node(), first.node());
            asked += usize::from(shown(&answer, "outcome") == "found");
            assert!(["hit", "found"].contains(&shown(&answer, "outcome")), "{answer:?}");
        }
    }
    assert!(asked >= 1, "the other proxy's workers had to ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_node_that_says_it_is_degraded_stay_and_new_ones_go_elsewhere() {
    for issued in [false, true] {
        let builder = patiently(impatient(), State::memory()).configuration(move |json| {
            if issued {
                let cookie = json!({"name": "sid", "secure": false});
                pool(json)["session"] =
                    json!({"sources": [{"cookie": "sid"}], "missing": {"issue_cookie": cookie}});
            }
        });
        let world = builder.start().await;
        nodes_become(world.envoy(0), &[("active", 3)]).await;
        let old = begin(&world, issued, 60, "old").await;
        let tired = world.node(0);
        assert!(old.values().any(|node| node == tired.name()));

        tired.set_headers(&[("x-envoy-degraded", "")]);
        nodes_become(world.envoy(0), &[("active", 2), ("degraded", 1)]).await;

        for (session, node) in &old {
            assert_eq!(visit(&world, issued, session).await.node(), node, "{session}");
        }
        let new = begin(&world, issued, 60, "new").await;
        assert!(new.values().all(|node| node != tired.name()), "{new:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_moves_a_session_is_named_in_the_log_of_changes() {
    let world = patiently(impatient(), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let owner = ask(&world, "ada").await.node().to_owned();
    world.node_named(&owner).refuse().await;
    nodes_become(world.envoy(0), &[("cooldown", 1)]).await;

    let request = world.get("/").header("x-session-id", "ada").header("x-request-id", "5f3a-11");
    let moved = request.send().await;

    assert_eq!(shown(&moved, "outcome"), "rehomed");
    let pin = world.pin_of("nodes", "ada").await.unwrap();
    let event = pin.events.last().unwrap();
    assert_eq!((event.version, event.from.clone().unwrap().to_string()), (Some(pin.version), owner));
    // Envoy gives each request an id of its own, unless it is configured to keep the client's.
    let id = moved.received().header("x-request-id").map(|id| String::from_utf8_lossy(id).into_owned());
    assert_eq!(event.correlation_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn pin_cache_that_is_too_small_asks_more_often_and_moves_nobody() {
    // At the bound, with one pin for the session that asks whether the members are known; and at a tenth of what would be needed.
    for (max_pins, dropped) in [(101, 0), (10, 191)] {
        let builder = patiently(World::builder().concurrency(1), State::memory());
        let world =
            placing(builder.configuration(move |json| json["state"]["max_pins"] = max_pins.into())).await;
        let keys = sessions(100);
        let before = world.nodes_of(&keys).await;

        assert_eq!(world.nodes_of(&keys).await, before);

        // One that was placed before the members were known expires within 2 s: then its removal is not counted.
        let expected = dropped.max(1) - 1..=dropped;
        let said = async |name: &str| world.envoy(0).stat(&format!("wasmcustom.berth_{name}")).await;
        let counted =
            async || (said("pins.pool.nodes").await, said("dropped_total.pool.nodes.reason.pin").await);
        let as_expected = async || match counted().await {
            (pins, dropped) if pins == max_pins && expected.contains(&dropped) => Ok(dropped),
            other => Err(format!("(pins, dropped): {other:?}")),
        };
        eventually(as_expected, SOON).await;
        let labels = [("pool", "nodes"), ("reason", "pin")];
        let dropped = world.envoy(0).metric("berth_dropped_total", &labels).await as u64;
        assert!(expected.contains(&dropped), "{dropped}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_while_the_state_cluster_is_away_moves_nobody() {
    let world = patiently(impatient().concurrency(1), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(60);
    let before = world.nodes_of(&keys).await;
    world.add_node().await;
    world.add_node().await;
    nodes_become(world.envoy(0), &[("active", 5)]).await;
    world.state(0).kill();

    world.envoy(0).reload(|json| pool(json)["panic_hold"] = "6s".into()).await.unwrap();

    for (key, node) in keys.iter().zip(&before) {
        let answer = ask(&world, key).await;
        assert_eq!((answer.node(), shown(&answer, "outcome")), (node.as_str(), "hit"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_takes_the_lead_reads_on_where_the_other_one_was() {
    let world = patiently(impatient().concurrency(1), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let keys = sessions(20);
    let before = world.nodes_of(&keys).await;
    let resyncs = async || world.envoy(0).metric("berth_resyncs_total", &[("pool", "nodes")]).await;
    assert_eq!(resyncs().await, 0.0);

    // Another set of pools has another leader.
    let second = |json: &mut Value| {
        let mut second = json["pools"][0].clone();
        second["name"] = "second".into();
        second["match"] = json!({"hosts": ["second.example.com"]});
        json["pools"].as_array_mut().unwrap().insert(0, second);
    };
    world.envoy(0).reload(second).await.unwrap();
    caught_up(world.envoy(0)).await;

    for (key, node) in keys.iter().zip(&before) {
        let answer = ask(&world, key).await;
        assert_eq!((answer.node(), shown(&answer, "outcome")), (node.as_str(), "hit"), "{key}");
    }
    assert_eq!(resyncs().await, 0.0);
    // And it receives all later changes.
    assert!(world.state(0).end_session("nodes", &keys[0]).await);
    eventually(async || shown(&ask(&world, &keys[0]).await, "outcome") == "claimed", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_held_in_reserve_gets_sessions_once_it_is_active() {
    let world = patiently(impatient(), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let reserve = world.node(2);
    let change = |state| NodeChange { state: Some(state), ..NodeChange::default() };
    world.state(0).change_node("nodes", reserve.name(), &change(NodeState::Standby)).await;
    nodes_become(world.envoy(0), &[("active", 2), ("standby", 1)]).await;
    let before = begin(&world, false, 60, "before").await;
    assert!(before.values().all(|node| node != reserve.name()), "{before:?}");

    world.state(0).change_node("nodes", reserve.name(), &change(NodeState::Active)).await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;

    let after = begin(&world, false, 60, "after").await;
    assert!(after.values().any(|node| node == reserve.name()), "{after:?}");
    for (session, node) in &before {
        assert_eq!(ask(&world, session).await.node(), node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_drained_gets_sessions_again_once_that_is_forgotten() {
    let world = patiently(impatient(), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let node = world.node(2);
    let address = node.name();
    world.state(0).operate(&["drain", address, "--force", "--note", "its pod is gone"]).await.unwrap();
    nodes_become(world.envoy(0), &[("active", 2), ("draining", 1)]).await;
    // The next one at this address says of itself that it is well; that does not end the drain.
    let itself = NodeChange { self_state: Some(NodeState::Active), ..NodeChange::default() };
    let record = world.state(0).change_node("nodes", address, &itself).await;
    assert_eq!(record.state, NodeState::Draining);

    world.state(0).operate(&["forget", address]).await.unwrap();

    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let new = begin(&world, false, 60, "new").await;
    assert!(new.values().any(|node| node == address), "{new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_a_greater_weight_gets_more_of_the_new_sessions_and_no_old_ones() {
    let world = patiently(impatient(), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let strong = world.node(1);
    let before = begin(&world, false, 100, "before").await;

    let change = NodeChange { weight: Some(8), ..NodeChange::default() };
    world.state(0).change_node("nodes", strong.name(), &change).await;

    let mut round = 0;
    let mut most_go_there = async || {
        round += 1;
        let new = begin(&world, false, 60, &format!("after-{round}")).await;
        // Eight parts of ten.
        new.values().filter(|node| *node == strong.name()).count() >= 36
    };
    eventually(&mut most_go_there, SOON).await;
    for (session, node) in &before {
        assert_eq!(ask(&world, session).await.node(), node);
    }
}

/// Begins sessions, and says where each lives.
async fn begin(world: &World, issued: bool, count: usize, prefix: &str) -> BTreeMap<String, String> {
    let mut homes = BTreeMap::new();
    for number in 0..count {
        let (session, answer) = if issued {
            // Sessions that begin on one connection have one place.
            let answer = berth_harness::Client::new(world.envoy(0).address()).get("/").send().await;
            let cookie = answer.header("set-cookie").expect("a new session").split([';', '=']).nth(1);
            (cookie.unwrap().to_owned(), answer)
        } else {
            let session = format!("{prefix}-{number}");
            (session.clone(), ask(world, &session).await)
        };
        homes.insert(session, answer.node().to_owned());
    }
    homes
}

async fn visit(world: &World, issued: bool, session: &str) -> Response {
    if issued {
        return world.get("/").header("cookie", format!("sid={session}")).send().await;
    }
    ask(world, session).await
}

async fn resolves(world: &World) -> f64 {
    world.state_metric("berth_state_requests_total", &[("call", "resolve")]).await
}
