//! Whether replicas confirm what is written, shard by shard. Who asked for quorum has to learn where it is not held: from the log
//! once, and from `/readyz` and the metrics for as long as it lasts.
//!
//! A replica that does not confirm is not waited for each time: each call would wait until its time is over, and hold up the
//! others until the store itself seems to be away.

use std::sync::Mutex;
use std::time::SystemTime;

use berth_core::breaker::Permit;

use super::breaker::CircuitBreaker;
use super::layout::SHARDS;
use super::prober::digits;
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

pub(super) struct Replicas {
    /// By shard; one server has the same for all, the first.
    breakers: [CircuitBreaker; SHARDS],
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    unheld: [Option<(SystemTime, String)>; SHARDS],
    /// The log has it.
    is_said: bool,
}

impl Replicas {
    pub(super) fn new() -> Self {
        let breakers = std::array::from_fn(|_| CircuitBreaker::new());
        Self { breakers, known: Mutex::default() }
    }

    /// Whether those of this shard may be waited for.
    pub(super) fn allow(&self, shard: usize) -> Permit {
        self.breakers.get(shard).map_or(Permit::Deny, CircuitBreaker::allow)
    }

    /// True if those of this shard are waited for only now and then.
    pub(super) fn is_open(&self, shard: usize) -> bool {
        self.breakers.get(shard).is_none_or(CircuitBreaker::is_open)
    }

    /// What came of waiting.
    pub(super) fn report(&self, shard: usize, replicated: &Replicated) {
        let Some(breaker) = self.breakers.get(shard) else { return };
        breaker.report(*replicated == Replicated::Confirmed);
        let why = match replicated {
            Replicated::Confirmed => return self.confirmed(shard),
            Replicated::Silent => "no replica confirmed in time",
            Replicated::Refused(why) => why,
        };
        let mut known = lock(&self.known);
        let Some(unheld) = known.unheld.get_mut(shard) else { return };
        let since = unheld.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
        *unheld = Some((since, why.to_owned()));
        // One that was late once is no news.
        let is_news = breaker.is_open() || matches!(replicated, Replicated::Refused(_));
        if is_news && !std::mem::replace(&mut known.is_said, true) {
            let shards = digits(&known.shards());
            tracing::warn!(
                shards,
                why,
                "quorum is not held: writes are acknowledged that a failover may lose; /readyz shows for how long"
            );
        }
    }

    fn confirmed(&self, shard: usize) {
        let mut known = lock(&self.known);
        let was_unheld = known.unheld.get_mut(shard).is_some_and(|unheld| unheld.take().is_some());
        if was_unheld && known.shards().is_empty() && std::mem::take(&mut known.is_said) {
            tracing::info!("quorum is held again: replicas confirm writes of all shards");
        }
    }

    /// The shards whose replicas do not confirm. `is_one`: one server has them all.
    pub(super) fn unconfirmed(&self, is_one: bool) -> Vec<Unconfirmed> {
        let known = lock(&self.known);
        let of = |shard: usize| {
            let (since, detail) = known.unheld.get(if is_one { 0 } else { shard })?.clone()?;
            Some(Unconfirmed { shard, since, detail })
        };
        (0..SHARDS).filter_map(of).collect()
    }
}

impl Known {
    fn shards(&self) -> Vec<usize> {
        (0..).zip(&self.unheld).filter(|(_, unheld)| unheld.is_some()).map(|(shard, _)| shard).collect()
    }
}

/// A call that is given up while it waits counts as not confirmed.
pub(super) struct GivenUp<'g>(pub(super) Option<(&'g Replicas, usize)>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some((replicas, shard)) = self.0 {
            replicas.report(shard, &Replicated::Silent);
        }
    }
}
