//! The connection to one server, which the library keeps; this module leaves a server that turns calls away.
//!
//! A server behind a moving address may become a replica, be fenced off from its replicas, or load its data again, without
//! closing the connection. Such an answer makes a new connection, for which the name is resolved again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_core::breaker::Permit;
use redis::RedisError;
use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};
use tokio::time::timeout;

use super::access::Access;
use super::bounds::CONNECT_TIMEOUT;
use super::breaker::CircuitBreaker;
use super::call::{Answers, Call, failure, is_servers_state};
use crate::lock::lock;
use crate::store::StoreError;

/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// A server that turns calls away is worth a line in the log after this time without any.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

/// The connection to one server. The manager makes a new one when it breaks; this one also when it leads to the wrong
/// server.
pub(super) struct Single {
    access: Arc<Access>,
    current: Mutex<Current>,
    /// Shared by the connections of one kind to this server.
    breaker: Arc<CircuitBreaker>,
}

#[derive(Clone)]
struct Current {
    manager: ConnectionManager,
    since: Instant,
    /// Of the access.
    turn: u64,
    /// It has connected, or tried to.
    is_used: bool,
}

impl Current {
    /// Connects when it is first used.
    fn new(access: &Access) -> Result<Self, RedisError> {
        let (client, turn) = access.client();
        Ok(Self { manager: manager(&client)?, since: Instant::now(), turn, is_used: false })
    }
}

impl Single {
    /// A connection that is made when it is first used.
    pub(super) fn new(access: Arc<Access>, breaker: Arc<CircuitBreaker>) -> Result<Self, RedisError> {
        let current = Mutex::new(Current::new(&access)?);
        Ok(Self { access, current, breaker })
    }

    pub(super) fn access(&self) -> &Arc<Access> {
        &self.access
    }

    fn current(&self) -> Current {
        let mut current = lock(&self.current);
        current.is_used = true;
        current.clone()
    }

    /// The server refused the connection of this turn: one with other credentials, if there are any.
    fn other(&self, turn: u64) -> Option<Current> {
        if !self.access.refused(turn) {
            return None;
        }
        {
            let mut current = lock(&self.current);
            // Of many calls that fail together, the first acts.
            if current.turn == turn {
                *current = Current::new(&self.access).ok()?;
            }
        }
        Some(self.current())
    }

    /// Leaves a connection with credentials that are no longer used for one with those that are, once that is there.
    pub(super) async fn refresh(&self) {
        let before = lock(&self.current).clone();
        if before.turn == self.access.turn() {
            return;
        }
        let Ok(mut new) = Current::new(&self.access) else { return };
        if before.is_used {
            let ping = redis::cmd("PING");
            let answer = timeout(CONNECT_TIMEOUT, new.manager.send_packed_command(&ping)).await;
            if !matches!(answer, Ok(Ok(_))) {
                return;
            }
            new.is_used = true;
        }
        let mut current = lock(&self.current);
        if current.turn == before.turn {
            *current = new;
        }
    }

    /// One pipeline. What the server refused is among the answers.
    pub(super) async fn send(&self, call: &Call) -> Result<Answers, StoreError> {
        if !call.is_probe && self.breaker.allow() == Permit::Deny {
            return Err(StoreError::Suspended);
        }
        let mut asked = Asked { breaker: Some(&self.breaker), since: Instant::now(), late: call.late };
        let send = async |call: &Call| {
            let pipeline = &call.pipeline;
            let Current { manager: mut connection, turn, .. } = self.current();
            let mut values = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
            // The server was started again, or closed what was idle. That shows at the next call only, and a step may be repeated.
            if values.as_ref().is_err_and(RedisError::is_connection_dropped) {
                values = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
            }
            // It may want other credentials since.
            if values.as_ref().is_err_and(|error| !error.is_timeout())
                && let Some(mut other) = self.other(turn)
            {
                values = other.manager.req_packed_commands(pipeline, 0, pipeline.len()).await;
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
        if current.since.elapsed() < RECONNECT.1 {
            return;
        }
        if let Ok(new) = Current::new(&self.access) {
            // Once, however long it lasts: each attempt renews the time.
            if current.since.elapsed() > TOLD_AGAIN {
                tracing::warn!("the store's server turned a call away: reconnecting");
            }
            *current = new;
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
