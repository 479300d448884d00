//! Every hostcall that Berth makes, as bytes and options.
//!
//! A refused call is never fatal here: a header that cannot be read is absent, a value that cannot be stored is not
//! stored. Only the `*_bytes` calls of the SDK are used, since the others panic on bytes that are not UTF-8.

use std::time::{Duration, UNIX_EPOCH};

use berth_core::call::CallFailure;
use berth_core::config::StateCluster;
use berth_core::event::CallResult;
use berth_core::time::Millis;
use berth_core::wire::ApiRequest;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType, Status};

/// Envoy's admin writes 250 bytes a host; what is larger than this would not be an answer but an attack on memory.
const LARGEST_ANSWER: usize = 16 << 20;
/// So many bytes of an answer's body get into the log if its status is not 200.
const LOGGED: usize = 160;

/// The wall clock. A clock that cannot be read stands at zero.
pub(crate) fn now() -> Millis {
    let since_epoch =
        hostcalls::get_current_time().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Millis(since_epoch.and_then(|length| u64::try_from(length.as_millis()).ok()).unwrap_or(0))
}

/// 128 random bits.
pub(crate) fn random() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

pub(crate) fn set_tick_period(period: Millis) {
    let _ = hostcalls::set_tick_period(Duration::from_millis(period.0));
}

pub(crate) fn plugin_configuration(size: usize) -> Option<Vec<u8>> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten()
}

/// A request header; the first of several with one name. HTTP/2's split cookies are one by then. Only while the request's
/// headers are being handled.
pub(crate) fn request_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
}

/// Sets a request header in place of all of that name. Clears the route cache.
pub(crate) fn set_request_header(name: &str, value: &[u8]) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value));
}

pub(crate) fn remove_request_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
}

/// A response header, of several of one name the first. Only while the response's headers are being handled.
pub(crate) fn response_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten()
}

/// Every request header of this name, in order. Only while the request's headers are being handled.
pub(crate) fn request_headers(name: &str) -> Vec<Vec<u8>> {
    headers(MapType::HttpRequestHeaders, name)
}

/// Every response header of this name, in order. Only while the response's headers are being handled.
pub(crate) fn response_headers(name: &str) -> Vec<Vec<u8>> {
    headers(MapType::HttpResponseHeaders, name)
}

/// True if there is a request header of one of these names, whatever its value. Only while the request's headers are being
/// handled.
pub(crate) fn has_request_header(names: &[&str]) -> bool {
    has(MapType::HttpRequestHeaders, names)
}

/// True if there is a response header of one of these names, whatever its value.
pub(crate) fn has_response_header(names: &[&str]) -> bool {
    has(MapType::HttpResponseHeaders, names)
}

/// Not by their values: the SDK takes an empty one for none.
fn has(map: MapType, names: &[&str]) -> bool {
    let all = hostcalls::get_map_bytes(map).unwrap_or_default();
    all.iter().any(|(found, _)| names.contains(&found.as_str()))
}

fn headers(map: MapType, name: &str) -> Vec<Vec<u8>> {
    let all = hostcalls::get_map_bytes(map).unwrap_or_default();
    all.into_iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect()
}

pub(crate) fn remove_response_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpResponseHeaders, name);
}

pub(crate) fn set_response_header(name: &str, value: &[u8]) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpResponseHeaders, name, Some(value));
}

pub(crate) fn add_response_header(name: &str, value: &[u8]) {
    let _ = hostcalls::add_map_value_bytes(MapType::HttpResponseHeaders, name, value);
}

pub(crate) fn respond(status: u32, headers: Vec<(&str, &str)>, body: &str) {
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

/// One of Envoy's attributes.
pub(crate) fn property(path: Vec<&str>) -> Option<Vec<u8>> {
    hostcalls::get_property(path).ok().flatten()
}

/// A value that all VMs of this Envoy share, with the token for replacing it.
pub(crate) fn shared(key: &str) -> (Option<Vec<u8>>, Option<u32>) {
    hostcalls::get_shared_data(key).unwrap_or((None, None))
}

/// Replaces a shared value. With a token: only if no other VM has replaced it since, else false.
pub(crate) fn set_shared(key: &str, value: &[u8], token: Option<u32>) -> bool {
    hostcalls::set_shared_data(key, Some(value), token).is_ok()
}

/// Envoy refused the call at once.
fn refused(status: Status) -> CallFailure {
    CallFailure::new(match status {
        Status::BadArgument => "Envoy has no cluster of that name",
        _ => "Envoy has no healthy host for it",
    })
}

/// Sends a GET of `path` from this host; a failure if Envoy refused it at once.
pub(crate) fn get(cluster: &str, host: &str, path: &str, timeout: Millis) -> Result<u32, CallFailure> {
    let headers = vec![(":method", "GET"), (":path", path), (":authority", host)];
    let timeout = Duration::from_millis(timeout.0);
    hostcalls::dispatch_http_call(cluster, headers, None, vec![], timeout).map_err(refused)
}

/// Sends a call to the state cluster; a failure if Envoy refused it at once.
pub(crate) fn call(state: &StateCluster, request: &ApiRequest, timeout: Millis) -> Result<u32, CallFailure> {
    let authorization = state.token.as_ref().map(|token| format!("Bearer {token}"));
    let ApiRequest { method, path, body } = request;
    let mut headers = vec![(":method", *method), (":path", path), (":authority", &state.host)];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    if let Some(authorization) = &authorization {
        headers.push(("authorization", authorization));
    }
    let body = (!body.is_empty()).then_some(&body[..]);
    let timeout = Duration::from_millis(timeout.0);
    hostcalls::dispatch_http_call(&state.cluster, headers, body, vec![], timeout).map_err(refused)
}

/// The body of the answer that is being delivered, if it is a 200; else how the call failed. `headers` is their number:
/// none means that the call broke down, and asking for one would then trap.
pub(crate) fn answer_body(headers: usize, size: usize) -> Result<Vec<u8>, CallFailure> {
    if headers == 0 {
        return Err(CallFailure::new(
            "the call broke down without an answer: a connection that was closed, or a body of more than 32 MB",
        ));
    }
    let body = |most| hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, most).ok().flatten();
    let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten();
    let status = status.unwrap_or_default();
    if status == b"200" && size == 0 {
        return Ok(Vec::new());
    }
    if status == b"200" && size <= LARGEST_ANSWER {
        return body(size).ok_or_else(|| CallFailure::new("200, whose body cannot be read"));
    }
    if status.starts_with(b"3") {
        let location = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, "location");
        let [status, location] = [status, location.ok().flatten().unwrap_or_default()].map(printable);
        return Err(CallFailure::redirected(&status, &location));
    }
    // Envoy's own answers say in their body why the service gave no answer: a reset connection, or a timeout.
    let mut detail = [&status[..], b" "].concat();
    detail.extend(body(size.min(LOGGED)).unwrap_or_default());
    Err(CallFailure {
        // Envoy's own answer when a call's time is up.
        result: if status == b"504" { CallResult::TimedOut } else { CallResult::Failed },
        is_missing: status == b"404",
        is_refused: status == b"400",
        size,
        detail: printable(detail),
    })
}

/// What others sent, for the log.
fn printable(mut bytes: Vec<u8>) -> String {
    bytes.iter_mut().filter(|byte| !matches!(byte, b' '..=b'~')).for_each(|byte| *byte = b'?');
    String::from_utf8(bytes).unwrap_or_default()
}

/// From here on hostcalls are about that stream, or the root. False if it has ended: then they would still be about
/// another one.
pub(crate) fn act_as(context: u32) -> bool {
    hostcalls::set_effective_context(context).is_ok()
}

/// Has the SDK call the root's `on_queue_ready` now, in the middle of a stream's callback. The SDK notes each call to another
/// service for the context whose callback it takes this to be, and offers no other way to make that the root.
///
/// Only from a callback of a stream: the SDK's list of roots must not be in use.
#[expect(unsafe_code, reason = "the SDK exports the function to the host alone")]
pub(crate) fn enter(root: u32) {
    /// There is no such queue.
    const NO_QUEUE: u32 = 0;
    unsafe extern "C" {
        /// Of proxy-wasm 0.2: linked into this module.
        safe fn proxy_on_queue_ready(context_id: u32, queue_id: u32);
    }
    proxy_on_queue_ready(root, NO_QUEUE);
}

/// Lets a paused request go on, once this callback is over.
pub(crate) fn resume_request() {
    let _ = hostcalls::resume_http_request();
}

/// Lets a response that is held go on, once this callback is over. Of one that is not held Envoy would not survive it.
pub(crate) fn resume_response() {
    let _ = hostcalls::resume_http_response();
}

/// A metric's id; `None` if the host refuses it, and then it is not counted.
pub(crate) fn define_counter(name: &str) -> Option<u32> {
    hostcalls::define_metric(MetricType::Counter, name).ok()
}

pub(crate) fn define_gauge(name: &str) -> Option<u32> {
    hostcalls::define_metric(MetricType::Gauge, name).ok()
}

pub(crate) fn increment(metric: Option<u32>, by: u64) {
    if let (Some(metric), Ok(by)) = (metric, i64::try_from(by)) {
        let _: Result<(), Status> = hostcalls::increment_metric(metric, by);
    }
}

pub(crate) fn set_gauge(metric: Option<u32>, value: u64) {
    if let Some(metric) = metric {
        let _ = hostcalls::record_metric(metric, value);
    }
}

/// Adds to a gauge, or takes away from it.
pub(crate) fn change_gauge(metric: u32, by: i64) {
    let _ = hostcalls::increment_metric(metric, by);
}
