//! What a pin costs to find and to keep, beside crate `lru` in the same run.
//!
//! Sessions are asked for in random order, so that beyond a processor's caches each is a trip to memory. The peer holds
//! a pin of the same content behind the same 128-bit key, hashed by its default hasher; it has no second index, so it
//! cannot be asked by the key on the wire, and nothing of the node. Ids are hashed before the clock starts, but for the
//! rows `by id`. Before the rows come the longest single inserts while a cache fills, which is where an index doubles.
#![allow(clippy::disallowed_types, clippy::disallowed_macros, reason = "a bench reads the clock and prints")]

use std::{
    hint::black_box,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use berth_core::pins::{Kind, Limits, Lookup, Pin, PinKey, Pins, WireKey};
use berth_core::time::Millis;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lru::LruCache;

const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
/// A power of two, so that taking turns is one mask; so many that no order is learnt.
const TURNS: usize = 1 << 20;
const NODES: usize = 100;
const NOW: Millis = Millis(1_700_000_000_000);
const LATER: Millis = Millis(1_700_000_060_000);

type PeersPin = (u64, WireKey, u64, u16);

fn limits(entries: usize) -> Limits {
    Limits { entries, bytes: usize::MAX, ..Limits::default() }
}

fn id(session: usize) -> String {
    format!("session-{session:016x}")
}

fn keys(sessions: usize) -> Vec<(PinKey, WireKey)> {
    let wire = |session: usize| WireKey(PinKey::of(2, id(session).as_bytes()).0.to_le_bytes());
    (0..sessions).map(|session| (PinKey::of(1, id(session).as_bytes()), wire(session))).collect()
}

/// Random sessions; the same ones in each run.
fn turns(sessions: usize) -> Vec<u32> {
    let draw = |turn: usize| PinKey::of(3, &turn.to_le_bytes()).0 as usize % sessions;
    (0..TURNS).map(|turn| draw(turn) as u32).collect()
}

fn names() -> Vec<String> {
    (0..NODES).map(|node| format!("10.0.0.{node}:8080")).collect()
}

fn pin(names: &[String], session: usize) -> Pin<&str> {
    Pin {
        node: &names[session % NODES],
        version: 1,
        expires: LATER,
        is_doubted: false,
        kind: Kind::Settled,
        session_version: 0,
    }
}

fn filled(capacity: usize, keys: &[(PinKey, WireKey)]) -> Pins {
    let names = names();
    let mut pins = Pins::new(limits(capacity), 1);
    pins.adopt(names.iter().map(String::as_str));
    for (session, (key, wire)) in keys.iter().enumerate() {
        pins.insert(*key, *wire, pin(&names, session));
    }
    pins
}

fn peer(capacity: usize, keys: &[(PinKey, WireKey)]) -> LruCache<u128, PeersPin> {
    let mut peer = LruCache::unbounded();
    peer.resize(NonZeroUsize::new(capacity).unwrap());
    for (session, (key, wire)) in keys.iter().enumerate() {
        peer.put(key.0, (1, *wire, LATER.0, (session % NODES) as u16));
    }
    peer
}

fn hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(900));
    for size in SIZES {
        let (keys, turns) = (keys(size), turns(size));
        let mut turn = 0;
        let mut next = move || {
            turn = (turn + 1) & (TURNS - 1);
            turns[turn] as usize
        };
        // Keys in the order of their turns' sessions would be another trip to memory; requests bring theirs along.
        let order: Vec<(PinKey, WireKey)> = (0..TURNS).map(|_| keys[next()]).collect();
        let mut turn = 0;
        let mut next = || {
            turn = (turn + 1) & (TURNS - 1);
            black_box(order[turn])
        };

        let mut pins = filled(size, &keys);
        group.bench_function(BenchmarkId::new("berth", size), |bencher| {
            bencher.iter(|| match pins.get(next().0, NOW) {
                Lookup::Fresh(pin) => pins.member(pin.node),
                Lookup::Stale(_) | Lookup::Absent => unreachable!(),
            });
        });
        group.bench_function(BenchmarkId::new("berth by wire", size), |bencher| {
            bencher.iter(|| pins.outdate(next().1, 0, 0));
        });
        group.bench_function(BenchmarkId::new("berth miss", size), |bencher| {
            bencher.iter(|| pins.get(PinKey(!next().0.0), NOW));
        });
        if size == SIZES[1] {
            let ids: Vec<String> = (0..1 << 12).map(id).collect();
            let mut turn = 0;
            group.bench_function(BenchmarkId::new("berth by id", size), |bencher| {
                bencher.iter(|| {
                    turn = (turn + 1) & (ids.len() - 1);
                    pins.get(pins.key(black_box(ids[turn].as_bytes())), NOW)
                });
            });
        }
        drop(pins);
        let mut peer = peer(size, &keys);
        group.bench_function(BenchmarkId::new("lru", size), |bencher| {
            bencher.iter(|| peer.get(&next().0.0).map(|pin| (pin.3, NOW.0 < pin.2)));
        });
    }
    group.finish();
}

fn evict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert, evicting");
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(900));
    for size in SIZES {
        // Each round starts without pins of the last one.
        let (keys, names) = (keys(2 * size), names());
        let mut turn = 0;
        let mut next = || {
            turn = if turn + 1 == keys.len() { 0 } else { turn + 1 };
            (turn, black_box(keys[turn]))
        };
        let mut pins = filled(size, &keys[..size]);
        group.bench_function(BenchmarkId::new("berth", size), |bencher| {
            bencher.iter(|| {
                let (session, (key, wire)) = next();
                pins.insert(key, wire, pin(&names, session))
            });
        });
        drop(pins);
        let mut peer = peer(size, &keys[..size]);
        group.bench_function(BenchmarkId::new("lru", size), |bencher| {
            bencher.iter(|| {
                let (session, (key, wire)) = next();
                peer.push(key.0, (1, wire, LATER.0, (session % NODES) as u16))
            });
        });
    }
    group.finish();
}

/// The longest single insert on the way from empty to full. Each insert counts with its quickest of ten runs: the
/// machine interrupts too, but hardly ten times at the same one.
fn pauses(_: &mut Criterion) {
    for size in SIZES {
        let (keys, names) = (keys(size), names());
        let mut quickest = [vec![Duration::MAX; size], vec![Duration::MAX; size]];
        for _ in 0..10 {
            let mut pins = Pins::new(limits(size), 1);
            time_each(&mut quickest[0], |session| {
                pins.insert(keys[session].0, keys[session].1, pin(&names, session));
            });
            drop(pins);
            let mut peer = LruCache::unbounded();
            time_each(&mut quickest[1], |session| {
                peer.put(keys[session].0.0, (1_u64, keys[session].1, LATER.0, 1_u16));
            });
        }
        let [berth, lru] = quickest.map(|times| times.into_iter().max().unwrap_or_default());
        let each = filled(size, &keys).memory_bytes() / size;
        println!(
            "growing to {size}: longest insert berth {berth:?}, lru {lru:?}; berth takes {each} bytes a pin"
        );
    }
}

fn time_each(quickest: &mut [Duration], mut insert: impl FnMut(usize)) {
    for (session, quickest) in quickest.iter_mut().enumerate() {
        let start = Instant::now();
        insert(session);
        *quickest = start.elapsed().min(*quickest);
    }
}

criterion_group!(benches, pauses, hit, evict);
criterion_main!(benches);
