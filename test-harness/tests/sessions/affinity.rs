//! The same key reaches the same node: whichever worker, whichever Envoy, wherever the id is.

use std::collections::BTreeSet;

use berth_harness::World;

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("session-{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn same_node_from_every_worker_and_from_two_envoys() {
    let world = World::builder().nodes(5).envoys(2).concurrency(4).start().await;
    let keys = keys(1000);

    let first = world.nodes_of(&keys).await;
    let again = world.nodes_of(&keys).await;
    let other = world.envoy(1).client().nodes_of(&keys).await;

    assert_eq!(first, again);
    assert_eq!(first, other);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 5, "all nodes take part");
}
