//! A password or a certificate that is changed server by server: each server is reached with what it accepts.
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use berth_core::wire::{ResolveRequest, SessionAsk, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store as _, StoreError};
use tempfile::TempDir;

use support::{RedisCluster, RedisServer, eventually_async};

struct PasswordFile(TempDir);

impl PasswordFile {
    fn new(password: &str) -> Self {
        let file = Self(TempDir::new().unwrap());
        file.write(password);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("password")
    }

    fn write(&self, password: &str) {
        std::fs::write(self.path(), password).unwrap();
    }

    fn options(&self, ports: impl Iterator<Item = u16>, cluster: bool) -> Options {
        Options {
            urls: ports.map(|port| format!("redis://berth@127.0.0.1:{port}")).collect(),
            cluster,
            quorum: false,
            tls: Tls { password_file: Some(self.path()), ..Tls::default() },
            timeout: Duration::from_secs(2),
            keeping: Keeping::default(),
        }
    }
}

/// Claims a session that no other call has.
async fn claim(store: &Redis) -> Result<(), StoreError> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let key = SessionKey::new("nodes", &NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let sessions = vec![SessionAsk::new(key, vec!["10.0.0.1:80".parse().unwrap()], vec![])];
    let pool = "nodes".parse().unwrap();
    let request = ResolveRequest { pool, region: None, panic: false, correlation_id: None, sessions };
    store.resolve(&request).await.map(|_| ())
}

/// Claims until it is stopped. Returns how many there were, and the failures.
async fn claim_on(store: Arc<Redis>, stop: Arc<AtomicBool>) -> (usize, Vec<StoreError>) {
    let (mut count, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        failures.extend(claim(&store).await.err());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (count, failures)
}

/// The user's connections.
fn connections(server: &RedisServer) -> Vec<String> {
    let all = server.cli(&["CLIENT", "LIST"]);
    let own = all.lines().filter(|line| line.contains("user=berth"));
    own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

fn accept(server: &RedisServer, rules: &[&str]) {
    let said = server.cli(&[&["ACL", "SETUSER", "berth", "on", "~berth:*", "+@all"], rules].concat());
    assert_eq!(said.trim(), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_the_password_is_changed_server_by_server() {
    let cluster = RedisCluster::start();
    cluster.servers.iter().for_each(|server| accept(server, &[">old"]));
    let file = PasswordFile::new("old");
    let ports = cluster.servers.iter().map(|server| server.port);
    let store = Arc::new(Redis::open(&file.options(ports, true)).unwrap());
    eventually_async("the cluster", || async { claim(&store).await.is_ok() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let claimers: Vec<_> =
        (0..4).map(|_| tokio::spawn(claim_on(Arc::clone(&store), Arc::clone(&stop)))).collect();

    // Before any server has it, each of them in turn, and one that closed its connections both before and after.
    file.write("new");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut before = Vec::new();
    for server in &cluster.servers {
        server.cli(&["CLIENT", "KILL", "USER", "berth"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        before.push(connections(server));
        accept(server, &[">new", "<old"]);
        server.cli(&["CLIENT", "KILL", "USER", "berth"]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Now without being closed: the open connections are left as well.
    file.write("newest");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before: Vec<Vec<String>> = cluster.servers.iter().map(connections).collect();
    for server in &cluster.servers {
        accept(server, &[">newest", "<new"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let are_left = || async {
        let mut servers = cluster.servers.iter().zip(&before);
        servers.all(|(server, before)| connections(server).iter().all(|one| !before.contains(one)))
    };
    eventually_async("new connections to all servers", are_left).await;
    stop.store(true, Ordering::Relaxed);

    let (mut count, mut failures) = (0, Vec::new());
    for claimer in claimers {
        let (claimed, failed) = claimer.await.unwrap();
        count += claimed;
        failures.extend(failed);
    }
    println!("{} of {count} calls failed", failures.len());
    assert!(failures.is_empty(), "{} of {count} failed: {:?}", failures.len(), failures.first());
    assert!(count > 1000, "{count}");
}

/// Its configuration may still have the old password, and the next start the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_started_again_is_reached_with_either_password() {
    let user = ["--user", "berth", "on", ">old", "~berth:*", "+@all"];
    let server = RedisServer::start(&user);
    let file = PasswordFile::new("old");
    let store = Redis::open(&file.options([server.port].into_iter(), false)).unwrap();
    eventually_async("the server", || async { claim(&store).await.is_ok() }).await;
    file.write("new");
    let before = connections(&server);
    accept(&server, &[">new", "<old"]);
    let are_left = || async {
        claim(&store).await.unwrap();
        connections(&server).iter().all(|one| !before.contains(one))
    };
    eventually_async("new connections", are_left).await;

    server.restart();
    eventually_async("the old password", || async { claim(&store).await.is_ok() }).await;

    accept(&server, &[">new", "<old"]);
    server.cli(&["CLIENT", "KILL", "USER", "berth"]);
    claim(&store).await.unwrap();
}

/// Redis asks once: those that are open serve until the file follows, whatever becomes of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_serve_while_a_server_has_a_password_that_the_file_lacks() {
    let server = RedisServer::start(&[]);
    accept(&server, &[">old"]);
    let file = PasswordFile::new("old");
    let store = Redis::open(&file.options([server.port].into_iter(), false)).unwrap();
    let pool = "nodes".parse().unwrap();
    let both = async || claim(&store).await.is_ok() && store.head(&pool).await.is_ok();
    eventually_async("the server", both).await;
    let before = connections(&server);
    // So that there are former ones to try.
    file.write("new");
    accept(&server, &[">new", "<old"]);
    let are_left = || async {
        let now = connections(&server);
        both().await && now.len() == 2 && now.iter().all(|one| !before.contains(one))
    };
    eventually_async("new connections", are_left).await;

    accept(&server, &[">newest", "<new"]);
    let all = server.cli(&["CLIENT", "LIST"]);
    let feed = all.lines().find(|line| line.contains("user=berth") && line.contains("cmd=xrevrange"));
    let feed = feed.and_then(|line| line.split([' ', '=']).nth(1)).unwrap();
    assert_eq!(server.cli(&["CLIENT", "KILL", "ID", feed]).trim(), "1");

    for _ in 0..10 {
        assert!(store.head(&pool).await.is_err());
        claim(&store).await.unwrap();
    }
    file.write("newest");
    eventually_async("both", both).await;
}

/// A server out of memory takes no write, and that says nothing of the password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_replaced_while_a_server_is_out_of_memory() {
    let server = RedisServer::start(&[]);
    accept(&server, &[">old"]);
    let file = PasswordFile::new("old");
    let store = Redis::open(&file.options([server.port].into_iter(), false)).unwrap();
    eventually_async("the server", || async { claim(&store).await.is_ok() }).await;
    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "1"]).trim(), "OK");
    let before = connections(&server);

    file.write("new");
    accept(&server, &[">new", "<old"]);

    let are_replaced = || async {
        let _ = claim(&store).await;
        let now = connections(&server);
        !now.is_empty() && now.iter().all(|one| !before.contains(one))
    };
    eventually_async("new connections", are_replaced).await;
}
