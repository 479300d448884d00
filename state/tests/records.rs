//! What is on record of nodes, where a store loses a part of it, has it from a service of old, or no longer needs it.
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{
    KnownPin, NodeChange, NodeId, NodeState, PoolName, ResolveRequest, SPENT_KEPT, SessionAsk, SessionKey,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};

use support::{RedisCluster, RedisServer, eventually_async};

fn redis(urls: Vec<String>, cluster: bool) -> Redis {
    let timeout = Duration::from_secs(5);
    let keeping = Keeping::default();
    Redis::open(&Options { urls, cluster, quorum: false, tls: Tls::default(), timeout, keeping }).unwrap()
}

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn node(number: usize) -> NodeId {
    format!("10.0.0.1:{number}").parse().unwrap()
}

fn state(state: NodeState) -> NodeChange {
    NodeChange { state: Some(state), ..NodeChange::default() }
}

fn cooling(until: u64) -> NodeChange {
    NodeChange { cooldown_until_ms: Some(until), ..NodeChange::default() }
}

async fn change(store: &dyn Store, number: usize, change: NodeChange) -> u64 {
    store.change_node(&pool(), node(number), &change).await.unwrap().outcome.version
}

/// The shards whose new sessions come to this node rather than to the next.
async fn shards_that_use(store: &dyn Store, turn: &str, number: usize) -> BTreeSet<usize> {
    let ask = |i: usize| {
        let key = SessionKey::new("nodes", format!("{turn}-{number}-{i}").as_bytes());
        SessionAsk::new(key, vec![node(number), node(999)], vec![])
    };
    let sessions = (0..100).map(ask).collect();
    let request = ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions };
    let pins = store.resolve(&request).await.unwrap();
    let there = pins.iter().filter(|pin| pin.node == node(number));
    there.map(|pin| usize::from(pin.key.as_bytes()[0] >> 4)).collect()
}

fn all() -> BTreeSet<usize> {
    (0..16).collect()
}

/// Records count from 1 again, and the other shards' copies are of higher versions.
#[tokio::test]
async fn what_an_operator_says_after_a_partial_loss_reaches_all_shards() {
    let cluster = RedisCluster::start();
    let store = redis(cluster.urls(), true);
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    for wanted in [NodeState::Draining, NodeState::Active, NodeState::Draining] {
        change(&store, 1, state(wanted)).await;
    }
    change(&store, 2, state(NodeState::Draining)).await;
    assert_eq!(shards_that_use(&store, "before", 1).await, BTreeSet::new());

    let home = cluster.primary_of("{nodes/0}").unwrap();
    assert_eq!(cluster.servers[home].cli(&["FLUSHALL"]).trim(), "OK");
    assert_eq!(store.nodes(&pool()).await.unwrap(), []);
    assert_eq!(change(&store, 1, state(NodeState::Active)).await, 1);
    assert_eq!(change(&store, 2, state(NodeState::Active)).await, 1);

    assert_eq!(shards_that_use(&store, "after", 1).await, all());
    assert_eq!(shards_that_use(&store, "after", 2).await, all());
    // And from there on, versions again.
    assert_eq!(change(&store, 1, state(NodeState::Standby)).await, 2);
    assert_eq!(shards_that_use(&store, "standby", 1).await, BTreeSet::new());
}

#[tokio::test]
async fn copies_of_a_service_of_old_are_read_and_replaced() {
    let server = RedisServer::start(&[]);
    let store = redis(vec![server.url()], false);
    // As they were before copies said when they were written: of a node that was recorded, and of one whose record is lost.
    for shard in 0..16 {
        for number in ["1", "2"] {
            let copies = format!("berth:{{nodes/{shard:x}}}:nodes");
            server.cli(&["HSET", &copies, &format!("10.0.0.1:{number}"), "7|draining|0|b7"]);
        }
    }
    let record = r#"{"node":"10.0.0.1:1","state":"draining","boot_id":"b7","version":7,"updated_ms":5}"#;
    server.cli(&["HSET", "berth:{nodes/0}:records", "10.0.0.1:1", record]);

    for number in [1, 2] {
        assert_eq!(shards_that_use(&store, "before", number).await, BTreeSet::new());
    }
    assert_eq!(change(&store, 1, state(NodeState::Active)).await, 8);
    assert_eq!(change(&store, 2, state(NodeState::Active)).await, 1);
    for number in [1, 2] {
        assert_eq!(shards_that_use(&store, "after", number).await, all());
    }

    // A copy that comes late does not win: here the one of version 8, by a service that repeats it.
    let late = "berth:{nodes/3}:nodes";
    server.cli(&["HSET", late, "10.0.0.1:1", "9|draining|0|", "10.0.0.1:1|written", "9000000000000000"]);
    assert_eq!(change(&store, 1, state(NodeState::Active)).await, 8);
    assert_eq!(shards_that_use(&store, "late", 1).await, all().into_iter().filter(|s| *s != 3).collect());
}

#[tokio::test]
async fn records_that_say_nothing_any_more_are_dropped_after_a_day_in_memory() {
    let clock = Arc::new(AtomicU64::new(1_000));
    let now = Arc::clone(&clock);
    let store = Memory::new(Keeping::default(), Arc::new(move || Millis(now.load(Ordering::Relaxed))));
    for number in [1, 2] {
        change(&store, number, state(NodeState::Draining)).await;
    }
    change(&store, 3, cooling(61_000)).await;
    store.forget_node(&pool(), node(1), None).await.unwrap();
    let listed = async || {
        let records = store.nodes(&pool()).await.unwrap();
        records.iter().map(|record| record.node.clone()).collect::<Vec<_>>()
    };

    for (time, numbers) in [
        (1_000 + SPENT_KEPT - 1, vec![1, 2, 3]),
        (1_000 + SPENT_KEPT, vec![2, 3]),
        (61_000 + SPENT_KEPT, vec![2]),
        (61_000 + 1_000 * SPENT_KEPT, vec![2]),
    ] {
        clock.store(time, Ordering::Relaxed);
        assert_eq!(listed().await, numbers.into_iter().map(node).collect::<Vec<_>>(), "at {time}");
    }
    // The next change is later than every change that proxies have received.
    change(&store, 1, state(NodeState::Draining)).await;
    assert_eq!(store.nodes(&pool()).await.unwrap()[0].updated_ms, 61_000 + 1_000 * SPENT_KEPT);
}

#[tokio::test]
async fn records_that_say_nothing_any_more_are_dropped_after_a_day_in_redis() {
    let server = RedisServer::start(&[]);
    let store = redis(vec![server.url()], false);
    change(&store, 1, cooling(5)).await;
    change(&store, 2, state(NodeState::Draining)).await;
    change(&store, 3, cooling(5)).await;
    store.forget_node(&pool(), node(3), None).await.unwrap();
    let fields = |hash: &str| -> BTreeSet<String> {
        server.cli(&["HKEYS", hash]).split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(store.nodes(&pool()).await.unwrap().len(), 3);
    assert_eq!(fields("berth:{nodes/7}:nodes").len(), 6);

    // As if it had been yesterday; the copies are as they are.
    let hash = "berth:{nodes/0}:records";
    for number in [1, 3] {
        let name = node(number).to_string();
        let record =
            store.nodes(&pool()).await.unwrap().into_iter().find(|record| record.node == node(number));
        let mut record = record.unwrap();
        record.updated_ms -= SPENT_KEPT;
        server.cli(&["HSET", hash, &name, &serde_json::to_string(&record).unwrap()]);
    }

    let left = store.nodes(&pool()).await.unwrap();
    assert_eq!(left.iter().map(|record| record.node.clone()).collect::<Vec<_>>(), [node(2)]);
    assert_eq!(fields(hash), BTreeSet::from([node(2).to_string()]));
    for shard in 0..16 {
        let mut copies = fields(&format!("berth:{{nodes/{shard:x}}}:nodes"));
        copies.remove(&format!("{}|written", node(2)));
        assert_eq!(copies, BTreeSet::from([node(2).to_string()]), "shard {shard}");
    }
    assert_eq!(change(&store, 1, state(NodeState::Draining)).await, 1);
    assert_eq!(shards_that_use(&store, "again", 1).await, BTreeSet::new());
}

/// All keys of the server, and how long each lives in ms; -1 if without an end.
fn lives(server: &RedisServer) -> Vec<(String, i64)> {
    let each = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        all[#all + 1] = key .. ' ' .. redis.call('PTTL', key) end return all";
    let said = server.cli(&["EVAL", each, "0"]);
    let life = |line: &str| line.rsplit_once(' ').map(|(key, life)| (key.to_owned(), life.parse().unwrap()));
    said.lines().filter_map(life).collect()
}

/// Any name makes a pool, so what is there for it has to end.
#[tokio::test]
async fn all_that_a_pool_leaves_in_redis_ends_by_itself() {
    let server = RedisServer::start(&[]);
    let store = redis(vec![server.url()], false);
    for number in 0..20 {
        let pool: PoolName = format!("invented-{number}").parse().unwrap();
        let ask =
            |id: u8| SessionAsk::new(SessionKey::new("invented", &[id]), vec![node(1), node(2)], vec![]);
        let mut sessions: Vec<_> = (0..40).map(ask).collect();
        // A lost pin that a proxy knows, one that is moved, and one that ends.
        sessions[0].known = Some(KnownPin { version: 1_700_000_000_000_000, node: node(2) });
        let mut request =
            ResolveRequest { pool: pool.clone(), region: None, panic: false, correlation_id: None, sessions };
        store.resolve(&request).await.unwrap();
        request.sessions.iter_mut().for_each(|ask| ask.unusable = vec![node(1)]);
        store.resolve(&request).await.unwrap();
        for id in [1, 200, 201] {
            store.end(&pool, SessionKey::new("invented", &[id]), Millis(0), None).await.unwrap();
        }
        store.change_node(&pool, node(1), &state(NodeState::Draining)).await.unwrap();
        store.id(&pool);
        let head = store.head(&pool).await.unwrap();
        store.changes(&pool, &head, 10).await.unwrap();
        // Logs that ended before their pins, and begin again with a change.
        let drop_logs = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        server.cli(&["EVAL", drop_logs, "0", &format!("berth:{{{pool}/*}}:changes")]);
        request.sessions.iter_mut().for_each(|ask| ask.unusable = vec![node(2)]);
        store.resolve(&request).await.unwrap();
    }

    let lives = lives(&server);
    assert!(lives.len() > 20 * 60, "{}", lives.len());
    // A key may have ended meanwhile.
    let endless: Vec<_> = lives.iter().filter(|(_, life)| *life == -1 || *life > 31 * 86_400_000).collect();
    assert!(endless.is_empty(), "{endless:?}");
    // Of a session there is nothing left after its time, but a log of a day.
    let day = lives.iter().filter(|(key, life)| !key.contains(":changes") && *life > 7_300_000);
    let long: Vec<_> =
        day.filter(|(key, _)| !key.ends_with(":nodes") && !key.ends_with(":records")).collect();
    assert!(long.iter().all(|(key, _)| key.ends_with(":store")), "{long:?}");
}

/// A pool whose proxies ask for changes keeps its log and its records, though nothing changes.
#[tokio::test]
async fn what_proxies_ask_for_does_not_end() {
    let server = RedisServer::start(&[]);
    let store = redis(vec![server.url()], false);
    change(&store, 1, state(NodeState::Draining)).await;
    for turn in ["before", "moved"] {
        shards_that_use(&store, turn, 2).await;
    }
    let head = store.head(&pool()).await.unwrap();
    let kept =
        |(key, _): &(String, i64)| [":changes", ":nodes", ":records"].iter().any(|end| key.ends_with(end));
    let soon: Vec<(String, i64)> = lives(&server).into_iter().filter(kept).collect();
    let shorten = "for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 1500) end";
    let count = soon.len().to_string();
    let keys = soon.iter().map(|(key, _)| key.as_str());
    server.cli(&["EVAL", shorten, &count].into_iter().chain(keys).collect::<Vec<_>>());

    assert!(!store.changes(&pool(), &head, 100).await.unwrap().resync);
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert!(!store.changes(&pool(), &head, 100).await.unwrap().resync);
    assert_eq!(lives(&server).into_iter().filter(kept).count(), soon.len());
    assert_eq!(shards_that_use(&store, "after", 1).await, BTreeSet::new());
    assert_eq!(store.nodes(&pool()).await.unwrap()[0].state, NodeState::Draining);
}

/// What another program wrote among the copies costs no session and no drain.
#[tokio::test]
async fn copies_that_are_not_ours_are_passed_over_and_replaced() {
    let server = RedisServer::start(&[]);
    let store = redis(vec![server.url()], false);
    change(&store, 1, state(NodeState::Draining)).await;
    assert_eq!(shards_that_use(&store, "before", 1).await, BTreeSet::new());

    let one = node(1).to_string();
    server.cli(&["HSET", "berth:{nodes/4}:nodes", &one, "garbage"]);
    // A text that is no UTF-8, beside a copy that is gone.
    let spoil =
        "redis.call('HSET', KEYS[1], string.char(255, 254), 'x') redis.call('HDEL', KEYS[2], ARGV[1])";
    server.cli(&["EVAL", spoil, "2", "berth:{nodes/5}:nodes", "berth:{nodes/6}:nodes", &one]);

    assert_eq!(shards_that_use(&store, "spoiled", 1).await, BTreeSet::from([4, 6]));
    change(&store, 1, state(NodeState::Draining)).await;
    assert_eq!(shards_that_use(&store, "after", 1).await, BTreeSet::new());
}
