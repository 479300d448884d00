//! One running Envoy: started, made ready, reloaded, observed, and surely stopped.
//!
//! How it runs – as a process or in a container – is [`launch`]'s affair; nothing here differs between the two.

mod admin;
mod command;
mod docker;
mod launch;
mod process;
mod usage;

pub use admin::Host;
pub(crate) use command::root;
pub(crate) use launch::{Launcher, in_docker, unique_name};

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bootstrap::{Bootstrap, EdsCluster, edit_plugin, write_listeners};
use crate::client::Client;
use crate::eventually::{patience, poll};
use crate::metrics;
use crate::process::{last_words, signal};
use admin::Admin;

/// Loads of a module, first health checks and a container on a busy two-core machine, all together.
const START: Duration = Duration::from_secs(30);
/// A change of listeners does not compile a module again.
const RELOAD: Duration = Duration::from_secs(15);
/// The way of a line of log out of a container.
const LOG: Duration = Duration::from_secs(2);

/// A configuration that Envoy refused, with its reason; the former one still serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack(pub String);

impl fmt::Display for Nack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Nack {}

/// How one is started.
pub(crate) struct Options {
    /// Worker threads.
    pub(crate) concurrency: u32,
    /// Levels for parts of its log.
    pub(crate) log: String,
    /// Variables in its environment, beside those of this process.
    pub(crate) environment: Vec<(String, String)>,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    name: String,
    directory: PathBuf,
    launcher: Arc<Launcher>,
    concurrency: u32,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    admin: Admin,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    /// From its last start until it served.
    start_time: Duration,
    client: Option<Client>,
    listeners: Vec<Value>,
}

impl Envoy {
    /// Writes its files into `directory` and starts it.
    pub(crate) async fn start(
        launcher: Arc<Launcher>,
        directory: &Path,
        bootstrap: &Bootstrap,
        options: Options,
    ) -> Result<Self, String> {
        let Options { concurrency, log, environment } = options;
        std::fs::create_dir(directory).unwrap();
        let [file, lds, socket] = ["bootstrap.json", "lds.json", "admin"].map(|name| directory.join(name));
        let admin = Admin::new(&socket, bootstrap.admin_port);
        bootstrap.write(&file, &lds, &admin.address());
        let arguments = [
            ["-c", file.to_str().unwrap()],
            ["--concurrency", &concurrency.to_string()],
            ["--component-log-level", &log],
            // Connections of a former configuration end soon: tests look at what the new one does.
            ["--drain-time-s", "1"],
            ["--drain-strategy", "immediate"],
        ];
        let mut arguments: Vec<String> = arguments.concat().into_iter().map(String::from).collect();
        // Without it two Envoys on one machine share memory by number.
        arguments.push("--disable-hot-restart".into());

        let envoy = Self {
            name: launch::unique_name(),
            directory: directory.to_owned(),
            launcher,
            concurrency,
            arguments,
            environment,
            admin,
            state: Mutex::new(State {
                child: None,
                start_time: Duration::ZERO,
                client: None,
                listeners: bootstrap.listeners(),
            }),
        };
        envoy.launch().await?;
        Ok(envoy)
    }

    /// A client with keep-alive connections to its ingress listener.
    pub fn client(&self) -> Client {
        self.state.lock().unwrap().client.clone().expect("this Envoy is killed")
    }

    /// Its ingress listener; another one after a restart.
    pub fn address(&self) -> SocketAddr {
        self.client().address()
    }

    /// The body of an admin page, such as `/server_info`.
    ///
    /// # Panics
    /// If the admin interface does not answer 200.
    pub async fn admin(&self, path: &str) -> String {
        self.admin.get(path).await.unwrap_or_else(|failure| panic!("admin {path}: {failure}"))
    }

    /// Does what an admin page with an effect does (POST), such as `/healthcheck/fail`.
    ///
    /// # Panics
    /// If the admin interface does not answer 200.
    pub async fn admin_post(&self, path: &str) -> String {
        self.admin.post(path).await.unwrap_or_else(|failure| panic!("admin POST {path}: {failure}"))
    }

    /// A counter or gauge by its full name. One that Envoy has not created yet is 0.
    pub async fn stat(&self, name: &str) -> u64 {
        self.try_stat(name).await.unwrap_or(0)
    }

    /// A counter or gauge by its full name, if there is one.
    pub async fn try_stat(&self, name: &str) -> Option<u64> {
        admin::stat(&self.admin(&admin::stats_path(name)).await, name)
    }

    /// The metrics as Prometheus reads them.
    pub async fn prometheus(&self) -> String {
        self.admin("/stats/prometheus").await
    }

    /// The sum of a Prometheus metric over all its series that carry these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.prometheus().await, name, labels)
    }

    /// The hosts of all clusters, as `/clusters` has them.
    pub async fn clusters(&self) -> Vec<Host> {
        admin::hosts(&self.admin("/clusters?format=json").await)
    }

    /// How often a wasm VM trapped, was reloaded, or should have been: 0 as long as the filter keeps its promise.
    ///
    /// Traps are counted in the log, because no stat tells of one before the next request.
    pub async fn wasm_failures(&self) -> u64 {
        let log = self.log();
        let traps = log
            .lines()
            .filter(|line| line.contains("Function: proxy_") && line.contains(" failed: "))
            .count();
        admin::wasm_failures(&self.admin("/stats?filter=wasm").await) + traps as u64
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Changes the plugin's configuration at run time. On [`Nack`] the former one goes on.
    ///
    /// Later requests of [`Envoy::client`] use new connections: Envoy serves those that are open by the former
    /// configuration until they are drained.
    pub async fn reload(&self, edit: impl Fn(&mut Value)) -> Result<(), Nack> {
        self.reload_listener(|listener| edit_plugin(listener, &edit)).await
    }

    /// Changes the first listener at run time: routes, filters, anything.
    pub async fn reload_listener(&self, edit: impl FnOnce(&mut Value)) -> Result<(), Nack> {
        let former = self.state.lock().unwrap().listeners.clone();
        let mut listeners = former.clone();
        edit(&mut listeners[0]);
        if listeners == former {
            return Ok(());
        }

        let [success, rejected, failure] = ["update_success", "update_rejected", "update_failure"]
            .map(|stat| format!("listener_manager.lds.{stat}"));
        // Counted once per worker: when all have it, no request is served by the former listener any more.
        let created = "listener_manager.listener_create_success";
        let (accepted, refused) = (self.stat(&success).await, self.stat(&rejected).await);
        let failed = self.stat(&failure).await;
        let everywhere = self.stat(created).await + u64::from(self.concurrency);

        let log_before = self.log().len();
        write_listeners(&listeners, &self.directory.join("lds.json"));
        let verdict = poll(
            async || {
                if self.stat(&rejected).await + self.stat(&failure).await > refused + failed {
                    return Some(Err(()));
                }
                (self.stat(&success).await > accepted && self.stat(created).await >= everywhere)
                    .then_some(Ok(()))
            },
            RELOAD,
        );
        match verdict.await {
            Ok(Ok(())) => {
                let mut state = self.state.lock().unwrap();
                state.listeners = listeners;
                state.client = state.client.take().map(|client| Client::new(client.address()));
                Ok(())
            }
            Ok(Err(())) => {
                let reason = self.rejection(log_before).await;
                // The file is put back without waiting: Envoy serves it already.
                write_listeners(&former, &self.directory.join("lds.json"));
                poll(async || self.stat(&success).await > accepted, RELOAD)
                    .await
                    .expect("the former listeners");
                Err(Nack(reason))
            }
            Err(_) => panic!("Envoy neither took nor refused the listeners in {RELOAD:?}"),
        }
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&self) {
        let mut state = self.state.lock().unwrap();
        state.client = None;
        if let Some(mut child) = state.child.take() {
            self.launcher.kill(&self.name, &mut child);
        }
    }

    /// Stops it (SIGSTOP): connections stay open, and nothing is answered. As a process: a container's command is not Envoy.
    pub fn pause(&self) {
        signal(self.pid(), "-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.pid(), "-CONT");
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.state.lock().unwrap().child.as_mut()?.try_wait().ok().flatten()
    }

    /// Kills it if it runs, and starts it with its current configuration.
    pub async fn restart(&self) {
        self.kill();
        self.launch().await.unwrap_or_else(|failure| panic!("restart: {failure}"));
    }

    async fn launch(&self) -> Result<(), String> {
        let listeners = self.state.lock().unwrap().listeners.clone();
        write_listeners(&listeners, &self.directory.join("lds.json"));
        self.admin.clean_up();
        let began = Instant::now();
        let child = self.launcher.start(
            &self.name,
            &self.directory,
            &self.arguments,
            &self.environment,
            &self.log_file(),
        )?;
        self.state.lock().unwrap().child = Some(child);

        let ingress = listeners[0]["name"].as_str().expect("the first listener has a name");
        let ready = poll(async || self.ready(ingress).await.transpose().ok_or("not ready"), START).await;
        let address = ready.unwrap_or_else(|_| Err(format!("Envoy not ready in {:?}", patience(START))))?;
        let mut state = self.state.lock().unwrap();
        state.start_time = began.elapsed();
        state.client = Some(Client::new(address));
        Ok(())
    }

    /// The ingress address once it is served; an error once that cannot happen any more.
    async fn ready(&self, ingress: &str) -> Result<Option<SocketAddr>, String> {
        let exited = self.state.lock().unwrap().child.as_mut().and_then(|child| child.try_wait().unwrap());
        if let Some(status) = exited {
            return Err(format!("Envoy ended with {status}:\n{}", last_words(&self.log_file())));
        }
        if self.admin.get("/ready").await.is_err() {
            return Ok(None);
        }
        if self.stat("listener_manager.lds.update_rejected").await > 0 {
            return Err(format!("Envoy refused the listeners: {}", self.rejection(0).await));
        }
        Ok(admin::listener_address(&self.admin("/listeners?format=json").await, ingress))
    }

    /// Why it refused listeners: its own words, and the errors in its log since then. Of a plugin that refuses its
    /// configuration Envoy says no more than that; what the plugin said of it is in the log.
    async fn rejection(&self, log_before: usize) -> String {
        let dump = self.admin("/config_dump?resource=dynamic_listeners").await;
        let errors = || {
            let log = self.log();
            let lines = log.get(log_before..).unwrap_or_default().lines();
            let errors = lines.filter(|line| line.contains("][error][") || line.contains("][critical]["));
            let errors: Vec<String> = errors.map(str::to_owned).collect();
            (!errors.is_empty()).then_some(errors)
        };
        // A container's log arrives a little after what it tells of. A refusal that logs nothing has said it all.
        let errors = poll(async || errors().ok_or("no error in the log yet"), LOG).await.unwrap_or_default();
        errors.iter().fold(admin::rejection(&dump), |reason, line| format!("{reason}\n{line}"))
    }

    /// How often each of these clusters has taken or refused its endpoints.
    pub(crate) async fn endpoint_updates(&self, clusters: &[EdsCluster]) -> Vec<(u64, u64)> {
        let mut updates = Vec::new();
        for EdsCluster { in_stats: cluster, .. } in clusters {
            let success = self.stat(&format!("cluster.{cluster}.update_success")).await;
            updates.push((success, self.stat(&format!("cluster.{cluster}.update_rejected")).await));
        }
        updates
    }

    pub(crate) fn runs(&self) -> bool {
        self.state.lock().unwrap().child.is_some()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} (its last lines)\n{}---", self.name, last_words(&self.log_file()));
        }
    }
}
