//! A WebSocket over HTTP/2 (RFC 8441): a stream of its own, opened by CONNECT with `:protocol`.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::ext::Protocol;
use hyper::{Method, Request, StatusCode, Uri, Version, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::response::{Transport, WebSocket};
use crate::eventually::patience;

/// What of HTTP/1.1's handshake HTTP/2 does not have.
const OF_HTTP1: [header::HeaderName; 4] =
    [header::HOST, header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY];

/// Opens it with the path and the headers of a handshake; the status of a refusal as a value.
///
/// # Panics
/// If the listener does not offer it, or there is no answer in time.
pub(super) async fn open(
    address: SocketAddr,
    handshake: Request<()>,
    within: Duration,
) -> Result<WebSocket, StatusCode> {
    let stream = TcpStream::connect(address).await.expect("Envoy accepts connections");
    let connection = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connection.await.expect("HTTP/2");
    tokio::spawn(connection);
    let authority = address.to_string();
    let uri = |path: &str| {
        Uri::builder().scheme("http").authority(&*authority).path_and_query(path).build().unwrap()
    };
    // After an answer the listener's settings are known, which a client has to have seen.
    let mut first = Request::new(Empty::<Bytes>::new());
    *first.uri_mut() = uri("/healthz");
    *first.version_mut() = Version::HTTP_2;
    let first = sender.send_request(first).await.expect("an answer");
    first.into_body().collect().await.expect("its body");

    let (head, ()) = handshake.into_parts();
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri(head.uri.path_and_query().map_or("/", |path| path.as_str()));
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers;
    for name in OF_HTTP1 {
        request.headers_mut().remove(name);
    }
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let answer = timeout(patience(within), sender.send_request(request));
    let answer = answer.await.expect("an answer to the CONNECT in time");
    let mut answer = answer.unwrap_or_else(|error| panic!("extended CONNECT failed: {error:?}"));
    if answer.status() != StatusCode::OK {
        return Err(answer.status());
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.expect("a stream");
    let stream: Box<dyn Transport> = Box::new(TokioIo::new(upgraded));
    let stream = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    Ok(WebSocket::open(stream, answer.headers()).await.expect("the node's name"))
}
