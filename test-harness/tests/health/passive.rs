//! Where Envoy itself checks nothing, failures in a row put a node out: refused connections of any session, resets and
//! timeouts of several. What is the client's or the proxy's own doing never does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::patience::{
    caught_up, cluster, destination, fellow, members_become_known, nodes_become, refuse, unchecked,
};
use crate::support::{SOON, pool, routes, sessions, shown};
use berth_harness::{Backend, Client, Request, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn third_refused_connection_in_a_row_puts_a_node_out_for_all_workers() {
    let world = unchecked().concurrency(4).start().await;
    let owner = owner(&world).await;
    refuse(&world, &owner).await;

    for _ in 0..2 {
        assert_eq!(shown(&ask(&world).await, "reason"), "retried");
    }
    caught_up(world.envoy(0)).await;
    assert_eq!(shown(&ask(&world).await, "reason"), "retried", "two are not enough");

    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
    assert_eq!(ejections(&world).await, 1.0);
    // Forty connections, so some to each worker.
    let fresh = (0..40).map(async |_| from(&Client::new(world.envoy(0).address())).send().await);
    for response in join_all(fresh).await {
        assert_eq!((response.status.as_u16(), shown(&response, "reason")), (200, "cooldown"));
        assert_ne!(response.node(), owner.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn third_reset_in_a_row_of_two_sessions_puts_a_node_out() {
    let world = unchecked().start().await;

    third_failure_puts_it_out(&world, Backend::reset, 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_still_down_after_its_cooldown_is_out_for_twice_as_long() {
    let world =
        unchecked().configuration(|json| pool(json)["health"]["cooldown"] = "1s".into()).start().await;
    let owner = owner(&world).await;
    refuse(&world, &owner).await;

    assert_eq!(shown(&ask(&world).await, "reason"), "retried");
    for cooldown in [1, 2] {
        assert_eq!(shown(&ask(&world).await, "reason"), "retried");
        let out = Instant::now();
        assert_eq!(shown(&ask(&world).await, "reason"), "retried");

        // Then no request goes to the node until one tries it again; that one succeeds too.
        assert_eq!(shown(&ask(&world).await, "reason"), "cooldown");
        eventually(async || shown(&ask(&world).await, "reason") == "retried", SOON).await;
        assert!(
            out.elapsed() >= Duration::from_secs(cooldown),
            "out for {:?}, not {cooldown} s",
            out.elapsed()
        );
    }
    eventually(async || ejections(&world).await == 2.0, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn third_timeout_in_a_row_of_two_sessions_puts_a_node_out() {
    let world = unchecked()
        .bootstrap(|json| {
            routes(json).iter_mut().for_each(|route| route["route"]["timeout"] = "0.3s".into());
        })
        .start()
        .await;

    third_failure_puts_it_out(&world, Backend::hang, 504).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn success_in_between_starts_the_count_anew() {
    let world = unchecked().start().await;
    let owner = owner(&world).await;

    for _ in 0..3 {
        refuse(&world, &owner).await;
        for _ in 0..2 {
            assert_eq!(shown(&ask(&world).await, "reason"), "retried");
        }
        owner.restart().await;
        assert_eq!(ask(&world).await.node(), owner.name());
    }

    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_never_count() {
    let world = unchecked().concurrency(1).start().await;
    let owner = owner(&world).await;
    owner.hang();

    let (client, soon) = (world.client(), Duration::from_millis(100));
    for _ in 0..5 {
        let http1 = client.get("/").header("x-session-id", "ada").within(soon);
        let http2 = from(&client).within(soon);
        assert!(http1.try_send().await.is_err());
        assert!(http2.try_send().await.is_err());
    }
    let all_left = async || world.envoy(0).stat("cluster.nodes.upstream_rq_active").await == 0;
    eventually(all_left, SOON).await;
    assert_eq!(owner.requests(), 11, "they had reached the node");

    owner.serve();
    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_circuit_breaker_never_counts() {
    let world = unchecked()
        .concurrency(1)
        .bootstrap(|json| {
            cluster(json, "nodes")["circuit_breakers"] = json!({"thresholds": [{"max_requests": 1}]});
        })
        .start()
        .await;
    let owner = owner(&world).await;
    owner.slow(500);

    let responses = join_all((0..10).map(|_| ask(&world))).await;

    let refused = responses.iter().filter(|response| response.header("x-envoy-overloaded") == Some("true"));
    assert_eq!(refused.count(), 9);
    owner.serve();
    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_a_route_to_another_cluster_passes_over_never_counts() {
    let world = unchecked()
        .concurrency(1)
        .bootstrap(|json| {
            let mut elsewhere = routes(json)[1].clone();
            elsewhere["match"] = json!({"prefix": "/elsewhere"});
            routes(json).insert(0, elsewhere);
        })
        .start()
        .await;
    let owner = owner(&world).await;

    let mut served = BTreeSet::new();
    for _ in 0..60 {
        let response = world.get("/elsewhere").header("x-session-id", "ada").send().await;
        let is_owner = response.node() == owner.name();
        assert_eq!(shown(&response, "reason"), if is_owner { "owner" } else { "other_cluster" });
        served.insert(response.node().to_owned());
    }

    assert!(served.len() > 1, "any node answers there");
    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_envoy_does_not_know_is_passed_over_and_never_counts() {
    let world = unchecked().concurrency(1).start().await;
    let mut members: Vec<String> = world.nodes().iter().map(|node| node.name().to_owned()).collect();
    members.push("127.0.0.1:1".into());
    let with_ghost = |json: &mut Value| {
        pool(json).as_object_mut().unwrap().remove("cluster");
        pool(json)["members"] = json!(members);
    };
    world.envoy(0).reload(with_ghost).await.unwrap();
    members_become_known(&world).await;

    let mut passed_over = 0;
    for session in sessions(100) {
        let response = crate::support::patience::ask(&world, &session).await;
        let nodes = destination(&response);
        let ghost = nodes[0] == "127.0.0.1:1";
        assert_eq!(response.node(), nodes[usize::from(ghost)]);
        assert_eq!(shown(&response, "reason"), if ghost { "retried" } else { "owner" });
        passed_over += u32::from(ghost);
    }
    assert!(passed_over > 5);
    assert_eq!(ejections(&world).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_any_status_never_counts() {
    let world = unchecked().start().await;
    let owner = owner(&world).await;
    owner.fail(503);

    for _ in 0..10 {
        assert_eq!((ask(&world).await.status.as_u16(), ask(&world).await.node()), (503, owner.name()));
    }

    owner.serve();
    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_passive_failures_switch_the_count_off() {
    let world =
        unchecked().configuration(|json| pool(json)["health"]["passive_failures"] = 0.into()).start().await;
    let owner = owner(&world).await;
    owner.reset();

    for _ in 0..10 {
        assert_eq!(ask(&world).await.status, 503);
    }

    owner.serve();
    still_owns(&world, &owner).await;
}

async fn third_failure_puts_it_out(world: &World, fault: impl Fn(&Backend), status: u16) {
    let owner = owner(world).await;
    let fellow = fellow(world, &owner).await;
    fault(&owner);

    for session in ["ada", &fellow, "ada"] {
        let response = world.get("/").header("x-session-id", session).send().await;
        assert_eq!((response.status.as_u16(), shown(&response, "reason")), (status, "owner"));
    }

    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
    let response = ask(world).await;
    assert_eq!((response.status.as_u16(), shown(&response, "reason")), (200, "cooldown"));
    assert_eq!(ejections(world).await, 1.0);
}

async fn still_owns(world: &World, owner: &Backend) {
    caught_up(world.envoy(0)).await;
    let response = ask(world).await;
    assert_eq!((response.node(), shown(&response, "reason")), (owner.name(), "owner"));
    assert_eq!(ejections(world).await, 0.0);
}

async fn owner(world: &World) -> std::sync::Arc<Backend> {
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    world.node_named(ask(world).await.node())
}

/// All by one HTTP/2 connection, so to one worker.
async fn ask(world: &World) -> Response {
    from(&world.client()).send().await
}

fn from(client: &Client) -> Request {
    client.get("/").header("x-session-id", "ada").http2()
}

async fn ejections(world: &World) -> f64 {
    world.envoy(0).metric("berth_passive_ejections_total", &[("pool", "nodes")]).await
}
