//! What several services answered of the same sessions while primaries of a Redis Cluster died one after the other: no version has two
//! owners, and nothing that a replica confirmed is taken back. `BERTH_FAILOVERS=10` for more of them.
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_core::time::Millis;
use berth_core::wire::{KnownPin, NodeId, PoolName, ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store};

use support::{RedisCluster, eventually};

const SESSIONS: u64 = 64;
const NODES: u64 = 5;
/// Of each of two services.
const CLIENTS: u64 = 6;

/// One call that was answered. What failed may have been done or not, and asserts nothing.
#[derive(Debug, Clone)]
struct Answered {
    began: Instant,
    ended: Instant,
    said: Said,
    durable: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Said {
    /// Its owner, and the version.
    Owner(String, u64),
    /// It is over.
    Ended,
}

/// What is wrong with the history of one session.
fn faults(history: &[Answered]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
    for answered in history {
        let Said::Owner(node, version) = &answered.said else { continue };
        let first = owners.entry(*version).or_insert(node);
        if first != node {
            faults.push(format!("version {version} is of {first} and of {node}"));
        }
    }
    let mut by_begin: Vec<&Answered> = history.iter().collect();
    by_begin.sort_by_key(|answered| answered.began);
    let mut by_end: Vec<&Answered> = history.iter().filter(|answered| answered.durable).collect();
    by_end.sort_by_key(|answered| answered.ended);
    // What was confirmed before a call began: the newest version, and the newest that an end was later than.
    let (mut confirmed, mut over, mut next) = (0, 0, 0);
    for answered in by_begin {
        while let Some(before) = by_end.get(next).filter(|before| before.ended < answered.began) {
            match &before.said {
                Said::Owner(_, version) => confirmed = confirmed.max(*version),
                Said::Ended => {
                    let earlier = history.iter().filter(|earlier| earlier.ended < before.began);
                    let versions = earlier.filter_map(|earlier| match earlier.said {
                        Said::Owner(_, version) => Some(version),
                        Said::Ended => None,
                    });
                    over = over.max(versions.max().unwrap_or(0));
                }
            }
            next += 1;
        }
        match &answered.said {
            Said::Owner(node, version) if *version < confirmed => {
                faults.push(format!("{node} at version {version}, after {confirmed} was confirmed"));
            }
            Said::Owner(node, version) if *version <= over => {
                faults.push(format!("{node} at version {version}, after an end of it was confirmed"));
            }
            Said::Owner(..) | Said::Ended => {}
        }
    }
    faults
}

#[test]
fn the_check_sees_what_is_wrong() {
    let start = Instant::now();
    let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
    let call =
        |began, ended, said: Said, durable| Answered { began: at(began), ended: at(ended), said, durable };
    let owner = |node: &str, version| Said::Owner(node.to_owned(), version);

    let good = [
        call(0, 1, owner("a", 3), true),
        call(0, 4, owner("a", 3), false),
        call(2, 3, owner("b", 5), true),
        call(4, 5, Said::Ended, true),
        call(4, 7, owner("b", 5), true),
        call(6, 7, owner("a", 9), false),
        call(8, 9, owner("c", 8), true),
    ];
    assert_eq!(faults(&good), Vec::<String>::new());

    let two_owners = [call(0, 1, owner("a", 3), false), call(0, 1, owner("b", 3), false)];
    let taken_back = [call(0, 1, owner("a", 3), true), call(2, 3, owner("b", 2), false)];
    let revived =
        [call(0, 1, owner("a", 3), true), call(2, 3, Said::Ended, true), call(4, 5, owner("a", 3), true)];
    for bad in [&two_owners[..], &taken_back, &revived] {
        assert_eq!(faults(bad).len(), 1, "{bad:?}");
    }
}

/// Small numbers without a pattern (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn node(number: u64) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

fn store(cluster: &RedisCluster) -> Arc<Redis> {
    let (urls, keeping, timeout) = (cluster.urls(), Keeping::default(), Duration::from_millis(500));
    let options = Options { urls, cluster: true, quorum: true, tls: Tls::default(), timeout, keeping };
    Arc::new(Redis::open(&options).unwrap())
}

/// Claims, finds, moves and ends sessions, as a proxy that remembers what it was answered last, or not.
async fn client(store: Arc<Redis>, number: u64, stop: Arc<AtomicBool>) -> Vec<(u64, Answered)> {
    let (mut random, mut answers) = (Random(number), Vec::new());
    let mut known: BTreeMap<u64, KnownPin> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let session = random.below(SESSIONS);
        let key = SessionKey::new("nodes", &session.to_le_bytes());
        let began = Instant::now();
        let answer = if random.below(20) == 0 {
            known.remove(&session);
            let ended = store.end(&pool(), key, Millis(0), None).await.ok();
            ended.filter(|ended| ended.outcome).map(|ended| (Said::Ended, ended.durable))
        } else {
            let first = random.below(NODES);
            let unusable = (random.below(4) == 0).then(|| node(random.below(NODES)));
            let mut ask = SessionAsk::new(
                key,
                vec![node(first), node((first + 1) % NODES)],
                unusable.into_iter().collect(),
            );
            ask.known = known.get(&session).filter(|_| number.is_multiple_of(2)).cloned();
            let sessions = vec![ask];
            let request =
                ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions };
            let pin = store.resolve(&request).await.ok().and_then(|pins| pins.into_iter().next());
            pin.map(|pin| {
                known.insert(session, KnownPin { version: pin.version, node: pin.node.clone() });
                (Said::Owner(pin.node.to_string(), pin.version), pin.durable)
            })
        };
        match answer {
            Some((said, durable)) => {
                let durable = durable == Some(true);
                answers.push((session, Answered { began, ended: Instant::now(), said, durable }));
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_confirmed_change_is_taken_back_and_no_version_has_two_owners() {
    let failovers = std::env::var("BERTH_FAILOVERS").map_or(2, |count| count.parse().unwrap());
    let cluster = Arc::new(RedisCluster::start());
    let stop = Arc::new(AtomicBool::new(false));
    let stores = [store(&cluster), store(&cluster)];
    for store in &stores {
        support::eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    }
    let clients: Vec<_> = (0..CLIENTS * 2)
        .map(|number| {
            let store = Arc::clone(&stores[usize::from(number >= CLIENTS)]);
            tokio::spawn(client(store, number, Arc::clone(&stop)))
        })
        .collect();

    let deaths = tokio::task::spawn_blocking({
        let cluster = Arc::clone(&cluster);
        move || {
            for turn in 0..failovers {
                std::thread::sleep(Duration::from_secs(1));
                let before = cluster.primaries();
                let killed = before[turn % 3];
                let replica = cluster.replica_of(killed);
                if turn % 2 == 1 {
                    // What it takes from here on is lost with it, also what is under way to its replica.
                    cluster.servers[replica].pause();
                    cluster.servers[killed].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
                    std::thread::sleep(Duration::from_millis(300));
                }
                cluster.servers[killed].kill();
                cluster.servers[replica].resume();
                let has_next = || cluster.primaries().len() == 3 && !cluster.primaries().contains(&killed);
                eventually("the failover", has_next);
                std::thread::sleep(Duration::from_millis(500));
                // Empty, and a replica from now on.
                cluster.servers[killed].restart();
                eventually("the cluster to be whole", || cluster.is_whole());
                assert_ne!(before, cluster.primaries());
            }
        }
    });
    let deaths = deaths.await;
    stop.store(true, Ordering::Relaxed);
    deaths.unwrap();
    let mut histories: BTreeMap<u64, Vec<Answered>> = BTreeMap::new();
    for client in clients {
        for (session, answered) in client.await.unwrap() {
            histories.entry(session).or_default().push(answered);
        }
    }

    let all = histories.values().flatten();
    let (confirmed, unconfirmed): (Vec<_>, Vec<_>) = all.partition(|answered| answered.durable);
    let owners = confirmed.iter().filter_map(|answered| match &answered.said {
        Said::Owner(_, version) => Some(*version),
        Said::Ended => None,
    });
    let versions = owners.collect::<std::collections::BTreeSet<_>>().len();
    println!(
        "{failovers} failovers: {} answers confirmed, {} not; {versions} versions",
        confirmed.len(),
        unconfirmed.len()
    );
    assert!(confirmed.len() > 1_000 && versions > 200, "{} {versions}", confirmed.len());
    for (session, history) in &histories {
        let faults = faults(history);
        assert!(
            faults.is_empty(),
            "session {session}: {} faults, {:?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
    }
}
