//! HTTP in and out: reads requests with core's wire types, asks the store, and maps every outcome to a status.
//!
//! `openapi.yaml` beside this crate is the same interface for other programs; `tests/openapi.rs` holds the two together.
//! Nothing here logs or counts by session: keys appear in logs with their first eight digits, and in metrics not at all.

mod access;
mod admission;
mod call;
mod failure;
mod metrics;
mod pools;
mod problem;
mod reading;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_core::time::Millis;
use berth_core::wire::{
    Cursor, EndReply, ForgetReply, MAX_COOLDOWN, MAX_CORRELATION_ID, MAX_ENDED_AGO, MAX_WAIT, NodeChange,
    NodeId, NodeRecord, NodeReply, NodesReply, Pin, PoolName, ResolveReply, ResolveRequest, SessionKey,
    TouchReply, TouchRequest,
};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

pub use self::access::Access;
use self::access::{Action, Caller, Role};
use self::admission::Admission;
use self::call::Call;
use self::failure::Failure;
use self::metrics::Metrics;
use self::pools::Pools;
use self::reading::{Query, Segment, body, name_in_path};
use crate::changes::Changes;
use crate::connections::{Bounds, Connections, Standing};
use crate::store::Store;
use crate::store::one_call::as_one_call;

/// Keys that a count of sessions looks at: a second or two of a Redis, in steps of half a millisecond.
const COUNTED: usize = 1_000_000;
const MAX_COUNTED: usize = 10_000_000;

/// What one instance takes on.
#[derive(Clone)]
pub struct Limits {
    /// Requests being answered, without polls; more get 429.
    pub in_flight: usize,
    /// Change polls waiting; more get 429.
    pub polls: usize,
    /// Pools that are written to; calls for more get 429.
    pub pools: usize,
    /// New sessions of a pool a second; none if there is no limit.
    pub new_sessions: Option<u32>,
    /// How it knows who asks below `/v1`.
    pub access: Access,
    /// The connections that requests come on, for `/metrics`.
    pub connections: Arc<Connections>,
    /// `/readyz` says no once it holds true: the service still answers, and is about to stop.
    pub leaving: watch::Receiver<bool>,
    /// Polls return early once it holds true.
    pub stopping: watch::Receiver<bool>,
}

impl Default for Limits {
    fn default() -> Self {
        // A request lives for a millisecond or two, or for the store's timeout: at 10,000 a second that is 400 of them.
        let never = watch::channel(false).1;
        Self {
            in_flight: 1024,
            polls: 1024,
            pools: 1024,
            new_sessions: None,
            access: Access::default(),
            connections: Connections::new(Bounds::default()),
            leaving: never.clone(),
            stopping: never,
        }
    }
}

struct Service {
    store: Arc<dyn Store>,
    changes: Arc<Changes>,
    metrics: Metrics,
    in_flight: Semaphore,
    polls: Semaphore,
    /// A count walks through the store: one at a time.
    counts: Semaphore,
    pools: Pools,
    admission: Option<Admission>,
    access: Access,
    connections: Arc<Connections>,
    leaving: watch::Receiver<bool>,
}

/// The service over `store`, as a router that tests can start in-process.
pub fn router(store: Arc<dyn Store>, limits: Limits) -> Router {
    let service = Arc::new(Service {
        changes: Arc::new(Changes::new(Arc::clone(&store), limits.stopping)),
        store,
        metrics: Metrics::new(),
        in_flight: Semaphore::new(limits.in_flight),
        polls: Semaphore::new(limits.polls),
        counts: Semaphore::new(1),
        pools: Pools::new(limits.pools),
        admission: limits.new_sessions.map(Admission::new),
        access: limits.access,
        connections: limits.connections,
        leaving: limits.leaving,
    });
    let guarded = |call: Call| {
        let service = Arc::clone(&service);
        middleware::from_fn(move |request: Request, next: Next| {
            guard(Arc::clone(&service), call, request, next)
        })
    };
    Router::new()
        .route("/v1/resolve", post(resolve).layer(guarded(Call::Resolve)))
        .route("/v1/touch", post(touch).layer(guarded(Call::Touch)))
        .route("/v1/changes", get(poll_changes).layer(guarded(Call::Changes)))
        .route("/v1/counts", get(counts).layer(guarded(Call::Counts)))
        .route("/v1/nodes", get(nodes).layer(guarded(Call::Nodes)))
        .route("/v1/nodes/{node}", get(node).put(change_node).delete(forget_node).layer(guarded(Call::Node)))
        .route("/v1/sessions/{key}", get(session).delete(end).layer(guarded(Call::Session)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .fallback(async || Response::from(Failure::NotFound("there is no such path".to_owned())))
        .method_not_allowed_fallback(async || Response::from(Failure::Method))
        .layer(middleware::from_fn(problem::represent))
        .with_state(service)
}

type Answer = Result<Response, Failure>;

/// How many ask at once, who may, and what came of it.
async fn guard(service: Arc<Service>, call: Call, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let response = match service.admit(call, request.method(), request.headers()) {
        Ok((_permit, caller)) => {
            let standing = request.extensions().get::<Arc<Standing>>().map(Arc::clone);
            let proves = service.access.is_open().then(|| request.body().is_end_stream()) != Some(false);
            if let Some(standing) = standing.as_ref().filter(|_| proves) {
                standing.admit();
            }
            request.extensions_mut().insert(caller);
            let response = next.run(request).await;
            // The body may still have been on its way: after a refusal it is not known whether all of it came.
            if let Some(standing) = standing.filter(|_| !response.status().is_client_error()) {
                standing.admit();
            }
            response
        }
        // Shedding load must cost nothing.
        Err(failure @ Failure::TooMany) => failure.into(),
        Err(failure) => {
            reading::ignore_body(request).await;
            failure.into()
        }
    };
    service.metrics.answered(call, &response, start.elapsed());
    response
}

impl Service {
    /// What the store's clock shows, if these records have times that a caller has to compare with its own.
    async fn time_for<'r>(
        &self,
        pool: &PoolName,
        records: impl IntoIterator<Item = &'r NodeRecord>,
    ) -> Result<Option<u64>, Failure> {
        if records.into_iter().all(|record| record.cooldown_until_ms.is_none()) {
            return Ok(None);
        }
        Ok(Some(self.store.time(pool).await?.0))
    }

    /// A place first: verifying a token costs more than most requests, and must be bounded like them.
    fn admit(
        &self,
        call: Call,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(SemaphorePermit<'_>, Caller), Failure> {
        let permits = if call == Call::Changes { &self.polls } else { &self.in_flight };
        let permit = permits.try_acquire().map_err(|_| Failure::TooMany)?;
        let caller = self.access.caller(headers, Millis(reading::now_ms())).map_err(|unknown| {
            self.metrics.unknown(unknown);
            Failure::Unauthorized(unknown)
        })?;
        if !matches!(caller.role, Role::Anyone | Role::Proxy) {
            self.metrics.verified();
        }
        allow(&caller, Action::of(call, method))?;
        Ok((permit, caller))
    }
}

fn allow(caller: &Caller, action: Action) -> Result<(), Failure> {
    if caller.role.may(action) { Ok(()) } else { Err(Failure::Forbidden(action)) }
}

async fn resolve(State(service): State<Arc<Service>>, request: Request) -> Answer {
    let from_header = correlation_id(request.headers());
    let mut request = ResolveRequest::parse(&body(request).await?).map_err(Failure::Invalid)?;
    request.correlation_id = request.correlation_id.or(from_header);

    take_in(&service, &request.pool).await?;
    if let Some(admission) = &service.admission {
        admission.take(&mut request, Instant::now());
    }

    // The position first: what changes while the store answers must not be missing after it.
    let (cursor, pins) = as_one_call(async {
        let cursor = service.changes.recent(&request.pool).await;
        (cursor, service.store.resolve(&request).await)
    })
    .await;
    if let Some(admission) = &service.admission {
        admission.give_back(&request, pins.as_deref().unwrap_or_default());
    }
    let pins = pins?;
    service.metrics.unanswered(request.sessions.len().saturating_sub(pins.len()));
    let is_limited = |pin: &&Pin| service.admission.is_some() && (pin.version, pin.ttl_ms) == (0, Some(0));
    service.metrics.limited(pins.iter().filter(is_limited).count());
    for pin in pins.iter().filter(|pin| !is_limited(pin)) {
        service.metrics.resolved(pin);
        tracing::debug!(
            pool = request.pool.as_str(), key = pin.key.short(), node = %pin.node, version = pin.version,
            outcome = pin.outcome.name(), correlation_id = request.correlation_id, "resolved"
        );
    }
    let store = Some(service.store.id(&request.pool));
    json(&ResolveReply { pins, cursor, ttl_ms: service.store.ttl().0, store })
}

/// Takes note of what proxies write to a pool. One that the store has already is no other pool, whichever instance took it in.
async fn take_in(service: &Service, pool: &PoolName) -> Result<(), Failure> {
    let Err(refusal) = service.pools.take_in(pool, Instant::now()) else { return Ok(()) };
    match service.store.knows(pool).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(refusal),
        Err(error) => Err(error.into()),
    }
}

async fn touch(State(service): State<Arc<Service>>, request: Request) -> Answer {
    let request = TouchRequest::parse(&body(request).await?).map_err(Failure::Invalid)?;
    take_in(&service, &request.pool).await?;
    let reply = service.store.touch(&request).await?;
    service.metrics.unanswered(reply.unanswered.len());
    json(&TouchReply { store: Some(service.store.id(&request.pool)), ..reply })
}

async fn poll_changes(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Answer {
    let mut query = Query::new(query.as_deref());
    let pool = query.pool();
    let after = query.optional("after");
    let wait = query.millis("wait", MAX_WAIT);
    query.finish()?;
    let pool = pool.ok_or(Failure::Invalid(Vec::new()))?;
    let mut reply = service.changes.wait(&pool, after, Duration::from_millis(wait.0)).await?;
    let records = reply.events.iter().filter_map(|event| event.record.as_ref());
    reply.now_ms = service.time_for(&pool, records).await?;
    json(&reply)
}

async fn counts(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Answer {
    let mut query = Query::new(query.as_deref());
    let limit: Option<usize> = query.optional("limit");
    if limit.is_some_and(|limit| limit > MAX_COUNTED) {
        query.fault("limit", format!("must be {MAX_COUNTED} at most"));
    }
    let after: Option<Cursor> = query.optional("after");
    let pool = query.only_pool()?;
    let _permit = service.counts.try_acquire().map_err(|_| Failure::TooMany)?;
    json(&service.store.count(&pool, after.as_ref(), limit.unwrap_or(COUNTED)).await?)
}

async fn nodes(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Answer {
    let pool = Query::new(query.as_deref()).only_pool()?;
    let (nodes, now_ms) = as_one_call(async {
        let nodes = service.store.nodes(&pool).await?;
        let now_ms = service.time_for(&pool, &nodes).await?;
        Ok::<_, Failure>((nodes, now_ms))
    })
    .await?;
    json(&NodesReply { nodes, now_ms })
}

async fn node(
    State(service): State<Arc<Service>>,
    Segment(node): Segment,
    RawQuery(query): RawQuery,
) -> Answer {
    let pool = Query::new(query.as_deref()).only_pool();
    let node: NodeId = name_in_path("node", &node)?;
    let nodes = service.store.nodes(&pool?).await?;
    let record = nodes.into_iter().find(|record| record.node == node && !record.forgotten);
    json(&record.ok_or_else(|| nothing_recorded(&node))?)
}

fn nothing_recorded(node: &NodeId) -> Failure {
    Failure::NotFound(format!("nothing is recorded of node {node}"))
}

async fn change_node(
    State(service): State<Arc<Service>>,
    Segment(node): Segment,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer {
    let pool = Query::new(query.as_deref()).only_pool();
    let node: NodeId = name_in_path("node", &node)?;
    let from_header = correlation_id(request.headers());
    let mut change = NodeChange::parse(&body(request).await?).map_err(Failure::Invalid)?;
    allow(&caller, Action::from(&change))?;
    change.correlation_id = change.correlation_id.or(from_header);
    let latest = reading::now_ms().saturating_add(MAX_COOLDOWN);
    if change.cooldown_until_ms.is_some_and(|until| until > latest) {
        let message = "is more than an hour away: cooldown cannot be taken back".to_owned();
        return Err(Failure::invalid("cooldown_until_ms", message));
    }

    let pool = pool?;
    // An operator is never refused.
    if change.state.is_none() {
        take_in(&service, &pool).await?;
    }
    let changed = service.store.change_node(&pool, node.clone(), &change).await?;
    let (record, durable) = (changed.outcome, service.metrics.written(changed.durable));
    tracing::info!(
        pool = pool.as_str(), %node, state = record.state.name(), version = record.version,
        correlation_id = change.correlation_id, subject = caller.subject, durable, "node changed"
    );
    json(&NodeReply { record, durable })
}

async fn forget_node(
    State(service): State<Arc<Service>>,
    Segment(node): Segment,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Answer {
    let pool = Query::new(query.as_deref()).only_pool();
    let node: NodeId = name_in_path("node", &node)?;
    let (pool, correlation_id) = (pool?, correlation_id(&headers));
    let forgotten = service.store.forget_node(&pool, node.clone(), correlation_id.as_deref()).await?;
    if !forgotten.outcome {
        return Err(nothing_recorded(&node));
    }
    let durable = service.metrics.written(forgotten.durable);
    let subject = caller.subject;
    tracing::info!(pool = pool.as_str(), %node, correlation_id, subject, durable, "node forgotten");
    json(&ForgetReply { forgotten: true, durable })
}

async fn session(
    State(service): State<Arc<Service>>,
    Segment(key): Segment,
    RawQuery(query): RawQuery,
) -> Answer {
    let pool = Query::new(query.as_deref()).only_pool();
    let key: SessionKey = name_in_path("key", &key)?;
    let pool = pool?;
    let session = service.store.session(&pool, key).await?;
    json(&session.ok_or_else(|| Failure::NotFound(no_pin(&pool)))?)
}

/// The pool is part of the key: with another one even the right id finds nothing.
fn no_pin(pool: &PoolName) -> String {
    format!("this session has no pin in pool {pool}")
}

fn no_older_pin(pool: &PoolName) -> String {
    format!("this session has no pin in pool {pool} from before its end")
}

async fn end(
    State(service): State<Arc<Service>>,
    Segment(key): Segment,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Answer {
    let mut query = Query::new(query.as_deref());
    let ago = query.millis("ended_ago_ms", MAX_ENDED_AGO);
    let pool = query.only_pool();
    let key: SessionKey = name_in_path("key", &key)?;
    let (pool, correlation_id) = (pool?, correlation_id(&headers));
    take_in(&service, &pool).await?;
    let ended = service.store.end(&pool, key, ago, correlation_id.as_deref()).await?;
    let durable = service.metrics.written(ended.durable);
    if !ended.outcome {
        let what = if ago == Millis(0) { no_pin(&pool) } else { no_older_pin(&pool) };
        return Err(Failure::NothingToEnd { what, durable });
    }
    let subject = caller.subject;
    tracing::info!(
        pool = pool.as_str(),
        key = key.short(),
        correlation_id,
        subject,
        durable,
        "session ended"
    );
    json(&EndReply { ended: true, durable })
}

/// Whether to send requests here: all instances share one store, so it is enough that a part of it takes writes. Operators ask for
/// all of it.
async fn ready(State(service): State<Arc<Service>>, RawQuery(query): RawQuery) -> Answer {
    if *service.leaving.borrow() {
        return Err(Failure::Leaving);
    }
    let mut query = Query::new(query.as_deref());
    let require: Option<String> = query.optional("require");
    if require.as_ref().is_some_and(|what| what != "all") {
        query.fault("require", "must be all".to_owned());
    }
    query.finish()?;
    let readiness = service.store.readiness().await;
    if !readiness.takes || require.is_some() && !readiness.is_whole() {
        return Err(Failure::NotReady(readiness.to_string()));
    }
    let rest = if readiness.is_whole() { String::new() } else { format!("{readiness}\n") };
    Ok(text(format!("ready\n{rest}")))
}

async fn show_metrics(State(service): State<Arc<Service>>) -> Answer {
    let (in_flight, polls) = (service.in_flight.available_permits(), service.polls.available_permits());
    let readiness = service.store.readiness().await;
    service.metrics.store(&readiness, service.store.unreadable());
    service.metrics.show(in_flight, polls, &service.connections).map(text).map_err(|_| Failure::Internal)
}

/// Envoy gives every request one. What is not fit for a log or an event counts as absent.
fn correlation_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    (1..=MAX_CORRELATION_ID).contains(&id.len()).then(|| id.to_owned())
}

fn json(reply: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(reply).map_err(|_| Failure::Internal)?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn text(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    let plain = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    *response.status_mut() = StatusCode::OK;
    response
}
