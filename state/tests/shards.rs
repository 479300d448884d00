//! A shard that is away is its own sessions' loss: those of other shards are resolved, touched and kept up to date, as fast as
//! ever.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use http::Service;
use support::{RedisCluster, RedisServer, eventually, session_in};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

fn resolve(service: &Service, keys: &[SessionKey], candidates: &[&str]) -> (u16, Value) {
    let sessions: Vec<Value> = keys.iter().map(|key| json!({"key": key, "candidates": candidates})).collect();
    let reply =
        service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": sessions}).to_string());
    (reply.status, reply.json())
}

/// Lets the service use the keys of the first so many shards only.
fn allow(server: &RedisServer, shards: usize) {
    let mut rule = vec!["ACL".to_owned(), "SETUSER".to_owned(), "default".to_owned(), "resetkeys".to_owned()];
    rule.extend((0..shards).map(|shard| format!("~berth:{{*/{shard:x}}}:*")));
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    assert_eq!(server.cli(&rule).trim(), "OK");
}

#[test]
fn sessions_of_the_shards_that_are_there_are_answered() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    let keys: Vec<SessionKey> = (0..16).map(session_in).collect();
    assert_eq!(resolve(&service, &keys, &[A]).0, 200);
    allow(&server, 5);

    let (status, reply) = resolve(&service, &keys, &[B]);

    assert_eq!(status, 200, "{reply}");
    let pins = reply["pins"].as_array().unwrap();
    let found: Vec<&str> = pins.iter().map(|pin| pin["key"].as_str().unwrap()).collect();
    let expected: Vec<String> = keys[..5].iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
    assert!(pins.iter().all(|pin| pin["node"] == A));

    let touch = |keys: &[SessionKey]| {
        service.ask("POST", "/v1/touch", &json!({"pool": "nodes", "keys": keys}).to_string())
    };
    let reply = touch(&[&keys[..], &[session_in(2)]].concat()).json();
    assert_eq!(reply["touched"], 5, "{reply}");
    assert_eq!(reply["missing"].as_array().unwrap().len(), 1, "{reply}");
    assert_eq!(reply["unanswered"], json!(keys[5..]), "{reply}");

    // A session that is to inherit from a pin that cannot be read does not begin again.
    let heir = session_in(0);
    let session = json!({"key": heir, "candidates": [B], "alias_of": keys[9]});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    assert_eq!(service.ask("POST", "/v1/resolve", &body).status, 503);

    // If nothing is there, the call fails as a whole.
    assert_eq!(resolve(&service, &keys[5..], &[B]).0, 503);
    assert_eq!(touch(&keys[5..]).status, 503);
    let page = service.ask("GET", "/metrics", "").body;
    assert!(page.contains("berth_state_unanswered_sessions_total 22\n"), "{page}");
}

#[test]
fn changes_of_other_shards_are_told_and_those_of_one_that_was_away_when_it_is_back() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    let (here, away) = (session_in(0), session_in(15));
    assert_eq!(resolve(&service, &[here, away], &[A]).0, 200);
    let poll = |after: &Value| {
        let after = after.as_str().map_or(String::new(), |after| format!("&after={after}"));
        let reply = service.ask("GET", &format!("/v1/changes?pool=nodes{after}"), "");
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    let before = poll(&Value::Null)["cursor"].clone();
    for key in [here, away] {
        assert_eq!(service.ask("DELETE", &format!("/v1/sessions/{key}?pool=nodes"), "").status, 200);
    }
    allow(&server, 15);

    let first = poll(&before);
    let again = poll(&first["cursor"]);
    // Where the log is, as polls without a position and resolves say it.
    let newest = poll(&Value::Null)["cursor"].clone();
    allow(&server, 16);
    let last = poll(&first["cursor"]);

    let keys = |reply: &Value| -> Vec<String> {
        assert_eq!(reply["resync"], false, "{reply}");
        reply["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&first), [here.to_string()]);
    assert_eq!(keys(&again), Vec::<String>::new());
    assert_eq!(keys(&last), [away.to_string()]);
    assert_eq!(keys(&poll(&newest)), [away.to_string()]);
}

#[test]
fn a_drain_reaches_shards_that_were_away_once_they_are_back() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    let everywhere = |node: &str, others: &str| {
        let keys: Vec<SessionKey> = (0..16).map(session_in).collect();
        let (status, reply) = resolve(&service, &keys, &[node, others]);
        status == 200 && reply["pins"].as_array().unwrap().iter().all(|pin| pin["node"] == others)
    };
    assert!(!everywhere(A, B));
    allow(&server, 8);

    let drained = service.ask("PUT", &format!("/v1/nodes/{A}?pool=nodes"), r#"{"state": "draining"}"#);

    assert_eq!(drained.status, 200, "{drained:?}");
    allow(&server, 16);
    eventually("the drain in all shards", || everywhere(A, B));

    // As a failover loses some. Another service finds out when it is first asked.
    server.cli(&["DEL", "berth:{nodes/9}:nodes"]);
    server.cli(&["DEL", "berth:{nodes/0}:nodes"]);
    assert!(!everywhere(A, B));
    let other = Service::ready_on(vec![server.url()], false);
    assert_eq!(resolve(&other, &[session_in(0)], &[A]).0, 200);
    eventually("the copies", || everywhere(A, B));
}

#[test]
fn a_change_that_cannot_be_read_is_left_out() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    let (one, other) = (session_in(3), session_in(3));
    assert_eq!(resolve(&service, &[one, other], &[A]).0, 200);
    let before = service.ask("GET", "/v1/changes?pool=nodes", "").json()["cursor"].clone();
    let end = |key: SessionKey| {
        assert_eq!(service.ask("DELETE", &format!("/v1/sessions/{key}?pool=nodes"), "").status, 200);
    };
    end(one);
    for kind in [r"'kind', '\255\254'", r"'\255', 'kind'", r"'kind', 'ended', 'correlation_id', '\192'"] {
        let script = format!("return redis.call('XADD', KEYS[1], '*', {kind})");
        server.cli(&["EVAL", &script, "1", "berth:{nodes/3}:changes"]);
    }
    end(other);

    let after = before.as_str().unwrap();
    let reply = service.ask("GET", &format!("/v1/changes?pool=nodes&after={after}"), "");

    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = reply.json();
    let keys: Vec<&Value> = reply["events"].as_array().unwrap().iter().map(|event| &event["key"]).collect();
    assert_eq!(keys, [&json!(one), &json!(other)], "{reply}");
    let page = service.ask("GET", "/metrics", "").body;
    assert!(page.contains("berth_state_unreadable_changes_total 3\n"), "{page}");
    // And an operator can look at the session beside it.
    assert_eq!(resolve(&service, &[one], &[A]).0, 200);
    assert_eq!(service.ask("GET", &format!("/v1/sessions/{one}?pool=nodes"), "").status, 200);
}

/// Answers of Redis that take this long each.
fn slowed(server: u16, by: Duration, is_slow: &'static AtomicBool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            for (from, to, slow) in [(&client, &server, false), (&server, &client, true)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut bytes = [0; 1 << 16];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        if slow && is_slow.load(Ordering::SeqCst) {
                            std::thread::sleep(by);
                        }
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    port
}

/// Each answer comes in two thirds of the time: what takes two of them is over before the second one.
#[test]
fn the_stores_timeout_bounds_a_whole_call() {
    static SLOW: AtomicBool = AtomicBool::new(false);
    let server = RedisServer::start(&[]);
    let port = slowed(server.port, Duration::from_millis(650), &SLOW);
    let service = Service::ready_on(vec![format!("redis://127.0.0.1:{port}")], false);
    let key = session_in(4);
    assert_eq!(resolve(&service, &[key], &[A]).0, 200);
    let session = format!("/v1/sessions/{key}?pool=nodes");
    assert_eq!(service.ask("GET", &session, "").status, 200);
    let node = format!("/v1/nodes/{A}?pool=nodes");
    SLOW.store(true, Ordering::SeqCst);

    assert_eq!(resolve(&service, &[key], &[A]).0, 200, "one answer is enough");
    assert_eq!(service.ask("GET", &session, "").status, 503);
    assert_eq!(service.ask("PUT", &node, r#"{"state": "draining"}"#).status, 503);
}

struct Times(Vec<Duration>);

impl Times {
    fn percentile(&self, of: usize) -> Duration {
        self.0[(self.0.len() - 1) * of / 100]
    }
}

/// So many claims of sessions in these shards by four at once while twenty polls wait; returns how many failed.
fn claims(service: &Service, shards: &[usize], count: usize) -> (usize, Times) {
    let (failed, times) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    service.ask("GET", "/v1/changes?pool=nodes&wait=500", "");
                }
            });
        }
        let claimers: Vec<_> = (0..4)
            .map(|claimer| {
                let (failed, times) = (&failed, &times);
                scope.spawn(move || {
                    for turn in (claimer..count).step_by(4) {
                        let key = session_in(shards[turn % shards.len()]);
                        let start = Instant::now();
                        let (status, _) = resolve(service, &[key], &[A]);
                        times.lock().unwrap().push(start.elapsed());
                        failed.fetch_add(usize::from(status != 200), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        claimers.into_iter().for_each(|claimer| claimer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    let mut times = times.into_inner().unwrap();
    times.sort_unstable();
    (failed.into_inner(), Times(times))
}

/// Claims in the shards of the others lose nothing. What they take, before and meanwhile, is printed: `--no-capture` shows it.
fn lose_nothing(what: &str, service: &Service, others: &[usize], count: usize, take_away: impl FnOnce()) {
    let (_, before) = claims(service, others, count / 4);
    let stop = AtomicBool::new(false);
    take_away();
    let away: Vec<usize> = (0..16).filter(|shard| !others.contains(shard)).collect();
    let (failed, meanwhile) = std::thread::scope(|scope| {
        // Sessions of the shards that are away, too.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for shard in &away {
                    assert_eq!(
                        resolve(service, &[session_in(*shard)], &[A]).0,
                        503,
                        "{what}: shard {shard:x}"
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let claimed = claims(service, others, count);
        stop.store(true, Ordering::Relaxed);
        claimed
    });
    let [p50, p99] = [50, 99].map(|of| (before.percentile(of), meanwhile.percentile(of)));
    println!(
        "{what}, {} of 16 shards away: {failed} of {count} claims in the others failed; \
         median {:?} before, {:?} meanwhile; p99 {:?} before, {:?} meanwhile",
        away.len(),
        p50.0,
        p50.1,
        p99.0,
        p99.1
    );
    assert_eq!(failed, 0, "{what}");
}

/// How many claims: the whole number with `BERTH_CLAIMS=10000`.
fn count() -> usize {
    std::env::var("BERTH_CLAIMS").ok().and_then(|count| count.parse().ok()).unwrap_or(1000)
}

#[test]
fn other_shards_lose_nothing_while_some_are_refused() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    for there in [15, 8, 1] {
        let others: Vec<usize> = (0..there).collect();
        lose_nothing("one server", &service, &others, count(), || allow(&server, there));
        allow(&server, 16);
    }
}

#[test]
fn other_shards_lose_nothing_while_a_primary_is_gone_or_hangs() {
    for hangs in [false, true] {
        let cluster = RedisCluster::start();
        let service = Service::ready_on(cluster.urls(), true);
        let lost = cluster.primary_of("{nodes/3}").unwrap();
        let is_there = |shard: &usize| cluster.primary_of(&format!("{{nodes/{shard:x}}}")) != Some(lost);
        let others: Vec<usize> = (0..16).filter(is_there).collect();
        for server in &cluster.servers {
            for (name, value) in
                [("cluster-require-full-coverage", "no"), ("cluster-replica-no-failover", "yes")]
            {
                assert_eq!(server.cli(&["CONFIG", "SET", name, value]).trim(), "OK");
            }
        }
        let what = if hangs { "a primary that hangs" } else { "a primary that is gone" };
        lose_nothing(what, &service, &others, count(), || {
            if hangs { cluster.servers[lost].pause() } else { cluster.servers[lost].kill() }
        });
        let reply = service.ask("GET", "/readyz", "");
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.body.contains(&format!("{} of 16 shards", others.len())), "{reply:?}");
        if hangs {
            cluster.servers[lost].resume();
        }
    }
}
