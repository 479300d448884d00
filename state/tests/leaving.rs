//! What pods call in their hooks: `berth leave`, `berth join` and `berth install`, as the built binary, over real Redis.
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use serde_json::json;

use commands::{Running, Serve, berth, failure};
use http::{Service, ask};
use support::{RedisServer, eventually, free_ports};

const NODE: &str = "10.0.0.1:80";
const OTHER: &str = "10.0.0.2:80";

fn leave(serve: &Serve, arguments: &[&str]) -> Command {
    let mut command = berth(&["leave", "--server", &serve.url()]);
    command.args(arguments).env("BERTH_AT_LEAST", "0s");
    command
}

#[test]
fn leave_drains_a_node_in_its_pools_and_ends_once_it_has_no_sessions() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("games", "ada", &[NODE]);
    serve.resolve("chat", "ben", &[NODE]);
    serve.resolve("chat", "cleo", &[OTHER]);

    let mut command = leave(&serve, &[]);
    // As a pod says which node it is.
    command.envs([("POD_IP", "10.0.0.1"), ("PORT", "80"), ("BERTH_POOL", "games,chat")]);
    let leaving = Running::start(&mut command);
    assert_eq!(leaving.line(), "10.0.0.1:80 is draining in pool chat");
    assert_eq!(leaving.line(), "10.0.0.1:80 is draining in pool games");
    assert!(leaving.line().starts_with("2 sessions left, 5"));
    // Its sessions stay, and new ones go elsewhere.
    assert_eq!(serve.resolve("games", "ada", &[NODE, OTHER])["node"], NODE);
    assert_eq!(serve.resolve("games", "dan", &[NODE, OTHER])["node"], OTHER);
    serve.end("games", "ada");
    assert!(leaving.line().starts_with("1 session left"));
    serve.end("chat", "ben");
    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(leaving.ends(), (Some(0), String::new()));

    // It spoke for itself: an operator's state is another value.
    let record = serve.ask("GET", &format!("/v1/nodes/{NODE}?pool=chat"), "");
    assert_eq!([&record["self_state"], &record["operator_state"]], ["draining", "active"]);
}

#[test]
fn leave_waits_for_its_deadline_and_no_longer() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("nodes", "ada", &[NODE]);

    let leaving = Running::start(&mut leave(&serve, &["--node", NODE, "--deadline", "5s"]));

    let says = "berth: the deadline has passed: 10.0.0.1:80 has 1 session left\n";
    assert_eq!(leaving.ends(), (Some(4), says.to_owned()));
}

/// Without sessions it waits until proxies know. A deadline before that could only fail.
#[test]
fn leave_waits_at_least_so_long_and_its_deadline_is_later() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("nodes", "ada", &[NODE]);
    serve.end("nodes", "ada");
    serve.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"self_state": "active"}"#);
    let start = Instant::now();
    let code = leave(&serve, &["--node", NODE, "--at-least", "3s"]).output().unwrap().status.code();
    assert_eq!((code, start.elapsed() >= Duration::from_secs(3)), (Some(0), true));

    for (times, says) in [
        (&["--deadline", "5s", "--at-least", "1h"][..], "must be 1h00m or more, is 5s"),
        (&["--deadline", "5s", "--at-least", "5s"], "must be 6s or more, is 5s"),
        (&["--deadline", "1s"], "must be 2s or more, is 1s"),
    ] {
        let (code, text) = failure(&leave(&serve, &["--node", NODE]).args(times).output().unwrap());
        assert!(code == Some(2) && text.contains(says), "{times:?}: {code:?} {text}");
    }
    // The default counts as well.
    let output = berth(&["leave", "--node", NODE, "--deadline", "3s"]).output().unwrap();
    assert_eq!(failure(&output).0, Some(2));
}

#[test]
fn leave_can_be_taken_back() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("games", "ada", &[NODE]);
    let path = format!("/v1/nodes/{NODE}?pool=games");
    serve.ask("PUT", &path, r#"{"boot_id": "first", "self_state": "active"}"#);
    let given = ["--node", NODE, "--pool", "games", "--deadline", "8s"];
    assert_eq!(leave(&serve, &given).output().unwrap().status.code(), Some(4));
    assert_eq!(serve.resolve("games", "ben", &[NODE, OTHER])["node"], OTHER);

    let undone = leave(&serve, &["--node", NODE, "--pool", "games", "--undo"]).output().unwrap();

    assert_eq!(String::from_utf8_lossy(&undone.stdout), "10.0.0.1:80 is active in pool games\n");
    assert_eq!(serve.resolve("games", "cleo", &[NODE, OTHER])["node"], NODE);
    // Also in the other pools than one with a fault.
    let given = ["--node", NODE, "--pool", "games", "--deadline", "5s"];
    assert_eq!(leave(&serve, &given).output().unwrap().status.code(), Some(4));
    let undone = leave(&serve, &["--node", NODE, "--pool", "chat,games", "--undo"]).output().unwrap();
    let (code, text) = failure(&undone);
    assert!(
        code == Some(1) && text.contains("nothing is recorded of node 10.0.0.1:80 in pool chat"),
        "{text}"
    );
    assert_eq!(String::from_utf8_lossy(&undone.stdout), "10.0.0.1:80 is active in pool games\n");
    // It is the same start of the node: its sessions get no notice.
    assert_eq!(serve.ask("GET", &path, "")["boot_id"], "first");
    assert!(serve.resolve("games", "ada", &[NODE]).get("restore").is_none());
    // Where nothing is recorded there is nothing to take back, and nothing is recorded.
    let other = leave(&serve, &["--node", OTHER, "--pool", "games", "--undo"]).output().unwrap();
    let (code, text) = failure(&other);
    assert!(
        code == Some(1) && text.contains("nothing is recorded of node 10.0.0.2:80 in pool games"),
        "{text}"
    );
}

/// The service records any name in any pool, so a wrong one fails nowhere else.
#[test]
fn a_node_of_which_nothing_is_known_is_said_to_be_so() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    for (id, node) in [("ada", NODE), ("ben", OTHER)] {
        serve.resolve("games", id, &[node]);
    }
    // A wrong port, a forgotten pool, an address where the pool's nodes have names, or the other way round.
    for (arguments, says) in [
        (
            &["--node", "10.0.0.1:8080", "--pool", "games"][..],
            "Pool games has 10.0.0.1:80, 10.0.0.2:80: is this node called likewise",
        ),
        (&["--node", "game-1", "--pool", "games"], "Pool games has 10.0.0.1:80"),
        (&["--node", NODE], "in pool nodes, as neither --pool nor BERTH_POOL names another"),
        (&["--node", NODE, "--pool", "game"], "Is it the pool's name in the proxies' configuration"),
    ] {
        let (code, text) = failure(&leave(&serve, arguments).output().unwrap());
        assert_eq!(code, Some(5), "{arguments:?}: {text}");
        assert!(text.contains("nothing is known of ") && text.contains(says), "{arguments:?}: {text}");
    }
    // One of several pools: a warning. So is a name unlike the others', which only `join` has recorded.
    serve.ask("PUT", "/v1/nodes/10.0.0.7:80?pool=games", r#"{"boot_id": "b", "self_state": "active"}"#);
    let several = leave(&serve, &["--node", "10.0.0.7:80", "--pool", "games,chat"]).output().unwrap();
    let (code, text) = failure(&several);
    assert!(
        code == Some(0) && text.contains("nothing is known of 10.0.0.7:80 in pool chat"),
        "{code:?} {text}"
    );
    serve.ask("PUT", "/v1/nodes/game-7?pool=games", r#"{"boot_id": "b", "self_state": "active"}"#);
    let (code, text) = failure(&leave(&serve, &["--node", "game-7", "--pool", "games"]).output().unwrap());
    assert!(code == Some(0) && text.contains("is not named as other nodes are"), "{code:?} {text}");

    let join = |arguments: &[&str]| {
        let output = berth(&["join", "--server", &serve.url()]).args(arguments).output().unwrap();
        failure(&output)
    };
    for (arguments, says) in [
        (&["--node", "10.0.0.8:8080", "--pool", "games"][..], "is not named as other nodes are"),
        (&["--node", "10.0.0.8:80"], "as neither --pool nor BERTH_POOL names another"),
        (&["--node", "10.0.0.8:80", "--pool", "web"], "nothing else is known of pool web"),
    ] {
        let (code, text) = join(arguments);
        assert!(code == Some(0) && text.contains(says), "{arguments:?}: {code:?} {text}");
    }
    for arguments in
        [&["--node", "10.0.0.9:80", "--pool", "games"][..], &["--node", "10.0.0.8:80", "--pool", "web"]]
    {
        assert_eq!(join(arguments), (Some(0), String::new()), "a name as others have, or one that is known");
    }
}

/// The service is restarted with another token, and the file of the token is renewed meanwhile.
#[test]
fn leave_outlives_a_restart_of_its_service_and_reads_a_renewed_token() {
    let redis = RedisServer::start(&[]);
    let mut serve = Serve::on_redis(&redis, &["--token", "s1"]);
    serve.resolve("nodes", "ada", &[NODE]);
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
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("nodes", "ada", &[NODE]);
    let leaving = Running::start(&mut leave(&serve, &["--node", NODE]));
    leaving.line();
    leaving.line();

    serve.ask("DELETE", &format!("/v1/nodes/{NODE}?pool=nodes"), "");

    eventually("the node drains again", || {
        let record =
            ask(serve.address.parse().unwrap(), "GET", &format!("/v1/nodes/{NODE}?pool=nodes"), "", &[]);
        record.status == 200 && record.json()["state"] == "draining"
    });
    serve.end("nodes", "ada");
    assert_eq!(leaving.ends().0, Some(0));
}

#[test]
fn a_signal_ends_leave_at_once() {
    let redis = RedisServer::start(&[]);
    let serve = Serve::on_redis(&redis, &[]);
    serve.resolve("nodes", "ada", &[NODE]);
    for (signal, code, name) in [("-TERM", 143, "SIGTERM"), ("-INT", 130, "SIGINT")] {
        let leaving = Running::start(&mut leave(&serve, &["--node", NODE, "--deadline", "1h"]));
        leaving.line();
        leaving.line();
        leaving.signal(signal);
        let says = format!("berth: {name}: no longer waits for the sessions of 10.0.0.1:80. ");
        let (given, text) = leaving.ends();
        assert_eq!(given, Some(code));
        assert!(text.starts_with(&says) && text.contains("`berth leave --undo`"), "{text}");
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
    let serve = Serve::on_redis(&redis, &["--token", "s1"]);
    let url = format!("http://{}", serve.address);
    for (arguments, code, says) in [
        (&["--server", &nowhere, "--node", NODE, "--deadline", "6s"][..], 3, "is not draining in pool nodes"),
        (&["--server", &url, "--node", NODE, "--deadline", "6s"], 1, "the service asks for a token"),
        (&["--server", &url, "--node", NODE, "--deadline", "6s", "--token", "wrong"], 1, "--token-file"),
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
    serve.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"self_state": "active"}"#);
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
    let serve = Serve::on_redis(&redis, &[]);
    let join = |more: &[&str]| {
        let url = format!("http://{}", serve.address);
        berth(&["join", "--server", &url, "--pod-ip", "10.0.0.1", "--port", "80"])
            .args(more)
            .output()
            .unwrap()
    };
    let first = join(&[]);
    assert_eq!(String::from_utf8_lossy(&first.stdout), "10.0.0.1:80 is active in pool nodes\n");
    assert_eq!(serve.resolve("nodes", "ada", &[NODE])["outcome"], "claimed");
    assert!(serve.resolve("nodes", "ada", &[NODE]).get("restore").is_none());
    // Ada's state is lost with the first pod: it did not ask in time.
    let code = leave(&serve, &["--node", NODE, "--deadline", "8s"]).output().unwrap().status.code();
    assert_eq!(code, Some(4));
    assert_eq!(serve.resolve("nodes", "ben", &[NODE, OTHER])["node"], OTHER);

    assert_eq!(join(&[]).status.code(), Some(0));

    let pin = serve.resolve("nodes", "ada", &[NODE, OTHER]);
    assert_eq!((&pin["node"], &pin["restore"]), (&json!(NODE), &json!(true)), "the stranger is notified");
    assert_eq!(serve.resolve("nodes", "cleo", &[NODE, OTHER])["node"], NODE, "the drain ended");
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
    assert_eq!(output.status.code(), Some(5), "no session, and no record: it may have been no node at all");
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
    assert!(code == Some(2) && says.contains("--boot-id: must be letters, digits"), "{code:?} {says}");
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
