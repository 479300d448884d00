//! A connection that takes calls: to one server, or to a Cluster. Where it leads may change beneath its users (`renewal`).

use std::sync::{Arc, Mutex};

use redis::RedisError;
use tokio::sync::watch;

use super::call::{Answers, Call};
use super::clustered::Clustered;
use super::diagnosis::Diagnosis;
use super::layout::Shard;
use super::options::{Options, Secrets};
use super::renewal;
use super::sentinel::{SentinelUrl, explained};
use super::single::Single;
use crate::lock::lock;
use crate::store::StoreError;

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

impl Connection {
    /// One and so many others, of the kind that the options name. They connect when they are first used.
    pub(super) fn with_others(
        options: &Options,
        secrets: watch::Receiver<Arc<Secrets>>,
        others: usize,
    ) -> Result<(Self, Vec<Self>), RedisError> {
        let (count, used) = (1 + others, Arc::clone(&secrets.borrow()));
        let routes = match SentinelUrl::of(options) {
            None => Route::all(options, &used, count)?,
            Some(_) => vec![Route::Unknown("was not asked yet".to_owned()); count],
        };
        let diagnosis = Diagnosis::of(options, &secrets);
        let new = |route| Self {
            route: Arc::new(Mutex::new(route)),
            is_cluster: options.cluster,
            diagnosis: diagnosis.clone(),
        };
        let mut all: Vec<Self> = routes.into_iter().map(new).collect();
        let routes = all.iter().map(|one| Arc::downgrade(&one.route)).collect();
        renewal::keep(options, secrets, used, routes);
        let others = all.split_off(1);
        all.pop().map(|first| (first, others)).ok_or_else(|| RedisError::from(std::io::Error::other("none")))
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// One pipeline; to a Cluster it must be for this shard alone.
    pub(super) async fn send(&self, shard: &Shard, call: Call) -> Result<Answers, StoreError> {
        let answers = match self.route() {
            Route::Single(single) => single.send(call).await,
            Route::Cluster(clustered, place) => clustered.send(place, shard, call).await,
            Route::Unknown(why) => Err(StoreError::Unreachable(why)),
        };
        answers.map_err(explained)
    }

    /// Whether there is an answer: of the server, or of one of the cluster's primaries.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.route().ping().await
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
    /// So many, to the same servers.
    pub(super) fn all(options: &Options, secrets: &Secrets, count: usize) -> Result<Vec<Self>, RedisError> {
        let with_password = secrets.password.as_deref().map(|password| options.with_password(password));
        let (options, certificates) = (with_password.as_ref().unwrap_or(options), &secrets.certificates);
        if options.cluster {
            let all = Arc::new(Clustered::new(options, certificates.clone(), count)?);
            return Ok((0..count).map(|place| Self::Cluster(Arc::clone(&all), place)).collect());
        }
        let single = |_| Single::new(options, certificates.clone()).map(|one| Self::Single(Arc::new(one)));
        (0..count).map(single).collect()
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let answer = match self {
            Self::Single(single) => single.ping().await,
            Self::Cluster(clustered, place) => clustered.ping(*place).await,
            Self::Unknown(why) => Err(StoreError::Unreachable(why.clone())),
        };
        answer.map_err(explained)
    }
}
