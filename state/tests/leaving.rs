//! What pods call in their hooks: `berth leave`, `berth join` and `berth install`, as the built binary, over real Redis.
#[path = "support/http.rs"]
mod http;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use http::{Service, ask};
use support::{RedisServer, eventually, free_ports};

const NODE: &str = "10.0.0.1:80";
const OTHER: &str = "10.0.0.2:80";

fn berth(arguments: &[&str]) -> Command {
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
struct Serve {
    child: Child,
    address: String,
}

impl Serve {
    fn start(address: &str, redis: &RedisServer, more: &[&str]) -> Self {
        let given = ["serve", "--listen", address, "--redis", &redis.url(), "--stop-delay", "0s"];
        // A busy machine is no store that is away.
        let child =
            berth(&given).args(["--store-timeout", "10s"]).args(more).stderr(Stdio::null()).spawn().unwrap();
        eventually("the service", || std::net::TcpStream::connect(address).is_ok());
        Self { child, address: address.to_owned() }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let reply = ask(self.address.parse().unwrap(), method, path, body, &["authorization: Bearer s1"]);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    fn stop(&mut self) {
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

fn on_redis(redis: &RedisServer, more: &[&str]) -> Serve {
    Serve::start(&format!("127.0.0.1:{}", free_ports(1)[0]), redis, more)
}

/// A session of this pool comes to the first candidate that takes it. The answer.
fn resolve(serve: &Serve, pool: &str, id: &str, candidates: &[&str]) -> Value {
    let session = json!({"key": SessionKey::new(pool, id.as_bytes()), "candidates": candidates});
    let body = json!({"pool": pool, "sessions": [session]}).to_string();
    serve.ask("POST", "/v1/resolve", &body)["pins"][0].clone()
}

fn end(serve: &Serve, pool: &str, id: &str) {
    let key = SessionKey::new(pool, id.as_bytes());
    serve.ask("DELETE", &format!("/v1/sessions/{key}?pool={pool}"), "");
}

/// A command that runs, and its lines as they come.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(|line| drop(send.send(line.unwrap()))));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("another line")
    }

    /// Its exit code, and what it complained about.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

fn leave(serve: &Serve, arguments: &[&str]) -> Command {
    let url = format!("http://{}", serve.address);
    let mut command = berth(&["leave", "--server", &url]);
    command.args(arguments).env("BERTH_AT_LEAST", "0s");
    command
}

fn failure(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn leave_drains_a_node_in_its_pools_and_ends_once_it_has_no_sessions() {
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &[]);
    resolve(&serve, "games", "ada", &[NODE]);
    resolve(&serve, "chat", "ben", &[NODE]);
    resolve(&serve, "chat", "cleo", &[OTHER]);

    let mut command = leave(&serve, &[]);
    // As a pod says which node it is.
    command.envs([("POD_IP", "10.0.0.1"), ("PORT", "80"), ("BERTH_POOL", "games,chat")]);
    let leaving = Running::start(&mut command);
    assert_eq!(leaving.line(), "10.0.0.1:80 is draining in pool chat");
    assert_eq!(leaving.line(), "10.0.0.1:80 is draining in pool games");
    assert!(leaving.line().starts_with("2 sessions left, 5"));
    // Its sessions stay, and new ones go elsewhere.
    assert_eq!(resolve(&serve, "games", "ada", &[NODE, OTHER])["node"], NODE);
    assert_eq!(resolve(&serve, "games", "dan", &[NODE, OTHER])["node"], OTHER);
    end(&serve, "games", "ada");
    assert!(leaving.line().starts_with("1 session left"));
    end(&serve, "chat", "ben");
    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(leaving.ends(), (Some(0), String::new()));

    // It spoke for itself: an operator's state is another value.
    let record = serve.ask("GET", &format!("/v1/nodes/{NODE}?pool=chat"), "");
    assert_eq!([&record["self_state"], &record["operator_state"]], ["draining", "active"]);
}

#[test]
fn leave_waits_for_its_deadline_and_no_longer() {
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &[]);
    resolve(&serve, "nodes", "ada", &[NODE]);

    let [leaving, patient] = [
        &["--node", NODE, "--deadline", "5s"][..],
        // Without sessions it waits at least until proxies know.
        &["--node", OTHER, "--deadline", "5s", "--at-least", "1h"],
    ]
    .map(|arguments| Running::start(&mut leave(&serve, arguments)));

    let says = "berth: the deadline has passed: 10.0.0.1:80 has 1 session left\n";
    assert_eq!(leaving.ends(), (Some(4), says.to_owned()));
    let says = "berth: the deadline has passed before --at-least; 10.0.0.2:80 has no sessions left\n";
    assert_eq!(patient.ends(), (Some(4), says.to_owned()));
}

/// The service is restarted with another token, and the file of the token is renewed meanwhile.
#[test]
fn leave_outlives_a_restart_of_its_service_and_reads_a_renewed_token() {
    let redis = RedisServer::start(&[]);
    let mut serve = on_redis(&redis, &["--token", "s1"]);
    resolve(&serve, "nodes", "ada", &[NODE]);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s1\n").unwrap();

    let given = ["--node", NODE, "--token-file", token.to_str().unwrap()];
    let mut leaving = Running::start(&mut leave(&serve, &given));
    let stderr = leaving.child.stderr.take().unwrap();
    let mut errors = BufReader::new(stderr).lines().map(Result::unwrap);
    leaving.line();
    assert!(leaving.line().starts_with("1 session left"));
    serve.stop();
    fs::write(&token, "s2\n").unwrap();
    assert!(errors.next().unwrap().contains("trying again each second"));
    let again = Serve::start(&serve.address, &redis, &["--token", "s2"]);
    assert_eq!(errors.next().unwrap(), "berth: the service answers again");
    let key = SessionKey::new("nodes", b"ada");
    let path = format!("/v1/sessions/{key}?pool=nodes");
    let headers = ["authorization: Bearer s2"];
    assert_eq!(ask(again.address.parse().unwrap(), "DELETE", &path, "", &headers).status, 200);
    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(errors.next(), None);
    assert_eq!(leaving.child.wait().unwrap().code(), Some(0));
}

/// A service in memory has forgotten the drain after a restart. The node says it again.
#[test]
fn leave_says_again_that_it_is_draining() {
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &[]);
    resolve(&serve, "nodes", "ada", &[NODE]);
    let leaving = Running::start(&mut leave(&serve, &["--node", NODE]));
    leaving.line();
    leaving.line();

    serve.ask("DELETE", &format!("/v1/nodes/{NODE}?pool=nodes"), "");

    eventually("the node drains again", || {
        let record =
            ask(serve.address.parse().unwrap(), "GET", &format!("/v1/nodes/{NODE}?pool=nodes"), "", &[]);
        record.status == 200 && record.json()["state"] == "draining"
    });
    end(&serve, "nodes", "ada");
    assert_eq!(leaving.ends().0, Some(0));
}

#[test]
fn a_signal_ends_leave_at_once() {
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &[]);
    resolve(&serve, "nodes", "ada", &[NODE]);
    for (signal, code, name) in [("-TERM", 143, "SIGTERM"), ("-INT", 130, "SIGINT")] {
        let leaving = Running::start(&mut leave(&serve, &["--node", NODE, "--deadline", "1h"]));
        leaving.line();
        leaving.line();
        let id = leaving.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let says = format!("berth: {name}: no longer waits for the sessions of 10.0.0.1:80\n");
        assert_eq!(leaving.ends(), (Some(code), says));
    }
}

#[test]
fn the_exit_code_of_leave_says_what_went_wrong() {
    let nowhere = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("token");
    fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &["--token", "s1"]);
    let url = format!("http://{}", serve.address);
    for (arguments, code, says) in [
        (&["--server", &nowhere, "--node", NODE, "--deadline", "1s"][..], 3, "is not draining in pool nodes"),
        (&["--server", &url, "--node", NODE], 1, "the service asks for a token"),
        (&["--server", &url, "--node", NODE, "--token", "wrong"], 1, "--token-file"),
        (&["--node", NODE, "--token-file", "/nowhere/token"], 2, "--token-file: cannot read /nowhere/token"),
        (&["--node", NODE, "--token-file", empty], 2, "is empty: it must hold a token"),
        (&["--node", NODE, "--token-file", empty, "--token", "a"], 2, "are both given: leave one out"),
        (&[], 2, "which node is this? Give --node, or --pod-ip and --port (POD_IP and PORT)"),
        (&["--pod-ip", "10.0.0.1"], 2, "which node is this?"),
        (&["--pod-ip", "10.0.0.300", "--port", "0"], 2, "--pod-ip: must be an IP address"),
        (&["--node", "10.0.0.1"], 2, "--node: must be ip:port"),
        (&["--node", NODE, "--pool", "a,b/c"], 2, "--pool: must be"),
        (&["--node", NODE, "--deadline", "1"], 2, "--deadline: must be a time with its unit"),
    ] {
        let (given, text) = failure(&berth(&["leave"]).args(arguments).output().unwrap());
        assert!(given == Some(code) && text.contains(says), "{arguments:?}: {given:?} {text}");
    }
    // A flag wins over the variable of the other way.
    let mut command = berth(&["leave", "--server", &url, "--node", NODE, "--token", "s1"]);
    let output =
        command.args(["--at-least", "0s"]).env("BERTH_TOKEN_FILE", "/nowhere/token").output().unwrap();
    assert_eq!(failure(&output), (Some(0), String::new()));
}

/// A pod leaves and its address is given to another one, which has another boot id. Sessions that were pinned to the first
/// come to the second only with the notice that it must load their state, and the second takes new sessions.
#[test]
fn an_address_that_another_pod_gets_passes_on_neither_state_nor_drain() {
    let redis = RedisServer::start(&[]);
    let serve = on_redis(&redis, &[]);
    let join = |more: &[&str]| {
        let url = format!("http://{}", serve.address);
        berth(&["join", "--server", &url, "--pod-ip", "10.0.0.1", "--port", "80"])
            .args(more)
            .output()
            .unwrap()
    };
    let first = join(&[]);
    assert_eq!(String::from_utf8_lossy(&first.stdout), "10.0.0.1:80 is active in pool nodes\n");
    assert_eq!(resolve(&serve, "nodes", "ada", &[NODE])["outcome"], "claimed");
    assert!(resolve(&serve, "nodes", "ada", &[NODE]).get("restore").is_none());
    // Ada's state is lost with the first pod: it did not ask in time.
    let code = leave(&serve, &["--node", NODE, "--deadline", "2s"]).output().unwrap().status.code();
    assert_eq!(code, Some(4));
    assert_eq!(resolve(&serve, "nodes", "ben", &[NODE, OTHER])["node"], OTHER);

    assert_eq!(join(&[]).status.code(), Some(0));

    let pin = resolve(&serve, "nodes", "ada", &[NODE, OTHER]);
    assert_eq!((&pin["node"], &pin["restore"]), (&json!(NODE), &json!(true)), "the stranger is notified");
    assert_eq!(resolve(&serve, "nodes", "cleo", &[NODE, OTHER])["node"], NODE, "the drain ended");
    // An operator's drain is of the address, and a start of the node does not end it.
    serve.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"state": "draining"}"#);
    let third = join(&["--boot-id", "third"]);
    assert_eq!(String::from_utf8_lossy(&third.stdout), "10.0.0.1:80 is draining in pool nodes\n");
    assert_eq!(serve.ask("GET", &format!("/v1/nodes/{NODE}?pool=nodes"), "")["boot_id"], "third");
}

/// What is not solved: pods that say no boot id. The second one is drained by the first, and sessions come to it unannounced.
/// docs/kubernetes.md says so, and that `berth join` or a boot id of the program's own is the way out.
#[test]
fn without_boot_ids_the_next_pod_at_an_address_inherits_the_drain() {
    let service = Service::in_memory();
    let url = service.url();
    let output = berth(&["leave", "--server", &url, "--node", NODE, "--at-least", "0s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let record = service.ask("GET", &format!("/v1/nodes/{NODE}?pool=nodes"), "").json();
    assert_eq!(record["state"], "draining");
}

#[test]
fn a_node_joins_although_the_service_is_away() {
    let nowhere = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let join = ["join", "--server", &nowhere, "--node", NODE, "--deadline", "1s", "--pool", "games,chat"];
    let output = berth(&join).output().unwrap();
    let (code, says) = failure(&output);
    assert_eq!(code, Some(0));
    assert_eq!(says.matches("10.0.0.1:80 starts without").count(), 2, "{says}");

    let service = Service::in_memory();
    let wrong =
        berth(&["join", "--server", &service.url(), "--node", NODE, "--boot-id", "a b"]).output().unwrap();
    let (code, says) = failure(&wrong);
    assert!(code == Some(1) && says.contains("must be letters, digits"), "{code:?} {says}");
}

#[test]
fn install_puts_the_program_where_another_container_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let installed = folder.path().join("berth");
    // Twice, over one that may be running, and with a umask that would keep others from running it.
    for _ in 0..2 {
        let own = env!("CARGO_BIN_EXE_berth");
        let script = format!("umask 077; exec {own} install {directory}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("installed {directory}/berth\n"));
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o7777, 0o755);
        fs::set_permissions(&installed, fs::Permissions::from_mode(0o500)).unwrap();
    }
    assert_eq!(fs::read(&installed).unwrap(), fs::read(env!("CARGO_BIN_EXE_berth")).unwrap());
    let version = Command::new(&installed).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"berth "), "{version:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");

    for (place, says) in [
        (format!("{directory}/nowhere"), "is it a directory that exists?"),
        (installed.to_str().unwrap().to_owned(), "is it a directory that exists?"),
        ("/proc/1".to_owned(), "cannot install into /proc/1"),
    ] {
        let (code, text) = failure(&berth(&["install", &place]).output().unwrap());
        assert!(code == Some(1) && text.contains(says), "{place}: {code:?} {text}");
    }
}
