//! Many requests that wait for one thing leave others their places.

use std::sync::LazyLock;

use berth_core::decision::Decision;
use berth_core::event::{Reason, RuleResult};
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy};
use berth_core::token::Keys;
use serde_json::{Value, json};

use super::fake::{Fake, NOW, of, reply, rule_counts, see_members};
use super::signed::{P256, RSA, key, results, sign};

const CROWD: u32 = 1_024;

/// Two issuers, each with its own place for tokens, and two pools with a state service.
fn two_issuers(on_invalid: &str) -> Proxy {
    let provider = |name: &str, header: &str| {
        json!({
            "name": name, "algorithms": ["RS256", "ES256"], "from": [{"header": header, "prefix": "Bearer "}],
            "on_invalid": on_invalid,
            "remote_jwks": {"cluster": name, "host": "id.example.com", "path": "/jwks.json"}
        })
    };
    let pool = |name: &str, provider: &str| {
        json!({
            "name": name, "cluster": name,
            "session": {"sources": [{"jwt": provider, "claim": "sub"}], "missing": "reject"}
        })
    };
    let rule =
        |pool: &str, path: &str| json!({"name": pool, "pool": pool, "match": {"path_prefixes": [path]}});
    let proxy = of(&json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "jwt_providers": [provider("one", "authorization"), provider("two", "x-token")],
        "pools": [pool("first", "one"), pool("second", "two")],
        "rules": [rule("second", "/second"), rule("first", "/")]
    }));
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA)]));
    proxy.tokens.set_keys(1, Keys::new(vec![key("a", RSA)]));
    proxy
}

/// A token whose key is not known yet.
fn unknown(header: &str, path: &str) -> Fake {
    static SIGNED: LazyLock<String> = LazyLock::new(|| sign("ES256", Some("b"), json!({"sub": "ada"})));
    let token = format!("Bearer {}", *SIGNED);
    Fake { keys_are_coming: true, ..Fake::new(&[(header, &token), (":path", path)]) }
}

fn progress(proxy: &mut Proxy, stream: u32, attributes: &Fake) -> Progress {
    proxy.handle_request(stream, None, attributes).1
}

#[test]
fn a_flood_of_unknown_keys_of_one_issuer_keeps_no_place_of_another_or_of_the_start() {
    let mut proxy = two_issuers("reject");
    for stream in 0..CROWD {
        assert_eq!(progress(&mut proxy, stream, &unknown("authorization", "/")), Progress::Pending);
    }

    let (request, crowded) = proxy.handle_request(CROWD, None, &unknown("authorization", "/"));

    assert_eq!(crowded, Progress::Decided);
    let answer = reply(request.decision.unwrap());
    assert_eq!((answer.status, answer.reason), (503, Reason::TokenUnchecked), "it may be a good one");
    assert!(answer.retry_after.is_some() && answer.set_cookie.is_none());
    assert_eq!(results(&proxy).get("unchecked"), Some(&1));
    assert_eq!(rule_counts(&proxy, 1), [(RuleResult::Rejected, 1)]);
    // The other issuer's, and those that wait for members.
    assert_eq!(progress(&mut proxy, 5_000, &unknown("x-token", "/second")), Progress::Pending);
    let good = format!("Bearer {}", sign("RS256", Some("a"), json!({"sub": "eve"})));
    let good = Fake::new(&[("authorization", &good), (":path", "/")]);
    assert_eq!(progress(&mut proxy, 5_001, &good), Progress::Pending);
    see_members(&mut proxy);
    let ready = |proxy: &mut Proxy, settled: usize| -> Vec<(u32, Waited)> {
        proxy.take_ready(NOW, |provider| provider == settled, |_| berth_core::time::Millis(1_000))
    };
    let streams: Vec<u32> = ready(&mut proxy, 1).into_iter().map(|(stream, _)| stream).collect();
    assert_eq!(streams, [5_000, 5_001]);
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA), key("b", P256)]));
    assert_eq!(ready(&mut proxy, 0).len(), CROWD as usize);
}

#[test]
fn where_refused_tokens_count_as_none_so_do_those_that_find_no_place() {
    let mut proxy = two_issuers("sessionless");
    for stream in 0..CROWD {
        progress(&mut proxy, stream, &unknown("authorization", "/"));
    }

    let (request, _) = proxy.handle_request(CROWD, None, &unknown("authorization", "/"));

    assert_eq!(request.decision, Some(Decision::pass(Reason::TokenUnchecked)));
}

/// A session whose token cannot be checked must not go by another rule.
#[test]
fn a_rule_by_a_claim_that_cannot_be_told_now_is_not_passed_over() {
    let provider = json!({
        "name": "one", "algorithms": ["RS256", "ES256"],
        "remote_jwks": {"cluster": "one", "host": "id.example.com", "path": "/jwks.json"}
    });
    let with = |provider: &Value, rollout: Value| {
        let mut proxy = of(&json!({
            "v": 1,
            "state": {"cluster": "berth_state"},
            "jwt_providers": [provider],
            "pools": [{"name": "nodes", "cluster": "nodes", "session": {"sources": [{"header": "x-session"}]}}],
            "rules": [
                {"name": "gold", "pool": "nodes", "rollout": rollout,
                 "match": {"claims": [{"jwt": "one", "claim": "tier", "one_of": ["gold"]}]}},
                {"name": "rest", "pool": "nodes", "affinity": "off"}
            ]
        }));
        see_members(&mut proxy);
        proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA)]));
        proxy
    };
    let late = |mut proxy: Proxy| {
        for stream in 0..CROWD {
            progress(&mut proxy, stream, &unknown("authorization", "/"));
        }
        let (request, _) = proxy.handle_request(CROWD, None, &unknown("authorization", "/"));
        (request.rule, request.decision.unwrap())
    };

    let (rule, decision) = late(with(&provider, json!({})));
    assert_eq!((rule, reply(decision).reason), (Some(0), Reason::TokenUnchecked));
    let (rule, decision) = late(with(&provider, json!({"percent": 50})));
    assert_eq!((rule, decision), (Some(0), Decision::pass(Reason::TokenUnchecked)));
    let mut lenient = provider;
    lenient["on_invalid"] = "sessionless".into();
    let (rule, decision) = late(with(&lenient, json!({})));
    assert_eq!((rule, decision), (Some(1), Decision::pass(Reason::AffinityOff)));
}
