//! In place of Envoy's admin interface: says what the test tells it to, or fails as servers do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listening::Listening;

/// One byte more than Envoy buffers of an answer to a filter, and a bit.
const HUGE: usize = 33 * 1024 * 1024;

/// What each poll gets.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// 200 with this body.
    Page(Arc<str>),
    /// This status, with a body that looks right.
    Status(u16),
    /// 302 to this place.
    Redirect(Arc<str>),
    /// 200 with bytes that mean nothing.
    Garbage,
    /// Bytes that are not HTTP.
    NotHttp,
    /// 200 and half of the body that it announces, then the connection's end.
    HalfABody,
    /// 200 with a larger body than Envoy hands on.
    HugeBody,
    /// The connection's end, at once.
    HangUp,
    /// Nothing, while the connection stays open.
    Silence,
}

/// A server on a port of its own, which counts who asks.
#[derive(Debug)]
pub(crate) struct FakeAdmin {
    listening: Listening,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    polls: Mutex<Vec<(Instant, String)>>,
}

impl FakeAdmin {
    pub(crate) async fn start(answer: Answer) -> Self {
        let shared = Arc::new(Shared { answer: Mutex::new(answer), polls: Mutex::default() });
        let serving = Arc::clone(&shared);
        let listening = Listening::start(move |stream| serve(stream, Arc::clone(&serving))).await;
        Self { listening, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Answers so from now on.
    pub(crate) fn set(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    /// Answers with this page from now on.
    pub(crate) fn tell(&self, page: &str) {
        self.set(Answer::Page(page.into()));
    }

    /// When it was asked.
    pub(crate) fn polls(&self) -> Vec<Instant> {
        self.shared.polls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// What it was asked for last.
    pub(crate) fn last_path(&self) -> Option<String> {
        self.shared.polls.lock().unwrap().last().map(|(_, path)| path.clone())
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut request = Vec::new();
    // A connection that breaks is Envoy's affair.
    while let Ok(1..) = stream.read_buf(&mut request).await {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        request.clear();
        // It tells of hosts only: what is asked of the configuration beside them is no poll.
        let answer = if path.starts_with("/config_dump") {
            Answer::Status(404)
        } else {
            shared.polls.lock().unwrap().push((Instant::now(), path));
            shared.answer.lock().unwrap().clone()
        };
        if !matches!(respond(&mut stream, answer).await, Ok(true)) {
            return;
        }
    }
}

/// Whether the connection goes on.
async fn respond(stream: &mut TcpStream, answer: Answer) -> std::io::Result<bool> {
    let head =
        |status: u16, length: usize| format!("HTTP/1.1 {status} fake\r\ncontent-length: {length}\r\n\r\n");
    match answer {
        Answer::Page(page) => {
            stream.write_all(head(200, page.len()).as_bytes()).await?;
            stream.write_all(page.as_bytes()).await?;
        }
        Answer::Status(status) => {
            let page = "nodes::10.0.0.1:80::health_flags::healthy\n";
            stream.write_all((head(status, page.len()) + page).as_bytes()).await?;
        }
        Answer::Redirect(location) => {
            let head = format!("HTTP/1.1 302 fake\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
        Answer::Garbage => {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(5000).collect();
            stream.write_all(&[head(200, bytes.len()).as_bytes(), &bytes].concat()).await?;
        }
        Answer::NotHttp => {
            stream.write_all(b"\x16\x03\x01 what do you want?\r\n\r\n").await?;
            return Ok(false);
        }
        Answer::HalfABody => {
            let half = "nodes::10.0.0.1:80::health_flags::healthy\nnodes::10.0.0.2:8";
            stream.write_all((head(200, 2 * half.len()) + half).as_bytes()).await?;
            return Ok(false);
        }
        Answer::HugeBody => {
            stream.write_all(head(200, HUGE).as_bytes()).await?;
            let line = b"nodes::10.0.0.1:80::health_flags::healthy\n".repeat(1000);
            for _ in 0..=HUGE / line.len() {
                stream.write_all(&line).await?;
            }
            return Ok(false);
        }
        Answer::HangUp => return Ok(false),
        Answer::Silence => std::future::pending().await,
    }
    Ok(true)
}
