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
use redis::{ClientTlsConfig, RedisError, TlsCertificates, Value};

use super::Options;
use super::call::{Answers, Call, Group, Step, failure, refused};
use super::clustered::Clustered;
use super::gate::Gate;
use super::layout::{SHARDS, Shard};
use super::waiting::{GivenUp, Waiting};
use crate::store::StoreError;
use crate::tls::choose_provider;

/// `WAIT` holds up its connection until a replica has confirmed, half a millisecond on a good day: so many calls may be in
/// that state at once, each on a connection of its own, and the next ones queue for a place.
const WAITING: usize = 16;
/// A replica gets this part of the time: without it the answer is still good, only not durable. A call may have queued
/// behind another for a place, and is sent twice to a server that does not know its script.
const REPLICA_SHARE: u32 = 4;
/// Connecting may take longer than a call: calls give up on their own, and the attempt serves the next ones.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// A server that turns calls away is worth a line in the log after this time without any.
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// A server that vanished without a word is given up after this time without an acknowledgement.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

pub(super) enum Connection {
    Single(Box<Single>),
    /// The one of them at this place.
    Cluster(Arc<Clustered>, usize),
}

/// The connection to one server. The manager makes a new one when it breaks; this one also when it leads to the wrong
/// server.
pub(super) struct Single {
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
        let count = if options.quorum { 1 + WAITING } else { 1 };
        let connections = if options.cluster {
            let clustered = Clustered::new(options, certificates, count).map(Arc::new);
            clustered
                .map(|all| (0..count).map(|place| Connection::Cluster(Arc::clone(&all), place)).collect())
        } else {
            (0..count).map(|_| single(options, certificates.clone())).collect::<Result<Vec<_>, _>>()
        };
        let mut connections = connections.map_err(|error| format!("redis: {error}"))?;
        let waiting = connections.split_off(1).into_iter().map(Arc::new).collect();
        let plain = connections.pop().ok_or("redis: no connection")?;
        Ok(Self {
            plain,
            waiting: options.quorum.then(|| Waiting::new(waiting)),
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
        self.run_since(Instant::now(), groups, durable).await
    }

    /// The same for a part of something that began a while ago, so that all of it takes no longer than one call may.
    pub(super) async fn run_since(
        &self,
        since: Instant,
        groups: Vec<Group>,
        durable: bool,
    ) -> Result<Vec<Answers>, StoreError> {
        self.bounded(since, async {
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
        self.bounded(Instant::now(), async {
            match &self.plain {
                // A write, so that a replica says that it is one, of something that is not there: it changes nothing.
                Connection::Single(single) => {
                    let step = Step::command("DEL").arg("berth:ready");
                    on_single(single, Call::new([step], None)).await?;
                }
                Connection::Cluster(clustered, place) => clustered.ping(*place).await?,
            }
            Ok(())
        })
        .await
    }

    async fn bounded<T>(
        &self,
        since: Instant,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.gate.admits() {
            return Err(StoreError::Suspended);
        }
        let time = self.timeout.saturating_sub(since.elapsed());
        let result = tokio::time::timeout(time, call).await.unwrap_or(Err(StoreError::Timeout));
        // A refusal is an answer: the store is there.
        self.gate.report(!matches!(result, Err(StoreError::Timeout | StoreError::Unreachable(_))));
        result
    }
}

/// What these locks guard is whole after each assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        Connection::Cluster(clustered, place) => clustered.send(*place, shard, call).await,
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
    if let Some((places, again)) = call.unknown(&answers) {
        answers = answers.with(&places, send(&again).await?);
    }
    refused(&answers).inspect_err(|error| {
        if matches!(error, StoreError::Unreachable(_)) {
            single.renew();
        }
    })?;
    Ok(answers)
}
