//! What a new configuration takes over of tokens, and what another set of keys leaves of them.

use berth_core::decision::Decision;
use berth_core::passive::{Failure, Kind, Noted};
use berth_core::proxy::{Progress, Proxy};
use berth_core::token::Keys;
use serde_json::{Value, json};

use super::fake::{NOW, decide, see_members};
use super::signed::{P256, RSA, bearing, by_token, key, remote, results, sign};

/// The proxy after a reload with this provider.
fn reloaded(former: &Proxy, provider: &Value) -> Proxy {
    let mut proxy = by_token(provider);
    proxy.succeed(former);
    see_members(&mut proxy);
    proxy
}

fn own_keys() -> Value {
    json!({"algorithms": ["RS256", "ES256"], "keys": [{"kid": "a", "pem": RSA}, {"kid": "b", "pem": P256}]})
}

fn tokens() -> [String; 2] {
    [sign("RS256", Some("a"), json!({"sub": "ada"})), sign("ES256", Some("b"), json!({"sub": "bob"}))]
}

/// Each token names a session; the results of both.
fn good(proxy: &mut Proxy) -> Vec<(&'static str, u64)> {
    for token in tokens() {
        assert!(matches!(decide(proxy, &bearing(&token)), Decision::Route { .. }));
    }
    results(proxy).into_iter().collect()
}

fn published(proxy: &Proxy, keys: &[(&str, &str)]) {
    proxy.tokens.set_keys(0, Keys::new(keys.iter().map(|(id, pem)| key(id, pem)).collect()));
}

#[test]
fn a_reload_keeps_the_tokens_that_were_verified() {
    let mut former = by_token(&own_keys());
    assert_eq!(good(&mut former), [("verified", 2)]);

    let mut next = reloaded(&former, &own_keys());

    assert_eq!(good(&mut next), [("cached", 2)]);
    assert_eq!(good(&mut former), [("cached", 2)], "the former one goes on for a while");
}

#[test]
fn a_reload_keeps_the_published_keys_with_the_tokens() {
    let mut former = by_token(&remote());
    published(&former, &[("a", RSA), ("b", P256)]);
    assert_eq!(good(&mut former), [("verified", 2)]);
    let mut provider = remote();
    provider["remote_jwks"]["refresh"] = "1h".into();
    provider["on_invalid"] = "sessionless".into();

    let mut next = reloaded(&former, &provider);

    assert_eq!(good(&mut next), [("cached", 2)]);
    let new = sign("ES256", Some("b"), json!({"sub": "eve"}));
    let (request, progress) = next.handle_request(3, None, &bearing(&new));
    assert_eq!(progress, Progress::Decided, "there is nothing to wait for: {request:?}");
    assert_eq!(results(&next).into_iter().collect::<Vec<_>>(), [("verified", 1)]);
    // What is withdrawn while both go on is withdrawn for both.
    published(&next, &[("a", RSA)]);
    for proxy in [&mut next, &mut former] {
        let (request, _) = proxy.handle_request(3, None, &bearing(&new));
        assert!(!matches!(request.decision, Some(Decision::Route { .. })), "{request:?}");
    }
}

#[test]
fn a_reload_that_checks_otherwise_verifies_again() {
    let mut former = by_token(&own_keys());
    good(&mut former);
    for (field, value) in [
        ("leeway", json!("10s")),
        ("require_expiry", json!(false)),
        ("allow_padding", json!(true)),
        ("algorithms", json!(["ES256", "RS256", "PS256"])),
    ] {
        let mut provider = own_keys();
        provider[field] = value;
        assert_eq!(good(&mut reloaded(&former, &provider)), [("verified", 2)], "{field}");
    }
    let mut strict = own_keys();
    strict["audiences"] = json!(["games"]);
    let mut strict = reloaded(&former, &strict);
    for token in tokens() {
        assert!(matches!(decide(&mut strict, &bearing(&token)), Decision::Reply(_)));
    }
    assert_eq!(good(&mut former), [("cached", 2)]);
}

#[test]
fn a_reload_with_another_key_forgets_only_the_tokens_of_the_one_that_went() {
    let mut former = by_token(&own_keys());
    good(&mut former);
    let mut fewer = own_keys();
    fewer["keys"] = json!([{"kid": "c", "pem": P256}, {"kid": "a", "pem": RSA}]);

    let mut next = reloaded(&former, &fewer);

    let [ada, bob] = tokens();
    assert!(matches!(decide(&mut next, &bearing(&ada)), Decision::Route { .. }));
    assert!(matches!(decide(&mut next, &bearing(&bob)), Decision::Reply(_)));
    assert_eq!(results(&next).into_iter().collect::<Vec<_>>(), [("cached", 1), ("unknown_key", 1)]);
    assert_eq!(good(&mut former), [("cached", 2)], "the former one goes on by its own keys");
}

#[test]
fn a_set_in_another_order_or_form_forgets_no_token_and_a_new_key_neither() {
    let mut proxy = by_token(&remote());
    published(&proxy, &[("a", RSA), ("b", P256)]);
    assert_eq!(good(&mut proxy), [("verified", 2)]);

    published(&proxy, &[("b", P256), ("a", RSA)]);
    assert_eq!(good(&mut proxy), [("cached", 2)]);
    published(&proxy, &[("c", P256), ("a", RSA), ("b", P256)]);
    assert_eq!(good(&mut proxy), [("cached", 2)]);
    published(&proxy, &[("c", P256), ("b", P256)]);
    let [ada, bob] = tokens();
    assert!(!matches!(decide(&mut proxy, &bearing(&ada)), Decision::Route { .. }), "its key was withdrawn");
    assert!(matches!(decide(&mut proxy, &bearing(&bob)), Decision::Route { .. }));
    assert_eq!(results(&proxy).get("cached"), Some(&1));
}

#[test]
fn a_reload_keeps_what_failed_at_nodes() {
    let mut former = by_token(&own_keys());
    let node = former.pools[0].snapshot().unwrap().nodes[0].key_hash;
    let pool = &mut former.pools[0];
    let failure = Failure { node, kind: Kind::Connect, session: 1 };
    let rules = pool.failure_rules();
    let noted = pool.failures.ledger.failed(&failure, rules, &pool.failures.answers, NOW);
    assert_ne!(noted, Noted::Unchanged);

    let next = reloaded(&former, &own_keys());

    assert_eq!(format!("{:?}", next.pools[0].failures), format!("{:?}", former.pools[0].failures));
    assert!(!next.pools[0].failures.ledger.is_empty());
}
