//! The connections: many commands at once, each call bounded in time, redirections and lost scripts handled.
//!
//! A call is groups of steps, a group for each shard, and each group has its own outcome: a shard that is away is no failure
//! of the others. One server gets them all in one pipeline; a Cluster gets a pipeline for each shard, all at once. Steps are
//! scripts by hash or plain commands, and every one may be repeated.

use std::sync::Arc;
use std::time::Duration;

use berth_core::breaker::Permit;
use berth_core::wire::PoolName;
use futures_util::future::join_all;
use redis::{RedisError, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::call::{Answers, Call, Group, Step, accepted};
use super::connection::{Connection, Connections};
use super::layout::Shard;
use super::options::{Options, Secrets};
use super::replicas::{GivenUp, Replicas, Replicated, Server};
use super::sentinel::explained;
use super::waiting::{Place, Waiting};
use crate::store::StoreError;
use crate::store::one_call::so_far;
use crate::store::readiness::Unconfirmed;

/// `WAIT` holds up its connection until a replica has confirmed, half a millisecond on a good day: so many calls may be in
/// that state at once, each on a connection of its own, and the next ones queue for a place.
const WAITING: usize = 16;
/// A replica gets this part of the time: without it the answer is still good, only not durable. A call may have queued
/// behind another for a place, and is sent twice to a server that does not know its script.
const REPLICA_SHARE: u32 = 4;

pub(super) struct Link {
    /// For all that is neither of the others.
    plain: Connection,
    /// For the feed of changes: polls must not delay resolves.
    feed: Connection,
    /// For what waits for a replica.
    waiting: Option<Waiting>,
    timeout: Duration,
    replicas: Replicas,
    /// Of probes that wait for a replica.
    probing: Semaphore,
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// A replica must confirm, if the store is configured for that.
    Durable,
    Feed,
    /// It finds out whether a server answers, so it is sent also to one that did not lately.
    Probe,
}

/// What became of each group.
pub(super) type Outcomes = Vec<Result<Answers, StoreError>>;

impl Link {
    pub(super) fn new(options: &Options, secrets: watch::Receiver<Arc<Secrets>>) -> Result<Self, RedisError> {
        let others = if options.quorum { WAITING } else { 0 };
        let Connections { plain, feed, others } = Connections::new(options, secrets, others)?;
        let waiting = others.into_iter().map(Arc::new).collect();
        Ok(Self {
            plain,
            feed,
            waiting: options.quorum.then(|| Waiting::new(waiting)),
            timeout: options.timeout,
            replicas: Replicas::new(),
            probing: Semaphore::new(WAITING / 2),
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.plain.is_cluster()
    }

    /// The server that has this shard, if it is known.
    pub(super) fn server_of(&self, shard: &Shard) -> Option<String> {
        self.plain.server_of(shard)
    }

    /// One step.
    pub(super) async fn one(&self, shard: &Shard, step: Step) -> Result<Value, StoreError> {
        let answers = self.run(vec![Group { shard: shard.clone(), steps: vec![step] }]).await?;
        let value = answers.into_iter().next().and_then(|answers| answers.values.into_iter().next());
        value.ok_or_else(no_answer)
    }

    /// One step, and whether a replica confirmed it; `None` if the store is not configured to ask.
    pub(super) async fn one_durably(
        &self,
        shard: &Shard,
        step: Step,
    ) -> Result<(Value, Option<bool>), StoreError> {
        let groups = vec![Group { shard: shard.clone(), steps: vec![step] }];
        let answers = self.each_durably(groups).await.into_iter().next();
        let answers = answers.ok_or_else(no_answer)??;
        let durable = answers.durable();
        Ok((answers.values.into_iter().next().ok_or_else(no_answer)?, durable))
    }

    /// Runs all steps of all groups. The first failure is that of the whole.
    pub(super) async fn run(&self, groups: Vec<Group>) -> Result<Vec<Answers>, StoreError> {
        self.each(groups).await.into_iter().collect()
    }

    /// Runs all steps of all groups.
    pub(super) async fn each(&self, groups: Vec<Group>) -> Outcomes {
        self.send_all(Kind::Plain, self.timeout, groups).await
    }

    /// The same, and a replica must confirm if the store is configured for that.
    pub(super) async fn each_durably(&self, groups: Vec<Group>) -> Outcomes {
        self.send_all(Kind::Durable, self.timeout, groups).await
    }

    /// Reads the feed of changes.
    pub(super) async fn feed(&self, groups: Vec<Group>) -> Outcomes {
        self.send_all(Kind::Feed, self.timeout, groups).await
    }

    /// Reads where the feed is, in half of the time: a request that needs it first has something left for the rest.
    pub(super) async fn feed_soon(&self, groups: Vec<Group>) -> Outcomes {
        self.send_all(Kind::Feed, self.timeout / 2, groups).await
    }

    /// Asks also those that did not answer lately.
    pub(super) async fn probe(&self, limit: Duration, groups: Vec<Group>) -> Outcomes {
        self.send_all(Kind::Probe, limit, groups).await
    }

    async fn send_all(&self, kind: Kind, limit: Duration, groups: Vec<Group>) -> Outcomes {
        // A verb of several calls takes no longer than one.
        let limit = limit.min(self.timeout.max(limit).saturating_sub(so_far()));
        let bounded = async |shard: Shard, steps: Vec<Step>| {
            let sent = timeout(limit, self.send(kind, shard, steps)).await;
            sent.unwrap_or(Err(StoreError::Timeout)).map_err(|error| self.plain.explain(error))
        };
        let accepted = |answers| accepted(answers).map_err(explained);
        if self.is_cluster() {
            let send = |Group { shard, steps }| async { accepted(bounded(shard, steps).await?) };
            return join_all(groups.into_iter().map(send)).await;
        }
        let Some(shard) = groups.first().map(|group| group.shard.clone()) else { return Vec::new() };
        let lengths: Vec<usize> = groups.iter().map(|group| group.steps.len()).collect();
        let steps = groups.into_iter().flat_map(|group| group.steps).collect();
        let answers = match bounded(shard, steps).await {
            Ok(answers) => answers,
            Err(error) => return lengths.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut values = answers.values.into_iter();
        let of_group = |length| {
            let values = values.by_ref().take(length).collect();
            accepted(Answers { values, replicated: answers.replicated.clone() })
        };
        lengths.into_iter().map(of_group).collect()
    }

    /// Lets a replica confirm if asked to. A probe finds out whether one does, unless all places are taken: then that is known.
    async fn send(&self, kind: Kind, shard: Shard, steps: Vec<Step>) -> Result<Answers, StoreError> {
        let (late, is_probe) = (self.timeout / 2, kind == Kind::Probe);
        // Of half of the places: those of servers that hang must not keep all from the others' calls.
        let is_written = is_probe && steps.iter().any(Step::is_script);
        let turn = if is_written { self.probing.try_acquire().ok() } else { None };
        let call = |wait| {
            let call = Call::new(steps, wait, late);
            if is_probe { call.into_probe() } else { call }
        };
        let replicas = || self.replicas.of(&self.replicated_by(&shard));
        let place = match (&self.waiting, kind) {
            (Some(waiting), Kind::Durable) => place(waiting, &replicas()).await?,
            (Some(waiting), Kind::Probe) if turn.is_some() => waiting.free_place(),
            _ => None,
        };
        let Some(place) = place else {
            let connection = if kind == Kind::Feed { &self.feed } else { &self.plain };
            let answers = connection.send(&shard, &call(None)).await?;
            let is_asked = self.waiting.is_some() && kind == Kind::Durable;
            return Ok(Answers { replicated: is_asked.then_some(Replicated::Silent), ..answers });
        };
        let server = replicas();
        let mut given_up = GivenUp(Some((&self.replicas, &server)));
        let answers = place.connection.send(&shard, &call(Some(self.timeout / REPLICA_SHARE))).await;
        given_up.0 = None;
        let answers = answers?;
        if let Some(replicated) = &answers.replicated {
            self.replicas.report(&server, replicated);
        }
        Ok(answers)
    }

    /// Whose replicas have what is written in this shard.
    fn replicated_by(&self, shard: &Shard) -> String {
        self.server_of(shard).filter(|_| self.is_cluster()).unwrap_or_default()
    }

    /// Whether it waits for replicas to confirm.
    pub(super) fn asks_replicas(&self) -> bool {
        self.waiting.is_some()
    }

    /// The shards of these pools whose replicas do not confirm; `None` if they are not asked.
    pub(super) fn unconfirmed(&self, pools: &[PoolName]) -> Option<Vec<Unconfirmed>> {
        let named = |shard: Shard| (shard.index(), self.replicated_by(&shard));
        let shards = || pools.iter().flat_map(Shard::all).map(named).collect::<Vec<_>>();
        self.asks_replicas().then(|| self.replicas.unconfirmed(&shards()))
    }
}

/// A place to wait for the server's replicas, unless they lately did not confirm.
async fn place<'w>(waiting: &'w Waiting, replicas: &Server) -> Result<Option<Place<'w>>, StoreError> {
    let permit = replicas.allow();
    if permit == Permit::Deny {
        return Ok(None);
    }
    let place = waiting.place().await?;
    let may_wait = permit == Permit::Probe || !replicas.is_open();
    Ok(may_wait.then_some(place))
}

fn no_answer() -> StoreError {
    StoreError::Refused("there was no answer".to_owned())
}
