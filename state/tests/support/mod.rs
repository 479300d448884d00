//! Private Redis servers for tests: free ports, temporary folders, gone when dropped.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same for what is asked asynchronously.
pub async fn eventually_async<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ports that were free a moment ago, below 55535 so that a cluster's second port (+10000) exists too.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut listeners = Vec::new();
    while listeners.len() < count {
        // Outside of the range that outgoing connections take theirs from.
        let port = 10_000 + (std::process::id() as u16 ^ rand16()) % 20_000;
        let both = (TcpListener::bind(("127.0.0.1", port)), TcpListener::bind(("127.0.0.1", port + 10_000)));
        if let (Ok(first), Ok(second)) = both {
            listeners.push((port, first, second));
        }
    }
    listeners.iter().map(|(port, ..)| *port).collect()
}

fn rand16() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u16
}

/// One redis-server.
pub struct RedisServer {
    pub port: u16,
    folder: TempDir,
    extra: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one with additional options.
    pub fn start(extra: &[&str]) -> Self {
        let mut server = Self {
            port: free_ports(1)[0],
            folder: TempDir::new().unwrap(),
            extra: extra.iter().map(|option| (*option).to_owned()).collect(),
            child: None,
        };
        server.revive();
        server
    }

    fn on_port(port: u16, extra: &[&str]) -> Self {
        let extra = extra.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port, folder: TempDir::new().unwrap(), extra, child: None };
        server.revive();
        server
    }

    /// Starts it (again) on its port, with what its folder holds.
    pub fn revive(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .args(&self.extra)
            .current_dir(self.folder.path())
            .stdout(log(self.folder.path()))
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed: run scripts/setup");
        self.child = Some(child);
        let port = self.port;
        eventually("redis-server", || cli(port, &["PING"]).trim() == "PONG");
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// One command, through redis-cli.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(folder: &Path) -> Stdio {
    std::fs::File::create(folder.join("log")).map_or_else(|_| Stdio::null(), Stdio::from)
}

fn cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-c", "-p", &port.to_string()]).args(arguments).output();
    String::from_utf8_lossy(&output.expect("redis-cli is needed: run scripts/setup").stdout).into_owned()
}

/// Three primaries and three replicas.
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Self {
        let options =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"];
        let servers: Vec<RedisServer> =
            free_ports(6).into_iter().map(|port| RedisServer::on_port(port, &options)).collect();
        let addresses = servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { servers };
        eventually("the cluster and its replicas", || {
            cluster.servers.iter().all(|server| {
                let nodes = server.cli(&["CLUSTER", "NODES"]);
                let replication = server.cli(&["INFO", "replication"]);
                server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && nodes.lines().filter(|line| line.contains("slave")).count() == 3
                    && (replication.contains("role:master") && replication.contains("state=online")
                        || replication.contains("master_link_status:up"))
            })
        });
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    /// Which server is primary for a key's slot now, by the word of a server that runs.
    pub fn primary_of(&self, key: &str) -> Option<usize> {
        let alive = self.servers.iter().find(|server| server.child.is_some())?;
        let slot: u16 = alive.cli(&["CLUSTER", "KEYSLOT", key]).trim().parse().ok()?;
        let nodes = alive.cli(&["CLUSTER", "NODES"]);
        let line = nodes.lines().find(|line| {
            !line.contains("fail")
                && line.split(' ').skip(8).any(|range| {
                    let (from, to) = range.split_once('-').unwrap_or((range, range));
                    from.parse::<u16>().is_ok_and(|from| from <= slot)
                        && to.parse::<u16>().is_ok_and(|to| slot <= to)
                })
        })?;
        let port: u16 = line.split(' ').nth(1)?.split(['@', ':']).nth(1)?.parse().ok()?;
        self.servers.iter().position(|server| server.port == port && server.child.is_some())
    }
}

/// Something listens there.
pub fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}
