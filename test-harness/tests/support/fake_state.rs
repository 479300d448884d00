//! In place of the state cluster: answers as the test tells it to, rightly or in the ways that services fail, and
//! remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listening::Listening;

/// One byte more than Envoy buffers of an answer to a filter, and a bit.
const HUGE: usize = 33 * 1024 * 1024;

/// What a call gets.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// What is right: sessions are claimed for their first usable candidate, touched ones are all there, nothing ever
    /// changes (said after the time that the poll waits), and nothing is recorded of any node.
    Proper,
    /// The same, this much later.
    Late(Duration),
    /// 200 with this body.
    Body(Arc<str>),
    /// This status, with a body that looks right.
    Status(u16),
    /// 200 with bytes that mean nothing.
    Garbage,
    /// 200 without a body.
    Empty,
    /// 200 and half of the body that it announces, then the connection's end.
    HalfABody,
    /// 200 with a larger body than Envoy hands on.
    HugeBody,
    /// The connection's reset (TCP RST).
    Reset,
    /// Nothing, while the connection stays open.
    Silence,
}

/// The calls that the fake distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `POST /v1/resolve`.
    Resolve,
    /// `POST /v1/touch`.
    Touch,
    /// `GET /v1/changes`.
    Changes,
    /// `/v1/nodes` and below, reading and writing.
    Nodes,
    /// `/readyz`: what Envoy's health checks ask.
    Ready,
    /// Anything else gets 404.
    Other,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) call: Call,
    /// Method and target, such as `GET /v1/changes?pool=nodes&wait=1000`.
    pub(crate) line: String,
    /// Lower-case names, as Envoy writes them.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, or null.
    pub(crate) body: Value,
}

/// A server on a port of its own. Point the cluster `berth_state` to its address.
#[derive(Debug)]
pub(crate) struct FakeState {
    listening: Listening,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How calls are answered; properly if nothing is said of them. The last word counts.
    replies: Mutex<Vec<(Call, Reply)>>,
    asked: Mutex<Vec<Asked>>,
}

impl FakeState {
    /// Starts it; every call is answered properly.
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let listening = Listening::start(move |stream| serve(stream, Arc::clone(&serving))).await;
        Self { listening, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Answers resolve and touch calls so from now on. Polls and health checks go on as they are.
    pub(crate) fn set(&self, reply: Reply) {
        self.set_call(Call::Resolve, reply.clone());
        self.set_call(Call::Touch, reply);
    }

    /// Answers one kind of call so from now on. A poll that waits already is not affected.
    pub(crate) fn set_call(&self, call: Call, reply: Reply) {
        let mut replies = self.shared.replies.lock().unwrap();
        replies.retain(|(other, _)| *other != call);
        replies.push((call, reply));
    }

    /// How often it got such a call.
    pub(crate) fn count(&self, call: Call) -> usize {
        self.asked(call).len()
    }

    /// All such calls so far.
    pub(crate) fn asked(&self, call: Call) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.call == call).cloned().collect()
    }

    /// The bodies of all resolve requests so far.
    pub(crate) fn resolves(&self) -> Vec<Value> {
        self.asked(Call::Resolve).into_iter().map(|asked| asked.body).collect()
    }

    /// Forgets what it was asked.
    pub(crate) fn forget(&self) {
        self.shared.asked.lock().unwrap().clear();
    }
}

impl Shared {
    fn reply(&self, call: Call) -> Reply {
        let replies = self.replies.lock().unwrap();
        replies.iter().find(|(other, _)| *other == call).map_or(Reply::Proper, |(_, reply)| reply.clone())
    }
}

impl Asked {
    /// A request that is complete, and its length; `None` as long as more is to come.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().expect("a content-length"));
        let body = bytes.get(end..end + length)?;
        let body = if length == 0 { Value::Null } else { serde_json::from_slice(body).expect("JSON") };
        let call = match line.split([' ', '?']).nth(1)? {
            "/v1/resolve" => Call::Resolve,
            "/v1/touch" => Call::Touch,
            "/v1/changes" => Call::Changes,
            "/readyz" => Call::Ready,
            path if path.starts_with("/v1/nodes") => Call::Nodes,
            _ => Call::Other,
        };
        Some((Self { call, line, headers, body }, end + length))
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.line.split_once('?')?.1.split('&').filter_map(|pair| pair.split_once('='));
        parameters.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// How long a poll waits if nothing happens.
    fn wait(&self) -> Duration {
        let wait = self.parameter("wait").filter(|_| self.call == Call::Changes);
        Duration::from_millis(wait.map_or(0, |wait| wait.parse().expect("milliseconds")))
    }

    /// The body of the right answer.
    fn proper(&self) -> Value {
        let nothing = Vec::new();
        let list = |name: &str| self.body[name].as_array().unwrap_or(&nothing);
        match self.call {
            Call::Resolve => {
                let pins = list("sessions").iter().map(|session| {
                    let unusable = session["unusable"].as_array().unwrap_or(&nothing);
                    let candidates = session["candidates"].as_array().expect("candidates");
                    let usable = candidates.iter().find(|candidate| !unusable.contains(candidate));
                    let node = usable.unwrap_or(&candidates[0]);
                    json!({"key": session["key"], "node": node, "version": 1, "outcome": "claimed"})
                });
                json!({"pins": pins.collect::<Vec<_>>(), "cursor": "fake-0", "ttl_ms": 60_000})
            }
            Call::Touch => json!({"touched": list("keys").len(), "missing": [], "ttl_ms": 60_000}),
            Call::Changes => json!({"cursor": "fake-0", "resync": false, "events": []}),
            Call::Nodes if self.line.starts_with("PUT ") => {
                let path = self.line.split([' ', '?']).nth(1).unwrap_or_default();
                json!({"node": path.trim_start_matches("/v1/nodes/"), "version": 1})
            }
            Call::Nodes => json!({"nodes": []}),
            Call::Ready | Call::Other => json!("ready"),
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut bytes = Vec::new();
    // A connection that breaks is Envoy's affair.
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        while let Some((asked, length)) = Asked::read(&bytes) {
            bytes.drain(..length);
            let reply = shared.reply(asked.call);
            shared.asked.lock().unwrap().push(asked.clone());
            if !matches!(respond(&mut stream, &asked, reply).await, Ok(true)) {
                return;
            }
        }
    }
}

/// Whether the connection goes on.
async fn respond(stream: &mut TcpStream, asked: &Asked, reply: Reply) -> std::io::Result<bool> {
    let head =
        |status: u16, length: usize| format!("HTTP/1.1 {status} fake\r\ncontent-length: {length}\r\n\r\n");
    match reply {
        Reply::Proper => {
            tokio::time::sleep(asked.wait()).await;
            let status = if asked.call == Call::Other { 404 } else { 200 };
            let body = asked.proper().to_string();
            stream.write_all((head(status, body.len()) + &body).as_bytes()).await?;
        }
        Reply::Late(time) => {
            tokio::time::sleep(time).await;
            let body = asked.proper().to_string();
            stream.write_all((head(200, body.len()) + &body).as_bytes()).await?;
        }
        Reply::Body(body) => stream.write_all((head(200, body.len()) + &body).as_bytes()).await?,
        Reply::Status(status) => {
            let body = asked.proper().to_string();
            stream.write_all((head(status, body.len()) + &body).as_bytes()).await?;
        }
        Reply::Garbage => {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(5000).collect();
            stream.write_all(&[head(200, bytes.len()).as_bytes(), &bytes].concat()).await?;
        }
        Reply::Empty => stream.write_all(head(200, 0).as_bytes()).await?,
        Reply::HalfABody => {
            let body = asked.proper().to_string();
            stream.write_all((head(200, body.len()) + &body[..body.len() / 2]).as_bytes()).await?;
            return Ok(false);
        }
        Reply::HugeBody => {
            stream.write_all(head(200, HUGE).as_bytes()).await?;
            let blanks = b" ".repeat(64 * 1024);
            for _ in 0..=HUGE / blanks.len() {
                stream.write_all(&blanks).await?;
            }
            return Ok(false);
        }
        Reply::Reset => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Reply::Silence => std::future::pending().await,
    }
    Ok(true)
}
