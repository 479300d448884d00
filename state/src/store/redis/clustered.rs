//! The connections to a Redis Cluster: redirections are followed, and a map of the slots that is out of date is given up.
//!
//! The library learns that a slot has moved from an answer or a closed connection. A primary that hangs, or whose machine
//! is gone, gives neither: its shards would be asked there indefinitely, even long after its replica took over. So a call
//! without an answer has the shard tried over new connections, beside the old ones, which serve the other shards: they are
//! replaced once the shard answers on the new ones. Before the failover it does not, and nothing changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{RedisError, TlsCertificates};

use super::bounds::{CONNECT_TIMEOUT, UNACKNOWLEDGED};
use super::call::{Answers, Call, failure, refused, server_error};
use super::layout::Shard;
use super::options::Options;
use crate::lock::lock;
use crate::store::StoreError;

/// New connections may take this long until a shard answers on them: connecting to a server that hangs takes a second, and
/// it is tried twice.
const TRIED_FOR: Duration = Duration::from_secs(5);
/// Between two attempts to use new connections, so that a cluster that is away is not flooded with them.
const TRY_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Clustered {
    client: ClusterClient,
    /// What was learned with one holds for all.
    current: Vec<Mutex<ClusterConnection>>,
    timeout: Duration,
    /// New connections are being tried.
    trying: AtomicBool,
}

impl Clustered {
    /// So many connections to each server. They connect when they are first used.
    pub(super) fn new(
        options: &Options,
        certificates: Option<TlsCertificates>,
        connections: usize,
    ) -> Result<Self, RedisError> {
        let builder = ClusterClient::builder(options.urls.iter().map(String::as_str))
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
        let current = (0..connections).map(|_| Mutex::new(connect(&client))).collect();
        Ok(Self { client, current, timeout: options.timeout, trying: AtomicBool::new(false) })
    }

    fn current(&self, place: usize) -> Result<ClusterConnection, StoreError> {
        let current =
            self.current.get(place).ok_or_else(|| StoreError::Unreachable("no connection".to_owned()));
        current.map(|current| lock(current).clone())
    }

    /// Whether one of the primaries answers.
    pub(super) async fn ping(&self, place: usize) -> Result<(), StoreError> {
        let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
        let answer = self.current(place)?.route_command(redis::cmd("PING"), route).await;
        answer.map(|_| ()).map_err(|error| failure(&error))
    }

    /// One pipeline for one shard.
    pub(super) async fn send(
        self: &Arc<Self>,
        place: usize,
        shard: &Shard,
        call: Call,
    ) -> Result<Answers, StoreError> {
        // Callers give up by dropping this future.
        let mut unanswered = Unanswered { clustered: Some(self), shard, since: Instant::now() };
        let answers = on_shard(self.current(place)?, shard, call).await?;
        unanswered.clustered = None;
        Ok(answers)
    }

    /// Replaces the connections once this shard answers on new ones.
    async fn try_anew(&self, shard: &Shard) {
        let try_one = async || {
            let mut connection = connect(&self.client);
            let mut command = redis::cmd("EXISTS");
            command.arg(shard.slot_key());
            let route = || RoutingInfo::SingleNode(primary(shard));
            while connection.route_command(command.clone(), route()).await.is_err() {
                tokio::time::sleep(TRY_AGAIN).await;
            }
            connection
        };
        let Ok(first) = tokio::time::timeout(TRIED_FOR, try_one()).await else { return };
        tracing::warn!(
            "a shard of the cluster did not answer in time, but does on new connections: using them"
        );
        let mut places = self.current.iter();
        if let Some(place) = places.next() {
            *lock(place) = first;
        }
        let replace = async |place: &Mutex<ClusterConnection>| {
            if let Ok(connection) = tokio::time::timeout(TRIED_FOR, try_one()).await {
                *lock(place) = connection;
            }
        };
        join_all(places.map(replace)).await;
    }
}

/// A call that is under way. One that ends late and without an answer has its shard tried on new connections.
struct Unanswered<'c> {
    clustered: Option<&'c Arc<Clustered>>,
    shard: &'c Shard,
    since: Instant,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(clustered) = self.clustered else { return };
        // Sooner it was refused, or given up because another shard was.
        let late = self.since.elapsed() >= clustered.timeout / 2;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if late && !clustered.trying.swap(true, Ordering::Relaxed) {
            let (clustered, shard) = (Arc::clone(clustered), self.shard.clone());
            runtime.spawn(async move {
                clustered.try_anew(&shard).await;
                clustered.trying.store(false, Ordering::Relaxed);
            });
        }
    }
}

fn connect(client: &ClusterClient) -> ClusterConnection {
    client.get_pending_async_connection_with_config(ClusterConfig::new())
}

fn primary(shard: &Shard) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_key(shard.slot_key(), SlotAddr::Master))
}

async fn on_shard(
    mut connection: ClusterConnection,
    shard: &Shard,
    call: Call,
) -> Result<Answers, StoreError> {
    let mut send = async |call: &Call| {
        let (pipeline, count) = (call.pipeline.clone(), call.pipeline.len());
        let values = connection.route_pipeline(pipeline, 0, count, primary(shard)).await;
        Ok(call.answers(values.map_err(|error| failure(&error))?))
    };
    let mut answers = send(&call).await?;
    if let Some((places, again)) = call.unknown(&answers) {
        answers = answers.with(&places, send(&again).await?);
    }
    // The slot has moved, or is moving. Alone, a command follows the redirection, and the library learns from it; in a
    // pipeline it does not. A replica was then asked on the wrong connection, so its word does not count.
    if answers.values.iter().any(|value| server_error(value).is_some()) {
        for (value, command) in answers.values.iter_mut().zip(call.commands_by_text()) {
            if server_error(value).is_some() {
                *value = connection
                    .route_command(command, RoutingInfo::SingleNode(primary(shard)))
                    .await
                    .map_err(|error| failure(&error))?;
                answers.durable = answers.durable.map(|_| false);
            }
        }
    }
    refused(&answers)?;
    Ok(answers)
}
