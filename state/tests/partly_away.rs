//! A part of the store that cannot be read keeps neither operators nor polls from the rest.
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use commands::berth;
use http::{Reply, Service};
use support::{RedisCluster, RedisServer, eventually, session_in};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

fn resolve(service: &Service, key: SessionKey) -> Reply {
    let session = json!({"key": key, "candidates": [A, B]});
    service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string())
}

/// Its sessions cannot all be counted then, and it is known by none of those that can.
#[test]
fn a_node_is_drained_while_a_primary_is_gone() {
    let cluster = RedisCluster::start();
    let primary_of = |shard: usize| cluster.primary_of(&format!("{{nodes/{shard:x}}}"));
    let home = primary_of(0);
    let lost = (1..16).find(|shard| primary_of(*shard) != home).unwrap();
    let primary = primary_of(lost).unwrap();
    for server in &cluster.servers {
        for (name, value) in [("cluster-require-full-coverage", "no"), ("cluster-replica-no-failover", "yes")]
        {
            assert_eq!(server.cli(&["CONFIG", "SET", name, value]).trim(), "OK");
        }
    }
    let service = Service::ready_on(cluster.urls(), true);
    cluster.servers[primary].kill();
    eventually("its sessions' failure", || resolve(&service, session_in(lost)).status == 503);
    assert_eq!(resolve(&service, session_in(0)).status, 200);

    let drained = berth(&["drain", B]).env("BERTH_SERVER", service.url()).output().unwrap();

    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(drained.status.success() && said.contains("not looked whether"), "{drained:?}");
    let nodes = service.ask("GET", "/v1/nodes?pool=nodes", "").json();
    assert_eq!((&nodes["nodes"][0]["node"], &nodes["nodes"][0]["state"]), (&json!(B), &json!("draining")));
}

/// The position of its news is seen, and they cannot be read: the position stays the same then, although there is news.
#[test]
fn a_poll_gets_the_news_of_a_shard_that_could_not_be_read_soon_after_it_can_be() {
    let server = RedisServer::start(&[]);
    let user = |rules: &[&str]| {
        let said = server.cli(&[&["ACL", "SETUSER", "reader", "on", ">r"], rules].concat());
        assert_eq!(said.trim(), "OK");
    };
    user(&["~berth:*", "+@all"]);
    let writer = Service::ready_on(vec![server.url()], false);
    let reader = Service::ready_on(vec![format!("redis://reader:r@127.0.0.1:{}", server.port)], false);
    let key = session_in(15);
    assert_eq!(resolve(&writer, key).status, 200);
    let cursor = reader.ask("GET", "/v1/changes?pool=nodes", "").json()["cursor"].clone();
    user(&["resetkeys", "~berth:{*/[0-9a-e]}:*", "(~berth:{*/f}:* +@all -xrange)"]);

    let (reply, lasted) = std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let after = cursor.as_str().unwrap();
            reader.ask("GET", &format!("/v1/changes?pool=nodes&after={after}&wait=15000"), "")
        });
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(writer.ask("DELETE", &format!("/v1/sessions/{key}?pool=nodes"), "").status, 200);
        std::thread::sleep(Duration::from_secs(1));
        user(&["clearselectors", "~berth:*"]);
        let began = Instant::now();
        (poll.join().unwrap(), began.elapsed())
    });

    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["events"][0]["key"], json!(key), "{reply:?}");
    assert!(lasted < Duration::from_secs(5), "{lasted:?}");
}

#[test]
fn a_record_that_cannot_be_read_hides_no_other() {
    let server = RedisServer::start(&[]);
    let service = Service::ready_on(vec![server.url()], false);
    for (node, text) in [("10.0.0.8:80", "'nonsense'"), ("10.0.0.9:80", r"'\255'")] {
        let script = format!("return redis.call('HSET', KEYS[1], ARGV[1], {text})");
        server.cli(&["EVAL", &script, "1", "berth:{nodes/0}:records", node]);
    }
    let drain = |node: &str| {
        let path = format!("/v1/nodes/{node}?pool=nodes");
        assert_eq!(service.ask("PUT", &path, r#"{"state": "draining"}"#).status, 200);
    };
    drain(B);

    let nodes = service.ask("GET", "/v1/nodes?pool=nodes", "");

    assert_eq!(nodes.status, 200, "{nodes:?}");
    let nodes = nodes.json();
    let names: Vec<&Value> = nodes["nodes"].as_array().unwrap().iter().map(|node| &node["node"]).collect();
    assert_eq!(names, [&json!(B)], "{nodes}");

    // Nor does it keep a copy from a shard that was away.
    let rules = ["ACL", "SETUSER", "default", "resetkeys"];
    server.cli(&[&rules[..], &["~berth:{*/[0-9a-e]}:*"]].concat());
    drain(A);
    server.cli(&[&rules[..], &["~*"]].concat());
    eventually("the copy", || server.cli(&["HGET", "berth:{nodes/f}:nodes", A]).contains("draining"));
}
