//! What speaks against a node, and what does not: only that no response began. How a response ends says nothing, and
//! what one client can cause moves no other session.

use crate::support::patience::{ask, caught_up, fellow, impatient, nodes_become, refuse, unchecked};
use crate::support::{SOON, manager, routes, sessions, shown};
use berth_harness::{Backend, Builder, Client, State, World, eventually};
use futures_util::future::join_all;

/// More often than in a row put a node out.
const OFTEN: usize = 14;

#[tokio::test(flavor = "multi_thread")]
async fn websockets_that_close_in_the_ordinary_way_leave_their_node_in_place() {
    for builder in [unchecked(), pinned()] {
        let world = prompt(builder).concurrency(1).start().await;
        let owner = owner(&world).await;
        let open = async || world.get("/ws/ada").websocket().await;
        let mut keeper = open().await;

        for number in 0..OFTEN {
            let mut socket = open().await;
            assert_eq!(socket.node(), owner.name());
            if number % 2 == 0 {
                socket.close().await;
            } else {
                // The node begins.
                assert_eq!(socket.echo("close").await, None);
                socket.closed().await;
            }
        }

        assert_eq!(open().await.node(), owner.name(), "a second socket beside the first");
        assert!(keeper.echo("still here").await.is_some());
        still_owns(&world, &owner).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_break_off_or_end_with_their_connection_leave_their_node_in_place() {
    let world = prompt(unchecked()).concurrency(1).start().await;
    let owner = owner(&world).await;

    for _ in 0..OFTEN {
        let answer = world.get("/fault/cut").header("x-session-id", "ada").try_send().await;
        assert!(answer.is_err(), "{answer:?}");
    }
    for _ in 0..OFTEN {
        let whole = world.get("/eof").header("x-session-id", "ada").send().await;
        assert_eq!(&whole.body[..], b"all of it\n");
    }

    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_break_off_over_http2_leave_their_node_in_place() {
    let world = unchecked().http2_nodes().concurrency(1).start().await;
    let owner = owner(&world).await;

    for _ in 0..OFTEN {
        let call = world.client().grpc("/fault/cut", b"").header("x-session-id", "ada");
        // Envoy before 1.37 resets the stream without an error: then what is missing is the status.
        let status =
            call.try_send().await.ok().and_then(|answer| answer.trailers.get("grpc-status").cloned());
        assert_eq!(status, None);
    }

    still_owns(&world, &owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_is_not_put_out_by_one_session_whatever_url_it_asks_for() {
    for http2 in [false, true] {
        let world = impatient_routes(if http2 { unchecked().http2_nodes() } else { unchecked() });
        let world = world.concurrency(1).start().await;
        let owner = owner(&world).await;

        for _ in 0..5 {
            for (path, status) in [("/fault/close", 503), ("/fault/hang", 504)] {
                let response = world.get(path).header("x-session-id", "ada").send().await;
                assert_eq!(response.status, status, "{path}");
            }
            if http2 {
                let call =
                    world.client().grpc("/fault/close", b"").header("x-session-id", "ada").send().await;
                assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("14")));
            }
        }

        still_owns(&world, &owner).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_is_not_put_out_by_one_session_though_its_requests_are_tried_again() {
    for retry_on in ["connect-failure,reset", "5xx"] {
        let builder = unchecked().bootstrap(move |json| {
            for route in routes(json) {
                route["route"]["retry_policy"]["retry_on"] = retry_on.into();
            }
        });
        let world = builder.concurrency(1).start().await;
        let owner = owner(&world).await;
        if retry_on == "5xx" {
            world.nodes().iter().for_each(|node| node.fail(500));
        }

        for _ in 0..5 {
            let path = if retry_on == "5xx" { "/" } else { "/fault/close" };
            let response = world.get(path).header("x-session-id", "ada").send().await;
            assert!(response.status.is_server_error());
            assert_eq!(shown(&response, "reason"), "retried", "{retry_on}");
        }

        world.nodes().iter().for_each(|node| node.serve());
        still_owns(&world, &owner).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_resets_every_stream_is_put_out_by_two_sessions() {
    let world = unchecked().http2_nodes().concurrency(1).start().await;
    let owner = owner(&world).await;
    let other = fellow(&world, &owner).await;

    for session in ["ada", &other, "ada"] {
        let call = world.client().grpc("/fault/close", b"").header("x-session-id", session).send().await;
        assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("14")));
    }

    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
    assert_ne!(ask(&world, "ada").await.node(), owner.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_invented_ids_on_a_url_that_closes_move_no_other_session() {
    for workers in [1, 8] {
        thousand_invented_ids(unchecked().concurrency(workers)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_invented_ids_on_a_url_that_closes_move_no_other_pin() {
    for workers in [1, 8] {
        thousand_invented_ids(pinned().concurrency(workers)).await;
    }
}

async fn thousand_invented_ids(builder: Builder) {
    let world = builder.start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    let others = sessions(20);
    let homes = world.nodes_of(&others).await;
    assert!(world.nodes().iter().all(|node| homes.iter().any(|home| home == node.name())));

    for round in 0..5 {
        let invented = (0..200).map(|number| {
            // Some on connections of their own, so that every worker has some.
            let own = number % 4 == 0;
            let client = if own { Client::new(world.envoy(0).address()) } else { world.client() };
            client.get("/fault/close").header("x-session-id", format!("invented-{round}-{number}"))
        });
        let answers = world.client().send_all(invented.collect()).await;
        assert!(answers.iter().all(|answer| answer.status == 503));
        // Longer than a suspicion waits.
        for _ in 0..4 {
            caught_up(world.envoy(0)).await;
        }
        assert_eq!(world.nodes_of(&others).await, homes, "round {round}");
    }

    assert_eq!(ejections(&world).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_on_a_dead_node_moves_within_three_requests() {
    for (builder, workers) in [(unchecked(), 1), (unchecked(), 8), (pinned(), 1), (pinned(), 8)] {
        let world = builder.concurrency(workers).start().await;
        let owner = owner(&world).await;
        refuse(&world, &owner).await;

        // Each by a connection of its own, so by any worker.
        for _ in 0..3 {
            let client = Client::new(world.envoy(0).address());
            let response = client.get("/").header("x-session-id", "ada").send().await;
            assert_eq!((response.status.as_u16(), shown(&response, "reason")), (200, "retried"));
        }

        nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 2)]).await;
        let asked = (0..40).map(async |_| {
            let client = Client::new(world.envoy(0).address());
            client.get("/").header("x-session-id", "ada").send().await
        });
        for response in join_all(asked).await {
            assert_ne!(response.node(), owner.name());
            assert_ne!(shown(&response, "reason"), "retried");
        }
        assert_eq!(ejections(&world).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_envoy_checks_its_nodes_no_request_that_is_reset_puts_one_out() {
    // With the shipped outlier detection, which ejects for such.
    let world = impatient().concurrency(1).start().await;
    let owner = owner(&world).await;
    let other = fellow(&world, &owner).await;

    for _ in 0..10 {
        for session in ["ada", &other] {
            let response = world.get("/fault/close").header("x-session-id", session).send().await;
            assert_eq!(response.status, 503);
        }
    }
    let ejections = "cluster.nodes.outlier_detection.ejections_enforced_total";
    eventually(async || world.envoy(0).stat(ejections).await > 0, SOON).await;

    // Longer than a suspicion waits.
    for _ in 0..3 {
        still_owns(&world, &owner).await;
    }
}

/// A crash that only one node has, behind a policy that tries such a request again: the answer comes from the next node, and
/// nothing shows why the first one failed.
#[tokio::test(flavor = "multi_thread")]
async fn where_envoy_checks_its_nodes_no_request_that_a_retry_saves_puts_one_out() {
    let builder = impatient().bootstrap(|json| {
        for route in routes(json) {
            route["route"]["retry_policy"]["retry_on"] = "5xx,reset".into();
        }
    });
    let world = builder.concurrency(1).start().await;
    let owner = owner(&world).await;

    // Its checks pass all the time.
    owner.fail(500);
    for _ in 0..10 {
        let response = ask(&world, "ada").await;
        assert_eq!((response.status.as_u16(), shown(&response, "reason")), (200, "retried"));
    }
    owner.serve();

    still_owns(&world, &owner).await;
}

/// As [`unchecked`], with a state cluster.
fn pinned() -> Builder {
    unchecked().state(State::memory())
}

/// Connections to clients are closed at once, not after a second.
fn prompt(builder: Builder) -> Builder {
    builder.bootstrap(|json| manager(json)["delayed_close_timeout"] = "0s".into())
}

/// Their requests may take a third of a second.
fn impatient_routes(builder: Builder) -> Builder {
    builder.bootstrap(|json| {
        routes(json).iter_mut().for_each(|route| route["route"]["timeout"] = "0.3s".into());
    })
}

async fn owner(world: &World) -> std::sync::Arc<Backend> {
    nodes_become(world.envoy(0), &[("active", 3)]).await;
    world.node_named(ask(world, "ada").await.node())
}

async fn still_owns(world: &World, owner: &Backend) {
    caught_up(world.envoy(0)).await;
    caught_up(world.envoy(0)).await;
    let response = ask(world, "ada").await;
    assert_eq!(response.node(), owner.name());
    assert!(["owner", "pin"].contains(&shown(&response, "reason")), "{response:?}");
    assert_eq!(ejections(world).await, 0.0);
}

async fn ejections(world: &World) -> f64 {
    world.envoy(0).metric("berth_passive_ejections_total", &[("pool", "nodes")]).await
}
