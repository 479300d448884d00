//! Writes that Redis loses, as by a failover to a replica that lags, or by a backup: what proxies and the store believe of a
//! session is compared whenever they speak, so it has one node again within one touch: the one that it had before the loss.

use berth_core::wire::{Pin, ResolveReply, ResolveRequest, SessionAsk, SessionKey};
use berth_harness::hyper::Method;
use berth_harness::{Builder, Response, State, World, eventually};

use crate::support::patience::impatient;
use crate::support::pinning::{agreed_nodes_of, all_see, moved, of, patiently_pinned};
use crate::support::{SOON, sessions, shown};

/// With pins that are touched every two seconds.
fn two_proxies() -> Builder {
    patiently_pinned(impatient().envoys(2).concurrency(1), &[("--ttl", "8s")])
}

fn key(session: &str) -> SessionKey {
    SessionKey::new("nodes", session.as_bytes())
}

fn pin_key(session: &str) -> String {
    let key = key(session).to_string();
    format!("berth:{{nodes/{}}}:pin:{key}", &key[..1])
}

async fn ask(world: &World, envoy: usize, session: &str) -> Response {
    of(&world.envoy(envoy).client(), session).send().await
}

/// What a proxy asks that cannot use `not`, and has `to` as its first choice.
async fn asked(world: &World, session: &str, to: &str, not: Option<&str>, ttl_ms: Option<u64>) -> Pin {
    let node = |name: &str| name.parse().unwrap();
    let ask = SessionAsk {
        ttl_ms,
        ..SessionAsk::new(key(session), vec![node(to)], not.map(node).into_iter().collect())
    };
    let request = ResolveRequest {
        pool: "nodes".parse().unwrap(),
        region: None,
        panic: false,
        correlation_id: None,
        sessions: vec![ask],
    };
    let body = serde_json::to_vec(&request).unwrap();
    let answer = world.state(0).request(Method::POST, "/v1/resolve").body(body).send().await;
    let mut reply: ResolveReply = serde_json::from_slice(&answer.body).unwrap();
    reply.pins.remove(0)
}

fn another(world: &World, not: &str) -> String {
    let nodes = world.nodes();
    nodes.iter().map(|node| node.name().to_owned()).find(|node| node != not).unwrap()
}

/// Asks through both proxies until both send the session to this node, and from then on nowhere else.
async fn both_send_to(world: &World, session: &str, node: &str) {
    let agree = async || {
        let answers = [ask(world, 0, session).await, ask(world, 1, session).await];
        answers.iter().all(|answer| answer.node() == node)
    };
    eventually(agree, SOON).await;
    for _ in 0..20 {
        assert!(agree().await, "{session} left {node} again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_claim_leaves_no_second_owner() {
    let world = two_proxies().start().await;
    all_see(&world, &[("active", 3)]).await;
    let home = ask(&world, 0, "ada").await.node().to_owned();
    let lost = world.pin_of("nodes", "ada").await.unwrap().version;

    world.redis().cli(&["del", &pin_key("ada")]);
    let other = another(&world, &home);
    let claimed = asked(&world, "ada", &other, None, None).await;

    assert!(claimed.version > lost, "versions never repeat");
    assert_eq!(ask(&world, 1, "ada").await.node(), other);
    // Where its state is.
    both_send_to(&world, "ada", &home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_rehome_under_the_same_version_leaves_no_second_owner() {
    let world = two_proxies().start().await;
    all_see(&world, &[("active", 3)]).await;
    let home = ask(&world, 0, "ada").await.node().to_owned();
    let other = another(&world, &home);

    // Services of before count versions from 1, so another node may have the one that was lost.
    let pin = world.redis().cli(&["get", &pin_key("ada")]);
    world.redis().cli(&["set", &pin_key("ada"), &pin.trim().replace(&home, &other), "keepttl"]);

    both_send_to(&world, "ada", &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_from_a_backup_learns_where_live_sessions_are() {
    let world = two_proxies().start().await;
    all_see(&world, &[("active", 3)]).await;
    let home = ask(&world, 0, "ada").await.node().to_owned();
    let backup = world.redis().cli(&["get", &pin_key("ada")]);
    let other = another(&world, &home);
    let moved = asked(&world, "ada", &other, Some(&home), None).await;
    both_send_to(&world, "ada", &other).await;

    // Without a change to the log, by which proxies would notice: this is the least that can be lost.
    world.redis().cli(&["set", &pin_key("ada"), backup.trim(), "keepttl"]);

    let is_back = async || {
        for envoy in [0, 1] {
            assert_eq!(ask(&world, envoy, "ada").await.node(), other, "it serves the session");
        }
        let pin = world.pin_of("nodes", "ada").await.unwrap();
        (pin.node.to_string(), pin.version) == (other.clone(), moved.version)
    };
    eventually(is_back, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_emptied_moves_no_live_session() {
    let world = two_proxies().start().await;
    all_see(&world, &[("active", 3)]).await;
    let keys = sessions(60);
    let before = agreed_nodes_of(&world, &keys).await;
    // With another ring each proxy would now choose other nodes.
    world.add_node().await;
    world.add_node().await;
    all_see(&world, &[("active", 5)]).await;

    world.redis().cli(&["flushall"]);

    let is_pinned_again = async || {
        let after = agreed_nodes_of(&world, &keys).await;
        assert_eq!(moved(&keys, &before, &after), Vec::<&String>::new());
        let mut pins = 0;
        for (key, home) in keys.iter().zip(&before) {
            let pin = world.pin_of("nodes", key).await;
            pins += usize::from(pin.is_some_and(|pin| pin.node.as_str() == home));
        }
        pins == keys.len()
    };
    eventually(is_pinned_again, SOON).await;
}

/// Each session is known to one worker, and its next requests go to others, which do not know it and whose ring has it elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_emptied_has_sessions_back_from_the_only_worker_that_knew_them() {
    let world = two_proxies().concurrency(2).start().await;
    all_see(&world, &[("active", 3)]).await;
    let keys = sessions(60);
    let [one, other] = [world.envoy(0).client(), world.envoy(1).client()];
    let before = one.nodes_of(&keys).await;
    world.add_node().await;
    world.add_node().await;
    all_see(&world, &[("active", 5)]).await;
    assert_eq!(one.nodes_of(&keys).await, before);

    world.redis().cli(&["flushall"]);

    let claimed = other.nodes_of(&keys).await;
    assert!(
        !moved(&keys, &before, &claimed).is_empty(),
        "no session was claimed elsewhere: nothing is tried here"
    );
    // By touches: no request of theirs comes to the proxy that knew them.
    let is_back = async || other.nodes_of(&keys).await == before;
    eventually(is_back, SOON).await;
    assert_eq!(agreed_nodes_of(&world, &keys).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_life_is_heard_by_proxies_that_knew_a_longer_one() {
    let world = patiently_pinned(impatient().envoys(1).concurrency(1), &[]).start().await;
    all_see(&world, &[("active", 3)]).await;
    let home = ask(&world, 0, "ada").await.node().to_owned();
    assert_eq!(shown(&ask(&world, 0, "ada").await, "outcome"), "hit");

    let found = asked(&world, "ada", &home, None, Some(1_000)).await;
    assert_eq!(found.ttl_ms, Some(1_000));

    // Long before its half hour is over.
    let asks = async || shown(&ask(&world, 0, "ada").await, "outcome") != "hit";
    eventually(asks, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_behind_one_cluster_are_told() {
    let state = State::memory().services(2);
    let world = impatient().envoys(1).concurrency(1).state(state).start().await;
    all_see(&world, &[("active", 3)]).await;

    let is_told = async || {
        for key in sessions(8) {
            ask(&world, 0, &key).await;
        }
        world.envoy(0).log().contains("keep pins in two stores")
    };
    // Not at once: a store that was emptied has two names for a while.
    eventually(is_told, SOON * 2).await;
}
