//! A connection that takes calls: to one server, or to a Cluster.

use std::sync::Arc;

use redis::{IntoConnectionInfo as _, RedisError, TlsCertificates};

use super::breaker::CircuitBreaker;
use super::call::{Answers, Call};
use super::clustered::Clustered;
use super::layout::Shard;
use super::options::Options;
use super::single::{Single, client};
use crate::store::StoreError;

/// The connections to each server: for calls that requests wait for; for the feed of changes, which is read many times a second;
/// and from this place on for calls that wait for a replica.
const PLAIN: usize = 0;
pub(super) const FEED: usize = 1;
const OTHERS: usize = 2;

pub(super) enum Connection {
    Single(Box<Single>),
    /// The one of them at this place.
    Cluster(Arc<Clustered>, usize),
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
        certificates: Option<TlsCertificates>,
        others: usize,
    ) -> Result<Self, RedisError> {
        let mut all: Vec<Connection> = if options.cluster {
            let all = Arc::new(Clustered::new(options, certificates, OTHERS + others)?);
            (0..OTHERS + others).map(|place| Connection::Cluster(Arc::clone(&all), place)).collect()
        } else {
            let url = options.urls.first().map_or("", String::as_str);
            let client = client(url.into_connection_info()?, certificates.as_ref())?;
            let all = Single::several(&client, OTHERS + others)?.into_iter();
            all.map(|one| Connection::Single(Box::new(one))).collect()
        };
        let others = all.split_off(OTHERS);
        let (feed, plain) = (all.swap_remove(FEED), all.swap_remove(PLAIN));
        Ok(Self { plain, feed, others })
    }
}

impl Single {
    /// So many connections to one server. A feed that is slow says nothing of the others, and they nothing of it.
    pub(super) fn several(client: &redis::Client, places: usize) -> Result<Vec<Self>, RedisError> {
        let (common, feed) = (Arc::new(CircuitBreaker::new()), Arc::new(CircuitBreaker::new()));
        let breaker = |place| Arc::clone(if place == FEED { &feed } else { &common });
        (0..places).map(|place| Self::new(client.clone(), breaker(place))).collect()
    }
}

impl Connection {
    /// One pipeline; to a Cluster it must be for this shard alone. What the server refused is among the answers.
    pub(super) async fn send(&self, shard: &Shard, call: &Call) -> Result<Answers, StoreError> {
        match self {
            Self::Single(single) => single.send(call).await,
            Self::Cluster(clustered, place) => clustered.send(*place, shard, call).await,
        }
    }

    /// The server that has this shard, if it is known; one server is always the same.
    pub(super) fn server_of(&self, shard: &Shard) -> Option<String> {
        match self {
            Self::Single(_) => Some(String::new()),
            Self::Cluster(clustered, _) => clustered.server_of(shard),
        }
    }
}
