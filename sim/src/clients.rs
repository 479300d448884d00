//! Sessions and what their requests look like to a proxy.

use berth_core::attributes::{Attributes, ResponseHeaders};
use berth_core::time::Millis;
use berth_core::wire::SessionKey;

/// The one pool.
pub const POOL: &str = "nodes";
/// How many calls of lookups a proxy may have under way at once.
pub const MAX_CALLS: usize = 8;
/// The path of the metadata with the claims of a token that Envoy has verified.
const CLAIMS: [&str; 4] = ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "mesh"];

/// What kind of session it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Named by a header.
    Plain,
    /// Only its node may serve it.
    Strict,
    /// Named by a token with a version.
    Token,
    /// As a plain one, with requests of many seconds.
    Long,
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    /// What it is called.
    pub id: String,
    /// What leaves the proxy in its place.
    pub key: SessionKey,
    /// What kind it is.
    pub kind: Kind,
    /// Of its token.
    pub version: u32,
}

impl Session {
    /// A session of this number.
    #[must_use]
    pub fn new(number: usize, kind: Kind) -> Self {
        let id = format!("session-{number}");
        Self { key: SessionKey::new(POOL, id.as_bytes()), id, kind, version: 1 }
    }

    /// What a request of it says.
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers { id: self.id.clone(), kind: self.kind, version: self.version }
    }
}

/// What a request says of itself.
#[derive(Debug, Clone)]
pub struct Headers {
    id: String,
    kind: Kind,
    version: u32,
}

impl Headers {
    /// As the worker reads it at `now`.
    #[must_use]
    pub fn at(&self, now: Millis) -> AtNow<'_> {
        AtNow { headers: self, now }
    }
}

/// A request at a moment.
#[derive(Debug)]
pub struct AtNow<'h> {
    headers: &'h Headers,
    now: Millis,
}

impl Attributes for AtNow<'_> {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        let Headers { id, kind, .. } = self.headers;
        match (name, kind) {
            (":path", Kind::Strict) => Some(b"/strict".to_vec()),
            (":path", Kind::Token) => Some(b"/token".to_vec()),
            (":path", _) => Some(b"/".to_vec()),
            (":authority", _) => Some(b"example.com".to_vec()),
            (_, Kind::Token) => None,
            ("x-session", _) => Some(id.clone().into_bytes()),
            _ => None,
        }
    }

    fn header_lines(&self, _name: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let Headers { id, kind, version } = self.headers;
        match path.strip_prefix(&CLAIMS) {
            Some(["sid"]) if *kind == Kind::Token => Some(id.clone().into_bytes()),
            Some(["sv"]) if *kind == Kind::Token => Some(version.to_string().into_bytes()),
            _ => (path == ["xds", "cluster_name"]).then(|| POOL.as_bytes().to_vec()),
        }
    }

    fn now(&self) -> Millis {
        self.now
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _provider: usize, _now: Millis) -> bool {
        false
    }
}

/// How the response of a request begins.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Which host answered.
    pub address: Option<String>,
    /// Envoy's response flags.
    pub flags: u64,
    /// How many hosts were tried.
    pub attempts: u64,
}

impl Answer {
    /// As the worker reads it at `now`.
    #[must_use]
    pub fn at(&self, now: Millis) -> AnswerAtNow<'_> {
        AnswerAtNow { answer: self, now }
    }
}

/// A response at a moment.
#[derive(Debug)]
pub struct AnswerAtNow<'a> {
    answer: &'a Answer,
    now: Millis,
}

impl Attributes for AnswerAtNow<'_> {
    fn header(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn header_lines(&self, _name: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        match path {
            ["upstream", "address"] => self.answer.address.clone().map(String::into_bytes),
            ["upstream", "request_attempt_count"] => Some(self.answer.attempts.to_le_bytes().to_vec()),
            ["response", "flags"] => Some(self.answer.flags.to_le_bytes().to_vec()),
            ["xds", "cluster_name"] => Some(POOL.as_bytes().to_vec()),
            _ => None,
        }
    }

    fn now(&self) -> Millis {
        self.now
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _provider: usize, _now: Millis) -> bool {
        false
    }
}

/// The configuration of each proxy. Times are short, so that a run sees all of them pass.
#[must_use]
pub fn configuration(max_pins: usize) -> String {
    format!(
        r#"{{"v": 1, "poll_interval": "1s",
        "state": {{"cluster": "berth_state", "timeout": "50ms", "max_calls": {MAX_CALLS}, "max_pins": {max_pins}}},
        "jwt_providers": [{{"name": "mesh", "on_invalid": "reject", "verified_upstream": {{"payload_in_metadata": "mesh"}}}}],
        "pools": [{{"name": "nodes", "cluster": "nodes", "session": {{"sources": [{{"header": "x-session"}}]}},
            "ring": {{"algorithm": "ring_hash", "virtual_nodes": 16}},
            "panic_threshold": 50, "panic_hold": "2s", "vanish_grace": "4s",
            "health": {{"cooldown": "8s", "max_cooldown": "16s", "warm_up": "4s", "passive_failures": 3}}}}],
        "rules": [
            {{"name": "strict", "match": {{"path_prefixes": ["/strict"]}}, "pool": "nodes", "affinity": "strict"}},
            {{"name": "token", "match": {{"path_prefixes": ["/token"]}}, "pool": "nodes",
              "session": {{"sources": [{{"jwt": "mesh", "claim": "sid", "version": "sv"}}], "superseded": "reject"}}}},
            {{"name": "rest", "pool": "nodes"}}]}}"#
    )
}

impl ResponseHeaders for AnswerAtNow<'_> {
    fn response_header(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn set_cookies(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
