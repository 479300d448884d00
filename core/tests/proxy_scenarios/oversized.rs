//! Tokens beyond what any issuer makes, and clocks that differ.

use berth_core::decision::Decision;
use berth_core::event::Reason;
use berth_core::time::Millis;
use berth_core::token::Keys;
use serde_json::json;

use super::fake::{Fake, NOW, decide, reply};
use super::signed::{RSA, bearing, by_token, key, remote, results, sign};

/// Seconds.
fn now() -> u64 {
    NOW.0 / 1000
}

#[test]
fn a_kid_beyond_any_has_no_issuer_asked_and_no_key_tried() {
    let mut proxy = by_token(&remote());
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA)]));
    for length in [1_025, 10_000, 100_000] {
        let token = sign("RS256", Some(&"k".repeat(length)), json!({"sub": "ada"}));
        let request = Fake { keys_are_coming: true, ..bearing(&token) };

        let answer = reply(decide(&mut proxy, &request));

        assert_eq!((answer.status, answer.reason), (401, Reason::TokenRefused), "{length}");
        assert!(!request.take_reads().contains(&"wants keys".to_owned()), "{length}");
        assert_eq!(results(&proxy).into_iter().collect::<Vec<_>>(), [("too_large", 1)], "{length}");
    }
}

#[test]
fn a_clock_within_the_leeway_costs_no_request_and_one_beyond_it_is_said_once_an_hour() {
    let mut proxy = by_token(&remote());
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA)]));
    let complaint = |proxy: &berth_core::proxy::Proxy, later: u64| {
        proxy.tokens.iter().next().unwrap().take_complaint(NOW + Millis(later))
    };
    for claims in [
        json!({"sub": "ada", "iat": now() + 60, "nbf": now() + 60}),
        json!({"sub": "ada", "exp": now() - 59}),
    ] {
        let token = sign("RS256", Some("a"), claims);
        assert!(matches!(decide(&mut proxy, &bearing(&token)), Decision::Route { .. }), "{token}");
    }
    assert_eq!(complaint(&proxy, 0), None);

    for (claims, result) in [
        (json!({"sub": "ada", "iat": now() + 95}), "not_yet_valid"),
        (json!({"sub": "ada", "nbf": now() + 61}), "not_yet_valid"),
        (json!({"sub": "ada", "exp": now() - 60}), "expired"),
    ] {
        results(&proxy);
        let token = sign("RS256", Some("a"), claims);
        assert_eq!(reply(decide(&mut proxy, &bearing(&token))).status, 401);
        assert_eq!(results(&proxy).into_iter().collect::<Vec<_>>(), [(result, 1)]);
        if token == sign("RS256", Some("a"), json!({"sub": "ada", "iat": now() + 95})) {
            let said = complaint(&proxy, 0).unwrap();
            assert!(said.contains("95 s from now") && said.contains("the leeway is 60 s"), "{said}");
        }
    }
    assert_eq!(complaint(&proxy, 3_599_999), None, "it was said");
    let early = bearing(&sign("RS256", Some("a"), json!({"sub": "eve", "iat": now() + 61})));
    decide(&mut proxy, &early);
    assert!(complaint(&proxy, 3_600_000).is_some());
}

#[test]
fn a_forged_token_from_the_future_says_nothing_of_clocks() {
    let mut proxy = by_token(&remote());
    proxy.tokens.set_keys(0, Keys::new(vec![key("a", RSA)]));
    let token = sign("RS256", Some("a"), json!({"sub": "ada", "iat": now() + 95}));
    let (signed, signature) = token.rsplit_once('.').unwrap();

    decide(&mut proxy, &bearing(&format!("{signed}.AAAA{}", &signature[4..])));

    assert_eq!(proxy.tokens.iter().next().unwrap().take_complaint(NOW), None);
}
