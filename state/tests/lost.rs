//! Redis loses its data: every reader of a pool's changes must resync, even if the pool had no change before, and even if
//! other readers come first. Otherwise two proxies could keep different pins of one session for as long as it lasts.
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{
    ChangesReply, Cursor, KnownPin, NodeChange, NodeId, NodeState, PoolName, ResolveRequest, SessionAsk,
    SessionKey,
};
use berth_state::changes::Changes;
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};
use tokio::sync::watch;

use support::{RedisCluster, RedisServer, eventually_async};

fn store(urls: Vec<String>, cluster: bool) -> Arc<dyn Store> {
    let timeout = Duration::from_secs(5);
    let keeping = Keeping::default();
    let options = Options { urls, cluster, quorum: false, tls: Tls::default(), timeout, keeping };
    Arc::new(Redis::open(&options).unwrap())
}

/// By then the session's state is where it was claimed last.
#[tokio::test]
async fn an_earlier_claim_comes_too_late_against_one_that_is_older_than_a_touch_interval() {
    let server = RedisServer::start(&[]);
    let redis = store(vec![server.url()], false);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let clock = Arc::new(AtomicU64::new(now));
    let seen = Arc::clone(&clock);
    let memory = Memory::new(Keeping::default(), Arc::new(move || Millis(seen.load(Ordering::Relaxed))));
    let pool = pool("late");
    let key = SessionKey::new("late", b"alice");
    let known = KnownPin { version: (now - 600_000) * 1000, node: node(1) };
    for (age, is_moved) in [(70_000, true), (90_000, false)] {
        // As it is after that time.
        let claimed = now - age;
        let pin = format!("{}|{claimed}|{claimed}||{}", claimed * 1000, node(2));
        server.cli(&["SET", &Redis::pin_key(&pool, key), &pin]);
        memory.expire(&pool, key);
        clock.store(claimed, Ordering::Relaxed);
        let ask = |to: usize| SessionAsk::new(key, vec![node(to)], Vec::new());
        let asks = |sessions| ResolveRequest {
            pool: pool.clone(),
            region: None,
            panic: false,
            correlation_id: None,
            sessions,
        };
        memory.resolve(&asks(vec![ask(2)])).await.unwrap();
        clock.store(now, Ordering::Relaxed);

        for store in [&*redis, &memory as &dyn Store] {
            let asked = SessionAsk { known: Some(known.clone()), ..ask(3) };
            let found = store.resolve(&asks(vec![asked])).await.unwrap().remove(0);

            assert_eq!(found.node, node(if is_moved { 1 } else { 2 }), "{age}");
        }
    }
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn node(number: usize) -> NodeId {
    format!("10.0.0.1:{number}").parse().unwrap()
}

fn shard(key: SessionKey) -> usize {
    usize::from(key.as_bytes()[0] >> 4)
}

/// A session of each of these shards.
fn sessions(shards: &[usize]) -> Vec<SessionKey> {
    let of = |wanted: &usize| {
        (0u32..)
            .map(|i| SessionKey::new("lost", &i.to_le_bytes()))
            .find(|key| shard(*key) == *wanted)
            .unwrap()
    };
    shards.iter().map(of).collect()
}

async fn resolve(store: &dyn Store, name: &str, shards: &[usize], to: usize, from: Option<usize>) {
    let unusable: Vec<NodeId> = from.map(node).into_iter().collect();
    let ask = |key| SessionAsk::new(key, vec![node(to)], unusable.clone());
    let sessions = sessions(shards).into_iter().map(ask).collect();
    let request =
        ResolveRequest { pool: pool(name), region: None, panic: false, correlation_id: None, sessions };
    store.resolve(&request).await.unwrap();
}

async fn drain(store: &dyn Store, name: &str) {
    let change = NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() };
    store.change_node(&pool(name), node(9), &change).await.unwrap();
}

/// What pools may have had in them, by name. Shard 0 has the changes of nodes.
async fn fill(store: &dyn Store) {
    resolve(store, "claims", &(0..16).collect::<Vec<_>>(), 1, None).await;
    resolve(store, "first", &[0], 1, None).await;
    resolve(store, "other", &[7], 1, None).await;
    resolve(store, "changed", &[0, 7], 1, None).await;
    resolve(store, "changed", &[0, 7], 2, Some(1)).await;
    resolve(store, "nodes", &[0, 7], 1, None).await;
    drain(store, "nodes").await;
    drain(store, "only-nodes").await;
}

const FILLED: [&str; 6] = ["claims", "first", "other", "changed", "nodes", "only-nodes"];

async fn poll(store: &dyn Store, name: &str, after: &Cursor) -> ChangesReply {
    store.changes(&pool(name), after, 100).await.unwrap()
}

/// Loses all twice: polls come before others claim the same sessions elsewhere, and after.
async fn every_reader_is_told(store: &dyn Store, lose: &dyn Fn()) {
    for others_come_first in [false, true] {
        fill(store).await;
        let mut cursors = Vec::new();
        for name in FILLED {
            let head = store.head(&pool(name)).await.unwrap();
            let reply = poll(store, name, &head).await;
            assert_eq!((reply.cursor, reply.resync), (head.clone(), false), "{name}");
            cursors.push(head);
        }
        let never_used = store.head(&pool("never-used")).await.unwrap();

        lose();
        eventually_async("the store", || async { store.head(&pool("claims")).await.is_ok() }).await;
        if others_come_first {
            fill(store).await;
        }

        for (name, cursor) in FILLED.into_iter().zip(&cursors) {
            let reply = poll(store, name, cursor).await;
            assert!(reply.resync && reply.events.is_empty(), "{name}, others first: {others_come_first}");
            let next = poll(store, name, &reply.cursor).await;
            assert_eq!((next.cursor, next.resync), (reply.cursor, false), "{name}");
        }
        let reply = poll(store, "never-used", &never_used).await;
        assert_eq!((reply.cursor, reply.resync), (never_used, false));
    }
}

#[tokio::test]
async fn readers_are_told_when_a_server_was_flushed() {
    let server = RedisServer::start(&[]);
    let store = store(vec![server.url()], false);

    every_reader_is_told(&*store, &|| assert_eq!(server.cli(&["FLUSHALL"]).trim(), "OK")).await;
}

#[tokio::test]
async fn readers_are_told_when_a_server_came_back_empty() {
    let server = RedisServer::start(&[]);
    let store = store(vec![server.url()], false);

    every_reader_is_told(&*store, &|| server.restart()).await;
}

#[tokio::test]
async fn readers_are_told_when_a_cluster_was_flushed_or_a_primary_came_back_empty() {
    let cluster = RedisCluster::start();
    let store = store(cluster.urls(), true);
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;

    let flush = |server: usize| assert_eq!(cluster.servers[server].cli(&["FLUSHALL"]).trim(), "OK");
    every_reader_is_told(&*store, &|| cluster.primaries().into_iter().for_each(flush)).await;

    // Sooner than its replica would take over: of the pool only some shards are lost.
    let cursor = store.head(&pool("claims")).await.unwrap();
    let keys = format!("{{claims/{}}}", 7);
    cluster.servers[cluster.primary_of(&keys).unwrap()].restart();
    let resynced =
        || async { store.changes(&pool("claims"), &cursor, 100).await.is_ok_and(|reply| reply.resync) };
    eventually_async("a reader to resync", resynced).await;
}

/// A failover keeps only replicated changes. A reader of the other changes has news that no other reader will ever get.
#[tokio::test]
async fn a_reader_of_news_that_a_failover_lost_is_told() {
    let server = RedisServer::start(&[]);
    let store = store(vec![server.url()], false);
    resolve(&*store, "changed", &[7], 1, None).await;
    let before = store.head(&pool("changed")).await.unwrap();
    resolve(&*store, "changed", &[7], 2, Some(1)).await;
    let lost = store.head(&pool("changed")).await.unwrap();

    // As the new primary has it, and goes on.
    let stream = "berth:{changed/7}:changes";
    let newest = server.cli(&["XREVRANGE", stream, "+", "-", "COUNT", "1"]);
    assert_eq!(server.cli(&["XDEL", stream, newest.lines().next().unwrap()]).trim(), "1");
    resolve(&*store, "changed", &[7], 3, Some(2)).await;

    assert!(poll(&*store, "changed", &lost).await.resync);
    let reply = poll(&*store, "changed", &before).await;
    assert_eq!((reply.resync, reply.events.len()), (false, 1));
}

#[tokio::test]
async fn a_waiting_poll_learns_where_a_new_log_is_and_that_it_is_gone() {
    let server = RedisServer::start(&[]);
    let store = store(vec![server.url()], false);
    let (_stop, stopping) = watch::channel(false);
    let changes = Arc::new(Changes::new(Arc::clone(&store), stopping));
    let wait = |after: Option<Cursor>, wait| {
        let changes = Arc::clone(&changes);
        async move { changes.wait(&pool("quiet"), after, Duration::from_millis(wait)).await.unwrap() }
    };

    let start = wait(None, 300).await;
    assert!(!start.resync && start.events.is_empty());
    assert_eq!(server.cli(&["KEYS", "berth:{quiet/*"]).trim(), "", "a poll makes no keys");

    let long = tokio::spawn(wait(Some(start.cursor.clone()), 60_000));
    tokio::time::sleep(Duration::from_millis(200)).await;
    resolve(&*store, "quiet", &[3], 1, None).await;
    let begun = tokio::time::timeout(Duration::from_secs(20), long).await.unwrap().unwrap();
    assert_eq!((begun.resync, &begun.events), (false, &vec![]));
    assert_ne!(begun.cursor, start.cursor);

    // Once: more claims in the shard tell nothing, and the next poll waits.
    let long = tokio::spawn(wait(Some(begun.cursor.clone()), 700));
    let asked = Instant::now();
    resolve(&*store, "quiet", &[3, 3], 1, None).await;
    let nothing = long.await.unwrap();
    assert_eq!((nothing.resync, &nothing.cursor), (false, &begun.cursor));
    assert!(asked.elapsed() >= Duration::from_millis(600), "{:?}", asked.elapsed());

    let long = tokio::spawn(wait(Some(begun.cursor), 60_000));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.cli(&["FLUSHALL"]).trim(), "OK");
    let reply = tokio::time::timeout(Duration::from_secs(20), long).await.unwrap().unwrap();
    assert!(reply.resync);
    assert_eq!(reply.cursor, start.cursor);
}
