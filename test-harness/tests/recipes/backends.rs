//! Recipes by kind of backend: games, collaborative editing, MCP, LLM chat, gRPC.

use berth_harness::{Builder, Client, Request, World, eventually};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::Value;

use crate::page::Page;
use crate::story::{homes, looked_again, running, settled, soon_idle, survives};
use crate::support::patience::cluster;
use crate::support::{SOON, sessions, shown};

const MCP: &str = "mcp-session-id";

fn client(world: &World, number: usize) -> Client {
    Client::new(world.envoy(number % 2).address())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_players_of_a_match_meet_at_one_server_also_after_it_died() {
    let page = Page::open("games.md");
    let world = soon_idle(running(page.plugin()), page.envoy(0)).start().await;
    settled(&world, "games", &[("active", 4)]).await;
    let matches = sessions(12);
    let join = async |game: &String| {
        let by_path =
            join_all((0..2).map(|player| {
                client(&world, player).get(&format!("/match/{game}?player={player}")).websocket()
            }));
        let protocol = format!("chat, match.{game}");
        let by_protocol =
            client(&world, 1).get("/play").header("sec-websocket-protocol", protocol).websocket();
        let mut players = by_path.await;
        players.push(by_protocol.await);
        assert!(players.iter().all(|player| player.node() == players[0].node()), "{game}: {players:?}");
        players
    };
    let mut open = Vec::new();
    for game in &matches {
        open.push(join(game).await);
    }

    let new = world.add_node().await;
    settled(&world, "games", &[("active", 5)]).await;
    for (game, players) in matches.iter().zip(&open) {
        assert_eq!(join(game).await[0].node(), players[0].node(), "a late player of {game}");
    }
    let score = |client: &Client, game: &str| client.get(&format!("/match/{game}/score"));
    let fresh: Vec<String> = (0..40).map(|number| format!("fresh-{number}")).collect();
    let fresh = homes(&world, &fresh, score).await;
    assert!(fresh.iter().any(|node| node == new.name()), "new matches begin at the new server too");

    let dead = world.node_named(open[0][0].node());
    dead.refuse().await;
    settled(&world, "games", &[("active", 4), ("cooldown", 1)]).await;
    for (game, players) in matches.iter().zip(&mut open) {
        let alive = players[0].echo("move").await;
        if players[0].node() == dead.name() {
            assert_eq!(alive, None);
            let notice = score(&client(&world, 0), game).send().await.received();
            let notice = String::from_utf8_lossy(notice.header("x-berth-session").unwrap()).into_owned();
            assert!(notice.starts_with(&format!("rehomed; from={}", dead.name())), "{notice}");
            assert_ne!(join(game).await[0].node(), dead.name());
        } else {
            assert_eq!(alive.as_deref(), Some("move"), "{game} is at another server");
        }
    }
    let lost = client(&world, 0).get("/play").send().await;
    assert_eq!((lost.status.as_u16(), shown(&lost, "reason")), (400, "no_session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_one_for_editors_and_api_however_its_name_is_written() {
    let page = Page::open("collaboration.md");
    let world = soon_idle(running(page.plugin()), page.envoy(0)).start().await;
    settled(&world, "rooms", &[("active", 4)]).await;
    let mut reader = world.get("/rooms/Plan").websocket().await;

    for number in 0..10 {
        let editor = client(&world, number).get(&format!("/rooms/Plan%20{number}")).websocket().await;
        let paths = [format!("/api/rooms/Plan%20{number}/export"), format!("/rooms/%50lan%20{number}?v=2")];
        for path in paths {
            let other = client(&world, number + 1).get(&path).send().await;
            assert_eq!((other.node(), shown(&other, "reason")), (editor.node(), "pin"), "{path}");
        }
    }
    let list = world.get("/api/rooms").send().await;
    assert_eq!((list.status.as_u16(), shown(&list, "reason")), (200, "no_session"));

    let rooms = sessions(30);
    let export = |client: &Client, room: &str| client.get(&format!("/api/rooms/{room}/export"));
    let before = homes(&world, &rooms, export).await;
    let drained = before[0].clone();
    world.state(0).operate(&["drain", &drained, "--pool", "rooms"]).await.unwrap();
    settled(&world, "rooms", &[("active", 3), ("draining", 1)]).await;
    assert_eq!(homes(&world, &rooms, export).await, before, "rooms of a drained server stay");
    let fresh: Vec<String> = (0..30).map(|number| format!("fresh-{number}")).collect();
    let fresh = homes(&world, &fresh, export).await;
    assert!(!fresh.contains(&drained), "new rooms begin elsewhere");
    assert_eq!(reader.echo("an edit").await.as_deref(), Some("an edit"), "after seconds without one");
}

/// The id that an MCP server answers with, and the server.
async fn initialize(client: &Client) -> (String, String) {
    let answer = client.post("/mcp", "{}").send().await;
    let id = answer.header(MCP).unwrap_or_else(|| panic!("no id: {answer:?}"));
    (id.to_owned(), answer.node().to_owned())
}

fn call(client: &Client, id: &str) -> Request {
    client.post("/mcp", "{}").header(MCP, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_sessions_stay_with_the_server_that_named_them_until_it_dies() {
    let world = running(Page::open("mcp.md").plugin()).start().await;
    settled(&world, "mcp", &[("active", 4)]).await;
    let mut begun = Vec::new();
    for number in 0..12 {
        begun.push(initialize(&client(&world, number)).await);
    }
    let all_known = async |but: &str| {
        for (number, (id, server)) in begun.iter().enumerate().filter(|(_, (_, server))| server != but) {
            let answer = call(&client(&world, number + 1), id).send().await;
            assert_eq!((answer.status.as_u16(), answer.node()), (200, &**server), "{answer:?}");
        }
    };
    all_known("").await;
    world.add_node().await;
    settled(&world, "mcp", &[("active", 4), ("warming", 1)]).await;
    all_known("").await;

    let index = world.nodes().iter().position(|node| node.name() == begun[0].1).unwrap();
    world.set_eds_health(index, "DRAINING").await;
    settled(&world, "mcp", &[("draining", 1)]).await;
    all_known("").await;
    for number in 0..8 {
        assert_ne!(initialize(&client(&world, number)).await.1, begun[0].1, "it is draining");
    }

    let dead = world.node(index);
    dead.refuse().await;
    settled(&world, "mcp", &[("cooldown", 1)]).await;
    all_known(dead.name()).await;
    let lost = call(&client(&world, 0), &begun[0].0).send().await;
    assert_eq!(lost.status, 404, "{lost:?}");
    let (id, server) = initialize(&client(&world, 0)).await;
    let again = call(&client(&world, 1), &id).send().await;
    assert_eq!((again.status.as_u16(), again.node()), (200, &*server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_stays_with_its_cache_and_a_full_server_gets_no_new_ones() {
    let page = Page::open("llm-chat.md");
    let world = soon_idle(running(page.plugin()), page.envoy(0)).start().await;
    settled(&world, "chat", &[("active", 4)]).await;
    let turn = |client: &Client, id: &str| {
        client.post("/v1/chat/completions", r#"{"stream": true}"#).header("x-conversation-id", id)
    };
    let conversations = sessions(30);
    let before = homes(&world, &conversations, turn).await;
    // A stream of tokens.
    let stream =
        world.client().post("/mcp?sse", "{}").header("x-conversation-id", &conversations[0]).send().await;
    assert_eq!(stream.body, format!("data: {0}\n\ndata: {0}\n\n", before[0]));

    let full = world.node_named(&before[0]);
    full.set_headers(&[("x-envoy-degraded", "true")]);
    settled(&world, "chat", &[("active", 3), ("degraded", 1)]).await;
    assert_eq!(homes(&world, &conversations, turn).await, before, "a full server keeps its conversations");
    let fresh: Vec<String> = (0..30).map(|number| format!("fresh-{number}")).collect();
    assert!(!homes(&world, &fresh, turn).await.contains(&before[0]), "and gets no new ones");
    full.fail(429);
    let refused = turn(&world.client(), &conversations[0]).send().await;
    assert_eq!((refused.status.as_u16(), refused.node()), (429, full.name()), "the client receives it");
    full.slow(2500);
    let late = turn(&world.client(), &conversations[0]).send().await;
    assert_eq!((late.status.as_u16(), late.node()), (200, full.name()), "a long prompt");
    full.serve();
    full.set_headers(&[]);

    survives(&world, ("chat", "warming"), &conversations, turn).await;
}

/// Nodes that speak HTTP/2 only, as gRPC servers do.
async fn grpc_nodes() -> World {
    let page = Page::open("grpc.md");
    let (options, check) = (page.envoy(0), page.envoy(1));
    let world = before_grpc_nodes(running(page.plugin()), options, check).start().await;
    for node in world.nodes() {
        node.refuse_http1();
    }
    for envoy in world.envoys() {
        looked_again(envoy, "grpc").await;
    }
    settled(&world, "grpc", &[("active", 4)]).await;
    world
}

fn before_grpc_nodes(builder: Builder, options: Value, check: Value) -> Builder {
    builder.bootstrap(move |json| {
        for name in ["nodes", "nodes_sessionless"] {
            let nodes = cluster(json, name);
            nodes.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            for checks in nodes["health_checks"].as_array_mut().unwrap() {
                let checks = checks.as_object_mut().unwrap();
                checks.remove("http_health_check");
                checks.extend(check.as_object().unwrap().clone());
            }
        }
    })
}

fn grpc_call(client: &Client, id: &str) -> Request {
    client.grpc("/game.World/Move", b"north").header("x-session-id", id)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_of_one_channel_each_reach_their_sessions_node() {
    let world = grpc_nodes().await;

    let answer = grpc_call(&world.client(), "ada").send().await;
    assert_eq!(
        answer.trailers.get("grpc-status").map(|status| status.as_bytes()),
        Some(&b"0"[..]),
        "{answer:?}"
    );
    survives(&world, ("grpc", "warming"), &sessions(30), grpc_call).await;
    let other = world.request(Method::GET, "/").http2().send().await;
    assert_eq!(shown(&other, "reason"), "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_of_a_dead_node_end_as_unavailable_or_with_a_reset_once_they_are_answered() {
    let world = grpc_nodes().await;
    let node = world.node_named(grpc_call(&world.client(), "ada").send().await.node());
    let [answered, unanswered] = ["/fault/open", "/fault/hang"].map(|path| {
        let stream = world.client().grpc(path, b"north").header("x-session-id", "ada");
        tokio::spawn(stream.try_send())
    });
    // The call before, and the beginning of the stream.
    let begun = async || world.envoy(0).stat("cluster.nodes.upstream_rq_2xx").await == 2;
    eventually(begun, SOON).await;
    eventually(async || node.requests() == 3, SOON).await;

    node.refuse().await;

    // Older Envoys reset it with NO_ERROR, which hyper takes for the end of the body.
    let answered = answered.await.unwrap();
    let status = answered.as_ref().ok().and_then(|answer| answer.trailers.get("grpc-status"));
    assert_eq!(status, None, "{answered:?}");
    let answer = unanswered.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("14")), "{answer:?}");
    let again = grpc_call(&world.client(), "ada").send().await;
    assert_ne!(again.node(), node.name());
}
