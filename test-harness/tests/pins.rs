//! With a state cluster: what a session's first request asks, what the next ones need not, and what its node is told.

mod support;

use berth_harness::{State, World};

use support::{placing, told};

#[tokio::test(flavor = "multi_thread")]
async fn first_request_claims_and_the_next_ones_ask_nobody() {
    let world = placing(World::builder().concurrency(1).state(State::memory())).await;
    let first = world.get("/").header("x-session-id", "ada").send().await;
    assert_eq!(told(&first, "outcome"), "claimed", "{first:?}");
    assert_eq!(told(&first, "reason"), "pin");

    let resolves = world.state_metric("berth_state_requests_total", &[("call", "resolve")]).await;
    for _ in 0..20 {
        let next = world.get("/").header("x-session-id", "ada").send().await;
        assert_eq!((told(&next, "outcome"), next.node()), ("hit", first.node()));
    }

    assert_eq!(world.state_metric("berth_state_requests_total", &[("call", "resolve")]).await, resolves);
    let pin = world.pin_of("nodes", "ada").await.unwrap();
    assert_eq!((pin.node.to_string().as_str(), pin.version), (first.node(), 1));
}
