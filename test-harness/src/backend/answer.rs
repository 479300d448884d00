//! What a fake node says to one request. Some paths fail on any node that serves, as a handler with a fault does:
//! `/fault/close` ends its connection instead of an answer (HTTP/2: resets the stream), `/fault/hang` never answers,
//! `/fault/cut` breaks its connection, or stream, after the beginning of a body; `/eof` has a body that ends with its connection.
//! gRPC's `/fault/open` is a stream that answers its first message and stays open.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::body::{Answer, Failure, plain, whole};
use super::{Mode, Shared, minting};

/// Where Envoy's `grpc_health_check` asks.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(super) async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reset: Arc<Notify>,
) -> Result<Answer, Failure> {
    if request.version() < Version::HTTP_2 && shared.http2_only.load(Ordering::Relaxed) {
        return Err("HTTP/1 is refused".into());
    }
    let health_check = ["/healthz", GRPC_HEALTH].contains(&request.uri().path());
    let counter = if health_check { &shared.health_checks } else { &shared.requests };
    counter.fetch_add(1, Ordering::Relaxed);

    let mode = *shared.mode.lock().unwrap();
    match mode {
        Mode::Hang => std::future::pending().await,
        Mode::Reset => {
            reset.notify_one();
            std::future::pending().await
        }
        Mode::Slow(time) if !health_check => tokio::time::sleep(time).await,
        Mode::Serve | Mode::Fail(_) | Mode::Slow(_) => {}
    }

    let mints = request.headers().contains_key("x-mint");
    let mut answer = match mode {
        _ if request.uri().path() == GRPC_HEALTH => grpc_health(&shared),
        _ if health_check => health(&shared),
        Mode::Fail(status) => after(request, plain(status, "set to fail\n")).await?,
        _ if request.uri().path() == "/fault/close" => return Err("a handler with a fault".into()),
        _ if request.uri().path() == "/fault/hang" => std::future::pending().await,
        _ if request.uri().path() == "/fault/cut" => cut(request.version(), reset),
        _ if request.uri().path() == "/eof" => until_the_end(),
        _ if let Some(answer) = minting::answer(&request, &shared) => after(request, answer).await?,
        _ if is(&request, header::UPGRADE, "websocket") => websocket(request, &shared),
        _ if request.uri().path() == "/fault/open" => grpc_open(request),
        _ if is(&request, header::CONTENT_TYPE, "application/grpc") => {
            grpc(request.into_body().collect().await?.to_bytes())
        }
        _ => echo(request, &shared).await?,
    };
    if mints {
        minting::add_id(&mut answer, &shared);
    }
    answer.headers_mut().insert("x-node", HeaderValue::from_str(&shared.name).unwrap());
    for (name, value) in shared.headers.lock().unwrap().iter() {
        answer.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
    }
    Ok(answer)
}

/// An answer once the request is read: with a part of it still to come hyper would close the connection behind the answer, and
/// Envoy's next request might run into that.
async fn after(request: Request<Incoming>, answer: Answer) -> Result<Answer, hyper::Error> {
    request.into_body().collect().await?;
    Ok(answer)
}

/// The beginning of an event stream; then the connection, or in HTTP/2 the stream, is reset.
fn cut(version: Version, reset: Arc<Notify>) -> Answer {
    let events = futures_util::stream::unfold(0, move |sent| {
        let reset = Arc::clone(&reset);
        async move {
            if sent == 1 {
                // A reset takes what was not written yet with it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if version == Version::HTTP_2 {
                    return Some((Err(Failure::from("a stream with a fault")), sent));
                }
                reset.notify_one();
                std::future::pending::<()>().await;
            }
            Some((Ok(Frame::data(Bytes::from_static(b"data: 1\n\n"))), sent + 1))
        }
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(events)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

/// A body whose end is that of the connection.
fn until_the_end() -> Answer {
    let all = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"all of it\n")))]);
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(all)));
    *answer.version_mut() = Version::HTTP_10;
    answer
}

fn health(shared: &Shared) -> Answer {
    if shared.healthy.load(Ordering::Relaxed) {
        plain(StatusCode::OK, "healthy\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "set to be unhealthy\n")
    }
}

/// Tells what arrived. Header values are Latin-1, one character per byte, so that no byte is lost in JSON.
async fn echo(request: Request<Incoming>, shared: &Shared) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Vec<(&str, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes().iter().copied().map(char::from).collect()))
        .collect();
    let report = serde_json::json!({
        "node": shared.name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "headers": headers,
        "body_length": body.len(),
    });
    let mut answer = plain(StatusCode::OK, report.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// A unary call that succeeds: the message comes back, the status follows in the trailers.
fn grpc(message: Bytes) -> Answer {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
    grpc_answer(whole(message).with_trailers(async { Some(Ok(trailers)) }).boxed())
}

/// A stream whose messages come back. It stays open for as long as the client has it so.
fn grpc_open(request: Request<Incoming>) -> Answer {
    let messages = request.into_body().into_data_stream();
    let messages = messages.map(|message| message.map(Frame::data).map_err(Failure::from));
    grpc_answer(BodyExt::boxed(StreamBody::new(messages.chain(futures_util::stream::pending()))))
}

/// SERVING (1) or `NOT_SERVING` (2), as field 1 of the message.
fn grpc_health(shared: &Shared) -> Answer {
    let status = if shared.healthy.load(Ordering::Relaxed) { 1 } else { 2 };
    grpc(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]))
}

fn grpc_answer(body: BoxBody<Bytes, Failure>) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Accepts the first subprotocol offered, says the node's name, then echoes; at `close` it begins the closing handshake. The
/// connection ends as RFC 6455 has it: the node closes it, after the handshake.
fn websocket(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return plain(StatusCode::BAD_REQUEST, "no sec-websocket-key\n");
    };
    let mut answer = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = derive_accept_key(key.as_bytes());
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).unwrap());
    if let Some(offered) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL) {
        let first = offered.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(first.trim_ascii()).unwrap());
    }

    let name = shared.name.clone();
    let task = tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A connection that breaks ends the task; the client's end is what tests look at.
        let mut sent = socket.send(name.into()).await;
        while let (Ok(()), Some(Ok(message))) = (&sent, socket.next().await) {
            if message.to_text().is_ok_and(|text| text == "close") {
                sent = socket.close(None).await;
            } else if message.is_text() || message.is_binary() {
                sent = socket.send(message).await;
            }
        }
    });
    let mut websockets = shared.websockets.lock().unwrap();
    // A handle keeps what its task used: a node of an hour's churn must not keep each socket it ever had.
    if websockets.len() == websockets.capacity() {
        websockets.retain(|websocket| !websocket.is_finished());
    }
    websockets.push(task.abort_handle());
    drop(websockets);
    answer
}

fn is(request: &Request<Incoming>, name: HeaderName, start: &str) -> bool {
    let value = request.headers().get(name).map_or(&[][..], HeaderValue::as_bytes);
    value.get(..start.len()).is_some_and(|value| value.eq_ignore_ascii_case(start.as_bytes()))
}
