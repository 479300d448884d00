//! Bytes to Envoy that no HTTP library would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::eventually::patience;

/// Envoy answers garbage at once; a response that needs longer between two packets is not coming.
const SILENCE: Duration = Duration::from_secs(2);

/// What Envoy wrote, unparsed.
#[derive(Clone, Debug)]
pub struct RawResponse {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Whether Envoy closed the connection afterwards.
    pub closed: bool,
}

impl RawResponse {
    /// The status code of the first response, if it is one.
    pub fn status(&self) -> Option<u16> {
        let line = self.bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        std::str::from_utf8(line).ok()?.parse().ok()
    }
}

pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> RawResponse {
    let mut stream = TcpStream::connect(address).await.expect("Envoy accepts connections");
    // Envoy may answer and close before it has read everything: what it wrote still counts.
    let written = timeout(patience(SILENCE), stream.write_all(request)).await;
    let mut response = RawResponse { bytes: Vec::new(), closed: matches!(written, Ok(Err(_))) };
    while !is_complete(&response.bytes) {
        match timeout(patience(SILENCE), stream.read_buf(&mut response.bytes)).await {
            Ok(Ok(0) | Err(_)) => {
                response.closed = true;
                break;
            }
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    response
}

/// Whether a whole response is there: its head, and a body of the length or with the last chunk that the head promises.
/// One that announces the connection's end is complete when that comes.
fn is_complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.contains("\r\nconnection: close") {
        return false;
    }
    if head.contains("\r\ntransfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}
