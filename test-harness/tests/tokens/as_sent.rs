//! Tokens as load balancers and browsers send them: padded, and in a cookie that outlives them.

use berth_harness::tokens::{Algorithm, P256, RSA, now, sign_padded};
use berth_harness::{World, eventually};
use serde_json::{Value, json};

use crate::support::tokens::{by_token, counted, token};
use crate::support::{SOON, placing, pool, sessions, shown};

/// What AWS's load balancer puts into `x-amzn-oidc-data` (its user guide, "Authenticate users").
fn from_alb(kid: &str, user: &str) -> String {
    let header = json!({
        "alg": "ES256", "kid": kid, "iss": "https://id.example.com", "client": "games", "exp": now() + 120,
        "signer": "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/games/50dc6c495c0c9188",
    });
    let claims = json!({"sub": user, "iss": "https://id.example.com", "exp": now() + 120});
    sign_padded(Algorithm::ES256, &header, &claims)
}

fn alb(allow_padding: bool) -> Value {
    let mut provider = json!({
        "from": [{"header": "x-amzn-oidc-data"}],
        "algorithms": ["ES256"], "issuer": "https://id.example.com", "keys": [{"kid": "a", "pem": P256}],
    });
    if allow_padding {
        provider["allow_padding"] = true.into();
    }
    provider
}

/// Its sessions are the users, by token or by header.
fn users(json: &mut Value) {
    pool(json)["session"]["sources"] =
        json!([{"jwt": "players", "claim": "sub"}, {"header": "x-session-id"}]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancers_padded_token_names_its_session_where_padding_is_allowed() {
    let world = placing(by_token(World::builder(), alb(true)).configuration(users)).await;
    let mut forms = std::collections::BTreeSet::new();
    for user in sessions(12).into_iter().enumerate().map(|(place, user)| user + &"x".repeat(place % 3)) {
        let node = world.get("/").header("x-session-id", &user).send().await.node().to_owned();
        let token = from_alb("a", &user);
        forms.insert(token.matches('=').count());
        for _ in 0..2 {
            let answer = world.get("/").header("x-amzn-oidc-data", &token).send().await;
            assert_eq!((answer.status.as_u16(), shown(&answer, "outcome")), (200, "ring"), "{answer:?}");
            assert_eq!(answer.node(), node);
            let sent_on = answer.received().header("x-amzn-oidc-data").map(<[u8]>::to_vec);
            assert_eq!(sent_on, Some(token.clone().into_bytes()), "it goes on as it came");
        }
    }
    assert!(forms.len() >= 3 && !forms.contains(&0), "{forms:?}");
    let remembered = async || world.envoy(0).stat(&counted("cached")).await >= 1;
    eventually(remembered, SOON).await;

    let strict = placing(by_token(World::builder(), alb(false)).configuration(users)).await;
    let refused = strict.get("/").header("x-amzn-oidc-data", from_alb("a", "ada")).send().await;
    assert_eq!(refused.status, 401);
    eventually(async || strict.envoy(0).stat(&counted("malformed")).await == 1, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_in_a_cookie_does_not_lock_a_browser_out() {
    let provider = json!({
        "from": [
            {"header": "authorization", "prefix": "Bearer "},
            {"cookie": "__Host-token", "delete_when_refused": {"secure": true}}
        ],
        "algorithms": ["RS256"], "keys": [{"kid": "a", "pem": RSA}],
    });
    let rules = |json: &mut Value| {
        pool(json)["session"] = json!({"sources": [{"jwt": "players", "claim": "sid"}], "missing": "reject"});
        json["rules"] = json!([
            {"name": "login", "pool": "nodes", "match": {"path_prefixes": ["/login"]}, "affinity": "off"},
            {"name": "rest", "pool": "nodes"}
        ]);
    };
    let world = by_token(World::builder(), provider).configuration(rules).start().await;
    let good = token(json!({"sid": "ada"}));
    let with = |token: &str, path: &str| {
        world.get(path).header("cookie", format!("theme=dark; __Host-token={token}")).send()
    };
    eventually(async || shown(&with(&good, "/").await, "outcome") == "ring", SOON).await;

    let expired = token(json!({"sid": "ada", "exp": now() - 3_600}));
    let refused = with(&expired, "/").await;
    let deletion = "__Host-token=; Path=/; Max-Age=0; SameSite=Lax; Secure; HttpOnly";
    assert_eq!((refused.status.as_u16(), refused.header("set-cookie")), (401, Some(deletion)));
    let login = with(&expired, "/login?next=/").await;
    assert_eq!((login.status.as_u16(), shown(&login, "reason")), (200, "affinity_off"));
    assert_eq!(login.header("set-cookie"), None, "the page sets its own");

    assert_eq!(with(&good, "/").await.header("set-cookie"), None);
    let bearer = world.get("/").header("authorization", format!("Bearer {expired}")).send().await;
    assert_eq!((bearer.status.as_u16(), bearer.header("set-cookie")), (401, None));
    let absent = world.get("/").send().await;
    assert_eq!((absent.status.as_u16(), absent.header("set-cookie")), (401, None));
}
