//! Random histories of resolves, touches, expiries, ends, node changes and what is forgotten of nodes, against the
//! invariants, and the same on memory and Redis with the same answers. Time is no part of a history: a pin expires when the
//! history says so, and cooldowns are endless or over. Sessions end long ago, or so late that an hour more or less is known.
//! Versions are times as well: each store's own are compared by their order. Some requests say what is known of a pin: what
//! was last answered, what was answered before that, or a later write that the store has lost.
#[path = "../support/mod.rs"]
mod support;

mod history;
mod law;

use std::sync::Arc;
use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{ChangeKind, Outcome, PoolName, SessionKey, TouchRequest, TouchedPin};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};

use history::{Random, Step, key, step};
use law::{Known, Law, Versions};
use support::RedisServer;

const HISTORIES: u64 = 60;
const STEPS: usize = 80;
const SESSIONS: u64 = 5;
const NODES: u64 = 5;
const HOUR: u64 = 3_600_000;
/// What a history may take at most: lives have so much above full hours, and are compared in full hours.
const HALF: u64 = HOUR / 2;
const KEEPING: Keeping =
    Keeping { ttl: Millis(20 * HOUR + HALF), ended: Millis(20 * HOUR), changes: 100_000 };
const FAR: u64 = 1 << 50;

/// What each step of a history was answered, in words that can be compared.
async fn play(
    store: &dyn Store,
    pool: &PoolName,
    history: &[Step],
    expire: &dyn Fn(SessionKey),
    now: u64,
) -> (Vec<String>, Versions) {
    let mut answers = Vec::new();
    let mut law = Law { now, ..Law::default() };
    for step in history {
        answers.push(match step {
            Step::Resolve(request, said) => {
                let mut request = request.clone();
                for (ask, said) in request.sessions.iter_mut().zip(said) {
                    ask.known = law.versions.said(ask.key, said);
                }
                let mut pins = store.resolve(&request).await.unwrap();
                law.resolved(&request, &pins);
                for pin in &mut pins {
                    let owned = pin.owned_ms.take().unwrap();
                    assert!(
                        (owned <= HALF || pin.version == 0)
                            && (owned == 0 || pin.outcome != Outcome::Rehomed)
                    );
                    pin.ttl_ms = pin.ttl_ms.map(|life| life / HOUR);
                    pin.version = law.versions.rank(pin.key, pin.version);
                }
                format!("{pins:?}")
            }
            Step::Touch(keys) if keys.is_empty() => String::new(),
            Step::Touch(sessions) => {
                let mut request = TouchRequest { pool: pool.clone(), keys: vec![], pins: vec![] };
                for (key, said) in sessions {
                    match law.versions.said(*key, said) {
                        Some(known) => {
                            let lives_ms = (*key == self::key(0)).then_some(7 * HOUR + HALF);
                            request.pins.push(TouchedPin { key: *key, known, lives_ms });
                        }
                        None => request.keys.push(*key),
                    }
                }
                let mut reply = store.touch(&request).await.unwrap();
                reply.missing.sort();
                reply.changed.sort();
                reply.written.sort();
                for key in law.touched(&request, &reply) {
                    let pin = store.session(pool, key).await.unwrap().unwrap();
                    law.went_back(key, pin.version, &pin.node);
                }
                reply.ttls_ms.values_mut().for_each(|life| *life /= HOUR);
                // Of one whose life is not known what is left of it is said, a moment less than all.
                reply.ttls_ms.retain(|_, hours| *hours != KEEPING.ttl.0 / HOUR);
                format!("{reply:?}")
            }
            Step::Expire(key) => {
                expire(*key);
                law.pins.remove(key);
                law.claims.remove(key);
                law.rewritten.remove(key);
                law.orphans.remove(key);
                String::new()
            }
            Step::End(key, ago) => {
                let ended = store.end(pool, *key, *ago, None).await.unwrap().outcome;
                law.ended(*key, *ago, ended);
                ended.to_string()
            }
            Step::Node(node, change) => {
                let mut record = store.change_node(pool, node.clone(), change).await.unwrap().outcome;
                record.updated_ms = 0;
                law.cooling.extend((record.cooldown_until_ms == Some(FAR)).then_some(node.clone()));
                format!("{record:?}")
            }
            Step::Forget(node) => {
                law.cooling.remove(node);
                store.forget_node(pool, node.clone(), None).await.unwrap().outcome.to_string()
            }
        });
    }
    let mut records = store.nodes(pool).await.unwrap();
    records.iter_mut().for_each(|record| record.updated_ms = 0);
    answers.push(format!("{records:?}"));
    for number in 0..SESSIONS {
        let pin = store.session(pool, key(number)).await.unwrap();
        let known = pin.as_ref().map(|pin| Known {
            node: pin.node.clone(),
            version: pin.version,
            session_version: pin.session_version.unwrap_or(0),
            ttl: pin.idle_ttl_ms.unwrap(),
            ends: pin.ends_ms,
            alias_of: pin.alias_of,
        });
        assert_eq!(known.as_ref(), law.pins.get(&key(number)));
        let known =
            known.map(|known| Known { version: law.versions.rank(key(number), known.version), ..known });
        let rest = pin.map(|pin| (pin.owner.version, pin.created_ms, pin.ttl_ms / HOUR));
        answers.push(format!("{known:?} {rest:?}"));
    }
    (answers, law.versions)
}

/// The log, without what differs by nature: cursors, times, and the order between sessions.
async fn log(
    store: &dyn Store,
    pool: &PoolName,
    start: &berth_core::wire::Cursor,
    versions: &Versions,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut cursor = start.clone();
    loop {
        let reply = store.changes(pool, &cursor, 1000).await.unwrap();
        assert!(!reply.resync);
        if reply.events.is_empty() {
            break;
        }
        lines.extend(reply.events.into_iter().map(|event| {
            assert!(event.kind != ChangeKind::Unknown);
            let state = event
                .record
                .map(|record| (record.state, record.boot_id, record.cooldown_until_ms, record.forgotten));
            let version = match event.key {
                // Of an end without a pin it is the end's own.
                Some(_) if event.kind == ChangeKind::Ended && event.node.is_none() => {
                    event.version.map(|version| u64::from(version > 0))
                }
                Some(key) => event.version.map(|version| versions.rank(key, version)),
                None => event.version,
            };
            let about = (event.key, event.node, version);
            let raised = event.session_version;
            format!("{about:?} {:?} {:?} {:?} {raised:?} {state:?}", event.kind, event.from, event.reason)
        }));
        cursor = reply.cursor;
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn memory_and_redis_agree_on_every_history() {
    let server = RedisServer::start(&[]);
    let options = Options {
        urls: vec![server.url()],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_secs(5),
        keeping: KEEPING,
    };
    let redis = Redis::open(&options).unwrap();
    let raw = redis::Client::open(server.url()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let memory = Memory::new(KEEPING, Arc::new(move || Millis(now)));

    for seed in 0..HISTORIES {
        let pool: PoolName = format!("model-{seed}").parse().unwrap();
        let mut random = Random(seed);
        let history: Vec<Step> = (0..STEPS).map(|_| step(&mut random, &pool, now)).collect();
        let starts = (memory.head(&pool).await.unwrap(), redis.head(&pool).await.unwrap());

        let (in_memory, of_memory) =
            play(&memory, &pool, &history, &|key| memory.expire(&pool, key), now).await;
        let (in_redis, of_redis) = play(
            &redis,
            &pool,
            &history,
            &|key| {
                // What expiry does, at the history's moment.
                let mut connection = raw.get_connection().unwrap();
                redis::cmd("DEL").arg(Redis::pin_key(&pool, key)).exec(&mut connection).unwrap();
            },
            now,
        )
        .await;

        for (turn, (memory, redis)) in in_memory.iter().zip(&in_redis).enumerate() {
            assert_eq!(memory, redis, "seed {seed}, step {turn}: {:?}", history.get(turn));
        }
        let in_memory = log(&memory, &pool, &starts.0, &of_memory).await;
        let in_redis = log(&redis, &pool, &starts.1, &of_redis).await;
        assert_eq!(in_memory, in_redis, "seed {seed}");
    }
}
