//! A request's whole way without Envoy: rule, token, session, decision, and what its response tells.

mod crowds;
mod fake;
mod forged;
mod issuing;
mod learn;
mod oversized;
mod refused;
mod reload;
mod responses;
mod signed;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_core::affinity::Caller;
use berth_core::decision::{Decision, Notice, Reply};
use berth_core::event::{Outcome, Reason, RuleResult, Unplaced};
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy};
use berth_core::time::Millis;
use berth_core::token::{Key, Keys};
use serde_json::{Value, json};

use fake::{
    Fake, NODES, NOW, answer, decide, of, owner, proxy, ready, reply, routed, rule_counts, see_members,
};

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
    assert_eq!(attributes.take_reads(), ["cookie", "all cookie"], "the token may be in a second line");
}

#[test]
fn requests_that_no_rule_takes_are_counted_and_left_alone() {
    let mut proxy = ready(json!([{"name": "play", "pool": "nodes", "match": {"path_prefixes": ["/play"]}}]));
    let attributes = Fake::new(&[(":path", "/"), ("x-session", "alice")]);

    assert_eq!(decide(&mut proxy, &attributes), Decision::Bypass);

    assert_eq!(attributes.take_reads(), [":path"]);
    assert_eq!((proxy.take_bypassed().collect::<Vec<_>>(), proxy.take_bypassed().count()), (vec![(0, 1)], 0));
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

    proxy.pools[0].is_cluster_unknown = true;
    let (why, reason) = (Unplaced::UnknownCluster, Reason::UnknownCluster);
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
    let pem = include_str!("../../testdata/token/rsa-2048.pem");
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
    proxy.handle_response(1, &mut request, false, &response);
    assert_eq!(rule_counts(&proxy, 0), [(RuleResult::ObservedSame, 1)]);
    let (mut request, _) = proxy.handle_request(2, None, &attributes);
    proxy.handle_response(1, &mut request, false, &Fake::default().with("upstream.address", "10.9.9.9:80"));
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
fn a_preflight_request_is_sessionless_whatever_its_rule_says() {
    let preflight =
        [(":method", "OPTIONS"), ("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let sessionless = Decision::pass(Reason::NoSession);
    for missing in [json!("reject"), json!({"issue_cookie": {"name": "sid"}})] {
        let session = json!({"sources": [{"cookie": "sid"}], "missing": missing});
        let mut proxy = ready(json!([{"name": "all", "pool": "nodes", "session": session}]));

        assert_eq!(decide(&mut proxy, &Fake::new(&preflight)), sessionless);
        for left_out in 0..preflight.len() {
            let rest = preflight.iter().enumerate().filter(|(place, _)| *place != left_out);
            let rest: Vec<(&str, &str)> = rest.map(|(_, header)| *header).collect();
            let (request, _) = proxy.handle_request(9, None, &Fake::new(&rest));
            assert_ne!(request.decision, Some(sessionless.clone()), "without {left_out}");
        }
    }
}

#[test]
fn further_lines_are_read_only_if_the_first_has_no_id() {
    let session = json!({"sources": [{"cookie": "sid"}]});
    let mut proxy = ready(json!([{"name": "all", "pool": "nodes", "session": session}]));
    let lines = [("cookie", "theme=dark"), ("cookie", "sid=alice")];
    let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));

    let first = Fake { lines: lines.to_vec(), ..Fake::new(&[("cookie", "sid=bob")]) };
    let (request, _) = proxy.handle_request(1, None, &first);
    assert_eq!(request.session.unwrap().as_bytes(), b"bob");
    assert!(!first.take_reads().contains(&"all cookie".to_owned()));

    let second = Fake { lines: lines.to_vec(), ..Fake::new(&[("cookie", "theme=dark")]) };
    let (request, _) = proxy.handle_request(2, None, &second);
    assert_eq!(request.session.unwrap().as_bytes(), b"alice");
    assert_eq!(second.take_reads()[..2], ["cookie", "all cookie"]);

    let absent = Fake::new(&[]);
    proxy.handle_request(3, None, &absent);
    assert_eq!(absent.take_reads(), ["cookie"]);
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
fn a_reload_keeps_the_pins_of_the_pool_with_the_same_name() {
    let mut former = ready(Value::Null);
    routed(&mut former, "alice", NODES[1]);
    let mut proxy = proxy(Value::Null);

    proxy.succeed(&former);
    see_members(&mut proxy);

    assert_eq!(owner(&decide(&mut proxy, &Fake::new(&[("x-session", "alice")]))), NODES[1]);
}

#[test]
fn a_reload_waits_again_for_members_only_if_they_are_others() {
    let ask = |proxy: &mut Proxy| {
        let attributes = Fake::new(&[("x-session", "alice")]);
        proxy.handle_request(1, None, &attributes).1
    };
    let mut former = proxy(Value::Null);
    assert_eq!(ask(&mut former), Progress::Pending);
    take_ready(&mut former, NOW + Millis(60_000));
    for (cluster, progress) in [("nodes", Progress::Decided), ("others", Progress::Pending)] {
        let pool = json!({
            "name": "nodes", "cluster": cluster, "session": {"sources": [{"header": "x-session"}]}
        });
        let mut next = of(&json!({"v": 1, "state": {"cluster": "berth_state"}, "pools": [pool]}));
        next.succeed(&former);
        assert_eq!(ask(&mut next), progress, "{cluster}");
    }
}

fn take_ready(proxy: &mut Proxy, now: Millis) -> Vec<(u32, Waited)> {
    proxy.take_ready(now, |_| false, |_| Millis(1_000))
}

fn take_ready_of_keys(proxy: &mut Proxy, now: Millis, are_settled: bool) -> Vec<(u32, Waited)> {
    proxy.take_ready(now, |_| are_settled, |_| Millis(1_000))
}
