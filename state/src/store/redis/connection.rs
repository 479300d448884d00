//! A connection that takes calls: to one server, or to a Cluster. Where it leads may change beneath its users (`renewal`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_core::wire::PoolName;
use redis::RedisError;
use tokio::sync::watch;

use super::access::{Access, Entry};
use super::breaker::CircuitBreaker;
use super::call::{Answers, Call, Step, accepted};
use super::clustered::Clustered;
use super::diagnosis::Diagnosis;
use super::layout::Shard;
use super::options::{Options, Secrets};
use super::sentinel::{SentinelUrl, explained};
use super::single::Single;
use super::{renewal, scripts};
use crate::lock::lock;
use crate::store::StoreError;

/// The connections to each server: for calls that requests wait for; for the feed of changes, which is read many times a second;
/// and from this place on for calls that wait for a replica.
const PLAIN: usize = 0;
pub(super) const FEED: usize = 1;
const OTHERS: usize = 2;
/// What a trial writes lives so long, in ms.
const TRIAL_MS: &str = "1000";

/// Calls that are under way end on the route that they began on.
#[derive(Clone)]
pub(super) struct Connection {
    route: Arc<Mutex<Route>>,
    is_cluster: bool,
    diagnosis: Option<Arc<Diagnosis>>,
}

/// Where calls go now.
#[derive(Clone)]
pub(super) enum Route {
    Single(Arc<Single>),
    /// The one of them at this place.
    Cluster(Arc<Clustered>, usize),
    /// No Sentinel has named the primary yet: what is known of it.
    Unknown(String),
}

pub(super) struct Connections {
    pub(super) plain: Connection,
    pub(super) feed: Connection,
    pub(super) others: Vec<Connection>,
}

impl Connections {
    /// With so many others, of the kind that the options name. They connect when they are first used.
    pub(super) fn new(
        options: &Options,
        secrets: watch::Receiver<Arc<Secrets>>,
        others: usize,
    ) -> Result<Self, RedisError> {
        let (count, used) = (OTHERS + others, Arc::clone(&secrets.borrow()));
        let routes = match SentinelUrl::of(options) {
            None => Route::all(options, &used, None, count)?,
            Some(_) => vec![Route::Unknown("was not asked yet".to_owned()); count],
        };
        let diagnosis = Diagnosis::of(options, &secrets);
        let new = |route| Connection {
            route: Arc::new(Mutex::new(route)),
            is_cluster: options.cluster,
            diagnosis: diagnosis.clone(),
        };
        let mut all: Vec<Connection> = routes.into_iter().map(new).collect();
        let routes = all.iter().map(|one| Arc::downgrade(&one.route)).collect();
        renewal::keep(options, secrets, used, routes);
        let others = all.split_off(OTHERS);
        let (feed, plain) = (all.swap_remove(FEED), all.swap_remove(PLAIN));
        Ok(Self { plain, feed, others })
    }
}

impl Single {
    /// So many connections to one server. A feed that is slow says nothing of the others, and they nothing of it.
    pub(super) fn several(access: &Arc<Access>, places: usize) -> Result<Vec<Self>, RedisError> {
        let (common, feed) = (Arc::new(CircuitBreaker::new()), Arc::new(CircuitBreaker::new()));
        let breaker = |place| Arc::clone(if place == FEED { &feed } else { &common });
        (0..places).map(|place| Self::new(Arc::clone(access), breaker(place))).collect()
    }
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// One pipeline; to a Cluster it must be for this shard alone. What the server refused is among the answers.
    pub(super) async fn send(&self, shard: &Shard, call: &Call) -> Result<Answers, StoreError> {
        self.route().send(shard, call).await
    }

    /// The server that has this shard, if it is known; one server is always the same.
    pub(super) fn server_of(&self, shard: &Shard) -> Option<String> {
        match self.route() {
            Route::Single(_) | Route::Unknown(_) => Some(String::new()),
            Route::Cluster(clustered, _) => clustered.server_of(shard),
        }
    }

    /// The cause of a failure, if it was found.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        match &self.diagnosis {
            Some(diagnosis) => diagnosis.explain(error),
            None => error,
        }
    }

    fn route(&self) -> Route {
        lock(&self.route).clone()
    }
}

impl Route {
    /// So many, to the same servers. Where these refuse the secrets, they are reached with the former ones.
    pub(super) fn all(
        options: &Options,
        secrets: &Secrets,
        former: Option<&Secrets>,
        count: usize,
    ) -> Result<Vec<Self>, RedisError> {
        if options.cluster {
            let all = Arc::new(Clustered::new(options, secrets, former, count)?);
            return Ok((0..count).map(|place| Self::Cluster(Arc::clone(&all), place)).collect());
        }
        let client = |secrets: &Secrets| Entry::new(options, secrets)?.client();
        let access = Arc::new(Access::new(client(secrets)?, former.map(client).transpose()?));
        let all = Single::several(&access, count)?.into_iter();
        Ok(all.map(|one| Self::Single(Arc::new(one))).collect())
    }

    /// Has these secrets used once a server accepts them ([`Access::advance`]); those options are of this server.
    pub(super) fn renew(&self, options: &Options, secrets: &Secrets) -> Result<(), RedisError> {
        match self {
            Self::Single(single) => single.access().renew(Entry::new(options, secrets)?.client()?),
            Self::Cluster(clustered, _) => clustered.renew(options, secrets)?,
            Self::Unknown(_) => {}
        }
        Ok(())
    }

    /// The servers that it leads to, by name.
    pub(super) fn servers(&self) -> Vec<(String, Arc<Access>)> {
        match self {
            Self::Single(single) => vec![("the server".to_owned(), Arc::clone(single.access()))],
            Self::Cluster(clustered, _) => clustered.servers(),
            Self::Unknown(_) => Vec::new(),
        }
    }

    /// Leaves connections with secrets that are no longer used.
    pub(super) async fn refresh(&self) {
        match self {
            Self::Single(single) => single.refresh().await,
            Self::Cluster(clustered, place) => clustered.refresh(*place).await,
            Self::Unknown(_) => {}
        }
    }

    async fn send(&self, shard: &Shard, call: &Call) -> Result<Answers, StoreError> {
        match self {
            Self::Single(single) => single.send(call).await,
            Self::Cluster(clustered, place) => clustered.send(*place, shard, call).await,
            Self::Unknown(why) => Err(StoreError::Unreachable(why.clone())),
        }
    }

    /// Whether it takes writes: the server, or of a cluster any one.
    pub(super) async fn tries(&self, limit: Duration) -> Result<(), StoreError> {
        let pool: PoolName = match "readiness".parse() {
            Ok(pool) => pool,
            Err(_) => unreachable!("letters make a pool's name"),
        };
        let mut failure = StoreError::Timeout;
        for shard in Shard::all(&pool) {
            let step = Step::script(&scripts::PROBE, &[shard.probe()]).arg(TRIAL_MS);
            let call = Call::new([step], None, limit).into_probe();
            match self.send(&shard, &call).await.and_then(accepted) {
                Ok(_) => return Ok(()),
                // Memory says nothing of the server's role: what is in it can be read, and pins end by themselves.
                Err(StoreError::Refused(message)) if message.starts_with("OOM") => return Ok(()),
                Err(error) => failure = explained(error),
            }
            if !matches!(self, Self::Cluster(..)) {
                break;
            }
        }
        Err(failure)
    }
}
