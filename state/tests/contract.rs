//! The contract of `Store`, one body for all stores: memory, a private redis-server, and a real Redis Cluster.
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, Cursor, Event, NodeChange, NodeId, NodeState, Outcome, Pin, PoolName, Reason, ResolveRequest,
    SessionAsk, SessionKey, TouchReply, TouchRequest,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};
use futures_util::future::join_all;

use support::{RedisCluster, RedisServer, eventually_async};

const KEEPING: Keeping = Keeping { ttl: Millis(60_000), ended: Millis(60_000), changes: 64 };
/// Short enough to wait for, long enough for a slow machine to look in between.
const SHORT: Keeping = Keeping { ttl: Millis(700), ..KEEPING };
/// For stores that share this machine with a compiler.
const PATIENT: Duration = Duration::from_secs(5);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn memory(keeping: Keeping) -> Arc<dyn Store> {
    Arc::new(Memory::new(keeping, Arc::new(|| Millis(now_ms()))))
}

fn options(server: &RedisServer, keeping: Keeping) -> Options {
    Options {
        urls: vec![server.url()],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: PATIENT,
        keeping,
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&|keeping| memory(keeping), 1).await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let server = RedisServer::start(&[]);
    contract(&|keeping| Arc::new(Redis::new(&options(&server, keeping)).unwrap()), 3).await;
}

#[tokio::test]
async fn redis_cluster_keeps_the_contract() {
    let cluster = RedisCluster::start();
    let options = |keeping| Options {
        urls: cluster.urls(),
        cluster: true,
        quorum: false,
        tls: Tls::default(),
        timeout: PATIENT,
        keeping,
    };
    contract(&|keeping| Arc::new(Redis::new(&options(keeping)).unwrap()), 3).await;
}

/// `services`: how many may stand in front of one store.
async fn contract(open: &dyn Fn(Keeping) -> Arc<dyn Store>, services: usize) {
    let store = &*open(KEEPING);
    claims_and_finds(store).await;
    racing_claimers_agree(&(0..services).map(|_| open(KEEPING)).collect::<Vec<_>>()).await;
    rehomes_once(store).await;
    rehomes_to_what_is_fit_or_not_at_all(store).await;
    shared_cooldown_rehomes_without_being_told(store).await;
    strict_sessions_stay_whatever_becomes_of_their_node(store).await;
    new_sessions_avoid_what_operators_took_out(store).await;
    panic_rewrites_nothing(store).await;
    answers_in_order_and_pools_are_apart(store).await;
    touches(store).await;
    ends_and_continues_versions(store).await;
    restores_once_after_a_restart(store).await;
    node_records_change_in_part_and_cooldown_only_grows(store).await;
    neither_the_operator_nor_the_node_undoes_the_others_word(store).await;
    what_is_forgotten_of_a_node_is_forgotten_in_all_shards(store).await;
    changes_are_read_on_from_a_cursor(store).await;
    the_origin_is_before_all_changes(store).await;
    claims_are_no_news_and_leave_cursors_good(store).await;
    a_cursor_that_fell_off_gets_resync(store).await;
    foreign_cursors_get_resync(store).await;
    new_keys_inherit_from_former_ones(store).await;
    heirs_of_a_node_that_is_out_are_rehomed_from_it(store).await;
    strict_heirs_inherit_whatever_becomes_of_the_node(store).await;
    rehomes_to_the_former_keys_node_first(store).await;
    inherited_pins_know_of_restarts(store).await;
    racing_heirs_agree(&(0..services).map(|_| open(KEEPING)).collect::<Vec<_>>()).await;
    session_versions_grow_and_say_so(store).await;
    idle_times_and_ends_are_remembered(store).await;
    what_has_ended_is_answered_and_not_stored(store).await;
    pins_live_no_longer_than_their_sessions(store).await;
    pins_expire(&*open(SHORT)).await;
    store.ready().await.unwrap();
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id.as_bytes())
}

fn node(number: u16) -> NodeId {
    format!("10.0.0.1:{number}").parse().unwrap()
}

fn nodes(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

fn ask(id: &str, candidates: &[u16], unusable: &[u16]) -> SessionAsk {
    SessionAsk::new(key(id), nodes(candidates), nodes(unusable))
}

fn request(name: &str, sessions: Vec<SessionAsk>) -> ResolveRequest {
    ResolveRequest {
        pool: pool(name),
        region: None,
        panic: false,
        correlation_id: Some("cid-1".into()),
        sessions,
    }
}

async fn resolve(store: &dyn Store, name: &str, id: &str, candidates: &[u16], unusable: &[u16]) -> Pin {
    let pins = store.resolve(&request(name, vec![ask(id, candidates, unusable)])).await.unwrap();
    assert_eq!(pins.len(), 1);
    pins.into_iter().next().unwrap()
}

fn pin(id: &str, outcome: Outcome, owner: u16, version: u64) -> Pin {
    Pin {
        key: key(id),
        node: node(owner),
        version,
        outcome,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: None,
        session_version: None,
    }
}

async fn change(store: &dyn Store, name: &str, number: u16, change: NodeChange) -> u64 {
    store.change_node(&pool(name), node(number), &change).await.unwrap().version
}

fn to_state(state: NodeState) -> NodeChange {
    NodeChange { state: Some(state), ..NodeChange::default() }
}

fn cooling(until: u64) -> NodeChange {
    NodeChange { cooldown_until_ms: Some(until), ..NodeChange::default() }
}

async fn events_of(store: &dyn Store, name: &str, id: &str) -> Vec<Event> {
    store.session(&pool(name), key(id)).await.unwrap().unwrap().events
}

async fn claims_and_finds(store: &dyn Store) {
    assert_eq!(resolve(store, "claims", "a", &[1, 2], &[]).await, pin("a", Outcome::Claimed, 1, 1));
    assert_eq!(resolve(store, "claims", "a", &[2, 1], &[]).await, pin("a", Outcome::Found, 1, 1));

    let session = store.session(&pool("claims"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.node, session.version, session.events), (node(1), 1, vec![]));
    assert!(session.age_ms < 30_000 && session.ttl_ms > 30_000 && session.ttl_ms <= 60_000);
    assert_eq!(session.owner.state, NodeState::Active);
    assert_eq!(store.session(&pool("claims"), key("b")).await.unwrap(), None);
}

async fn racing_claimers_agree(services: &[Arc<dyn Store>]) {
    let ids: Vec<String> = (0..50).map(|i| format!("race-{i}")).collect();
    let ask = |turn: u16| {
        let sessions = ids.iter().map(|id| ask(id, &[turn, turn + 1], &[])).collect();
        let store = &services[usize::from(turn) % services.len()];
        async move { store.resolve(&request("race", sessions)).await.unwrap() }
    };

    let answers = join_all((1..=8).map(ask)).await;

    for session in 0..ids.len() {
        let of_all: Vec<&Pin> = answers.iter().map(|pins| &pins[session]).collect();
        assert!(of_all.iter().all(|pin| (pin.node, pin.version) == (of_all[0].node, 1)), "{of_all:?}");
        assert_eq!(of_all.iter().filter(|pin| pin.outcome == Outcome::Claimed).count(), 1);
    }
}

async fn rehomes_once(store: &dyn Store) {
    resolve(store, "rehome", "a", &[1, 2], &[]).await;

    let rehomed = resolve(store, "rehome", "a", &[2, 3], &[1]).await;
    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 2) });

    // The other proxy lost the race, and a late one does not move it back.
    assert_eq!(resolve(store, "rehome", "a", &[3, 2], &[1]).await, pin("a", Outcome::Found, 2, 2));
    assert_eq!(resolve(store, "rehome", "a", &[1, 2], &[]).await, pin("a", Outcome::Found, 2, 2));

    let events = events_of(store, "rehome", "a").await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((event.kind, event.reason), (ChangeKind::Rehomed, Reason::Unusable));
    assert_eq!((event.node, event.from, event.version), (Some(node(2)), Some(node(1)), Some(2)));
    assert_eq!(event.correlation_id.as_deref(), Some("cid-1"));
    assert!(now_ms().abs_diff(event.time_ms) < 30_000);
}

async fn rehomes_to_what_is_fit_or_not_at_all(store: &dyn Store) {
    resolve(store, "fit", "a", &[1], &[]).await;
    // A candidate may be unusable itself, or the owner.
    assert_eq!(resolve(store, "fit", "a", &[1, 2], &[1, 2]).await, pin("a", Outcome::Found, 1, 1));
    assert_eq!(resolve(store, "fit", "a", &[1, 2, 3], &[1, 2]).await.node, node(3));
    // A new one always gets an answer.
    assert_eq!(resolve(store, "fit", "b", &[1, 2], &[1, 2]).await, pin("b", Outcome::Claimed, 1, 1));
    assert_eq!(resolve(store, "fit", "c", &[1, 2], &[1]).await, pin("c", Outcome::Claimed, 2, 1));
}

async fn shared_cooldown_rehomes_without_being_told(store: &dyn Store) {
    resolve(store, "cooldown", "a", &[1, 2], &[]).await;
    change(store, "cooldown", 1, cooling(now_ms() + 3_600_000)).await;

    let rehomed = resolve(store, "cooldown", "a", &[1, 2], &[]).await;

    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 2) });
    assert_eq!(events_of(store, "cooldown", "a").await[0].reason, Reason::Cooldown);
    assert_eq!(resolve(store, "cooldown", "b", &[1, 2], &[]).await, pin("b", Outcome::Claimed, 2, 1));
    // One that is over is over.
    change(store, "cooldown", 3, cooling(now_ms() - 1)).await;
    assert_eq!(resolve(store, "cooldown", "c", &[3, 2], &[]).await, pin("c", Outcome::Claimed, 3, 1));
}

async fn strict_sessions_stay_whatever_becomes_of_their_node(store: &dyn Store) {
    let strict = |id: &str, unusable: &[u16]| SessionAsk { strict: true, ..ask(id, &[1, 2], unusable) };
    assert_eq!(resolve_one(store, "strict", strict("a", &[])).await, pin("a", Outcome::Claimed, 1, 1));
    change(store, "strict", 1, cooling(now_ms() + 3_600_000)).await;

    assert_eq!(resolve_one(store, "strict", strict("a", &[])).await, pin("a", Outcome::Found, 1, 1));
    assert_eq!(resolve_one(store, "strict", strict("a", &[1])).await, pin("a", Outcome::Found, 1, 1));
    assert!(events_of(store, "strict", "a").await.is_empty());
    // A new one is claimed as any other is.
    assert_eq!(resolve_one(store, "strict", strict("b", &[])).await, pin("b", Outcome::Claimed, 2, 1));
    // It is the request that is strict, not the pin.
    let moved = resolve(store, "strict", "a", &[1, 2], &[]).await;
    assert_eq!((moved.outcome, moved.node), (Outcome::Rehomed, node(2)));
}

async fn new_sessions_avoid_what_operators_took_out(store: &dyn Store) {
    resolve(store, "states", "old", &[1], &[]).await;
    for (number, state) in [(1, NodeState::Draining), (2, NodeState::Degraded), (3, NodeState::Standby)] {
        change(store, "states", number, to_state(state)).await;
    }

    assert_eq!(resolve(store, "states", "old", &[4], &[]).await, pin("old", Outcome::Found, 1, 1));
    let new = resolve(store, "states", "new", &[1, 2, 3, 4], &[]).await;
    assert_eq!(new, pin("new", Outcome::Claimed, 4, 1));
    // Better there than nowhere.
    let last = resolve(store, "states", "last", &[2, 3], &[]).await;
    assert_eq!(last, pin("last", Outcome::Claimed, 2, 1));

    let session = store.session(&pool("states"), key("old")).await.unwrap().unwrap();
    assert_eq!(session.owner.state, NodeState::Draining);
}

async fn panic_rewrites_nothing(store: &dyn Store) {
    resolve(store, "panic", "a", &[1, 2], &[]).await;
    change(store, "panic", 1, cooling(now_ms() + 3_600_000)).await;
    let panic = |id, candidates: &[u16], unusable: &[u16]| ResolveRequest {
        panic: true,
        ..request("panic", vec![ask(id, candidates, unusable)])
    };

    let found = store.resolve(&panic("a", &[2, 3], &[1])).await.unwrap();
    assert_eq!(found, [pin("a", Outcome::Found, 1, 1)]);
    assert_eq!(events_of(store, "panic", "a").await, []);
    // One without a pin gets the ring's choice.
    let claimed = store.resolve(&panic("b", &[1, 2], &[1])).await.unwrap();
    assert_eq!(claimed, [pin("b", Outcome::Claimed, 1, 1)]);
}

async fn answers_in_order_and_pools_are_apart(store: &dyn Store) {
    let ids: Vec<String> = (0..200).map(|i| format!("order-{i}")).collect();
    let sessions = |turn: usize| {
        let ask = |(i, id): (usize, &String)| ask(id, &[1 + ((i + turn) % 7) as u16], &[]);
        ids.iter().enumerate().map(ask).collect()
    };

    for (name, turn) in [("order", 0), ("disorder", 1), ("order", 2)] {
        let pins = store.resolve(&request(name, sessions(turn))).await.unwrap();

        let shift = usize::from(name == "disorder");
        for (i, (pin, id)) in pins.iter().zip(&ids).enumerate() {
            assert_eq!((pin.key, pin.node), (key(id), node(1 + ((i + shift) % 7) as u16)));
        }
    }
}

async fn touches(store: &dyn Store) {
    resolve(store, "touch", "a", &[1], &[]).await;
    let request = TouchRequest { pool: pool("touch"), keys: vec![key("b"), key("a"), key("c")] };
    let mut missing = store.touch(&request).await.unwrap().missing;
    missing.sort();
    let mut expected = vec![key("b"), key("c")];
    expected.sort();
    assert_eq!(missing, expected);
}

async fn ends_and_continues_versions(store: &dyn Store) {
    resolve(store, "end", "a", &[1, 2], &[]).await;
    resolve(store, "end", "a", &[2], &[1]).await;
    let before = store.head(&pool("end")).await.unwrap();

    assert!(store.end(&pool("end"), key("a"), Some("cid-2")).await.unwrap());
    assert!(!store.end(&pool("end"), key("a"), None).await.unwrap());
    assert_eq!(store.session(&pool("end"), key("a")).await.unwrap(), None);
    let touched = TouchRequest { pool: pool("end"), keys: vec![key("a")] };
    assert_eq!(store.touch(&touched).await.unwrap().missing, [key("a")]);

    let events = store.changes(&pool("end"), &before, 100).await.unwrap().events;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].reason), (ChangeKind::Ended, Reason::Deleted));
    assert_eq!((events[0].key, events[0].version), (Some(key("a")), Some(2)));
    assert_eq!(events[0].correlation_id.as_deref(), Some("cid-2"));

    assert_eq!(resolve(store, "end", "a", &[3], &[]).await, pin("a", Outcome::Claimed, 3, 3));
}

async fn restores_once_after_a_restart(store: &dyn Store) {
    let boot = |id: &str| NodeChange { boot_id: Some(id.into()), ..NodeChange::default() };
    resolve(store, "restore", "early", &[1], &[]).await;
    change(store, "restore", 1, boot("one")).await;
    resolve(store, "restore", "a", &[1], &[]).await;
    // The first boot id that a node ever names says nothing of a restart.
    assert_eq!(resolve(store, "restore", "early", &[1], &[]).await, pin("early", Outcome::Found, 1, 1));

    change(store, "restore", 1, boot("two")).await;
    for id in ["a", "early"] {
        let restored = Pin { restore: true, ..pin(id, Outcome::Found, 1, 1) };
        assert_eq!(resolve(store, "restore", id, &[1], &[]).await, restored);
        assert_eq!(resolve(store, "restore", id, &[1], &[]).await, pin(id, Outcome::Found, 1, 1));
    }
    assert_eq!(resolve(store, "restore", "new", &[1], &[]).await, pin("new", Outcome::Claimed, 1, 1));
}

async fn node_records_change_in_part_and_cooldown_only_grows(store: &dyn Store) {
    let name = pool("records");
    assert_eq!(store.nodes(&name).await.unwrap(), []);
    let before = store.head(&name).await.unwrap();
    let first = NodeChange {
        note: Some("new kernel".into()),
        weight: Some(3),
        correlation_id: Some("cid-3".into()),
        ..to_state(NodeState::Draining)
    };

    assert_eq!(change(store, "records", 2, first.clone()).await, 1);
    assert_eq!(change(store, "records", 2, first).await, 1, "what changes nothing is no new version");
    assert_eq!(change(store, "records", 2, to_state(NodeState::Active)).await, 2);
    assert_eq!(change(store, "records", 2, cooling(5000)).await, 3);
    assert_eq!(change(store, "records", 2, cooling(4000)).await, 3);
    assert_eq!(change(store, "records", 1, NodeChange::default()).await, 1);

    let records = store.nodes(&name).await.unwrap();
    assert_eq!(records.iter().map(|record| record.node).collect::<Vec<_>>(), nodes(&[1, 2]));
    let record = &records[1];
    assert_eq!((record.state, record.weight, record.version), (NodeState::Active, Some(3), 3));
    assert_eq!((record.note.as_deref(), record.cooldown_until_ms), (Some("new kernel"), Some(5000)));
    let events = store.changes(&name, &before, 100).await.unwrap().events;
    let versions: Vec<_> = events.iter().map(|event| (event.node.unwrap(), event.version.unwrap())).collect();
    assert_eq!(versions, [(node(2), 1), (node(2), 2), (node(2), 3), (node(1), 1)]);
    assert_eq!(events[2].record.as_ref(), Some(record));
    assert_eq!((events[0].kind, events[0].correlation_id.as_deref()), (ChangeKind::Node, Some("cid-3")));

    // Many at once: each change counts, none is lost.
    let weights = join_all((1..=4).map(|weight| {
        let change = NodeChange { weight: Some(weight * 10), ..NodeChange::default() };
        async move { store.change_node(&pool("records"), node(9), &change).await.unwrap().version }
    }));
    let mut versions = weights.await;
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
}

/// Where new sessions of all shards come to, if they may choose between two nodes.
async fn owners_of_new(store: &dyn Store, name: &str, turn: &str, candidates: &[u16]) -> BTreeSet<NodeId> {
    let ids: Vec<String> = (0..100).map(|i| format!("{turn}-{i}")).collect();
    let shards: BTreeSet<u8> = ids.iter().map(|id| key(id).as_bytes()[0] >> 4).collect();
    assert_eq!(shards.len(), 16);
    let sessions = ids.iter().map(|id| ask(id, candidates, &[])).collect();
    store.resolve(&request(name, sessions)).await.unwrap().iter().map(|pin| pin.node).collect()
}

async fn neither_the_operator_nor_the_node_undoes_the_others_word(store: &dyn Store) {
    let name = pool("words");
    let itself =
        |state| NodeChange { self_state: Some(state), boot_id: Some("one".into()), ..NodeChange::default() };
    let state = async || store.nodes(&name).await.unwrap()[0].state;

    // With each health check, before the drain and after it.
    assert_eq!(change(store, "words", 1, itself(NodeState::Active)).await, 1);
    assert_eq!(change(store, "words", 1, to_state(NodeState::Draining)).await, 2);
    assert_eq!(change(store, "words", 1, itself(NodeState::Active)).await, 2);
    assert_eq!(state().await, NodeState::Draining);
    assert_eq!(owners_of_new(store, "words", "drained", &[1, 2]).await, nodes(&[2]).into_iter().collect());

    change(store, "words", 1, to_state(NodeState::Active)).await;
    let start = store.head(&name).await.unwrap();
    change(store, "words", 1, itself(NodeState::Degraded)).await;
    change(store, "words", 1, to_state(NodeState::Active)).await;
    assert_eq!(owners_of_new(store, "words", "degraded", &[1, 2]).await, nodes(&[2]).into_iter().collect());
    // What proxies hear is what counts.
    let record = news(store, "words", &start).await.pop().unwrap().record.unwrap();
    assert_eq!((record.state, record.operator_state()), (NodeState::Degraded, NodeState::Active));

    // Its word is no longer than its life.
    let started = NodeChange { boot_id: Some("two".into()), ..NodeChange::default() };
    change(store, "words", 1, started).await;
    assert_eq!(state().await, NodeState::Active);
    assert_eq!(owners_of_new(store, "words", "again", &[1, 2]).await, nodes(&[1]).into_iter().collect());
}

async fn what_is_forgotten_of_a_node_is_forgotten_in_all_shards(store: &dyn Store) {
    let name = pool("forget");
    assert!(!store.forget_node(&name, node(1), None).await.unwrap());
    assert_eq!(store.nodes(&name).await.unwrap(), []);
    let all = NodeChange {
        weight: Some(3),
        note: Some("pod games-7".into()),
        boot_id: Some("one".into()),
        self_state: Some(NodeState::Draining),
        cooldown_until_ms: Some(now_ms() + 3_600_000),
        ..to_state(NodeState::Draining)
    };
    change(store, "forget", 1, all).await;
    assert_eq!(owners_of_new(store, "forget", "before", &[1, 2]).await, nodes(&[2]).into_iter().collect());
    let start = store.head(&name).await.unwrap();

    assert!(store.forget_node(&name, node(1), Some("cid-4")).await.unwrap());
    assert!(!store.forget_node(&name, node(1), None).await.unwrap(), "there is nothing left");

    // The next one at this address begins with nothing, for the store as for proxies.
    assert_eq!(owners_of_new(store, "forget", "after", &[1, 2]).await, nodes(&[1]).into_iter().collect());
    let mut events = news(store, "forget", &start).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = events.pop().unwrap();
    assert_eq!((event.kind, event.reason), (ChangeKind::Node, Reason::Deleted));
    assert_eq!((event.node, event.version), (Some(node(1)), Some(2)));
    assert_eq!(event.correlation_id.as_deref(), Some("cid-4"));
    let left = event.record.unwrap();
    assert!(left.forgotten && left.takes_new_sessions(now_ms()));
    assert_eq!((left.weight, left.boot_id.as_ref(), left.note.as_ref()), (None, None, None));
    // Whoever missed the event finds it here, for a while.
    assert_eq!(store.nodes(&name).await.unwrap(), [left]);

    assert_eq!(change(store, "forget", 1, to_state(NodeState::Standby)).await, 3);
    let records = store.nodes(&name).await.unwrap();
    assert_eq!((records[0].state, records[0].forgotten), (NodeState::Standby, false));
}

async fn the_origin_is_before_all_changes(store: &dyn Store) {
    let nothing = store.changes(&pool("origin"), &store.origin(), 100).await.unwrap();
    assert!(!nothing.resync && nothing.events.is_empty());
    resolve(store, "origin", "a", &[1], &[]).await;
    resolve(store, "origin", "a", &[2], &[1]).await;

    assert_eq!(news(store, "origin", &store.origin()).await.len(), 1);
    // A long log has lost its beginning.
    let reply = store.changes(&pool("resync-origin"), &store.origin(), 100).await.unwrap();
    assert!(!reply.resync);
    for turn in 0..400 {
        let (to, from) = if turn % 2 == 0 { (2, 1) } else { (1, 2) };
        resolve(store, "resync-origin", "a", &[to], &[from]).await;
    }
    assert!(store.changes(&pool("resync-origin"), &store.origin(), 100).await.unwrap().resync);
}

async fn changes_are_read_on_from_a_cursor(store: &dyn Store) {
    let name = pool("changes");
    let start = store.head(&name).await.unwrap();
    let nothing = store.changes(&name, &start, 100).await.unwrap();
    assert_eq!((nothing.cursor == start, nothing.resync, nothing.events.len()), (true, false, 0));

    let ids: Vec<String> = (0..40).map(|i| format!("changes-{i}")).collect();
    let sessions =
        |candidates: &[u16], unusable: &[u16]| ids.iter().map(|id| ask(id, candidates, unusable)).collect();
    store.resolve(&request("changes", sessions(&[1, 2], &[]))).await.unwrap();
    store.resolve(&request("changes", sessions(&[2, 3], &[1]))).await.unwrap();

    // A few at a time, each exactly once.
    let mut cursor = start;
    let mut seen = Vec::new();
    loop {
        let reply = store.changes(&name, &cursor, 16).await.unwrap();
        assert!(!reply.resync);
        if reply.events.is_empty() {
            break;
        }
        assert!(reply.events.len() <= 16);
        seen.extend(reply.events.iter().map(|event| event.key.unwrap()));
        cursor = reply.cursor;
    }
    assert_eq!(cursor, store.head(&name).await.unwrap());
    let mut expected: Vec<SessionKey> = ids.iter().map(|id| key(id)).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

async fn claims_are_no_news_and_leave_cursors_good(store: &dyn Store) {
    let name = pool("quiet");
    let start = store.head(&name).await.unwrap();
    for turn in 0..3 {
        let sessions = (0..100).map(|i| ask(&format!("quiet-{turn}-{i}"), &[1, 2], &[])).collect();
        store.resolve(&request("quiet", sessions)).await.unwrap();
    }

    let head = store.head(&name).await.unwrap();
    // A poll that waits need not look again and again: after one answer the position is the newest.
    for (after, limit) in [(&start, 100), (&start, 1), (&head, 100)] {
        let reply = store.changes(&name, after, limit).await.unwrap();
        assert_eq!((reply.cursor == head, reply.resync, reply.events), (true, false, vec![]));
    }
    resolve(store, "quiet", "quiet-0-0", &[2], &[1]).await;
    for after in [&start, &head] {
        let reply = store.changes(&name, after, 1).await.unwrap();
        assert_eq!((reply.resync, reply.events.len()), (false, 1));
        assert_eq!(reply.events[0].key, Some(key("quiet-0-0")));
    }
}

async fn a_cursor_that_fell_off_gets_resync(store: &dyn Store) {
    let name = pool("resync");
    resolve(store, "resync", "a", &[1, 2], &[]).await;
    let start = store.head(&name).await.unwrap();
    // Redis drops changes by the hundred.
    for turn in 0..400 {
        let (to, from) = if turn % 2 == 0 { (2, 1) } else { (1, 2) };
        resolve(store, "resync", "a", &[to], &[from]).await;
    }

    let reply = store.changes(&name, &start, 100).await.unwrap();
    assert!(reply.resync && reply.events.is_empty());

    let reply = store.changes(&name, &reply.cursor, 100).await.unwrap();
    assert!(!reply.resync && reply.events.is_empty());
    let pin = resolve(store, "resync", "a", &[3], &[1]).await;
    assert_eq!((pin.version, pin.outcome), (402, Outcome::Rehomed));
    let reply = store.changes(&name, &reply.cursor, 100).await.unwrap();
    assert_eq!((reply.resync, reply.events.len()), (false, 1));
}

async fn foreign_cursors_get_resync(store: &dyn Store) {
    for text in ["0", "r.g~1-1", "m0000000000000000-0", "r.3~zzzzzzzzz-0", "~"] {
        let reply = store.changes(&pool("foreign"), &text.parse().unwrap(), 10).await.unwrap();
        assert!(reply.resync, "{text}");
        assert_eq!(reply.cursor, store.head(&pool("foreign")).await.unwrap());
    }
}

/// The session `id`, which was `former` before.
fn rotated(id: &str, former: &str, candidates: &[u16], unusable: &[u16]) -> SessionAsk {
    SessionAsk { alias_of: Some(key(former)), ..ask(id, candidates, unusable) }
}

async fn resolve_one(store: &dyn Store, name: &str, ask: SessionAsk) -> Pin {
    store.resolve(&request(name, vec![ask])).await.unwrap().remove(0)
}

async fn news(store: &dyn Store, name: &str, start: &Cursor) -> Vec<Event> {
    store.changes(&pool(name), start, 100).await.unwrap().events
}

async fn new_keys_inherit_from_former_ones(store: &dyn Store) {
    resolve(store, "heirs", "old", &[1, 2], &[]).await;
    resolve(store, "heirs", "old", &[2], &[1]).await;
    let start = store.head(&pool("heirs")).await.unwrap();

    // Also from a node that takes no new sessions: this is an old one.
    change(store, "heirs", 2, to_state(NodeState::Draining)).await;
    let inherited = resolve_one(store, "heirs", rotated("new", "old", &[3, 1], &[])).await;
    assert_eq!(inherited, pin("new", Outcome::Found, 2, 2));
    // Replaying the old one moves nothing, nor does the new one need it any more.
    assert_eq!(resolve(store, "heirs", "old", &[3], &[]).await, pin("old", Outcome::Found, 2, 2));
    let again = resolve_one(store, "heirs", rotated("new", "old", &[3], &[])).await;
    assert_eq!(again, pin("new", Outcome::Found, 2, 2));
    assert!(store.end(&pool("heirs"), key("old"), None).await.unwrap());
    assert_eq!(resolve(store, "heirs", "new", &[3], &[]).await, pin("new", Outcome::Found, 2, 2));

    let session = store.session(&pool("heirs"), key("new")).await.unwrap().unwrap();
    assert_eq!((session.alias_of, session.session_version), (Some(key("old")), None));
    let kinds: Vec<_> = news(store, "heirs", &start).await.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds.iter().filter(|kind| **kind != ChangeKind::Node).collect::<Vec<_>>(),
        [&ChangeKind::Ended]
    );

    // Without a pin to inherit it is a new session, as is one whose former key comes in the same request.
    let claimed = resolve_one(store, "heirs", rotated("b", "old", &[3], &[])).await;
    assert_eq!(claimed, pin("b", Outcome::Claimed, 3, 1));
    let both = vec![ask("c", &[4], &[]), rotated("d", "c", &[5], &[])];
    let pins = store.resolve(&request("heirs", both)).await.unwrap();
    assert_eq!(pins, [pin("c", Outcome::Claimed, 4, 1), pin("d", Outcome::Claimed, 5, 1)]);
    let session = store.session(&pool("heirs"), key("d")).await.unwrap().unwrap();
    assert_eq!(session.alias_of, None);
}

async fn heirs_of_a_node_that_is_out_are_rehomed_from_it(store: &dyn Store) {
    resolve(store, "out", "old", &[1, 2], &[]).await;
    let start = store.head(&pool("out")).await.unwrap();

    let unusable = resolve_one(store, "out", rotated("a", "old", &[1, 2], &[1])).await;
    assert_eq!(unusable, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 2) });
    change(store, "out", 1, cooling(now_ms() + 3_600_000)).await;
    let cooling = resolve_one(store, "out", rotated("b", "old", &[1, 2], &[])).await;
    assert_eq!(cooling, Pin { from: Some(node(1)), ..pin("b", Outcome::Rehomed, 2, 2) });

    // Said once, and logged as any rehome.
    let again = resolve_one(store, "out", rotated("a", "old", &[1, 2], &[1])).await;
    assert_eq!(again, pin("a", Outcome::Found, 2, 2));
    let session = store.session(&pool("out"), key("b")).await.unwrap().unwrap();
    assert_eq!((session.version, session.alias_of), (2, Some(key("old"))));
    let mut events = news(store, "out", &start).await;
    events.retain(|event| event.kind != ChangeKind::Node);
    for (id, reason) in [("a", Reason::Unusable), ("b", Reason::Cooldown)] {
        let of_it: Vec<_> = events.iter().filter(|event| event.key == Some(key(id))).collect();
        assert_eq!(of_it.len(), 1, "{of_it:?}");
        assert_eq!((of_it[0].kind, of_it[0].reason), (ChangeKind::Rehomed, reason));
        assert_eq!((of_it[0].node, of_it[0].from, of_it[0].version), (Some(node(2)), Some(node(1)), Some(2)));
    }
    assert_eq!(events.len(), 2, "{events:?}");

    // As for any pin: if no candidate is fit either, a move would only be the first of two.
    let stays = resolve_one(store, "out", rotated("c", "old", &[1, 3], &[1, 3])).await;
    assert_eq!(stays, pin("c", Outcome::Found, 1, 1));
    // In panic nobody believes that it is down.
    let panic = request("out", vec![rotated("d", "old", &[2], &[1])]);
    let pins = store.resolve(&ResolveRequest { panic: true, ..panic }).await.unwrap();
    assert_eq!(pins, [pin("d", Outcome::Found, 1, 1)]);
}

async fn strict_heirs_inherit_whatever_becomes_of_the_node(store: &dyn Store) {
    let strict = |id, unusable: &[u16]| SessionAsk { strict: true, ..rotated(id, "old", &[2, 3], unusable) };
    resolve(store, "strict-heirs", "old", &[1], &[]).await;
    let start = store.head(&pool("strict-heirs")).await.unwrap();

    let unusable = resolve_one(store, "strict-heirs", strict("a", &[1])).await;
    assert_eq!(unusable, pin("a", Outcome::Found, 1, 1));
    change(store, "strict-heirs", 1, cooling(now_ms() + 3_600_000)).await;
    assert_eq!(resolve_one(store, "strict-heirs", strict("b", &[])).await, pin("b", Outcome::Found, 1, 1));

    let events = news(store, "strict-heirs", &start).await;
    assert!(events.iter().all(|event| event.kind == ChangeKind::Node), "{events:?}");
    // Without anything to inherit it is claimed as any other.
    let orphan = SessionAsk { alias_of: Some(key("nobody")), ..strict("c", &[]) };
    assert_eq!(resolve_one(store, "strict-heirs", orphan).await, pin("c", Outcome::Claimed, 2, 1));
}

async fn rehomes_to_the_former_keys_node_first(store: &dyn Store) {
    resolve(store, "home", "old", &[1], &[]).await;
    resolve(store, "home", "new", &[2], &[]).await;

    // A pin of its own is found, whatever the former key has.
    let found = resolve_one(store, "home", rotated("new", "old", &[3], &[])).await;
    assert_eq!(found, pin("new", Outcome::Found, 2, 1));
    let rehomed = resolve_one(store, "home", rotated("new", "old", &[3], &[2])).await;
    assert_eq!(rehomed, Pin { from: Some(node(2)), ..pin("new", Outcome::Rehomed, 1, 2) });
    let session = store.session(&pool("home"), key("new")).await.unwrap().unwrap();
    assert_eq!(session.alias_of, Some(key("old")));
    // And not to where it cannot be.
    let rehomed = resolve_one(store, "home", rotated("new", "old", &[3], &[1])).await;
    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("new", Outcome::Rehomed, 3, 3) });
}

async fn inherited_pins_know_of_restarts(store: &dyn Store) {
    let boot = |id: &str| NodeChange { boot_id: Some(id.into()), ..NodeChange::default() };
    change(store, "reborn", 1, boot("one")).await;
    resolve(store, "reborn", "old", &[1], &[]).await;
    change(store, "reborn", 1, boot("two")).await;

    let inherited = resolve_one(store, "reborn", rotated("new", "old", &[2], &[])).await;
    assert_eq!(inherited, Pin { restore: true, ..pin("new", Outcome::Found, 1, 1) });
    let again = resolve_one(store, "reborn", rotated("new", "old", &[2], &[])).await;
    assert_eq!(again, pin("new", Outcome::Found, 1, 1));
}

async fn racing_heirs_agree(services: &[Arc<dyn Store>]) {
    let ids: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    let old = ids.iter().enumerate().map(|(i, id)| ask(&format!("old-{id}"), &[1 + (i % 7) as u16], &[]));
    let old = services[0].resolve(&request("heir-race", old.collect())).await.unwrap();
    let ask = |turn: u16| {
        let ask = |id: &String| SessionAsk {
            session_version: Some(turn.into()),
            ..rotated(&format!("new-{id}"), &format!("old-{id}"), &[turn + 10], &[])
        };
        let sessions = ids.iter().map(ask).collect();
        let store = &services[usize::from(turn) % services.len()];
        async move { store.resolve(&request("heir-race", sessions)).await.unwrap() }
    };

    let answers = join_all((1..=8).map(ask)).await;

    for pins in answers {
        for (pin, old) in pins.iter().zip(&old) {
            assert_eq!((pin.node, pin.version, pin.outcome), (old.node, 1, Outcome::Found));
        }
    }
    for id in &ids {
        for id in [format!("old-{id}"), format!("new-{id}")] {
            let session = services[0].session(&pool("heir-race"), key(&id)).await.unwrap().unwrap();
            assert_eq!(session.session_version, Some(8), "{id}");
        }
    }
}

async fn session_versions_grow_and_say_so(store: &dyn Store) {
    let with = |ask, version| SessionAsk { session_version: Some(version), ..ask };
    let versioned = |pin, version| Pin { session_version: Some(version), ..pin };
    let a = || ask("a", &[1], &[]);
    let found = || pin("a", Outcome::Found, 1, 1);
    let claimed = resolve_one(store, "versions", with(a(), 2)).await;
    assert_eq!(claimed, versioned(pin("a", Outcome::Claimed, 1, 1), 2));
    let start = store.head(&pool("versions")).await.unwrap();

    // A lower one, or none, gets its pin and is told the highest.
    for lower in [with(a(), 1), with(a(), 0), a(), with(a(), 2)] {
        assert_eq!(resolve_one(store, "versions", lower).await, versioned(found(), 2));
    }
    assert_eq!(news(store, "versions", &start).await, []);
    assert_eq!(resolve_one(store, "versions", with(a(), u32::MAX)).await, versioned(found(), u32::MAX));

    let events = news(store, "versions", &start).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((event.kind, event.reason), (ChangeKind::Superseded, Reason::Raised));
    assert_eq!((event.key, event.node, event.version), (Some(key("a")), Some(node(1)), Some(1)));
    assert_eq!((event.session_version, event.correlation_id.as_deref()), (Some(u32::MAX), Some("cid-1")));
    // A rehome is news enough.
    resolve_one(store, "versions", with(ask("b", &[1], &[]), 1)).await;
    let start = store.head(&pool("versions")).await.unwrap();
    let rehomed = resolve_one(store, "versions", with(ask("b", &[2], &[1]), 2)).await;
    assert_eq!((rehomed.outcome, rehomed.session_version), (Outcome::Rehomed, Some(2)));
    let kinds: Vec<_> = news(store, "versions", &start).await.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [ChangeKind::Rehomed]);

    // The former key learns of the new one's version, once, and the new key of the former's.
    let start = store.head(&pool("versions")).await.unwrap();
    for outcome in [Outcome::Found, Outcome::Found] {
        let heir = resolve_one(store, "versions", with(rotated("c", "b", &[1], &[]), 3)).await;
        assert_eq!(heir, versioned(pin("c", outcome, 2, 2), 3));
    }
    let events = news(store, "versions", &start).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].kind, events[0].reason), (ChangeKind::Superseded, Reason::Rotated));
    assert_eq!((events[0].key, events[0].session_version), (Some(key("b")), Some(3)));
    let old = resolve_one(store, "versions", with(ask("b", &[1], &[]), 2)).await;
    assert_eq!(old, versioned(pin("b", Outcome::Found, 2, 2), 3));
    let heir = resolve_one(store, "versions", rotated("d", "c", &[1], &[])).await;
    assert_eq!(heir, versioned(pin("d", Outcome::Found, 2, 2), 3));
    // Not from somebody who shows no version, whatever his session once had.
    resolve_one(store, "versions", with(ask("m", &[1], &[]), 1000)).await;
    let start = store.head(&pool("versions")).await.unwrap();
    resolve_one(store, "versions", rotated("m", "b", &[1], &[])).await;
    assert_eq!(news(store, "versions", &start).await, []);
    assert_eq!(resolve_one(store, "versions", ask("b", &[1], &[])).await.session_version, Some(3));
}

async fn touch_one(store: &dyn Store, name: &str, id: &str) -> TouchReply {
    let request = TouchRequest { pool: pool(name), keys: vec![key("nobody"), key(id)] };
    let reply = store.touch(&request).await.unwrap();
    assert_eq!(reply.ttl_ms, KEEPING.ttl.0);
    reply
}

async fn idle_times_and_ends_are_remembered(store: &dyn Store) {
    let now = now_ms();
    let lasting = |ttl_ms, ends_ms| SessionAsk { ttl_ms, ends_ms, ..ask("a", &[1, 2], &[]) };
    let with_creation = SessionAsk { created_ms: Some(now - 5_000), ..lasting(Some(3_600_000), None) };

    let claimed = resolve_one(store, "lives", with_creation).await;
    assert_eq!(claimed, Pin { ttl_ms: Some(3_600_000), ..pin("a", Outcome::Claimed, 1, 1) });
    // A resolve that says none, and a touch, keep it.
    let found = resolve_one(store, "lives", lasting(None, None)).await;
    assert_eq!(found, Pin { ttl_ms: Some(3_600_000), ..pin("a", Outcome::Found, 1, 1) });
    let touched = touch_one(store, "lives", "a").await;
    assert_eq!((touched.touched, touched.missing.len()), (1, 1));
    assert_eq!(touched.ttls_ms, [(key("a"), 3_600_000)].into());
    let session = store.session(&pool("lives"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.idle_ttl_ms, session.created_ms), (Some(3_600_000), Some(now - 5_000)));
    assert!(session.ttl_ms > 3_000_000 && session.ends_ms.is_none());

    // As long as all others is not worth a word.
    assert_eq!(
        resolve_one(store, "lives", lasting(Some(60_000), None)).await,
        pin("a", Outcome::Found, 1, 1)
    );
    assert!(touch_one(store, "lives", "a").await.ttls_ms.is_empty());

    // The earliest end counts, also where a rehome writes the pin anew.
    let ends = now + 30_000;
    for said in [Some(ends + 10_000), Some(ends), Some(ends + 20_000), None] {
        resolve_one(store, "lives", lasting(None, said)).await;
    }
    let rehomed =
        resolve_one(store, "lives", SessionAsk { unusable: nodes(&[1]), ..lasting(None, None) }).await;
    assert_eq!((rehomed.outcome, rehomed.node), (Outcome::Rehomed, node(2)));
    assert!(rehomed.ttl_ms.is_some_and(|life| life <= 30_000), "{rehomed:?}");
    let touched = touch_one(store, "lives", "a").await;
    assert!(touched.ttls_ms[&key("a")] <= 30_000);
    let session = store.session(&pool("lives"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.ends_ms, session.idle_ttl_ms), (Some(ends), Some(60_000)));
    assert!(session.ttl_ms <= 30_000);
    // Who inherits the node inherits no time: its token says its own.
    let heir = resolve_one(store, "lives", rotated("b", "a", &[1], &[])).await;
    assert_eq!(heir, pin("b", Outcome::Found, 2, 2));
}

async fn what_has_ended_is_answered_and_not_stored(store: &dyn Store) {
    let over = |ask| SessionAsk { ends_ms: Some(1), ..ask };
    let nothing = |pin| Pin { ttl_ms: Some(0), ..pin };
    for _ in 0..2 {
        let claimed = resolve_one(store, "over", over(ask("a", &[1], &[]))).await;
        assert_eq!(claimed, nothing(pin("a", Outcome::Claimed, 1, 1)));
    }
    // One that is there goes with its end.
    resolve(store, "over", "b", &[1], &[]).await;
    let found = resolve_one(store, "over", over(ask("b", &[2], &[]))).await;
    assert_eq!(found, nothing(pin("b", Outcome::Found, 1, 1)));
    for id in ["a", "b"] {
        assert_eq!(store.session(&pool("over"), key(id)).await.unwrap(), None);
        assert_eq!(touch_one(store, "over", id).await.touched, 0);
    }
    // What is remembered of an ended session is still there for the one that is stored.
    resolve(store, "over", "c", &[1], &[]).await;
    store.end(&pool("over"), key("c"), None).await.unwrap();
    let claimed = resolve_one(store, "over", over(ask("c", &[1], &[]))).await;
    assert_eq!(claimed, nothing(pin("c", Outcome::Claimed, 1, 2)));
    assert_eq!(resolve(store, "over", "c", &[1], &[]).await, pin("c", Outcome::Claimed, 1, 2));
}

async fn pins_live_no_longer_than_their_sessions(store: &dyn Store) {
    let ends = now_ms() + 1_500;
    let ending = SessionAsk { ends_ms: Some(ends), ..ask("ending", &[1], &[]) };
    let idle = SessionAsk { ttl_ms: Some(1_000), ..ask("idle", &[1], &[]) };
    store.resolve(&request("ends", vec![ending, idle])).await.unwrap();
    let touch = TouchRequest { pool: pool("ends"), keys: vec![key("ending")] };

    // However much it is used.
    eventually_async("the end", || async {
        let gone = !store.touch(&touch).await.unwrap().missing.is_empty();
        assert!(gone || now_ms() <= ends + 100, "lives after its end");
        gone
    })
    .await;
    assert!(now_ms() + 100 >= ends, "ended too early");
    eventually_async("the idle time", || async {
        store.session(&pool("ends"), key("idle")).await.unwrap().is_none()
    })
    .await;
}

async fn pins_expire(store: &dyn Store) {
    resolve(store, "expire", "a", &[1, 2], &[]).await;
    resolve(store, "expire", "a", &[2, 3], &[1]).await;
    let touch = TouchRequest { pool: pool("expire"), keys: vec![key("a")] };
    // Touched, it outlives its time.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(2 * SHORT.ttl.0) {
        assert_eq!(store.touch(&touch).await.unwrap().missing, []);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    eventually_async("expiry", || async {
        !store.touch(&touch).await.unwrap().missing.is_empty() || {
            // Asking was a touch; leave it alone for its time.
            tokio::time::sleep(Duration::from_millis(SHORT.ttl.0 + 50)).await;
            false
        }
    })
    .await;

    assert_eq!(resolve(store, "expire", "a", &[3], &[]).await, pin("a", Outcome::Claimed, 3, 1));
}
