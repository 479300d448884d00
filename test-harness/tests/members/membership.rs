//! Berth learns its members from Envoy's admin interface: from one worker's polls, through any failure of theirs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::fake_admin::{Answer, FakeAdmin};
use crate::support::{SHIPPED_RING, SOON, owners, places, plugin, pool, quick, sessions, shown};
use berth_harness::hyper::Method;
use berth_harness::{State, World, eventually, free_address};
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_millis(200);
/// What the filter waits for an answer (its `POLL_TIMEOUT`), and one interval more.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A world that asks this admin instead of Envoy's own.
async fn asking(admin: &FakeAdmin) -> World {
    quick(World::builder()).cluster_address("berth_admin", admin.address()).start().await
}

/// What Envoy itself says of its clusters now.
async fn truth(world: &World) -> String {
    world.envoy(0).admin("/clusters").await
}

async fn polls(world: &World, result: &str) -> u64 {
    world.envoy(0).stat(&format!("wasmcustom.berth_polls_total.pool.nodes.result.{result}")).await
}

async fn unplaced(world: &World, reason: &str) -> u64 {
    world.envoy(0).stat(&format!("wasmcustom.berth_unplaced_total.pool.nodes.reason.{reason}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_polls_are_counted_and_change_nothing() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = asking(&admin).await;
    admin.tell(&truth(&world).await);
    places(world.envoy(0)).await;
    let keys = sessions(30);
    let nodes = world.nodes_of(&keys).await;
    let unplaced_before = unplaced(&world, "no_snapshot").await;

    // Twice, because the first may have been under way; the last one needs no second after what goes before it.
    let foreign = "nodes2::10.0.0.1:80::health_flags::healthy\n";
    for (answer, result, times) in [
        (Answer::HangUp, "failed", 2),
        (Answer::Status(500), "failed", 2),
        (Answer::Status(404), "failed", 2),
        (Answer::NotHttp, "failed", 2),
        (Answer::HalfABody, "failed", 2),
        (Answer::HugeBody, "failed", 2),
        // So Envoy answers if it has no such cluster.
        (Answer::Page("".into()), "unknown_cluster", 2),
        (Answer::Page(foreign.into()), "unknown_cluster", 2),
        (Answer::Garbage, "unknown_cluster", 2),
        (Answer::Silence, "failed", 1),
    ] {
        let before = polls(&world, result).await;
        admin.set(answer.clone());

        let counted = async || {
            assert_eq!(world.nodes_of(&keys).await, nodes, "{answer:?}");
            let counted = polls(&world, result).await - before;
            if counted >= times { Ok(()) } else { Err(format!("{answer:?}: {counted} counted as {result}")) }
        };
        eventually(counted, 2 * TIMEOUT).await;
    }
    assert_eq!(unplaced(&world, "no_snapshot").await, unplaced_before);

    // What it says afterwards counts again.
    let added = world.add_node().await;
    admin.tell(&truth(&world).await);
    let moved = async || world.nodes_of(&sessions(100)).await.iter().any(|node| node == added.name());
    eventually(moved, 2 * TIMEOUT).await;
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_served_and_counted_until_the_members_are_known() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = asking(&admin).await;
    let keys = sessions(50);

    let first = world.nodes_of(&keys).await;
    assert_eq!(world.nodes_of(&keys).await, first, "Envoy's own ring keeps them together");
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
    let answer = world.get("/ws/session-7").send().await;
    assert_eq!((answer.node(), shown(&answer, "reason")), (first[7].as_str(), "no_snapshot"));
    eventually(async || unplaced(&world, "no_snapshot").await == 101, SOON).await;
    assert!(polls(&world, "failed").await > 0);

    admin.tell(&truth(&world).await);
    places(world.envoy(0)).await;

    assert_eq!(world.nodes_of(&keys).await, owners(&world, SHIPPED_RING, &keys));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_polls_for_all() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = quick(World::builder().concurrency(4)).cluster_address("berth_admin", admin.address());
    let world = world.start().await;
    admin.tell(&truth(&world).await);
    places(world.envoy(0)).await;

    let before = admin.polls().len();
    eventually(async || admin.polls().len() >= before + 12, SOON).await;

    // Five VMs that each poll would need a fifth of the time, two of them half.
    let polls = admin.polls();
    let took = polls[before + 11] - polls[before];
    assert!(took > INTERVAL * 11 * 3 / 4, "12 polls in {took:?}");
    assert_eq!(world.envoy(0).stat("wasmcustom.berth_leader_changes_total.pool.nodes").await, 1);
    assert_eq!(admin.last_path().as_deref(), Some("/clusters?filter=%5E(nodes)%24"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_polls_when_the_leader_is_gone() {
    let interval = Duration::from_millis(500);
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = World::builder().concurrency(4).cluster_address("berth_admin", admin.address());
    let world = world.configuration(|json| json["poll_interval"] = "500ms".into()).start().await;
    let envoy = world.envoy(0);
    admin.tell(&truth(&world).await);
    places(envoy).await;
    let changes = async || envoy.stat("wasmcustom.berth_leader_changes_total.pool.nodes").await;
    assert_eq!(changes().await, 1);

    // Under another name the same plugin gets roots of its own, which wait for the lease like any other; the leader
    // goes without a word, with the last connection of the former listener.
    let reloaded = Instant::now();
    envoy.reload_listener(|listener| plugin(listener)["name"] = "successor".into()).await.unwrap();
    eventually(async || changes().await >= 2, SOON).await;
    let polls_then = admin.polls().len();
    eventually(async || admin.polls().len() > polls_then + 2, SOON).await;

    assert_eq!(changes().await, 2, "one took over");
    let polls: Vec<Instant> = admin.polls().into_iter().filter(|at| *at + interval > reloaded).collect();
    let silence = polls.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    // Two for the lease and a tick after its last renewal, one that would have passed anyway, one for a busy machine.
    assert!(silence < 4 * interval, "no worker polled for {silence:?}");
    let added = world.add_node().await;
    admin.tell(&truth(&world).await);
    let moved = async || world.nodes_of(&sessions(100)).await.iter().any(|node| node == added.name());
    eventually(moved, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_found_among_thousands_of_other_clusters() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let world = asking(&admin).await;
    let others = |names: &[&str]| {
        (0..2000).fold(String::new(), |mut page, number| {
            for name in names {
                write!(page, "{name}{number}::10.9.{}.{}:80::", number / 250, number % 250).unwrap();
                page.push_str("health_flags::healthy\n");
            }
            page
        })
    };
    let page = [
        others(&["node", "a::nodes"]),
        truth(&world).await,
        others(&["nodes", "nodes-", "nodes:"]),
        "nodes\nnodes::\nnodes::::\nnodes::x::y::z\n".repeat(100),
    ];

    admin.tell(&page.concat());
    places(world.envoy(0)).await;

    let keys = sessions(100);
    assert_eq!(world.nodes_of(&keys).await, owners(&world, SHIPPED_RING, &keys));
    assert_eq!(world.envoy(0).stat("wasmcustom.berth_nodes.pool.nodes.state.active").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_members_need_no_admin() {
    let world = quick(World::builder()).cluster_address("berth_admin", free_address()).start().await;
    let listed = [world.node(0), world.node(2)].map(|node| node.name().to_owned());

    let members = json!([listed[0], {"address": listed[1], "weight": 1}]);
    let reloaded = world.envoy(0).reload(|json| {
        pool(json).as_object_mut().unwrap().remove("cluster");
        pool(json)["members"] = members.clone();
    });
    reloaded.await.unwrap();
    places(world.envoy(0)).await;

    let nodes = world.nodes_of(&sessions(100)).await;
    assert_eq!(nodes.iter().collect::<BTreeSet<_>>(), listed.iter().collect());
    assert_eq!(shown(&world.get("/?sid=ada").send().await, "reason"), "owner");
    assert_eq!(world.nodes_of(&sessions(100)).await, nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_without_nodes_answers_503_until_some_appear() {
    let world = quick(World::builder().nodes(0)).start().await;
    let empty = async || shown(&world.get("/?sid=ada").send().await, "reason") == "no_members";
    eventually(empty, SOON).await;

    for request in [world.get("/?sid=ada"), world.get("/")] {
        let answer = request.send().await;
        assert_eq!(answer.status, 503);
        assert_eq!(&answer.body[..], b"no healthy upstream");
    }
    eventually(async || unplaced(&world, "no_members").await > 0, SOON).await;

    // The first node has no other to share the load with: it gets no ramp.
    let node = world.add_node().await;
    places(world.envoy(0)).await;
    let answer = world.get("/?sid=ada").send().await;
    assert_eq!((answer.node(), shown(&answer, "reason")), (node.name(), "owner"));
    assert_eq!(world.get("/").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_last_seen_unhealthy_is_not_kept_out_by_a_proxy_that_cannot_see() {
    let admin = FakeAdmin::start(Answer::HangUp).await;
    let builder = quick(World::builder().state(State::memory()));
    let builder = builder.cluster_address("berth_admin", admin.address()).configuration(|json| {
        json["poll_interval"] = "200ms".into();
        pool(json)["health"] = json!({"cooldown": "2s", "warm_up": "0s", "passive_failures": 0});
    });
    let world = builder.start().await;
    let well = truth(&world).await;
    admin.tell(&well);
    places(world.envoy(0)).await;
    let node = world.node(0).name().to_owned();
    let failing = well.replace(
        &format!("nodes::{node}::health_flags::healthy"),
        &format!("nodes::{node}::health_flags::/failed_active_hc"),
    );
    assert_ne!(failing, well);
    admin.tell(&failing);
    eventually(async || cooldown_of(&world, &node).await.is_some(), SOON).await;
    assert!(age(&world).await <= 2);

    // From now on the proxy does not see that the node is well.
    admin.set(Answer::HangUp);
    let is_over = async || cooldown_of(&world, &node).await.is_none();
    eventually(is_over, SOON).await;
    // What it last saw must not begin the cooldown again, for as long as it cannot see.
    let round = AtomicUsize::new(0);
    let is_used = async || {
        assert_eq!(cooldown_of(&world, &node).await, None, "old knowledge renews itself");
        let round = round.fetch_add(1, Ordering::Relaxed);
        let new: Vec<String> = (0..20).map(|number| format!("new-{round}-{number}")).collect();
        world.nodes_of(&new).await.contains(&node)
    };
    eventually(is_used, Duration::from_secs(60)).await;
    assert!(age(&world).await >= 30, "health is believed for that long");

    // What Envoy says when it is seen again counts at once.
    admin.tell(&failing);
    eventually(async || cooldown_of(&world, &node).await.is_some(), SOON).await;
}

/// The time until which other proxies are to avoid this node; none if that time is past.
async fn cooldown_of(world: &World, node: &str) -> Option<u64> {
    let reply = world.state(0).request(Method::GET, "/v1/nodes?pool=nodes").send().await;
    let reply: Value = serde_json::from_slice(&reply.body).unwrap();
    let record = reply["nodes"].as_array().unwrap().iter().find(|record| record["node"] == node)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    record["cooldown_until_ms"].as_u64().filter(|until| u128::from(*until) > now)
}

async fn age(world: &World) -> u64 {
    world.envoy(0).stat("wasmcustom.berth_membership_age_seconds.pool.nodes").await
}
