//! Requests to the service over the memory store: each has an answer that its client understands, and a session one owner.
//!
//! The input is one request after the other: a line `METHOD path`, then the body. A line of `---` begins the next request;
//! `--- 5000` lets so many milliseconds pass before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, Uri};
use berth_core::time::Millis;
use berth_core::wire::{
    ApiRequest, ChangesReply, CountReply, EndReply, ErrorReply, ForgetReply, NodeId, NodeRecord, NodeReply,
    NodesReply, PoolName, ResolveReply, ResolveRequest, SessionKey, SessionReply, TouchReply, TouchRequest,
};
use berth_state::store::{Keeping, Memory};
use berth_state::{Limits, router};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;

/// More of them find nothing more.
const MAX_REQUESTS: usize = 16;
const START: u64 = 1_767_225_600_000;
/// A pin that lives longer is there in the next moment.
const MOMENT: u64 = 1_000;

/// Sends the requests, and looks behind each answer.
pub fn check(input: &[u8]) {
    // Polls wait in a time of their own, which passes at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut world = World::new();
        for asked in requests(input).into_iter().take(MAX_REQUESTS) {
            world.now.fetch_add(asked.after, Ordering::Relaxed);
            let (Ok(method), Ok(uri)) = (asked.method.parse::<Method>(), asked.path.parse::<Uri>()) else {
                continue;
            };
            let answer = world.send(method.clone(), uri.clone(), asked.body.clone()).await;
            world.check(&method, &uri, &asked.body, &answer).await;
        }
    });
}

struct Asked {
    after: u64,
    method: String,
    path: String,
    body: Vec<u8>,
}

fn requests(input: &[u8]) -> Vec<Asked> {
    let (mut requests, mut after, mut lines) = (Vec::new(), 0, Vec::new());
    let mut finish = |after: u64, lines: &mut Vec<&[u8]>| {
        let mut parts = std::mem::take(lines).into_iter();
        let first = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let (method, path) = first.split_once(' ').unwrap_or((&first, "/"));
        let body = parts.collect::<Vec<_>>().join(&b'\n');
        requests.push(Asked { after, method: method.to_owned(), path: path.to_owned(), body });
    };
    for line in input.split(|byte| *byte == b'\n') {
        match line.strip_prefix(b"---") {
            Some(pause) => {
                finish(after, &mut lines);
                after = String::from_utf8_lossy(pause).trim().parse().unwrap_or(0);
            }
            None => lines.push(line),
        }
    }
    finish(after, &mut lines);
    requests
}

struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

struct World {
    service: TowerToHyperService<axum::Router>,
    now: Arc<AtomicU64>,
    /// What was said of each version of a session's pin.
    owners: BTreeMap<(PoolName, SessionKey, u64), NodeId>,
}

impl World {
    fn new() -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || Millis(clock.fetch_add(1, Ordering::Relaxed)));
        let keeping = Keeping { changes: 64, ..Keeping::default() };
        let router = router(Arc::new(Memory::new(keeping, clock)), Limits::default());
        Self { service: TowerToHyperService::new(router), now, owners: BTreeMap::new() }
    }

    async fn send(&self, method: Method, uri: Uri, body: Vec<u8>) -> Answer {
        let request = Request::builder().method(method).uri(uri).body(Body::from(body)).unwrap();
        let response = self.service.call(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
        Answer { status, body }
    }

    async fn ask(&self, request: ApiRequest) -> Answer {
        let uri = request.path.parse().expect("a path that we write is one");
        self.send(request.method.parse().unwrap(), uri, request.body).await
    }

    async fn check(&mut self, method: &Method, uri: &Uri, body: &[u8], answer: &Answer) {
        assert!(
            !answer.status.is_server_error(),
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        if !answer.status.is_success() {
            if !answer.body.is_empty() {
                let reply: ErrorReply = answer.read();
                assert!(!reply.error.message.is_empty() && !reply.error.code.is_empty(), "{reply:?}");
            }
            return;
        }
        let place = uri.path().strip_prefix("/v1/").unwrap_or_default();
        let what = place.split('/').next().unwrap_or_default();
        match (what, method.as_str()) {
            ("resolve", _) => self.check_resolve(body, &answer.read()).await,
            ("touch", _) => self.check_touch(body, &answer.read::<TouchReply>()),
            ("changes", "GET") => Self::check_changes(&answer.read()),
            ("counts", "GET") => {
                let reply: CountReply = answer.read();
                assert_eq!(reply.nodes.values().sum::<u64>(), reply.pins, "{reply:?}");
            }
            ("nodes", "GET") if place == "nodes" => drop(answer.read::<NodesReply>()),
            ("nodes", "GET") => drop(answer.read::<NodeRecord>()),
            ("nodes", "PUT") => drop(answer.read::<NodeReply>()),
            ("nodes", "DELETE") => drop(answer.read::<ForgetReply>()),
            ("sessions", "GET") => {
                let reply: SessionReply = answer.read();
                assert!(reply.events.iter().all(|event| event.key == Some(reply.key)), "{reply:?}");
                self.note(&reply.pool, reply.key, reply.version, &reply.node);
            }
            ("sessions", "DELETE") => {
                assert!(answer.read::<EndReply>().ended);
                let again = self.send(Method::GET, without_time(uri), Vec::new()).await;
                assert_eq!(again.status, StatusCode::NOT_FOUND, "a session that was ended has no pin");
            }
            _ => {}
        }
    }

    async fn check_resolve(&mut self, body: &[u8], reply: &ResolveReply) {
        let request = ResolveRequest::parse(body).expect("it was read");
        let asked: Vec<SessionKey> = request.sessions.iter().map(|ask| ask.key).collect();
        let answered: Vec<SessionKey> = reply.pins.iter().map(|pin| pin.key).collect();
        assert_eq!(answered, asked, "each session has an answer, in the order of the request");
        for pin in &reply.pins {
            let life = pin.ttl_ms.unwrap_or(reply.ttl_ms);
            if pin.version == 0 || life == 0 {
                continue;
            }
            self.note(&request.pool, pin.key, pin.version, &pin.node);
            if life > MOMENT {
                let session = self.ask(ApiRequest::session(request.pool.as_str(), pin.key)).await;
                assert_eq!(session.status, StatusCode::OK, "a session that was answered has a pin: {pin:?}");
                let session: SessionReply = session.read();
                assert_eq!(
                    (session.node, session.version),
                    (pin.node.clone(), pin.version),
                    "an answer is kept"
                );
            }
        }
    }

    fn check_touch(&self, body: &[u8], reply: &TouchReply) {
        let request = TouchRequest::parse(body).expect("it was read");
        let asked: Vec<SessionKey> = request.sessions().map(|(key, _)| key).collect();
        assert_eq!(reply.touched + reply.missing.len(), asked.len(), "{reply:?}");
        let named = reply.missing.iter().chain(&reply.changed).chain(reply.ttls_ms.keys());
        assert!(named.into_iter().all(|key| asked.contains(key)), "{reply:?}");
        assert!(reply.unanswered.is_empty(), "the store is there");
    }

    fn check_changes(reply: &ChangesReply) {
        assert!(!reply.resync || reply.events.is_empty(), "a resync has no events");
        let has_times = reply.events.iter().filter_map(|event| event.record.as_ref());
        let needs_clock = has_times.into_iter().any(|record| record.cooldown_until_ms.is_some());
        assert!(!needs_clock || reply.now_ms.is_some(), "times come with the clock's");
    }

    /// No version is ever given to two nodes.
    fn note(&mut self, pool: &PoolName, key: SessionKey, version: u64, node: &NodeId) {
        let owner = self.owners.entry((pool.clone(), key, version)).or_insert_with(|| node.clone());
        assert_eq!(owner, node, "version {version} of {} has two owners", key.short());
    }
}

/// The same session, without the time of its end.
fn without_time(uri: &Uri) -> Uri {
    let query = uri.query().unwrap_or_default().split('&').filter(|pair| pair.starts_with("pool="));
    format!("{}?{}", uri.path(), query.collect::<Vec<_>>().join("&")).parse().unwrap()
}
