//! Clients and servers as their users run them: the Python programs of test-harness/clients, with the libraries that
//! scripts/setup installs into target/clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::envoy::root;
use crate::eventually::{patience, poll};
use crate::leftovers;
use crate::process::{Server, last_words};

/// The libraries are imported first, on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Dozens of clients, on a busy machine.
const RUN: Duration = Duration::from_secs(60);

/// Nodes in a Python program, which ends with them.
#[derive(Debug)]
pub struct PythonNodes {
    server: Server,
    addresses: Vec<SocketAddr>,
    directory: TempDir,
}

impl PythonNodes {
    /// Starts so many nodes of this program, and returns when they listen.
    ///
    /// # Panics
    /// If they do not, with the program's last words.
    pub async fn start(program: &str, count: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("berth-").tempdir().expect("a directory");
        leftovers::note_folder(directory.path()).expect("a record");
        let log = directory.path().join("log");
        let server = Server::default();
        server.start(command(program).arg(count.to_string()), &log).expect("python3");
        let listening = async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("ready "));
            match server.ended() {
                Some(status) => Some(Err(format!("{program} ended with {status}:\n{}", last_words(&log)))),
                None => Some(Ok(serde_json::from_str::<Vec<SocketAddr>>(line?).expect("addresses"))),
            }
        };
        let addresses = match poll(listening, START).await {
            Ok(found) => found.unwrap_or_else(|failure| panic!("{failure}")),
            Err(_) => panic!("{program} does not listen:\n{}", last_words(&log)),
        };
        Self { server, addresses, directory }
    }

    /// Where they listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the program has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PythonNodes {
    fn drop(&mut self) {
        self.server.kill();
        if std::thread::panicking() {
            eprintln!("--- nodes in Python\n{}---", last_words(&self.directory.path().join("log")));
        }
    }
}

/// Runs a program to its end and returns the JSON that it prints.
///
/// # Panics
/// If it fails, or takes longer than a minute (multiplied by `HARNESS_PATIENCE`).
pub async fn run_python(program: &str, arguments: &[String]) -> Value {
    let limit = patience(RUN).as_secs().to_string();
    let mut command = command(program);
    command.args(arguments).env("BERTH_CLIENT_LIMIT", limit).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.expect("it does not panic").expect("python3");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {}\n{said}\n{errors}", output.status);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{program}: {error}: {said}\n{errors}"))
}

fn command(program: &str) -> Command {
    let libraries = root().join("target/clients");
    assert!(libraries.is_dir(), "{} is missing: run scripts/setup", libraries.display());
    let mut command = Command::new("python3");
    command.arg(root().join("test-harness/clients").join(program)).env("PYTHONPATH", path(libraries));
    // The programs' folder is no place for what Python compiles.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn path(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path in UTF-8")
}
