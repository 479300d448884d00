//! The HTTP interface as its users meet it, on a real port.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_core::wire::{NodeId, ResolveReply, SessionKey};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};
use berth_state::{Access, Limits};
use serde_json::{Value, json};

use http::{Reply, Service};
use support::{RedisServer, eventually};

fn key(id: &str) -> String {
    SessionKey::new("nodes", id.as_bytes()).to_string()
}

fn resolve_body(id: &str, candidates: &[&str], unusable: &[&str]) -> String {
    let session = json!({"key": key(id), "candidates": candidates, "unusable": unusable});
    json!({"pool": "nodes", "sessions": [session]}).to_string()
}

fn resolve(service: &Service, id: &str, candidates: &[&str], unusable: &[&str]) -> Reply {
    service.ask("POST", "/v1/resolve", &resolve_body(id, candidates, unusable))
}

fn on(server: &RedisServer) -> Options {
    Options {
        urls: vec![server.url()],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_millis(200),
        keeping: Keeping::default(),
    }
}

fn with(limits: Limits) -> Service {
    Service::start(limits, || Arc::new(Memory::new(Keeping::default(), Arc::new(http::now))))
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

#[test]
fn a_session_is_resolved_inspected_touched_and_ended() {
    let service = Service::in_memory();

    let pins = resolve(&service, "alice", &[A, B], &[]).json();
    let version = pins["pins"][0]["version"].as_u64().unwrap();
    assert_eq!(
        pins["pins"][0],
        json!({"key": key("alice"), "node": A, "version": version, "outcome": "claimed", "owned_ms": 0})
    );
    let pins = resolve(&service, "alice", &[B, A], &[A]).json();
    let next = pins["pins"][0]["version"].as_u64().unwrap();
    let expected = json!({"key": key("alice"), "node": B, "version": next, "outcome": "rehomed", "from": A, "owned_ms": 0});
    assert_eq!(pins["pins"][0], expected);
    assert!(version < next && next < 1 << 53, "{version} {next}");
    let store = pins["store"].as_str().unwrap();

    let path = format!("/v1/sessions/{}?pool=nodes", key("alice"));
    let session = service.ask("GET", &path, "").json();
    assert_eq!((&session["node"], &session["version"]), (&json!(B), &json!(next)));
    assert_eq!(session["owner"]["state"], "active");
    assert_eq!(session["events"][0]["kind"], "rehomed");

    let body = json!({"pool": "nodes", "keys": [key("alice"), key("bob")]}).to_string();
    let touched = service.ask("POST", "/v1/touch", &body).json();
    let expected = json!({"touched": 1, "missing": [key("bob")], "ttl_ms": 1_800_000, "store": store});
    assert_eq!(touched, expected);

    assert_eq!(service.ask("DELETE", &path, "").json(), json!({"ended": true}));
    assert_eq!(service.ask("DELETE", &path, "").status, 404);
    assert_eq!(service.ask("GET", &path, "").status, 404);
}

#[test]
fn an_end_that_comes_late_finds_no_older_pin() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A, B], &[]);
    let path = format!("/v1/sessions/{}?pool=nodes", key("alice"));

    let late = service.ask("DELETE", &format!("{path}&ended_ago_ms=60000"), "");
    assert_eq!((late.status, &late.json()["error"]["code"]), (404, &json!("not_found")), "{late:?}");
    assert_eq!(service.ask("GET", &path, "").json()["events"], json!([]));
    for bad in ["soon", "-1", "1.5", "", "2592000001"] {
        let reply = service.ask("DELETE", &format!("{path}&ended_ago_ms={bad}"), "");
        assert_eq!((reply.status, reply.faults()), (400, vec!["ended_ago_ms".to_owned()]), "{bad}");
        let message = format!("must be 0 to 2592000000 milliseconds, is {bad:?}");
        assert_eq!(reply.json()["error"]["faults"][0]["message"], message);
    }
    let twice = service.ask("DELETE", &format!("{path}&ended_ago_ms=1&ended_ago_ms=1"), "");
    assert_eq!(twice.faults(), ["ended_ago_ms"]);
    assert_eq!(service.ask("GET", &path, "").status, 200);

    assert_eq!(service.ask("DELETE", &format!("{path}&ended_ago_ms=0"), "").json(), json!({"ended": true}));
}

#[test]
fn nodes_are_changed_in_part() {
    let service = Service::in_memory();
    let path = format!("/v1/nodes/{A}?pool=nodes");
    assert_eq!(service.ask("GET", &path, "").status, 404);

    let record = service.ask("PUT", &path, r#"{"state": "draining", "note": "disk"}"#).json();
    assert_eq!((&record["state"], &record["version"]), (&json!("draining"), &json!(1)));
    let record = service.ask("PUT", &path, r#"{"boot_id": "b1"}"#).json();
    assert_eq!((&record["state"], &record["boot_id"]), (&json!("draining"), &json!("b1")));

    assert_eq!(service.ask("GET", &path, "").json(), record);
    assert_eq!(service.ask("GET", "/v1/nodes?pool=nodes", "").json(), json!({"nodes": [record]}));
    assert_eq!(service.ask("GET", "/v1/nodes?pool=others", "").json(), json!({"nodes": []}));
    let six = service.ask("PUT", "/v1/nodes/%5B::1%5D:80?pool=nodes", "{}").json();
    assert_eq!(six["node"], "[::1]:80");
}

#[test]
fn a_path_that_is_not_utf8_is_refused_as_other_faults_are() {
    let service = Service::in_memory();
    for (method, path) in [
        ("GET", "/v1/nodes/%ff?pool=nodes"),
        ("PUT", "/v1/nodes/%ff?pool=nodes"),
        ("DELETE", "/v1/nodes/%ff?pool=nodes"),
        ("GET", "/v1/sessions/%ff?pool=nodes"),
        ("DELETE", "/v1/sessions/%ff?pool=nodes"),
    ] {
        assert_eq!(service.ask(method, path, "{}").faults(), ["path"], "{method} {path}");
    }
}

#[test]
fn a_node_in_a_path_may_have_any_name_that_envoy_has_for_a_host() {
    let service = Service::in_memory();
    for name in
        ["envoy://x0/[::1]:80", "envoy://x0/", "/run/node.sock", "@node", "db-0", "a%2Fb?c#d", "[::1]:80"]
    {
        let node: NodeId = name.parse().unwrap();
        let path = format!("/v1/nodes/{}?pool=nodes", node.in_path());
        assert_eq!(service.ask("PUT", &path, "{}").json()["node"], name);
        assert_eq!(service.ask("GET", &path, "").json()["node"], name);
        assert_eq!(service.ask("DELETE", &path, "").json(), json!({"forgotten": true}));
    }
}

/// Readers whose clocks differ have to know what the store's clock shows.
#[test]
fn what_has_a_cooldown_comes_with_the_time() {
    let service = Service::in_memory();
    let (node, nodes) = ("/v1/nodes/10.0.0.1:80?pool=nodes", "/v1/nodes?pool=nodes");
    let start =
        service.ask("GET", "/v1/changes?pool=nodes", "").json()["cursor"].as_str().unwrap().to_owned();
    let changes = format!("/v1/changes?pool=nodes&after={start}");
    service.ask("PUT", node, r#"{"note": "kernel"}"#);
    for path in [nodes, &changes] {
        assert_eq!(service.ask("GET", path, "").json().get("now_ms"), None, "{path}");
    }

    let until = service.ask("PUT", node, r#"{"cooldown_ms": 60000}"#).json()["cooldown_until_ms"].as_u64();

    for path in [nodes, &changes] {
        let now = service.ask("GET", path, "").json()["now_ms"].as_u64();
        let left = until.unwrap() - now.unwrap();
        assert!((1..=60_000).contains(&left), "{path}: {left}");
    }
}

#[test]
fn every_fault_is_named() {
    let service = Service::in_memory();
    let body = json!({"pool": "a/b", "more": 1, "sessions": [{"key": "x"}]}).to_string();
    let faults = service.ask("POST", "/v1/resolve", &body).faults();
    assert_eq!(faults, ["pool", "sessions[0].key", "sessions[0].candidates", "more"]);

    for (method, path, body, faults) in [
        ("POST", "/v1/resolve", "no json", vec![""]),
        ("GET", "/v1/changes?after=%00&wait=99999&poll=a", "", vec!["pool", "after", "wait", "poll"]),
        ("GET", "/v1/changes?pool=a&wait=soon", "", vec!["wait"]),
        ("GET", "/v1/nodes", "", vec!["pool"]),
        ("GET", "/v1/nodes?pool=a&pool=b", "", vec!["pool"]),
        ("PUT", "/v1/nodes/a%7Cb?pool=a", "{}", vec!["node"]),
        ("PUT", "/v1/nodes/a%2Cb?pool=a", "{}", vec!["node"]),
        ("PUT", "/v1/nodes/a%20b?pool=a", "{}", vec!["node"]),
        ("PUT", "/v1/nodes/a%00?pool=a", "{}", vec!["node"]),
        ("PUT", "/v1/nodes/10.0.0.1:0?pool=a", "{}", vec!["node"]),
        ("PUT", "/v1/nodes/1.1.1.1:80?pool=a", r#"{"state": "up", "weight": 0}"#, vec!["state", "weight"]),
        // Standby is the operator's to say.
        ("PUT", "/v1/nodes/1.1.1.1:80?pool=a", r#"{"self_state": "standby"}"#, vec!["self_state"]),
        (
            "PUT",
            "/v1/nodes/1.1.1.1:80?pool=a",
            r#"{"cooldown_until_ms": 9000000000000000}"#,
            vec!["cooldown_until_ms"],
        ),
        ("PUT", "/v1/nodes/1.1.1.1:80?pool=a", r#"{"cooldown_ms": 3600001}"#, vec!["cooldown_ms"]),
        ("GET", "/v1/sessions/alice?pool=a", "", vec!["key"]),
    ] {
        assert_eq!(service.ask(method, path, body).faults(), faults, "{method} {path}");
    }
}

#[test]
fn other_refusals_are_json_too() {
    let service = Service::in_memory();
    let large = "x".repeat(2 << 20);
    for (method, path, body, status, code) in [
        ("GET", "/v2", "", 404, "not_found"),
        ("GET", "/v1/resolve", "", 405, "method_not_allowed"),
        ("POST", "/v1/resolve", large.as_str(), 413, "body_too_large"),
        ("GET", &format!("/v1/sessions/{}?pool=a", key("unknown")), "", 404, "not_found"),
    ] {
        let reply = service.ask(method, path, body);
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (status, Some(code)), "{path}");
    }
}

#[test]
fn refusals_are_problem_details_for_clients_that_accept_them() {
    let service = Service::in_memory();
    let (accept, body) = ("accept: application/problem+json", r#"{"pool": "a/b", "keys": []}"#);

    let problem = service.ask_with("POST", "/v1/touch", body, &[accept]);
    let plain = service.ask_with("POST", "/v1/touch", body, &["accept: */*"]);

    assert!(problem.head.contains("\r\ncontent-type: application/problem+json\r\n"), "{problem:?}");
    assert!(plain.head.contains("\r\ncontent-type: application/json\r\n"), "{plain:?}");
    let (problem, plain) = (problem.json(), plain.json());
    let mut without_errors = problem.clone();
    let errors = without_errors.as_object_mut().unwrap().remove("errors").unwrap();
    let expected = json!({
        "type": "urn:berth:problem:invalid_request",
        "title": "The request has faults",
        "status": 400,
        "detail": "the request has 2 faults",
        "code": "invalid_request",
    });
    assert_eq!(without_errors, expected);
    let faults = plain["error"]["faults"].as_array().unwrap();
    let same = |(error, fault): (&Value, &Value)| {
        (&error["path"], &error["detail"]) == (&fault["path"], &fault["message"])
    };
    assert_eq!((plain["error"]["code"].as_str(), faults.len()), (Some("invalid_request"), 2));
    assert!(errors.as_array().unwrap().iter().zip(faults).all(same), "{errors} is not {faults:?}");

    for (method, path, status, code) in
        [("GET", "/v2", 404, "not_found"), ("GET", "/v1/resolve", 405, "method_not_allowed")]
    {
        let reply = service.ask_with(method, path, "", &[accept]);
        assert!(reply.head.contains("content-type: application/problem+json"), "{reply:?}");
        let problem = reply.json();
        assert_eq!(
            (reply.status, &problem["status"], &problem["code"]),
            (status, &json!(status), &json!(code))
        );
        assert!(problem.get("errors").is_none());
    }
    let full = with(Limits { in_flight: 0, ..Limits::default() });
    let reply = full.ask_with("GET", "/v1/nodes?pool=a", "", &[accept]);
    assert_eq!((reply.status, reply.json()["code"].as_str()), (429, Some("too_many_requests")));
    assert!(reply.head.contains("\r\nretry-after: 1\r\n"), "{reply:?}");
    assert_eq!(service.ask_with("GET", "/v1/nodes?pool=a", "", &[accept]).json(), json!({"nodes": []}));
}

#[test]
fn a_token_is_asked_for_below_v1_only() {
    let access = Access { token: Some("s3cret".into()), ..Access::default() };
    let service = with(Limits { access, ..Limits::default() });
    let path = "/v1/nodes?pool=a";

    let reply = service.ask("GET", path, "");
    assert_eq!((reply.status, reply.head.contains("www-authenticate: bearer")), (401, true));
    for wrong in
        ["authorization: Bearer s3cre", "authorization: Bearer s3crets", "authorization: Basic s3cret"]
    {
        assert_eq!(service.ask_with("GET", path, "", &[wrong]).status, 401);
    }
    assert_eq!(service.ask_with("GET", path, "", &["authorization: Bearer s3cret"]).status, 200);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(service.ask("GET", open, "").status, 200);
    }
}

#[test]
fn more_than_it_takes_on_gets_429() {
    let service = with(Limits { in_flight: 0, polls: 1, ..Limits::default() });
    let reply = resolve(&service, "alice", &[A], &[]);
    assert_eq!((reply.status, reply.head.contains("retry-after: 1")), (429, true), "{reply:?}");

    // Polls have their own places.
    std::thread::scope(|scope| {
        // It may come while the other one has the place for a moment.
        let poll = scope.spawn(|| {
            let mut replies =
                std::iter::repeat_with(|| service.ask("GET", "/v1/changes?pool=a&wait=1500", ""));
            replies.find(|reply| reply.status != 429).unwrap()
        });
        eventually("the poll has the only place", || {
            service.ask("GET", "/v1/changes?pool=a", "").status == 429
        });
        assert_eq!(poll.join().unwrap().status, 200);
    });
    assert_eq!(service.ask("GET", "/v1/changes?pool=a", "").status, 200);
}

#[test]
fn metrics_count_what_happened_without_naming_anybody() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A, B], &[]);
    resolve(&service, "alice", &[A, B], &[A]);
    service.ask("POST", "/v1/resolve", "");

    let text = service.ask("GET", "/metrics", "").body;

    for line in [
        r#"berth_state_requests_total{call="resolve",status="200"} 2"#,
        r#"berth_state_requests_total{call="resolve",status="400"} 1"#,
        r#"berth_state_resolved_total{outcome="claimed"} 1"#,
        r#"berth_state_resolved_total{outcome="rehomed"} 1"#,
        "berth_state_resolve_seconds_count 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("10.0.0.1") && !text.contains(&key("alice")[..8]));
}

#[test]
fn the_request_id_of_the_proxy_is_in_the_event() {
    let service = Service::in_memory();
    resolve(&service, "alice", &[A, B], &[]);
    let body = resolve_body("alice", &[A, B], &[A]);
    service.ask_with("POST", "/v1/resolve", &body, &["x-request-id: 11-22"]);

    let session = service.ask("GET", &format!("/v1/sessions/{}?pool=nodes", key("alice")), "").json();
    assert_eq!(session["events"][0]["correlation_id"], "11-22");
}

/// Rehomes through one service; a poll at another service gets the event within half a second.
fn news_between(asked: &Service, polled: &Service) {
    let start: ResolveReply = serde_json::from_str(&resolve(asked, "alice", &[A, B], &[]).body).unwrap();
    let mut after = start.cursor.to_string();
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            loop {
                let path = format!("/v1/changes?pool=nodes&wait=20000&after={after}");
                let reply = polled.ask("GET", &path, "");
                // The first answer of a log that just began may hold no more than its position.
                if reply.json()["events"] != json!([]) {
                    return (reply, Instant::now());
                }
                reply.json()["cursor"].as_str().unwrap().clone_into(&mut after);
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        let rehomed = Instant::now();
        resolve(asked, "alice", &[A, B], &[A]);

        let (reply, arrived) = poll.join().unwrap();
        let event = &reply.json()["events"][0];
        assert_eq!((&event["kind"], &event["node"]), (&json!("rehomed"), &json!(B)));
        assert!(arrived - rehomed < Duration::from_millis(500), "{:?}", arrived - rehomed);

        let after = reply.json()["cursor"].as_str().unwrap().to_owned();
        let nothing = polled.ask("GET", &format!("/v1/changes?pool=nodes&wait=100&after={after}"), "").json();
        assert_eq!((&nothing["events"], &nothing["resync"]), (&json!([]), &json!(false)));
    });
}

#[test]
fn a_waiting_poll_hears_of_a_rehome_within_half_a_second() {
    let service = Service::in_memory();
    news_between(&service, &service);
}

#[test]
fn a_poll_at_another_service_hears_of_it_too() {
    let server = RedisServer::start(&[]);
    let (one, other) = (Service::on_redis(on(&server)), Service::on_redis(on(&server)));
    news_between(&one, &other);
}

/// How often one shard's log was looked at.
fn looks(server: &RedisServer) -> u32 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line =
        stats.lines().find(|line| line.starts_with("cmdstat_xrevrange:")).unwrap_or_default().to_owned();
    line.split(['=', ',']).nth(1).map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn made_up_pools_in_polls_cost_the_store_little() {
    let server = RedisServer::start(&[]);
    let service = Service::on_redis(Options { timeout: Duration::from_secs(5), ..on(&server) });
    std::thread::scope(|scope| {
        for pool in 0..160 {
            let service = &service;
            scope.spawn(move || {
                let path = format!("/v1/changes?pool=made-up-{pool}&wait=2000");
                assert_eq!(service.ask("GET", &path, "").status, 200);
            });
        }
    });

    // Each is looked at every 250 ms, not every 50; and once by its poll.
    let of_each = looks(&server) / 16 / 160;
    assert!((2..=12).contains(&of_each), "{of_each}");
}

#[test]
fn polls_share_one_look_at_the_log() {
    let server = RedisServer::start(&[]);
    let service = Service::on_redis(Options { timeout: Duration::from_secs(5), ..on(&server) });
    // Polls that come back at once, as proxies' do, many at a time.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| _ = service.ask("GET", "/v1/changes?pool=a&wait=10", "")));
        }
    });

    let before = looks(&server);
    assert_eq!(service.ask("GET", "/v1/changes?pool=a&wait=1000", "").status, 200);

    // Twenty times a second in each of sixteen shards, and a start.
    let looked = looks(&server) - before;
    assert!((16..16 * 30).contains(&looked), "{looked}");
}

#[test]
fn a_waiting_poll_is_answered_when_the_service_stops() {
    let service = Service::in_memory();
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| service.ask("GET", "/v1/changes?pool=a&wait=30000", ""));
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        service.stop();
        assert_eq!(poll.join().unwrap().status, 200);
        assert!(start.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn a_killed_redis_is_503_in_time_and_its_return_is_noticed() {
    let server = RedisServer::start(&[]);
    let service = Service::on_redis(on(&server));
    assert_eq!(resolve(&service, "alice", &[A], &[]).status, 200);

    server.kill();
    for _ in 0..20 {
        let start = Instant::now();
        let reply = resolve(&service, "alice", &[A], &[]);
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (503, Some("store_unavailable")));
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    assert_eq!(service.ask("GET", "/readyz", "").status, 503);
    assert_eq!(service.ask("GET", "/healthz", "").status, 200);

    server.restart();
    eventually("the service to find its store", || service.ask("GET", "/readyz", "").status == 200);
    // What was in memory is gone, scripts included; sessions are claimed again.
    assert_eq!(resolve(&service, "alice", &[B], &[]).json()["pins"][0]["outcome"], "claimed");
}

#[test]
fn a_hung_redis_is_503_in_time_and_costs_no_time_after_a_while() {
    let server = RedisServer::start(&[]);
    let service = Service::on_redis(on(&server));
    assert_eq!(resolve(&service, "alice", &[A], &[]).status, 200);

    server.pause();
    let replies: Vec<(Reply, Duration)> = (0..30)
        .map(|_| {
            let start = Instant::now();
            (resolve(&service, "alice", &[A], &[]), start.elapsed())
        })
        .collect();
    assert!(replies.iter().all(|(reply, took)| reply.status == 503 && *took < Duration::from_secs(1)));
    let quick = replies.iter().filter(|(_, took)| *took < Duration::from_millis(100)).count();
    assert!(quick >= 10, "{quick} of 30 did not wait");
    let metrics = service.ask("GET", "/metrics", "").body;
    assert!(!metrics.contains("berth_state_store_failures_total{reason=\"suspended\"} 0"), "{metrics}");

    server.resume();
    eventually("the service to find its store", || resolve(&service, "alice", &[A], &[]).status == 200);
}

#[test]
fn a_service_that_starts_before_its_redis_finds_it() {
    let server = RedisServer::start(&[]);
    server.kill();
    let service = Service::on_redis(on(&server));
    assert_eq!(resolve(&service, "alice", &[A], &[]).status, 503);

    server.restart();

    eventually("the service to find its store", || resolve(&service, "alice", &[A], &[]).status == 200);
}

#[test]
fn pools_beyond_the_limit_are_refused_and_those_in_use_go_on() {
    let service = with(Limits { pools: 2, ..Limits::default() });
    let claim = |pool: &str| {
        let session = json!({"key": key("alice"), "candidates": [A], "unusable": []});
        service.ask("POST", "/v1/resolve", &json!({"pool": pool, "sessions": [session]}).to_string())
    };
    for pool in ["one", "two"] {
        assert_eq!(claim(pool).status, 200);
    }

    let refused = claim("three");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("too_many_pools")));
    let touch = json!({"pool": "three", "keys": [key("alice")]}).to_string();
    assert_eq!(service.ask("POST", "/v1/touch", &touch).status, 429);
    let path = format!("/v1/sessions/{}?pool=three", key("alice"));
    assert_eq!(service.ask("DELETE", &path, "").status, 429);
    let change = |body: &str| service.ask("PUT", "/v1/nodes/10.0.0.1:80?pool=three", body).status;
    assert_eq!(change(r#"{"cooldown_ms": 1000}"#), 429);
    assert_eq!(service.ask("GET", "/v1/nodes?pool=three", "").json()["nodes"], json!([]));
    for pool in ["one", "two"] {
        assert_eq!(claim(pool).json()["pins"][0]["outcome"], "found");
    }
    // An operator is not refused, and what there is of a pool makes it one of those in use.
    assert_eq!(change(r#"{"state": "draining"}"#), 200);
    assert_eq!(claim("three").status, 200);
}

/// Whatever came first to an instance: a restart, or another instance, makes no pool a stranger.
#[test]
fn a_pool_that_the_store_has_is_taken_in_by_an_instance_that_is_full() {
    let server = RedisServer::start(&[]);
    let full = || {
        let options = on(&server);
        let store = move || Arc::new(Redis::open(&options).unwrap()) as Arc<dyn Store>;
        Service::start(Limits { pools: 2, ..Limits::default() }, store)
    };
    let claim = |service: &Service, pool: &str| {
        let session = json!({"key": key("alice"), "candidates": [A], "unusable": []});
        service.ask("POST", "/v1/resolve", &json!({"pool": pool, "sessions": [session]}).to_string()).status
    };
    let (first, other) = (full(), full());
    eventually("the first instance", || claim(&first, "mine") == 200);
    eventually("the store's name", || server.cli(&["exists", "berth:{mine/0}:store"]).trim() == "1");
    for pool in ["invented-1", "invented-2"] {
        eventually("the other instance", || claim(&other, pool) == 200);
    }

    assert_eq!((claim(&other, "mine"), claim(&other, "invented-3")), (200, 429));
    assert_eq!(claim(&full(), "mine"), 200);
}

#[test]
fn a_flood_of_new_sessions_begins_as_many_as_it_may_and_hides_none_that_is_there() {
    let service = with(Limits { new_sessions: Some(5), ..Limits::default() });
    assert_eq!(resolve(&service, "mine", &[A], &[]).json()["pins"][0]["outcome"], "claimed");

    let begun = |id: usize| {
        let reply = resolve(&service, &format!("made-up-{id}"), &[A], &[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        let pin = &reply.json()["pins"][0];
        assert_eq!(pin["node"], A);
        usize::from(pin["outcome"] == "claimed")
    };
    let start = Instant::now();
    let all: usize = (0..200).map(begun).sum();
    let most = 5 + start.elapsed().as_secs_f64().ceil() as usize * 5;
    assert!((4..=most).contains(&all) && all < 100, "{all}, {most}");

    assert_eq!(resolve(&service, "mine", &[B], &[]).json()["pins"][0]["node"], A);
    let limited = format!("berth_state_limited_sessions_total {}", 200 - all);
    let metrics = service.ask("GET", "/metrics", "").body;
    assert!(metrics.lines().any(|line| line == limited), "{limited}");
}

#[test]
fn whatever_a_body_holds_is_answered() {
    let service = Service::in_memory();
    for bytes in [&b"\xff\xfe"[..], b"[[[[", b"\"", b"{\"pool\":\"\\ud800\"}", b"1e999"] {
        let head = format!(
            "POST /v1/resolve HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        assert_eq!(http::raw(service.address, &[head.as_bytes(), bytes].concat()).status, 400);
    }
    // The client leaves after half a body: there is no connection to answer on, and the service still runs.
    let mut half = std::net::TcpStream::connect(service.address).unwrap();
    half.write_all(b"POST /v1/resolve HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").unwrap();
    drop(half);
    assert_eq!(service.ask("GET", "/healthz", "").status, 200);
}
