//! Responses that are held until their session is claimed, while what they wait for goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_harness::{Envoy, State, eventually};
use futures_util::future::join_all;

use super::minted::{MCP, client, id_of, learned, learning};
use crate::support::patience::{impatient, nodes_become};
use crate::support::pinning::patiently;
use crate::support::{SOON, pool};

/// Nothing hangs, and nothing broke.
async fn all_is_over(envoy: &Envoy) {
    eventually(async || envoy.stat("http.ingress.downstream_rq_active").await == 0, SOON).await;
    assert_eq!(envoy.wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_releases_what_the_former_configuration_holds() {
    const CLIENTS: usize = 40;
    let world = learning(patiently(impatient().nodes(4).concurrency(2), State::memory())).start().await;
    let envoy = world.envoy(0);
    nodes_become(envoy, &[("active", 4)]).await;
    world.state(0).pause();

    let begins = |place: usize| {
        let begins = client(envoy).post(if place.is_multiple_of(3) { "/mcp?sse" } else { "/mcp" }, "{}");
        if place.is_multiple_of(2) { begins.http2().send() } else { begins.send() }
    };
    let active = async || envoy.stat("http.ingress.downstream_rq_active").await;
    let reload = async {
        eventually(async || active().await == CLIENTS as u64, SOON).await;
        envoy.reload(|json| pool(json)["health"]["cooldown"] = "7s".into()).await.unwrap();
        let held = active().await;
        world.state(0).resume();
        held
    };
    let (answers, held) = tokio::join!(join_all((0..CLIENTS).map(begins)), reload);

    assert_eq!(held, CLIENTS as u64, "the reload met held responses");
    for first in &answers {
        let known = client(envoy).post("/mcp", "{}").header(MCP, id_of(first)).send().await;
        assert_eq!((known.status.as_u16(), known.node()), (200, first.node()));
    }
    all_is_over(envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_service_that_is_killed_holds_up_no_response_for_longer_than_a_call() {
    let builder = learning(impatient().nodes(4).concurrency(1).state(State::redis()));
    let world = Arc::new(builder.start().await);
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let begin = |place: usize| {
        let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
        async move {
            let mut begun = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begins = client(world.envoy(0)).post("/mcp", "{}").within(Duration::from_secs(5));
                let first = if place.is_multiple_of(2) { begins.http2().send() } else { begins.send() };
                let first = first.await;
                begun.push((id_of(&first), first.node().to_owned()));
            }
            begun
        }
    };
    let clients: Vec<_> = (0..8).map(|place| tokio::spawn(begin(place))).collect();

    let envoy = world.envoy(0);
    eventually(async || learned(envoy, "pinned").await >= 20.0, SOON).await;
    world.state(0).kill();
    eventually(async || learned(envoy, "state_away").await >= 20.0, SOON).await;
    world.state(0).restart().await;
    let pinned = learned(envoy, "pinned").await;
    eventually(async || learned(envoy, "pinned").await >= pinned + 20.0, SOON).await;
    stop.store(true, Ordering::Relaxed);

    let mut count = 0;
    for client_ in clients {
        for (id, node) in client_.await.unwrap() {
            let next = client(envoy).post("/mcp", "{}").header(MCP, &id).send().await;
            assert_eq!((next.status.as_u16(), next.node()), (200, &*node), "{id}");
            count += 1;
        }
    }
    assert!(count >= 60, "{count}");
    all_is_over(envoy).await;
}
