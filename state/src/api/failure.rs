//! What can go wrong with a request, and the one table of what is answered then. `problem` writes it.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::token::Refusal;
use berth_core::wire::{Fault, MAX_BODY};

use super::access::{Action, Unknown};
use super::problem::Failed;
use crate::store::{StoreError, StoreErrorKind};

#[derive(Debug)]
pub(super) enum Failure {
    Invalid(Vec<Fault>),
    Unauthorized(Unknown),
    /// Known who asks, and they may not do this.
    Forbidden(Action),
    NotFound(String),
    /// There is no pin to end. That the session is over is remembered, by replicas too if they were asked and confirm.
    NothingToEnd {
        what: String,
        durable: Option<bool>,
    },
    Method,
    SlowBody,
    BrokenBody,
    TooLarge,
    TooMany,
    /// There are as many pools as may be.
    TooManyPools(usize),
    Store(StoreError),
    /// What of the store takes no writes.
    NotReady(String),
    Leaving,
    Internal,
}

impl Failure {
    pub(super) fn invalid(path: &str, message: String) -> Self {
        Self::Invalid(vec![Fault { path: path.to_owned(), message }])
    }

    /// Status, code, and a title for the code.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request", "The request has faults"),
            Self::BrokenBody => (StatusCode::BAD_REQUEST, "broken_body", "The body is incomplete"),
            Self::Unauthorized(_) => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "The caller is not identified")
            }
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "The caller may not do this"),
            Self::NotFound(_) | Self::NothingToEnd { .. } => {
                (StatusCode::NOT_FOUND, "not_found", "Not found")
            }
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "slow_body", "The body took too long"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large"),
            Self::TooMany => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests at once")
            }
            Self::TooManyPools(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_pools", "Too many pools"),
            Self::Store(_) | Self::NotReady(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "The store is not available")
            }
            Self::Leaving => (StatusCode::SERVICE_UNAVAILABLE, "stopping", "This instance is about to stop"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Invalid(faults) => match faults.len() {
                1 => "the request has 1 fault".to_owned(),
                count => format!("the request has {count} faults"),
            },
            Self::BrokenBody => "the body ended early".to_owned(),
            Self::Unauthorized(Unknown::Missing) => {
                "send the header authorization: Bearer <token>".to_owned()
            }
            Self::Unauthorized(Unknown::Refused(Refusal::Expired)) => {
                "the token has expired: get a new one".to_owned()
            }
            Self::Unauthorized(_) => "the token is not accepted: get one that is for this service".to_owned(),
            Self::Forbidden(action) => match (action, action.scope()) {
                (_, None) => {
                    "only proxies may do this, by the service's static token or a client certificate"
                        .to_owned()
                }
                // A token without the scope is refused earlier: only proxies come here.
                (Action::ChangeNode, Some(scope)) => format!(
                    "proxies may only set a node's cooldown_until_ms: all else needs a token with the scope {scope}"
                ),
                (_, Some(scope)) => format!("this needs a token with the scope {scope}"),
            },
            Self::NotFound(what) | Self::NothingToEnd { what, .. } => what.clone(),
            Self::Method => "this path has no such method".to_owned(),
            Self::SlowBody => "the body took too long".to_owned(),
            Self::TooLarge => format!("the body may have {MAX_BODY} bytes"),
            Self::TooMany => "too many requests at once: ask another instance, or later".to_owned(),
            Self::TooManyPools(most) => format!(
                "{most} pools are in use, as many as this service takes: is the pool's name made up? Else raise --pools"
            ),
            Self::Store(error) => error.to_string(),
            Self::NotReady(readiness) => readiness.clone(),
            Self::Leaving => "this instance is about to stop: ask another".to_owned(),
            Self::Internal => "the answer could not be written".to_owned(),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3).
    fn challenge(&self) -> Option<String> {
        match self {
            Self::Unauthorized(Unknown::Missing) => Some("Bearer".to_owned()),
            Self::Unauthorized(Unknown::Refused(refusal)) => Some(refusal.challenge().to_owned()),
            // The same words, whatever was wrong.
            Self::Unauthorized(Unknown::Wrong) => Some(Refusal::Malformed.challenge().to_owned()),
            Self::Forbidden(action) => Some(match action.scope() {
                Some(scope) => format!(r#"Bearer error="insufficient_scope", scope="{scope}""#),
                None => r#"Bearer error="insufficient_scope""#.to_owned(),
            }),
            _ => None,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        let (status, code, title) = failure.kind();
        let message = failure.message();
        let challenge = failure.challenge().and_then(|text| HeaderValue::try_from(text).ok());
        let reason = match &failure {
            Failure::Store(error) => Some(error.kind()),
            _ => None,
        };
        let durable = match failure {
            Failure::NothingToEnd { durable, .. } => durable,
            _ => None,
        };
        let faults = match failure {
            Failure::Invalid(faults) => faults,
            _ => Vec::new(),
        };
        let mut response = Self::new(Body::empty());
        response.extensions_mut().insert(Failed { code, title, message, faults, durable });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(reason) = reason {
            response.extensions_mut().insert(StoreFailed(reason));
        }
        response
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.into()
    }
}

/// Marks a response for the metrics: the store failed for this reason.
#[derive(Clone, Copy)]
pub(super) struct StoreFailed(pub(super) StoreErrorKind);
