//! What the shipped listener takes beside plain HTTP/1.1: WebSockets over HTTP/2, and HTTP/1.0.

use berth_harness::{RawResponse, World, eventually};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{SOON, manager, placing, pool, raw_header, sessions, shown};

#[tokio::test(flavor = "multi_thread")]
async fn websockets_over_http2_open_at_their_sessions_node_and_stay_there() {
    let world = placing(World::builder().nodes(5)).await;
    let keys = sessions(12);
    let nodes = world.nodes_of(&keys).await;

    for (key, node) in keys.iter().zip(&nodes) {
        let by_path = world.get(&format!("/ws/{key}"));
        let by_cookie = world.get("/").header("cookie", "theme=dark").header("cookie", format!("sid={key}"));
        let by_subprotocol = world.get("/").header("sec-websocket-protocol", format!("chat, session.{key}"));
        for request in [by_path, by_cookie, by_subprotocol] {
            let mut socket = request.http2().websocket().await;
            assert_eq!(socket.node(), node);
            for word in ["one", "two", "three"] {
                assert_eq!(socket.echo(word).await.as_deref(), Some(word));
            }
            socket.close().await;
        }
    }
    // What is no WebSocket over HTTP/2 is as its client sent it.
    for http2 in [false, true] {
        let request = world.get("/").header("x-session-id", &keys[0]);
        let answer = if http2 { request.http2().send().await } else { request.send().await };
        assert_eq!(answer.received().header("sec-websocket-key"), None);
    }
    let key = "YSBrZXkgb2YgaXRzIG93bg==";
    let own = world.get(&format!("/ws/{}", keys[0])).header("sec-websocket-key", key).websocket().await;
    let accept = own.headers()["sec-websocket-accept"].to_str().unwrap();
    assert_eq!(accept, derive_accept_key(key.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_without_a_host_needs_a_default_host() {
    const ASK: &[u8] = b"GET /ws/ada HTTP/1.0\r\n\r\n";
    let by_host = |json: &mut Value| pool(json)["match"] = json!({"hosts": ["games.example.com"]});
    let default_host = |json: &mut Value| {
        let options = &mut manager(json)["http_protocol_options"];
        assert_eq!(options["accept_http_10"], true);
        options["default_host_for_http_10"] = "games.example.com".into();
    };
    let with = World::builder().configuration(by_host).bootstrap(default_host).start().await;
    let modern = || with.get("/ws/ada").header("host", "games.example.com").send();
    let placed = async || shown(&modern().await, "reason") == "owner";
    eventually(placed, SOON).await;
    let node = modern().await.node().to_owned();

    let old = with.raw(ASK).await;
    assert!(status_line(&old).ends_with("200 OK"), "{}", status_line(&old));
    assert_eq!(raw_header(&old, "x-node"), Some(node.clone()));
    let named = with.raw(b"GET /ws/ada HTTP/1.0\r\nHost: games.example.com\r\n\r\n").await;
    assert_eq!(raw_header(&named, "x-node"), Some(node));

    let without = placing(World::builder()).await.raw(ASK).await;
    assert!(status_line(&without).ends_with("400 Bad Request"), "{}", status_line(&without));
    assert_eq!(raw_header(&without, "x-node"), None);
}

fn status_line(answer: &RawResponse) -> String {
    String::from_utf8_lossy(&answer.bytes).lines().next().unwrap_or_default().to_owned()
}
