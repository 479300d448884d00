//! Where a session's id may stand in a request, and what is no id: always the same node for the same id.

use crate::support::patience::caught_up;
use crate::support::{SHIPPED_RING, owners, placing, pool, quick, sessions, shown};
use berth_harness::{Builder, Request, Response, World};
use serde_json::json;

/// The places of the shipped configuration, in its order.
fn places_of(world: &World, id: &str) -> [Request; 4] {
    [
        world.get("/").header("x-session-id", id),
        world.get("/").header("cookie", format!("theme=dark; sid={id}; lang=en")),
        world.get(&format!("/ws/{id}/events?page=2")),
        world.get(&format!("/play?page=2&sid={id}")),
    ]
}

/// A world whose only session has this header, once its members are known.
async fn placing_by(builder: Builder, name: &str, value: &str) -> World {
    let world = quick(builder).start().await;
    let placed = async || {
        let answer = world.get("/").header(name, value).send().await;
        shown(&answer, "reason") == "owner"
    };
    berth_harness::eventually(placed, crate::support::SOON).await;
    caught_up(world.envoy(0)).await;
    world
}

/// Sessions on three different nodes.
async fn on_three_nodes(world: &World) -> [(String, String); 3] {
    let keys = sessions(100);
    let mut found: Vec<(String, String)> = Vec::new();
    for (key, node) in keys.iter().zip(world.nodes_of(&keys).await) {
        if found.iter().all(|(_, other)| *other != node) {
            found.push((key.clone(), node));
        }
    }
    found.truncate(3);
    found.try_into().expect("sessions on three nodes")
}

#[track_caller]
fn assert_sessionless(answer: &Response) {
    assert_eq!(answer.status, 200);
    assert_eq!((shown(answer, "outcome"), shown(answer, "reason")), ("sessionless", "no_session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_reaches_one_node_from_every_place() {
    let world = placing(World::builder().nodes(5)).await;

    for id in sessions(20) {
        let mut nodes = Vec::new();
        for request in places_of(&world, &id) {
            let answer = request.send().await;
            assert_eq!(shown(&answer, "outcome"), "ring");
            assert_eq!(shown(&answer, "node"), answer.node());
            nodes.push(answer.node().to_owned());
        }
        let offered = format!("chat, session.{id}");
        let socket = world.get("/").header("sec-websocket-protocol", offered).websocket().await;
        nodes.push(socket.node().to_owned());

        assert!(nodes.iter().all(|node| *node == nodes[0]), "{id}: {nodes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_place_with_an_id_wins() {
    let world = placing(World::builder().nodes(5)).await;
    let [(a, node_a), (b, node_b), (c, node_c)] = on_three_nodes(&world).await;

    let both = world.get(&format!("/ws/{c}?sid={c}")).header("cookie", format!("sid={b}"));
    assert_eq!(both.clone().header("x-session-id", &a).send().await.node(), node_a);
    assert_eq!(both.clone().header("x-session-id", "").send().await.node(), node_b);
    assert_eq!(both.clone().header("x-session-id", " \t ").send().await.node(), node_b);
    assert_eq!(both.header("x-session-id", "x".repeat(513)).send().await.node(), node_b);

    let no_cookie = world.get(&format!("/ws/{c}?sid={a}")).header("cookie", "sid=; theme=dark");
    assert_eq!(no_cookie.send().await.node(), node_c);
    let no_segment = world.get(&format!("/ws/?sid={a}")).header("sec-websocket-protocol", "session.b");
    assert_eq!(no_segment.send().await.node(), node_a);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_taken_as_they_are_written_and_decoded_where_that_is_asked_for() {
    for decodes in [false, true] {
        let builder = World::builder().nodes(5).configuration(move |json| {
            for source in pool(json)["session"]["sources"].as_array_mut().unwrap() {
                source["decode"] = decodes.into();
            }
        });
        let world = placing(builder).await;
        for number in 0..10 {
            let written = format!("s%3Aa%20b%2F{number}%C3%BC");
            let id = if decodes { format!("s:a b/{number}ü") } else { written.clone() };
            let owner = owners(&world, SHIPPED_RING, &[id]).remove(0);

            for request in places_of(&world, &written) {
                let answer = request.send().await;
                assert_eq!(answer.node(), owner, "{written}: {:?}", answer.received().path);
            }
            let path = format!("/w%73/{written}?x=1");
            let answer = world.get(&path).send().await;
            assert_eq!((answer.node(), answer.received().path), (&*owner, path), "sent on as it was");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_ends_at_a_semicolon_and_its_quotes_go() {
    let world = placing(World::builder().nodes(5)).await;

    for number in 0..10 {
        let id = format!("v={number},u=alice");
        let owner = owners(&world, SHIPPED_RING, &[&id]).remove(0);
        for cookie in
            [format!("sid={id}"), format!("a=b; sid=\"{id}\""), format!("prefs=a,sid=evil; sid={id}; x=y")]
        {
            assert_eq!(world.get("/").header("cookie", &cookie).send().await.node(), owner, "{cookie}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_the_same_with_every_suffix_and_as_a_matrix_parameter() {
    let builder = World::builder().nodes(5).configuration(|json| {
        pool(json)["session"]["sources"] = json!([
            {"cookie": "JSESSIONID", "until": "."},
            {"matrix": "jsessionid", "until": "."}
        ]);
    });
    let world = placing_by(builder, "cookie", "JSESSIONID=probe").await;

    for number in 0..10 {
        let owner = owners(&world, SHIPPED_RING, &[format!("ABC{number}")]).remove(0);
        for suffix in ["", ".node1", ".node2", ".a.b"] {
            let cookie = format!("a=1; JSESSIONID=ABC{number}{suffix}");
            assert_eq!(world.get("/").header("cookie", &cookie).send().await.node(), owner, "{cookie}");
            let path = format!("/shop/cart;jsessionid=ABC{number}{suffix}?x=1");
            assert_eq!(world.get(&path).send().await.node(), owner, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_and_user_name_a_session_together() {
    let composite = json!([{"all": [{"header": "x-tenant"}, {"cookie": "sid"}]}]);
    let world = World::builder().nodes(5).configuration(move |json| {
        json["debug_header"] = true.into();
        pool(json)["session"]["sources"] = composite.clone();
    });
    let world = crate::support::quick(world).start().await;
    let send = async |tenant: &str, user: &str| {
        let request = world.get("/").header("x-tenant", tenant).header("cookie", format!("sid={user}"));
        request.send().await
    };
    berth_harness::eventually(
        async || shown(&send("a", "b").await, "reason") == "owner",
        crate::support::SOON,
    )
    .await;

    let (mut moved, mut moved_by_cut) = (0, 0);
    for user in 0..40 {
        let (red, blue) = (send("red", &user.to_string()).await, send("blue", &user.to_string()).await);
        assert_eq!(send("red", &user.to_string()).await.node(), red.node());
        moved += usize::from(red.node() != blue.node());
        // The same characters, cut elsewhere.
        let (one, other) = (send(&format!("t{user}"), "u").await, send("t", &format!("{user}u")).await);
        moved_by_cut += usize::from(one.node() != other.node());
    }

    // By chance a fifth stays.
    assert!(moved > 20, "{moved} of 40 users are elsewhere for another tenant");
    assert!(moved_by_cut > 20, "{moved_by_cut} of 40 pairs are at different nodes");
    assert_sessionless(&world.get("/").header("x-tenant", "red").send().await);
    assert_sessionless(&world.get("/").header("cookie", "sid=1").send().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn offered_subprotocols_reach_the_node_and_the_websocket_works() {
    let world = placing(World::builder().nodes(5)).await;

    for id in sessions(5) {
        let home = world.nodes_of(&[&id]).await.remove(0);
        for (offered, chosen) in [
            (format!("session.{id}, chat"), format!("session.{id}")),
            (format!("chat.v2,session.{id}"), "chat.v2".to_owned()),
        ] {
            // The node accepts the first that it is offered.
            let request = world.get("/").header("sec-websocket-protocol", &offered);
            let mut socket = request.clone().websocket().await;
            assert_eq!((socket.node(), socket.protocol()), (home.as_str(), Some(chosen.as_str())));
            assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));

            let received = request.send().await.received();
            assert_eq!(received.header("sec-websocket-protocol"), Some(offered.as_bytes()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_id_is_none() {
    let world = placing(World::builder().nodes(5)).await;
    let longest = "x".repeat(512);
    let at_home = world.nodes_of(&[&longest]).await.remove(0);
    let before = world.envoy(0).metric("berth_requests_total", &[("outcome", "sessionless")]).await;

    assert_eq!(world.get(&format!("/?sid={longest}")).send().await.node(), at_home);
    let too_long = "x".repeat(513);
    let mut refused = places_of(&world, &too_long).to_vec();
    refused.push(world.get("/").header("sec-websocket-protocol", format!("session.{too_long}")));
    refused.push(world.get("/ws/"));
    refused.push(world.get("/?sid="));
    refused.push(world.get("/").header("x-session-id", "a\tb"));
    let count = refused.len();
    for request in refused {
        assert_sessionless(&request.send().await);
    }

    let counted = async || world.envoy(0).metric("berth_requests_total", &[("outcome", "sessionless")]).await;
    berth_harness::eventually(async || counted().await == before + count as f64, crate::support::SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_of_repeated_headers_and_cookies_names_the_session() {
    let world = placing(World::builder().nodes(5)).await;
    let [(a, node_a), (b, node_b), _] = on_three_nodes(&world).await;

    for http2 in [false, true] {
        let get = || if http2 { world.get("/").http2() } else { world.get("/") };

        let headers = get().header("x-session-id", &b).header("x-session-id", &a);
        assert_eq!(headers.send().await.node(), node_b, "HTTP/2: {http2}");
        let in_one = get().header("cookie", format!("sid={b}; theme=dark; sid={a}"));
        assert_eq!(in_one.send().await.node(), node_b, "HTTP/2: {http2}");
        let cookies = get().header("cookie", format!("sid={b}")).header("cookie", format!("sid={a}"));
        assert_eq!(cookies.send().await.node(), node_b, "HTTP/2: {http2}");
    }

    // HTTP/2 lets a client split its cookies (RFC 9113, section 8.2.3), and Envoy joins them. Over HTTP/1.1 it does not.
    for http2 in [false, true] {
        let get = || if http2 { world.get("/").http2() } else { world.get("/") };
        let split = get().header("cookie", "theme=dark").header("cookie", format!("sid={a}"));
        assert_eq!(split.send().await.node(), node_a, "HTTP/2: {http2}");
        let offered = get().header("sec-websocket-protocol", "chat");
        let offered = offered.header("sec-websocket-protocol", format!("session.{b}"));
        assert_eq!(offered.send().await.node(), node_b, "HTTP/2: {http2}");
        let none = get().header("cookie", "theme=dark").header("cookie", "lang=en");
        assert_sessionless(&none.send().await);
    }
}
