//! A fake node that begins sessions itself, and knows no others: an MCP server at `/mcp`, a servlet container at `/app`.
//!
//! `POST /mcp` without an id begins a session, whose id is in the response header `mcp-session-id`; with `?sse` the answer is
//! an event stream. `POST`, `GET` (an event stream) and `DELETE` with an id that it does not know are answered with 404.
//! `/app` begins a session in the cookie `JSESSIONID` if the request has none that it knows; `/app/login` gives the session
//! another id, `/app/logout` ends it and has the client forget the cookie. What the header `x-jvm-route` says is appended to the
//! id, as containers of a cluster do, and `/app;jsessionid=…` names the session too. On any path, a request with the header `x-mint` has
//! an `mcp-session-id` in its answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Shared;
use super::body::{Answer, plain};

const ID_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
const COOKIE: &str = "JSESSIONID";

/// The answer, if the path is one of these.
pub(super) fn answer(request: &Request<Incoming>, shared: &Shared) -> Option<Answer> {
    match path_of(request) {
        "/mcp" => Some(mcp(request, shared)),
        "/app" | "/app/login" | "/app/logout" => Some(servlet(request, shared)),
        _ => None,
    }
}

fn mcp(request: &Request<Incoming>, shared: &Shared) -> Answer {
    let is_stream = request.method() == Method::GET || request.uri().query() == Some("sse");
    let mut answer = if is_stream { events(&shared.name) } else { plain(StatusCode::OK, "{}") };
    let mut known = shared.minted.lock().unwrap();
    match request.headers().get(ID_HEADER).map(text) {
        None if request.method() == Method::POST => {
            drop(known);
            add_id(&mut answer, shared);
        }
        Some(id) if known.contains(&id) => {
            if request.method() == Method::DELETE {
                known.remove(&id);
            }
        }
        _ => return plain(StatusCode::NOT_FOUND, "session not found\n"),
    }
    answer
}

/// Begins a session with this answer.
pub(super) fn add_id(answer: &mut Answer, shared: &Shared) {
    let id = mint(&mut shared.minted.lock().unwrap(), &shared.name);
    answer.headers_mut().insert(ID_HEADER, HeaderValue::from_str(&id).unwrap());
}

fn servlet(request: &Request<Incoming>, shared: &Shared) -> Answer {
    let mut known = shared.minted.lock().unwrap();
    let in_path = || Some(request.uri().path().split_once(";jsessionid=")?.1.to_owned());
    let named = cookie(request.headers()).or_else(in_path);
    let bare = named.and_then(|id| Some(id.split('.').next()?.to_owned()));
    let id = bare.filter(|id| known.contains(id));
    let route = request.headers().get("x-jvm-route").map(|route| format!(".{}", text(route)));
    let mut answer = plain(StatusCode::OK, "hello\n");
    let mut set = |line: String| {
        answer.headers_mut().append(header::SET_COOKIE, HeaderValue::from_str(&line).unwrap());
    };
    set("theme=dark; Path=/".to_owned());
    match (path_of(request), &id) {
        ("/app/logout", _) => {
            known.retain(|known| Some(known) != id.as_ref());
            set(format!("{COOKIE}=; Max-Age=0; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/"));
        }
        ("/app", Some(_)) => {}
        _ => {
            known.retain(|known| Some(known) != id.as_ref());
            let id = mint(&mut known, &shared.name);
            set(format!("{COOKIE}={id}{}; Path=/; HttpOnly", route.unwrap_or_default()));
        }
    }
    let knows = HeaderValue::from_static(if id.is_some() { "yes" } else { "no" });
    answer.headers_mut().insert("x-known", knows);
    answer
}

/// The path without its parameters.
fn path_of(request: &Request<Incoming>) -> &str {
    let path = request.uri().path();
    path.split_once(';').map_or(path, |(path, _)| path)
}

fn mint(known: &mut BTreeSet<String>, node: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("{}-of-{}", NEXT.fetch_add(1, Ordering::Relaxed), node.replace([':', '.'], "-"));
    known.insert(id.clone());
    id
}

/// Two events, one at once and one soon after.
fn events(node: &str) -> Answer {
    let event = Bytes::from(format!("data: {node}\n\n"));
    let events = futures_util::stream::unfold(0, move |sent| {
        let event = event.clone();
        async move {
            if sent == 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (sent < 2).then(|| (Ok::<_, Infallible>(Frame::data(event)), sent + 1))
        }
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(events).map_err(|never| match never {})));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let all = text(headers.get(header::COOKIE)?);
    let mut pairs = all.split("; ").filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.to_owned())
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
