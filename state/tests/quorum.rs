//! `--durability quorum`: each acknowledged change says whether a replica has it, and the service says where none does.
#[path = "support/http.rs"]
mod http;
mod support;

use std::time::{Duration, Instant};

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeId, NodeState, PoolName, ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store};
use futures_util::future::join_all;
use serde_json::json;

use http::{Reply, Service};
use support::{RedisCluster, RedisServer, eventually, eventually_async};

const A: &str = "10.0.0.1:80";

fn with_quorum(server: &RedisServer, timeout: Duration) -> Service {
    let (urls, keeping) = (vec![server.url()], Keeping::default());
    Service::on_redis(Options { urls, cluster: false, quorum: true, tls: Tls::default(), timeout, keeping })
}

fn with_replica() -> (RedisServer, RedisServer) {
    let server = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    eventually("the replica", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    (server, replica)
}

fn resolve(service: &Service, id: &str) -> Reply {
    let session = json!({"key": SessionKey::new("nodes", id.as_bytes()), "candidates": [A], "unusable": []});
    service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string())
}

fn shows(service: &Service, line: &str) -> bool {
    service.ask("GET", "/metrics", "").body.lines().any(|shown| shown == line)
}

#[test]
fn quorum_says_whether_a_replica_has_it() {
    let (server, replica) = with_replica();
    let service = with_quorum(&server, Duration::from_secs(2));

    eventually("a confirmation", || resolve(&service, "alice").json()["pins"][0]["durable"] == json!(true));
    assert_eq!(resolve(&service, "bob").json()["pins"][0]["durable"], true);

    // So does the answer to each other change.
    let change = || {
        let draining = service.ask("PUT", &format!("/v1/nodes/{A}?pool=nodes"), r#"{"state":"draining"}"#);
        let again = service.ask("PUT", &format!("/v1/nodes/{A}?pool=nodes"), r#"{"state":"draining"}"#);
        let forgotten = service.ask("DELETE", &format!("/v1/nodes/{A}?pool=nodes"), "");
        [draining, again, forgotten].map(|reply| reply.json()["durable"].clone())
    };
    let end = |id: &str| {
        let key = SessionKey::new("nodes", id.as_bytes());
        service.ask("DELETE", &format!("/v1/sessions/{key}?pool=nodes"), "")
    };
    // What has no pin is over all the same, and that is a change too.
    let ends = |id: &str| {
        let (ended, again) = (end(id).json(), end(id).json());
        [ended["durable"].clone(), again["error"]["durable"].clone()]
    };
    let ready = |query: &str| service.ask("GET", &format!("/readyz{query}"), "");
    assert_eq!(change(), [true, true, true]);
    assert_eq!(ends("alice"), [true, true]);
    eventually("the shards' quorum", || ready("?require=all").status == 200);
    assert!(shows(&service, "berth_state_shard_durable{shard=\"0\"} 1"));

    replica.kill();
    let start = Instant::now();
    assert_eq!(resolve(&service, "carol").json()["pins"][0]["durable"], false);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(change(), [false, false, false]);
    assert_eq!(ends("bob"), [false, false]);
    let said = ready("").body;
    assert!(said.starts_with("ready\n16 of 16 shards take writes\nquorum is not held in 0 1 2 3 "), "{said}");
    assert_eq!(ready("?require=all").status, 503);
    assert!(shows(&service, "berth_state_shard_durable{shard=\"0\"} 0"));
}

/// Without a request, and whatever keeps a replica from confirming.
#[test]
fn who_may_not_wait_for_replicas_is_said_at_once() {
    let (server, _replica) = with_replica();
    server.cli(&["ACL", "SETUSER", "default", "-wait"]);
    let service = with_quorum(&server, Duration::from_secs(2));

    eventually("the refusal", || service.ask("GET", "/readyz", "").body.contains("NOPERM"));
    let said = service.ask("GET", "/readyz", "").body;
    assert!(said.contains("16 of 16 shards take writes\nquorum is not held in 0 "), "{said}");
    assert_eq!(resolve(&service, "alice").json()["pins"][0]["durable"], false);

    server.cli(&["ACL", "SETUSER", "default", "+wait"]);
    eventually("quorum", || service.ask("GET", "/readyz?require=all", "").status == 200);
    assert_eq!(resolve(&service, "bob").json()["pins"][0]["durable"], true);
}

#[test]
fn without_its_replica_quorum_goes_on_and_says_so() {
    let server = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let service = with_quorum(&server, Duration::from_secs(1));
    // Many more at once than could each wait for a replica.
    let answered = std::thread::scope(|scope| {
        let ask = |thread: usize| {
            let service = &service;
            move || {
                let ask = |turn| resolve(service, &format!("{thread}-{turn}"));
                let replies: Vec<Reply> = (0..50).map(ask).collect();
                let good = replies.iter().filter(|reply| reply.status == 200);
                good.inspect(|reply| assert_eq!(reply.json()["pins"][0]["durable"], false)).count()
            }
        };
        let threads: Vec<_> = (0..64).map(|thread| scope.spawn(ask(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(answered > 64 * 50 * 9 / 10, "{answered} of {}", 64 * 50);

    let _replica = RedisServer::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    eventually("a confirmation", || resolve(&service, "alice").json()["pins"][0]["durable"] == json!(true));
}

fn on_cluster(cluster: &RedisCluster, quorum: bool) -> Redis {
    let (urls, keeping, timeout) = (cluster.urls(), Keeping::default(), Duration::from_millis(300));
    Redis::open(&Options { urls, cluster: true, quorum, tls: Tls::default(), timeout, keeping }).unwrap()
}

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn node(number: usize) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

fn session(number: usize) -> SessionKey {
    SessionKey::new("nodes", &number.to_le_bytes())
}

async fn claim(store: &Redis, number: usize, candidates: &[usize]) -> Option<NodeId> {
    let candidates = candidates.iter().map(|number| node(*number)).collect();
    let sessions = vec![SessionAsk::new(session(number), candidates, vec![])];
    let request = ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions };
    Some(store.resolve(&request).await.ok()?.pop()?.node)
}

/// Ends sessions and drains nodes while a primary dies, once with its replica at hand and once after it has lost it. What a replica
/// confirmed is so afterwards; that the rest is lost in the second round shows that this test would see a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_drains_that_were_confirmed_outlive_their_primary() {
    const ALL: usize = 300;
    for has_replica in [true, false] {
        let cluster = RedisCluster::start();
        let store = on_cluster(&cluster, true);
        eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
        for number in 0..ALL {
            eventually_async("a claim", || async { claim(&store, number, &[0]).await.is_some() }).await;
        }
        let primary = cluster.primary_of("{nodes/0}").unwrap();
        let replica = cluster.replica_of(primary);
        // Until each of them is on the replica, which is then away, or not.
        assert_eq!(cluster.servers[primary].cli(&["WAIT", "1", "2000"]).trim(), "1");
        if !has_replica {
            cluster.servers[replica].pause();
            cluster.servers[primary].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        }

        let (mut ended, mut drained) = (Vec::new(), Vec::new());
        for number in 0..ALL {
            if number == ALL / 2 {
                cluster.servers[primary].kill();
                cluster.servers[replica].resume();
            }
            if let Ok(end) = store.end(&pool(), session(number), Millis(0), None).await {
                ended.push((number, end.durable));
            }
            let drain = NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() };
            if number.is_multiple_of(5)
                && let Ok(change) = store.change_node(&pool(), node(1000 + number), &drain).await
            {
                drained.push((number, change.durable));
            }
        }

        // Without asking for a replica's word, which the new primary cannot have.
        let store = on_cluster(&cluster, false);
        eventually_async("the failover", || async {
            cluster.primary_of("{nodes/0}").is_some_and(|now| now != primary)
        })
        .await;
        let (mut kept, mut lost) = (0, 0);
        let mut note = |what: &str, number: usize, durable: Option<bool>, holds: bool| {
            assert!(holds || durable == Some(false), "{what} {number}: {durable:?}");
            kept += usize::from(holds && durable == Some(true));
            lost += usize::from(!holds);
        };
        for (number, durable) in ended {
            let has_answer = || async { store.session(&pool(), session(number)).await.is_ok() };
            eventually_async("the session", has_answer).await;
            let is_over = store.session(&pool(), session(number)).await.unwrap().is_none();
            note("end", number, durable, is_over);
        }
        let records = store.nodes(&pool()).await.unwrap();
        for (number, durable) in drained {
            let record = records.iter().find(|record| record.node == node(1000 + number));
            note("drain", number, durable, record.is_some_and(|record| record.state == NodeState::Draining));
        }
        println!("with a replica: {has_replica}; {kept} confirmed and kept, {lost} unconfirmed and lost");
        assert!(kept > 50, "{kept}");
        assert!(has_replica || lost > 0, "nothing was lost: this test would not see a loss");
    }
}

fn first_of(pool: &str, shard: usize) -> ResolveRequest {
    let key: SessionKey = format!("{shard:x}{:031}", 0).parse().unwrap();
    let (pool, sessions) = (pool.parse().unwrap(), vec![SessionAsk::new(key, vec![node(1)], vec![])]);
    ResolveRequest { pool, region: None, panic: false, correlation_id: None, sessions }
}

/// Shards of the same number are on different servers in different pools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_gone_is_missed_by_the_shards_of_its_primary_alone() {
    let cluster = RedisCluster::start();
    let store = on_cluster(&cluster, true);
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    let home = |pool: &str, shard: usize| cluster.primary_of(&format!("{{{pool}/{shard:x}}}")).unwrap();
    let (shard, lone) = (3, home("one", 3));
    let mut names = (0..).map(|number| format!("other-{number}"));
    let other = names.find(|name| home(name, shard) != lone).unwrap();
    let confirmed =
        async |pool: &str| store.resolve(&first_of(pool, shard)).await.unwrap()[0].durable == Some(true);
    for pool in ["one", &other] {
        eventually_async("a confirmation", || confirmed(pool)).await;
    }

    cluster.servers[cluster.replica_of(lone)].kill();
    let (mut without, mut with) = (0, 0);
    for _ in 0..100 {
        without += usize::from(!confirmed("one").await);
        with += usize::from(confirmed(&other).await);
    }

    // A busy machine may be late now and then.
    assert!(without == 100 && with > 90, "{without} of the one not confirmed, {with} of the other confirmed");
    let unconfirmed = store.readiness().await.unconfirmed.unwrap();
    assert!(unconfirmed.iter().any(|one| one.shard == shard), "{unconfirmed:?}");
}

/// Each pool has shards on each server, and each round of probes looks at all of them. Those that a server that hangs does not answer
/// must keep no places from calls to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_of_a_server_that_hangs_keep_no_places_from_calls_to_the_others() {
    let cluster = RedisCluster::start();
    let store = on_cluster(&cluster, true);
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    let pools: Vec<String> = (0..7).map(|number| format!("pool-{number}")).collect();
    let home = |pool: &str, shard: usize| cluster.primary_of(&format!("{{{pool}/{shard:x}}}")).unwrap();
    let hangs = home(&pools[0], 0);
    let all = pools.iter().flat_map(|pool| (0..16).map(move |shard| (pool, shard)));
    let well: Vec<(&String, usize)> = all.filter(|(pool, shard)| home(pool, *shard) != hangs).collect();
    let confirmed = async |(pool, shard): (&String, usize)| {
        let pins = store.resolve(&first_of(pool, shard)).await;
        pins.is_ok_and(|pins| pins[0].durable == Some(true))
    };
    for place in &well {
        eventually_async("a confirmation", || confirmed(*place)).await;
    }

    // The Cluster does not replace it, and does not stop for the slots that are away.
    for server in &cluster.servers {
        server.cli(&["CONFIG", "SET", "cluster-node-timeout", "60000"]);
    }
    cluster.servers[hangs].pause();
    let (mut asked, mut unconfirmed) = (0, 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        for group in well.chunks(8) {
            let answers = join_all(group.iter().map(|place| confirmed(*place))).await;
            asked += answers.len();
            // So that there are times when all places are free for probes.
            tokio::time::sleep(Duration::from_millis(20)).await;
            unconfirmed += answers.iter().filter(|is_confirmed| !**is_confirmed).count();
        }
    }
    cluster.servers[hangs].resume();

    // A busy machine may be late now and then.
    assert!(asked > 200 && unconfirmed * 50 < asked, "{unconfirmed} of {asked} not confirmed");
}
