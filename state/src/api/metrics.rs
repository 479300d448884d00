//! Counts, and how Prometheus reads them. Labels are calls, statuses, outcomes and reasons: never a session or a node.
//!
//! The set of values of each label is a type, so a value that is not known does not compile. Where the set is small, each
//! value is shown from the start, so that its first increase is seen as one.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use berth_core::token::Refusal;
use berth_core::wire::{Outcome, Pin};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::access::Unknown;
use super::call::Call;
use super::failure::StoreFailed;
use crate::connections::{Closed, Connections};
use crate::follow;
use crate::store::StoreErrorKind;
use crate::store::readiness::{Cause, Readiness};

pub(super) use prometheus_text::CONTENT_TYPE;

/// In seconds, around the promise of 2 ms and the timeouts of 40 and 50 ms.
const BUCKETS: [f64; 9] = [0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1];

/// The service's metrics, and the registry that shows them.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<(Of<Call>, Of<Status>), Counter>,
    resolved: Family<Of<Outcome>, Counter>,
    restores: Counter,
    durable: Family<Of<Confirmed>, Counter>,
    store_failures: Family<Of<StoreErrorKind>, Counter>,
    tokens: Family<Of<Token>, Counter>,
    resolve_time: Histogram,
    free_places: Family<Of<Places>, Gauge>,
    connections: Family<Of<Admitted>, Gauge>,
    connections_closed: Family<Of<Closed>, Counter>,
    files_current: Family<Of<FileName>, Gauge>,
    certificate_expiry: Family<Of<FileName>, Gauge>,
    shard_ready: Family<Of<Shard>, Gauge>,
    shard_durable: Family<Of<Shard>, Gauge>,
    shards_away: Family<Of<Cause>, Gauge>,
    unanswered: Counter,
    limited: Counter,
    unreadable: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let tokens = [Token::Verified, Token::Unknown(Unknown::Missing), Token::Unknown(Unknown::Wrong)];
        let refused = Refusal::ALL.map(|refusal| Token::Unknown(Unknown::Refused(refusal)));
        let tokens = counters(tokens.into_iter().chain(refused));
        let resolved = counters([Outcome::Found, Outcome::Claimed, Outcome::Rehomed]);
        let durable = counters([Confirmed(false), Confirmed(true)]);
        let store_failures = counters(StoreErrorKind::ALL);

        // What is shown as `berth_state_requests_total`: the library adds `_total` to counters.
        let mut registry = Registry::with_prefix("berth_state");
        let of = &mut registry;
        Self {
            requests: shown(of, "requests", "Requests answered, by call and status", Family::default()),
            resolved: shown(of, "resolved", "Sessions resolved, by outcome", resolved),
            restores: shown(of, "restores", "Sessions found on a restarted node", Counter::default()),
            durable: shown(of, "durable", "Changes acknowledged under quorum, by a replica's word", durable),
            store_failures: shown(
                of,
                "store_failures",
                "Requests that the store failed, by reason",
                store_failures,
            ),
            tokens: shown(of, "tokens", "Bearer tokens that were verified, or why not", tokens),
            resolve_time: shown(
                of,
                "resolve_seconds",
                "Time to answer a resolve request",
                Histogram::new(BUCKETS),
            ),
            free_places: shown(
                of,
                "free_places",
                "How many more requests are taken before 429",
                Family::default(),
            ),
            connections: shown(
                of,
                "connections",
                "Open connections: new until a request was authorised, then admitted",
                Family::default(),
            ),
            connections_closed: shown(
                of,
                "connections_closed",
                "Connections that the service closed, by reason",
                counters(Closed::ALL),
            ),
            files_current: shown(
                of,
                "files_current",
                "1 if what is in the followed files is used, 0 if what was there before is",
                Family::default(),
            ),
            certificate_expiry: shown(
                of,
                "certificate_expiry_timestamp_seconds",
                "When the certificates in use are over, by setting",
                Family::default(),
            ),
            shard_ready: shown(of, "shard_ready", "1 if the shard takes writes, else 0", Family::default()),
            shard_durable: shown(
                of,
                "shard_durable",
                "1 if replicas confirm the shard's writes, else 0; under quorum only",
                Family::default(),
            ),
            shards_away: shown(of, "shards_away", "Shards that take no writes, by cause", Family::default()),
            unanswered: shown(
                of,
                "unanswered_sessions",
                "Sessions whose shard was away while others of their request were answered",
                Counter::default(),
            ),
            limited: shown(
                of,
                "limited_sessions",
                "Sessions that did not begin as their pool had begun as many as it may",
                Counter::default(),
            ),
            unreadable: shown(
                of,
                "unreadable_changes",
                "Changes left out as they cannot be read, once for each reader",
                Counter::default(),
            ),
            registry,
        }
    }

    pub(super) fn answered(&self, call: Call, response: &Response, took: Duration) {
        let status = response.status();
        self.requests.get_or_create(&(Of(call), Of(Status(status)))).inc();
        if let Some(StoreFailed(kind)) = response.extensions().get() {
            self.store_failures.get_or_create(&Of(*kind)).inc();
        }
        if call == Call::Resolve && status == StatusCode::OK {
            self.resolve_time.observe(took.as_secs_f64());
        }
    }

    pub(super) fn resolved(&self, pin: &Pin) {
        self.resolved.get_or_create(&Of(pin.outcome)).inc();
        self.restores.inc_by(u64::from(pin.restore));
        self.written(pin.durable);
    }

    /// A change was acknowledged: with or without a replica's word, if it was asked.
    pub(super) fn written(&self, durable: Option<bool>) -> Option<bool> {
        if let Some(durable) = durable {
            self.durable.get_or_create(&Of(Confirmed(durable))).inc();
        }
        durable
    }

    /// A token was verified. The static one is not counted: it comes with every request of a proxy.
    pub(super) fn verified(&self) {
        self.tokens.get_or_create(&Of(Token::Verified)).inc();
    }

    /// The caller could not be identified.
    pub(super) fn unknown(&self, unknown: Unknown) {
        self.tokens.get_or_create(&Of(Token::Unknown(unknown))).inc();
    }

    /// Sessions whose part of the store did not answer, while others' did.
    pub(super) fn unanswered(&self, sessions: usize) {
        self.unanswered.inc_by(sessions as u64);
    }

    /// Sessions that may not begin now.
    pub(super) fn limited(&self, sessions: usize) {
        self.limited.inc_by(sessions as u64);
    }

    /// What is known of the store.
    pub(super) fn store(&self, readiness: &Readiness, unreadable: u64) {
        for shard in 0..readiness.shards {
            let is_away = readiness.away.iter().any(|away| away.shard == shard);
            self.shard_ready.get_or_create(&Of(Shard::numbered(shard))).set(i64::from(!is_away));
            if let Some(unconfirmed) = &readiness.unconfirmed {
                let is_confirmed = unconfirmed.iter().all(|other| other.shard != shard);
                self.shard_durable.get_or_create(&Of(Shard::numbered(shard))).set(i64::from(is_confirmed));
            }
        }
        for cause in Cause::ALL {
            let count = readiness.away.iter().filter(|away| away.cause == cause).count();
            self.shards_away.get_or_create(&Of(cause)).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let known = self.unreadable.get();
        self.unreadable.inc_by(unreadable.saturating_sub(known));
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// Never: a text takes what is written to it.
    pub(super) fn show(
        &self,
        in_flight: usize,
        polls: usize,
        connections: &Connections,
    ) -> Result<String, fmt::Error> {
        let set = |gauge: &Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        for (places, free) in [(Places::Requests, in_flight), (Places::Polls, polls)] {
            set(&self.free_places.get_or_create(&Of(places)), free);
        }
        let (new, admitted) = connections.counts();
        for (standing, count) in [(Admitted(false), new), (Admitted(true), admitted)] {
            set(&self.connections.get_or_create(&Of(standing)), count);
        }
        for why in Closed::ALL {
            let counted = self.connections_closed.get_or_create(&Of(why));
            counted.inner().store(connections.closed(why), Ordering::Relaxed);
        }
        for status in follow::all() {
            self.files_current.get_or_create(&Of(FileName(status.name))).set(i64::from(status.is_current()));
            for (setting, over) in status.expiries() {
                let gauge = self.certificate_expiry.get_or_create(&Of(FileName(setting)));
                gauge.set(i64::try_from(over).unwrap_or(i64::MAX));
            }
        }
        let mut page = String::with_capacity(4096);
        prometheus_text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Registers a metric; the library ends the help text with a full stop.
fn shown<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Counters that are shown from the start.
fn counters<L: Label>(all: impl IntoIterator<Item = L>) -> Family<Of<L>, Counter> {
    let family = Family::default();
    for label in all {
        drop(family.get_or_create(&Of(label)));
    }
    family
}

/// A label whose values are the values of a type.
trait Label: fmt::Debug + Copy {
    const NAME: &'static str;
    fn value(&self) -> &str;
}

/// A set of this one label.
#[derive(Debug, Clone, Copy)]
struct Of<L>(L);

impl<L: Label> PartialEq for Of<L> {
    fn eq(&self, other: &Self) -> bool {
        self.0.value() == other.0.value()
    }
}

impl<L: Label> Eq for Of<L> {}

impl<L: Label> Hash for Of<L> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.value().hash(state);
    }
}

impl<L: Label> EncodeLabelSet for Of<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [(L::NAME, self.0.value())].encode(encoder)
    }
}

impl Label for Call {
    const NAME: &'static str = "call";
    fn value(&self) -> &str {
        self.name()
    }
}

#[derive(Debug, Clone, Copy)]
struct Status(StatusCode);

impl Label for Status {
    const NAME: &'static str = "status";
    fn value(&self) -> &str {
        self.0.as_str()
    }
}

impl Label for Outcome {
    const NAME: &'static str = "outcome";
    fn value(&self) -> &str {
        self.name()
    }
}

/// Whether a replica confirmed a pin.
#[derive(Debug, Clone, Copy)]
struct Confirmed(bool);

impl Label for Confirmed {
    const NAME: &'static str = "confirmed";
    fn value(&self) -> &str {
        if self.0 { "true" } else { "false" }
    }
}

impl Label for StoreErrorKind {
    const NAME: &'static str = "reason";
    fn value(&self) -> &str {
        self.name()
    }
}

/// A shard of the store, by the digit that its keys have.
#[derive(Debug, Clone, Copy)]
struct Shard(&'static str);

impl Shard {
    fn numbered(shard: usize) -> Self {
        Self("0123456789abcdef".get(shard..=shard).unwrap_or("other"))
    }
}

impl Label for Shard {
    const NAME: &'static str = "shard";
    fn value(&self) -> &str {
        self.0
    }
}

impl Label for Cause {
    const NAME: &'static str = "cause";
    fn value(&self) -> &str {
        self.name()
    }
}

/// What became of a bearer token.
#[derive(Debug, Clone, Copy)]
enum Token {
    Verified,
    Unknown(Unknown),
}

impl Label for Token {
    const NAME: &'static str = "result";
    fn value(&self) -> &str {
        match self {
            Self::Verified => "verified",
            Self::Unknown(Unknown::Missing) => "missing",
            Self::Unknown(Unknown::Wrong) => "wrong",
            Self::Unknown(Unknown::Refused(refusal)) => refusal.name(),
        }
    }
}

/// Whether a connection is admitted.
#[derive(Debug, Clone, Copy)]
struct Admitted(bool);

impl Label for Admitted {
    const NAME: &'static str = "standing";
    fn value(&self) -> &str {
        if self.0 { "admitted" } else { "new" }
    }
}

impl Label for Closed {
    const NAME: &'static str = "reason";
    fn value(&self) -> &str {
        self.name()
    }
}

/// Files that are followed together, or the setting that names one of them.
#[derive(Debug, Clone, Copy)]
struct FileName(&'static str);

impl Label for FileName {
    const NAME: &'static str = "file";
    fn value(&self) -> &str {
        self.0
    }
}

/// What there are places for.
#[derive(Debug, Clone, Copy)]
enum Places {
    Requests,
    Polls,
}

impl Label for Places {
    const NAME: &'static str = "of";
    fn value(&self) -> &str {
        match self {
            Self::Requests => "requests",
            Self::Polls => "polls",
        }
    }
}
