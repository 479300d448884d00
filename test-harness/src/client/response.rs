//! What came back: a response, what its node had received, or an open WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::eventually::patience;

/// An echo passes Envoy twice; more than this and it is lost.
const LIMIT: Duration = Duration::from_secs(10);

/// What a WebSocket may run over: a connection, or a stream of HTTP/2.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Transport for T {}

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Compares with numbers too: `response.status == 200`.
    pub status: StatusCode,
    /// Headers as Envoy sent them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Trailers, such as gRPC's status.
    pub trailers: HeaderMap,
}

impl Response {
    pub(super) async fn read(response: hyper::Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Self { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }

    /// The node that answered.
    ///
    /// # Panics
    /// If none did: an answer of Envoy's own has no `x-node`.
    #[track_caller]
    pub fn node(&self) -> &str {
        self.header("x-node").unwrap_or_else(|| panic!("no node answered: {} {:?}", self.status, self.body))
    }

    /// A header's value, the first if there are several.
    ///
    /// # Panics
    /// If it is not text; see [`Response::headers`] for bytes.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible ASCII"))
    }

    /// What the node received.
    ///
    /// # Panics
    /// If the body is not a node's report.
    #[track_caller]
    pub fn received(&self) -> Received {
        let report: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not a node's report ({error}): {} {:?}", self.status, self.body));
        let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        let header = |header: &serde_json::Value| (text(&header[0]), from_latin1(&text(&header[1])));
        Received {
            method: text(&report["method"]),
            path: text(&report["path"]),
            headers: report["headers"].as_array().expect("a list").iter().map(header).collect(),
            body_length: report["body_length"].as_u64().expect("a number"),
        }
    }
}

/// A request as the node saw it, after the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers in order, names in lower case, values byte for byte.
    pub headers: Vec<(String, Vec<u8>)>,
    /// How long its body was.
    pub body_length: u64,
}

impl Received {
    /// A header's value, the first if there are several.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    }
}

fn from_latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).expect("Latin-1")).collect()
}

/// An open WebSocket to a node that echoes.
#[derive(Debug)]
pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Transport>>,
    node: String,
    protocol: Option<String>,
    headers: HeaderMap,
}

impl WebSocket {
    pub(super) async fn open(
        stream: WebSocketStream<Box<dyn Transport>>,
        headers: &HeaderMap,
    ) -> Result<Self, String> {
        let protocol = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
        let protocol = protocol.map(|value| value.to_str().expect("a token").to_owned());
        let mut socket = Self { stream, node: String::new(), protocol, headers: headers.clone() };
        socket.node = socket.next_text(LIMIT).await?;
        Ok(socket)
    }

    /// The node at the other end.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The subprotocol that the node chose.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// The headers of the answer to the upgrade.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text and returns what comes back; `None` when the connection has ended.
    pub async fn echo(&mut self, text: &str) -> Option<String> {
        self.stream.send(Message::text(text)).await.ok()?;
        self.receive().await
    }

    /// Closes it in the ordinary way (1000), and waits until the far end has closed the connection.
    pub async fn close(mut self) {
        // The far end may have begun.
        let _ = self.stream.close(None).await;
        self.closed().await;
    }

    /// Waits until the far end, which begins the closing handshake, has closed the connection.
    ///
    /// # Panics
    /// If it has not within ten seconds (multiplied by `HARNESS_PATIENCE`).
    pub async fn closed(mut self) {
        let end = async { while let Some(Ok(_)) = self.stream.next().await {} };
        timeout(patience(LIMIT), end).await.unwrap_or_else(|_| panic!("still open after {LIMIT:?}"));
    }

    /// Sends a text, with what comes back, or why nothing does, as a value.
    ///
    /// # Errors
    /// If the connection has ended, or nothing comes within this time (multiplied by `HARNESS_PATIENCE`).
    pub async fn try_echo(&mut self, text: &str, within: Duration) -> Result<String, String> {
        self.stream.send(Message::text(text)).await.map_err(|error| error.to_string())?;
        self.next_text(within).await
    }

    /// Whether the connection ends within this time, in which nothing is sent.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.stream.next()).await.is_ok()
    }

    /// The next text; `None` when the connection has ended.
    ///
    /// # Panics
    /// If nothing comes within ten seconds (multiplied by `HARNESS_PATIENCE`).
    pub async fn receive(&mut self) -> Option<String> {
        let next = timeout(patience(LIMIT), self.stream.next()).await;
        let message = next.unwrap_or_else(|_| panic!("no message in {LIMIT:?}"))?.ok()?;
        message.is_text().then(|| message.into_text().expect("it is text").to_string())
    }

    async fn next_text(&mut self, within: Duration) -> Result<String, String> {
        let next = timeout(patience(within), self.stream.next()).await;
        let message = next.map_err(|_| format!("no message in {within:?}"))?.ok_or("the connection ended")?;
        let text = message.and_then(Message::into_text).map_err(|error| error.to_string())?;
        Ok(text.to_string())
    }
}
