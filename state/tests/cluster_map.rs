//! Which server has which slot, as the service learns it from servers that know less than others.
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_core::wire::{Outcome, ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store as _, StoreError};

use support::{RedisCluster, RedisServer, eventually, eventually_async};

fn open(urls: Vec<String>) -> Redis {
    Redis::open(&Options {
        urls,
        cluster: true,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_secs(3),
        keeping: Keeping::default(),
    })
    .unwrap()
}

/// Claims sessions that no other call has: one in each shard, or nearly.
async fn claim(store: &Redis) -> Result<(), StoreError> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let session = || {
        let key = SessionKey::new("nodes", &NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        SessionAsk::new(key, vec!["10.0.0.1:80".parse().unwrap()], vec![])
    };
    let (pool, sessions) = ("nodes".parse().unwrap(), (0..32).map(|_| session()).collect::<Vec<_>>());
    let request = ResolveRequest { pool, region: None, panic: false, correlation_id: None, sessions };
    match store.resolve(&request).await?.len() {
        32 => Ok(()),
        there => Err(StoreError::Unreachable(format!("{there} of 32 sessions"))),
    }
}

/// It knows no slots, as after `CLUSTER RESET`.
fn fresh() -> RedisServer {
    RedisServer::start(&["--cluster-enabled", "yes"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_slots_empties_no_map() {
    let cluster = RedisCluster::start();
    let fresh = fresh();
    let primary = &cluster.servers[cluster.primaries()[0]];
    // The one without slots answers first.
    primary.pause();
    let store = open(vec![fresh.url(), primary.url()]);

    let first = claim(&store);
    let resume = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        primary.resume();
    };
    let (first, ()) = tokio::join!(first, resume);

    first.unwrap();
    for place in [1, 2] {
        // Each has the map looked at again.
        cluster.failover(cluster.primaries()[place]);
        for _ in 0..50 {
            claim(&store).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_took_over_are_found_when_all_former_primaries_are_gone() {
    let cluster = RedisCluster::start();
    let primaries = cluster.primaries();
    // Servers name replicas that have got something.
    let first = open(cluster.urls());
    let are_named = |place: &usize| {
        let said = cluster.servers[*place].cli(&["CLUSTER", "SLOTS"]);
        cluster.servers.iter().all(|server| said.contains(&server.port.to_string()))
    };
    eventually_async("replicas", || async { claim(&first).await.is_ok() && primaries.iter().all(are_named) })
        .await;
    // No URL names one.
    let store = open(primaries.iter().map(|place| cluster.servers[*place].url()).collect());
    eventually_async("the cluster", || async { claim(&store).await.is_ok() }).await;

    primaries.iter().for_each(|place| cluster.servers[*place].kill());
    let replicas = || cluster.servers.iter().filter(|server| server.runs());
    // No server is left to vote.
    for replica in replicas() {
        assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]).trim(), "OK");
    }
    let are_primaries = || replicas().all(|server| server.cli(&["CLUSTER", "INFO"]).contains("state:ok"));
    eventually("the new primaries", are_primaries);

    eventually_async("all shards", || async { claim(&store).await.is_ok() }).await;
}

/// Redis refuses a script whose keys are on two servers. That is short, and takes nothing: no session begins again at either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_with_its_keys_loses_no_session() {
    let cluster = RedisCluster::start();
    let store = open(cluster.urls());
    eventually_async("the cluster", || async { claim(&store).await.is_ok() }).await;
    let keys: Vec<SessionKey> = (0u32..)
        .map(|i| SessionKey::new("nodes", &i.to_be_bytes()))
        .filter(|key| key.as_bytes()[0] >> 4 == 3)
        .take(20)
        .collect();
    let resolve = async |key: SessionKey, node: &str| {
        let sessions = vec![SessionAsk::new(key, vec![node.parse().unwrap()], vec![])];
        let pool = "nodes".parse().unwrap();
        let request = ResolveRequest { pool, region: None, panic: false, correlation_id: None, sessions };
        store.resolve(&request).await.map(|pins| pins[0].outcome)
    };
    for key in &keys {
        assert_eq!(resolve(*key, "10.0.0.1:80").await.unwrap(), Outcome::Claimed);
    }
    let from = cluster.primary_of("{nodes/3}").unwrap();
    let to = *cluster.primaries().iter().find(|place| **place != from).unwrap();
    let (from, to) = (&cluster.servers[from], &cluster.servers[to]);
    let slot = from.cli(&["CLUSTER", "KEYSLOT", "{nodes/3}"]).trim().to_owned();
    let [from_id, to_id] = [from, to].map(|server| server.cli(&["CLUSTER", "MYID"]).trim().to_owned());
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let in_slot = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
    let in_slot: Vec<&str> = in_slot.lines().filter(|line| !line.is_empty()).collect();

    for (count, key) in in_slot.iter().enumerate() {
        let moved = from.cli(&["MIGRATE", "127.0.0.1", &to.port.to_string(), key, "0", "5000"]);
        assert!(moved.starts_with("OK") || moved.starts_with("NOKEY"), "{moved}");
        if count % 5 == 0 {
            let key = keys[count % keys.len()];
            match resolve(key, "10.0.0.2:80").await {
                Ok(outcome) => assert_eq!(outcome, Outcome::Found),
                Err(error) => assert!(matches!(error, StoreError::Unreachable(_)), "{error}"),
            }
        }
    }
    for server in [to, from] {
        assert_eq!(server.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).trim(), "OK");
    }

    for key in &keys {
        assert_eq!(resolve(*key, "10.0.0.2:80").await.unwrap(), Outcome::Found);
    }
}

/// One that was cut off before others took over its slots, and still believes that it has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_view_of_the_cluster_does_not_win() {
    let cluster = RedisCluster::start();
    let old = fresh();
    assert_eq!(old.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).trim(), "OK");
    eventually("its view", || old.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    old.pause();
    let store = open([vec![old.url()], cluster.urls()].concat());
    eventually_async("the cluster", || async { claim(&store).await.is_ok() }).await;
    old.resume();
    eventually("it answers", || old.cli(&["PING"]).trim() == "PONG");

    // While a primary is gone the map is looked at again and again, and those that know better may be late.
    for place in 0..2 {
        cluster.kill_primary(place);
        eventually_async("all shards", || async { claim(&store).await.is_ok() }).await;
    }

    assert_eq!(old.cli(&["DBSIZE"]).trim(), "0");
}
