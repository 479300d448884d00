//! A token that is refused stays in the browser's cookie, unless the answer deletes it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_core::decision::{Decision, Reply};
use berth_core::event::Reason;
use berth_core::proxy::Proxy;
use berth_core::token::{Key, Keys};
use serde_json::{Value, json};

use super::fake::{Fake, NOW, decide, of, reply, see_members};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const DELETION: &str = "token=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly";

/// Tokens of one provider, from a header, a cookie that is deleted, a cookie that is not, and a query.
fn proxy(edit: impl Fn(&mut Value)) -> Proxy {
    let mut config = json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "jwt_providers": [{
            "name": "players", "algorithms": ["HS256"], "keys": [{"kid": "a", "secret": SECRET}],
            "from": [
                {"header": "authorization", "prefix": "Bearer "},
                {"cookie": "token", "delete_when_refused": {}},
                {"cookie": "other"},
                {"query": "token"}
            ]
        }],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}], "missing": "reject"}
        }]
    });
    edit(&mut config);
    let mut proxy = of(&config);
    see_members(&mut proxy);
    proxy
}

fn sign(header: &Value, claims: &Value) -> String {
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn token(claims: &Value) -> String {
    sign(&json!({"alg": "HS256", "kid": "a"}), claims)
}

fn expired() -> String {
    token(&json!({"sub": "ada", "exp": 1}))
}

fn good() -> String {
    token(&json!({"sub": "ada", "exp": NOW.0 / 1000 + 60, "created": NOW.0 / 1000 - 7200}))
}

fn refused(proxy: &mut Proxy, headers: &[(&str, &str)]) -> Reply {
    reply(decide(proxy, &Fake::new(headers)))
}

/// Status and deletion.
fn seen(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status, reply.set_cookie.as_deref())
}

#[test]
fn a_refused_token_is_deleted_from_the_cookie_that_held_it() {
    let mut proxy = proxy(|_| ());
    let unknown = sign(&json!({"alg": "HS256", "kid": "b"}), &json!({"sub": "ada"}));
    for token in [expired(), unknown, "garbage".to_owned(), format!("{}x", good())] {
        let reply = refused(&mut proxy, &[("cookie", &format!("theme=dark; token={token}"))]);

        assert_eq!(seen(&reply), (401, Some(DELETION)), "{token}");
        assert!(reply.challenge.is_some());
    }
    // In a second line, as browsers send cookies over HTTP/2.
    let lines = ["theme=dark".to_owned(), format!("token={}", expired())];
    let lines = lines.map(|line| ("cookie".to_owned(), line));
    let split = Fake { lines: lines.to_vec(), ..Fake::new(&[("cookie", "theme=dark")]) };
    assert_eq!(seen(&reply(decide(&mut proxy, &split))), (401, Some(DELETION)));
}

#[test]
fn a_token_that_is_for_others_stays_in_its_cookie() {
    let mut proxy = proxy(|config| config["jwt_providers"][0]["audiences"] = json!(["games"]));
    let now = NOW.0 / 1000;
    for (audience, expires, deletion) in [("chat", now + 60, None), ("games", now - 3_600, Some(DELETION))] {
        let cookie = format!("token={}", token(&json!({"sub": "ada", "aud": audience, "exp": expires})));
        assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie)])), (401, deletion), "{audience}");
    }
}

/// Whatever the reason for which it was refused: other issuers have other keys.
#[test]
fn a_token_whose_time_has_not_come_stays_in_its_cookie() {
    let mut proxy = proxy(|_| ());
    let now = NOW.0 / 1000;
    // The issuer's clock is ahead by more than the leeway: a fresh login must not be undone.
    for begin in ["nbf", "iat"] {
        let early = token(&json!({"sub": "ada", "exp": now + 3600, begin: now + 120}));
        let reply = refused(&mut proxy, &[("cookie", &format!("token={early}"))]);
        assert_eq!(seen(&reply), (401, None), "{begin}");
        // In milliseconds it will never be good.
        let never = token(&json!({"sub": "ada", "exp": (now + 3600) * 1000, begin: now * 1000}));
        let reply = refused(&mut proxy, &[("cookie", &format!("token={never}"))]);
        assert_eq!(seen(&reply), (401, Some(DELETION)), "{begin}");
    }
}

#[test]
fn a_token_that_says_that_it_is_for_others_stays_until_its_time_is_over() {
    let mut proxy = proxy(|config| {
        config["jwt_providers"][0]["issuer"] = "https://games".into();
        config["jwt_providers"][0]["audiences"] = json!(["games"]);
    });
    let now = NOW.0 / 1000;
    let claims = |issuer: &str, audience: &str, expires: u64| json!({"sub": "ada", "iss": issuer, "aud": audience, "exp": expires});
    let theirs = claims("https://chat", "chat", now + 60);
    let over = claims("https://chat", "chat", now - 3_600);
    let forged = claims("https://games", "games", now + 60);
    let [ours, unknown, none] =
        [json!({"alg": "HS256", "kid": "a"}), json!({"alg": "HS256", "kid": "b"}), json!({"alg": "none"})];
    let undated = json!({"sub": "ada", "iss": "https://chat", "aud": "chat"});
    for (token, deletion) in [
        (sign(&ours, &theirs), None),
        (sign(&ours, &claims("https://games", "chat", now + 60)), None),
        (sign(&unknown, &theirs), None),
        (sign(&none, &theirs), None),
        (sign(&ours, &undated), None),
        (format!("{}x", sign(&ours, &theirs).trim_end_matches(char::is_alphanumeric)), None),
        (sign(&unknown, &forged), Some(DELETION)),
        (sign(&unknown, &over), Some(DELETION)),
        (sign(&ours, &over), Some(DELETION)),
    ] {
        let reply = refused(&mut proxy, &[("cookie", &format!("token={token}"))]);
        assert_eq!(seen(&reply), (401, deletion), "{token}");
    }
}

#[test]
fn each_cookie_is_judged_by_every_provider_that_reads_it() {
    let now = NOW.0 / 1000;
    let provider = |name: &str, audience: Value, cookie: &str, leeway: &str| {
        json!({
            "name": name, "algorithms": ["HS256"], "keys": [{"kid": "a", "secret": SECRET}],
            "audiences": audience, "leeway": leeway,
            "from": [{"cookie": cookie, "delete_when_refused": {}}]
        })
    };
    let proxy = |providers: [Value; 2]| {
        self::proxy(|config| {
            let sources = providers.iter().map(|one| json!({"jwt": one["name"], "claim": "sub"}));
            config["pools"][0]["session"]["sources"] = sources.collect();
            config["jwt_providers"] = json!(providers);
        })
    };
    let for_chat = |expires: u64| token(&json!({"sub": "ada", "aud": "chat", "exp": expires}));

    // The token of the first may be right elsewhere; that of the second is over.
    let mut two = proxy([
        provider("games", json!(["games"]), "token", "1m"),
        provider("guests", json!(["guests"]), "token2", "1m"),
    ]);
    let cookies = format!("token={}; token2={}", for_chat(now + 60), expired());
    let deletion = DELETION.replace("token", "token2");
    assert_eq!(seen(&refused(&mut two, &[("cookie", &cookies)])), (401, Some(&*deletion)));

    // One cookie: over by the clock of its own provider, whose leeway is short.
    let games = provider("games", json!(["games"]), "token", "1m");
    let chat = provider("chat", json!(["chat"]), "token", "0s");
    for providers in [[games.clone(), chat.clone()], [chat, games]] {
        let mut proxy = proxy(providers);
        let cookie = format!("token={}", for_chat(now - 30));
        assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie)])), (401, Some(DELETION)));
    }

    // One cookie: the order of the providers that refuse it does not matter.
    let games = provider("games", json!(["games"]), "token", "1m");
    let mut strangers = provider("strangers", Value::Null, "token", "1m");
    strangers["keys"] = json!([{"kid": "b", "secret": SECRET}]);
    for providers in [[games.clone(), strangers.clone()], [strangers, games]] {
        let mut proxy = proxy(providers);
        let cookie = format!("token={}", for_chat(now + 60));
        assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie)])), (401, None));
    }
}

#[test]
fn a_token_from_elsewhere_deletes_no_cookie() {
    let mut proxy = proxy(|_| ());
    let bad = expired();
    let good = format!("token={}", good());
    for headers in [
        vec![("authorization", format!("Bearer {bad}"))],
        // The header counts, whatever the cookie holds.
        vec![("authorization", format!("Bearer {bad}")), ("cookie", good)],
        vec![("cookie", format!("other={bad}"))],
        vec![(":path", format!("/?token={bad}"))],
        vec![],
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();

        assert_eq!(seen(&refused(&mut proxy, &headers)), (401, None), "{headers:?}");
    }
}

#[test]
fn no_cookie_is_deleted_while_keys_may_come_that_verify_it() {
    let published = |config: &mut Value| {
        let provider = &mut config["jwt_providers"][0];
        provider.as_object_mut().unwrap().remove("keys");
        provider["algorithms"] = json!(["RS256"]);
        provider["remote_jwks"] = json!({"cluster": "idp", "host": "id", "path": "/jwks.json"});
    };
    let cookie = |kid: &str| {
        let header = json!({"alg": "RS256", "kid": kid}).to_string();
        format!("token={}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"))
    };
    let mut proxy = proxy(published);
    assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie("a"))])), (503, None), "no keys yet");

    let pem = include_str!("../../testdata/token/rsa-2048.pem");
    proxy.tokens.set_keys(0, Keys::new(vec![Key::pem(Some("a"), pem).unwrap()]));
    assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie("b"))])), (401, None), "a key to come");
    assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie("a"))])), (401, Some(DELETION)), "a forgery");
    // No key makes a token good whose time is over.
    let rotated = sign(&json!({"alg": "RS256", "kid": "b"}), &json!({"sub": "ada", "exp": 1}));
    let cookie_of = |token: &str| format!("token={token}");
    let reply = refused(&mut proxy, &[("cookie", &cookie_of(&rotated))]);
    assert_eq!(seen(&reply), (401, Some(DELETION)), "its key is published no longer");

    // Nor if the first provider refuses it, and it may be the second one's.
    let mut proxy = self::proxy(|config| {
        let mut second = config["jwt_providers"][0].clone();
        second["name"] = "guests".into();
        second["from"] = json!([{"cookie": "token"}]);
        config["jwt_providers"].as_array_mut().unwrap().push(second.clone());
        config["jwt_providers"][1] = {
            let mut whole = json!({"jwt_providers": [second]});
            published(&mut whole);
            whole["jwt_providers"][0].clone()
        };
        let sources = config["pools"][0]["session"]["sources"].as_array_mut().unwrap();
        sources.push(json!({"jwt": "guests", "claim": "sub"}));
    });
    assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie("a"))])), (401, None));
    let cookie = format!("token={}", expired());
    assert_eq!(
        seen(&refused(&mut proxy, &[("cookie", &cookie)])),
        (401, Some(DELETION)),
        "HS256 is no other's"
    );
}

#[test]
fn a_session_that_is_too_old_is_deleted_with_its_cookie() {
    let mut proxy = proxy(|config| {
        let session = &mut config["pools"][0]["session"];
        session["sources"][0]["created"] = "created".into();
        session["max_age"] = "1h".into();
    });
    let undated = token(&json!({"sub": "ada", "exp": NOW.0 / 1000 + 60}));
    for (token, reason) in [(good(), Reason::SessionOver), (undated, Reason::TokenRefused)] {
        let reply = refused(&mut proxy, &[("cookie", &format!("token={token}"))]);

        assert_eq!((seen(&reply), reply.reason), ((401, Some(DELETION)), reason));
        let reply = refused(&mut proxy, &[("authorization", &format!("Bearer {token}"))]);
        assert_eq!((seen(&reply), reply.reason), ((401, None), reason));
    }
}

#[test]
fn what_is_let_through_deletes_nothing() {
    let cookie = format!("token={}", expired());
    let mut proxy = proxy(|config| config["jwt_providers"][0]["on_invalid"] = "sessionless".into());
    let decision = decide(&mut proxy, &Fake::new(&[("cookie", &cookie)]));
    assert_eq!(decision, Decision::pass(Reason::TokenRefused));

    // The way to the login page, beside rules that want a token.
    let mut proxy = self::proxy(|config| {
        config["rules"] = json!([
            {"name": "login", "pool": "nodes", "match": {"path_prefixes": ["/login"]}, "affinity": "off"},
            {"name": "rest", "pool": "nodes"}
        ]);
    });
    let login = Fake::new(&[("cookie", &cookie), (":path", "/login")]);
    assert_eq!(decide(&mut proxy, &login), Decision::pass(Reason::AffinityOff));
    assert_eq!(login.take_reads(), [":path"]);
    assert_eq!(seen(&refused(&mut proxy, &[("cookie", &cookie), (":path", "/")])), (401, Some(DELETION)));
}
