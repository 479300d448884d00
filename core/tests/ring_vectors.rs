//! Rings against answers that are not ours: Envoy's own tests give points, tables and lookups, and
//! `testdata/ring-v1.csv` keeps what this version answered when it was made.
//!
//! A ring does not show its points. It need not: an owner changes exactly where a point lies.
use std::{env, fmt::Write as _, fs, path::Path};

use berth_core::ring::{Algorithm, Member, Ring, RingSize, session_hash};

fn addresses(ports: impl IntoIterator<Item = u32>) -> Vec<Member> {
    ports.into_iter().map(|port| Member::new(format!("127.0.0.1:{port}"), 1)).collect()
}

fn hostnames(ports: impl IntoIterator<Item = u32>) -> Vec<Member> {
    ports.into_iter().map(|port| Member::new(port.to_string(), 1)).collect()
}

fn weighted(weights: &[(u32, u32)]) -> Vec<Member> {
    weights.iter().map(|(port, weight)| Member::new(format!("127.0.0.1:{port}"), *weight)).collect()
}

fn envoy(minimum: u64) -> Algorithm {
    Algorithm::RingHash(RingSize::Envoy { minimum, maximum: 8_388_608 })
}

/// The members at a ring's beginning for one hash, by the port that ends their keys.
fn ports(members: &[Member], ring: &Ring, hash: u64) -> Vec<u32> {
    let port = |index: usize| members[index].key.rsplit(':').next().unwrap().parse().unwrap();
    ring.candidates(hash).map(port).collect()
}

fn owner(members: &[Member], ring: &Ring, hash: u64) -> u32 {
    ports(members, ring, hash)[0]
}

/// Asserts that the ring has these points and no others.
fn assert_points(members: &[Member], algorithm: Algorithm, points: &[(u64, u32)]) {
    let ring = Ring::build(members, algorithm).unwrap();
    assert_eq!(ring.point_count(), points.len());

    let mut after_previous = 0;
    for (hash, port) in points {
        assert_eq!(owner(members, &ring, after_previous), *port, "just after the point before {hash}");
        assert_eq!(owner(members, &ring, *hash), *port, "at point {hash}");
        after_previous = hash + 1;
    }
    assert_eq!(owner(members, &ring, after_previous), points[0].1, "after the last point");
    assert_eq!(owner(members, &ring, u64::MAX), points[0].1, "at the end of the circle");
}

fn assert_table(members: &[Member], table_size: u32, slots: &[u32]) {
    let ring = Ring::build(members, Algorithm::Maglev { table_size }).unwrap();
    assert_eq!(ring.point_count(), table_size as usize);

    let owners: Vec<u32> = (0..table_size.into()).map(|slot| owner(members, &ring, slot)).collect();
    assert_eq!(owners, slots);
}

const SIX_BY_ADDRESS: [(u64, u32); 12] = [
    (833437586790550860, 94),
    (928266305478181108, 92),
    (1033482794131418490, 90),
    (3551244743356806947, 95),
    (3851675632748031481, 93),
    (5583722120771150861, 91),
    (6311230543546372928, 91),
    (7700377290971790572, 93),
    (13144177310400110813, 95),
    (13444792449719432967, 92),
    (15516499411664133160, 94),
    (16117243373044804889, 90),
];

#[test]
fn places_points_by_address_as_envoy() {
    assert_points(&addresses(90..96), envoy(12), &SIX_BY_ADDRESS);
}

#[test]
fn places_the_same_points_by_virtual_nodes() {
    let two_each = Algorithm::RingHash(RingSize::VirtualNodes(2));

    assert_points(&addresses(90..96), two_each, &SIX_BY_ADDRESS);
}

#[test]
fn looks_up_as_envoy() {
    let members = addresses(90..96);
    let ring = Ring::build(&members, envoy(12)).unwrap();

    let lookups = [
        (0, 94),
        (u64::MAX, 94),
        (3551244743356806947, 95),
        (3551244743356806948, 93),
        (16117243373044804880, 90),
    ];
    for (hash, port) in lookups {
        assert_eq!(owner(&members, &ring, hash), port, "hash {hash}");
    }
}

#[test]
fn offers_successors_in_the_order_of_envoys_retries() {
    let members = addresses(90..96);
    let ring = Ring::build(&members, envoy(12)).unwrap();

    // Envoy's first, second and third try are 94, 92 and 90; it would then try owners again, we do not.
    assert_eq!(ports(&members, &ring, 0), [94, 92, 90, 95, 93, 91]);
}

#[test]
fn places_points_by_hostname_as_envoy() {
    let points = [
        (1975508444536362413, 95),
        (2376063919839173711, 95),
        (2386806903309390596, 93),
        (6749904478991551885, 94),
        (6803900775736438537, 93),
        (7225015537174310577, 92),
        (8787465352164086522, 90),
        (11282020843382717940, 92),
        (13723418369486627818, 91),
        (13776502110861797421, 90),
        (14338313586354474791, 91),
        (15364271037087512980, 94),
    ];

    assert_points(&hostnames(90..96), envoy(12), &points);
}

#[test]
fn rounds_the_ring_up_to_equal_shares_as_envoy() {
    let two = [
        (5454692015285649509, 80),
        (7859399908942313493, 81),
        (13838424394637650569, 80),
        (16064866803292627174, 81),
    ];
    let after_a_change = [
        (7859399908942313493, 81),
        (8241336090459785962, 82),
        (12882406409176325258, 82),
        (16064866803292627174, 81),
    ];

    assert_points(&addresses([80, 81]), envoy(3), &two);
    assert_points(&addresses([81, 82]), envoy(3), &after_a_change);
}

#[test]
fn places_points_by_weight_as_envoy() {
    let members = weighted(&[(90, 1), (91, 2), (92, 3)]);
    let six = Algorithm::RingHash(RingSize::Envoy { minimum: 6, maximum: 6 });
    let points = [
        (928266305478181108, 92),
        (4443673547860492590, 92),
        (5583722120771150861, 91),
        (6311230543546372928, 91),
        (13444792449719432967, 92),
        (16117243373044804889, 90),
    ];

    assert_points(&members, six, &points);
    assert_points(&members, Algorithm::RingHash(RingSize::VirtualNodes(1)), &points);
}

#[test]
fn shares_by_weight_as_envoy() {
    let members = weighted(&[(90, 1), (91, 2), (92, 3)]);

    for algorithm in [envoy(6_144), Algorithm::RingHash(RingSize::VirtualNodes(1_024))] {
        let ring = Ring::build(&members, algorithm).unwrap();
        let mut hits = [0; 3];
        for i in 0..6_000 {
            hits[ring.candidates(i * (u64::MAX / 6_000)).next().unwrap()] += 1;
        }

        assert_eq!(ring.point_count(), 1_024 + 2_048 + 3_072);
        assert_eq!(hits, [987, 1_932, 3_081]);
    }
}

#[test]
fn leaves_members_out_of_a_tiny_ring_as_envoy() {
    let members = addresses(90..94);
    let two = Algorithm::RingHash(RingSize::Envoy { minimum: 2, maximum: 2 });
    let ring = Ring::build(&members, two).unwrap();

    assert_eq!((ring.len(), ring.point_count()), (2, 2));
    for i in 0..1_000 {
        assert_eq!(ring.candidates(i * (u64::MAX / 1_000)).count(), 2);
    }
}

#[test]
fn fills_maglev_tables_as_envoy() {
    assert_table(&addresses(90..96), 7, &[92, 94, 90, 91, 95, 90, 93]);
    assert_table(&hostnames(90..96), 7, &[92, 95, 90, 93, 94, 91, 90]);

    let by_weight = [90, 91].map(|port| (port, port - 89));
    let slots = [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1].map(|heavy| 90 + heavy);
    assert_table(&weighted(&by_weight), 17, &slots);
}

#[test]
fn fills_the_same_maglev_table_whatever_the_order_of_members() {
    assert_table(&addresses((90..96).rev()), 7, &[92, 94, 90, 91, 95, 90, 93]);
}

#[test]
fn offers_maglev_successors_in_the_order_of_envoys_retries() {
    let members = addresses(90..96);
    let ring = Ring::build(&members, Algorithm::Maglev { table_size: 7 }).unwrap();

    assert_eq!(ports(&members, &ring, 10)[..3], [91, 90, 95]);
}

#[test]
fn gives_light_maglev_members_one_slot_each_beside_a_heavy_one_as_envoy() {
    // Envoy's test has localities of weight 127 and 1, the first with one host, the second with 1,023.
    let weights: Vec<(u32, u32)> = (0..1_024).map(|i| (i, if i == 0 { 127 * 1_023 } else { 1 })).collect();
    let members = weighted(&weights);
    let ring = Ring::build(&members, Algorithm::Maglev { table_size: 65_537 }).unwrap();

    let mut slots = vec![0; members.len()];
    for slot in 0..65_537 {
        slots[ring.candidates(slot).next().unwrap()] += 1;
    }

    assert_eq!(slots[0], 65_537 - 1_023);
    assert!(slots[1..].iter().all(|count| *count == 1));
}

#[test]
fn hashes_sessions_as_envoy() {
    // The reference values of XXH64; the first is also what Envoy makes of an empty header.
    assert_eq!(session_hash(b""), 17241709254077376921);
    assert_eq!(session_hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
    assert_eq!(session_hash(b"abc"), 0x44bc_2cf5_ad77_0999);
}

#[test]
fn answers_what_version_1_answered() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ring-v1.csv");
    let now = ring_v1();
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let then = fs::read_to_string(&path).unwrap();

    for (line, (then, now)) in then.lines().zip(now.lines()).enumerate() {
        assert_eq!(now, then, "line {} of ring-v1.csv", line + 1);
    }
    assert_eq!(now.lines().count(), then.lines().count());
}

/// The whole of `ring-v1.csv` as this build answers it. Its README explains the columns.
fn ring_v1() -> String {
    let algorithms = [
        ("ring-hash/512", Algorithm::default()),
        ("ring-hash/100", Algorithm::RingHash(RingSize::VirtualNodes(100))),
        ("ring-hash/1024..8388608", Algorithm::RingHash(RingSize::ENVOY_DEFAULT)),
        ("ring-hash/1000..1001", Algorithm::RingHash(RingSize::Envoy { minimum: 1_000, maximum: 1_001 })),
        ("maglev/65537", Algorithm::Maglev { table_size: 65_537 }),
        ("maglev/251", Algorithm::Maglev { table_size: 251 }),
        ("rendezvous", Algorithm::Rendezvous),
    ];
    let equal = |count: u32| (0..count).map(|i| (format!("10.0.{}.{}:8080", i / 256, i % 256), 1)).collect();
    let member_sets: [(&str, Vec<(String, u32)>); 6] = [
        ("1", equal(1)),
        ("3", equal(3)),
        ("10", equal(10)),
        ("100", equal(100)),
        ("weights", [3, 1, 4, 5, 9, 2, 6].map(|w| (format!("192.168.0.{w}:80{w}"), w)).to_vec()),
        ("ipv6", [7, 5, 5].iter().zip(1..).map(|(w, i)| (format!("[2001:db8::{i}]:443"), *w)).collect()),
    ];

    let mut text = String::from("algorithm,members,key,owner,successor_1,successor_2\n");
    for (algorithm_name, algorithm) in algorithms {
        for (set_name, set) in &member_sets {
            let members: Vec<Member> =
                set.iter().map(|(key, weight)| Member::new(key.clone(), *weight)).collect();
            let ring = Ring::build(&members, algorithm).unwrap();
            for i in 0..48 {
                let key = format!("session-{i}");
                let mut candidates = ring.candidates(session_hash(key.as_bytes()));
                let mut next = || candidates.next().map_or("", |index| &members[index].key);
                let (owner, first, second) = (next(), next(), next());
                writeln!(text, "{algorithm_name},{set_name},{key},{owner},{first},{second}").unwrap();
            }
        }
    }
    text
}
