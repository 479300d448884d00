//! A Redis Cluster that loses a primary: calls stay bounded, service returns by itself, and no pin is lost that a
//! replica had confirmed.
mod support;

use std::time::{Duration, Instant};

use berth_core::wire::{NodeId, Outcome, Pin, PoolName, ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store, StoreError};

use support::{RedisCluster, eventually_async};

const TIMEOUT: Duration = Duration::from_millis(500);

fn options(cluster: &RedisCluster) -> Options {
    Options {
        urls: cluster.urls(),
        cluster: true,
        quorum: true,
        tls: Tls::default(),
        timeout: TIMEOUT,
        keeping: Keeping::default(),
    }
}

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn node(number: usize) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

async fn resolve(store: &Redis, session: usize, candidate: usize) -> Result<Pin, StoreError> {
    let key = SessionKey::new("nodes", &session.to_le_bytes());
    let sessions = vec![SessionAsk { key, candidates: vec![node(candidate)], unusable: vec![] }];
    let request = ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions };
    Ok(store.resolve(&request).await?.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_confirmed_pin_is_lost_when_a_primary_dies() {
    let cluster = RedisCluster::start();
    let store = Redis::new(&options(&cluster)).unwrap();
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;

    // Claims go on while the primary of shard 3 dies.
    let victim = cluster.primary_of("{nodes/3}").unwrap();
    let mut confirmed = Vec::new();
    let mut failed = 0;
    let mut longest = Duration::ZERO;
    let mut killed = None;
    let mut session = 0;
    while killed.is_none_or(|killed: Instant| killed.elapsed() < Duration::from_secs(4)) {
        if session == 300 {
            cluster.servers[victim].kill();
            killed = Some(Instant::now());
        }
        let start = Instant::now();
        match resolve(&store, session, 1).await {
            Ok(pin) if pin.durable == Some(true) => confirmed.push(session),
            Ok(_) => {}
            Err(_) => {
                failed += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        longest = longest.max(start.elapsed());
        session += 1;
    }

    // Without asking for a replica's word, which the new primary does not have: each would wait for it.
    let store = Redis::new(&Options { quorum: false, ..options(&cluster) }).unwrap();
    eventually_async("the replica to take over", || async {
        let mut all = true;
        for session in 1_000_000..1_000_100 {
            all &= resolve(&store, session, 1).await.is_ok();
        }
        all
    })
    .await;

    // Another proxy would have placed them elsewhere: a lost pin shows as a claim.
    for session in &confirmed {
        let pin = resolve(&store, *session, 2).await.unwrap();
        assert_eq!(
            (pin.outcome, pin.node),
            (Outcome::Found, node(1)),
            "session {session} was confirmed and is lost"
        );
    }
    assert!(confirmed.len() > 200, "{} confirmed, {failed} failed of {session}", confirmed.len());
    assert!(longest < TIMEOUT + Duration::from_millis(500), "a call took {longest:?}");
    println!("{} confirmed, {failed} failed of {session}, longest {longest:?}", confirmed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed() {
    let cluster = RedisCluster::start();
    let store = Redis::new(&Options { timeout: Duration::from_secs(5), ..options(&cluster) }).unwrap();
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    for session in 0..100 {
        resolve(&store, session, 1).await.unwrap();
    }

    // A planned failover: the roles of a primary and its replica change, all is kept.
    let primary = cluster.primary_of("{nodes/3}").unwrap();
    cluster.failover(primary);
    assert_ne!(cluster.primary_of("{nodes/3}"), Some(primary));

    for session in 0..100 {
        let pin = resolve(&store, session, 2).await.unwrap();
        assert_eq!((pin.outcome, pin.node), (Outcome::Found, node(1)));
    }
}
