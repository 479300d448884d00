//! Private Redis servers and clusters: on free ports, in temporary folders, gone when dropped. The machine's own is never
//! used. Debian's redis-server and redis-cli 7 must be on the path; `make setup` sees to it. `BERTH_REDIS_SERVER=file` runs another
//! server of that protocol instead, such as Valkey's.
//!
//! Everything here blocks for the milliseconds that a start or a question takes. The state service's tests include this
//! file by its path (`state/tests/support`): neither crate may depend on the other, and a crate of its own would be more
//! than two files deserve. So it names nothing of the harness but [`Server`].

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::leftovers;
use super::process::{Server, last_words};

/// How long a server, a cluster or a change of roles may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// Somebody else may take a port between the look at it and the start: so often another one is tried.
const ATTEMPTS: usize = 5;
/// A primary that is silent this long (in milliseconds) is replaced about a second later. Shorter, and a busy machine
/// replaces primaries that are well.
const NODE_TIMEOUT: &str = "2000";

/// Ports that were free a moment ago, low enough that a cluster's second port (10,000 higher) exists and is free too.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut found = Vec::new();
    while found.len() < count {
        // Below the range that outgoing connections take theirs from; test processes start at different places.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = std::process::id().wrapping_mul(7919) % 20_000;
        let port = 10_000 + u16::try_from((start + u32::from(step)) % 20_000).expect("below 20,000");
        let both = [port, port + 10_000].map(|port| TcpListener::bind(("127.0.0.1", port)));
        if both.iter().all(Result::is_ok) {
            found.push(port);
        }
    }
    found
}

/// The server's program.
fn program() -> OsString {
    std::env::var_os("BERTH_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// One redis-server, without persistence: what is killed has forgotten everything.
#[derive(Debug)]
pub struct RedisServer {
    /// Its port of 127.0.0.1, for as long as it lives.
    pub port: u16,
    folder: TempDir,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    server: Server,
}

impl RedisServer {
    /// Starts one with these additional options.
    ///
    /// # Panics
    /// If it does not start, with its last words.
    pub fn start(options: &[&str]) -> Self {
        Self::start_in(options, &[])
    }

    /// Starts one with these additional options, and these variables in its environment.
    ///
    /// # Panics
    /// If it does not start, with its last words.
    pub fn start_in(options: &[&str], environment: &[(String, String)]) -> Self {
        let mut failure = String::new();
        for port in free_ports(ATTEMPTS) {
            let server = Self {
                port,
                folder: TempDir::with_prefix("berth-redis-").expect("a temporary folder"),
                options: options.iter().map(|option| (*option).to_owned()).collect(),
                environment: environment.to_vec(),
                server: Server::default(),
            };
            match server.launch() {
                Ok(()) => return server,
                Err(reason) => failure = reason,
            }
        }
        panic!("redis-server does not start: {failure}");
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once. With it goes what it held.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Kills it if it runs, and starts it on its port with its options; empty, but still of its cluster.
    ///
    /// # Panics
    /// If it does not start, with its last words.
    pub fn restart(&self) {
        self.kill();
        self.launch().unwrap_or_else(|failure| panic!("redis-server does not start again: {failure}"));
    }

    /// Stops it without closing anything: requests wait.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// Whether it is neither killed nor paused.
    pub fn runs(&self) -> bool {
        self.server.runs()
    }

    /// What redis-cli says to one command. Hangs if the server is paused.
    pub fn cli(&self, arguments: &[&str]) -> String {
        redis_cli(&[&["-c", "-p", &self.port.to_string()], arguments].concat())
    }

    fn launch(&self) -> Result<(), String> {
        leftovers::note_folder(self.folder.path())?;
        let mut command = Command::new(program());
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .args(&self.options)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path());
        self.server.start(&mut command, &self.log()).map_err(|error| format!("{error}; run `make setup`"))?;

        // Its own answer, not that of another test's server which took the port.
        let mine = format!("process_id:{}\r", self.server.id().expect("just started"));
        let ready = || {
            if let Some(status) = self.server.ended() {
                return Some(Err(format!("it ended with {status}: {}", last_words(&self.log()))));
            }
            self.cli(&["INFO", "server"]).contains(&mine).then_some(Ok(()))
        };
        wait_for(ready).unwrap_or_else(|| Err(format!("no answer in {LIMIT:?}: {}", last_words(&self.log()))))
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Or it could write into the folder while that is being removed.
        self.kill();
    }
}

/// Three primaries, and a replica of each.
#[derive(Debug)]
pub struct RedisCluster {
    /// All six. Who is what changes.
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts and forms one: a few seconds.
    ///
    /// # Panics
    /// If it is not formed, with what redis-cli said of it.
    pub fn start() -> Self {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            NODE_TIMEOUT,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let cluster = Self { servers: (0..6).map(|_| RedisServer::start(&options)).collect() };
        let addresses: Vec<String> =
            cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let said = redis_cli(&create);
        assert!(wait_for(|| cluster.is_whole().then_some(())).is_some(), "no cluster was formed: {said}");
        cluster
    }

    /// All servers, for a client to find the others by any of them.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    /// Whether all six run and agree, and each replica has what its primary has.
    pub fn is_whole(&self) -> bool {
        self.servers.iter().all(|server| {
            if !server.runs() {
                return false;
            }
            let replication = server.cli(&["INFO", "replication"]);
            server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && members(&server.cli(&["CLUSTER", "NODES"])).filter(|member| !member.is_primary).count()
                    == 3
                && (replication.contains("role:master") && replication.contains("state=online")
                    || replication.contains("master_link_status:up"))
        })
    }

    /// The servers that are primaries now, in the order of their slots, as a running server reports.
    pub fn primaries(&self) -> Vec<usize> {
        let mut primaries: Vec<(u16, usize)> = self
            .view()
            .iter()
            .filter_map(|member| Some((member.slots.first()?.0, self.index(member)?)))
            .collect();
        primaries.sort_unstable();
        primaries.into_iter().map(|(_, index)| index).collect()
    }

    /// Which server is the replica of this one.
    ///
    /// # Panics
    /// If it has none.
    pub fn replica_of(&self, primary: usize) -> usize {
        let id = self.servers[primary].cli(&["CLUSTER", "MYID"]).trim().to_owned();
        let is_replica =
            |nodes: String| nodes.lines().any(|line| line.contains("myself,slave") && line.contains(&id));
        self.servers
            .iter()
            .position(|server| is_replica(server.cli(&["CLUSTER", "NODES"])))
            .expect("a replica")
    }

    /// Which server is primary for a key's slot now; `None` while the former primary is gone and no replica has taken over.
    pub fn primary_of(&self, key: &str) -> Option<usize> {
        let slot: u16 = self.speaker()?.cli(&["CLUSTER", "KEYSLOT", key]).trim().parse().ok()?;
        let has = |member: &&Member| member.slots.iter().any(|&(from, to)| (from..=to).contains(&slot));
        self.view().iter().find(has).and_then(|member| self.index(member))
    }

    /// Kills the primary of this place in [`RedisCluster::primaries`], and says which server that was. Its replica takes
    /// over two to four seconds later.
    pub fn kill_primary(&self, place: usize) -> usize {
        let index = self.primaries()[place];
        self.servers[index].kill();
        index
    }

    /// Has a primary's replica take its place, as before maintenance: nothing is lost. Returns when that is done.
    ///
    /// # Panics
    /// If the server is no primary with a replica, or the roles do not change.
    pub fn failover(&self, primary: usize) {
        let id = self.servers[primary].cli(&["CLUSTER", "MYID"]).trim().to_owned();
        let view = self.view();
        let replica = view.iter().find(|member| member.of == id).and_then(|member| self.index(member));
        let replica = replica.expect("a primary with a replica that runs");
        assert_eq!(self.servers[replica].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
        let changed = || self.primaries().contains(&replica).then_some(());
        assert!(wait_for(changed).is_some(), "the roles do not change");
    }

    fn view(&self) -> Vec<Member> {
        let report = self.speaker().map(|server| server.cli(&["CLUSTER", "NODES"])).unwrap_or_default();
        members(&report).filter(|member| !member.failed).collect()
    }

    fn speaker(&self) -> Option<&RedisServer> {
        self.servers.iter().find(|server| server.runs())
    }

    /// The place of a member that runs.
    fn index(&self, member: &Member) -> Option<usize> {
        self.servers.iter().position(|server| server.port == member.port && server.runs())
    }
}

/// A line of `CLUSTER NODES`.
struct Member {
    port: u16,
    is_primary: bool,
    failed: bool,
    /// Whose replica it is, by id; `-` for a primary.
    of: String,
    slots: Vec<(u16, u16)>,
}

/// Lines such as `ID 127.0.0.1:7000@17000 master - 0 1426238317239 4 connected 0-5460 5462`.
fn members(report: &str) -> impl Iterator<Item = Member> {
    report.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let slots = fields.iter().skip(8).filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some((from.parse().ok()?, to.parse().ok()?))
        });
        Some(Member {
            port: fields.get(1)?.split(['@', ':']).nth(1)?.parse().ok()?,
            is_primary: fields.get(2)?.contains("master"),
            // `nofailover` is another flag.
            failed: fields.get(2)?.split(',').any(|flag| flag.starts_with("fail")),
            of: (*fields.get(3)?).to_owned(),
            slots: slots.collect(),
        })
    })
}

fn redis_cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output();
    let output = output.expect("redis-cli is needed: run `make setup`");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

/// Asks until there is an answer, or for long enough.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || start.elapsed() > LIMIT {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
