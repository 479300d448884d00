//! Random histories of resolves, touches, expiries, ends and node changes, against the invariants, and the same on
//! memory and Redis with the same answers. Time is no part of a history: a pin expires when the history says so, and
//! cooldowns are for ever or over.
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, NodeChange, NodeId, NodeState, Outcome, Pin, PoolName, ResolveRequest, SessionAsk,
    SessionKey, TouchRequest,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};

use support::RedisServer;

const HISTORIES: u64 = 60;
const STEPS: usize = 80;
const SESSIONS: u64 = 5;
const NODES: u64 = 5;
const KEEPING: Keeping = Keeping { ttl: Millis(3_600_000), ended: Millis(3_600_000), changes: 100_000 };
const FAR: u64 = 1 << 50;

/// A small generator with a seed, so that a failure can be repeated: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn nodes(&mut self, least: u64, most: u64) -> Vec<NodeId> {
        let count = least + self.below(most - least + 1);
        let mut all: Vec<u64> = (0..NODES).collect();
        (0..count).map(|_| node(all.swap_remove(self.below(all.len() as u64) as usize))).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Resolve(ResolveRequest),
    Touch(Vec<SessionKey>),
    Expire(SessionKey),
    End(SessionKey),
    Node(NodeId, NodeChange),
}

fn node(number: u64) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

fn key(number: u64) -> SessionKey {
    SessionKey::new("model", &number.to_le_bytes())
}

fn step(random: &mut Random, pool: &PoolName) -> Step {
    match random.below(20) {
        0 => Step::Expire(key(random.below(SESSIONS))),
        1 => Step::End(key(random.below(SESSIONS))),
        2..4 => Step::Touch((0..SESSIONS).filter(|_| random.below(2) == 0).map(key).collect()),
        4..8 => {
            let mut change = NodeChange::default();
            match random.below(4) {
                0 => change.state = Some(NodeState::ALL[random.below(4) as usize].1),
                1 => change.boot_id = Some(format!("boot-{}", random.below(3))),
                2 => change.weight = Some(1 + random.below(3) as u32),
                // Rarely for ever: nothing ends it again.
                _ => change.cooldown_until_ms = Some(if random.below(4) == 0 { FAR } else { 1 }),
            }
            Step::Node(node(random.below(NODES)), change)
        }
        _ => {
            let first = random.below(SESSIONS);
            let count = 1 + random.below(SESSIONS);
            let sessions = (0..count).map(|i| {
                SessionAsk::new(key((first + i) % SESSIONS), random.nodes(1, 3), random.nodes(0, 2))
            });
            Step::Resolve(ResolveRequest {
                pool: pool.clone(),
                region: None,
                sessions: sessions.collect(),
                panic: random.below(5) == 0,
                correlation_id: None,
            })
        }
    }
}

/// What each step of a history was answered, in words that can be compared.
async fn play(
    store: &dyn Store,
    pool: &PoolName,
    history: &[Step],
    expire: &dyn Fn(SessionKey),
) -> Vec<String> {
    let mut answers = Vec::new();
    let mut law = Law::default();
    for step in history {
        answers.push(match step {
            Step::Resolve(request) => {
                let pins = store.resolve(request).await.unwrap();
                law.resolved(request, &pins);
                format!("{pins:?}")
            }
            Step::Touch(keys) if keys.is_empty() => String::new(),
            Step::Touch(keys) => {
                let request = TouchRequest { pool: pool.clone(), keys: keys.clone() };
                let mut missing = store.touch(&request).await.unwrap().missing;
                missing.sort();
                law.touched(keys, &missing);
                format!("{missing:?}")
            }
            Step::Expire(key) => {
                expire(*key);
                law.pins.remove(key);
                String::new()
            }
            Step::End(key) => {
                let ended = store.end(pool, *key, None).await.unwrap();
                law.ended(*key, ended);
                ended.to_string()
            }
            Step::Node(node, change) => {
                let mut record = store.change_node(pool, *node, change).await.unwrap();
                record.updated_ms = 0;
                format!("{record:?}")
            }
        });
    }
    for number in 0..SESSIONS {
        let pin = store.session(pool, key(number)).await.unwrap();
        let pin = pin.map(|pin| (pin.node, pin.version, pin.owner.version));
        assert_eq!(pin.map(|(node, version, _)| (node, version)), law.pins.get(&key(number)).copied());
        answers.push(format!("{pin:?}"));
    }
    answers
}

/// What must hold whatever happens.
#[derive(Default)]
struct Law {
    pins: BTreeMap<SessionKey, (NodeId, u64)>,
    remembered: BTreeMap<SessionKey, u64>,
}

impl Law {
    fn resolved(&mut self, request: &ResolveRequest, pins: &[Pin]) {
        assert_eq!(pins.len(), request.sessions.len());
        for (ask, pin) in request.sessions.iter().zip(pins) {
            assert_eq!(pin.key, ask.key);
            let before = self.pins.get(&ask.key).copied();
            match (before, pin.outcome) {
                (None, Outcome::Claimed) => {
                    let next = self.remembered.remove(&ask.key).map_or(1, |version| version + 1);
                    assert_eq!(pin.version, next);
                    assert!(ask.candidates.contains(&pin.node));
                }
                (Some(before), Outcome::Found) => assert_eq!((pin.node, pin.version), before),
                (Some((node, version)), Outcome::Rehomed) => {
                    assert!(!request.panic, "a pin was rewritten in panic");
                    assert_eq!((pin.from, pin.version), (Some(node), version + 1));
                    assert!(pin.node != node && ask.candidates.contains(&pin.node));
                    assert!(!ask.unusable.contains(&pin.node));
                }
                other => panic!("{other:?} cannot be"),
            }
            assert!(!pin.restore || pin.outcome == Outcome::Found);
            self.pins.insert(ask.key, (pin.node, pin.version));
        }
    }

    fn touched(&self, keys: &[SessionKey], missing: &[SessionKey]) {
        for key in keys {
            assert_eq!(missing.contains(key), !self.pins.contains_key(key));
        }
    }

    fn ended(&mut self, key: SessionKey, ended: bool) {
        let before = self.pins.remove(&key);
        assert_eq!(ended, before.is_some());
        self.remembered.extend(before.map(|(_, version)| (key, version)));
    }
}

/// The log, without what differs by nature: cursors, times, and the order between sessions.
async fn log(store: &dyn Store, pool: &PoolName, start: &berth_core::wire::Cursor) -> Vec<String> {
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
            let state = event.record.map(|record| (record.state, record.boot_id, record.cooldown_until_ms));
            let about = (event.key, event.node, event.version);
            format!("{about:?} {:?} {:?} {:?} {state:?}", event.kind, event.from, event.reason)
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
    let redis = Redis::new(&options).unwrap();
    let raw = redis::Client::open(server.url()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let memory = Memory::new(KEEPING, Arc::new(move || Millis(now)));

    for seed in 0..HISTORIES {
        let pool: PoolName = format!("model-{seed}").parse().unwrap();
        let mut random = Random(seed);
        let history: Vec<Step> = (0..STEPS).map(|_| step(&mut random, &pool)).collect();
        let starts = (memory.head(&pool).await.unwrap(), redis.head(&pool).await.unwrap());

        let in_memory = play(&memory, &pool, &history, &|key| memory.expire(&pool, key)).await;
        let in_redis = play(&redis, &pool, &history, &|key| {
            // What expiry does, at the history's moment.
            let mut connection = raw.get_connection().unwrap();
            redis::cmd("DEL").arg(Redis::pin_key(&pool, key)).exec(&mut connection).unwrap();
        })
        .await;

        for (turn, (memory, redis)) in in_memory.iter().zip(&in_redis).enumerate() {
            assert_eq!(memory, redis, "seed {seed}, step {turn}: {:?}", history.get(turn));
        }
        assert_eq!(log(&memory, &pool, &starts.0).await, log(&redis, &pool, &starts.1).await, "seed {seed}");
    }
}
