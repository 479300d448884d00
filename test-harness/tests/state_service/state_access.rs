//! A state cluster that tells proxies from operators: the filter goes on with its static token, and what it may not do takes a
//! JSON Web Token with a scope.

use std::time::Duration;

use berth_core::wire::NodesReply;
use berth_harness::hyper::Method;
use berth_harness::tokens::{Algorithm, key_set, sign};
use berth_harness::{State, World, eventually};
use serde_json::json;

use crate::support::patience::nodes_become;
use crate::support::pinning::{agreed_nodes_of, all_see, moved, of, patiently};
use crate::support::{SOON, pool, sessions};

const PROXIES: &str = "the-proxies-own";

async fn refused(world: &World, status: &str) -> f64 {
    world.state_metric("berth_state_requests_total", &[("status", status)]).await
}

/// The nodes that the state service knows to be in cooldown.
async fn in_cooldown(world: &World) -> Vec<String> {
    let reply = world.state(0).request(Method::GET, "/v1/nodes?pool=nodes").send().await;
    let reply: NodesReply = serde_json::from_slice(&reply.body).unwrap();
    let out = reply.nodes.iter().filter(|node| node.cooldown_until_ms.is_some());
    out.map(|node| node.node.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_needs_no_more_than_its_static_token_and_an_operator_a_scope() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, key_set(&[("e", Algorithm::ES256)])).unwrap();
    let state = State::redis()
        .flag("--store-timeout", "4s")
        .token(PROXIES)
        .flag("--jwks", keys.to_str().unwrap())
        .flag("--jwt-algorithms", "ES256")
        .flag("--jwt-audience", "berth");
    let world = patiently(World::builder(), state)
        .health_interval(Duration::from_millis(200))
        .configuration(|json| {
            json["poll_interval"] = "200ms".into();
            json["state"]["token"] = PROXIES.into();
            pool(json)["health"] = json!({"cooldown": "60s", "warm_up": "0s"});
        })
        .envoys(2)
        .nodes(4)
        .start()
        .await;
    all_see(&world, &[("active", 4)]).await;

    let keys = sessions(60);
    let before = agreed_nodes_of(&world, &keys).await;
    for (key, node) in keys.iter().zip(&before) {
        assert_eq!(&world.pin_of("nodes", key).await.unwrap().node.to_string(), node);
    }

    // An operator's word takes an operator's token.
    let service = world.state(0);
    let drained = world.node(0).name().to_owned();
    let by = |scope: &str| sign(Algorithm::ES256, "e", json!({"sub": "ada", "aud": "berth", "scope": scope}));
    let complaint = service.operate(&["drain", &drained]).await.unwrap_err();
    assert!(complaint.contains("needs a token with the scope berth.operate"), "{complaint}");
    let reader = by("berth.read");
    let complaint = service.operate(&["drain", &drained, "--token", &reader]).await.unwrap_err();
    assert!(complaint.contains("needs a token with the scope berth.operate"), "{complaint}");
    service.operate(&["nodes", "--token", &reader]).await.unwrap();
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    service.operate(&["drain", &drained, "--token", &by("berth.operate")]).await.unwrap();
    all_see(&world, &[("draining", 1), ("active", 3)]).await;
    assert_eq!(moved(&keys, &before, &agreed_nodes_of(&world, &keys).await), Vec::<&String>::new());

    // Proxies share cooldowns, and move and end sessions, as ever.
    let refusals = refused(&world, "403").await;
    let dead = world.node(1);
    dead.refuse().await;
    all_see(&world, &[("cooldown", 1)]).await;
    eventually(async || in_cooldown(&world).await == [dead.name()], SOON).await;
    let after = agreed_nodes_of(&world, &keys).await;
    assert!(!after.contains(&dead.name().to_owned()));
    for (key, (node, home)) in keys.iter().zip(after.iter().zip(&before)) {
        let pin = world.pin_of("nodes", key).await.unwrap();
        assert_eq!(&pin.node.to_string(), node);
        assert_eq!(pin.events.is_empty(), home != dead.name(), "{key}");
    }
    let home = world.node_named(&after[0]);
    home.set_headers(&[("x-berth-end", "1")]);
    of(&world.client(), &keys[0]).send().await;
    home.set_headers(&[]);
    eventually(async || world.pin_of("nodes", &keys[0]).await.is_none(), SOON).await;
    assert_eq!((refused(&world, "401").await, refused(&world, "403").await), (0.0, refusals));
}
