//! Ids that nodes mint: the node that began a session gets all its requests, through every worker of every proxy.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_core::wire::SessionKey;
use berth_harness::{Builder, Client, Envoy, Response, State, World, eventually};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::patience::{impatient, nodes_become};
use crate::support::pinning::{all_see, patiently};
use crate::support::state_away::over;
use crate::support::{SOON, manager, pool, shown};

pub(super) const MCP: &str = "mcp-session-id";
/// So many play at each way of keeping them.
const CLIENTS: usize = 200;

/// Nodes whose ids come in a header or in a cookie.
pub(super) fn learning(builder: Builder) -> Builder {
    builder.configuration(|json| {
        let sources = json!([{"header": MCP, "learn": true}, {"cookie": "JSESSIONID", "learn": true}]);
        pool(json)["session"] = json!({"sources": sources});
    })
}

/// The id that a response names.
#[track_caller]
pub(super) fn id_of(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header(MCP).unwrap_or_else(|| panic!("no id: {answer:?}")).to_owned()
}

/// The cookie that a response sets; empty if it takes it away.
#[track_caller]
fn cookie_of(answer: &Response) -> String {
    let lines = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
    let mut pairs = lines.filter_map(|line| line.split(';').next()?.split_once('='));
    let pair = pairs.find(|(name, _)| *name == "JSESSIONID");
    pair.unwrap_or_else(|| panic!("no cookie: {answer:?}")).1.to_owned()
}

pub(super) fn client(envoy: &Envoy) -> Client {
    Client::new(envoy.address())
}

pub(super) async fn learned(envoy: &Envoy, result: &str) -> f64 {
    envoy.metric("berth_learned_total", &[("pool", "nodes"), ("result", result)]).await
}

/// So many clients of an MCP server, each through all Envoys and over new connections, so that each may be another worker's.
async fn play_mcp(world: &World, clients: usize) {
    let use_it = async |place: usize| {
        let envoys = world.envoys();
        let begins =
            client(&envoys[place % 2]).post(if place.is_multiple_of(3) { "/mcp?sse" } else { "/mcp" }, "{}");
        let first = if place.is_multiple_of(5) { begins.http2().send().await } else { begins.send().await };
        let (id, minter) = (id_of(&first), first.node().to_owned());
        for step in 0..6 {
            let next = client(&envoys[(place + step) % 2]).post("/mcp", "{}").header(MCP, &id).send().await;
            assert_eq!((next.status.as_u16(), next.node()), (200, &*minter), "{id}, step {step}: {next:?}");
        }
        let events = client(&envoys[place % 2]).get("/mcp").header(MCP, &id).send().await;
        assert_eq!(events.body, format!("data: {minter}\n\ndata: {minter}\n\n"));
        let end = client(&envoys[(place + 1) % 2]).request(Method::DELETE, "/mcp").header(MCP, &id);
        assert_eq!(end.send().await.status, 200);
    };
    for chunk in (0..clients).collect::<Vec<_>>().chunks(20) {
        join_all(chunk.iter().map(|place| use_it(*place))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_an_mcp_client_reaches_the_node_that_began_its_session() {
    let state = State::redis().flag("--store-timeout", "4s");
    let world = learning(patiently(impatient().nodes(4).envoys(2), state)).start().await;
    all_see(&world, &[("active", 4)]).await;

    play_mcp(&world, CLIENTS).await;

    let counted = async || {
        let mut pinned = 0.0;
        for envoy in world.envoys() {
            pinned += learned(envoy, "pinned").await;
        }
        if pinned == CLIENTS as f64 { Ok(()) } else { Err(format!("{pinned} are pinned")) }
    };
    eventually(counted, SOON).await;
    for envoy in world.envoys() {
        assert_eq!(learned(envoy, "state_away").await + learned(envoy, "elsewhere").await, 0.0);
    }
}

/// What Envoy has for the same: it writes the node into the id that the client gets, and needs no state cluster.
#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_envelope_keeps_every_mcp_client_too_and_tells_it_its_node() {
    let envelope = |json: &mut Value| {
        let config = "type.googleapis.com/envoy.extensions.";
        let state = json!({
            "name": "envoy.http.stateful_session.envelope",
            "typed_config": {
                "@type": format!("{config}http.stateful_session.envelope.v3.EnvelopeSessionState"),
                "header": {"name": MCP},
            },
        });
        let filter = json!({
            "name": "envoy.filters.http.stateful_session",
            "typed_config": {
                "@type": format!("{config}filters.http.stateful_session.v3.StatefulSession"),
                "session_state": state,
            },
        });
        manager(json)["http_filters"].as_array_mut().unwrap().insert(0, filter);
    };
    let checks = World::builder().health_interval(Duration::from_millis(200));
    let world = checks.filter(false).nodes(4).envoys(2).bootstrap(envelope).start().await;
    for envoy in world.envoys() {
        eventually(async || envoy.stat("cluster.nodes_sessionless.membership_healthy").await == 4, SOON)
            .await;
    }

    play_mcp(&world, CLIENTS).await;

    let first = world.client().post("/mcp", "{}").send().await;
    let (host, _) = id_of(&first).split_once(';').map(|(host, id)| (host.to_owned(), id.to_owned())).unwrap();
    assert_eq!(STANDARD.decode(host).unwrap(), first.node().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_session_is_one_whatever_its_container_appends() {
    let sources = json!([
        {"cookie": "JSESSIONID", "until": ".", "learn": true}, {"matrix": "jsessionid", "until": "."}
    ]);
    let learns = move |json: &mut Value| pool(json)["session"] = json!({"sources": sources});
    let builder = patiently(impatient().nodes(4).envoys(2), State::memory()).configuration(learns);
    let world = builder.start().await;
    all_see(&world, &[("active", 4)]).await;
    let envoys = world.envoys();

    for place in 0..20 {
        let first = client(&envoys[place % 2]).get("/app").header("x-jvm-route", "node1").send().await;
        let (cookie, minter) = (cookie_of(&first), first.node().to_owned());
        let id = cookie.strip_suffix(".node1").unwrap_or_else(|| panic!("{cookie}"));
        let asks = [
            client(&envoys[place % 2]).get("/app").header("cookie", format!("JSESSIONID={cookie}")),
            client(&envoys[(place + 1) % 2]).get("/app").header("cookie", format!("JSESSIONID={id}.node2")),
            client(&envoys[(place + 1) % 2]).get(&format!("/app;jsessionid={id}.node3")),
        ];
        for ask in asks {
            let next = ask.send().await;
            assert_eq!((next.header("x-known"), next.node()), (Some("yes"), &*minter), "{id}: {next:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_session_keeps_its_node_when_it_gets_another_id_at_login() {
    let world = learning(patiently(impatient().nodes(4).envoys(2), State::memory())).start().await;
    all_see(&world, &[("active", 4)]).await;
    let envoys = world.envoys();

    for place in 0..20 {
        let first = client(&envoys[place % 2]).get("/app").send().await;
        let (anonymous, minter) = (cookie_of(&first), first.node().to_owned());
        assert_eq!(shown(&first, "reason"), "learned");
        let with = |step: usize, path: &str, id: &str| {
            client(&envoys[step % 2]).get(path).header("cookie", format!("a=b; JSESSIONID={id}")).send()
        };
        let next = with(place + 1, "/app", &anonymous).await;
        assert_eq!((next.header("x-known"), next.node()), (Some("yes"), &*minter));
        let login = with(place, "/app/login", &anonymous).await;
        let user = cookie_of(&login);
        assert_ne!(user, anonymous);
        for step in 0..4 {
            let next = with(place + step, "/app", &user).await;
            assert_eq!((next.header("x-known"), next.node()), (Some("yes"), &*minter), "step {step}");
        }
        let logout = with(place + 1, "/app/logout", &user).await;
        assert_eq!((cookie_of(&logout).as_str(), shown(&logout, "reason")), ("", "pin"));
        // A node begins another session for an id that it does not know, and keeps it.
        let again = with(place, "/app", "unknown").await;
        let next = with(place + 1, "/app", &cookie_of(&again)).await;
        assert_eq!((next.header("x-known"), next.node()), (Some("yes"), again.node()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_state_cluster_a_response_waits_no_longer_than_a_call_and_is_claimed_later() {
    let fake = FakeState::start().await;
    let world = learning(over(&fake)).concurrency(1).nodes(4).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let warm = client(world.envoy(0)).post("/mcp", "{}").send().await;
    id_of(&warm);

    fake.set_call(Call::Resolve, Reply::Silence);
    let first = client(world.envoy(0)).post("/mcp", "{}").within(Duration::from_secs(2)).send().await;
    let (id, minter) = (id_of(&first), first.node().to_owned());
    eventually(async || learned(world.envoy(0), "state_away").await >= 1.0, SOON).await;
    let next = client(world.envoy(0)).post("/mcp", "{}").header(MCP, &id).send().await;
    assert_eq!((next.status.as_u16(), next.node()), (200, &*minter), "this worker remembers");

    fake.set_call(Call::Resolve, Reply::Proper);
    let key = SessionKey::new("nodes", id.as_bytes()).to_string();
    let is_it = |ask: &&Value| ask["key"] == *key && ask["candidates"] == json!([minter]);
    fake.forget();
    let claimed = async || {
        fake.resolves().iter().any(|call| call["sessions"].as_array().unwrap().iter().any(|ask| is_it(&ask)))
    };
    eventually(claimed, SOON).await;
    let next = client(world.envoy(0)).post("/mcp", "{}").header(MCP, &id).send().await;
    assert_eq!((next.status.as_u16(), next.node()), (200, &*minter));
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_of_every_kind_go_on_once_their_session_is_claimed() {
    let fake = FakeState::start().await;
    let patient = over(&fake).configuration(|json| json["state"]["timeout"] = "5s".into());
    let world = learning(patient).concurrency(1).nodes(4).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    fake.set_call(Call::Resolve, Reply::Late(Duration::from_millis(100)));
    let kinds = [
        (Method::GET, "/"),
        (Method::HEAD, "/"),
        (Method::POST, "/"),
        (Method::POST, "/mcp?sse"),
        (Method::GET, "/eof"),
    ];
    for http2 in [false, true] {
        for (method, path) in &kinds {
            let request = world.request(method.clone(), path).header("x-mint", "1");
            let answer = if http2 { request.http2().send().await } else { request.send().await };
            let known = world.get("/mcp").header(MCP, id_of(&answer)).send().await;
            assert_eq!((known.status.as_u16(), known.node()), (200, answer.node()), "{method} {path}");
        }
    }
    let mut socket = world.get("/ws").header("x-mint", "1").websocket().await;
    assert!(socket.headers().contains_key(MCP));
    assert_eq!(socket.echo("after the hold").await.as_deref(), Some("after the hold"));
    socket.close().await;
    world.nodes().iter().for_each(|node| node.fail(503));
    let failed = world.get("/").header("x-mint", "1").send().await;
    assert!(failed.status == 503 && failed.headers.contains_key(MCP), "{failed:?}");
    world.nodes().iter().for_each(|node| node.serve());

    // Clients that do not wait, and nodes that break off while their responses are held.
    let hasty = (0..50).map(|_| {
        let request = client(world.envoy(0)).get("/").header("x-mint", "1");
        request.within(Duration::from_millis(30)).try_send()
    });
    let broken = (0..10).map(|_| client(world.envoy(0)).get("/fault/cut").header("x-mint", "1").try_send());
    let _ends_of_all = (join_all(hasty).await, join_all(broken).await);
    let answer = world.get("/").header("x-mint", "1").send().await;
    id_of(&answer);
    let held = async || world.envoy(0).stat("http.ingress.downstream_rq_active").await == 0;
    eventually(held, SOON).await;
}
