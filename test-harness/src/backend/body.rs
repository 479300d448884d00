//! What an answer of a fake node is made of.

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Response, StatusCode};

pub(super) type Answer = Response<BoxBody<Bytes, Failure>>;
/// A handler that fails has its connection closed, or its stream reset.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(whole(body.into()).boxed());
    *answer.status_mut() = status;
    answer
}

pub(super) fn whole(body: Bytes) -> impl hyper::body::Body<Data = Bytes, Error = Failure> {
    Full::new(body).map_err(|never| match never {})
}
