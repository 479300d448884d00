//! A connection that takes calls: to one server, or to a Cluster.

use std::sync::Arc;

use redis::{RedisError, TlsCertificates};

use super::call::{Answers, Call};
use super::clustered::Clustered;
use super::layout::Shard;
use super::options::Options;
use super::single::Single;
use crate::store::StoreError;

pub(super) enum Connection {
    Single(Box<Single>),
    /// The one of them at this place.
    Cluster(Arc<Clustered>, usize),
}

impl Connection {
    /// One and so many others, of the kind that the options name. They connect when they are first used.
    pub(super) fn with_others(
        options: &Options,
        certificates: Option<TlsCertificates>,
        others: usize,
    ) -> Result<(Self, Vec<Self>), RedisError> {
        if options.cluster {
            let all = Arc::new(Clustered::new(options, certificates, 1 + others)?);
            let others = (1..=others).map(|place| Self::Cluster(Arc::clone(&all), place)).collect();
            return Ok((Self::Cluster(all, 0), others));
        }
        let single = || Single::new(options, certificates.clone()).map(|one| Self::Single(Box::new(one)));
        Ok((single()?, (0..others).map(|_| single()).collect::<Result<_, _>>()?))
    }

    /// One pipeline; to a Cluster it must be for this shard alone.
    pub(super) async fn send(&self, shard: &Shard, call: Call) -> Result<Answers, StoreError> {
        match self {
            Self::Single(single) => single.send(call).await,
            Self::Cluster(clustered, place) => clustered.send(*place, shard, call).await,
        }
    }

    /// Whether there is an answer: of the server, or of one of the cluster's primaries.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Single(single) => single.ping().await,
            Self::Cluster(clustered, place) => clustered.ping(*place).await,
        }
    }
}
