//! The previous service beside the new one on one Redis, the previous filter before the new service and the reverse: what an upgrade
//! goes through, under load. `scripts/build-previous` has built what is previous.
//!
//! Each mixture lives through the same story, in which every request is answered, every session has one owner, and no session moves
//! but those of a node that failed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use berth_core::wire::{NodeChange, NodeState, SessionReply};
use berth_harness::{Client, Envoy, State, StateService, World, eventually};
use futures_util::future::join_all;

use crate::support::patience::impatient;
use crate::support::pinning::{agreed_nodes_of, all_see, moved, of, patiently};
use crate::support::{Numbers, SOON, sessions};

const POOL: &str = "nodes";
const SESSIONS: usize = 300;
/// Users at the same time, whose requests never pause.
const USERS: usize = 6;

/// Which of the two Envoys have the previous filter, and which services there are.
struct Mixture {
    previous_filters: &'static [usize],
    services: usize,
    previous_services: &'static [usize],
}

impl Mixture {
    async fn start(&self) -> World {
        let state = State::redis().services(self.services).flag("--store-timeout", "4s");
        let state = self.previous_services.iter().fold(state, |state, index| state.previous(*index));
        let world = impatient().envoys(2).concurrency(2).nodes(4);
        let world = self.previous_filters.iter().fold(world, |world, index| world.previous_filter(*index));
        let world = patiently(world, state).start().await;
        all_see(&world, &[("active", 4)]).await;
        world
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_and_new_services_on_one_redis_give_each_session_one_owner() {
    let mixture = Mixture { previous_filters: &[], services: 2, previous_services: &[0] };
    lives_through_an_upgrade(&mixture.start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_and_new_filters_before_previous_and_new_services_agree_on_each_session() {
    let mixture = Mixture { previous_filters: &[0], services: 2, previous_services: &[0] };
    lives_through_an_upgrade(&mixture.start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_filters_route_by_the_new_service_as_before() {
    let mixture = Mixture { previous_filters: &[0, 1], services: 1, previous_services: &[] };
    lives_through_an_upgrade(&mixture.start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_filters_route_by_the_previous_service_as_before() {
    let mixture = Mixture { previous_filters: &[], services: 1, previous_services: &[0] };
    lives_through_an_upgrade(&mixture.start().await).await;
}

/// The whole store is lost where a previous service answers too. Nothing is compared then, so sessions begin again where the ring has
/// them now; with new services alone they stay (`lost_writes.rs`).
#[tokio::test(flavor = "multi_thread")]
async fn store_that_was_emptied_under_mixed_services_leaves_no_session_with_two_owners() {
    let both = Mixture { previous_filters: &[], services: 2, previous_services: &[0] };
    let previous = Mixture { previous_filters: &[], services: 1, previous_services: &[0] };
    for mixture in [both, previous] {
        let world = mixture.start().await;
        let keys = sessions(SESSIONS);
        let claimed = agreed_nodes_of(&world, &keys).await;
        let before = grows(&world, &keys, &claimed).await;

        let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let users = join_all((0..USERS).map(|seed| use_sessions(&world, &keys, seed, &over, &asked)));
        let loss = async {
            world.redis().cli(&["flushall"]);
            let pinned = async || {
                let nodes = nodes_if_agreed(&world, &keys).await?;
                for (key, node) in keys.iter().zip(&nodes) {
                    let pin = world.pin_of(POOL, key).await?;
                    if pin.node.as_str() != node {
                        return None;
                    }
                }
                Some(nodes)
            };
            let after = eventually(pinned, SOON * 2).await;
            over.store(true, Ordering::Relaxed);
            after
        };
        let (answers, after) = tokio::join!(users, loss);

        let refused: Vec<String> = answers.into_iter().flatten().collect();
        assert_eq!(refused, Vec::<String>::new());
        let moves = moved(&keys, &before, &after).len();
        println!("{} services: {moves} of {SESSIONS} sessions begin again elsewhere", mixture.services);
        assert_eq!(moved(&keys, &after, &agreed_nodes_of(&world, &keys).await), Vec::<&String>::new());
    }
}

/// The node of each session, if both proxies say the same of all.
async fn nodes_if_agreed(world: &World, keys: &[String]) -> Option<Vec<String>> {
    let [one, other] = [world.envoy(0).client(), world.envoy(1).client()];
    let (one, other) = tokio::join!(nodes_of(&one, keys), nodes_of(&other, keys));
    (one == other).then_some(one)
}

async fn nodes_of(client: &Client, keys: &[String]) -> Vec<String> {
    let mut nodes = Vec::new();
    for part in keys.chunks(30) {
        let answers = join_all(part.iter().map(|key| of(client, key).send())).await;
        nodes.extend(answers.iter().map(|answer| answer.node().to_owned()));
    }
    nodes
}

/// Sessions are claimed, found, drained, rehomed and ended, in turn by each service, while users go on.
async fn lives_through_an_upgrade(world: &World) {
    let keys = sessions(SESSIONS);
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let users = join_all((0..USERS).map(|seed| use_sessions(world, &keys, seed, &over, &asked)));
    let story = async {
        let claimed = agreed_nodes_of(world, &keys).await;
        let grown = grows(world, &keys, &claimed).await;
        drains(world, &keys, &grown).await;
        let left = fails(world, &keys, &grown).await;
        ends(world).await;
        says_what_services_did(world).await;
        services_change(world, &keys, &left).await;
        over.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(users, story);

    let refused: Vec<String> = answers.into_iter().flatten().collect();
    println!("{} requests, {} without a good answer", asked.load(Ordering::Relaxed), refused.len());
    assert_eq!(refused, Vec::<String>::new());
    for envoy in world.envoys() {
        assert_eq!(envoy.wasm_failures().await, 0, "{}", envoy.log());
    }
}

/// What users do: one session after the other, through either proxy. Returns what was no good answer.
async fn use_sessions(
    world: &World,
    keys: &[String],
    seed: usize,
    over: &AtomicBool,
    asked: &AtomicUsize,
) -> Vec<String> {
    let mut numbers = Numbers(seed as u64 + 1);
    let clients: Vec<Client> = world.envoys().iter().map(Envoy::client).collect();
    let mut bad = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let key = &keys[numbers.below(keys.len())];
        match of(&clients[numbers.below(clients.len())], key).try_send().await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => bad.push(format!("{key}: {answer:?}")),
            Err(error) => bad.push(format!("{key}: {error}")),
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    bad
}

/// A node comes: by the ring a fifth would move.
async fn grows(world: &World, keys: &[String], before: &[String]) -> Vec<String> {
    world.add_node().await;
    all_see(world, &[("active", 5)]).await;
    let after = agreed_nodes_of(world, keys).await;
    assert_eq!(moved(keys, before, &after), Vec::<&String>::new(), "a node has come");
    after
}

/// Each service takes a node out of use and back: it keeps its sessions and gets no new ones, by either proxy.
async fn drains(world: &World, keys: &[String], homes: &[String]) {
    let node = world.node(0).name().to_owned();
    let services = world.states();
    for (number, service) in services.iter().enumerate() {
        set_state(service, &node, NodeState::Draining).await;
        all_see(world, &[("draining", 1), ("active", 4)]).await;
        let new = new_sessions("new", number);
        let placed = agreed_nodes_of(world, &new).await;
        assert!(!placed.contains(&node), "{node} drains");
        let after = agreed_nodes_of(world, keys).await;
        assert_eq!(moved(keys, homes, &after), Vec::<&String>::new(), "{node} drains");
        // The other one takes it back, where there is another.
        set_state(&services[(number + 1) % services.len()], &node, NodeState::Active).await;
        all_see(world, &[("draining", 0), ("active", 5)]).await;
    }
}

async fn set_state(service: &StateService, node: &str, state: NodeState) {
    let change = NodeChange { state: Some(state), ..NodeChange::default() };
    assert_eq!(service.change_node(POOL, node, &change).await.state, state);
}

/// A node fails its health checks: its sessions move, once, and no others.
async fn fails(world: &World, keys: &[String], before: &[String]) -> Vec<String> {
    let dead = world.node(1);
    // It still answers what it is sent: who breaks a request is not what this is about.
    dead.fail_health();
    all_see(world, &[("cooldown", 1), ("active", 4)]).await;
    let after = agreed_nodes_of(world, keys).await;
    for ((key, before), after) in keys.iter().zip(before).zip(&after) {
        assert_eq!(before != after, before == dead.name(), "{key}: {before} → {after}");
    }
    dead.serve();
    all_see(world, &[("cooldown", 0), ("active", 5)]).await;
    let back = agreed_nodes_of(world, keys).await;
    assert_eq!(moved(keys, &after, &back), Vec::<&String>::new(), "none goes back");
    after
}

/// Each service ends sessions that both proxies know: they begin again, with one owner.
async fn ends(world: &World) {
    for (number, service) in world.states().iter().enumerate() {
        let names: Vec<String> = (0..8).map(|key| format!("ending-{number}-{key}")).collect();
        agreed_nodes_of(world, &names).await;
        for key in &names {
            let before = world.pin_of(POOL, key).await.expect("it is pinned");
            assert!(service.end_session(POOL, key).await, "{key} is there to be ended");
            // Proxies learn of it; until then it is where it was.
            let begins_again = async || {
                let nodes = agreed_nodes_of(world, std::slice::from_ref(key)).await;
                let pins = join_all(world.states().iter().map(|service| service.pin_of(POOL, key))).await;
                let again =
                    |pin: &SessionReply| pin.version != before.version && pin.node.as_str() == nodes[0];
                pins.iter().all(|pin| pin.as_ref().is_some_and(again))
            };
            eventually(begins_again, SOON).await;
        }
    }
}

/// Each service is replaced by the other version, one after the other: an upgrade, or its way back.
async fn services_change(world: &World, keys: &[String], homes: &[String]) {
    for service in world.states() {
        service.change_version().await;
        // Where it was the only one, the ring decided meanwhile for sessions that a worker did not know, for two seconds.
        let are_home = async || {
            nodes_if_agreed(world, keys).await.is_some_and(|after| moved(keys, homes, &after).is_empty())
        };
        eventually(are_home, SOON).await;
        // It reads what the other one wrote, whatever proxies remember.
        for (key, home) in keys.iter().zip(homes).step_by(10) {
            let pin = service.pin_of(POOL, key).await.expect("it is pinned");
            assert_eq!(pin.node.as_str(), home, "{key}");
        }
        let new = new_sessions("after", service.address().port().into());
        let placed = agreed_nodes_of(world, &new).await;
        for (key, home) in new.iter().zip(&placed) {
            let pin = world.pin_of(POOL, key).await.expect("it is pinned");
            assert_eq!(pin.node.as_str(), home, "{key}");
        }
    }
}

fn new_sessions(name: &str, number: usize) -> Vec<String> {
    (0..60).map(|key| format!("{name}-{number}-{key}")).collect()
}

/// For who reads the test's output, and that none was idle.
async fn says_what_services_did(world: &World) {
    for (number, service) in world.states().iter().enumerate() {
        let page = service.request(berth_harness::hyper::Method::GET, "/metrics").send().await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let lines = page.lines().filter(|line| line.starts_with("berth_state_requests_total"));
        println!("service {number}: {}", lines.collect::<Vec<_>>().join(" "));
        let calls =
            service.metric("berth_state_requests_total", &[("call", "changes"), ("status", "200")]).await;
        assert!(calls > 0.0, "service {number} was not asked");
    }
}
