//! Scaling Berth's own ring moves as few sessions as consistent hashing can, and a large ring is built without anybody noticing.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::patience::{ask, caught_up, impatient, nodes_become};
use crate::support::{SOON, own_ring, sessions};
use berth_harness::eventually;
use futures_util::future::join_all;

#[tokio::test(flavor = "multi_thread")]
async fn sixth_node_takes_a_sixth_of_the_sessions_and_none_move_between_the_others() {
    let world = impatient().nodes(5).configuration(own_ring).start().await;
    nodes_become(world.envoy(0), &[("active", 5)]).await;
    let keys = sessions(5000);
    let before = world.nodes_of(&keys).await;

    let added = world.add_node().await;
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    let after = world.nodes_of(&keys).await;

    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!(moved.iter().all(|(_, after)| *after == added.name()), "only to the new node");
    let share = moved.len() as f64 / keys.len() as f64;
    // Its 512 points cut a share of the circle that varies, and the keys that fall there vary too.
    let sixth = 1.0_f64 / 6.0;
    let of_points = sixth / 512_f64.sqrt();
    let of_keys = (sixth * (1.0 - sixth) / keys.len() as f64).sqrt();
    let deviation = 3.0 * (of_points + of_keys);
    eprintln!("moved {share:.4}, a sixth ± {deviation:.4}");
    assert!((share - sixth).abs() <= deviation, "{share:.4} is not a sixth ± {deviation:.4}");
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_node_loses_its_sessions_and_no_others_move() {
    let world = impatient().nodes(6).configuration(own_ring).start().await;
    nodes_become(world.envoy(0), &[("active", 6)]).await;
    let keys = sessions(5000);
    let before = world.nodes_of(&keys).await;
    let removed = world.node(3);

    world.remove_node(3).await;
    removed.refuse().await;
    nodes_become(world.envoy(0), &[("active", 5), ("draining", 0), ("cooldown", 0)]).await;
    let after = world.nodes_of(&keys).await;

    for ((key, before), after) in keys.iter().zip(&before).zip(&after) {
        assert_eq!(before != after, before == removed.name(), "{key}: {before} → {after}");
    }
    // Its sessions are shared by all others, not heaped onto one.
    for heir in world.nodes().iter().filter(|node| node.name() != removed.name()) {
        let inherited = before.iter().zip(&after).filter(|(b, a)| *b != *a && *a == heir.name()).count();
        assert!(inherited > 60, "{inherited} of about 833 ÷ 5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_of_a_hundred_nodes_is_rebuilt_while_every_request_succeeds() {
    let world = impatient().nodes(100).start().await;
    nodes_become(world.envoy(0), &[("active", 100)]).await;
    let done = AtomicBool::new(false);
    let traffic = async |stream: usize| {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            let response = ask(&world, &format!("{stream}-{sent}")).await;
            assert_eq!(response.status, 200);
            sent += 1;
        }
        sent
    };
    let changes = async {
        for (node, weight) in [(0, 2), (1, 3), (2, 2), (3, 3)] {
            world.set_weight(node, weight).await;
            caught_up(world.envoy(0)).await;
        }
        world.add_node().await;
        nodes_become(world.envoy(0), &[("active", 101)]).await;
        done.store(true, Ordering::Relaxed);
    };

    let (sent, ()) = tokio::join!(join_all((0..8).map(traffic)), changes);

    eprintln!("{} requests", sent.iter().sum::<usize>());
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
    let served = async || world.nodes().iter().all(|node| node.requests() > 0);
    let more = async || {
        world.nodes_of(&sessions(2000)).await;
        served().await
    };
    eventually(more, SOON).await;
}
