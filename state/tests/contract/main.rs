//! The contract of `Store`, one body for all stores: memory, a private redis-server, and a real Redis Cluster.
#[path = "../support/mod.rs"]
mod support;

mod changes;
mod lifetime;
mod lost;
mod nodes;
mod ordinal;
mod placing;
mod rotation;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, CountReply, Cursor, Event, MAX_NODE_NAME, NodeChange, NodeId, NodeState, Outcome, Pin,
    PoolName, Reason, ResolveRequest, SessionAsk, SessionKey, TouchReply, TouchRequest,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};
use futures_util::future::join_all;

use ordinal::Ordinal;
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
    contract(&|keeping| Arc::new(Redis::open(&options(&server, keeping)).unwrap()), 3).await;
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
    contract(&|keeping| Arc::new(Redis::open(&options(keeping)).unwrap()), 3).await;
}

/// `services`: how many may stand in front of one store.
async fn contract(open: &dyn Fn(Keeping) -> Arc<dyn Store>, services: usize) {
    let whole = open;
    let open = |keeping| -> Arc<dyn Store> { Arc::new(Ordinal::new(whole(keeping))) };
    let store = &*open(KEEPING);
    placing::claims_and_finds(store).await;
    placing::racing_claimers_agree(&(0..services).map(|_| open(KEEPING)).collect::<Vec<_>>()).await;
    placing::rehomes_once(store).await;
    placing::rehomes_to_what_is_fit_or_not_at_all(store).await;
    placing::shared_cooldown_rehomes_without_being_told(store).await;
    placing::strict_sessions_stay_whatever_becomes_of_their_node(store).await;
    placing::new_sessions_avoid_what_operators_took_out(store).await;
    placing::panic_rewrites_nothing(store).await;
    placing::answers_in_order_and_pools_are_apart(store).await;
    placing::touches(store).await;
    placing::nodes_of_any_name_are_nodes_like_others(store).await;
    placing::a_pin_says_since_when_its_owner_has_it(store).await;
    placing::ends_and_continues_versions(store).await;
    placing::what_may_not_begin_is_only_found(store).await;
    placing::restores_once_after_a_restart(store).await;
    nodes::node_records_change_in_part_and_cooldown_only_grows(store).await;
    nodes::neither_the_operator_nor_the_node_undoes_the_others_word(store).await;
    nodes::what_is_forgotten_of_a_node_is_forgotten_in_all_shards(store).await;
    nodes::sessions_of_each_node_are_counted_within_a_limit(store).await;
    changes::changes_are_read_on_from_a_cursor(store).await;
    changes::the_origin_is_before_all_changes(store).await;
    changes::claims_are_no_news_and_leave_cursors_good(store).await;
    changes::a_cursor_that_fell_off_gets_resync(store).await;
    changes::foreign_cursors_get_resync(store).await;
    rotation::new_keys_inherit_from_former_ones(store).await;
    rotation::all_names_of_a_session_end_with_it(store).await;
    rotation::an_end_without_a_pin_is_also_that_of_the_former_key(store).await;
    rotation::heirs_of_a_node_that_is_out_are_rehomed_from_it(store).await;
    rotation::strict_heirs_inherit_whatever_becomes_of_the_node(store).await;
    rotation::rehomes_to_the_former_keys_node_first(store).await;
    rotation::inherited_pins_know_of_restarts(store).await;
    rotation::racing_heirs_agree(&(0..services).map(|_| open(KEEPING)).collect::<Vec<_>>()).await;
    rotation::session_versions_grow_and_say_so(store).await;
    lifetime::idle_times_and_ends_are_remembered(store).await;
    lifetime::a_claim_may_live_shorter_until_it_is_used(store).await;
    lifetime::what_has_ended_is_answered_and_not_stored(store).await;
    lifetime::pins_live_no_longer_than_their_sessions(store).await;
    lifetime::an_end_that_comes_late_leaves_newer_pins_alone(store).await;
    lifetime::pins_expire(&*open(SHORT)).await;
    let store = &*whole(KEEPING);
    lost::a_touch_brings_back_what_was_lost(store).await;
    lost::the_earlier_of_two_claims_stays(store).await;
    lost::a_question_brings_back_what_was_lost(store).await;
    lost::who_missed_an_end_begins_nothing_again(store).await;
    lost::a_shorter_life_is_news(store).await;
    rotation::an_heir_whose_pin_was_lost_ends_with_its_former_key(store).await;
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
    untimed(pins).remove(0)
}

/// Without the time that an owner has had its session, so that pins can be compared.
fn untimed(mut pins: Vec<Pin>) -> Vec<Pin> {
    for pin in &mut pins {
        let owned = pin.owned_ms.take().expect("each pin says for how long its owner has had it");
        assert!(owned < 60_000 && (owned == 0 || pin.outcome != Outcome::Rehomed), "{owned} ms: {pin:?}");
    }
    pins
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
        owned_ms: None,
    }
}

async fn change(store: &dyn Store, name: &str, number: u16, change: NodeChange) -> u64 {
    store.change_node(&pool(name), node(number), &change).await.unwrap().outcome.version
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

async fn resolve_one(store: &dyn Store, name: &str, ask: SessionAsk) -> Pin {
    untimed(store.resolve(&request(name, vec![ask])).await.unwrap()).remove(0)
}

async fn news(store: &dyn Store, name: &str, start: &Cursor) -> Vec<Event> {
    store.changes(&pool(name), start, 100).await.unwrap().events
}

/// The session `id`, which was `former` before.
fn rotated(id: &str, former: &str, candidates: &[u16], unusable: &[u16]) -> SessionAsk {
    SessionAsk { alias_of: Some(key(former)), ..ask(id, candidates, unusable) }
}
