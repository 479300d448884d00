//! How a failure is written: as problem details (RFC 9457) for clients that accept them, else as the `ErrorReply` that all
//! clients got before. What is said is decided in `failure`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use berth_core::wire::{ErrorBody, ErrorReply, Fault};
use serde::Serialize;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
/// What the type of a problem begins with; its code follows. Names only: there is nothing to fetch.
const TYPE: &str = "urn:berth:problem:";

/// What a failed request is answered, whichever way it is written.
#[derive(Clone)]
pub(super) struct Failed {
    pub(super) code: &'static str,
    /// The same for each failure with this code.
    pub(super) title: &'static str,
    pub(super) message: String,
    pub(super) faults: Vec<Fault>,
    /// Whether replicas confirmed what was written all the same, if they were asked.
    pub(super) durable: Option<bool>,
}

#[derive(Serialize)]
struct Problem<'f> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'f str,
    code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Detail<'f>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<bool>,
}

#[derive(Serialize)]
struct Detail<'f> {
    path: &'f str,
    detail: &'f str,
}

/// Writes the body of a failure, as the request asks for.
pub(super) async fn represent(request: Request, next: Next) -> Response {
    let as_problem = prefers_problem(request.headers());
    let mut response = next.run(request).await;
    let Some(failed) = response.extensions_mut().remove::<Failed>() else { return response };
    let (content_type, body) = if as_problem {
        let problem = Problem {
            kind: format!("{TYPE}{}", failed.code),
            title: failed.title,
            status: response.status().as_u16(),
            detail: &failed.message,
            code: failed.code,
            errors: failed.faults.iter().map(|f| Detail { path: &f.path, detail: &f.message }).collect(),
            durable: failed.durable,
        };
        (PROBLEM, serde_json::to_vec(&problem))
    } else {
        let Failed { code, message, faults, durable, .. } = failed;
        let reply = ErrorReply { error: ErrorBody { code: code.to_owned(), message, faults, durable } };
        (JSON, serde_json::to_vec(&reply))
    };
    *response.body_mut() = Body::from(body.unwrap_or_default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Only a client that names it (`*/*` does not), and does not prefer plain JSON.
fn prefers_problem(headers: &HeaderMap) -> bool {
    let problem = quality(headers, PROBLEM);
    problem > 0.0 && problem >= quality(headers, JSON)
}

/// The weight of a media type that the client names (RFC 9110, section 12.5.1); 0 if it does not.
fn quality(headers: &HeaderMap, name: &str) -> f32 {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let weights = ranges.flat_map(|value| value.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next()?.eq_ignore_ascii_case(name);
        let weight = parts.filter_map(|part| part.split_once('=')).find(|(q, _)| q.eq_ignore_ascii_case("q"));
        is_named.then(|| weight.map_or(1.0, |(_, weight)| weight.parse().unwrap_or(0.0)))
    });
    weights.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_details_are_for_clients_that_name_them() {
        for (accept, is_problem) in [
            (&["application/problem+json"][..], true),
            (&["Application/Problem+JSON; charset=utf-8"], true),
            (&["application/json, application/problem+json"], true),
            (&["application/json;q=0.5", "application/problem+json; q=0.9"], true),
            (&["text/html, application/problem+json;q=0.1"], true),
            (&[], false),
            (&["*/*"], false),
            (&["application/*"], false),
            (&["application/json"], false),
            (&["application/json, application/problem+json;q=0.5"], false),
            (&["application/problem+json;q=0"], false),
            (&["application/problem+json;q=0.000"], false),
            (&["application/problem+json;q=high"], false),
            (&["application/problem+xml"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(prefers_problem(&headers), is_problem, "{accept:?}");
        }
    }
}
