//! The connection: many commands at once, each call bounded in time, redirections and lost scripts handled.
//!
//! A server behind a moving address may become a replica, or load its data again, without closing the connection. Such
//! an answer makes a new connection, for which the name is looked up anew.
//!
//! A call is groups of steps, a group for each shard. One server gets them all in one pipeline; a Cluster gets a
//! pipeline for each shard, all at once. Steps are scripts by hash or plain commands, and every one may be repeated.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterConfig;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{ClientTlsConfig, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, TlsCertificates, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Options;
use super::gate::Gate;
use super::layout::{SHARDS, Shard};
use super::scripts::Named;
use crate::store::StoreError;
use crate::tls::choose_provider;

/// `WAIT` holds up its connection until a replica has confirmed, half a millisecond on a good day: so many calls may be in
/// that state at once, each on a connection of its own, and the next ones queue for a place.
const WAITING: usize = 16;
/// A replica gets this part of the time: without it the answer is still good, only not durable. A call may have queued
/// behind another for a place, and is sent twice to a server that does not know its script.
const REPLICA_SHARE: u32 = 4;
/// Connecting may take longer than a call: calls give up on their own, and the attempt serves the next ones.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// A server that turns calls away is worth a line in the log after this time without any.
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// A server that vanished without a word is given up after this time without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

/// One command or script call.
pub(super) struct Step {
    command: Cmd,
    script: Option<&'static Named>,
}

impl Step {
    pub(super) fn command(name: &str) -> Self {
        Self { command: redis::cmd(name), script: None }
    }

    pub(super) fn script(script: &'static Named, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(keys.len()).arg(keys);
        Self { command, script: Some(script) }
    }

    pub(super) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }
}

/// Steps as they are sent: by hash, and once more by text to a server that does not know the scripts.
struct Call {
    pipeline: Pipeline,
    /// One for each step.
    scripts: Vec<Option<&'static Named>>,
    wait: Option<Duration>,
}

impl Call {
    fn new(steps: impl IntoIterator<Item = Step>, wait: Option<Duration>) -> Self {
        let (mut pipeline, mut scripts) = (Pipeline::new(), Vec::new());
        for step in steps {
            pipeline.add_command(step.command);
            scripts.push(step.script);
        }
        let mut call = Self { pipeline, scripts, wait };
        call.add_wait();
        call
    }

    /// `WAIT` as the last command: on one connection it speaks of all writes before it.
    fn add_wait(&mut self) {
        if let Some(wait) = self.wait {
            self.pipeline.cmd("WAIT").arg(1).arg(wait.as_millis().max(1) as u64);
        }
    }

    /// Each script by its text, which also teaches it to the server.
    fn commands_by_text(&self) -> impl Iterator<Item = Cmd> {
        self.pipeline.cmd_iter().zip(&self.scripts).map(|(by_hash, script)| {
            let Some(script) = script else { return by_hash.clone() };
            let mut command = redis::cmd("EVAL");
            command.arg(script.text);
            for argument in by_hash.args_iter().skip(2) {
                if let redis::Arg::Simple(bytes) = argument {
                    command.arg(bytes);
                }
            }
            command
        })
    }

    fn by_text(&self) -> Self {
        let mut pipeline = Pipeline::new();
        for command in self.commands_by_text() {
            pipeline.add_command(command);
        }
        let mut call = Self { pipeline, scripts: vec![None; self.scripts.len()], wait: self.wait };
        call.add_wait();
        call
    }

    fn answers(&self, mut values: Vec<Value>) -> Answers {
        let confirmed = |value| matches!(value, Some(Value::Int(replicas)) if replicas > 0);
        let durable = self.wait.map(|_| confirmed(values.pop()));
        Answers { values, durable }
    }
}

/// Steps of one shard, in order.
pub(super) struct Group {
    pub(super) shard: Shard,
    pub(super) steps: Vec<Step>,
}

/// What became of a group.
pub(super) struct Answers {
    /// One for each step.
    pub(super) values: Vec<Value>,
    /// Whether a replica confirmed; `None` if nobody asked it.
    pub(super) durable: Option<bool>,
}

enum Connection {
    Single(Box<Single>),
    Cluster(ClusterConnection),
}

/// The connection to one server. The manager makes a new one when it breaks; this one also when it leads to the wrong
/// server.
struct Single {
    client: redis::Client,
    current: Mutex<(ConnectionManager, Instant)>,
}

pub(super) struct Link {
    /// For all that does not wait for a replica.
    plain: Connection,
    /// For what does.
    waiting: Option<Waiting>,
    timeout: Duration,
    gate: Gate,
    /// Whether replicas confirm, by shard; one server has the same for all, the first.
    replicas: [Gate; SHARDS],
}

impl Link {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let certificates = certificates(options)?;
        let connect = || {
            let certificates = certificates.clone();
            let connection =
                if options.cluster { cluster(options, certificates) } else { single(options, certificates) };
            connection.map_err(|error| format!("redis: {error}"))
        };
        let waiting = options.quorum.then(|| (0..WAITING).map(|_| connect().map(Arc::new)).collect());
        Ok(Self {
            plain: connect()?,
            waiting: waiting.transpose()?.map(Waiting::new),
            timeout: options.timeout,
            gate: Gate::new(),
            replicas: std::array::from_fn(|_| Gate::new()),
        })
    }

    /// One step.
    pub(super) async fn one(&self, shard: &Shard, step: Step) -> Result<Value, StoreError> {
        let answers = self.run(vec![Group { shard: shard.clone(), steps: vec![step] }], false).await?;
        let value = answers.into_iter().next().and_then(|answers| answers.values.into_iter().next());
        value.ok_or_else(|| StoreError::Refused("there was no answer".to_owned()))
    }

    /// All steps of all groups; `durable` asks a replica to confirm, if the store was told to.
    pub(super) async fn run(&self, groups: Vec<Group>, durable: bool) -> Result<Vec<Answers>, StoreError> {
        self.bounded(async {
            let Connection::Single(_) = self.plain else {
                let send = |Group { shard, steps }| self.send(shard.index(), shard, steps, durable);
                return try_join_all(groups.into_iter().map(send)).await;
            };
            let Some(shard) = groups.first().map(|group| group.shard.clone()) else { return Ok(Vec::new()) };
            let lengths: Vec<usize> = groups.iter().map(|group| group.steps.len()).collect();
            let steps = groups.into_iter().flat_map(|group| group.steps).collect();
            let answers = self.send(0, shard, steps, durable).await?;
            let mut values = answers.values.into_iter();
            let of_group =
                |length| Answers { values: values.by_ref().take(length).collect(), durable: answers.durable };
            Ok(lengths.into_iter().map(of_group).collect())
        })
        .await
    }

    /// Lets a replica confirm if asked to, unless it lately did not: each call would wait for it in vain, and hold up the
    /// others until the store itself seems to be away.
    async fn send(
        &self,
        replica: usize,
        shard: Shard,
        steps: Vec<Step>,
        durable: bool,
    ) -> Result<Answers, StoreError> {
        let (Some(waiting), Some(replicas), true) = (&self.waiting, self.replicas.get(replica), durable)
        else {
            return on(&self.plain, &shard, Call::new(steps, None)).await;
        };
        if replicas.admits() {
            let probe = replicas.is_closed();
            let place = waiting.place().await?;
            if probe || !replicas.is_closed() {
                let call = Call::new(steps, Some(self.timeout / REPLICA_SHARE));
                let mut given_up = GivenUp(Some(replicas));
                let answers = on(&place.connection, &shard, call).await;
                given_up.0 = None;
                let answers = answers?;
                replicas.report(answers.durable == Some(true));
                return Ok(answers);
            }
        }
        let answers = on(&self.plain, &shard, Call::new(steps, None)).await?;
        Ok(Answers { durable: Some(false), ..answers })
    }

    /// Whether there is an answer: of the server, or of one of the cluster's primaries.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.bounded(async {
            match &self.plain {
                // A write, so that a replica says that it is one, of something that is not there: it changes nothing.
                Connection::Single(single) => {
                    let step = Step::command("DEL").arg("berth:ready");
                    on_single(single, Call::new([step], None)).await?;
                }
                Connection::Cluster(connection) => {
                    let mut connection = connection.clone();
                    let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
                    connection
                        .route_command(redis::cmd("PING"), route)
                        .await
                        .map_err(|error| failure(&error))?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if !self.gate.admits() {
            return Err(StoreError::Suspended);
        }
        let result = tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(StoreError::Timeout));
        // A refusal is an answer: the store is there.
        self.gate.report(!matches!(result, Err(StoreError::Timeout | StoreError::Unreachable(_))));
        result
    }
}

/// Connections on which calls wait for a replica, each one at a time.
struct Waiting {
    places: Semaphore,
    free: Mutex<Vec<Arc<Connection>>>,
}

struct Place<'w> {
    waiting: &'w Waiting,
    connection: Arc<Connection>,
    _permit: SemaphorePermit<'w>,
}

impl Waiting {
    fn new(connections: Vec<Arc<Connection>>) -> Self {
        Self { places: Semaphore::new(connections.len()), free: Mutex::new(connections) }
    }

    async fn place(&self) -> Result<Place<'_>, StoreError> {
        let none = |_| StoreError::Unreachable("no connection".to_owned());
        let permit = self.places.acquire().await.map_err(none)?;
        let connection = lock(&self.free).pop().ok_or(()).map_err(|()| StoreError::Suspended)?;
        Ok(Place { waiting: self, connection, _permit: permit })
    }
}

impl Drop for Place<'_> {
    // Before the permit: who gets that finds a connection.
    fn drop(&mut self) {
        lock(&self.waiting.free).push(Arc::clone(&self.connection));
    }
}

/// A call that is given up while it waits counts as not confirmed.
struct GivenUp<'g>(Option<&'g Gate>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(gate) = self.0 {
            gate.report(false);
        }
    }
}

/// What these locks guard is whole after each assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn single(options: &Options, certificates: Option<TlsCertificates>) -> Result<Connection, RedisError> {
    let url = options.urls.first().map_or("", String::as_str);
    let info = redis::IntoConnectionInfo::into_connection_info(url)?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
    let info = info.set_tcp_settings(tcp);
    let client = match certificates {
        Some(certificates) => redis::Client::build_with_tls(info, certificates)?,
        None => redis::Client::open(info)?,
    };
    let current = Mutex::new((manager(&client)?, Instant::now()));
    Ok(Connection::Single(Box::new(Single { client, current })))
}

/// Connects when it is first used.
fn manager(client: &redis::Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_min_delay(RECONNECT.0)
        .set_max_delay(RECONNECT.1)
        .set_number_of_retries(3)
        .set_pipeline_buffer_size(1024);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl Single {
    fn current(&self) -> ConnectionManager {
        lock(&self.current).0.clone()
    }

    /// Leaves the server, which cannot serve now: the address may lead to another by now. Not again and again while it
    /// does not; of many calls that learn it at once, the first acts.
    fn renew(&self) {
        let mut current = lock(&self.current);
        if current.1.elapsed() < RECONNECT.1 {
            return;
        }
        if let Ok(manager) = manager(&self.client) {
            // Once, however long it lasts: each attempt renews the time.
            if current.1.elapsed() > TOLD_AGAIN {
                tracing::warn!("the store's server turned a call away: connecting anew");
            }
            *current = (manager, Instant::now());
        }
    }
}

fn cluster(options: &Options, certificates: Option<TlsCertificates>) -> Result<Connection, RedisError> {
    let builder = redis::cluster::ClusterClient::builder(options.urls.iter().map(String::as_str))
        .retries(4)
        .min_retry_wait(5)
        .max_retry_wait(20)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(options.timeout)
        .overall_response_timeout(Some(options.timeout));
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
    let builder = match certificates {
        Some(certificates) => builder.certs(certificates),
        None => builder,
    };
    let client = builder.tcp_settings(tcp).build()?;
    Ok(Connection::Cluster(client.get_pending_async_connection_with_config(ClusterConfig::new())))
}

/// What the files of the options hold; `None` without TLS, where they would be refused.
fn certificates(options: &Options) -> Result<Option<TlsCertificates>, String> {
    if !options.urls.iter().any(|url| url.starts_with("rediss:")) {
        return Ok(None);
    }
    choose_provider();
    let read = |setting: &str, file: &Path| {
        std::fs::read(file).map_err(|error| format!("{setting}: cannot read {}: {error}", file.display()))
    };
    let root_cert = options.tls.ca.as_deref().map(|file| read("redis-ca", file)).transpose()?;
    let client_tls = match &options.tls.client {
        Some((cert, key)) => Some(ClientTlsConfig {
            client_cert: read("redis-cert", cert)?,
            client_key: read("redis-key", key)?,
        }),
        None => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

async fn on(connection: &Connection, shard: &Shard, call: Call) -> Result<Answers, StoreError> {
    match connection {
        Connection::Single(single) => on_single(single, call).await,
        Connection::Cluster(connection) => on_shard(connection.clone(), shard, call).await,
    }
}

async fn on_single(single: &Single, call: Call) -> Result<Answers, StoreError> {
    let mut connection = single.current();
    let mut send = async |call: &Call| {
        let pipeline = &call.pipeline;
        let values = connection.req_packed_commands(pipeline, 0, pipeline.len()).await.map_err(|error| {
            // The manager itself connects anew only when the network fails, not when a server turned it away.
            if !error.is_io_error() {
                single.renew();
            }
            failure(&error)
        })?;
        Ok(call.answers(values))
    };
    let mut answers = send(&call).await?;
    if answers.values.iter().any(is_no_script) {
        answers = send(&call.by_text()).await?;
    }
    refused(&answers).inspect_err(|error| {
        if matches!(error, StoreError::Unreachable(_)) {
            single.renew();
        }
    })?;
    Ok(answers)
}

async fn on_shard(
    mut connection: ClusterConnection,
    shard: &Shard,
    call: Call,
) -> Result<Answers, StoreError> {
    let route = || SingleNodeRoutingInfo::SpecificNode(Route::with_key(shard.slot_key(), SlotAddr::Master));
    let mut send = async |call: &Call| {
        let (pipeline, count) = (call.pipeline.clone(), call.pipeline.len());
        let values = connection.route_pipeline(pipeline, 0, count, route()).await;
        Ok(call.answers(values.map_err(|error| failure(&error))?))
    };
    let mut answers = send(&call).await?;
    if answers.values.iter().any(is_no_script) {
        answers = send(&call.by_text()).await?;
    }
    // The slot has moved, or is moving. Alone, a command follows the redirection, and the library learns from it; in a
    // pipeline it does not. A replica was then asked on the wrong connection, so its word does not count.
    if answers.values.iter().any(|value| server_error(value).is_some()) {
        for (value, command) in answers.values.iter_mut().zip(call.commands_by_text()) {
            if server_error(value).is_some() {
                *value = connection
                    .route_command(command, RoutingInfo::SingleNode(route()))
                    .await
                    .map_err(|error| failure(&error))?;
                answers.durable = answers.durable.map(|_| false);
            }
        }
    }
    refused(&answers)?;
    Ok(answers)
}

fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

fn server_error(value: &Value) -> Option<StoreError> {
    let Value::ServerError(error) = value else { return None };
    let message = format!("{} {}", error.code(), error.details().unwrap_or_default());
    Some(if error.kind().is_some_and(is_away) {
        StoreError::Unreachable(message)
    } else {
        StoreError::Refused(message)
    })
}

fn refused(answers: &Answers) -> Result<(), StoreError> {
    answers.values.iter().find_map(server_error).map_or(Ok(()), Err)
}

fn failure(error: &RedisError) -> StoreError {
    match error.kind() {
        _ if error.is_timeout() => StoreError::Timeout,
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => StoreError::Unreachable(error.to_string()),
        ErrorKind::Server(kind) if is_away(kind) => StoreError::Unreachable(error.to_string()),
        _ => StoreError::Refused(error.to_string()),
    }
}

/// Another server would have to answer, or this one later.
fn is_away(kind: ServerErrorKind) -> bool {
    matches!(
        kind,
        ServerErrorKind::ReadOnly
            | ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            // Followed as often as the library does, to a primary that is not there.
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
    )
}
