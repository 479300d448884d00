//! Berth, Envoy's own RING_HASH and MAGLEV on the same nodes, and `berth ring` name the same node for every key: at the
//! start, and after every change of the membership.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::native::{RING, add_native, native_nodes_of};
use crate::support::patience::{caught_up, impatient, nodes_become};
use crate::support::{SOON, pool, sessions, shown};
use berth_harness::{Host, World, eventually};
use serde_json::{Value, json};

const MAGLEV: &str = "maglev.v3.Maglev";

#[tokio::test(flavor = "multi_thread")]
async fn berth_native_ring_and_offline_answer_agree_on_equal_weights() {
    let berth = Berth(berth_harness::berth().unwrap());
    let world = impatient()
        .nodes(6)
        .configuration(|json| pool(json)["ring"] = json!({"minimum_ring_size": 1024}))
        .bootstrap(|json| add_native(json, RING, json!({"minimum_ring_size": 1024})))
        .start()
        .await;

    all_agree(&world, &berth, &["--minimum-ring-size", "1024"], 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn berth_native_ring_and_offline_answer_agree_on_mixed_weights_and_after_each_change() {
    // A size that the weights do not divide: nodes get fractions of points, so their order matters too.
    let berth = Berth(berth_harness::berth().unwrap());
    let world = impatient()
        .nodes(5)
        .configuration(|json| {
            pool(json)["ring"] = json!({"minimum_ring_size": 1000, "maximum_ring_size": 1000});
        })
        .bootstrap(|json| {
            let size = json!({"minimum_ring_size": 1000, "maximum_ring_size": 1000});
            add_native(json, RING, size);
        })
        .start()
        .await;
    set_weights(&world, &[1, 2, 3, 5, 7]).await;

    let size = ["--minimum-ring-size", "1000", "--maximum-ring-size", "1000"];
    all_agree(&world, &berth, &size, 10_000).await;
    all_agree_after_each_change(&world, &berth, &size).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_nodes_are_a_native_ring_of_so_many_points_for_each_unit_of_weight() {
    let berth = Berth(berth_harness::berth().unwrap());
    let weights = [2, 2, 4, 6];
    let points = 512 * weights.iter().sum::<u32>() / 2;
    let world = impatient()
        .nodes(weights.len())
        .configuration(|json| pool(json)["ring"] = json!({"virtual_nodes": 512}))
        .bootstrap(move |json| add_native(json, RING, json!({"minimum_ring_size": points})))
        .start()
        .await;
    set_weights(&world, &weights).await;

    all_agree(&world, &berth, &[], 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn berth_native_maglev_and_offline_answer_agree_on_any_weights_and_after_each_change() {
    let berth = Berth(berth_harness::berth().unwrap());
    let world = impatient()
        .nodes(5)
        .configuration(|json| pool(json)["ring"] = json!({"algorithm": "maglev"}))
        .bootstrap(|json| add_native(json, MAGLEV, json!({})))
        .start()
        .await;

    let maglev = ["--algorithm", "maglev"];
    all_agree(&world, &berth, &maglev, 10_000).await;
    set_weights(&world, &[1, 2, 3, 5, 7]).await;
    all_agree(&world, &berth, &maglev, 10_000).await;
    all_agree_after_each_change(&world, &berth, &maglev).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rendezvous_is_what_the_offline_answer_says() {
    let berth = Berth(berth_harness::berth().unwrap());
    let world = impatient()
        .nodes(5)
        .configuration(|json| pool(json)["ring"] = json!({"algorithm": "rendezvous"}))
        .start()
        .await;
    set_weights(&world, &[1, 2, 3, 5, 7]).await;
    caught_up(world.envoy(0)).await;

    let keys = sessions(10_000);
    let placed = world.nodes_of(&keys).await;

    assert_eq!(differing(&placed, &berth.owners(&world, &["--algorithm", "rendezvous"], &keys).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_follow_the_native_ring_while_the_members_are_unknown() {
    let world = impatient()
        .configuration(|json| json["admin_cluster"] = "nowhere".into())
        .bootstrap(|json| add_native(json, RING, json!({"minimum_ring_size": 3072})))
        .start()
        .await;
    let keys = sessions(2000);

    let placed = world.nodes_of(&keys).await;
    let native = native_nodes_of(&world.client(), &keys).await;

    assert_eq!(differing(&placed, &native), 0);
    // Also where the id is in a place that Envoy's hash policies know nothing of.
    for (key, native) in keys.iter().zip(&native).take(20) {
        let response = world.get(&format!("/ws/{key}")).send().await;
        assert_eq!((response.status.as_u16(), response.node()), (200, native.as_str()));
        assert_eq!((shown(&response, "outcome"), shown(&response, "reason")), ("ring", "no_snapshot"));
    }
    let labels = [("pool", "nodes"), ("reason", "no_snapshot")];
    // The native ones pass the filter too.
    let unplaced = async || world.envoy(0).metric("berth_unplaced_total", &labels).await == 4020.0;
    eventually(unplaced, SOON).await;
}

/// Adds, removes, re-weights and reorders nodes through EDS, and compares after each step.
async fn all_agree_after_each_change(world: &World, berth: &Berth, options: &[&str]) {
    let added = world.add_node().await;
    all_agree(world, berth, options, 2000).await;

    world
        .edit_endpoints(|set| set.iter_mut().for_each(|endpoint| endpoint.weight = 8 - endpoint.weight))
        .await;
    all_agree(world, berth, options, 2000).await;

    world.reorder().await;
    all_agree(world, berth, options, 2000).await;

    // Envoy keeps a removed node for as long as it passes its health checks.
    let removed = world.node(2);
    world.remove_node(2).await;
    removed.fail_health();
    let gone = async || world.envoy(0).clusters().await.iter().all(|host| host.address != removed.name());
    eventually(gone, SOON).await;
    let placed = all_agree(world, berth, options, 2000).await;
    assert!(placed.iter().any(|node| node == added.name()));
    assert!(placed.iter().all(|node| node != removed.name()));
}

/// The nodes that Berth names, which must be those of the native cluster and of `berth ring`.
async fn all_agree(world: &World, berth: &Berth, options: &[&str], count: usize) -> Vec<String> {
    eventually(async || hosts(world, "native").await.iter().all(Host::is_healthy), SOON).await;
    let members = hosts(world, "nodes").await.len() as u64;
    nodes_become(world.envoy(0), &[("active", members), ("cooldown", 0), ("pending", 0)]).await;
    let keys = sessions(count);

    let placed = world.nodes_of(&keys).await;
    let native = native_nodes_of(&world.client(), &keys).await;
    let offline = berth.owners(world, options, &keys).await;

    let differing = (differing(&placed, &native), differing(&placed, &offline));
    assert_eq!(differing, (0, 0), "keys that the native cluster and `berth ring` place elsewhere");
    placed
}

fn differing(some: &[String], others: &[String]) -> usize {
    assert_eq!(some.len(), others.len());
    some.iter().zip(others).filter(|(one, other)| one != other).count()
}

async fn set_weights(world: &World, weights: &[u32]) {
    let set_all = |set: &mut berth_harness::EndpointSet| {
        set.iter_mut().zip(weights).for_each(|(endpoint, &weight)| endpoint.weight = weight);
    };
    world.edit_endpoints(set_all).await;
}

async fn hosts(world: &World, cluster: &str) -> Vec<Host> {
    let hosts = world.envoy(0).clusters().await;
    hosts.into_iter().filter(|host| host.cluster == cluster).collect()
}

/// The command `berth`.
struct Berth(PathBuf);

impl Berth {
    /// What `berth ring` answers for the members that Envoy has now.
    async fn owners(&self, world: &World, options: &[&str], keys: &[String]) -> Vec<String> {
        let members = hosts(world, "nodes").await;
        let members = members.iter().map(|host| format!("--member={}={}", host.address, host.weight));
        let mut command = Command::new(&self.0);
        command.args(["ring", "--format", "json"]).args(options).args(members);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let lines = keys.join("\n");
        let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{command:?}");
        let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        answers.map(|answer| answer.unwrap()["owner"].as_str().unwrap().to_owned()).collect()
    }
}
