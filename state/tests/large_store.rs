//! `berth leave` and counts beside many keys of others: a Redis that other programs and pools fill as well.
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use commands::{Running, Serve, berth, failure};
use support::RedisServer;

const NODE: &str = "10.0.0.1:80";
const OTHER: &str = "10.0.0.2:80";
/// More than one part of a walk looks at, and more than one call of a service of before did, in a sixteenth of the store.
const FOREIGN: usize = 250_000;

/// A server that holds keys of another program.
fn crowded() -> RedisServer {
    let redis = RedisServer::start(&[]);
    let fill = "for i = 1, ARGV[1] do redis.call('SET', 'other:' .. i, i) end return redis.call('DBSIZE')";
    let filled = redis.cli(&["EVAL", fill, "0", &FOREIGN.to_string()]);
    assert!(filled.contains(&FOREIGN.to_string()), "{filled}");
    redis
}

fn leave(serve: &Serve, deadline: &str) -> Command {
    let mut command = berth(&["leave", "--server", &serve.url(), "--node", NODE, "--at-least", "0s"]);
    command.args(["--deadline", deadline]);
    command
}

#[test]
fn an_empty_node_leaves_at_once_however_many_keys_others_have() {
    let redis = crowded();
    let serve = Serve::on_redis(&redis, &[]);
    serve.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"boot_id": "b", "self_state": "active"}"#);
    serve.resolve("nodes", "ada", &[OTHER]);
    let start = Instant::now();

    let (code, says) = failure(&leave(&serve, "30s").output().unwrap());

    assert_eq!((code, says.as_str()), (Some(0), ""));
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn a_node_with_sessions_leaves_once_they_have_ended() {
    let redis = crowded();
    let serve = Serve::on_redis(&redis, &[]);
    let ids: Vec<String> = (0..40).map(|id| format!("s{id}")).collect();
    for id in &ids {
        serve.resolve("nodes", id, &[NODE]);
        serve.resolve("chat", id, &[NODE]);
    }

    let leaving = Running::start(leave(&serve, "2m").args(["--pool", "chat,nodes"]));
    leaving.line();
    leaving.line();
    let first = leaving.line();
    assert!(first.starts_with("at least ") && first.contains(" sessions left"), "{first}");
    for id in &ids {
        serve.end("chat", id);
    }
    std::thread::sleep(Duration::from_secs(2));
    for id in &ids {
        serve.end("nodes", id);
    }

    let mut last = first;
    while !last.starts_with("no sessions left") {
        last = leaving.line();
    }
    assert_eq!(leaving.ends(), (Some(0), String::new()));
}

/// Each server is walked through once, so a count sees as many keys as it says.
#[test]
fn a_count_within_its_limit_is_complete() {
    let redis = crowded();
    let serve = Serve::on_redis(&redis, &[]);
    for id in 0..40 {
        serve.resolve("nodes", &format!("s{id}"), &[NODE]);
    }

    let reply = serve.ask("GET", "/v1/counts?pool=nodes", "");
    assert_eq!(
        (&reply["complete"], &reply["pins"], &reply["nodes"][NODE]),
        (&true.into(), &40.into(), &40.into())
    );

    // In parts there are as many. Each answer says where the next one goes on.
    let (mut pins, mut parts, mut after) = (0, 0, String::new());
    loop {
        let part = serve.ask("GET", &format!("/v1/counts?pool=nodes&limit=50000{after}"), "");
        pins += part["pins"].as_u64().unwrap();
        parts += 1;
        assert_eq!(part["complete"] == true, part.get("next").is_none(), "{part}");
        let Some(next) = part["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pins, 40);
    assert!(parts > 3, "{parts}");
}
