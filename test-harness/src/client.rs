//! A client as browsers are: keep-alive connections to one Envoy, and everything as bytes. What a well-behaved client
//! cannot send goes through [`Client::raw`].

mod extended_connect;
mod raw;
mod response;

pub use raw::RawResponse;
pub use response::{Received, Response, WebSocket};

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri, Version, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error as WebSocketError;

use crate::eventually::patience;
use response::Transport;

/// Longer than any answer should take, the proxy's own timeouts included.
const LIMIT: Duration = Duration::from_secs(20);

/// Requests under way at once in [`Client::send_all`]: enough to keep two cores busy.
const CONCURRENCY: usize = 32;

/// Connections to one Envoy. Clones share them.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    http1: legacy::Client<HttpConnector, Full<Bytes>>,
    http2: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client without connections yet.
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        let http1 = builder.build(connector.clone());
        let http2 = builder.http2_only(true).build(connector);
        Self { address, http1, http2 }
    }

    /// Where it connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A GET of this path and query.
    pub fn get(&self, path: &str) -> Request {
        self.request(Method::GET, path)
    }

    /// A POST with a body.
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Request {
        self.request(Method::POST, path).body(body)
    }

    /// Any other request.
    pub fn request(&self, method: Method, path: &str) -> Request {
        let uri = format!("http://{}{path}", self.address);
        let uri = uri.parse().unwrap_or_else(|error| panic!("{path:?} is no path: {error}; see raw()"));
        Request {
            client: self.clone(),
            method,
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            http2: false,
            within: LIMIT,
        }
    }

    /// A unary gRPC call with this message; the answer's trailers say `grpc-status`.
    pub fn grpc(&self, path: &str, message: &[u8]) -> Request {
        let length = u32::try_from(message.len()).expect("a message below 4 GiB");
        let frame = [&[0][..], &length.to_be_bytes(), message].concat();
        self.post(path, frame).header("content-type", "application/grpc").header("te", "trailers").http2()
    }

    /// Sends these bytes on a connection of their own and returns what comes back.
    ///
    /// Reading ends with the first complete response, when Envoy closes, or after two silent seconds.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> RawResponse {
        raw::exchange(self.address, bytes.as_ref()).await
    }

    /// The node that serves each session, in order, asked with the header `x-session-id`.
    pub async fn nodes_of<K: AsRef<[u8]>>(&self, sessions: &[K]) -> Vec<String> {
        let requests: Vec<Request> =
            sessions.iter().map(|session| self.get("/").header("x-session-id", session)).collect();
        self.send_all(requests).await.iter().map(|answer| answer.node().to_owned()).collect()
    }

    /// Sends these requests, a few at a time, and returns the answers in order.
    pub async fn send_all(&self, requests: Vec<Request>) -> Vec<Response> {
        stream::iter(requests.into_iter().map(Request::send)).buffered(CONCURRENCY).collect().await
    }
}

/// A request on its way to be sent.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing before `send`"]
pub struct Request {
    client: Client,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    http2: bool,
    within: Duration,
}

impl Request {
    /// Adds a header. A name may be there several times; a value may hold any bytes but control characters.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let name =
            HeaderName::from_bytes(name.as_bytes()).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let value = HeaderValue::from_bytes(value)
            .unwrap_or_else(|error| panic!("{}: {error}; see raw()", value.escape_ascii()));
        self.headers.append(name, value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Speaks HTTP/2 (prior knowledge) instead of HTTP/1.1.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Fails when the whole answer takes longer than this (multiplied by `HARNESS_PATIENCE`). Default: 20 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// The answer, whatever its status.
    ///
    /// # Panics
    /// If no answer comes: the connection breaks or the time limit passes.
    pub async fn send(self) -> Response {
        let request = format!("{} {}", self.method, self.uri);
        self.try_send().await.unwrap_or_else(|failure| panic!("{request}: {failure}"))
    }

    /// As [`Request::send`], with the failure as a value.
    pub async fn try_send(self) -> Result<Response, String> {
        let http = if self.http2 { &self.client.http2 } else { &self.client.http1 };
        let mut request = hyper::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        if self.http2 {
            *request.version_mut() = Version::HTTP_2;
        }
        let answer = async {
            let answer = http.request(request).await.map_err(|error| chain(&error))?;
            Response::read(answer).await.map_err(|error| chain(&error))
        };
        let limit = self.within;
        timeout(patience(limit), answer).await.unwrap_or_else(|_| Err(format!("no answer in {limit:?}")))
    }

    /// Opens a WebSocket, over HTTP/2 by extended CONNECT (RFC 8441); the first message, the node's name, has been read.
    ///
    /// # Panics
    /// If the upgrade is refused.
    pub async fn websocket(self) -> WebSocket {
        let request = self.uri.to_string();
        self.try_websocket()
            .await
            .unwrap_or_else(|status| panic!("{request}: upgrade answered with {status}"))
    }

    /// As [`Request::websocket`], with the status of a refusal as a value.
    pub async fn try_websocket(mut self) -> Result<WebSocket, StatusCode> {
        let request = self.upgrade();
        if self.http2 {
            return extended_connect::open(self.client.address, request, self.within).await;
        }
        self.open(request).await.map_err(|refusal| match refusal {
            Refusal::Status(status) => status,
            Refusal::Broken(failure) => panic!("upgrade failed: {failure}"),
        })
    }

    /// As [`Request::websocket`] over HTTP/1.1, with any failure as a value: for loads that go on while proxies die.
    ///
    /// # Errors
    /// If the upgrade is refused, or nothing answers.
    pub async fn open_websocket(mut self) -> Result<WebSocket, Refusal> {
        let request = self.upgrade();
        self.open(request).await
    }

    async fn open(self, request: hyper::Request<()>) -> Result<WebSocket, Refusal> {
        let limit = self.within;
        let open = async {
            let broken = |error: &dyn std::error::Error| Refusal::Broken(chain(error));
            let stream = TcpStream::connect(self.client.address).await.map_err(|error| broken(&error))?;
            let stream: Box<dyn Transport> = Box::new(stream);
            match tokio_tungstenite::client_async(request, stream).await {
                Ok((stream, answer)) => {
                    WebSocket::open(stream, answer.headers()).await.map_err(Refusal::Broken)
                }
                Err(WebSocketError::Http(answer)) => Err(Refusal::Status(answer.status())),
                Err(error) => Err(broken(&error)),
            }
        };
        let late = || Err(Refusal::Broken(format!("no answer in {limit:?}")));
        timeout(patience(limit), open).await.unwrap_or_else(|_| late())
    }

    /// The head of an upgrade over HTTP/1.1.
    fn upgrade(&mut self) -> hyper::Request<()> {
        let mut request = hyper::Request::new(());
        *request.uri_mut() = self.uri.to_string().replacen("http:", "ws:", 1).parse().expect("it was a URI");
        *request.headers_mut() = std::mem::take(&mut self.headers);
        let host = HeaderValue::from_str(&self.client.address.to_string()).expect("an address");
        for (name, value) in [
            (header::HOST, host),
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            // Any 16 bytes do: the key only proves that the far end speaks the protocol.
            (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("YmVydGgtaGFybmVzcy1rZQ==")),
        ] {
            request.headers_mut().entry(name).or_insert(value);
        }
        request
    }
}

/// Why a WebSocket was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The upgrade was answered with this.
    Status(StatusCode),
    /// The connection broke, or nothing came in time.
    Broken(String),
}

/// An error with its causes: hyper's own message alone says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
}
