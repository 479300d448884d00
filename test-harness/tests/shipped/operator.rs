//! The operator's commands beside a real Envoy.

use berth_harness::{Ports, State, World, eventually, free_address};
use serde_json::Value;

use crate::support::{SOON, places, quick};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_proxy_are_listed_with_what_is_on_record() {
    let [proxy, admin, first_node, state] = [(); 4].map(|()| free_address().port());
    let ports = Ports { proxy, admin, first_node, state: Some(state) };
    let world = quick(World::builder().nodes(1).state(State::memory()).ports(ports)).start().await;
    places(world.envoy(0)).await;
    let (node, service) = (world.node(0).name().to_owned(), world.state(0));
    let url = format!("http://127.0.0.1:{admin}");
    let rows = async |options: &[&str]| -> Vec<Value> {
        let arguments = [&["nodes", "--format", "json"], options].concat();
        let said = service.operate(&arguments).await.unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(rows(&[]).await, [Value::Null; 0], "nothing is on record");
    service.operate(&["drain", "10.9.9.9:80", "--force"]).await.unwrap();

    let listed = rows(&["--admin", &url]).await;

    let shown: Vec<_> =
        listed.iter().map(|row| (&row["node"], &row["state"], &row["envoy"]["health"])).collect();
    let expected = [(&node, "active", "healthy"), (&"10.9.9.9:80".to_owned(), "draining", "absent")];
    let expected =
        expected.map(|(node, state, health)| (Value::from(&**node), Value::from(state), Value::from(health)));
    assert_eq!(shown, expected.iter().map(|(node, state, health)| (node, state, health)).collect::<Vec<_>>());

    world.node(0).fail_health();
    let fails = async || rows(&["--admin", &url]).await[0]["envoy"]["health"] == "unhealthy";
    eventually(fails, SOON).await;
    let text = service.operate(&["nodes", "--admin", &url]).await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&node)).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("unhealthy"), "{text}");

    let complaint = service.operate(&["nodes", "--admin", &url, "--cluster", "games"]).await.unwrap_err();
    assert!(complaint.contains("Envoy has no cluster games") && complaint.contains("nodes"), "{complaint}");
}
