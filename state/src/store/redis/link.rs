//! The connection: many commands at once, each call bounded in time, redirections and lost scripts handled.
//!
//! A call is groups of steps, a group for each shard. One server gets them all in one pipeline; a Cluster gets a
//! pipeline for each shard, all at once. Steps are scripts by hash or plain commands, and every one may be repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_core::breaker::Permit;
use futures_util::future::try_join_all;
use redis::{RedisError, Value};
use tokio::sync::watch;

use super::breaker::CircuitBreaker;
use super::call::{Answers, Call, Group, Step};
use super::connection::Connection;
use super::layout::{SHARDS, Shard};
use super::options::{Options, Secrets};
use super::waiting::{GivenUp, Waiting};
use crate::store::StoreError;

/// `WAIT` holds up its connection until a replica has confirmed, half a millisecond on a good day: so many calls may be in
/// that state at once, each on a connection of its own, and the next ones queue for a place.
const WAITING: usize = 16;
/// A replica gets this part of the time: without it the answer is still good, only not durable. A call may have queued
/// behind another for a place, and is sent twice to a server that does not know its script.
const REPLICA_SHARE: u32 = 4;

pub(super) struct Link {
    /// For all that does not wait for a replica.
    plain: Connection,
    /// For what does.
    waiting: Option<Waiting>,
    timeout: Duration,
    breaker: CircuitBreaker,
    /// Whether replicas confirm, by shard; one server has the same for all, the first.
    replicas: [CircuitBreaker; SHARDS],
}

impl Link {
    pub(super) fn new(options: &Options, secrets: watch::Receiver<Arc<Secrets>>) -> Result<Self, RedisError> {
        let others = if options.quorum { WAITING } else { 0 };
        let (plain, waiting) = Connection::with_others(options, secrets, others)?;
        let waiting = waiting.into_iter().map(Arc::new).collect();
        Ok(Self {
            plain,
            waiting: options.quorum.then(|| Waiting::new(waiting)),
            timeout: options.timeout,
            breaker: CircuitBreaker::new(),
            replicas: std::array::from_fn(|_| CircuitBreaker::new()),
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.plain.is_cluster()
    }

    /// One step.
    pub(super) async fn one(&self, shard: &Shard, step: Step) -> Result<Value, StoreError> {
        let answers = self.run(vec![Group { shard: shard.clone(), steps: vec![step] }], false).await?;
        let value = answers.into_iter().next().and_then(|answers| answers.values.into_iter().next());
        value.ok_or_else(|| StoreError::Refused("there was no answer".to_owned()))
    }

    /// Runs all steps of all groups; with `durable` a replica must confirm, if the store is configured for that.
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
            if self.plain.is_cluster() {
                let send = |Group { shard, steps }| self.send(shard.index(), shard, steps, durable);
                return try_join_all(groups.into_iter().map(send)).await;
            }
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

    /// Lets a replica confirm if asked to, unless it lately did not: each call would wait for it until its time is over, and hold
    /// up the others until the store itself seems to be away.
    async fn send(
        &self,
        replica: usize,
        shard: Shard,
        steps: Vec<Step>,
        durable: bool,
    ) -> Result<Answers, StoreError> {
        let (Some(waiting), Some(replicas), true) = (&self.waiting, self.replicas.get(replica), durable)
        else {
            return self.plain.send(&shard, Call::new(steps, None)).await;
        };
        let permit = replicas.allow();
        if permit != Permit::Deny {
            let place = waiting.place().await?;
            if permit == Permit::Probe || !replicas.is_open() {
                let call = Call::new(steps, Some(self.timeout / REPLICA_SHARE));
                let mut given_up = GivenUp(Some(replicas));
                let answers = place.connection.send(&shard, call).await;
                given_up.0 = None;
                let answers = answers?;
                replicas.report(answers.durable == Some(true));
                return Ok(answers);
            }
        }
        let answers = self.plain.send(&shard, Call::new(steps, None)).await?;
        Ok(Answers { durable: Some(false), ..answers })
    }

    /// Whether there is an answer: of the server, or of one of the cluster's primaries.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.bounded(Instant::now(), self.plain.ping()).await
    }

    async fn bounded<T>(
        &self,
        since: Instant,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.breaker.allow() == Permit::Deny {
            return Err(StoreError::Suspended);
        }
        let time = self.timeout.saturating_sub(since.elapsed());
        let result = tokio::time::timeout(time, call).await.unwrap_or(Err(StoreError::Timeout));
        let result = result.map_err(|error| self.plain.explain(error));
        // A refusal is an answer: the store is there.
        self.breaker.report(!matches!(result, Err(StoreError::Timeout | StoreError::Unreachable(_))));
        result
    }
}
