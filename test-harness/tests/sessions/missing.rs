//! Requests without a session: any node serves them, they begin one, or they are refused. The operator decides.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{placing, pool, sessions, shown};
use berth_harness::{Client, Response, World};
use futures_util::{StreamExt, stream};
use hyper::Method;
use serde_json::json;

/// Requests under way at once.
const CONCURRENCY: usize = 20;

async fn send_many(world: &World, count: usize) -> Vec<Response> {
    stream::iter(0..count).map(|_| world.get("/").send()).buffer_unordered(CONCURRENCY).collect().await
}

/// The same, each on a connection of its own: sessions that begin on one connection have one place.
async fn begin_many(world: &World, count: usize) -> Vec<Response> {
    let begin = |_| Client::new(world.envoy(0).address()).get("/").send();
    stream::iter(0..count).map(begin).buffer_unordered(CONCURRENCY).collect().await
}

fn shares(answers: &[Response]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    answers.iter().for_each(|answer| *shares.entry(answer.node()).or_default() += 1);
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn pass_balances_over_all_nodes_by_their_load() {
    let world = placing(World::builder().nodes(3)).await;

    let answers = send_many(&world, 300).await;
    assert!(answers.iter().all(|answer| shown(answer, "outcome") == "sessionless"));
    assert!(answers.iter().all(|answer| answer.header("set-cookie").is_none()));
    let even = shares(&answers);
    assert!(even.len() == 3 && even.values().all(|share| *share > 50), "{even:?}");

    // A busy node gets less: it is always the worse of two choices. It is busy for longer than all of this takes.
    world.node(0).slow(6_000);
    let answers = send_many(&world, 300).await;
    let uneven = shares(&answers);
    let busy = uneven.get(world.node(0).name()).copied().unwrap_or(0);
    assert!(busy < 50, "{busy} of 300 to the busy one: {uneven:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn issued_cookie_begins_a_session_that_stays() {
    let world = World::builder().nodes(5).configuration(|json| {
        pool(json)["session"]["missing"] = json!({"issue_cookie": {
            "name": "sid", "path": "/play", "max_age": "2h", "secure": true, "http_only": true, "same_site": "none",
        }});
    });
    let world = placing(world).await;

    let mut ids = BTreeSet::new();
    let answers = begin_many(&world, 1000).await;
    for answer in &answers {
        assert_eq!((shown(answer, "outcome"), shown(answer, "reason")), ("ring", "issued"));
        let cookies: Vec<&str> =
            answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
        let [cookie] = cookies[..] else { panic!("{cookies:?}") };
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/play; Max-Age=7200; SameSite=None; Secure; HttpOnly");
        let id = pair.strip_prefix("sid=").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 1000, "no id twice");
    assert!(shares(&answers).values().all(|share| *share > 100), "{:?}", shares(&answers));
    // Each bit is random: no bit is the same in all ids, and about half of all bits are set.
    let numbers: Vec<u128> = ids.iter().map(|id| u128::from_str_radix(id, 16).unwrap()).collect();
    assert_eq!(numbers.iter().fold(0, |all, number| all | number), u128::MAX);
    assert_eq!(numbers.iter().fold(u128::MAX, |all, number| all & number), 0);
    let ones: u32 = numbers.iter().map(|number| number.count_ones()).sum();
    assert!((60_000..68_000).contains(&ones), "{ones} of 128,000 bits");

    for answer in &answers[..50] {
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        for _ in 0..2 {
            let next = world.get("/play").header("cookie", format!("theme=dark; {cookie}")).send().await;
            assert_eq!((next.node(), shown(&next, "reason")), (answer.node(), "owner"));
            // A worker that has not set it yet does.
            assert!(next.header("set-cookie").is_none_or(|set| set.starts_with(cookie)), "it has one");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issued_cookie_comes_with_websockets_and_beside_the_nodes_own() {
    let world = World::builder()
        .nodes(5)
        .configuration(|json| pool(json)["session"]["missing"] = json!({"issue_cookie": {"name": "sid"}}));
    let world = placing(world).await;

    let socket = world.get("/chat").websocket().await;
    let cookie = socket.headers()["set-cookie"].to_str().unwrap();
    let pair = cookie.strip_suffix("; Path=/; SameSite=Lax; HttpOnly").unwrap_or_else(|| panic!("{cookie}"));
    let again = world.get("/chat").header("cookie", pair).websocket().await;
    assert_eq!(again.node(), socket.node());

    world.nodes().iter().for_each(|node| node.set_headers(&[("set-cookie", "theme=dark")]));
    let answer = world.get("/").send().await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reject_says_where_the_session_is_expected() {
    let world = World::builder().configuration(|json| pool(json)["session"]["missing"] = "reject".into());
    let world = placing(world).await;
    let requests = || world.nodes().iter().map(|node| node.requests()).sum::<u64>();
    let before = requests();

    let answer = world.get("/").send().await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    for source in ["header x-session-id", "cookie sid", "/ws/{session}", "parameter sid", "session.<id>"] {
        assert!(body.contains(source), "{source:?} is missing in {body:?}");
    }
    assert_eq!((shown(&answer, "outcome"), shown(&answer, "reason")), ("rejected", "no_session"));
    assert_eq!(world.get("/").try_websocket().await.unwrap_err(), 400);
    assert_eq!(world.client().post("/", "x".repeat(100_000)).send().await.status, 400);

    // A gRPC client reads grpc-status, not the HTTP status: INTERNAL is what 400 means to it.
    let call = world.client().grpc("/berth.Test/Echo", b"hello").send().await;
    assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("13")));
    assert!(call.header("grpc-message").unwrap().contains("names no session"), "{call:?}");

    assert_eq!(requests(), before, "no node received a request");
    let nodes = world.nodes_of(&sessions(20)).await;
    assert_eq!(world.nodes_of(&sessions(20)).await, nodes, "sessions are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_request_is_sessionless_whatever_becomes_of_others() {
    for missing in [json!("reject"), json!({"issue_cookie": {"name": "sid"}})] {
        let is_rejected = missing == "reject";
        let builder =
            World::builder().configuration(move |json| pool(json)["session"]["missing"] = missing.clone());
        let world = placing(builder).await;
        let options = || world.request(Method::OPTIONS, "/").header("origin", "https://example.com");

        let preflight = options().header("access-control-request-method", "POST").send().await;
        assert_eq!((preflight.status.as_u16(), shown(&preflight, "outcome")), (200, "sessionless"));
        assert_eq!(preflight.header("set-cookie"), None);
        let other = options().send().await;
        assert_eq!((other.status == 400, other.header("set-cookie").is_some()), (is_rejected, !is_rejected));
    }
}
