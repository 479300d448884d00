//! One HTTP request to the state service, on a connection of its own, bounded in time and size.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Bytes;
use berth_core::wire::ErrorReply;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Across a continent and a busy network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A poll waits almost half a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// All nodes of a large pool, or all changes of one reply, many times over.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug)]
pub(super) enum Failure {
    Usage(Vec<String>),
    Refused(String),
    Unreachable(String),
    Output(std::io::Error),
}

pub(super) struct Client {
    authority: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(url: &str, token: Option<String>) -> Result<Self, String> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if !authority.is_empty() && !authority.contains(['/', '?', '#', '@']) => {
                let port = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
                {
                    ""
                } else {
                    ":80"
                };
                Ok(Self { authority: format!("{authority}{port}"), token })
            }
            _ => Err(format!("--server {url}: must be http://host:port")),
        }
    }

    /// Sends a request and returns the body of a 2xx answer.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Bytes, Failure> {
        let unreachable =
            |reason: String| Failure::Unreachable(format!("cannot reach {}: {reason}", self.authority));
        let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = connect
            .map_err(|_| unreachable("no connection in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let exchange = timeout(ANSWER_TIMEOUT, self.exchange(stream, method, path, body)).await;
        let (status, answer) = exchange
            .map_err(|_| unreachable("no answer in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let Ok(ErrorReply { error }) = serde_json::from_slice(&answer) else {
            return Err(Failure::Refused(format!(
                "{} answered {status}, as no state service does",
                self.authority
            )));
        };
        let mut message = error.message;
        for fault in error.faults {
            let _ = write!(message, "\n  {fault}");
        }
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Unreachable(message))
            }
            _ => Err(Failure::Refused(message)),
        }
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Full::new(Bytes::copy_from_slice(body)))?).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        connection.abort();
        Ok((status, answer))
    }
}

/// The brackets of IPv6 may not stand in a path.
pub(super) fn in_path(text: &str) -> String {
    text.replace('[', "%5B").replace(']', "%5D")
}
