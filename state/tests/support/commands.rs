//! The built binary as hooks and scripts run it: commands, their output, and `berth serve` as a process of its own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use super::http::ask;
use super::support::{RedisServer, eventually, free_ports};

/// Without the variables of the machine that runs the tests.
pub fn berth(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("BERTH_") || name == "POD_IP" || name == "PORT" {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `berth serve` as a process of its own, so that it can be stopped and started at the same address.
pub struct Serve {
    child: Child,
    pub address: String,
}

impl Serve {
    pub fn start(address: &str, redis: &RedisServer, more: &[&str]) -> Self {
        let given = ["serve", "--listen", address, "--redis", &redis.url(), "--stop-delay", "0s"];
        // A busy machine is no store that is away.
        let child =
            berth(&given).args(["--store-timeout", "10s"]).args(more).stderr(Stdio::null()).spawn().unwrap();
        eventually("the service", || std::net::TcpStream::connect(address).is_ok());
        Self { child, address: address.to_owned() }
    }

    pub fn on_redis(redis: &RedisServer, more: &[&str]) -> Self {
        Self::start(&format!("127.0.0.1:{}", free_ports(1)[0]), redis, more)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let reply = ask(self.address.parse().unwrap(), method, path, body, &["authorization: Bearer s1"]);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// A session of this pool comes to the first candidate that takes it. The answer.
    pub fn resolve(&self, pool: &str, id: &str, candidates: &[&str]) -> Value {
        let session = json!({"key": SessionKey::new(pool, id.as_bytes()), "candidates": candidates});
        let body = json!({"pool": pool, "sessions": [session]}).to_string();
        self.ask("POST", "/v1/resolve", &body)["pins"][0].clone()
    }

    pub fn end(&self, pool: &str, id: &str) {
        let key = SessionKey::new(pool, id.as_bytes());
        self.ask("DELETE", &format!("/v1/sessions/{key}?pool={pool}"), "");
    }

    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that runs, and its lines as they come.
pub struct Running {
    pub child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(|line| drop(send.send(line.unwrap()))));
        Self { child, lines }
    }

    pub fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("another line")
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Its exit code, and what it complained about.
    pub fn ends(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code of a command that ended, and what it complained about.
pub fn failure(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}
