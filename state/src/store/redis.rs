//! The shared store: Redis or Valkey 7, one server or a Cluster.
//!
//! A pool is spread over sixteen shards by its session keys (`layout`). All keys of a shard share a hash tag, so the
//! script that resolves a session touches one slot, and a claim or rehome, its life and its change event are one atomic
//! step (`scripts`). `link` sends many of them (`call`) at once over a `connection` and bounds each in time;
//! `breaker` stops asking a store that does not answer.

mod access;
mod bounds;
mod breaker;
mod call;
mod clustered;
mod connection;
mod counting;
mod diagnosis;
mod ending;
mod feed;
mod format;
mod identity;
mod layout;
mod link;
mod mending;
mod options;
mod prober;
mod reading;
mod recording;
mod renewal;
mod replicas;
#[doc(hidden)]
pub mod replies;
mod resolving;
mod scripts;
mod sentinel;
mod single;
mod slots;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use berth_core::time::Millis;
use berth_core::wire::{
    ChangesReply, CountReply, Cursor, NodeChange, NodeId, NodeRecord, Pin, PoolName, Reason, ResolveRequest,
    SessionKey, SessionReply, StoreId, TouchReply, TouchRequest,
};

use self::call::{Group, Step};
use self::feed::{Heads, Unreadable};
use self::identity::Identity;
use self::layout::{Position, SHARDS, Shard};
use self::link::Link;
use self::mending::Mending;
pub use self::options::{Options, Tls};
use self::prober::Prober;
use self::reading::misread;
use self::resolving::known_text;
pub(crate) use self::sentinel::SentinelUrl;
use super::one_call::as_one_call;
use super::readiness::Readiness;
use super::{Keeping, Store, StoreError, Written};
use crate::given::Fault;

/// How far back the changes of one session are looked for, in its shard.
const EVENTS_LOOKED_AT: usize = 1024;

/// The store on Redis.
pub struct Redis {
    link: Arc<Link>,
    identity: Arc<Identity>,
    prober: Arc<Prober>,
    /// The newest positions of logs, as far as they were seen.
    heads: Heads,
    unreadable: Unreadable,
    mending: Arc<Mending>,
    keeping: Keeping,
}

impl Redis {
    /// A store on the servers that `options` name, whose files it reads. Needs a tokio runtime, on which it looks each second
    /// which shards take writes.
    ///
    /// # Errors
    /// What is wrong with the options or their files.
    pub fn open(options: &Options) -> Result<Self, Fault> {
        let secrets = options.follow()?;
        let link = Link::new(options, secrets).map_err(|error| Fault::new("redis", error.to_string()))?;
        let (link, prober) = (Arc::new(link), Prober::new());
        tokio::spawn(Prober::run(Arc::downgrade(&prober), Arc::downgrade(&link)));
        let mending = Arc::new(Mending::default());
        tokio::spawn(Mending::run(Arc::downgrade(&mending), Arc::downgrade(&link), Arc::downgrade(&prober)));
        let (heads, unreadable) = (Heads::default(), Unreadable::default());
        let identity = Arc::new(Identity::default());
        Ok(Self { link, identity, prober, heads, unreadable, mending, keeping: options.keeping })
    }

    /// Where this store keeps a pin, for tests that let one expire.
    #[doc(hidden)]
    #[must_use]
    pub fn pin_key(pool: &PoolName, key: SessionKey) -> String {
        Shard::of(pool, key).pin(key)
    }

    async fn one_session(
        &self,
        pool: &PoolName,
        key: SessionKey,
    ) -> Result<Option<SessionReply>, StoreError> {
        let shard = Shard::of(pool, key);
        let steps = vec![
            Step::command("GET").arg(shard.pin(key)),
            Step::command("PTTL").arg(shard.pin(key)),
            Step::command("TIME"),
            Step::command("XREVRANGE")
                .arg(shard.changes())
                .arg("+")
                .arg("-")
                .arg("COUNT")
                .arg(EVENTS_LOOKED_AT.to_string()),
        ];
        let answers = self.link.run(vec![Group { shard: shard.clone(), steps }]).await?;
        let values = answers.first().map_or(&[][..], |answers| &answers.values);
        let Some(mut session) = reading::session(pool, key, self.keeping.ttl, values)? else {
            return Ok(None);
        };
        if let Some((_, owner)) = self.record_of(pool, &session.node).await? {
            session.owner = owner;
        }
        Ok(Some(session))
    }
}

/// Puts things that belong to sessions together by shard, remembering where each was in the request.
fn by_shard<T>(pool: &PoolName, items: impl Iterator<Item = (SessionKey, T)>) -> Vec<(Shard, Vec<T>)> {
    let mut groups: Vec<(Shard, Vec<T>)> = Vec::new();
    for (key, item) in items {
        // Sixteen at most.
        match groups.iter_mut().find(|(shard, _)| shard.holds(key)) {
            Some((_, group)) => group.push(item),
            None => groups.push((Shard::of(pool, key), vec![item])),
        }
    }
    groups
}

#[async_trait]
impl Store for Redis {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError> {
        as_one_call(self.resolve_sessions(request)).await
    }

    fn ttl(&self) -> Millis {
        self.keeping.ttl
    }

    fn id(&self, pool: &PoolName) -> StoreId {
        self.identity.get(&self.link, pool)
    }

    async fn knows(&self, pool: &PoolName) -> Result<bool, StoreError> {
        identity::was_used(&self.link, pool).await
    }

    async fn touch(&self, request: &TouchRequest) -> Result<TouchReply, StoreError> {
        let ttl = self.keeping.ttl;
        let shards = by_shard(&request.pool, request.sessions().map(|session| (session.0, session)));
        let groups = shards.iter().map(|(shard, sessions)| {
            let pins = sessions.iter().flat_map(|(key, _)| [shard.pin(*key), shard.ended(*key)]);
            let keys: Vec<String> =
                [shard.changes(), shard.clock(), shard.nodes()].into_iter().chain(pins).collect();
            let mut step = Step::script(&scripts::TOUCH, &keys)
                .arg(ttl.0.to_string())
                .arg(self.keeping.changes.to_string());
            for (key, pin) in sessions {
                let lives = pin.and_then(|pin| pin.lives_ms).map(|lives| lives.to_string());
                step = step
                    .arg(key.to_string())
                    .arg(known_text(pin.map(|pin| &pin.known)))
                    .arg(lives.unwrap_or_default());
            }
            Group { shard: shard.clone(), steps: vec![step] }
        });
        let outcomes = self.link.each(groups.collect()).await;
        let mut reply = TouchReply {
            touched: 0,
            missing: Vec::new(),
            changed: Vec::new(),
            written: Vec::new(),
            ttl_ms: ttl.0,
            ttls_ms: BTreeMap::new(),
            store: None,
            unanswered: Vec::new(),
        };
        let mut failure = None;
        for ((shard, sessions), outcome) in shards.iter().zip(outcomes) {
            let answers = match outcome {
                Ok(answers) => answers,
                Err(error) if shards.len() == 1 => return Err(error),
                Err(_) => {
                    reply.unanswered.extend(sessions.iter().map(|(key, _)| *key));
                    continue;
                }
            };
            let keys: Vec<SessionKey> = sessions.iter().map(|(key, _)| *key).collect();
            let value = answers.values.first().ok_or_else(|| misread("touched pins"))?;
            failure = reading::touched(shard, &keys, value, &mut reply)?.or(failure);
        }
        if reply.touched == 0 && reply.missing.is_empty() && !reply.unanswered.is_empty() {
            let away = || StoreError::Unreachable("no shard of these sessions answered".to_owned());
            return Err(failure.unwrap_or_else(away));
        }
        Ok(reply)
    }

    async fn session(&self, pool: &PoolName, key: SessionKey) -> Result<Option<SessionReply>, StoreError> {
        as_one_call(self.one_session(pool, key)).await
    }

    async fn end(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        // The oldest name first: as long as the newest is there, a call that failed half way finds them all again.
        as_one_call(async {
            let mut ended = Written { outcome: false, durable: None };
            for key in self.names_of(pool, key).await?.into_iter().rev() {
                ended = self.end_one(pool, key, ago, correlation_id).await?.with(ended.durable);
            }
            Ok(ended)
        })
        .await
    }

    async fn count(
        &self,
        pool: &PoolName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<CountReply, StoreError> {
        self.count_pins(pool, after, limit).await
    }

    async fn nodes(&self, pool: &PoolName) -> Result<Vec<NodeRecord>, StoreError> {
        as_one_call(self.records(pool)).await
    }

    async fn time(&self, pool: &PoolName) -> Result<Millis, StoreError> {
        let time = self.link.one(&Shard::home(pool), Step::command("TIME")).await?;
        Ok(Millis(reading::time(&time)?))
    }

    async fn change_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        change: &NodeChange,
    ) -> Result<Written<NodeRecord>, StoreError> {
        let about = (Reason::Updated, change.correlation_id.as_deref());
        let changed = self.rewrite(pool, node, about, |record, now| record.with(change, now));
        let Written { outcome: (record, _), durable } = as_one_call(changed).await?;
        Ok(Written { outcome: record, durable })
    }

    async fn forget_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        let about = (Reason::Deleted, correlation_id);
        let forgotten = as_one_call(self.rewrite(pool, node, about, NodeRecord::without_all)).await?;
        Ok(Written { outcome: forgotten.outcome.1, durable: forgotten.durable })
    }

    fn origin(&self) -> Cursor {
        layout::cursor(&[Position::default(); SHARDS])
    }

    async fn head(&self, pool: &PoolName) -> Result<Cursor, StoreError> {
        self.newest(pool).await
    }

    async fn changes(
        &self,
        pool: &PoolName,
        after: &Cursor,
        limit: usize,
    ) -> Result<ChangesReply, StoreError> {
        as_one_call(self.changes_after(pool, after, limit)).await
    }

    fn unreadable(&self) -> u64 {
        self.unreadable.count()
    }

    async fn readiness(&self) -> Readiness {
        let readiness = self.prober.readiness().await;
        Readiness { unconfirmed: self.link.unconfirmed(&self.prober.followed()), ..readiness }
    }
}
