//! What is stored keeps its form: `testdata/stored-291831b.txt` has what that commit's service wrote, `testdata/stored.txt` what is
//! written now, and both are read. A newer format is refused by name and left as it is.
#[path = "support/http.rs"]
mod http;
mod support;

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{
    NodeChange, NodeId, NodeState, Outcome, PoolName, ResolveRequest, SessionAsk, SessionKey, TouchRequest,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store};
use serde_json::{Value, json};

use support::process::Server;
use support::{RedisServer, eventually, free_ports};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
const HEAD: &str = "# What Redis holds after the calls of tests/formats.rs: key, field of a hash or -, text. A time in ms is shown as TIME, the\n\
                    # end of a session as LATER, a time in microseconds, which is a version, as VERSION. UPDATE=1 rewrites stored.txt,\n\
                    # UPDATE=$PWD/target/previous/berth the other.\n";
const ONE: &str = "10.0.0.1:80";
const TWO: &str = "10.0.0.2:80";
/// All forms that pins have.
const SESSIONS: [&str; 4] = ["plain", "moved", "claims", "heir"];

fn key(session: &str) -> SessionKey {
    SessionKey::new("nodes", session.as_bytes())
}

fn shard(key: SessionKey, part: &str) -> String {
    format!("berth:{{nodes/{}}}:{part}", &key.to_string()[..1])
}

fn pin_key(session: &str) -> String {
    shard(key(session), &format!("pin:{}", key(session)))
}

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A session that this key has, which comes to the first node that is well.
fn ask(session: &str, more: &Value) -> String {
    let mut ask = json!({"key": key(session).to_string(), "candidates": [ONE, TWO], "unusable": []});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"pool": "nodes", "sessions": [ask]}).to_string()
}

/// Lets this `berth serve` write all that has a format.
fn write_all(program: &str, redis: &RedisServer) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_ports(1)[0]));
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", &address.to_string(), "--redis", &redis.url(), "--store-timeout", "5s"])
        .stdin(Stdio::null());
    let folder = tempfile::tempdir().unwrap();
    let service = Server::default();
    service.start(&mut command, &folder.path().join("log")).unwrap();
    eventually("the service", || TcpStream::connect(address).is_ok());
    let call = |method: &str, path: &str, body: &str| {
        let reply = http::ask(address, method, path, body, &[]);
        assert_eq!(reply.status, 200, "{method} {path} {body}: {}", reply.body);
    };
    let ends = now_ms() + 1_800_000;

    call("PUT", &format!("/v1/nodes/{ONE}?pool=nodes"), &json!({"boot_id": "b7", "weight": 3}).to_string());
    let about = json!({"state": "degraded", "self_state": "draining", "note": "n", "cooldown_ms": 1});
    call("PUT", "/v1/nodes/10.0.0.3:80?pool=nodes", &about.to_string());
    call("POST", "/v1/resolve", &ask("plain", &json!({})));
    call("POST", "/v1/resolve", &ask("moved", &json!({})));
    call("POST", "/v1/resolve", &ask("moved", &json!({"unusable": [ONE]})));
    let claims =
        json!({"ttl_ms": 900_000, "ends_ms": ends, "created_ms": ends - 3_600_000, "session_version": 4});
    call("POST", "/v1/resolve", &ask("claims", &claims));
    call("POST", "/v1/resolve", &ask("heir", &json!({"alias_of": key("plain").to_string()})));
}

/// What has a format, in order, with times and versions replaced.
fn stored(redis: &RedisServer) -> String {
    let mut lines = Vec::new();
    for session in SESSIONS {
        lines.push(format!(
            "{} - {}",
            pin_key(session),
            without_times(redis.cli(&["GET", &pin_key(session)]).trim())
        ));
    }
    for hash in [
        "berth:{nodes/0}:records".to_owned(),
        "berth:{nodes/0}:nodes".to_owned(),
        shard(key("plain"), "nodes"),
    ] {
        for node in [ONE, "10.0.0.3:80"] {
            let text = redis.cli(&["HGET", &hash, node]);
            lines.push(format!("{hash} {node} {}", without_times(text.trim())));
        }
    }
    lines.join("\n") + "\n"
}

fn without_times(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - start);
        shown.push_str(&rest[..start]);
        shown.push_str(match digits {
            13 if rest[start..start + digits].parse::<u64>().unwrap() > now_ms() + 60_000 => "LATER",
            13 => "TIME",
            16 => "VERSION",
            _ => &rest[start..start + digits],
        });
        rest = &rest[start + digits..];
    }
    shown + rest
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{FOLDER}/{name}")).unwrap()
}

#[test]
fn what_is_written_has_its_form() {
    let (program, name) = match std::env::var("UPDATE") {
        // The previous service, by its path.
        Ok(path) if path != "1" => (path, "stored-291831b.txt"),
        _ => (env!("CARGO_BIN_EXE_berth").to_owned(), "stored.txt"),
    };
    let redis = RedisServer::start(&[]);

    write_all(&program, &redis);

    let written = HEAD.to_owned() + &stored(&redis);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(format!("{FOLDER}/{name}"), &written).unwrap();
    }
    assert_eq!(written, file(name));
}

fn open(redis: &RedisServer) -> Redis {
    let (timeout, keeping) = (Duration::from_secs(5), Keeping::default());
    let options = Options {
        urls: vec![redis.url()],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout,
        keeping,
    };
    Redis::open(&options).unwrap()
}

/// A Redis with what a file has, written a minute ago.
fn holding(name: &str) -> (RedisServer, Redis, u64) {
    let redis = RedisServer::start(&[]);
    let time = now_ms() - 60_000;
    for line in file(name).lines().filter(|line| !line.starts_with('#')) {
        let line = line
            .replace("LATER", &(now_ms() + 300_000).to_string())
            .replace("TIME", &time.to_string())
            .replace("VERSION", &format!("{time}000"));
        let [key, field, text] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        match field {
            "-" => redis.cli(&["SET", key, text, "PX", "600000"]),
            node => redis.cli(&["HSET", key, node, text]),
        };
    }
    let store = open(&redis);
    (redis, store, time)
}

fn request(sessions: Vec<SessionAsk>) -> ResolveRequest {
    ResolveRequest { pool: pool(), region: None, panic: false, correlation_id: None, sessions }
}

fn asks(session: &str) -> SessionAsk {
    // By the ring it would be elsewhere.
    SessionAsk::new(key(session), vec![node("10.0.0.9:80")], vec![])
}

fn touch(sessions: &[&str]) -> TouchRequest {
    let keys = sessions.iter().map(|session| key(session)).collect();
    TouchRequest { pool: pool(), keys, pins: vec![] }
}

#[tokio::test]
async fn what_the_previous_service_and_this_one_have_written_is_read() {
    for name in ["stored-291831b.txt", "stored.txt"] {
        let (_redis, store, time) = holding(name);

        let nodes = store.nodes(&pool()).await.unwrap();
        let shown: Vec<_> = nodes.iter().map(|node| (node.node.as_str(), node.state, node.version)).collect();
        let expected = [(ONE, NodeState::Active, 1), ("10.0.0.3:80", NodeState::Draining, 1)];
        assert_eq!(shown, expected, "{name}");
        assert_eq!((nodes[0].boot_id.as_deref(), nodes[0].weight), (Some("b7"), Some(3)), "{name}");
        assert_eq!(nodes[1].operator_state, Some(NodeState::Degraded), "{name}");
        assert_eq!((nodes[1].note.as_deref(), nodes[1].cooldown_until_ms), (Some("n"), Some(time)), "{name}");

        for (session, home) in SESSIONS.into_iter().zip([ONE, TWO, ONE, ONE]) {
            let pin = store.session(&pool(), key(session)).await.unwrap().unwrap();
            assert_eq!(pin.node.as_str(), home, "{name} {session}");
            let claims = (pin.idle_ttl_ms, pin.session_version, pin.alias_of);
            let expected = match session {
                "claims" => (Some(900_000), Some(4), None),
                "heir" => (Some(Keeping::default().ttl.0), None, Some(key("plain"))),
                _ => (Some(Keeping::default().ttl.0), None, None),
            };
            assert_eq!(claims, expected, "{name} {session}");
            let found = store.resolve(&request(vec![asks(session)])).await.unwrap().remove(0);
            assert_eq!((found.outcome, found.version), (Outcome::Found, pin.version), "{name} {session}");
            assert_eq!(found.node.as_str(), home, "{name} {session}");
            assert_eq!(found.session_version, pin.session_version, "{name} {session}");
        }
        let touched = store.touch(&touch(&SESSIONS)).await.unwrap();
        assert_eq!((touched.touched, touched.missing), (4, vec![]), "{name}");
        // Not beyond its end.
        assert!(touched.ttls_ms[&key("claims")] <= 300_000, "{name}");
        assert_eq!(store.count(&pool(), None, 100).await.unwrap().nodes[&node(ONE)], 3, "{name}");
        for session in ["moved", "heir"] {
            assert!(
                store.end(&pool(), key(session), Millis(0), None).await.unwrap().outcome,
                "{name} {session}"
            );
        }
        // Which ends all its names.
        assert_eq!(store.session(&pool(), key("plain")).await.unwrap(), None, "{name}");
        let change = NodeChange { state: Some(NodeState::Standby), ..NodeChange::default() };
        assert_eq!(
            store.change_node(&pool(), node(ONE), &change).await.unwrap().outcome.version,
            2,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_mark_of_the_first_format_changes_nothing() {
    let (redis, store, _) = holding("stored.txt");
    let text = redis.cli(&["GET", &pin_key("moved")]);
    redis.cli(&["SET", &pin_key("moved"), &format!("f1|{}", text.trim()), "PX", "600000"]);

    let found = store.resolve(&request(vec![asks("moved")])).await.unwrap().remove(0);
    assert_eq!((found.outcome, found.node.as_str()), (Outcome::Found, TWO));
    assert_eq!(store.touch(&touch(&["moved"])).await.unwrap().touched, 1);
    assert_eq!(store.session(&pool(), key("moved")).await.unwrap().unwrap().node.as_str(), TWO);
    assert!(store.end(&pool(), key("moved"), Millis(0), None).await.unwrap().outcome);
}

/// Says what is newer, where, and what to do.
#[track_caller]
fn is_refused<T: std::fmt::Debug>(answer: Result<T, berth_state::store::StoreError>, key: &str) {
    let said = answer.unwrap_err().to_string();
    for part in ["format 2,", key, "upgrade this service"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn a_pin_of_a_newer_format_is_refused_by_name_and_stays_as_it_is() {
    let (redis, store, _) = holding("stored.txt");
    let (newer, text) = (pin_key("moved"), "f2|of another form|with more in it");
    redis.cli(&["SET", &newer, text, "PX", "600000"]);
    // Of the same shard, so in the same call.
    let fellow =
        (0..).map(|i| format!("fellow-{i}")).find(|id| shard(key(id), "") == shard(key("moved"), ""));
    let fellow = fellow.unwrap();

    let pins = store.resolve(&request(vec![asks("moved"), asks(&fellow)])).await.unwrap();
    let keys: Vec<SessionKey> = pins.iter().map(|pin| pin.key).collect();
    assert_eq!(keys, [key(&fellow)], "the others are answered");
    is_refused(store.resolve(&request(vec![asks("moved")])).await, &newer);
    let heir = SessionAsk { alias_of: Some(key("moved")), ..asks("an-heir") };
    is_refused(store.resolve(&request(vec![heir])).await, &newer);

    let touched = store.touch(&touch(&["moved", &fellow])).await.unwrap();
    assert_eq!((touched.touched, touched.unanswered), (1, vec![key("moved")]));
    is_refused(store.touch(&touch(&["moved"])).await, &newer);
    is_refused(store.end(&pool(), key("moved"), Millis(0), None).await, &newer);
    is_refused(store.session(&pool(), key("moved")).await, &newer);
    is_refused(store.count(&pool(), None, 100).await, &newer);

    assert_eq!(redis.cli(&["GET", &newer]).trim(), text);
    let life: u64 = redis.cli(&["PTTL", &newer]).trim().parse().unwrap();
    assert!(life <= 600_000, "its life is not known here");
}

#[tokio::test]
async fn a_former_keys_pin_of_a_newer_format_learns_nothing() {
    let (redis, store, _) = holding("stored.txt");
    let former = pin_key("plain");
    let ask = SessionAsk { alias_of: Some(key("plain")), session_version: Some(7), ..asks("heir") };
    redis.cli(&["SET", &former, "f2|newer", "PX", "600000"]);

    is_refused(store.resolve(&request(vec![ask])).await, &former);

    assert_eq!(redis.cli(&["GET", &former]).trim(), "f2|newer");
}

#[tokio::test]
async fn a_nodes_record_of_a_newer_format_is_refused_by_name_and_stays_as_it_is() {
    let (redis, store, _) = holding("stored.txt");
    let (records, record) = ("berth:{nodes/0}:records", r#"{"format":2,"name":"10.0.0.1:80"}"#);
    redis.cli(&["HSET", records, ONE, record]);

    // Those of other nodes count all the same.
    let listed = store.nodes(&pool()).await.unwrap();
    assert!(!listed.is_empty() && listed.iter().all(|record| record.node != node(ONE)), "{listed:?}");
    let change = NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() };
    is_refused(store.change_node(&pool(), node(ONE), &change).await, records);

    assert_eq!(redis.cli(&["HGET", records, ONE]).trim(), record);
}

#[tokio::test]
async fn a_copy_of_a_newer_format_is_refused_by_name_and_stays_as_it_is() {
    let (redis, store, _) = holding("stored.txt");
    let copies = shard(key("moved"), "nodes");
    redis.cli(&["HSET", &copies, TWO, "f2|another form"]);

    is_refused(store.resolve(&request(vec![asks("moved")])).await, &copies);
    // The record counts; the shard that has something newer is left alone.
    let change = NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() };
    store.change_node(&pool(), node(TWO), &change).await.unwrap();

    assert_eq!(redis.cli(&["HGET", &copies, TWO]).trim(), "f2|another form");
}
