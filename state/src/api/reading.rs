//! Taking requests apart: bodies within bounds of size and time, queries and paths with every fault named.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use berth_core::time::Millis;
use berth_core::wire::{Fault, MAX_BODY, PoolName};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::failure::Failure;

/// A body comes from a proxy nearby in one or two packets; who takes longer holds a place in flight for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that is not used: how much of it is read before the refusal, and for how long. Any change of a node fits.
const MAX_IGNORED: usize = 4096;
const IGNORED_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) async fn body(request: Request) -> Result<Bytes, Failure> {
    let read = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
        Ok(Err(_)) => Err(Failure::BrokenBody),
        Err(_) => Err(Failure::SlowBody),
    }
}

/// Takes in a short body, and leaves a long one. An answer before the end of a body resets the stream over HTTP/2, which
/// is allowed (RFC 9113, section 8.1), but curl 7.88 then reports a framing error and not the answer.
pub(super) async fn ignore_body(request: Request) {
    let read = Limited::new(request.into_body(), MAX_IGNORED).collect();
    let _ = tokio::time::timeout(IGNORED_TIMEOUT, read).await;
}

/// What stands in the path where the route has a name.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        // The framework's own refusal is a text that no client expects.
        let segment = Path::from_request_parts(parts, state).await.map(|Path(text)| Self(text));
        segment.map_err(|_| Failure::invalid("path", "must be UTF-8 where it is percent-encoded".to_owned()))
    }
}

pub(super) fn name_in_path<T: FromStr<Err: ToString>>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: T::Err| Failure::invalid(what, error.to_string()))
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A query string whose parameters are taken one by one; what is not taken is unknown.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Query {
    pub(super) fn new(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        Self { pairs, faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, path: &str, message: String) {
        self.faults.push(Fault { path: path.to_owned(), message });
    }

    pub(super) fn pool(&mut self) -> Option<PoolName> {
        if !self.pairs.iter().any(|(name, _)| name == "pool") {
            self.fault("pool", "is missing".to_owned());
        }
        self.optional("pool")
    }

    pub(super) fn optional<T: FromStr<Err: ToString>>(&mut self, name: &str) -> Option<T> {
        let at = self.pairs.iter().position(|(other, _)| other == name)?;
        let (_, value) = self.pairs.swap_remove(at);
        value.parse().map_err(|error: T::Err| self.fault(name, error.to_string())).ok()
    }

    /// A length of time, 0 to `most` milliseconds; 0 if it is not given.
    pub(super) fn millis(&mut self, name: &str, most: u64) -> Millis {
        let Some(text) = self.optional::<String>(name) else { return Millis(0) };
        let length = text.parse().ok().filter(|length| *length <= most);
        if length.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.fault(name, format!("must be 0 to {most} milliseconds, is {shown:?}"));
        }
        Millis(length.unwrap_or(0))
    }

    pub(super) fn only_pool(mut self) -> Result<PoolName, Failure> {
        let pool = self.pool();
        self.finish()?;
        pool.ok_or(Failure::Invalid(Vec::new()))
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let name: String = name.chars().take(64).collect();
            self.fault(&name, "is not a parameter, or is given twice".to_owned());
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Failure::Invalid(self.faults)) }
    }
}
