//! Clients that leave while the state cluster is asked for them: what they asked goes on, and costs nothing for good.

use std::time::Duration;

use berth_harness::{World, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::{SOON, places, quick, shown};

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_they_ask_hold_no_calls_and_the_answer_is_kept() {
    let state = FakeState::start().await;
    let builder = quick(World::builder().file("envoy-state.yaml").concurrency(1));
    let builder = builder.cluster_address("berth_state", state.address());
    let world = builder.configuration(|json| json["state"]["timeout"] = "2s".into()).start().await;
    places(world.envoy(0)).await;
    state.set_call(Call::Resolve, Reply::Late(Duration::from_millis(200)));
    let asked = state.count(Call::Resolve);

    for round in 0..10 {
        let mut clients = Vec::new();
        for number in 0..100 {
            let mut client = TcpStream::connect(world.envoy(0).address()).await.unwrap();
            let head =
                format!("GET / HTTP/1.1\r\nhost: berth\r\nx-session-id: gone-{round}-{number}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            clients.push(client);
        }
        let before = state.count(Call::Resolve);
        eventually(async || state.count(Call::Resolve) > before.min(asked + round), SOON).await;
        drop(clients);
    }
    let stat = async |name: &str| world.envoy(0).stat(name).await;
    eventually(async || stat("cluster.berth_state.upstream_rq_pending_active").await == 0, SOON).await;
    state.set_call(Call::Resolve, Reply::Proper);

    let placed = async || {
        let answer = world.get("/").header("x-session-id", "ada").send().await;
        matches!(shown(&answer, "outcome"), "claimed" | "hit")
    };
    eventually(placed, SOON).await;
    // The first of the first round led, so it was asked about, and its client was gone by the answer.
    let answer = world.get("/").header("x-session-id", "gone-0-0").send().await;
    assert_eq!(shown(&answer, "outcome"), "hit");
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}
