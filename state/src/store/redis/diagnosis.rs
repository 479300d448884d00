//! Why a store with TLS is not reached: the library tries again until the time is over, so a certificate that is refused looks
//! like a server that does not answer.
//!
//! Nodes of a cluster are connected to as they announce themselves. If that is by their addresses and their certificates have
//! only names, the first server is reached and no other one. The same goes for a primary as Sentinels name it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Client, RedisError, Value};
use tokio::sync::watch;

use super::options::{Options, Secrets};
use super::sentinel::{SentinelUrl, Sentinels};
use crate::lock::lock;
use crate::store::StoreError;

/// A server gets so long, and failures are looked into once in a while.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was found holds until the next look, if calls still fail.
const HOLDS_FOR: Duration = Duration::from_secs(15);
/// rustls says so of each certificate that it refuses, and of one with another name.
const REFUSED: &str = "certificate";
const OTHER_NAME: &str = "not valid for name";

/// What is known of failures.
pub(super) struct Diagnosis {
    options: Options,
    secrets: watch::Receiver<Arc<Secrets>>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    looked: Option<Instant>,
    cause: Option<(Instant, String)>,
}

impl Diagnosis {
    /// `None` without TLS.
    pub(super) fn of(options: &Options, secrets: &watch::Receiver<Arc<Secrets>>) -> Option<Arc<Self>> {
        let is_tls = options.urls.iter().any(|url| url.starts_with("rediss:") || url.starts_with("rediss+"));
        is_tls.then(|| {
            let (options, secrets) = (options.clone(), secrets.clone());
            Arc::new(Self { options, secrets, found: Mutex::default() })
        })
    }

    /// The same failure, or its cause if that was found. Looks for it in the background.
    pub(super) fn explain(self: &Arc<Self>, error: StoreError) -> StoreError {
        if !matches!(error, StoreError::Timeout | StoreError::Unreachable(_)) {
            return error;
        }
        let mut found = lock(&self.found);
        if found.looked.is_none_or(|looked| looked.elapsed() > LOOK_EVERY)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            found.looked = Some(Instant::now());
            runtime.spawn(Arc::clone(self).look());
        }
        match &found.cause {
            Some((since, cause)) if since.elapsed() < HOLDS_FOR => StoreError::Unreachable(cause.clone()),
            _ => error,
        }
    }

    async fn look(self: Arc<Self>) {
        let cause = self.cause().await;
        let mut found = lock(&self.found);
        let is_new = cause.is_some() && found.cause.as_ref().map(|(_, cause)| cause) != cause.as_ref();
        found.cause = cause.map(|cause| (Instant::now(), cause));
        if let Some((_, cause)) = found.cause.as_ref().filter(|_| is_new) {
            tracing::warn!("the store is not reached: {cause}");
        }
    }

    /// The first certificate that is refused: of the servers that are configured, then of those that they announce.
    async fn cause(&self) -> Option<String> {
        let secrets = Arc::clone(&self.secrets.borrow());
        if let Some(url) = SentinelUrl::of(&self.options) {
            return cause_at(&url, &self.options, &secrets).await;
        }
        let mut announced = BTreeSet::new();
        for (position, url) in (1..).zip(&self.options.urls) {
            match ask(url, &secrets, self.options.cluster).await {
                Ok(nodes) => announced.extend(nodes),
                Err(error) => {
                    let error = error.to_string();
                    if error.contains(REFUSED) {
                        return Some(format!("the server of URL {position}: {error}"));
                    }
                }
            }
        }
        for (host, port) in announced {
            let url = match host.contains(':') {
                true => format!("rediss://[{host}]:{port}"),
                false => format!("rediss://{host}:{port}"),
            };
            // Without user and password: certificates come first.
            if let Some(error) = refusal(&url, &secrets).await {
                let advice = match error.contains(OTHER_NAME) {
                    true => {
                        ". Have each node announce a name that its certificate has: cluster-announce-hostname, and \
                             cluster-preferred-endpoint-type hostname"
                    }
                    false => "",
                };
                return Some(format!(
                    "the cluster announces {host}:{port}, and that is refused: {error}{advice}"
                ));
            }
        }
        None
    }
}

/// The same of Sentinels, then of the primary that they name.
async fn cause_at(url: &SentinelUrl, options: &Options, secrets: &Secrets) -> Option<String> {
    for (address, url) in url.each_sentinel() {
        if let Some(error) = refusal(&url, secrets).await {
            return Some(format!("Sentinel {address}: {error}"));
        }
    }
    let primary = Sentinels::new(url, secrets, None).primary(None).await.ok()?;
    let error = refusal(url.at(options, &primary).urls.first()?, secrets).await?;
    let advice = match error.contains(OTHER_NAME) {
        true => {
            ". Have them name a host that its certificate has: sentinel resolve-hostnames and announce-hostnames, with that name in \
                 sentinel monitor, and in replica-announce-ip of each server"
        }
        false => "",
    };
    Some(format!("the Sentinels name {primary} as primary, and that is refused: {error}{advice}"))
}

/// What is wrong with a server's certificate, or with ours, if anything is.
async fn refusal(url: &str, secrets: &Secrets) -> Option<String> {
    let error = ask(url, secrets, false).await.err()?.to_string();
    error.contains(REFUSED).then_some(error)
}

/// Connects to a server, and asks for the nodes of its cluster.
async fn ask(url: &str, secrets: &Secrets, for_nodes: bool) -> Result<Vec<(String, u16)>, RedisError> {
    let certificates = secrets.certificates.clone();
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(url, certificates)?,
        None => Client::open(url)?,
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    if !for_nodes {
        return Ok(Vec::new());
    }
    let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    Ok(nodes(&slots))
}

/// Of ranges of slots, each with its first and last slot and then its nodes, each with its host and port.
fn nodes(slots: &Value) -> Vec<(String, u16)> {
    let Value::Array(ranges) = slots else { return Vec::new() };
    let ranges = ranges.iter().filter_map(|range| match range {
        Value::Array(parts) => parts.get(2..),
        _ => None,
    });
    let node = |node: &Value| {
        let Value::Array(parts) = node else { return None };
        let [Value::BulkString(host), Value::Int(port), ..] = parts.as_slice() else { return None };
        Some((String::from_utf8(host.clone()).ok()?, u16::try_from(*port).ok()?))
    };
    ranges.flatten().filter_map(node).filter(|(host, _)| !host.is_empty()).collect()
}
