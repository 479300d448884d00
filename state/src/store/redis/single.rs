//! The connection to one server, which the library keeps; this module leaves a server that turns calls away.
//!
//! A server behind a moving address may become a replica, or load its data again, without closing the connection. Such
//! an answer makes a new connection, for which the name is resolved again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};
use redis::{RedisError, TlsCertificates};

use super::bounds::{CONNECT_TIMEOUT, UNACKNOWLEDGED};
use super::call::{Answers, Call, Step, failure, refused};
use super::options::Options;
use crate::lock::lock;
use crate::store::StoreError;

/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// A server that turns calls away is worth a line in the log after this time without any.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

/// The connection to one server. The manager makes a new one when it breaks; this one also when it leads to the wrong
/// server.
pub(super) struct Single {
    client: redis::Client,
    current: Mutex<(ConnectionManager, Instant)>,
}

impl Single {
    /// A connection to the first server of the options, made when it is first used.
    pub(super) fn new(options: &Options, certificates: Option<TlsCertificates>) -> Result<Self, RedisError> {
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
        Ok(Self { client, current })
    }

    /// Whether the server takes writes.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        // A write, so that a replica says that it is one, of something that is not there: it changes nothing.
        let step = Step::command("DEL").arg("berth:ready");
        self.send(Call::new([step], None)).await.map(|_| ())
    }

    /// One pipeline.
    pub(super) async fn send(&self, call: Call) -> Result<Answers, StoreError> {
        let mut connection = lock(&self.current).0.clone();
        let mut send = async |call: &Call| {
            let pipeline = &call.pipeline;
            let values =
                connection.req_packed_commands(pipeline, 0, pipeline.len()).await.map_err(|error| {
                    // The manager itself reconnects only when the network fails, not when a server turned it away.
                    if !error.is_io_error() {
                        self.renew();
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
                self.renew();
            }
        })?;
        Ok(answers)
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
