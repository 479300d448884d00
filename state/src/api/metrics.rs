//! Counts, and how Prometheus reads them. Labels are calls, statuses, outcomes and reasons: never a session or a node.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use berth_core::token::Refusal;
use berth_core::wire::{Outcome, Pin};

use super::access::Unknown;
use super::call::Call;
use super::failure::StoreFailed;

const CALLS: [&str; 6] = ["resolve", "touch", "changes", "nodes", "node", "session"];
/// Every status that is answered; the last stands for all others.
const STATUSES: [u16; 12] = [200, 400, 401, 403, 404, 405, 408, 413, 429, 503, 500, 0];
const OUTCOMES: [Outcome; 3] = [Outcome::Found, Outcome::Claimed, Outcome::Rehomed];
const STORE_FAILURES: [&str; 4] = ["timeout", "suspended", "unreachable", "refused"];
/// What came of tokens, before the reasons to refuse one.
const TOKENS: [&str; 3] = ["verified", "missing", "wrong"];
/// In microseconds, around the promise of 2 ms and the timeouts of 40 and 50 ms.
const BUCKETS: [u64; 9] = [250, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000];

#[derive(Default)]
pub(super) struct Metrics {
    requests: [[AtomicU64; STATUSES.len()]; CALLS.len()],
    resolved: [AtomicU64; OUTCOMES.len()],
    restores: AtomicU64,
    /// Not confirmed, confirmed.
    durable: [AtomicU64; 2],
    store_failures: [AtomicU64; STORE_FAILURES.len()],
    tokens: [AtomicU64; TOKENS.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    resolve_buckets: [AtomicU64; BUCKETS.len()],
    resolve_micros: AtomicU64,
    resolve_count: AtomicU64,
}

impl Metrics {
    pub(super) fn answered(&self, call: Call, response: &Response, took: Duration) {
        let status = response.status();
        let at = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        add(self.requests.get(call as usize).and_then(|of_call| of_call.get(at)), 1);
        if let Some(StoreFailed(reason)) = response.extensions().get() {
            let at = STORE_FAILURES.iter().position(|known| known == reason);
            add(at.and_then(|at| self.store_failures.get(at)), 1);
        }
        if call == Call::Resolve && status == StatusCode::OK {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let bucket = BUCKETS.iter().position(|most| micros <= *most);
            add(bucket.and_then(|bucket| self.resolve_buckets.get(bucket)), 1);
            add(Some(&self.resolve_micros), micros);
            add(Some(&self.resolve_count), 1);
        }
    }

    pub(super) fn resolved(&self, pin: &Pin) {
        let at = OUTCOMES.iter().position(|outcome| *outcome == pin.outcome);
        add(at.and_then(|at| self.resolved.get(at)), 1);
        add(pin.restore.then_some(&self.restores), 1);
        add(pin.durable.and_then(|durable| self.durable.get(usize::from(durable))), 1);
    }

    /// A token was verified. The static one is not counted: it comes with every request of a proxy.
    pub(super) fn verified(&self) {
        add(self.tokens.first(), 1);
    }

    /// Nobody knows who asked.
    pub(super) fn unknown(&self, unknown: Unknown) {
        add(
            match unknown {
                Unknown::Missing => self.tokens.get(1),
                Unknown::Wrong => self.tokens.get(2),
                Unknown::Refused(refusal) => {
                    let at = Refusal::ALL.iter().position(|known| *known == refusal);
                    at.and_then(|at| self.refused.get(at))
                }
            },
            1,
        );
    }

    /// The text format of Prometheus. What was never counted is left out where it would be many lines of zeros.
    pub(super) fn show(&self, in_flight: usize, polls: usize) -> String {
        let mut page = Page(String::with_capacity(4096));
        page.head("berth_state_requests_total", "counter", "Requests answered, by call and status.");
        for (call, of_call) in CALLS.iter().zip(&self.requests) {
            for (status, count) in STATUSES.iter().zip(of_call) {
                let count = load(count);
                if count > 0 {
                    page.line(
                        "berth_state_requests_total",
                        &format!("call=\"{call}\",status=\"{status}\""),
                        count,
                    );
                }
            }
        }
        page.head("berth_state_resolved_total", "counter", "Sessions resolved, by outcome.");
        for (outcome, count) in OUTCOMES.iter().zip(&self.resolved) {
            page.line("berth_state_resolved_total", &format!("outcome=\"{}\"", outcome.name()), load(count));
        }
        page.head("berth_state_restores_total", "counter", "Sessions found on a restarted node.");
        page.line("berth_state_restores_total", "", load(&self.restores));
        page.head(
            "berth_state_durable_total",
            "counter",
            "Sessions resolved under quorum, by a replica's word.",
        );
        for (confirmed, count) in ["false", "true"].iter().zip(&self.durable) {
            page.line("berth_state_durable_total", &format!("confirmed=\"{confirmed}\""), load(count));
        }
        page.head(
            "berth_state_store_failures_total",
            "counter",
            "Requests that the store failed, by reason.",
        );
        for (reason, count) in STORE_FAILURES.iter().zip(&self.store_failures) {
            page.line("berth_state_store_failures_total", &format!("reason=\"{reason}\""), load(count));
        }
        page.head("berth_state_tokens_total", "counter", "Bearer tokens that were verified, or why not.");
        let refusals = Refusal::ALL.iter().map(|refusal| refusal.name());
        for (result, count) in TOKENS.into_iter().chain(refusals).zip(self.tokens.iter().chain(&self.refused))
        {
            page.line("berth_state_tokens_total", &format!("result=\"{result}\""), load(count));
        }
        page.head("berth_state_resolve_seconds", "histogram", "Time to answer a resolve request.");
        let mut total = 0;
        for (most, count) in BUCKETS.iter().zip(&self.resolve_buckets) {
            total += load(count);
            let label = format!("le=\"{}\"", seconds(*most));
            page.line("berth_state_resolve_seconds_bucket", &label, total);
        }
        page.line("berth_state_resolve_seconds_bucket", "le=\"+Inf\"", load(&self.resolve_count));
        let _ = writeln!(page.0, "berth_state_resolve_seconds_sum {}", seconds(load(&self.resolve_micros)));
        page.line("berth_state_resolve_seconds_count", "", load(&self.resolve_count));
        page.head("berth_state_free_places", "gauge", "How many more requests are taken before 429.");
        page.line("berth_state_free_places", "of=\"requests\"", in_flight as u64);
        page.line("berth_state_free_places", "of=\"polls\"", polls as u64);
        page.0
    }
}

fn add(counter: Option<&AtomicU64>, count: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Exact, where a float might not be.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}
