//! The connection to one server, which the library keeps; this module leaves a server that turns calls away.
//!
//! A server behind a moving address may become a replica, be fenced off from its replicas, or load its data again, without
//! closing the connection. Such an answer makes a new connection, for which the name is resolved again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_core::breaker::Permit;
use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};
use redis::{ConnectionInfo, RedisError, TlsCertificates};

use super::bounds::{CONNECT_TIMEOUT, UNACKNOWLEDGED};
use super::breaker::CircuitBreaker;
use super::call::{Answers, Call, failure, is_servers_state};
use crate::lock::lock;
use crate::store::StoreError;

/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// A server that turns calls away is worth a line in the log after this time without any.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

/// A client for this server.
pub(super) fn client(
    info: ConnectionInfo,
    certificates: Option<&TlsCertificates>,
) -> Result<redis::Client, RedisError> {
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
    let info = info.set_tcp_settings(tcp);
    match certificates {
        Some(certificates) => redis::Client::build_with_tls(info, certificates.clone()),
        None => redis::Client::open(info),
    }
}

/// The connection to one server. The manager makes a new one when it breaks; this one also when it leads to the wrong
/// server.
pub(super) struct Single {
    client: redis::Client,
    current: Mutex<(ConnectionManager, Instant)>,
    /// Shared by the connections of one kind to this server.
    breaker: Arc<CircuitBreaker>,
}

impl Single {
    /// A connection that is made when it is first used.
    pub(super) fn new(client: redis::Client, breaker: Arc<CircuitBreaker>) -> Result<Self, RedisError> {
        let current = Mutex::new((manager(&client)?, Instant::now()));
        Ok(Self { client, current, breaker })
    }

    /// One pipeline. What the server refused is among the answers.
    pub(super) async fn send(&self, call: &Call) -> Result<Answers, StoreError> {
        if !call.is_probe && self.breaker.allow() == Permit::Deny {
            return Err(StoreError::Suspended);
        }
        let mut asked = Asked { breaker: Some(&self.breaker), since: Instant::now(), late: call.late };
        let mut connection = lock(&self.current).0.clone();
        let mut send = async |call: &Call| {
            let pipeline = &call.pipeline;
            let mut values = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
            // The server was started again, or closed what was idle. That shows at the next call only, and a step may be repeated.
            if values.as_ref().is_err_and(RedisError::is_connection_dropped) {
                values = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
            }
            let values = values.map_err(|error| {
                // The manager itself reconnects only when the network fails, not when a server turned it away.
                if !error.is_io_error() {
                    self.renew();
                }
                failure(&error)
            })?;
            Ok(call.answers(values))
        };
        let result = async {
            let mut answers: Answers = send(call).await?;
            if let Some((places, again)) = call.unknown(&answers) {
                answers = answers.with(&places, send(&again).await?);
            }
            Ok(answers)
        }
        .await;
        asked.breaker = None;
        let turned_away = match &result {
            Ok(answers) => answers.values.iter().any(is_servers_state),
            Err(_) => false,
        };
        if turned_away {
            self.renew();
        }
        // A refusal is an answer: the server is there.
        self.breaker
            .report(!turned_away && !matches!(result, Err(StoreError::Timeout | StoreError::Unreachable(_))));
        result
    }

    /// Leaves the server, which cannot serve now: the address may lead to another by now. At most once in a while; of many
    /// calls that fail together, the first acts.
    fn renew(&self) {
        let mut current = lock(&self.current);
        if current.1.elapsed() < RECONNECT.1 {
            return;
        }
        if let Ok(manager) = manager(&self.client) {
            // Once, however long it lasts: each attempt renews the time.
            if current.1.elapsed() > TOLD_AGAIN {
                tracing::warn!("the store's server turned a call away: reconnecting");
            }
            *current = (manager, Instant::now());
        }
    }
}

/// A call that is under way. Callers give up by dropping it: late and without an answer, it counts as a failure.
struct Asked<'b> {
    breaker: Option<&'b CircuitBreaker>,
    since: Instant,
    late: Duration,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker
            && self.since.elapsed() >= self.late
        {
            breaker.report(false);
        }
    }
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
