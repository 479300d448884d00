//! Pools whose cluster Envoy does not have, does not have yet, or has without hosts: log, header and metric tell which.

use std::path::Path;

use berth_harness::{State, World, eventually, root};
use serde_json::{Value, json};

use crate::support::patience::{ask, cluster, impatient};
use crate::support::{SOON, pool, shown};

/// What the log says of a cluster that is not there, or is there again.
fn reports(world: &World) -> Vec<String> {
    let log = world.envoy(0).log();
    let lines = log.lines().filter(|line| line.contains(": Envoy has "));
    lines.filter_map(|line| Some(line.rsplit_once("berth: ")?.1.to_owned())).collect()
}

async fn reason_becomes(world: &World, reason: &str) {
    let shows = async || {
        let answer = ask(world, "ada").await;
        assert_eq!(answer.status, 200);
        let found = shown(&answer, "reason").to_owned();
        if found == reason { Ok(()) } else { Err(found) }
    };
    eventually(shows, SOON).await;
}

/// Waits for so many more looks at the members.
async fn looks(world: &World, result: &str, count: f64) {
    let labels = [("result", result)];
    let seen = async || world.envoy(0).metric("berth_polls_total", &labels).await;
    let enough = seen().await + count;
    eventually(async || seen().await >= enough, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_envoy_does_not_know_is_named_once_in_the_log_and_in_each_answer() {
    for state in [None, Some(State::memory())] {
        let builder = match state {
            None => impatient(),
            Some(state) => impatient().state(state),
        };
        let world = builder.configuration(|json| pool(json)["cluster"] = "games".into()).start().await;

        reason_becomes(&world, "unknown_cluster").await;
        let unplaced = async || {
            let labels = [("pool", "nodes"), ("reason", "unknown_cluster")];
            world.envoy(0).metric("berth_unplaced_total", &labels).await
        };
        eventually(async || unplaced().await > 0.0, SOON).await;
        eventually(async || !reports(&world).is_empty(), SOON).await;
        looks(&world, "unknown_cluster", 15.0).await;

        let said = reports(&world);
        let [line] = &said[..] else { panic!("{said:?}") };
        assert!(line.starts_with("pool nodes: Envoy has no cluster games, or it is still warming"), "{line}");
        let (_, names) = line.split_once("those that it has: ").expect("the names of the others");
        let names: Vec<&str> = names.split(", ").collect();
        assert!(["nodes", "berth_admin"].iter().all(|name| names.contains(name)), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_comes_later_is_taken_and_the_log_says_so() {
    // In the tree, which a container of Envoy sees too.
    let folder = tempfile::Builder::new().prefix("cds-").tempdir_in(root().join("target")).unwrap();
    let file = folder.path().join("cds.json");
    write(&file, &[]);
    let cds = json!({"resource_api_version": "V3", "path_config_source": {"path": file}});
    let copy = folder.path().join("nodes.json");
    let kept = copy.clone();
    let builder = impatient().configuration(|json| pool(json)["cluster"] = "late".into());
    let builder = builder.bootstrap(move |json| {
        json["dynamic_resources"]["cds_config"] = cds.clone();
        let mut late = cluster(json, "nodes").clone();
        late["name"] = "late".into();
        std::fs::write(&kept, late.to_string()).unwrap();
    });
    let world = builder.start().await;
    reason_becomes(&world, "unknown_cluster").await;
    eventually(async || reports(&world).len() == 1, SOON).await;

    let mut late: Value = serde_json::from_slice(&std::fs::read(&copy).unwrap()).unwrap();
    late["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    write(&file, &[late]);

    reason_becomes(&world, "owner").await;
    eventually(async || reports(&world).len() == 2, SOON).await;
    assert_eq!(reports(&world)[1], "pool nodes: Envoy has cluster late now");
    looks(&world, "ok", 10.0).await;
    assert_eq!(reports(&world).len(), 2);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

/// Replaces a file of clusters in one step, as Envoy watches it.
fn write(file: &Path, clusters: &[Value]) {
    let next = file.with_extension("next");
    std::fs::write(&next, json!({"version_info": "1", "resources": clusters}).to_string()).unwrap();
    std::fs::rename(&next, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_hosts_is_another_matter() {
    let world = impatient().nodes(0).start().await;

    let answer = async || shown(&ask(&world, "ada").await, "reason").to_owned();
    eventually(async || answer().await == "no_members", SOON).await;
    looks(&world, "ok", 15.0).await;

    assert_eq!(reports(&world), [""; 0]);
}
