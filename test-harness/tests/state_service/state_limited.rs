//! A pool has begun as many sessions as it may: a flood of invented ids does not keep a proxy from those that are there.

use std::time::Duration;

use berth_core::wire::{Outcome, ResolveReply, SessionKey};
use berth_harness::{Client, State};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::json;

use crate::support::pinning::of;
use crate::support::placing;
use crate::support::state_away::five;

const LIMIT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_invented_ids_leaves_pinned_sessions_with_their_nodes() {
    let world = placing(five().state(State::memory().flag("--new-sessions", &LIMIT.to_string()))).await;
    let envoy = world.envoy(0);
    let home = world.nodes()[0].name().to_owned();
    let mine: Vec<String> = (0..LIMIT).map(|number| format!("mine-{number}")).collect();
    // The proxy began sessions of its own until it placed them, and has this second's back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Where the ring does not have most of them, and the proxy does not know it.
    let keys = mine.iter().map(|id| SessionKey::new("nodes", id.as_bytes()));
    let sessions: Vec<_> =
        keys.map(|key| json!({"key": key, "candidates": [home], "unusable": []})).collect();
    let body = json!({"pool": "nodes", "sessions": sessions}).to_string();
    let answer = world.state(0).request(Method::POST, "/v1/resolve").body(body).send().await;
    let reply: ResolveReply = serde_json::from_slice(&answer.body).unwrap();
    assert!(reply.pins.iter().all(|pin| pin.outcome == Outcome::Claimed), "{reply:?}");

    let flood = |client: usize| async move {
        let own = Client::new(envoy.address());
        let mut limited = 0;
        for number in 0..150 {
            let answer = of(&own, &format!("invented-{client}-{number}")).send().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            limited += usize::from(!answer.header("x-berth").unwrap_or_default().contains("claimed"));
        }
        limited
    };
    let ask = async {
        let client = Client::new(envoy.address());
        let mut nodes = Vec::new();
        for id in &mine {
            // So far apart that the flood is at work.
            tokio::time::sleep(Duration::from_millis(20)).await;
            nodes.push(of(&client, id).send().await.node().to_owned());
        }
        nodes
    };
    let (limited, nodes) = tokio::join!(join_all((0..4).map(flood)), ask);

    assert!(limited.iter().sum::<usize>() > 300, "{limited:?}");
    assert_eq!(nodes, vec![home; LIMIT]);
    assert!(world.state(0).metric("berth_state_limited_sessions_total", &[]).await > 300.0);
}
