//! One `berth serve`, as it ships: a process of its own that can be killed, started again and made to hang.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_core::wire::{EndReply, NodeChange, NodeId, NodeRecord, SessionKey, SessionReply};
use hyper::Method;
use serde::de::DeserializeOwned;
use tokio::net::TcpSocket;

use super::Store;
use crate::builder::previous;
use crate::client::{Client, Request, Response};
use crate::eventually::{patience, poll};
use crate::metrics;
use crate::process::{Server, last_words};

/// It starts in milliseconds; a Redis Cluster that has just been formed answers a little later.
const START: Duration = Duration::from_secs(15);

/// A state service. Its port stays its own for as long as it lives, also while it is killed.
#[derive(Debug)]
pub struct StateService {
    program: Mutex<PathBuf>,
    address: SocketAddr,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    token: Option<String>,
    store: Arc<Store>,
    log: PathBuf,
    server: Server,
    /// Bound but never listening: keeps others off the port.
    _reservation: TcpSocket,
}

/// What is started.
pub(super) struct Start {
    /// The `berth` to run.
    pub(super) program: PathBuf,
    /// Of 127.0.0.1; 0 is any that is free.
    pub(super) port: u16,
    pub(super) log: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) token: Option<String>,
}

impl StateService {
    /// Starts one, and returns when its store has answered it.
    pub(super) async fn start(start: Start, store: Arc<Store>) -> Result<Self, String> {
        let Start { program, port, log, arguments, environment, token } = start;
        let reservation = reserve(port).map_err(|error| format!("state service, port {port}: {error}"))?;
        let address = reservation.local_addr().map_err(|error| error.to_string())?;
        let service = Self {
            program: Mutex::new(program),
            address,
            arguments,
            environment,
            token,
            store,
            log,
            server: Server::default(),
            _reservation: reservation,
        };
        service.launch().await?;
        Ok(service)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is neither killed nor paused.
    pub fn runs(&self) -> bool {
        self.server.runs()
    }

    /// Ends it at once (SIGKILL): its connections break, further ones are refused. Memory forgets its pins.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Kills it if it runs, and starts it on its port with its flags. Returns when it is ready, or, while its store is
    /// away, when it answers at all.
    ///
    /// # Panics
    /// If it does not start, with its last words.
    pub async fn restart(&self) {
        self.launch().await.unwrap_or_else(|failure| panic!("restart: {failure}"));
    }

    /// Restarts it as the other version: the previous one as what is built here, and the reverse.
    ///
    /// # Panics
    /// As [`StateService::restart`], or if the other one was not built.
    pub async fn change_version(&self) {
        let [previous, current] =
            [previous("berth"), berth()].map(|path| path.unwrap_or_else(|lacks| panic!("{lacks}")));
        {
            let mut program = self.program.lock().unwrap();
            *program = if *program == previous { current } else { previous };
        }
        self.restart().await;
    }

    /// Makes it hang (SIGSTOP): connections are still accepted, by the kernel, and nothing is answered.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// Lets it go on; it answers what it was asked meanwhile.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.server.ended()
    }

    /// The memory it has in use (RSS), in bytes.
    ///
    /// # Panics
    /// If it does not run.
    pub fn resident_memory(&self) -> u64 {
        self.server.resident_memory().expect("a service that runs")
    }

    /// What it wrote to its log so far, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Any request to it, with its token if it has one.
    pub fn request(&self, method: Method, path: &str) -> Request {
        // A client of its own each time: a connection from before a restart would only fail.
        let request = Client::new(self.address).request(method, path);
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Where it says that a session is pinned, if it is.
    pub async fn pin_of(&self, pool: &str, session: impl AsRef<[u8]>) -> Option<SessionReply> {
        let path = format!("/v1/sessions/{}?pool={pool}", SessionKey::new(pool, session.as_ref()));
        let response = self.request(Method::GET, &path).send().await;
        (response.status != 404).then(|| read(&response))
    }

    /// Ends a session, as at logout; says whether there was one.
    pub async fn end_session(&self, pool: &str, session: impl AsRef<[u8]>) -> bool {
        let path = format!("/v1/sessions/{}?pool={pool}", SessionKey::new(pool, session.as_ref()));
        let reply: EndReply = read(&self.request(Method::DELETE, &path).send().await);
        reply.ended
    }

    /// Changes what is recorded of a node, and returns the record.
    pub async fn change_node(&self, pool: &str, node: &str, change: &NodeChange) -> NodeRecord {
        let body = serde_json::to_vec(change).expect("a change is JSON");
        let node: NodeId = node.parse().expect("a node's name");
        let path = format!("/v1/nodes/{}?pool={pool}", node.in_path());
        read(&self.request(Method::PUT, &path).body(body).send().await)
    }

    /// Runs an operator's command, such as `["drain", "10.0.0.1:80"]`, against it; returns what it printed.
    ///
    /// # Errors
    /// If the command fails, with what it said.
    pub async fn operate(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(berth()?);
        command.args(arguments).args(["--server", &format!("http://{}", self.address)]);
        clear_settings(&mut command);
        if let Some(token) = &self.token {
            command.env("BERTH_TOKEN", token);
        }
        let run = tokio::task::spawn_blocking(move || command.output()).await;
        let output = run.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let [said, complaint] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
        if output.status.success() { Ok(said) } else { Err(complaint) }
    }

    /// The sum of a metric over its series with these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.request(Method::GET, "/metrics").send().await;
        metrics::sum(&String::from_utf8_lossy(&page.body), name, labels)
    }

    async fn launch(&self) -> Result<(), String> {
        let mut command = Command::new(&*self.program.lock().unwrap());
        command.args(["serve", "--listen", &self.address.to_string()]).args(&self.arguments);
        clear_settings(&mut command);
        if let Some(token) = &self.token {
            command.env("BERTH_TOKEN", token);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.server.start(&mut command, &self.log)?;
        let page = if self.store.is_well() { "/readyz" } else { "/healthz" };
        let answers = async || {
            if let Some(status) = self.server.ended() {
                return Some(Err(format!("the state service ended with {status}")));
            }
            let asked = self.request(Method::GET, page).within(Duration::from_secs(1)).try_send().await;
            asked.is_ok_and(|response| response.status == 200).then_some(Ok(()))
        };
        let started = poll(answers, START).await;
        let started = started.unwrap_or_else(|_| Err(format!("no good {page} in {:?}", patience(START))));
        started.map_err(|failure| format!("{failure}:\n{}", last_words(&self.log)))
    }
}

impl Drop for StateService {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the state service {}\n{}---", self.address, last_words(&self.log));
        }
    }
}

#[track_caller]
fn read<T: DeserializeOwned>(response: &Response) -> T {
    assert!(response.status.is_success(), "{}: {:?}", response.status, response.body);
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {:?}", response.body))
}

/// Shares its port with a service that is started on it, and keeps it from the kernel's choices.
fn reserve(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    Ok(socket)
}

/// What the shell sets for a service of its own is not meant here.
fn clear_settings(command: &mut Command) {
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.to_string_lossy().starts_with("BERTH_")) {
        command.env_remove(name);
    }
}

/// `berth` as it ships, whatever profile the running test, demo or bench has: the release build in the same target folder.
pub fn berth() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let profile = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let berth = profile.expect("an executable is in a folder").with_file_name("release").join("berth");
    if berth.exists() {
        return Ok(berth);
    }
    Err(format!("{} is missing: run `cargo build --locked --release -p berth-state`", berth.display()))
}
