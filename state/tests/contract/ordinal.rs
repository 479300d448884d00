//! Versions as their place among all of their session: what the contract says of them is their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, ChangesReply, CountReply, Cursor, Event, NodeChange, NodeId, NodeRecord, Pin, PoolName,
    ResolveRequest, SessionKey, SessionReply, StoreId, TouchReply, TouchRequest,
};
use berth_state::store::readiness::Readiness;
use berth_state::store::{Store, StoreError, Written};

/// A store whose pins have the versions 1, 2, 3.
pub(crate) struct Ordinal {
    store: Arc<dyn Store>,
    seen: Mutex<BTreeMap<(PoolName, SessionKey), BTreeSet<u64>>>,
}

impl Ordinal {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, seen: Mutex::default() }
    }

    /// What an event bears, but for an end without a pin: that is a time, and no pin's.
    fn place_of_event(&self, pool: &PoolName, event: &mut Event) {
        let is_pins = event.kind != ChangeKind::Ended || event.node.is_some();
        if let (Some(key), Some(version)) = (event.key, event.version) {
            event.version = is_pins.then(|| self.place(pool, key, version));
        }
    }

    fn place(&self, pool: &PoolName, key: SessionKey, version: u64) -> u64 {
        let mut seen = self.seen.lock().unwrap();
        let seen = seen.entry((pool.clone(), key)).or_default();
        seen.insert(version);
        seen.range(..=version).count() as u64
    }
}

#[async_trait]
impl Store for Ordinal {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError> {
        let mut pins = self.store.resolve(request).await?;
        for pin in &mut pins {
            pin.version = self.place(&request.pool, pin.key, pin.version);
        }
        Ok(pins)
    }

    async fn knows(&self, pool: &PoolName) -> Result<bool, StoreError> {
        self.store.knows(pool).await
    }

    async fn session(&self, pool: &PoolName, key: SessionKey) -> Result<Option<SessionReply>, StoreError> {
        let mut session = self.store.session(pool, key).await?;
        if let Some(session) = &mut session {
            session.version = self.place(pool, key, session.version);
            for event in &mut session.events {
                self.place_of_event(pool, event);
            }
        }
        Ok(session)
    }

    async fn changes(
        &self,
        pool: &PoolName,
        after: &Cursor,
        limit: usize,
    ) -> Result<ChangesReply, StoreError> {
        let mut reply = self.store.changes(pool, after, limit).await?;
        for event in reply.events.iter_mut().filter(|event| event.kind != ChangeKind::Node) {
            self.place_of_event(pool, event);
        }
        Ok(reply)
    }

    fn ttl(&self) -> Millis {
        self.store.ttl()
    }

    fn id(&self, pool: &PoolName) -> StoreId {
        self.store.id(pool)
    }

    async fn touch(&self, request: &TouchRequest) -> Result<TouchReply, StoreError> {
        self.store.touch(request).await
    }

    async fn end(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        self.store.end(pool, key, ago, correlation_id).await
    }

    async fn count(
        &self,
        pool: &PoolName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<CountReply, StoreError> {
        self.store.count(pool, after, limit).await
    }

    async fn nodes(&self, pool: &PoolName) -> Result<Vec<NodeRecord>, StoreError> {
        self.store.nodes(pool).await
    }

    async fn time(&self, pool: &PoolName) -> Result<Millis, StoreError> {
        self.store.time(pool).await
    }

    async fn change_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        change: &NodeChange,
    ) -> Result<Written<NodeRecord>, StoreError> {
        self.store.change_node(pool, node, change).await
    }

    async fn forget_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        self.store.forget_node(pool, node, correlation_id).await
    }

    fn origin(&self) -> Cursor {
        self.store.origin()
    }

    async fn head(&self, pool: &PoolName) -> Result<Cursor, StoreError> {
        self.store.head(pool).await
    }

    async fn readiness(&self) -> Readiness {
        self.store.readiness().await
    }
}
