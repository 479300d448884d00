//! A request's whole way without Envoy: rule, token, session, decision, and what its response tells.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_core::affinity::Caller;
use berth_core::attributes::Attributes;
use berth_core::config::Config;
use berth_core::decision::{Decision, Notice, Reply};
use berth_core::event::{Counter, Outcome, Reason, RuleResult, Unplaced};
use berth_core::membership::Observation;
use berth_core::passive::{Failure, Kind};
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy, Request, Response, Verdict};
use berth_core::roster::Roster;
use berth_core::time::Millis;
use berth_core::token::{Key, Keys};
use serde_json::{Value, json};

const NOW: Millis = Millis(1_000_000_000);
const NODES: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// A request as a test describes it, which notes each look at it.
#[derive(Default)]
struct Fake {
    headers: BTreeMap<String, String>,
    properties: BTreeMap<String, Vec<u8>>,
    keys_are_coming: bool,
    drawn: Cell<u8>,
    reads: RefCell<Vec<String>>,
}

impl Fake {
    fn new(headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { headers: headers.collect(), ..Self::default() }
    }

    fn with(mut self, property: &str, value: impl AsRef<[u8]>) -> Self {
        self.properties.insert(property.to_owned(), value.as_ref().to_vec());
        self
    }

    fn note(&self, read: impl Into<String>) {
        self.reads.borrow_mut().push(read.into());
    }

    fn take_reads(&self) -> Vec<String> {
        self.reads.take()
    }
}

impl Attributes for Fake {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.note(name);
        self.headers.get(name).map(|value| value.clone().into_bytes())
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.note(path.join("."));
        self.properties.get(&path.join(".")).cloned()
    }

    fn now(&self) -> Millis {
        self.note("now");
        NOW
    }

    fn random(&self) -> Option<[u8; 16]> {
        self.note("random");
        self.drawn.set(self.drawn.get() + 1);
        Some([self.drawn.get(); 16])
    }

    fn wants_keys(&self, _: usize, _: Millis) -> bool {
        self.note("wants keys");
        self.keys_are_coming
    }
}

/// One pool with a state service, its session in `x-session`, and these rules.
fn proxy(rules: Value) -> Proxy {
    let mut config = json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"header": "x-session"}]},
            "health": {"passive_failures": 3}
        }],
    });
    if !rules.is_null() {
        config["rules"] = rules;
    }
    of(&config)
}

fn of(config: &Value) -> Proxy {
    Proxy::new(Config::parse(config.to_string().as_bytes()).unwrap(), || 7, NOW)
}

/// The same with members.
fn ready(rules: Value) -> Proxy {
    let mut proxy = proxy(rules);
    see_members(&mut proxy);
    proxy
}

fn see_members(proxy: &mut Proxy) {
    let host =
        |address: &str| Observation { address: address.to_owned(), weight: 1, ..Observation::default() };
    for pool in &mut proxy.pools {
        let mut roster = Roster::default();
        roster.observe(NODES.into_iter().map(host).collect(), &pool.config.health, NOW);
        pool.adopt(roster, NOW).unwrap();
    }
}

/// The state service answers all that is asked: this node has it.
fn answer(proxy: &mut Proxy, stream: u32, node: &str, extra: &Value) -> Vec<(u32, Decision)> {
    let engine = proxy.pools[0].engine.as_mut().unwrap();
    let call = engine.poll_call(Caller::Stream(stream), NOW).expect("a call");
    let question: Value = serde_json::from_slice(&call.request.body).unwrap();
    engine.call_started(call.id, 1, Caller::Stream(stream), NOW);
    let pins = question["sessions"].as_array().unwrap().iter().map(|ask| {
        let mut pin = json!({"key": ask["key"], "node": node, "version": 1, "outcome": "found"});
        pin.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        pin
    });
    let reply = json!({"pins": pins.collect::<Vec<_>>(), "cursor": "0", "ttl_ms": 1_800_000});
    assert!(engine.handle_reply(1, Ok(reply.to_string().as_bytes()), NOW));
    let mut released = Vec::new();
    while let Some(release) = engine.poll_release(NOW) {
        engine.released(true);
        released.push((release.stream, release.decision));
    }
    released
}

/// A request of this session that is routed to `node`, which its pin names from then on.
fn routed(proxy: &mut Proxy, session: &str, node: &str) -> Request {
    let (mut request, progress) = proxy.handle_request(1, None, &Fake::new(&[("x-session", session)]));
    assert_eq!(progress, Progress::Waiting);
    let mut released = answer(proxy, 1, node, &Value::Null);
    proxy.settle(&mut request, released.remove(0).1);
    request
}

fn decide(proxy: &mut Proxy, attributes: &Fake) -> Decision {
    let (request, progress) = proxy.handle_request(9, None, attributes);
    assert_eq!(progress, Progress::Decided);
    request.decision.unwrap()
}

fn owner(decision: &Decision) -> &str {
    match decision {
        Decision::Route { placement, .. } => NODES[placement.owner().unwrap()],
        other => panic!("{other:?}"),
    }
}

fn reply(decision: Decision) -> Reply {
    match decision {
        Decision::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn counts(proxy: &Proxy) -> Vec<(Counter, u64)> {
    proxy.pools[0].take_counts().map(|(index, count)| (Counter::ALL[index], count)).collect()
}

fn rule_counts(proxy: &Proxy, rule: usize) -> Vec<(RuleResult, u64)> {
    proxy.rules[rule].take_counts().map(|(index, count)| (RuleResult::ALL[index], count)).collect()
}

#[test]
fn a_hit_reads_the_session_and_nothing_else() {
    let mut proxy = ready(Value::Null);
    routed(&mut proxy, "alice", NODES[1]);
    let attributes = Fake::new(&[("x-session", "alice"), ("x-request-id", "1"), (":path", "/")]);

    let decision = decide(&mut proxy, &attributes);

    assert_eq!(owner(&decision), NODES[1]);
    assert_eq!(attributes.take_reads(), ["x-session"]);
}

#[test]
fn a_hit_reads_what_its_rules_compare_once_each() {
    let mut proxy = ready(json!([
        {"name": "health", "pool": "nodes", "match": {"path_prefixes": ["/healthz"]}, "affinity": "off"},
        {"name": "gold", "pool": "nodes",
         "match": {"hosts": ["play.example.com"], "headers": [{"name": "x-tier", "one_of": ["gold"]}]}},
        {"name": "silver", "pool": "nodes",
         "match": {"path_prefixes": ["/play"], "headers": [{"name": "x-tier", "one_of": ["silver"]}]}},
        {"name": "rest", "pool": "nodes", "match": {"clusters": ["nodes"]}}
    ]));
    let headers = [
        (":authority", "play.example.com"),
        (":path", "/play"),
        ("x-tier", "silver"),
        ("x-session", "alice"),
    ];
    proxy.handle_request(1, None, &Fake::new(&headers));
    answer(&mut proxy, 1, NODES[2], &Value::Null);
    let attributes = Fake::new(&headers);

    let (request, _) = proxy.handle_request(2, None, &attributes);

    assert_eq!(request.rule, Some(2));
    assert_eq!(owner(&request.decision.unwrap()), NODES[2]);
    assert_eq!(attributes.take_reads(), [":path", ":authority", "x-tier", "x-session"]);
}

#[test]
fn a_miss_asks_for_the_time_and_the_request_s_id_once() {
    let mut proxy = ready(Value::Null);
    let attributes = Fake::new(&[("x-session", "alice")]);

    let (_, progress) = proxy.handle_request(1, None, &attributes);

    assert_eq!(progress, Progress::Waiting);
    assert_eq!(attributes.take_reads(), ["x-session", "now", "x-request-id"]);
}

#[test]
fn what_a_rule_and_the_session_both_look_at_is_read_once() {
    let mut proxy = of(&json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"header": "x-session"}, {"query": "session"}, {"path": "/play/{session}"}]}
        }],
        "rules": [
            {"name": "play", "pool": "nodes",
             "match": {"path_prefixes": ["/play"], "headers": [{"name": "x-session", "prefix": "game-"}]}},
            {"name": "rest", "pool": "nodes"}
        ]
    }));
    see_members(&mut proxy);
    let attributes = Fake::new(&[(":path", "/play/7"), ("x-session", "")]);

    let (request, _) = proxy.handle_request(1, None, &attributes);

    assert_eq!(request.session.unwrap().as_bytes(), b"7");
    let reads = attributes.take_reads();
    let distinct: BTreeSet<&String> = reads.iter().collect();
    assert_eq!(distinct.len(), reads.len(), "{reads:?}");
}

#[test]
fn a_header_with_a_token_and_a_session_is_read_once() {
    let mut proxy = of(&json!({
        "v": 1,
        "jwt_providers": [{
            "name": "players", "algorithms": ["RS256"], "from": [{"cookie": "token"}],
            "on_invalid": "sessionless",
            "remote_jwks": {"cluster": "idp", "host": "id.example.com", "path": "/jwks.json"}
        }],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}, {"cookie": "sid"}]}
        }]
    }));
    see_members(&mut proxy);
    let attributes = Fake::new(&[("cookie", "sid=alice")]);

    let decision = decide(&mut proxy, &attributes);

    assert!(matches!(decision, Decision::Route { .. }));
    assert_eq!(attributes.take_reads(), ["cookie"]);
}

#[test]
fn requests_that_no_rule_takes_are_counted_and_left_alone() {
    let mut proxy = ready(json!([{"name": "play", "pool": "nodes", "match": {"path_prefixes": ["/play"]}}]));
    let attributes = Fake::new(&[(":path", "/"), ("x-session", "alice")]);

    assert_eq!(decide(&mut proxy, &attributes), Decision::Bypass);

    assert_eq!(attributes.take_reads(), [":path"]);
    assert_eq!((proxy.take_bypassed(), proxy.take_bypassed()), (1, 0));
}

#[test]
fn the_first_requests_wait_for_the_members_and_then_for_the_state_service() {
    let mut proxy = proxy(Value::Null);
    let attributes = Fake::new(&[("x-session", "alice")]);
    let (mut request, progress) = proxy.handle_request(1, None, &attributes);
    assert_eq!(progress, Progress::Pending);
    assert!(proxy.has_waiters());
    assert!(take_ready(&mut proxy, NOW).is_empty());

    see_members(&mut proxy);
    let ready = take_ready(&mut proxy, NOW);
    let [(1, waited)] = ready[..] else { panic!("{ready:?}") };
    proxy.handle_gone(1, &mut request);
    let (mut request, progress) = proxy.handle_request(1, Some(waited), &attributes);
    assert_eq!(progress, Progress::Waiting);
    let released = answer(&mut proxy, 1, NODES[0], &json!({"restore": true}));

    let [(1, decision)] = &released[..] else { panic!("{released:?}") };
    assert_eq!(owner(decision), NODES[0]);
    assert!(matches!(decision, Decision::Route { notice: Some(Notice::Restore { version: 1 }), .. }));
    proxy.settle(&mut request, decision.clone());
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::Enforced, 1)]);
    proxy.handle_gone(1, &mut request);
    assert!(!proxy.has_waiters());
}

#[test]
fn members_that_do_not_come_delay_only_the_first_requests() {
    let mut proxy = proxy(json!([
        {"name": "strict", "pool": "nodes", "match": {"path_prefixes": ["/strict"]}, "affinity": "strict"},
        {"name": "rest", "pool": "nodes"}
    ]));
    let attributes = Fake::new(&[("x-session", "alice")]);
    proxy.handle_request(1, None, &attributes);
    assert!(take_ready(&mut proxy, Millis(NOW.0 + 499)).is_empty());

    let ready = take_ready(&mut proxy, Millis(NOW.0 + 500));
    let (request, progress) = proxy.handle_request(1, Some(ready[0].1), &attributes);

    assert_eq!(progress, Progress::Decided);
    let (why, reason) = (Unplaced::NoSnapshot, Reason::NoSnapshot);
    assert_eq!(request.decision, Some(Decision::Fallback { why, reason }));
    assert_eq!(decide(&mut proxy, &attributes), Decision::Fallback { why, reason });
    let strict = reply(decide(&mut proxy, &Fake::new(&[("x-session", "bob"), (":path", "/strict")])));
    assert_eq!((strict.status, strict.reason, strict.is_withheld), (503, reason, true));
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::Withheld, 1)]);
}

#[test]
fn a_request_that_ends_while_it_waits_for_members_is_not_handed_in_again() {
    let mut proxy = proxy(Value::Null);
    let (mut request, _) = proxy.handle_request(1, None, &Fake::new(&[("x-session", "alice")]));

    proxy.handle_gone(1, &mut request);

    assert!(!proxy.has_waiters());
    see_members(&mut proxy);
    assert!(take_ready(&mut proxy, NOW).is_empty());
}

#[test]
fn without_a_state_service_no_request_waits() {
    let mut proxy = of(&json!({
        "v": 1,
        "pools": [{"name": "nodes", "cluster": "nodes", "session": {"sources": [{"header": "x-session"}]}}]
    }));
    let attributes = Fake::new(&[("x-session", "alice")]);
    let (why, reason) = (Unplaced::NoSnapshot, Reason::NoSnapshot);
    assert_eq!(decide(&mut proxy, &attributes), Decision::Fallback { why, reason });

    see_members(&mut proxy);
    attributes.take_reads();

    let decision = decide(&mut proxy, &attributes);
    assert!(matches!(&decision, Decision::Route { placement, .. } if placement.outcome == Outcome::Ring));
    assert_eq!(attributes.take_reads(), ["x-session"]);
}

/// Sessions by tokens whose keys the issuer publishes.
fn with_tokens() -> Proxy {
    let mut proxy = of(&json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "jwt_providers": [{
            "name": "players", "algorithms": ["RS256"],
            "remote_jwks": {"cluster": "idp", "host": "id.example.com", "path": "/jwks.json"}
        }],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}], "missing": "reject"}
        }]
    }));
    see_members(&mut proxy);
    proxy
}

/// A request with a token that this key is said to have signed.
fn with_token(key: &str) -> Fake {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = part(&json!({"alg": "RS256", "kid": key}).to_string());
    let claims = part(&json!({"sub": "alice", "exp": 2_000_000_000}).to_string());
    let token = format!("Bearer {header}.{claims}.{}", part(&"x".repeat(256)));
    Fake { keys_are_coming: true, ..Fake::new(&[("authorization", &token)]) }
}

#[test]
fn a_token_of_an_unknown_key_waits_for_keys_once() {
    let mut proxy = with_tokens();
    let attributes = with_token("one");
    let (_, progress) = proxy.handle_request(1, None, &attributes);
    assert_eq!(progress, Progress::Pending);
    assert_eq!(attributes.take_reads(), ["authorization", "now", "wants keys", "now"]);
    assert!(take_ready_of_keys(&mut proxy, NOW, false).is_empty());

    let ready = take_ready_of_keys(&mut proxy, Millis(NOW.0 + 1_000), false);
    let (request, progress) = proxy.handle_request(1, Some(ready[0].1), &attributes);

    assert_eq!(progress, Progress::Decided);
    let reply = reply(request.decision.unwrap());
    assert_eq!((reply.status, reply.reason), (503, Reason::KeysAway));
    assert!(reply.retry_after.is_some() && reply.body.contains("keys"));
}

#[test]
fn a_token_that_no_published_key_verifies_is_refused() {
    let mut proxy = with_tokens();
    let attributes = with_token("one");
    proxy.handle_request(1, None, &attributes);
    let pem = include_str!("../testdata/token/rsa-2048.pem");
    proxy.tokens.set_keys(0, Keys::new(vec![Key::pem(Some("two"), pem).unwrap()]));

    let ready = take_ready_of_keys(&mut proxy, NOW, true);
    let (request, _) = proxy.handle_request(1, Some(ready[0].1), &attributes);

    let refused = reply(request.decision.unwrap());
    assert_eq!((refused.status, refused.reason), (401, Reason::TokenRefused));
    assert!(refused.challenge.is_some_and(|challenge| challenge.starts_with("Bearer")));
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::Rejected, 1)]);
    let absent = reply(decide(&mut proxy, &Fake::default()));
    assert_eq!((absent.status, absent.challenge), (401, Some("Bearer")));
}

#[test]
fn observing_asks_nothing_and_says_what_would_have_been() {
    let mut proxy = ready(json!([{"name": "look", "pool": "nodes", "rollout": {"mode": "observe"}}]));
    let attributes = Fake::new(&[("x-session", "alice")]);

    let (mut request, progress) = proxy.handle_request(1, None, &attributes);

    assert_eq!((progress, attributes.take_reads()), (Progress::Decided, vec!["x-session".to_owned()]));
    let Some(Decision::Pass { reason: Reason::Observed, would: Some(would) }) = request.decision.clone()
    else {
        panic!("{request:?}")
    };
    assert!(proxy.pools[0].engine.as_mut().unwrap().poll_call(Caller::Root, NOW).is_none());
    assert!(!request.is_tracked());
    let response = Fake::default().with("upstream.address", &would);
    proxy.handle_response(&mut request, false, &response);
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::ObservedSame, 1)]);
    let (mut request, _) = proxy.handle_request(2, None, &attributes);
    proxy.handle_response(&mut request, false, &Fake::default().with("upstream.address", "10.9.9.9:80"));
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::ObservedMoved, 1)]);
    let sessionless = decide(&mut proxy, &Fake::default());
    assert_eq!(sessionless, Decision::pass(Reason::NoSession));
}

#[test]
fn observing_holds_no_request_up_before_there_are_members() {
    let mut proxy = proxy(json!([{"name": "look", "pool": "nodes", "rollout": {"mode": "observe"}}]));

    let decision = decide(&mut proxy, &Fake::new(&[("x-session", "alice")]));

    assert_eq!(decision, Decision::Pass { reason: Reason::Observed, would: None });
}

#[test]
fn what_is_not_rolled_out_is_envoys() {
    for (rule, reason, reads) in [
        (json!({"affinity": "off"}), Reason::AffinityOff, 0),
        (json!({"rollout": {"mode": "off"}}), Reason::NotRolledOut, 0),
        (json!({"rollout": {"percent": 0}}), Reason::NotRolledOut, 0),
        (json!({"rollout": {"percent": 1}}), Reason::NotRolledOut, 1),
    ] {
        let mut named = json!({"name": "rule", "pool": "nodes"});
        named.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let mut proxy = ready(json!([named]));
        let attributes = Fake::new(&[("x-session", "alice")]);

        assert_eq!(decide(&mut proxy, &attributes), Decision::pass(reason));

        assert_eq!(attributes.take_reads().len(), reads, "{named}");
    }
}

#[test]
fn a_request_without_a_session_is_passed_rejected_or_begins_one() {
    let missing = |missing: Value| {
        let mut proxy = of(&json!({
            "v": 1,
            "state": {"cluster": "berth_state"},
            "pools": [{
                "name": "nodes", "cluster": "nodes",
                "session": {"sources": [{"header": "x-session"}, {"cookie": "sid"}], "missing": missing}
            }]
        }));
        see_members(&mut proxy);
        proxy
    };
    let attributes = Fake::default();
    let passed = decide(&mut missing(json!("pass")), &attributes);
    assert_eq!(passed, Decision::pass(Reason::NoSession));

    let rejected = reply(decide(&mut missing(json!("reject")), &attributes));
    assert_eq!((rejected.status, rejected.reason, rejected.retry_after), (400, Reason::NoSession, None));
    assert!(rejected.body.contains("x-session") && rejected.body.contains("sid"), "{}", rejected.body);

    let mut proxy = missing(json!({"issue_cookie": {"name": "sid"}}));
    let (mut request, progress) = proxy.handle_request(1, None, &attributes);
    assert_eq!(progress, Progress::Waiting);
    let cookie = String::from_utf8(request.cookie.clone().unwrap()).unwrap();
    let id = String::from_utf8(request.session.as_ref().unwrap().as_bytes().to_vec()).unwrap();
    assert!(cookie.starts_with(&format!("sid={id};")), "{cookie}");
    let withheld = Decision::Reply(Reply::new(503, Reason::StateAway, "later".into()));
    proxy.settle(&mut request, withheld);
    assert_eq!(request.cookie, None, "no session begins with an error");
}

#[test]
fn a_response_of_the_owner_is_a_hit_and_no_evidence_against_it() {
    let mut proxy = ready(Value::Null);
    routed(&mut proxy, "alice", NODES[1]);
    counts(&proxy);
    let (mut request, _) = proxy.handle_request(2, None, &Fake::new(&[("x-session", "alice")]));

    let attributes =
        Fake::default().with("upstream.address", NODES[1]).with("response.flags", 0_u64.to_le_bytes());
    let response = proxy.handle_response(&mut request, false, &attributes);

    let node = Some(NODES[1].as_bytes().to_vec());
    assert_eq!(response, Response { node, retry_after: false, verdicts: Vec::new() });
    assert_eq!(attributes.take_reads(), ["response.flags", "upstream.address"]);
    proxy.handle_gone(2, &mut request);
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Hit), 1)], "counted once");
}

#[test]
fn a_response_of_another_node_is_a_retry_or_another_cluster_s() {
    let successor = |request: &Request| {
        let Some(Decision::Route { placement, .. }) = &request.decision else { panic!("{request:?}") };
        NODES[placement.indexes().nth(1).unwrap()]
    };
    let mut proxy = ready(Value::Null);
    let mut request = routed(&mut proxy, "alice", NODES[1]);
    counts(&proxy);
    let attributes = Fake::default()
        .with("upstream.address", successor(&request))
        .with("response.flags", 0_u64.to_le_bytes())
        .with("upstream.request_attempt_count", 2_u64.to_le_bytes())
        .with("xds.cluster_name", "nodes");

    let response = proxy.handle_response(&mut request, false, &attributes);

    let snapshot = proxy.pools[0].snapshot().unwrap();
    let node = snapshot.nodes[1].key_hash;
    let session = request.session.as_ref().unwrap().hash();
    assert_eq!(response.verdicts, [Verdict::Failed(Failure { node, kind: Kind::Hidden, session })]);
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Ring), 1), (Counter::Retried, 1)]);

    let mut request = routed(&mut proxy, "bob", NODES[1]);
    counts(&proxy);
    let attributes = Fake::default()
        .with("upstream.address", "10.9.9.9:80")
        .with("response.flags", 0_u64.to_le_bytes())
        .with("xds.cluster_name", "others");
    let response = proxy.handle_response(&mut request, false, &attributes);
    assert!(response.verdicts.is_empty());
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Ring), 1), (Counter::OtherCluster, 1)]);
}

#[test]
fn a_failure_blames_the_node_and_a_strict_client_may_try_again() {
    const CONNECT: u64 = 1 << 5;
    let mut proxy = ready(json!([{"name": "strict", "pool": "nodes", "affinity": "strict"}]));
    let mut request = routed(&mut proxy, "alice", NODES[2]);
    let attributes =
        Fake::default().with("upstream.address", NODES[2]).with("response.flags", CONNECT.to_le_bytes());

    let response = proxy.handle_response(&mut request, false, &attributes);

    assert!(response.retry_after);
    let node = proxy.pools[0].snapshot().unwrap().nodes[2].key_hash;
    let session = request.session.as_ref().unwrap().hash();
    assert_eq!(response.verdicts, [Verdict::Failed(Failure { node, kind: Kind::Connect, session })]);
}

/// Envoy's word for the node that it could not reach is that node's address too.
#[test]
fn a_notice_is_repeated_until_its_node_has_answered() {
    const CONNECT: u64 = 1 << 5;
    const RESET: u64 = 1 << 6;
    const NO_HEALTHY_HOST: u64 = 1 << 1;
    for (node, flags, is_repeated) in [
        (Some(NODES[0]), 0, false),
        // It may have begun.
        (Some(NODES[0]), RESET, false),
        (Some(NODES[0]), CONNECT, true),
        (Some(NODES[0]), NO_HEALTHY_HOST, true),
        (Some(NODES[1]), 0, true),
        (None, NO_HEALTHY_HOST, true),
    ] {
        let mut proxy = ready(Value::Null);
        let attributes = Fake::new(&[("x-session", "alice")]);
        let (mut request, _) = proxy.handle_request(1, None, &attributes);
        let mut released = answer(&mut proxy, 1, NODES[0], &json!({"restore": true}));
        proxy.settle(&mut request, released.remove(0).1);
        let is_told = |decision: &Decision| matches!(decision, Decision::Route { notice: Some(_), .. });
        assert!(is_told(request.decision.as_ref().unwrap()));
        assert!(!is_told(&decide(&mut proxy, &attributes)), "while the first request is under way");

        let mut response = Fake::default().with("response.flags", flags.to_le_bytes());
        if let Some(node) = node {
            response = response.with("upstream.address", node);
        }
        proxy.handle_response(&mut request, false, &response);

        assert_eq!(is_told(&decide(&mut proxy, &attributes)), is_repeated, "{node:?}, {flags:#x}");
    }
}

#[test]
fn the_backend_ends_a_session_and_the_next_request_asks() {
    let mut proxy = ready(Value::Null);
    let request = routed(&mut proxy, "alice", NODES[1]);

    proxy.handle_end(&request, Millis(1_000));

    let (_, progress) = proxy.handle_request(2, None, &Fake::new(&[("x-session", "alice")]));
    assert_eq!(progress, Progress::Waiting);
    assert!(counts(&proxy).contains(&(Counter::Ended, 1)));
}

#[test]
fn a_reload_keeps_the_pins_of_the_pool_with_the_same_name() {
    let mut former = ready(Value::Null);
    routed(&mut former, "alice", NODES[1]);
    let mut proxy = proxy(Value::Null);

    proxy.succeed(&mut former);
    see_members(&mut proxy);

    assert_eq!(owner(&decide(&mut proxy, &Fake::new(&[("x-session", "alice")]))), NODES[1]);
}

fn take_ready(proxy: &mut Proxy, now: Millis) -> Vec<(u32, Waited)> {
    proxy.take_ready(now, |_| false, |_| Millis(1_000))
}

fn take_ready_of_keys(proxy: &mut Proxy, now: Millis, are_settled: bool) -> Vec<(u32, Waited)> {
    proxy.take_ready(now, |_| are_settled, |_| Millis(1_000))
}
