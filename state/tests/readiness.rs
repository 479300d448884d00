//! `/readyz` says whether to send requests here: yes while at least one shard of the store takes writes. It names those that
//! take none and why, as metrics and the log do.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use berth_state::store::Keeping;
use berth_state::store::redis::{Options, Tls};
use serde_json::json;

use http::Service;
use support::{RedisServer, eventually};

fn service(url: String) -> Service {
    Service::on_redis(Options {
        urls: vec![url],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_millis(500),
        keeping: Keeping::default(),
    })
}

fn started(server: &RedisServer) -> Service {
    let service = service(server.url());
    eventually("readiness", || service.ask("GET", "/readyz?require=all", "").status == 200);
    service
}

/// A new session of this shard.
fn claim(service: &Service, shard: usize) -> u16 {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let key = loop {
        let key = SessionKey::new("nodes", &NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        if usize::from(key.as_bytes()[0] >> 4) == shard {
            break key;
        }
    };
    let body = json!({"pool": "nodes", "sessions": [{"key": key, "candidates": ["10.0.0.1:80"]}]});
    service.ask("POST", "/v1/resolve", &body.to_string()).status
}

fn metric(service: &Service, series: &str) -> Option<f64> {
    let page = service.ask("GET", "/metrics", "").body;
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Lets the service use the keys of the first so many shards only.
fn allow(server: &RedisServer, shards: usize) {
    let mut rule = vec!["ACL".to_owned(), "SETUSER".to_owned(), "default".to_owned(), "resetkeys".to_owned()];
    rule.extend((0..shards).map(|shard| format!("~berth:{{*/{shard:x}}}:*")));
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    assert_eq!(server.cli(&rule).trim(), "OK");
}

/// Waits until nothing is ready for this cause, and again until all is after `mend`.
fn goes_and_returns(service: &Service, cause: &str, mend: impl FnOnce()) {
    let says = |status: u16| {
        let reply = service.ask("GET", "/readyz", "");
        reply.status == status && (status == 200 || reply.body.contains(&format!("{cause} since ")))
    };
    eventually(&format!("503 for {cause}"), || says(503));
    assert_eq!(metric(service, r#"berth_state_shard_ready{shard="5"}"#), Some(0.0), "{cause}");
    let series = format!(r#"berth_state_shards_away{{cause="{cause}"}}"#);
    assert_eq!(metric(service, &series), Some(16.0), "{cause}");
    mend();
    eventually(&format!("200 after {cause}"), || says(200) && claim(service, 5) == 200);
    eventually("all shards", || metric(service, r#"berth_state_shard_ready{shard="5"}"#) == Some(1.0));
    assert_eq!(metric(service, &series), Some(0.0), "{cause}");
}

#[test]
fn it_is_ready_while_one_shard_takes_writes() {
    let server = RedisServer::start(&[]);
    let service = started(&server);
    assert_eq!(claim(&service, 0), 200);
    for there in [15, 8, 1] {
        allow(&server, there);
        eventually("the last shard to be away", || {
            metric(&service, r#"berth_state_shard_ready{shard="f"}"#) == Some(0.0)
        });
        let reply = service.ask("GET", "/readyz", "");
        assert_eq!(reply.status, 200, "{there}: {reply:?}");
        assert!(reply.body.contains(&format!("{there} of 16 shards take writes")), "{reply:?}");
        assert!(reply.body.contains(": no_permission since "), "{reply:?}");
        assert_eq!(service.ask("GET", "/readyz?require=all", "").status, 503);
        assert_eq!((claim(&service, 0), claim(&service, 15)), (200, 503));
        allow(&server, 16);
        eventually("all shards", || service.ask("GET", "/readyz?require=all", "").status == 200);
    }
    allow(&server, 0);
    goes_and_returns(&service, "no_permission", || allow(&server, 16));
    assert_eq!(service.ask("GET", "/readyz?require=some", "").status, 400);
}

#[test]
fn a_full_store_is_not_ready() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let service = started(&server);
    assert_eq!(claim(&service, 5), 200);

    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "500kb"]).trim(), "OK");

    goes_and_returns(&service, "full", || {
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    });
}

#[test]
fn each_way_not_to_take_writes_is_named() {
    let server = RedisServer::start(&["--busy-reply-threshold", "20"]);
    let service = started(&server);
    let set = |name: &str, value: &str| {
        assert_eq!(server.cli(&["CONFIG", "SET", name, value]).trim(), "OK", "{name}");
    };

    set("min-replicas-to-write", "1");
    goes_and_returns(&service, "fenced", || set("min-replicas-to-write", "0"));

    let folder = server.cli(&["CONFIG", "GET", "dir"]).lines().nth(1).unwrap().trim().to_owned();
    let in_the_way = std::path::Path::new(&folder).join("dump.rdb/in-the-way");
    std::fs::create_dir_all(&in_the_way).unwrap();
    set("save", "3600 1");
    server.cli(&["BGSAVE"]);
    goes_and_returns(&service, "persistence_failed", || set("save", ""));
    std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();

    assert_eq!(server.cli(&["ACL", "SETUSER", "default", "-xadd"]).trim(), "OK");
    goes_and_returns(&service, "no_permission", || {
        server.cli(&["ACL", "SETUSER", "default", "+@all"]);
    });

    // Of another program.
    std::thread::scope(|scope| {
        scope.spawn(|| server.cli(&["EVAL", "while true do end", "0"]));
        goes_and_returns(&service, "busy_script", || {
            server.cli(&["SCRIPT", "KILL"]);
        });
    });

    let primary = RedisServer::start(&[]);
    server.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    goes_and_returns(&service, "read_only", || {
        server.cli(&["REPLICAOF", "NO", "ONE"]);
    });

    server.pause();
    goes_and_returns(&service, "timeout", || server.resume());
    server.kill();
    goes_and_returns(&service, "unreachable", || {
        // A replica's copy of the data; without it the server starts empty.
        let _ = std::fs::remove_file(std::path::Path::new(&folder).join("dump.rdb"));
        server.restart();
    });
}

#[test]
fn a_password_that_is_refused_is_named() {
    let server = RedisServer::start(&[]);
    assert_eq!(server.cli(&["CONFIG", "SET", "requirepass", "hush"]).trim(), "OK");
    let service = service(format!("redis://:wrong@127.0.0.1:{}", server.port));

    goes_and_returns(&service, "no_permission", || {
        let set = ["--no-auth-warning", "-a", "hush", "CONFIG", "SET", "requirepass", "wrong"];
        assert_eq!(server.cli(&set).trim(), "OK");
    });
}

#[test]
fn probes_cost_the_store_one_write_a_second_whoever_asks() {
    let server = RedisServer::start(&[]);
    let service = started(&server);
    let sets = || {
        let stats = server.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_set:")).map(str::to_owned);
        line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap())
    };
    let (before, start) = (sets(), Instant::now());
    let mut asked = 0u64;
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(service.ask("GET", "/readyz", "").status, 200);
        asked += 1;
    }
    let written = sets() - before;
    assert!((1..=start.elapsed().as_secs() + 1).contains(&written), "{written} writes for {asked} questions");
    assert!(asked > 100, "{asked}");
}

/// A server between the service and Redis that has not what came with Redis 7: the number of its version in scripts.
struct Older {
    port: u16,
    is_old: Arc<AtomicBool>,
}

impl Older {
    fn than_seven(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_old = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&is_old);
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let is_old = shared.load(Ordering::SeqCst);
                for (from, to, hides) in [(&client, &server, is_old), (&server, &client, false)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut bytes = [0; 1 << 16];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            let mut text = bytes[..count].to_vec();
                            let name = b"redis.REDIS_VERSION_NUM";
                            let places: Vec<usize> =
                                (0..text.len()).filter(|at| hides && text[*at..].starts_with(name)).collect();
                            for at in places {
                                text[at..at + name.len()].copy_from_slice(b"redis.redis_version_num");
                            }
                            if to.write_all(&text).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { port, is_old }
    }
}

#[test]
fn a_server_older_than_seven_is_not_ready_and_one_that_replaces_it_is() {
    let server = RedisServer::start(&[]);
    let older = Older::than_seven(server.port);
    let service = service(format!("redis://127.0.0.1:{}", older.port));

    goes_and_returns(&service, "too_old", || {
        older.is_old.store(false, Ordering::SeqCst);
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    });
}
