//! The embedded store: one process, nothing kept across a restart. For development, the demo and small installations
//! that can live with a full resolve after a restart.

mod counting;
mod resolving;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, ChangesReply, CountReply, Cursor, Event, KnownPin, NodeChange, NodeId, NodeRecord, Pin,
    PoolName, Reason, ResolveRequest, SessionKey, SessionReply, StoreId, TouchReply, TouchRequest,
};

use super::claims::{Claims, FORMER_UNKNOWN, UNSAID, other_than};
use super::readiness::Readiness;
use super::{Keeping, MAX_FORMERS, Store, StoreError, Written};

/// Tells the time; tests bring their own.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Expired pins are swept when this many are there, then at twice what was left: constant work per claim.
const FIRST_SWEEP: usize = 1024;
/// A pool that gets no claims is swept with all others, so often: a look at each pin, some 10 ms for a million.
const ROUND: Millis = Millis(60_000);

/// Everything in one locked map.
pub struct Memory {
    keeping: Keeping,
    clock: Clock,
    /// In each cursor, so that one from before a restart is known as such.
    life: u64,
    pools: Mutex<BTreeMap<PoolName, Pool>>,
    /// When all pools were swept last.
    swept: AtomicU64,
    /// The highest number of a change in pools that were given up: a later pool of that name goes on from there, so that no position
    /// of before is taken for one of its own.
    last_change: AtomicU64,
}

#[derive(Default)]
struct Pool {
    pins: HashMap<SessionKey, Entry>,
    sweep_at: usize,
    nodes: BTreeMap<NodeId, NodeRecord>,
    changes: VecDeque<(u64, Event)>,
    last_change: u64,
    /// The highest version that was given out.
    latest_version: u64,
}

/// What is known of a session.
#[derive(Default)]
struct Entry {
    live: Option<Live>,
    /// When it was ended, as a version; until when that is remembered. It may have begun again since.
    ended: Option<(u64, Millis)>,
    /// The end found no pin: it was lost, or has never been there.
    ended_without: bool,
    has_begun_again: bool,
}

impl Entry {
    fn live(&self, now: Millis) -> Option<&Live> {
        self.live.as_ref().filter(|pin| pin.expires > now)
    }

    fn ended(&self, now: Millis) -> Option<(u64, Millis)> {
        self.ended.filter(|(_, until)| *until > now)
    }
}

#[derive(Clone)]
struct Live {
    node: NodeId,
    version: u64,
    claimed: Millis,
    owned: Millis,
    boot_id: Option<String>,
    claims: Claims,
    expires: Millis,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(keeping: Keeping, clock: Clock) -> Self {
        let life = RandomState::new().hash_one(clock().0);
        Self {
            keeping,
            clock,
            life,
            pools: Mutex::default(),
            swept: AtomicU64::default(),
            last_change: AtomicU64::default(),
        }
    }

    /// Lets a pin expire now, for tests that cannot wait.
    #[doc(hidden)]
    pub fn expire(&self, pool: &PoolName, key: SessionKey) {
        if let Some(entry) = self.pools().get_mut(pool).and_then(|pool| pool.pins.get_mut(&key)) {
            entry.live = None;
        }
    }

    /// A panic while it was held leaves at worst one session half written, and every entry is whole on its own.
    fn pools(&self) -> MutexGuard<'_, BTreeMap<PoolName, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once a minute gives back what idle pools hold, and pools of which nothing is left.
    fn give_back(&self, pools: &mut BTreeMap<PoolName, Pool>, now: Millis) {
        if !ROUND.is_over(Millis(self.swept.load(Ordering::Relaxed)), now) {
            return;
        }
        self.swept.store(now.0, Ordering::Relaxed);
        pools.retain(|_, pool| {
            pool.drop_expired(now);
            pool.nodes.retain(|_, record| !record.is_spent(now.0));
            // What an operator or a node said of a node stays until it is forgotten.
            let is_spent = pool.pins.is_empty() && pool.nodes.is_empty();
            if is_spent {
                self.last_change.fetch_max(pool.last_change, Ordering::Relaxed);
            }
            !is_spent
        });
    }

    /// A pool without anything.
    fn new_pool(&self) -> Pool {
        Pool { last_change: self.last_change.load(Ordering::Relaxed), ..Pool::default() }
    }

    fn cursor(&self, change: u64) -> Cursor {
        cursor(self.life, change)
    }

    /// The number in a cursor of this life.
    fn position(&self, cursor: &Cursor) -> Option<u64> {
        let (life, change) = cursor.as_str().strip_prefix('m')?.split_once('-')?;
        (u64::from_str_radix(life, 16) == Ok(self.life)).then(|| change.parse().ok()).flatten()
    }
}

fn cursor(life: u64, change: u64) -> Cursor {
    match format!("m{life:016x}-{change}").parse() {
        Ok(cursor) => cursor,
        Err(_) => unreachable!("hex and decimal digits make a cursor"),
    }
}

impl Pool {
    fn live(&self, key: SessionKey, now: Millis) -> Option<&Live> {
        self.pins.get(&key)?.live(now)
    }

    fn live_mut(&mut self, key: SessionKey, now: Millis) -> Option<&mut Live> {
        self.pins.get_mut(&key)?.live.as_mut().filter(|pin| pin.expires > now)
    }

    fn boot_id(&self, node: &NodeId) -> Option<String> {
        self.nodes.get(node).and_then(|record| record.boot_id.clone())
    }

    fn log(&mut self, life: u64, keeping: &Keeping, now: Millis, fill: impl FnOnce(&mut Event)) {
        self.last_change += 1;
        let mut event = Event {
            cursor: cursor(life, self.last_change),
            kind: ChangeKind::Unknown,
            key: None,
            node: None,
            from: None,
            version: None,
            reason: Reason::Unknown,
            time_ms: now.0,
            correlation_id: None,
            session_version: None,
            record: None,
        };
        fill(&mut event);
        self.changes.push_back((self.last_change, event));
        while self.changes.len() > keeping.changes {
            self.changes.pop_front();
        }
    }

    /// A node's record is another from now on.
    fn record(
        &mut self,
        next: NodeRecord,
        reason: Reason,
        correlation_id: Option<&str>,
        keeping: &Keeping,
        now: Millis,
        life: u64,
    ) {
        self.nodes.insert(next.node.clone(), next.clone());
        self.log(life, keeping, now, |event| {
            event.kind = ChangeKind::Node;
            event.node = Some(next.node.clone());
            event.version = Some(next.version);
            event.reason = reason;
            event.correlation_id = correlation_id.map(str::to_owned);
            event.record = Some(next);
        });
    }

    fn end(
        &mut self,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
        keeping: &Keeping,
        now: Millis,
        life: u64,
    ) -> bool {
        let pin = self.live(key, now).cloned();
        // For as long as proxies may believe a pin, also one that was lost, if it has no life of its own.
        let mut until = (now + keeping.ended).max(now + keeping.ttl);
        until = pin.as_ref().map_or(until, |pin| until.max(pin.expires));
        if pin.as_ref().is_some_and(|pin| now.since(pin.owned) < ago) {
            // The pin is a newer session's. What is known of the former one is over.
            if let Some(entry) = self.pins.get_mut(&key) {
                let before = entry.ended(now);
                entry.ended_without &= before.is_some();
                let (ended, before) = before.unwrap_or((0, now));
                let ended = ended.max(now.since(ago).0.saturating_mul(1000));
                entry.ended = Some((ended, until.max(before)));
                entry.has_begun_again = true;
            }
            return false;
        }
        let version = pin.as_ref().map_or(0, |pin| pin.version);
        // Versions are times, so the end is later than all that the session had before, also those that were lost here.
        let latest = if ago == Millis(0) { self.latest_version } else { 0 };
        let mut ended = version.max(latest).max(now.since(ago).0.saturating_mul(1000));
        let before = self.pins.get(&key).and_then(|entry| entry.ended(now));
        if let Some(before) = before {
            (ended, until) = (ended.max(before.0), until.max(before.1));
        }
        if pin.is_none() {
            self.sweep(now);
        }
        let ended_until = Some((ended, until));
        let former = self.pins.get(&key).filter(|_| before.is_some());
        // Without a pin too: it may have been lost. But one that is said again is no news, unless the session began again in between.
        let is_first = former.is_none_or(|former| former.has_begun_again);
        let ended_without = match &pin {
            None => is_first || former.is_some_and(|former| former.ended_without),
            // Written again since it was lost: its former key may not be known.
            Some(pin) => pin.claimed <= FORMER_UNKNOWN,
        };
        self.pins.insert(key, Entry { ended: ended_until, ended_without, ..Entry::default() });
        if pin.is_some() || is_first {
            self.log(life, keeping, now, |event| {
                event.kind = ChangeKind::Ended;
                event.key = Some(key);
                event.node = pin.as_ref().map(|pin| pin.node.clone());
                event.version = Some(pin.as_ref().map_or(ended, |pin| pin.version));
                event.reason = Reason::Deleted;
                event.correlation_id = correlation_id.map(str::to_owned);
            });
        }
        pin.is_some()
    }

    fn sweep(&mut self, now: Millis) {
        if self.pins.len() < self.sweep_at.max(FIRST_SWEEP) {
            return;
        }
        self.drop_expired(now);
        self.sweep_at = self.pins.len() * 2;
    }

    fn drop_expired(&mut self, now: Millis) {
        self.pins.retain(|_, entry| entry.live(now).is_some() || entry.ended(now).is_some());
        if self.pins.len() < self.pins.capacity() / 4 {
            self.pins.shrink_to(self.pins.len() * 2);
        }
    }
}

#[async_trait]
impl Store for Memory {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError> {
        let now = (self.clock)();
        let mut pools = self.pools();
        self.give_back(&mut pools, now);
        let pool = pools.entry(request.pool.clone()).or_insert_with(|| self.new_pool());
        let formers: Vec<_> = request.sessions.iter().map(|ask| pool.former(ask, now)).collect();
        let asks = request.sessions.iter().zip(&formers);
        let pins: Vec<Pin> = asks
            .map(|(ask, former)| pool.resolve(ask, former.as_ref(), request, &self.keeping, now, self.life))
            .collect();
        for (former, (ask, pin)) in formers.iter().zip(request.sessions.iter().zip(&pins)) {
            // A request without a session version does not say that others are old.
            if let (Some(former), Some(to), Some(_)) = (former, pin.session_version, ask.session_version) {
                pool.raise(former, to, request, &self.keeping, now, self.life);
            }
        }
        Ok(pins)
    }

    fn ttl(&self) -> Millis {
        self.keeping.ttl
    }

    fn id(&self, _pool: &PoolName) -> StoreId {
        StoreId::new(&format!("m{:016x}", self.life))
    }

    async fn knows(&self, pool: &PoolName) -> Result<bool, StoreError> {
        Ok(self.pools().contains_key(pool))
    }

    async fn touch(&self, request: &TouchRequest) -> Result<TouchReply, StoreError> {
        let (now, ttl) = ((self.clock)(), self.keeping.ttl);
        let mut pools = self.pools();
        self.give_back(&mut pools, now);
        let pool = pools.entry(request.pool.clone()).or_insert_with(|| self.new_pool());
        let (mut missing, mut written) = (Vec::new(), Vec::new());
        let mut ttls_ms = BTreeMap::new();
        let mut changed = Vec::new();
        let mut touched = 0;
        for (key, said) in request.sessions() {
            if let Some(life) = said.and_then(|said| pool.write_again(said, ttl, now)) {
                touched += 1;
                written.push(key);
                ttls_ms.extend(other_than(ttl, life).map(|life| (key, life)));
                continue;
            }
            let known = said.map(|said| &said.known);
            let Some(pin) = pool.live_mut(key, now) else {
                missing.push(key);
                continue;
            };
            touched += 1;
            let is_partly_known = pin.claimed == UNSAID;
            let life = if is_partly_known {
                let least = said.and_then(|said| said.lives_ms).unwrap_or(0);
                pin.expires.since(now).max(Millis(least))
            } else {
                pin.claims.life(ttl, now)
            };
            pin.expires = now + life;
            ttls_ms.extend(other_than(ttl, life).map(|life| (key, life)));
            let mut agrees = |known: &KnownPin| {
                let may_stay = |pool: &Pool| !pool.is_cooling(&known.node, now);
                pool.compare(key, known, may_stay, &self.keeping, now, self.life)
            };
            if known.is_some_and(|known| !agrees(known)) {
                changed.push(key);
            } else if is_partly_known {
                written.push(key);
            }
        }
        let unanswered = Vec::new();
        let (ttl_ms, store) = (ttl.0, None);
        Ok(TouchReply { touched, missing, changed, written, ttl_ms, ttls_ms, store, unanswered })
    }

    async fn session(&self, name: &PoolName, key: SessionKey) -> Result<Option<SessionReply>, StoreError> {
        let now = (self.clock)();
        let pools = self.pools();
        let Some((pool, pin)) = pools.get(name).and_then(|pool| Some((pool, pool.live(key, now)?))) else {
            return Ok(None);
        };
        let events = pool.changes.iter().map(|(_, event)| event).filter(|event| event.key == Some(key));
        Ok(Some(SessionReply {
            pool: name.clone(),
            key,
            node: pin.node.clone(),
            version: pin.version,
            // Of one that was lost and written again it is not known when it was claimed: at the latest when its node got it.
            age_ms: now.since(if pin.claimed <= FORMER_UNKNOWN { pin.owned } else { pin.claimed }).0,
            owned_ms: now.since(pin.owned).0,
            ttl_ms: pin.expires.since(now).0,
            idle_ttl_ms: Some(pin.claims.ttl.unwrap_or(self.keeping.ttl).0),
            ends_ms: pin.claims.ends.map(|ends| ends.0),
            created_ms: pin.claims.created.map(|created| created.0),
            session_version: Some(pin.claims.session_version).filter(|version| *version > 0),
            alias_of: pin.claims.alias_of,
            owner: pool
                .nodes
                .get(&pin.node)
                .cloned()
                .unwrap_or_else(|| NodeRecord::unknown(pin.node.clone())),
            events: events.cloned().collect(),
        }))
    }

    async fn end(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ago: Millis,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        let now = (self.clock)();
        let mut pools = self.pools();
        let pool = pools.entry(pool.clone()).or_insert_with(|| self.new_pool());
        let mut names = vec![key];
        while names.len() <= MAX_FORMERS
            && let Some(former) = names.last().and_then(|key| pool.live(*key, now)?.claims.alias_of)
            && !names.contains(&former)
        {
            names.push(former);
        }
        let mut has_ended = false;
        for key in names.into_iter().rev() {
            has_ended = pool.end(key, ago, correlation_id, &self.keeping, now, self.life);
        }
        Ok(Written::plain(has_ended))
    }

    async fn count(
        &self,
        pool: &PoolName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<CountReply, StoreError> {
        let now = (self.clock)();
        let pools = self.pools();
        let Some(pool) = pools.get(pool) else {
            return Ok(CountReply { complete: true, ..CountReply::default() });
        };
        Ok(counting::count(pool, after, limit, now))
    }

    async fn nodes(&self, pool: &PoolName) -> Result<Vec<NodeRecord>, StoreError> {
        let now = (self.clock)();
        let mut pools = self.pools();
        let Some(pool) = pools.get_mut(pool) else { return Ok(Vec::new()) };
        pool.nodes.retain(|_, record| !record.is_spent(now.0));
        Ok(pool.nodes.values().cloned().collect())
    }

    async fn time(&self, _pool: &PoolName) -> Result<Millis, StoreError> {
        Ok((self.clock)())
    }

    async fn change_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        change: &NodeChange,
    ) -> Result<Written<NodeRecord>, StoreError> {
        let now = (self.clock)();
        let mut pools = self.pools();
        let pool = pools.entry(pool.clone()).or_insert_with(|| self.new_pool());
        let record = pool.nodes.entry(node.clone()).or_insert_with(|| NodeRecord::unknown(node));
        let Some(next) = record.with(change, now.0) else { return Ok(Written::plain(record.clone())) };
        let correlation_id = change.correlation_id.as_deref();
        pool.record(next.clone(), Reason::Updated, correlation_id, &self.keeping, now, self.life);
        Ok(Written::plain(next))
    }

    async fn forget_node(
        &self,
        pool: &PoolName,
        node: NodeId,
        correlation_id: Option<&str>,
    ) -> Result<Written<bool>, StoreError> {
        let now = (self.clock)();
        let mut pools = self.pools();
        let Some(pool) = pools.get_mut(pool) else { return Ok(Written::plain(false)) };
        let left = pool.nodes.get(&node).and_then(|record| record.without_all(now.0));
        let Some(left) = left else { return Ok(Written::plain(false)) };
        pool.record(left, Reason::Deleted, correlation_id, &self.keeping, now, self.life);
        Ok(Written::plain(true))
    }

    fn origin(&self) -> Cursor {
        self.cursor(0)
    }

    async fn head(&self, pool: &PoolName) -> Result<Cursor, StoreError> {
        let pools = self.pools();
        Ok(self.cursor(pools.get(pool).map_or_else(|| self.new_pool().last_change, |pool| pool.last_change)))
    }

    async fn changes(
        &self,
        pool: &PoolName,
        after: &Cursor,
        limit: usize,
    ) -> Result<ChangesReply, StoreError> {
        let pools = self.pools();
        let none = self.new_pool();
        let pool = pools.get(pool).unwrap_or(&none);
        let oldest = pool.changes.front().map_or(pool.last_change + 1, |(change, _)| *change);
        let after = self.position(after).filter(|after| *after <= pool.last_change && after + 1 >= oldest);
        let Some(after) = after else {
            return Ok(ChangesReply {
                cursor: self.cursor(pool.last_change),
                resync: true,
                events: Vec::new(),
                now_ms: None,
            });
        };
        let seen = usize::try_from(after + 1 - oldest.min(after + 1)).unwrap_or(usize::MAX);
        let later = pool.changes.iter().skip(seen).take(limit);
        let events: Vec<Event> = later.map(|(_, event)| event.clone()).collect();
        let cursor = events.last().map_or_else(|| self.cursor(after), |event| event.cursor.clone());
        Ok(ChangesReply { cursor, resync: false, events, now_ms: None })
    }

    async fn readiness(&self) -> Readiness {
        Readiness::whole(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Claims a session of a pool.
    async fn claim(store: &Memory, pool: usize, session: usize) {
        let request = serde_json::json!({
            "pool": format!("pool-{pool}"),
            "sessions": [{"key": format!("{session:032x}"), "candidates": ["10.0.0.1:80"], "ttl_ms": 1000}],
        });
        store.resolve(&ResolveRequest::parse(request.to_string().as_bytes()).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn idle_pools_are_given_back_but_for_those_with_records_and_no_position_is_taken_for_a_later_one() {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&time);
        let store = Memory::new(Keeping::default(), Arc::new(move || Millis(clock.load(Ordering::Relaxed))));
        let name = |pool: usize| format!("pool-{pool}").parse::<PoolName>().unwrap();
        for pool in 0..300 {
            for session in 0..8 {
                claim(&store, pool, session).await;
            }
        }
        let draining: NodeChange = NodeChange::parse(br#"{"state": "draining"}"#).unwrap();
        store.change_node(&name(7), "10.0.0.1:80".parse().unwrap(), &draining).await.unwrap();
        store.change_node(&name(9), "10.0.0.1:80".parse().unwrap(), &draining).await.unwrap();
        let gone = store.changes(&name(9), &"0".parse().unwrap(), 10).await.unwrap().cursor;
        store.forget_node(&name(9), "10.0.0.1:80".parse().unwrap(), None).await.unwrap();

        time.fetch_add(100 * 86_400_000, Ordering::Relaxed);
        claim(&store, 3001, 0).await;

        assert_eq!(store.pools().keys().collect::<Vec<_>>(), [&name(3001), &name(7)]);
        assert_eq!(store.nodes(&name(7)).await.unwrap().len(), 1);
        assert_eq!(store.pools()[&name(7)].pins.capacity(), 0);
        claim(&store, 9, 0).await;
        assert!(store.changes(&name(9), &gone, 10).await.unwrap().resync);
    }
}
