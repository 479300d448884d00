//! Whether replicas confirm what is written, server by server. Who asked for quorum has to learn where it is not held: from the log
//! once, and from `/readyz` and the metrics for as long as it lasts.
//!
//! A replica that does not confirm is not waited for each time: each call would wait until its time is over, and hold up the
//! others until the store itself seems to be away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use berth_core::breaker::Permit;

use super::breaker::CircuitBreaker;
use crate::lock::lock;
use crate::store::readiness::Unconfirmed;

/// What replicas said of a call's writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replicated {
    /// At least one has them.
    Confirmed,
    /// None said so in time.
    Silent,
    /// The server refused to ask them.
    Refused(String),
}

/// What is known of the replicas of each server; a server that has no name is the only one. A shard's number would not do: those of
/// two pools are on different servers of a Cluster.
pub(super) struct Replicas {
    servers: Mutex<BTreeMap<String, Arc<Server>>>,
    /// The log has it that some do not confirm.
    is_said: AtomicBool,
}

/// Of one server.
pub(super) struct Server {
    breaker: CircuitBreaker,
    /// Since when they do not confirm, and why.
    unheld: Mutex<Option<(SystemTime, String)>>,
}

impl Server {
    /// Whether they may be waited for.
    pub(super) fn allow(&self) -> Permit {
        self.breaker.allow()
    }

    /// True if they are waited for only now and then.
    pub(super) fn is_open(&self) -> bool {
        self.breaker.is_open()
    }
}

impl Replicas {
    pub(super) fn new() -> Self {
        Self { servers: Mutex::default(), is_said: AtomicBool::new(false) }
    }

    /// Those of the server of this name.
    pub(super) fn of(&self, server: &str) -> Arc<Server> {
        let mut servers = lock(&self.servers);
        if let Some(known) = servers.get(server) {
            return Arc::clone(known);
        }
        let new = Arc::new(Server { breaker: CircuitBreaker::new(), unheld: Mutex::default() });
        servers.insert(server.to_owned(), Arc::clone(&new));
        new
    }

    /// What came of waiting.
    pub(super) fn report(&self, server: &Server, replicated: &Replicated) {
        server.breaker.report(*replicated == Replicated::Confirmed);
        let why = match replicated {
            Replicated::Confirmed => return self.confirmed(server),
            Replicated::Silent => "no replica confirmed in time",
            Replicated::Refused(why) => why,
        };
        {
            let mut unheld = lock(&server.unheld);
            let since = unheld.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
            *unheld = Some((since, why.to_owned()));
        }
        // One that was late once is no news.
        let is_news = server.is_open() || matches!(replicated, Replicated::Refused(_));
        if is_news && !self.is_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                why,
                "quorum is not held: writes are acknowledged that a failover may lose; /readyz shows in which shards"
            );
        }
    }

    fn confirmed(&self, server: &Server) {
        let was_unheld = lock(&server.unheld).take().is_some();
        let is_held = || lock(&self.servers).values().all(|server| lock(&server.unheld).is_none());
        if was_unheld && is_held() && self.is_said.swap(false, Ordering::Relaxed) {
            tracing::info!("quorum is held again: replicas confirm writes of all shards");
        }
    }

    /// Of these shards, each with its server, those whose replicas do not confirm. Servers that have none of them any more are
    /// forgotten.
    pub(super) fn unconfirmed(&self, shards: &[(usize, String)]) -> Vec<Unconfirmed> {
        let mut servers = lock(&self.servers);
        servers.retain(|name, _| shards.iter().any(|(_, server)| server == name));
        let mut unconfirmed: BTreeMap<usize, Unconfirmed> = BTreeMap::new();
        for (shard, server) in shards {
            let Some((since, detail)) = servers.get(server).and_then(|known| lock(&known.unheld).clone())
            else {
                continue;
            };
            let one = Unconfirmed { shard: *shard, since, detail };
            let first = unconfirmed.entry(*shard).or_insert_with(|| one.clone());
            if one.since < first.since {
                *first = one;
            }
        }
        if servers.values().all(|server| lock(&server.unheld).is_none()) {
            self.is_said.store(false, Ordering::Relaxed);
        }
        unconfirmed.into_values().collect()
    }
}

/// A call that is given up while it waits counts as not confirmed.
pub(super) struct GivenUp<'g>(pub(super) Option<(&'g Replicas, &'g Server)>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some((replicas, server)) = self.0 {
            replicas.report(server, &Replicated::Silent);
        }
    }
}
