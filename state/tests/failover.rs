//! One Redis behind an address that moves, as behind a virtual address or a name: the service leaves a server that became
//! a replica, and one that turned it away, without a restart and without a broken connection.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use berth_core::wire::SessionKey;
use berth_state::store::Keeping;
use berth_state::store::redis::{Options, Tls};
use serde_json::{Value, json};

use http::Service;
use support::{RedisServer, eventually};

const TIMEOUT: Duration = Duration::from_millis(500);

/// Forwards new connections to where it points; those that are there stay.
struct MovingAddress {
    port: u16,
    target: Arc<AtomicU16>,
}

impl MovingAddress {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let address = Self { port, target: Arc::clone(&target) };
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        address
    }

    fn move_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }
}

fn service(url: String) -> Service {
    Service::on_redis(Options {
        urls: vec![url],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: TIMEOUT,
        keeping: Keeping::default(),
    })
}

/// The status, and the pin if there is one.
fn resolve(service: &Service, candidate: &str) -> (u16, Value) {
    let session = json!({"key": SessionKey::new("nodes", b"alice"), "candidates": [candidate]});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    let reply = service.ask("POST", "/v1/resolve", &body);
    (reply.status, reply.json()["pins"][0].clone())
}

fn ready(service: &Service) -> u16 {
    service.ask("GET", "/readyz", "").status
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

#[test]
fn a_server_that_became_a_replica_is_left_for_the_new_primary() {
    let at_once = ["--repl-diskless-sync-delay", "0"];
    let (one, other) = (RedisServer::start(&at_once), RedisServer::start(&at_once));
    let port = |server: &RedisServer| server.port.to_string();
    other.cli(&["REPLICAOF", "127.0.0.1", &port(&one)]);
    eventually("the replica", || other.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    let address = MovingAddress::to(one.port);
    let service = service(format!("redis://127.0.0.1:{}", address.port));
    assert_eq!(resolve(&service, A).0, 200);
    eventually("the pin at the replica", || !other.cli(&["KEYS", "berth:*pin*"]).trim().is_empty());

    // The roles change before the address does.
    other.cli(&["REPLICAOF", "NO", "ONE"]);
    one.cli(&["REPLICAOF", "127.0.0.1", &port(&other)]);
    eventually("the demotion", || one.cli(&["INFO", "replication"]).contains("role:slave"));
    for _ in 0..20 {
        assert_eq!(resolve(&service, B).0, 503);
    }
    eventually("the service not to be ready", || ready(&service) == 503);

    address.move_to(other.port);
    eventually("the new primary to be found", || ready(&service) == 200);
    let (status, pin) = resolve(&service, B);
    assert_eq!((status, &pin["outcome"], &pin["node"]), (200, &json!("found"), &json!(A)));
}

#[test]
fn a_server_that_lost_its_primary_is_left_too() {
    let one = RedisServer::start(&["--replica-serve-stale-data", "no"]);
    let other = RedisServer::start(&[]);
    let address = MovingAddress::to(one.port);
    let service = service(format!("redis://127.0.0.1:{}", address.port));
    assert_eq!(resolve(&service, A).0, 200);

    one.cli(&["REPLICAOF", "127.0.0.1", &support::free_ports(1)[0].to_string()]);
    eventually("MASTERDOWN", || resolve(&service, B).0 == 503);
    address.move_to(other.port);

    eventually("the other server", || resolve(&service, B).0 == 200);
}

/// A primary without its replicas takes no writes, one that cannot save takes none either, and one that a script occupies nothing at
/// all. None of them closes a connection, and each may have been replaced behind its name.
#[test]
fn a_server_that_takes_no_writes_is_left_too() {
    type Fence = fn(&RedisServer);
    let fences: [(&str, Fence); 3] = [
        ("NOREPLICAS", |one| drop(one.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]))),
        ("MISCONF", |one| {
            let folder = one.cli(&["CONFIG", "GET", "dir"]).lines().nth(1).unwrap().trim().to_owned();
            std::fs::create_dir_all(std::path::Path::new(&folder).join("dump.rdb/in-the-way")).unwrap();
            one.cli(&["CONFIG", "SET", "save", "3600 1"]);
            one.cli(&["BGSAVE"]);
        }),
        ("BUSY", |one| {
            let port = one.port.to_string();
            // Ends with the server.
            std::thread::spawn(move || {
                let run = ["-p", &port, "EVAL", "while true do end", "0"];
                std::process::Command::new("redis-cli").args(run).output()
            });
        }),
    ];
    for (what, fence) in fences {
        let one = RedisServer::start(&["--busy-reply-threshold", "20"]);
        let other = RedisServer::start(&[]);
        let address = MovingAddress::to(one.port);
        let service = service(format!("redis://127.0.0.1:{}", address.port));
        assert_eq!(resolve(&service, A).0, 200);

        fence(&one);
        let says = || service.ask("GET", "/readyz", "").body.contains(what);
        eventually(what, says);
        address.move_to(other.port);

        eventually(&format!("the other server after {what}"), || resolve(&service, B).0 == 200);
        eventually("readiness", || ready(&service) == 200);
    }
}

#[test]
fn a_user_that_the_server_learns_of_later_is_let_in() {
    let server = RedisServer::start(&[]);
    let service = service(format!("redis://berth:hush@127.0.0.1:{}", server.port));
    for _ in 0..3 {
        assert_eq!(resolve(&service, A).0, 503);
    }

    let user = ["ACL", "SETUSER", "berth", "on", ">hush", "~berth:*", "+@all", "-@dangerous", "-@admin"];
    assert_eq!(server.cli(&user).trim(), "OK");

    eventually("the user to be let in", || resolve(&service, A).0 == 200 && ready(&service) == 200);
}
