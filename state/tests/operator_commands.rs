//! `berth serve` and the operator's commands as scripts meet them: the built binary, its output and its exit codes.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use http::Service;
use support::{RedisServer, eventually, free_ports};

fn berth(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    for name in ["POOL", "SERVER", "TOKEN", "CA", "CLIENT_CERT", "CLIENT_KEY"] {
        command.env_remove(format!("BERTH_{name}"));
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command against the service.
fn run(service: &Service, arguments: &[&str]) -> Output {
    berth(arguments).env("BERTH_SERVER", service.url()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn resolve(service: &Service, id: &str, candidates: &[&str], unusable: &[&str]) {
    let key = SessionKey::new("nodes", id.as_bytes());
    let session = json!({"key": key, "candidates": candidates, "unusable": unusable});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    assert_eq!(service.ask("POST", "/v1/resolve", &body).status, 200);
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

#[test]
fn inspect_tells_where_a_session_lives() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A, B], &[]);
    resolve(&service, "alice", &[A, B], &[A]);

    let text = stdout(&run(&service, &["inspect", "alice"]));
    for line in ["node     10.0.0.2:80", "state    active", "version  1", "rehomed", "reason=unusable"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    let key = SessionKey::new("nodes", b"alice").to_string();
    let by_key = json_lines(&run(&service, &["inspect", "--key", &key, "--format", "json"]));
    assert_eq!((&by_key[0]["node"], &by_key[0]["key"]), (&json!(B), &json!(key)));
}

#[test]
fn inspect_tells_what_a_sessions_token_says() {
    let service = Service::in_memory();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let [alice, bob] = ["alice", "bob"].map(|id| SessionKey::new("nodes", id.as_bytes()));
    resolve(&service, "alice", &[A], &[]);
    let session = json!({"key": bob, "candidates": [B], "alias_of": alice, "session_version": 3,
        "created_ms": now - 60_000, "ends_ms": now + 3_600_000, "ttl_ms": 900_000});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    assert_eq!(service.ask("POST", "/v1/resolve", &body).status, 200);

    let text = stdout(&run(&service, &["inspect", "bob"]));
    let former = format!("alias of {alice}");
    for line in [
        "node     10.0.0.1:80",
        "session  version 3",
        &former,
        "created  1m0",
        "idle ttl 15m00s",
        "ends     in 59m",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let shown = &json_lines(&run(&service, &["inspect", "bob", "--format", "json"]))[0];
    for (name, value) in [
        ("session_version", json!(3)),
        ("alias_of", json!(alice)),
        ("created_ms", json!(now - 60_000)),
        ("ends_ms", json!(now + 3_600_000)),
        ("idle_ttl_ms", json!(900_000)),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    // The former key has learnt the version; the event shows it.
    let text = stdout(&run(&service, &["inspect", "alice"]));
    assert!(text.contains("superseded") && text.contains("session_version=3"), "{text}");
}

#[test]
fn drain_and_set_state_are_seen_by_nodes() {
    let service = Service::in_memory();
    assert_eq!(json_lines(&run(&service, &["nodes", "--format", "json"])), Vec::<Value>::new());

    let drained =
        json_lines(&run(&service, &["drain", A, "--force", "--note", "new disk", "--format", "json"]));
    assert_eq!((&drained[0]["state"], &drained[0]["note"]), (&json!("draining"), &json!("new disk")));
    stdout(&run(&service, &["set-state", "[::1]:80", "standby", "--force"]));

    let text = stdout(&run(&service, &["nodes"]));
    assert!(text.contains("10.0.0.1:80            draining") && text.contains("new disk"), "{text}");
    assert!(text.contains("[::1]:80               standby"), "{text}");
    assert_eq!(json_lines(&run(&service, &["nodes", "--pool", "others", "--format", "json"])).len(), 0);

    stdout(&run(&service, &["set-state", A, "active", "--note", ""]));
    let records = json_lines(&run(&service, &["nodes", "--format", "json"]));
    assert_eq!((&records[0]["state"], records[0].get("note")), (&json!("active"), None));
}

/// A typo, of the node or of the pool, is not taken for a node that is known by its sessions or its record.
#[test]
fn a_node_of_which_nothing_is_known_is_not_drained_unless_it_is_to_come() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A], &[]);
    for (arguments, says) in [
        (&["drain", "10.9.9.9:1"][..], "nothing is known of 10.9.9.9:1 in pool nodes"),
        (&["drain", "10.9.9.9:1"], "The pool has 10.0.0.1:80."),
        (&["set-state", "10.9.9.9:1", "standby"], "--force if it is to come"),
        (&["drain", A, "--pool", "ndoes"], "is it the pool's name in the proxies' configuration"),
    ] {
        let output = run(&service, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), message.contains(says)),
            (Some(5), true),
            "{arguments:?}: {message}"
        );
    }
    for pool in ["nodes", "ndoes"] {
        let listed = run(&service, &["nodes", "--pool", pool, "--format", "json"]);
        assert_eq!(json_lines(&listed), Vec::<Value>::new(), "nothing was changed");
    }

    // By its sessions, by what was forced, and by its own word.
    stdout(&run(&service, &["drain", A]));
    stdout(&run(&service, &["drain", "10.9.9.9:1", "--force"]));
    stdout(&run(&service, &["set-state", "10.9.9.9:1", "active"]));
    let itself = r#"{"self_state": "active", "boot_id": "b1"}"#;
    assert_eq!(service.ask("PUT", &format!("/v1/nodes/{B}?pool=nodes"), itself).status, 200);
    stdout(&run(&service, &["drain", B]));
    // What was forgotten is not known.
    stdout(&run(&service, &["forget", "10.9.9.9:1"]));
    assert_eq!(run(&service, &["drain", "10.9.9.9:1"]).status.code(), Some(5));
}

#[test]
fn nodes_tells_what_operators_and_nodes_said_and_what_counts() {
    let service = Service::in_memory();
    let path = format!("/v1/nodes/{A}?pool=nodes");
    assert_eq!(service.ask("PUT", &path, r#"{"self_state": "draining", "boot_id": "b1"}"#).status, 200);

    // An operator sees why it does not help.
    let text = stdout(&run(&service, &["set-state", A, "active"]));
    assert!(text.contains("10.0.0.1:80            draining   active     draining "), "{text}");
    stdout(&run(&service, &["set-state", A, "standby"]));
    assert_eq!(service.ask("PUT", &path, r#"{"self_state": "active"}"#).status, 200);
    let text = stdout(&run(&service, &["nodes"]));
    assert!(text.contains("10.0.0.1:80            standby    standby    active "), "{text}");
}

#[test]
fn forget_ends_what_was_said_of_a_node() {
    let service = Service::in_memory();
    stdout(&run(&service, &["drain", "[::1]:80", "--force"]));
    stdout(&run(&service, &["drain", A, "--force"]));

    assert_eq!(stdout(&run(&service, &["forget", "[::1]:80"])), "forgot [::1]:80\n");
    let forgotten = json_lines(&run(&service, &["forget", A, "--format", "json"]));
    assert_eq!(forgotten, [json!({"forgotten": true})]);

    let left = stdout(&run(&service, &["nodes"]));
    assert_eq!(left.lines().count(), 2, "the head, and that others are not listed: {left}");
    assert_eq!(service.ask("GET", &format!("/v1/nodes/{A}?pool=nodes"), "").status, 404);
    let output = run(&service, &["forget", A]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is recorded of node 10.0.0.1:80"));
}

#[test]
fn nodes_are_named_as_envoy_names_hosts_and_addresses_have_one_spelling() {
    let service = Service::in_memory();
    for (typed, name) in [
        ("10.0.0.1:080", "10.0.0.1:80"),
        ("[0::1]:80", "[::1]:80"),
        ("envoy://connect_originate/10.0.0.9:8080", "envoy://connect_originate/10.0.0.9:8080"),
        ("envoy://x0/", "envoy://x0/"),
        ("/run/node.sock", "/run/node.sock"),
        ("@node", "@node"),
        ("db-0.db.svc:5432", "db-0.db.svc:5432"),
    ] {
        assert!(stdout(&run(&service, &["drain", typed, "--force"])).contains(&format!("\n{name} ")));
        let records = json_lines(&run(&service, &["nodes", "--format", "json"]));
        assert_eq!((records.len(), &records[0]["node"]), (1, &json!(name)));
        assert_eq!(stdout(&run(&service, &["forget", name])), format!("forgot {name}\n"));
    }
}

#[test]
fn the_pool_may_be_a_variable() {
    let service = Service::in_memory();
    let with_pool = |pool: &str, arguments: &[&str]| {
        berth(arguments).env("BERTH_SERVER", service.url()).env("BERTH_POOL", pool).output().unwrap()
    };
    stdout(&with_pool("games", &["drain", A, "--force"]));

    assert_eq!(json_lines(&run(&service, &["nodes", "--pool", "games", "--format", "json"])).len(), 1);
    assert_eq!(json_lines(&with_pool("games", &["nodes", "--format", "json"])).len(), 1);
    // The flag comes first.
    let others = with_pool("games", &["nodes", "--pool", "nodes", "--format", "json"]);
    assert_eq!(json_lines(&others).len(), 0);
    // Without a pool, the first command about a node reports which pool it used.
    let warning = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    let first = run(&service, &["drain", B, "--force"]);
    assert!(
        first.status.success() && warning(&first).contains("in pool nodes, as neither --pool nor BERTH_POOL")
    );
    assert_eq!(warning(&run(&service, &["set-state", B, "active"])), "");
    assert_eq!(warning(&with_pool("others", &["drain", B, "--force"])), "");
    // Also where the id is hashed with it.
    let body =
        json!({"pool": "games", "sessions": [{"key": SessionKey::new("games", b"ada"), "candidates": [A]}]});
    assert_eq!(service.ask("POST", "/v1/resolve", &body.to_string()).status, 200);
    assert!(stdout(&with_pool("games", &["inspect", "ada"])).contains("pool     games"));
    let wrong = with_pool("a/b", &["nodes"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("BERTH_POOL: must be"), "{wrong:?}");
}

#[test]
fn end_ends_once() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A], &[]);

    assert!(stdout(&run(&service, &["end", "alice"])).starts_with("ended "));
    assert_eq!(run(&service, &["end", "alice"]).status.code(), Some(1));
    assert_eq!(run(&service, &["inspect", "alice"]).status.code(), Some(1));
}

#[test]
fn watch_follows_changes() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A, B], &[]);
    let mut watch = berth(&["watch", "--limit", "2", "--format", "json"])
        .env("BERTH_SERVER", service.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watcher starts at some point from now on: change something until it prints a change.
    let first = std::thread::spawn(move || (lines.next().unwrap().unwrap(), lines));
    let start = Instant::now();
    let mut state = ["draining", "active"].into_iter().cycle();
    while !first.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(60));
        stdout(&run(&service, &["set-state", A, state.next().unwrap()]));
    }
    let (line, mut lines) = first.join().unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&event["kind"], &event["node"]), (&json!("node"), &json!(A)));

    while watch.try_wait().unwrap().is_none() {
        stdout(&run(&service, &["set-state", A, state.next().unwrap()]));
    }
    assert!(lines.next().is_some() && lines.next().is_none());
    assert!(watch.wait().unwrap().success());
}

/// The service stops and starts again; the watcher also prints the changes in between, because Redis keeps them.
#[test]
fn watch_outlives_a_restart_of_its_service() {
    let redis = RedisServer::start(&[]);
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let serve = |address: &str| {
        let started = berth(&["serve", "--listen", address, "--redis", &redis.url(), "--stop-delay", "0s"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the service", || std::net::TcpStream::connect(address).is_ok());
        started
    };
    let set_state = |address: &str, state: &str| {
        let url = format!("http://{address}");
        let done = || {
            berth(&["set-state", A, state, "--force", "--server", &url]).output().unwrap().status.success()
        };
        eventually("the change", done);
    };
    let other = format!("127.0.0.1:{}", free_ports(1)[0]);
    let (mut first, mut beside) = (serve(&address), serve(&other));
    set_state(&other, "active");
    let mut watch = berth(&["watch", "--format", "json", "--server", &format!("http://{address}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, printed) = std::sync::mpsc::channel();
    let output = BufReader::new(watch.stdout.take().unwrap());
    std::thread::spawn(move || output.lines().for_each(|line| lines.send(line.unwrap()).unwrap()));
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
    let state = || {
        let line = printed.recv_timeout(Duration::from_secs(20)).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["record"]["state"].clone()
    };
    // It starts at some point from now on.
    let start = Instant::now();
    let mut turns = ["degraded", "active"].into_iter().cycle();
    while printed.try_recv().is_err() {
        assert!(start.elapsed() < Duration::from_secs(20));
        set_state(&other, turns.next().unwrap());
    }
    set_state(&other, "standby");
    while state() != "standby" {}

    let stop = |child: &mut std::process::Child| {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    };
    stop(&mut first);
    assert!(said.next().unwrap().contains("trying again each second"));
    set_state(&other, "draining");
    // Long enough for several failed attempts.
    std::thread::sleep(Duration::from_millis(1_500));
    let mut again = serve(&address);

    assert_eq!(state(), "draining");
    assert_eq!(said.next().unwrap(), "berth: the service answers again", "it is said once that it is away");
    set_state(&other, "active");
    assert_eq!(state(), "active");
    watch.kill().unwrap();
    watch.wait().unwrap();
    stop(&mut again);
    stop(&mut beside);
}

#[test]
fn import_pins_sessions_where_another_balancer_had_them() {
    let service = Service::in_memory();
    resolve(&service, "early", &[A], &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sessions");
    // More than one question has room for.
    let many: String = (0..600).map(|number| format!("session {number}\t{B}\n")).collect();
    std::fs::write(&file, format!("{many}early {B}\n- {A}\nada -\n")).unwrap();
    let import = || run(&service, &["import", file.to_str().unwrap(), "--format", "json"]);

    let first = json_lines(&import());
    let again = json_lines(&import());

    let counts = |claimed: u64, found: u64| json!({"claimed": claimed, "found": found, "rehomed": 0, "elsewhere": 1, "skipped": 2, "faulty": 0});
    assert_eq!((&first[0], &again[0]), (&counts(600, 0), &counts(0, 600)));
    let inspected = json_lines(&run(&service, &["inspect", "session 599", "--format", "json"]));
    assert_eq!(inspected[0]["node"], B);
    let early = json_lines(&run(&service, &["inspect", "early", "--format", "json"]));
    assert_eq!(early[0]["node"], A, "the first claim counts");

    std::fs::write(&file, format!("ada {A}\nbob 10.0.0.1\n")).unwrap();
    let faulty = run(&service, &["import", file.to_str().unwrap()]);
    assert_eq!(faulty.status.code(), Some(1));
    let said = String::from_utf8_lossy(&faulty.stderr).into_owned();
    assert!(said.contains("line 2: must be ip:port") && said.contains("1 lines were left out"), "{said}");
    stdout(&run(&service, &["inspect", "ada"]));
}

#[test]
fn import_does_not_wait_for_the_end_of_a_log() {
    let service = Service::in_memory();
    let mut import = berth(&["import"]);
    import.env("BERTH_SERVER", service.url()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut import = import.spawn().unwrap();

    let log = import.stdin.as_mut().unwrap();
    log.write_all(format!("ada {A}\n").as_bytes()).unwrap();

    eventually("ada has a pin", || run(&service, &["inspect", "ada"]).status.success());
    drop(import.stdin.take());
    assert!(import.wait().unwrap().success());
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let service = Service::in_memory();
    let unreachable = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    for (arguments, code, says) in [
        (&["inspect", "unknown"][..], 1, "this session has no pin in pool nodes"),
        (&["set-state", "10.0.0.1:80", "up"], 2, "must be one of active, degraded"),
        (&["drain", "10.0.0.1"], 2, "must be ip:port"),
        (&["drain", "10.0.0.1:0"], 2, "must be ip:port"),
        (&["drain", "10.0.0.300:80"], 2, "must be ip:port"),
        (&["drain", "10.0.0.1:80000"], 2, "must be ip:port"),
        (&["drain", "10.0.0.1:"], 2, "must be ip:port"),
        (&["drain", "::1:80"], 2, "must be ip:port"),
        (&["forget", "[::1]"], 2, "must be ip:port"),
        (&["forget", "10.0.0.1:80,10.0.0.2:80"], 2, "must be ip:port"),
        (&["forget", "10.0.0.1:80"], 1, "nothing is recorded of node"),
        (&["watch", "--server", &unreachable], 3, "cannot reach 127.0.0.1:"),
        (&["inspect", "--key", "abc"], 2, "32 lower-case hex digits"),
        (&["inspect", ""], 2, "no session has an empty id"),
        (&["nodes", "--pool", "a/b"], 2, "--pool: must be"),
        (&["nodes", "--format", "xml"], 2, "--format: must be text or json, is \"xml\""),
        (&["nodes", "--server", "localhost:8650"], 2, "must be http://host:port or https"),
        (&["nodes", "--url", "http://[::1"], 2, "must be http://host:port"),
        (&["nodes", "--server", "http://a:b:1"], 2, "must be http://host:port"),
        (&["inspect"], 2, "required"),
        (&["inspect", "alice", "--key", "00"], 2, "cannot be used with"),
        (&["nodes", "--server", &unreachable], 3, "cannot reach 127.0.0.1:"),
    ] {
        let output = run(&service, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), message.contains(says)),
            (Some(code), true),
            "{arguments:?}: {message}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn serve_tells_all_faults_and_names_no_secret() {
    let output = berth(&["serve", "--listen", "here", "--ttl", "5", "--redis", "redis://u:hush@:x/"])
        .env("BERTH_IN_FLIGHT", "none")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for says in ["4 faults", "listen: must be ip:port", "--ttl: must be a time", "BERTH_IN_FLIGHT: must be"] {
        assert!(message.contains(says), "{says} is not in\n{message}");
    }
    assert!(!message.contains("hush"), "{message}");
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("berth.toml");
    std::fs::write(&file, "ttl = 'a'\nin-flight = 'b'\npolls = 'c'\n").unwrap();

    let serve = berth(&["serve", "--polls", "d"])
        .env("BERTH_CONFIG", &file)
        .envs([("BERTH_IN_FLIGHT", "e"), ("BERTH_POLLS", "f"), ("BERTH_TOKEN", "")])
        .output()
        .unwrap();

    let message = String::from_utf8(serve.stderr).unwrap();
    for says in ["4 faults", "berth.toml:1: ttl: ", "BERTH_IN_FLIGHT: ", "--polls: ", "BERTH_TOKEN: is empty"]
    {
        assert!(message.contains(says), "{says} is not in\n{message}");
    }
    let help = stdout(&berth(&["serve", "--help"]).env("BERTH_TOKEN", "hush").output().unwrap());
    assert!(help.contains("[env: BERTH_TOKEN]") && !help.contains("hush"), "{help}");
}

#[test]
fn serve_answers_and_stops_when_told() {
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let mut serve = berth(&["serve", "--listen", &address, "--log-format", "json", "--token", "t0p"])
        .args(["--stop-delay", "1m"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(serve.stderr.take().unwrap()).lines();
    let line: Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    assert_eq!((&line["message"], &line["store"]), (&json!("serving"), &json!("memory")));

    let url = format!("http://{address}");
    let nodes =
        |token: &str| berth(&["nodes", "--server", &url, "--token", token]).output().unwrap().status.code();
    assert_eq!((nodes("t0p"), nodes("else")), (Some(0), Some(1)));

    // Not ready first, while all else is answered and polls wait; then gone, and the poll is answered.
    let ask = |path: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer t0p\r\nconnection: close\r\n\r\n"
        );
        http::raw(address.parse().unwrap(), head.as_bytes())
    };
    let signal = |name: &str| Command::new("kill").args([name, &serve.id().to_string()]).status().unwrap();
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| ask("/v1/changes?pool=nodes&wait=30000"));
        eventually("the poll", || ask("/metrics").body.contains("of=\"polls\"} 1023"));
        assert_eq!(ask("/readyz").status, 200);
        assert!(signal("-TERM").success());
        eventually("not ready", || ask("/readyz").status == 503);
        assert_eq!((nodes("t0p"), poll.is_finished()), (Some(0), false));
        // Once more, for the impatient: the delay is a minute.
        assert!(signal("-TERM").success());
        assert_eq!(poll.join().unwrap().status, 200);
    });
    assert!(serve.wait().unwrap().success());
    let rest: Vec<String> = log.map(Result::unwrap).collect();
    assert!(rest.iter().any(|line| line.contains("\"stopped\"")), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("t0p")));
}

#[test]
fn the_help_of_serve_ends_with_a_whole_settings_file() {
    let help = stdout(&berth(&["serve", "--help"]).output().unwrap());
    assert!(help.trim_end().ends_with(include_str!("../berth.toml").trim_end()), "{help}");
}

#[test]
fn serve_says_which_address_is_taken() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = berth(&["serve", "--listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("cannot listen on {address}")));
}

#[test]
fn every_command_has_help_with_an_example_and_exit_codes() {
    let list = stdout(&berth(&["help"]).output().unwrap());
    let (_, list) = list.split_once("Commands:\n").unwrap();
    let verbs: Vec<&str> =
        list.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(verbs.len() > 8 && verbs.contains(&"drain"), "{verbs:?}");

    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        for asked in [&["help", verb][..], &[verb, "--help"], &[verb, "-h"]] {
            let help = stdout(&berth(asked).output().unwrap());
            let example = format!("\n  berth {verb} ");
            let bare = format!("\n  berth {verb}\n");
            assert!(help.contains(&example) || help.contains(&bare), "{asked:?}: {help}");
            assert!(help.contains("Exit code: 0 "), "{asked:?}: {help}");
        }
    }
}

#[test]
fn nodes_are_listed_with_their_sessions_if_these_are_to_be_counted() {
    let service = Service::in_memory();
    for (id, node) in [("ada", A), ("bob", B), ("cleo", B)] {
        resolve(&service, id, &[node], &[]);
    }
    stdout(&run(&service, &["drain", A]));

    let text = stdout(&run(&service, &["nodes", "--count"]));
    let row = |node: &str| -> Vec<&str> {
        text.lines().find(|line| line.starts_with(node)).unwrap().split_whitespace().collect()
    };
    assert_eq!((row(A)[1], row(A)[2]), ("1", "draining"));
    assert_eq!((row(B)[1], row(B)[2]), ("2", "active"), "nothing is on record of it");
    assert!(text.contains("SESSIONS are all 3 "), "{text}");

    let json = json_lines(&run(&service, &["nodes", "--count", "--format", "json"]));
    assert_eq!((&json[1]["node"], &json[1]["sessions"]), (&json!(B), &json!(2)));
    let reply = service.ask("GET", "/v1/counts?pool=nodes&limit=1", "");
    assert_eq!((&reply.json()["pins"], &reply.json()["complete"]), (&json!(1), &json!(false)));
    let faults = service.ask("GET", "/v1/counts?pool=nodes&limit=10000001", "").faults();
    assert_eq!(faults, ["limit"]);
}
