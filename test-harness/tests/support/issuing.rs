//! Browsers that begin: several requests at once, without a cookie.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use berth_harness::{Builder, Client, Response, World};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::pool;

/// Ids of one connection share a place for so long.
const SHARED: Duration = Duration::from_secs(2);

/// How a browser sends its first requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// At once, on one HTTP/2 connection.
    AtOnce,
    /// One after the other, on one HTTP/1.1 connection.
    OneByOne,
}

/// Berth issues this cookie, which nothing else names.
pub(crate) fn issuing(builder: Builder, cookie: Value) -> Builder {
    builder.configuration(move |json| {
        pool(json)["session"] = json!({"sources": [{"cookie": "sid"}], "missing": {"issue_cookie": cookie}});
    })
}

/// A browser with no connection yet.
pub(crate) fn browser(world: &World) -> Client {
    Client::new(world.envoy(0).address())
}

/// The cookie that an answer sets, as its client sends it back.
#[track_caller]
pub(crate) fn cookie_of(answer: &Response) -> String {
    let cookie = answer.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    cookie.split(';').next().unwrap().to_owned()
}

/// Answers to so many requests on one HTTP/1.1 connection. A pool of connections may open a second one.
async fn on_one_connection(address: SocketAddr, count: usize) -> Vec<Response> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..count {
        sender.ready().await.unwrap();
        let request =
            Request::get("/").header("host", address.to_string()).body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        answers.push(Response {
            status: head.status,
            headers: head.headers,
            body,
            trailers: HeaderMap::new(),
        });
    }
    answers
}

/// The cookies of so many first requests of a new browser, and the node that answered all of them. On a machine that is so
/// busy that they take too long they have no place in common: then another browser tries.
pub(crate) async fn begin(world: &World, way: Way, count: usize) -> (Vec<String>, String) {
    loop {
        let (client, start) = (browser(world), Instant::now());
        let answers = match way {
            Way::AtOnce => join_all((0..count).map(|_| client.get("/").http2().send())).await,
            Way::OneByOne => on_one_connection(client.address(), count).await,
        };
        if start.elapsed() > SHARED {
            continue;
        }
        let nodes: BTreeSet<&str> = answers.iter().map(Response::node).collect();
        assert_eq!(nodes.len(), 1, "{way:?}: {nodes:?}");
        let cookies: Vec<String> = answers.iter().map(cookie_of).collect();
        assert_eq!(cookies.iter().collect::<BTreeSet<_>>().len(), count, "each has its own id: {cookies:?}");
        return (cookies, answers[0].node().to_owned());
    }
}
