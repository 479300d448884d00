//! Forged tokens: what they cost, and which requests they delay.

use std::sync::LazyLock;

use berth_core::decision::Decision;
use berth_core::event::Reason;
use berth_core::pending::Waited;
use berth_core::proxy::{Progress, Proxy};
use berth_core::time::Millis;
use berth_core::token::Keys;
use serde_json::{Value, json};

use super::fake::{Fake, NOW, decide, reply, see_members};
use super::signed::{P256, RSA, bearing, by_token, key, results, sign};

/// More than may be checked at once: in simulated time a check takes the least that it can.
const FLOOD: u32 = 400;

fn own_keys() -> Value {
    json!({"algorithms": ["RS256", "ES256"], "keys": [{"kid": "a", "pem": RSA}, {"kid": "b", "pem": P256}]})
}

fn from(address: &str, token: &str) -> Fake {
    bearing(token).with("source.address", address)
}

/// Another one for each number, all of which name a key that is known.
fn forged(number: u32) -> String {
    static SIGNED: LazyLock<String> = LazyLock::new(|| sign("RS256", Some("a"), json!({"sub": "eve"})));
    let (signed, signature) = SIGNED.rsplit_once('.').unwrap();
    format!("{signed}.{number:08}{}", &signature[8..])
}

fn good(session: &str) -> String {
    sign("RS256", Some("a"), json!({"sub": session}))
}

/// After a flood from one address that took all the time there is for checks.
fn flooded(proxy: &mut Proxy) {
    for number in 0..FLOOD {
        let (request, progress) = proxy.handle_request(number, None, &from("10.9.9.9:1", &forged(number)));
        if progress == Progress::Decided {
            assert_eq!(reply(request.decision.unwrap()).status, 401);
        }
    }
    assert!(proxy.has_checks() && proxy.has_waiters());
}

/// Time passes: those whose turn it is are decided, as `again` says what they were.
fn pass(proxy: &mut Proxy, later: u64, again: impl Fn(u32) -> Fake) -> Vec<(u32, Decision)> {
    let mut decided = Vec::new();
    while let Some((stream, waited)) = proxy.poll_check(NOW + Millis(later)) {
        let attributes = Fake { later: Millis(later), ..again(stream) };
        let (request, progress) = proxy.handle_request(stream, Some(waited), &attributes);
        assert_eq!(progress, Progress::Decided, "nothing waits twice");
        decided.push((stream, request.decision.unwrap()));
    }
    decided
}

#[test]
fn a_flood_of_forgeries_leaves_known_tokens_alone_and_lets_logins_in() {
    let mut proxy = by_token(&own_keys());
    decide(&mut proxy, &bearing(&good("ada")));
    flooded(&mut proxy);
    let before = results(&proxy);
    assert!((200..300).contains(&before["signature"]), "{before:?}");

    let known = bearing(&good("ada"));
    assert!(matches!(decide(&mut proxy, &known), Decision::Route { .. }), "it was verified before");
    assert_eq!(known.take_reads(), ["authorization"]);
    let login = from("10.0.0.7:2", &good("bob"));
    assert_eq!(proxy.handle_request(1_000, None, &login).1, Progress::Pending);
    assert!(login.take_reads().contains(&"source.address".to_owned()));
    let again = |stream: u32| match stream {
        1_000 => from("10.0.0.7:2", &good("bob")),
        forgery => from("10.9.9.9:1", &forged(forgery)),
    };

    let mut decided = Vec::new();
    for later in (10..=100).step_by(10) {
        decided.extend(pass(&mut proxy, later, again));
    }

    let login = decided.iter().position(|(stream, _)| *stream == 1_000).expect("its turn comes soon");
    assert!(matches!(decided[login].1, Decision::Route { .. }), "{:?}", decided[login]);
    assert!(login < 20, "{login} forgeries of the other address came first");
}

#[test]
fn a_token_whose_turn_does_not_come_is_to_be_tried_again() {
    let mut proxy = by_token(&own_keys());
    flooded(&mut proxy);
    results(&proxy);
    let waiting = u64::from(FLOOD) - 286;

    let mut decided = pass(&mut proxy, 5_000, |stream| from("10.9.9.9:1", &forged(stream)));

    assert_eq!(decided.len() as u64, waiting);
    let (_, last) = decided.pop().unwrap();
    assert_eq!(reply(last).status, 401, "no other waits, so it is checked after all");
    for (_, decision) in decided {
        let answer = reply(decision);
        assert_eq!((answer.status, answer.reason), (503, Reason::TokenUnchecked));
        assert!(answer.retry_after.is_some() && answer.challenge.is_none());
    }
    assert_eq!(
        results(&proxy).into_iter().collect::<Vec<_>>(),
        [("signature", 1), ("unchecked", waiting - 1)]
    );
    assert!(!proxy.has_waiters());
}

#[test]
fn the_same_forgery_again_costs_no_check_until_the_keys_change() {
    let mut proxy = by_token(&super::signed::remote());
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", P256)]));
    let elsewhere = sign("ES256", Some("a"), json!({"sub": "ada", "iss": "https://elsewhere"}));
    let (signed, signature) = elsewhere.rsplit_once('.').unwrap();
    let forgery = format!("{signed}.AAAA{}", &signature[4..]);
    for _ in 0..10 * FLOOD {
        assert_eq!(reply(decide(&mut proxy, &bearing(&forgery))).status, 401);
    }
    assert_eq!(results(&proxy)["signature"], u64::from(10 * FLOOD), "each is counted");

    let login = sign("ES256", Some("a"), json!({"sub": "ada"}));
    assert!(matches!(decide(&mut proxy, &bearing(&login)), Decision::Route { .. }));
    // What was signed by a key that comes later is good from then on.
    let early = sign("RS256", Some("b"), json!({"sub": "ada"}));
    proxy.tokens.set_keys(0, Keys::new(vec![key("b", P256), key("c", RSA)]));
    decide(&mut proxy, &bearing(&early));
    proxy.tokens.set_keys(0, Keys::new(vec![key("b", RSA)]));
    assert!(matches!(decide(&mut proxy, &bearing(&early)), Decision::Route { .. }));
}

#[test]
fn a_token_that_was_refused_by_a_wrong_clock_is_good_again_a_minute_later() {
    let mut proxy = by_token(&own_keys());
    let token = good("ada");
    let ahead = Fake { later: Millis(7_200_000), ..bearing(&token) };
    assert_eq!(reply(decide(&mut proxy, &ahead)).status, 401, "expired, by this clock");

    assert!(matches!(decide(&mut proxy, &bearing(&token)), Decision::Route { .. }));
}

#[test]
fn a_token_without_kid_costs_nothing_where_several_keys_fit() {
    let mut provider = own_keys();
    provider["keys"] = json!([{"kid": "a", "pem": P256}, {"kid": "b", "pem": P256}]);
    provider["algorithms"] = json!(["ES256"]);
    let token = sign("ES256", None, json!({"sub": "ada"}));
    let mut strict = by_token(&provider);
    for _ in 0..2 * FLOOD {
        assert_eq!(reply(decide(&mut strict, &bearing(&token))).status, 401);
    }
    assert_eq!(results(&strict).into_iter().collect::<Vec<_>>(), [("ambiguous_key", u64::from(2 * FLOOD))]);

    provider["without_kid"] = "try_keys".into();
    assert!(matches!(decide(&mut by_token(&provider), &bearing(&token)), Decision::Route { .. }));
    provider["without_kid"] = "one_key".into();
    provider["keys"] = json!([{"kid": "a", "pem": P256}]);
    assert!(matches!(decide(&mut by_token(&provider), &bearing(&token)), Decision::Route { .. }));
}

#[test]
fn secrets_are_checked_without_a_budget() {
    let secret = "0123456789abcdef0123456789abcdef";
    let mut proxy = by_token(&json!({"algorithms": ["HS256"], "keys": [{"kid": "a", "secret": secret}]}));
    let forged = |number: u32| {
        let forged = forged(number);
        let (_, rest) = forged.split_once('.').unwrap();
        format!("eyJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.{rest}")
    };
    for number in 0..2 * FLOOD {
        let decision = decide(&mut proxy, &bearing(&forged(number)));
        assert_eq!(reply(decision).status, 401);
    }
}

#[test]
fn two_configurations_of_one_worker_share_the_time_for_checks() {
    let mut former = by_token(&own_keys());
    flooded(&mut former);
    let mut next = by_token(&own_keys());
    next.succeed(&former);
    see_members(&mut next);

    assert_eq!(next.handle_request(1, None, &bearing(&good("bob"))).1, Progress::Pending);
}

#[test]
fn observing_holds_no_request_up_for_a_check() {
    let mut proxy = super::fake::of(&json!({
        "v": 1,
        "jwt_providers": [{
            "name": "players", "algorithms": ["RS256", "ES256"],
            "keys": [{"kid": "a", "pem": RSA}, {"kid": "b", "pem": P256}]
        }],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}], "missing": "reject"}
        }],
        "rules": [{"name": "look", "pool": "nodes", "rollout": {"mode": "observe"}}]
    }));
    see_members(&mut proxy);
    for number in 0..FLOOD {
        let (request, progress) = proxy.handle_request(number, None, &from("10.9.9.9:1", &forged(number)));
        assert_eq!(progress, Progress::Decided);
        assert!(matches!(request.decision, Some(Decision::Pass { .. })));
    }
    assert!(!proxy.has_waiters());
}

#[test]
fn a_request_that_ends_while_it_waits_for_its_check_is_not_handed_in_again() {
    let mut proxy = by_token(&own_keys());
    flooded(&mut proxy);
    let (mut request, progress) = proxy.handle_request(5_000, None, &from("10.0.0.7:2", &good("bob")));
    assert_eq!(progress, Progress::Pending);

    proxy.handle_gone(5_000, &mut request);

    let ready: Vec<(u32, Waited)> = std::iter::from_fn(|| proxy.poll_check(NOW + Millis(60_000))).collect();
    assert!(!ready.is_empty() && ready.iter().all(|(stream, _)| *stream != 5_000));
}
