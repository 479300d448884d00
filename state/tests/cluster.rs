//! A Redis Cluster that loses primaries: calls stay bounded, service returns by itself, and no pin is lost that a replica
//! had confirmed.
#[path = "support/http.rs"]
mod http;
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_core::wire::{NodeId, Outcome, Pin, PoolName, ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store, StoreError};
use serde_json::{Value, json};

use http::Service;
use support::{RedisCluster, eventually, eventually_async};

const TIMEOUT: Duration = Duration::from_millis(300);

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
    let sessions = vec![SessionAsk::new(key, vec![node(candidate)], vec![])];
    let request = ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions };
    Ok(store.resolve(&request).await?.remove(0))
}

const WRITERS: usize = 8;

/// The answers that one writer got for one session, oldest first.
struct Track {
    key: SessionKey,
    answers: Vec<Answer>,
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    /// Owner and version, whether a replica has them, and when the answer came.
    Pin(String, u64, bool, Instant),
    /// No answer, or 503: it may have been written all the same.
    Nothing,
}

impl Track {
    fn shard(&self) -> usize {
        usize::from(self.key.as_bytes()[0] >> 4)
    }

    /// The last confirmed answer, and whether the writer tried something after it.
    fn confirmed(&self) -> Option<(&str, u64, Instant, bool)> {
        let position =
            self.answers.iter().rposition(|answer| matches!(answer, Answer::Pin(_, _, true, _)))?;
        let Answer::Pin(node, version, _, at) = &self.answers[position] else { return None };
        Some((node, *version, *at, position + 1 < self.answers.len()))
    }
}

/// Claims sessions, and moves every third from one node to another and back.
fn write(service: &Service, writer: usize, stop: &AtomicBool, longest: &Mutex<Duration>) -> Vec<Track> {
    let mut tracks: Vec<Track> = Vec::new();
    let mut turn: usize = 0;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        if !turn.is_multiple_of(3) {
            let key = SessionKey::new("nodes", format!("{writer}-{turn}").as_bytes());
            tracks.push(Track { key, answers: Vec::new() });
        }
        // Now and then an old one, else the newest.
        let at = if turn.is_multiple_of(9) { turn * 7919 % tracks.len() } else { tracks.len() - 1 };
        let track = &mut tracks[at];
        let (old, new) = if track.answers.len().is_multiple_of(2) { (2, 1) } else { (1, 2) };
        let session = json!({"key": track.key, "candidates": [node(new)], "unusable": if track.answers.is_empty() { vec![] } else { vec![node(old)] }});
        let start = Instant::now();
        let reply =
            service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string());
        {
            let mut longest = longest.lock().unwrap();
            *longest = longest.max(start.elapsed());
        }
        track.answers.push(if reply.status == 200 {
            let pin = &reply.json()["pins"][0];
            let text = |name: &str| pin[name].as_str().unwrap().to_owned();
            Answer::Pin(
                text("node"),
                pin["version"].as_u64().unwrap(),
                pin["durable"] == true,
                Instant::now(),
            )
        } else {
            assert_eq!(reply.status, 503, "{reply:?}");
            std::thread::sleep(Duration::from_millis(5));
            Answer::Nothing
        });
    }
    tracks
}

struct StopWriters<'s>(&'s AtomicBool);

impl Drop for StopWriters<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn shards_of(cluster: &RedisCluster, server: usize) -> Vec<usize> {
    (0..16).filter(|shard| cluster.primary_of(&format!("{{nodes/{shard:x}}}")) == Some(server)).collect()
}

/// Two primaries die while writes go on. The first has its replica until the end, so what was confirmed up to then must
/// be there. The second loses it a while before: what it took then is lost, which shows that this test would see a loss,
/// and none of that may have been called durable.
#[test]
fn no_acknowledged_quorum_write_is_lost_when_a_primary_dies() {
    let cluster = RedisCluster::start();
    let service = Service::on_redis(options(&cluster));
    eventually("the cluster", || service.ask("GET", "/readyz", "").status == 200);
    let (stop, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));

    let (tracks, first_shards, first_death) = std::thread::scope(|scope| {
        // Also when something here fails.
        let stopping = StopWriters(&stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (service, stop, longest) = (&service, &stop, &longest);
                scope.spawn(move || write(service, writer, stop, longest))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));

        let first = cluster.primary_of("{nodes/3}").unwrap();
        let first_shards = shards_of(&cluster, first);
        cluster.servers[first].kill();
        let first_death = Instant::now();
        eventually("the first failover", || cluster.primary_of("{nodes/3}").is_some_and(|now| now != first));
        std::thread::sleep(Duration::from_secs(1));

        let other = (0..16).find(|shard| !first_shards.contains(shard)).unwrap();
        let second = cluster.primary_of(&format!("{{nodes/{other:x}}}")).unwrap();
        let replica = cluster.replica_of(second);
        // Killing the link as well: what is under way in it would still arrive.
        cluster.servers[replica].pause();
        cluster.servers[second].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        std::thread::sleep(Duration::from_millis(700));
        cluster.servers[second].kill();
        cluster.servers[replica].resume();
        eventually("the second failover", || {
            cluster.primary_of(&format!("{{nodes/{other:x}}}")).is_some_and(|now| now != second)
        });
        std::thread::sleep(Duration::from_secs(1));
        drop(stopping);
        let tracks = writers.into_iter().flat_map(|writer| writer.join().unwrap());
        (tracks.collect::<Vec<Track>>(), first_shards, first_death)
    });

    // Without asking for a replica's word, which the new primaries cannot have: each would wait for it.
    let service = Service::on_redis(Options { quorum: false, ..options(&cluster) });
    let now = |key: SessionKey| -> Option<Value> {
        let session = json!({"key": key, "candidates": [node(9)]});
        let reply =
            service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string());
        (reply.status == 200).then(|| reply.json()["pins"][0].clone())
    };
    eventually("all shards to answer", || tracks.iter().take(200).all(|track| now(track.key).is_some()));

    let (mut checked, mut near_death, mut unconfirmed_lost) = (0, 0, 0);
    for track in &tracks {
        let mut pin = now(track.key);
        eventually("an answer", || {
            pin = pin.take().or_else(|| now(track.key));
            pin.is_some()
        });
        let pin = pin.unwrap();
        // Another proxy would have placed it elsewhere: a lost pin shows as a claim.
        let lost = pin["node"] == node(9).to_string();
        match track.confirmed() {
            Some((node, version, at, tried_more)) => {
                let found = (pin["node"].as_str().unwrap(), pin["version"].as_u64().unwrap());
                let kept = found == (node, version) || (tried_more && found.1 > version && !lost);
                assert!(kept, "confirmed {node} version {version}, now {pin}: {:?}", track.answers);
                checked += 1;
                let before = first_death.saturating_duration_since(at);
                let near = first_shards.contains(&track.shard()) && at < first_death;
                near_death += usize::from(near && before < Duration::from_millis(100));
            }
            None => {
                let answered = track.answers.iter().any(|answer| matches!(answer, Answer::Pin(..)));
                unconfirmed_lost += usize::from(lost && answered);
            }
        }
    }
    let longest = longest.into_inner().unwrap();
    println!(
        "{} sessions, {checked} confirmed and kept, {near_death} of them in the first primary's last 100 ms, \
         {unconfirmed_lost} unconfirmed and lost; longest call {longest:?}",
        tracks.len()
    );
    assert!(checked > 500, "{checked}");
    assert!(near_death > 0, "no write was under way when the first primary died");
    assert!(unconfirmed_lost > 0, "nothing was lost that was not confirmed: this test would not see a loss");
    assert!(longest < TIMEOUT + Duration::from_secs(1), "a call took {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed() {
    let cluster = RedisCluster::start();
    let store = Redis::open(&Options { timeout: Duration::from_secs(5), ..options(&cluster) }).unwrap();
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    for session in 0..100 {
        resolve(&store, session, 1).await.unwrap();
    }

    // A planned failover: the roles of a primary and its replica change, all is kept.
    let primary = cluster.primary_of("{nodes/3}").unwrap();
    let replica = cluster.replica_of(primary);
    assert_eq!(cluster.servers[replica].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
    eventually_async("the roles to change", || async { cluster.primary_of("{nodes/3}") != Some(primary) })
        .await;

    for session in 0..100 {
        let pin = resolve(&store, session, 2).await.unwrap();
        assert_eq!((pin.outcome, pin.node), (Outcome::Found, node(1)));
    }
}

/// The service gets no sign of the new primary: no connection is closed, and no server redirects it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_left_for_its_replica() {
    let cluster = RedisCluster::start();
    for quorum in [false, true] {
        eventually("the cluster", || cluster.is_whole());
        let store =
            Redis::open(&Options { quorum, timeout: Duration::from_secs(1), ..options(&cluster) }).unwrap();
        eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
        // Its own: one that was lost in the first round is on the other node since.
        let sessions = if quorum { 30..60 } else { 0..30 };
        for session in sessions.clone() {
            let pinned = || async {
                let pin = resolve(&store, session, 1).await;
                pin.is_ok_and(|pin| !quorum || pin.durable == Some(true))
            };
            eventually_async("the pin", pinned).await;
        }

        let primary = cluster.primary_of("{nodes/3}").unwrap();
        cluster.servers[primary].pause();
        eventually("the failover", || cluster.primary_of("{nodes/3}").is_some_and(|now| now != primary));
        let replaced = Instant::now();

        for session in sessions {
            let key = SessionKey::new("nodes", &usize::to_le_bytes(session));
            // What no replica confirmed may be lost; then it is claimed again.
            let answered = || async {
                let pin = store.session(&pool(), key).await;
                let owner = match pin {
                    Ok(Some(pin)) => pin.node,
                    Ok(None) if !quorum => node(2),
                    Ok(None) | Err(_) => return false,
                };
                resolve(&store, session, 2).await.is_ok_and(|pin| pin.node == owner)
                    && (!quorum || owner == node(1))
            };
            eventually_async("the session", answered).await;
        }
        println!("quorum {quorum}: all sessions {:?} after the failover", replaced.elapsed());
        cluster.servers[primary].resume();
    }
}

/// Where the log is takes all shards to say, and each resolve is answered with a position in it.
#[test]
fn an_instance_that_starts_while_a_primary_is_away_resolves_the_sessions_of_the_others() {
    let cluster = RedisCluster::start();
    eventually("the cluster", || cluster.is_whole());
    let lost = cluster.primary_of("{nodes/3}").unwrap();
    let lost_shards = shards_of(&cluster, lost);
    let others: Vec<usize> = (0..16).filter(|shard| !lost_shards.contains(shard)).collect();
    let may_fail_over = |may: &str| {
        for (place, server) in cluster.servers.iter().enumerate().filter(|(place, _)| *place != lost) {
            assert_eq!(
                server.cli(&["config", "set", "cluster-replica-no-failover", may]).trim(),
                "OK",
                "{place}"
            );
        }
    };
    may_fail_over("yes");
    // Killed, not paused: the library first waits two seconds for one that hangs.
    cluster.servers[lost].kill();

    let service = Service::on_redis(Options { quorum: false, ..options(&cluster) });
    let resolve = |shards: &[usize]| {
        let in_shards = |key: &SessionKey| shards.contains(&usize::from(key.as_bytes()[0] >> 4));
        let mut keys = (0u32..).map(|i| SessionKey::new("nodes", &i.to_le_bytes()));
        let session = json!({"key": keys.find(in_shards), "candidates": [node(1)]});
        service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string())
    };
    let mut answer = resolve(&others);
    eventually("a session of another shard", || {
        answer = resolve(&others);
        answer.status == 200
    });
    assert_eq!(resolve(&lost_shards).status, 503);
    may_fail_over("no");

    // A poll from there is answered once all are back, with old news or the word that some were missed.
    let cursor = answer.json()["cursor"].as_str().unwrap().to_owned();
    let path = format!("/v1/changes?pool=nodes&after={cursor}");
    eventually("all shards", || service.ask("GET", &path, "").status == 200);
}

/// Its keys are on two servers, and each is looked at once only: a count could miss them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_is_not_complete_while_a_slot_moves() {
    let cluster = RedisCluster::start();
    let store = Redis::open(&Options { timeout: Duration::from_secs(5), ..options(&cluster) }).unwrap();
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    for session in 0..100 {
        resolve(&store, session, 1).await.unwrap();
    }
    let count = || async { store.count(&pool(), None, 1_000_000).await.unwrap() };
    let all = count().await;
    assert_eq!((all.complete, all.pins, all.next), (true, 100, None));

    let (from, to) = (cluster.primary_of("{nodes/3}").unwrap(), cluster.primary_of("{nodes/4}"));
    let primaries = cluster.primaries();
    let to =
        to.filter(|to| *to != from).unwrap_or_else(|| *primaries.iter().find(|to| **to != from).unwrap());
    let (from, to) = (&cluster.servers[from], &cluster.servers[to]);
    let slot = from.cli(&["CLUSTER", "KEYSLOT", "{nodes/3}"]).trim().to_owned();
    let [from_id, to_id] = [from, to].map(|server| server.cli(&["CLUSTER", "MYID"]).trim().to_owned());
    assert_eq!(to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).trim(), "OK");
    assert_eq!(from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).trim(), "OK");
    let moving = count().await;
    assert_eq!((moving.complete, moving.next), (false, None));

    // A slot of no session of this pool does not matter.
    for server in [from, to] {
        assert_eq!(server.cli(&["CLUSTER", "SETSLOT", &slot, "STABLE"]).trim(), "OK");
    }
    let other = from.cli(&["CLUSTER", "KEYSLOT", "{another}"]).trim().to_owned();
    let owner = &cluster.servers[cluster.primary_of("{another}").unwrap()];
    let elsewhere = if owner.cli(&["CLUSTER", "MYID"]).trim() == to_id { &from_id } else { &to_id };
    assert_eq!(owner.cli(&["CLUSTER", "SETSLOT", &other, "MIGRATING", elsewhere]).trim(), "OK");
    assert!(count().await.complete);

    // Where the servers do not say who they are, each shard is looked at by itself, as often as it takes.
    for server in &cluster.servers {
        let deny = ["ACL", "SETUSER", "default", "-cluster|myid", "-cluster|nodes"];
        assert_eq!(server.cli(&deny).trim(), "OK");
    }
    let all = count().await;
    assert_eq!((all.complete, all.pins), (true, 100));
}

/// Where a call goes on is known to servers that the shards were on: with others it could miss some, or count some twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_does_not_go_on_at_other_servers() {
    let cluster = RedisCluster::start();
    let store = Redis::open(&Options { timeout: Duration::from_secs(5), ..options(&cluster) }).unwrap();
    eventually_async("the cluster", || async { store.ready().await.is_ok() }).await;
    for session in 0..5000 {
        resolve(&store, session, 1).await.unwrap();
    }
    let first = store.count(&pool(), None, 1000).await.unwrap();
    let next = first.next.unwrap();
    let on = store.count(&pool(), Some(&next), 1_000_000).await.unwrap();
    assert!(on.complete && on.pins < 5000, "{on:?}");

    let primary = cluster.primary_of("{nodes/3}").unwrap();
    let replica = cluster.replica_of(primary);
    assert_eq!(cluster.servers[replica].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
    eventually_async("the roles to change", || async { cluster.primary_of("{nodes/3}") != Some(primary) })
        .await;

    let on = store.count(&pool(), Some(&next), 1_000_000).await.unwrap();
    assert_eq!((on.complete, on.next, on.pins), (false, None, 0));
    assert!(store.count(&pool(), None, 1_000_000).await.unwrap().complete);
}
