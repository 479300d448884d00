//! What a ring costs to build and to ask, beside two other Rust crates in the same run.
//!
//! Peers get about as many points: pingora-ketama makes 160 a unit of weight, so weight 3 gives 480 to our 512;
//! hashring hashes each (node, number) once, 512 a node. They hash differently (CRC32, SipHash), and pingora's points
//! have 32 bits. Lookups `by key` include hashing the key, as the peers' only way does; `by hash` is the ring alone.
//! Keys are made before the clock starts, and there are enough of them that no branch or cache line is learnt.
use std::{hint::black_box, net::SocketAddr, time::Duration};

use berth_core::ring::{Algorithm, DEFAULT_TABLE_SIZE, DEFAULT_VIRTUAL_NODES, Member, Ring, session_hash};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use hashring::HashRing;
use pingora_ketama::{Bucket, Continuum};

const SIZES: [u32; 3] = [10, 100, 1_000];
/// A power of two, so that taking turns is one mask.
const KEYS: usize = 1 << 16;
const PINGORA_WEIGHT: u32 = 3;

fn addresses(count: u32) -> Vec<SocketAddr> {
    (0..count).map(|i| format!("10.0.{}.{}:8080", i / 250, i % 250).parse().unwrap()).collect()
}

fn members(count: u32) -> Vec<Member> {
    addresses(count).iter().map(|address| Member::new(address.to_string(), 1)).collect()
}

fn buckets(count: u32) -> Vec<Bucket> {
    addresses(count).into_iter().map(|address| Bucket::new(address, PINGORA_WEIGHT)).collect()
}

fn virtual_nodes(count: u32) -> Vec<(u32, u32)> {
    (0..count).flat_map(|node| (0..DEFAULT_VIRTUAL_NODES).map(move |number| (node, number))).collect()
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|i| format!("session-{:016x}", session_hash(&i.to_le_bytes()))).collect()
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for count in SIZES {
        let members = members(count);
        let maglev = Algorithm::Maglev { table_size: DEFAULT_TABLE_SIZE };
        group.bench_function(BenchmarkId::new("berth", count), |bencher| {
            bencher.iter(|| Ring::build(black_box(&members), Algorithm::default()).unwrap());
        });
        group.bench_function(BenchmarkId::new("berth maglev", count), |bencher| {
            bencher.iter(|| Ring::build(black_box(&members), maglev).unwrap());
        });

        let buckets = buckets(count);
        group.bench_function(BenchmarkId::new("pingora-ketama", count), |bencher| {
            bencher.iter(|| Continuum::new(black_box(&buckets)));
        });

        let virtual_nodes = virtual_nodes(count);
        group.bench_function(BenchmarkId::new("hashring", count), |bencher| {
            bencher.iter(|| {
                let mut ring = HashRing::new();
                ring.batch_add(black_box(&virtual_nodes).clone());
                ring
            });
        });
    }
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let keys = keys();
    let hashes: Vec<u64> = keys.iter().map(|key| session_hash(key.as_bytes())).collect();
    let mut group = criterion.benchmark_group("lookup");
    group
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(900));
    for count in SIZES {
        let algorithms = [
            ("berth", Algorithm::default()),
            ("berth maglev", Algorithm::Maglev { table_size: DEFAULT_TABLE_SIZE }),
            ("berth rendezvous", Algorithm::Rendezvous),
        ];
        for (name, algorithm) in algorithms {
            let ring = Ring::build(&members(count), algorithm).unwrap();
            ask(&mut group, &format!("{name} by hash, first"), count, &hashes, |hash| {
                ring.candidates(*hash).next()
            });
            ask(&mut group, &format!("{name} by hash, first 3"), count, &hashes, |hash| {
                let mut candidates = ring.candidates(*hash);
                [candidates.next(), candidates.next(), candidates.next()]
            });
        }

        let ring = Ring::build(&members(count), Algorithm::default()).unwrap();
        ask(&mut group, "berth by key, first", count, &keys, |key| {
            ring.candidates(session_hash(key.as_bytes())).next()
        });
        let pingora = Continuum::new(&buckets(count));
        ask(&mut group, "pingora-ketama by key, first", count, &keys, |key| pingora.node(key.as_bytes()));
        let mut peer = HashRing::new();
        peer.batch_add(virtual_nodes(count));
        ask(&mut group, "hashring by key, first", count, &keys, |key| peer.get(key).copied());
    }
    group.finish();
}

/// Measures one lookup, each time with the next of the prepared inputs.
fn ask<Input, Answer>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    count: u32,
    inputs: &[Input],
    look_up: impl Fn(&Input) -> Answer,
) {
    let mut turn = 0;
    group.bench_function(BenchmarkId::new(name, count), |bencher| {
        bencher.iter(|| {
            turn = (turn + 1) & (KEYS - 1);
            look_up(black_box(&inputs[turn]))
        });
    });
}

criterion_group!(benches, build, lookup);
criterion_main!(benches);
