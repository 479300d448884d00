//! Members that disappear from Envoy's cluster without an announcement: few are gone at once, many together are waited for.
//!
//! No active health checks here, as in Istio and Envoy Gateway by default: with them Envoy keeps what still answers.

use berth_harness::{Builder, Endpoint, Response, State, StatusCode, World, eventually};
use serde_json::{Value, json};

use crate::support::patience::{caught_up, cluster, nodes_become};
use crate::support::pinning::{moved, of, patiently};
use crate::support::{SOON, pool, sessions, shown};

/// Without active checks, and a grace time that no test's pause exceeds by accident.
fn unchecked(grace: &'static str) -> Builder {
    World::builder()
        .bootstrap(|json: &mut Value| {
            for name in ["nodes", "nodes_sessionless"] {
                cluster(json, name).as_object_mut().unwrap().remove("health_checks");
            }
        })
        .configuration(move |json| {
            json["poll_interval"] = "200ms".into();
            pool(json)["health"] = json!({"warm_up": "0s"});
            pool(json)["vanish_grace"] = grace.into();
        })
}

async fn pinned(grace: &'static str) -> World {
    // One worker: each counts what it has sent elsewhere itself.
    let world = patiently(unchecked(grace).nodes(10).concurrency(1), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 10)]).await;
    world
}

async fn answers(world: &World, keys: &[String]) -> Vec<Response> {
    let client = world.client();
    let mut answers = Vec::new();
    for key in keys {
        answers.push(of(&client, key).send().await);
    }
    answers
}

fn nodes(answers: &[Response]) -> Vec<String> {
    answers.iter().map(|answer| answer.node().to_owned()).collect()
}

async fn counter(world: &World, name: &str) -> u64 {
    world.envoy(0).stat(&format!("wasmcustom.berth_{name}")).await
}

/// Takes all but the first `left` nodes from the endpoints, and waits until every worker knows.
async fn drop_all_but(world: &World, left: usize) {
    world.edit_endpoints(|set| set.truncate(left)).await;
    caught_up(world.envoy(0)).await;
}

async fn restore(world: &World) {
    let all: Vec<_> = world.nodes().iter().map(|node| node.address()).collect();
    world
        .edit_endpoints(|set| {
            for address in all {
                if set.iter().all(|endpoint| endpoint.address != address) {
                    set.push(Endpoint::new(address));
                }
            }
        })
        .await;
    caught_up(world.envoy(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_many_that_vanish_and_return_in_time_are_where_they_were() {
    let world = pinned("120s").await;
    let keys = sessions(80);
    let before = nodes(&answers(&world, &keys).await);
    let away: Vec<String> = (4..10).map(|node| world.node(node).name().to_owned()).collect();
    let affected = before.iter().filter(|node| away.contains(node)).count();
    assert!(affected > 20, "{affected}");

    drop_all_but(&world, 4).await;

    for _ in 0..2 {
        for ((key, answer), home) in keys.iter().zip(answers(&world, &keys).await).zip(&before) {
            assert_eq!(answer.status, StatusCode::OK);
            if away.contains(home) {
                assert_eq!(
                    (shown(&answer, "outcome"), shown(&answer, "reason")),
                    ("ring", "vanished"),
                    "{key}"
                );
                assert!(answer.received().header("x-berth-session").is_none(), "nothing was rehomed");
            } else {
                assert_eq!(answer.node(), home);
            }
        }
    }
    restore(&world).await;

    let after = answers(&world, &keys).await;
    assert_eq!(moved(&keys, &before, &nodes(&after)), Vec::<&String>::new());
    assert_eq!(counter(&world, "reassignments_total.pool.nodes.reason.rehomed").await, 0);
    eventually(async || counter(&world, "returned_total.pool.nodes").await >= affected as u64, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_finds_pins_of_vanished_nodes_and_leaves_them() {
    let world = patiently(unchecked("120s").nodes(10).envoys(2), State::memory()).start().await;
    for envoy in world.envoys() {
        nodes_become(envoy, &[("active", 10)]).await;
    }
    let keys = sessions(60);
    let before = nodes(&answers(&world, &keys).await);
    drop_all_but(&world, 4).await;
    caught_up(world.envoy(1)).await;

    // It does not know these sessions.
    let (there, here) = (world.envoy(1).client(), world.client());
    for key in &keys {
        let other = of(&there, key).send().await;
        assert_eq!(other.node(), of(&here, key).send().await.node(), "both take the same node in its place");
    }
    restore(&world).await;
    caught_up(world.envoy(1)).await;

    let mut after = Vec::new();
    for key in &keys {
        after.push(of(&there, key).send().await.node().to_owned());
    }
    assert_eq!(moved(&keys, &before, &after), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_many_that_stay_away_are_rehomed_once_after_the_grace_time() {
    let world = pinned("2s").await;
    let keys = sessions(60);
    let before = nodes(&answers(&world, &keys).await);
    let away: Vec<String> = (4..10).map(|node| world.node(node).name().to_owned()).collect();
    drop_all_but(&world, 4).await;

    let is_over = async || {
        let home = before.iter().position(|node| away.contains(node)).unwrap();
        let answer = of(&world.client(), &keys[home]).send().await;
        shown(&answer, "reason") != "vanished"
    };
    eventually(is_over, SOON).await;

    let first = answers(&world, &keys).await;
    let second = answers(&world, &keys).await;
    for (home, (first, second)) in before.iter().zip(first.iter().zip(&second)) {
        assert_eq!(first.node(), second.node());
        assert_eq!(first.node() == home, !away.contains(home));
        // `found` where the news of the move came while it was asked about.
        assert!(["hit", "found"].contains(&shown(second, "outcome")), "{second:?}");
        assert_eq!(shown(second, "reason"), "pin");
    }
    let rehomed = before.iter().filter(|node| away.contains(node)).count() as u64;
    let counted = async || counter(&world, "reassignments_total.pool.nodes.reason.rehomed").await == rehomed;
    eventually(counted, SOON).await;

    restore(&world).await;
    assert_eq!(nodes(&answers(&world, &keys).await), nodes(&second), "too late to return");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_vanishes_is_gone_at_once_and_its_sessions_are_rehomed_with_their_notice() {
    let world = pinned("120s").await;
    let keys = sessions(80);
    let before = nodes(&answers(&world, &keys).await);
    let gone = world.node(3).name().to_owned();

    world.remove_node(3).await;
    caught_up(world.envoy(0)).await;

    for ((key, answer), home) in keys.iter().zip(answers(&world, &keys).await).zip(&before) {
        let notice =
            answer.received().header("x-berth-session").map(String::from_utf8_lossy).map(String::from);
        match *home == gone {
            true => {
                assert_eq!(shown(&answer, "outcome"), "rehomed", "{key}");
                let begin = format!("rehomed; from={gone}; version=");
                assert!(notice.as_ref().is_some_and(|notice| notice.starts_with(&begin)), "{notice:?}");
            }
            false => assert_eq!((answer.node(), notice), (home.as_str(), None)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_replaced_or_drained_first_are_gone_at_once() {
    let world = patiently(unchecked("120s").nodes(6), State::memory()).start().await;
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    let keys = sessions(60);
    answers(&world, &keys).await;

    // Blue/green: three others in the place of all six would be panic, six are not.
    for _ in 0..6 {
        world.add_node().await;
    }
    world.edit_endpoints(|set| drop(set.drain(..6))).await;
    caught_up(world.envoy(0)).await;
    let green: Vec<String> = (6..12).map(|node| world.node(node).name().to_owned()).collect();
    for answer in answers(&world, &keys).await {
        assert_eq!(shown(&answer, "outcome"), "rehomed");
        assert!(green.iter().any(|node| node == answer.node()));
    }

    // Five of the six announce it and leave.
    for node in 6..11 {
        world.set_eds_health(node, "DRAINING").await;
    }
    nodes_become(world.envoy(0), &[("draining", 5)]).await;
    world.edit_endpoints(|set| set.retain(|endpoint| endpoint.health != "DRAINING")).await;
    caught_up(world.envoy(0)).await;
    let last = world.node(11).name().to_owned();
    for answer in answers(&world, &keys).await {
        assert_eq!(answer.node(), last);
        assert!(["rehomed", "found", "hit"].contains(&shown(&answer, "outcome")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_on_vanish_reject_their_sessions_get_503_until_the_node_is_back() {
    let builder = patiently(unchecked("120s").nodes(6), State::memory())
        .configuration(|json| pool(json)["on_vanish"] = "reject".into());
    let world = builder.start().await;
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    let keys = sessions(40);
    let before = nodes(&answers(&world, &keys).await);
    let away: Vec<String> = (2..6).map(|node| world.node(node).name().to_owned()).collect();
    drop_all_but(&world, 2).await;

    for (answer, home) in answers(&world, &keys).await.iter().zip(&before) {
        if away.contains(home) {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.header("retry-after").is_some());
            assert_eq!(shown(answer, "reason"), "vanished");
        } else {
            assert_eq!(answer.node(), home);
        }
    }
    // New sessions are not concerned.
    let new: Vec<String> = (0..20).map(|number| format!("new-{number}")).collect();
    assert!(answers(&world, &new).await.iter().all(|answer| answer.status == StatusCode::OK));
    restore(&world).await;
    assert_eq!(nodes(&answers(&world, &keys).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_ring_alone_sessions_of_nodes_that_return_in_time_are_back_at_once() {
    let world = unchecked("120s")
        .nodes(10)
        .configuration(|json| {
            json["poll_interval"] = "200ms".into();
            pool(json)["vanish_grace"] = "120s".into();
            // A new node would take a tenth of its sessions at first.
            pool(json)["health"] = json!({"warm_up": "3600s"});
        })
        .start()
        .await;
    crate::support::places(world.envoy(0)).await;
    let keys = sessions(80);
    let before = world.nodes_of(&keys).await;
    drop_all_but(&world, 4).await;
    let during = world.nodes_of(&keys).await;
    let left: Vec<String> = (0..4).map(|node| world.node(node).name().to_owned()).collect();
    assert!(during.iter().all(|node| left.contains(node)));

    restore(&world).await;

    assert_eq!(world.nodes_of(&keys).await, before);
}
