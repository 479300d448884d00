//! Who may ask what of a `berth serve` that has `--jwks`: every call by every caller, key rotation while it runs, and
//! what a refusal says.
#[path = "support/http.rs"]
mod http;
mod support;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use berth_core::token::{self, Policy};
use berth_core::wire::SessionKey;
use berth_state::issuer::Issuer;
use berth_state::store::{Keeping, Memory};
use berth_state::{Access, Limits};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use http::{Reply, Service};
use support::tokens::{RSA, SECRET, key_set, now, sign, sign_bytes};
use support::{eventually, free_ports};

const PROXIES: &str = "t0p-of-the-proxies";
const NODE: &str = "10.0.0.1:80";

fn berth(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BERTH_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A `berth serve` with a set of keys, and the proxies' static token.
struct Serve {
    folder: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Serve {
    fn start(keys: &str, algorithms: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("jwks.json");
        std::fs::write(&file, keys).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_ports(1)[0]));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = berth(&["serve", "--listen", &address.to_string(), "--token", PROXIES])
            .args(["--jwks", file.to_str().unwrap(), "--jwt-algorithms", algorithms])
            .args(["--jwt-audience", "games,berth", "--log-format", "json", "--log-level", "debug"])
            .stderr(log)
            .spawn()
            .unwrap();
        let serve = Self { folder, address, child };
        eventually("the service", || TcpStream::connect(address).is_ok());
        serve
    }

    fn ask(&self, method: &str, path: &str, body: &str, authorization: Option<&str>) -> Reply {
        let header = authorization.map(|value| format!("authorization: {value}"));
        http::ask(self.address, method, path, body, header.as_deref().as_slice())
    }

    fn nodes(&self, token: &str) -> u16 {
        self.ask("GET", "/v1/nodes?pool=nodes", "", Some(&format!("Bearer {token}"))).status
    }

    fn operate(&self, arguments: &[&str]) -> Output {
        berth(arguments).args(["--server", &format!("http://{}", self.address)]).output().unwrap()
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn claims(scope: &str) -> Value {
    json!({"sub": "ada", "aud": "berth", "scope": scope})
}

fn token(scope: &str) -> String {
    sign(Algorithm::ES256, "e", claims(scope))
}

/// Both keys of the issuer.
fn both() -> String {
    key_set(&[("e", Algorithm::ES256), ("r", Algorithm::RS256)])
}

fn with(claims: Value, name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims;
    claims[name] = value.into();
    claims
}

/// Good claims, signed by an unknown key that uses the id of a known key.
fn by_another_key() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let header = Header { kid: Some("e".to_owned()), ..Header::new(Algorithm::ES256) };
    let claims = with(claims("berth.operate"), "exp", now() + 600);
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
}

fn by_no_key() -> String {
    let text =
        |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string().as_bytes());
    let claims = with(claims("berth.operate"), "exp", now() + 600);
    format!("{}.{}.", text(&json!({"alg": "none", "kid": "e"})), text(&claims))
}

/// The public key, which everybody has, taken for a secret.
fn by_the_public_key() -> String {
    let claims = with(claims("berth.operate"), "exp", now() + 600).to_string();
    sign_bytes(Algorithm::HS256, RSA, &json!({"alg": "HS256", "kid": "r"}), claims.as_bytes())
}

fn resolve_body(id: &str) -> String {
    let session = json!({"key": SessionKey::new("nodes", id.as_bytes()), "candidates": [NODE]});
    json!({"pool": "nodes", "sessions": [session]}).to_string()
}

#[test]
fn each_call_is_for_those_it_is_meant_for() {
    let serve = Serve::start(&both(), "RS256,ES256");
    let key = SessionKey::new("nodes", b"alice");
    let (node, session) = (format!("/v1/nodes/{NODE}?pool=nodes"), format!("/v1/sessions/{key}?pool=nodes"));
    let cooldown = json!({"cooldown_until_ms": now() * 1000 + 1000}).to_string();
    let (resolve, touch) = (resolve_body("alice"), json!({"pool": "nodes", "keys": [key]}).to_string());
    // The last one takes the session away, which the next caller's turn brings back.
    let calls = [
        ("POST", "/v1/resolve", resolve.as_str()),
        ("POST", "/v1/touch", &touch),
        ("GET", "/v1/changes?pool=nodes", ""),
        ("GET", "/v1/nodes?pool=nodes", ""),
        ("GET", &node, ""),
        ("GET", &session, ""),
        ("PUT", &node, &cooldown),
        ("PUT", &node, r#"{"state": "draining"}"#),
        ("PUT", &node, r#"{"weight": 2}"#),
        ("PUT", &node, r#"{"boot_id": "b1"}"#),
        ("PUT", &node, r#"{"note": "mine"}"#),
        ("PUT", &node, r#"{"self_state": "degraded"}"#),
        ("DELETE", &node, ""),
        ("PUT", &node, &cooldown.replace('}', r#", "state": "standby"}"#)),
        ("DELETE", &session, ""),
    ];
    let proxies = [200, 200, 200, 200, 200, 200, 200, 403, 403, 403, 403, 403, 403, 403, 200];
    let read = [403, 403, 200, 200, 200, 200, 403, 403, 403, 403, 403, 403, 403, 403, 403];
    let operate = [403, 403, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200];
    let (nothing, unauthenticated) = ([403; 15], [401; 15]);

    let jwt = |token: String| Some(format!("Bearer {token}"));
    let by = |claims: Value| jwt(sign(Algorithm::ES256, "e", claims));
    let all = claims("berth.operate berth.read");
    let forged = {
        let (good, other) = (token("berth.operate"), token("berth.read"));
        let (signed, signature) = (good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
        format!("{signed}.{signature}")
    };
    for (who, authorization, expected) in [
        ("no credentials", None, unauthenticated),
        ("the proxies", jwt(PROXIES.to_owned()), proxies),
        ("a reader", jwt(token("berth.read")), read),
        ("an operator", jwt(token("berth.operate")), operate),
        ("an operator by the other key", jwt(sign(Algorithm::RS256, "r", claims("berth.operate"))), operate),
        ("a lower-case scheme", by(all.clone()).map(|value| value.replace("Bearer", "bearer")), operate),
        ("a list of scopes", by(json!({"aud": ["x", "games"], "scp": ["berth.read"]})), read),
        ("a stranger", jwt(token("openid profile")), nothing),
        ("expired", by(with(all.clone(), "exp", now() - 3600)), unauthenticated),
        ("not yet valid", by(with(all.clone(), "nbf", now() + 3600)), unauthenticated),
        ("for others", by(with(all.clone(), "aud", "payments")), unauthenticated),
        ("without an audience", by(json!({"scope": "berth.operate"})), unauthenticated),
        ("an unknown key", jwt(sign(Algorithm::ES256, "x", all.clone())), unauthenticated),
        ("another key", jwt(by_another_key()), unauthenticated),
        ("the key of another algorithm", jwt(sign(Algorithm::RS256, "e", all.clone())), unauthenticated),
        ("a signature of other claims", jwt(forged), unauthenticated),
        ("alg none", jwt(by_no_key()), unauthenticated),
        ("the public key as a secret", jwt(by_the_public_key()), unauthenticated),
        ("a wrong static token", jwt(format!("{PROXIES}x")), unauthenticated),
        ("another scheme", Some(format!("Basic {PROXIES}")), unauthenticated),
        ("no scheme", Some(token("berth.operate")), unauthenticated),
        ("no token", Some("Bearer ".to_owned()), unauthenticated),
    ] {
        let proxy = format!("Bearer {PROXIES}");
        assert_eq!(serve.ask("POST", "/v1/resolve", &resolve, Some(&proxy)).status, 200);
        assert_eq!(serve.ask("PUT", &node, &cooldown, Some(&proxy)).status, 200);
        for ((method, path, body), expected) in calls.iter().zip(expected) {
            let reply = serve.ask(method, path, body, authorization.as_deref());
            assert_eq!(reply.status, expected, "{who}: {method} {path} {body}: {reply:?}");
        }
    }
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(serve.ask("GET", open, "", None).status, 200);
    }
    assert_eq!(serve.ask("PATCH", &node, "", jwt(token("berth.read")).as_deref()).status, 405);
}

#[test]
fn who_may_not_is_told_what_it_takes_and_nothing_of_why_a_token_is_wrong() {
    let serve = Serve::start(&both(), "RS256,ES256");
    let node = format!("/v1/nodes/{NODE}?pool=nodes");
    let jwt = |claims: Value| sign(Algorithm::ES256, "e", claims);
    let refused = r#"bearer error="invalid_token", error_description="the token is not accepted""#;
    let expired = r#"bearer error="invalid_token", error_description="the token has expired""#;
    let operate = r#"bearer error="insufficient_scope", scope="berth.operate""#;
    let read = r#"bearer error="insufficient_scope", scope="berth.read""#;
    for (method, path, body, token, status, challenge, says) in [
        ("GET", "/v1/nodes?pool=nodes", "", None, 401, "bearer", "send the header authorization"),
        ("GET", &node, "", Some("wrong".to_owned()), 401, refused, "is not accepted"),
        ("GET", &node, "", Some(by_another_key()), 401, refused, "is not accepted"),
        (
            "GET",
            &node,
            "",
            Some(jwt(with(claims("berth.read"), "aud", "x"))),
            401,
            refused,
            "is not accepted",
        ),
        ("GET", &node, "", Some(jwt(with(claims(""), "exp", 7))), 401, expired, "has expired: get a new one"),
        ("GET", &node, "", Some(token("")), 403, read, "needs a token with the scope berth.read"),
        ("PUT", &node, "{}", Some(token("berth.read")), 403, operate, "the scope berth.operate"),
        (
            "PUT",
            &node,
            r#"{"state": "draining"}"#,
            Some(PROXIES.to_owned()),
            403,
            operate,
            "proxies may only",
        ),
        (
            "POST",
            "/v1/resolve",
            &resolve_body("a"),
            Some(token("berth.operate")),
            403,
            r#"bearer error="insufficient_scope""#,
            "only proxies may do this",
        ),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let reply = serve.ask(method, path, body, authorization.as_deref());
        assert_eq!(reply.status, status, "{reply:?}");
        let sent = reply.head.lines().find_map(|line| line.strip_prefix("www-authenticate: "));
        assert_eq!(sent, Some(challenge));
        let error = reply.json()["error"].clone();
        let code = if status == 401 { "unauthorized" } else { "forbidden" };
        assert_eq!(error["code"], code);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }

    let metrics = serve.ask("GET", "/metrics", "", None).body;
    for line in [
        r#"berth_state_tokens_total{result="verified"} 3"#,
        r#"berth_state_tokens_total{result="missing"} 1"#,
        r#"berth_state_tokens_total{result="wrong"} 0"#,
        r#"berth_state_tokens_total{result="malformed"} 1"#,
        r#"berth_state_tokens_total{result="signature"} 1"#,
        r#"berth_state_tokens_total{result="audience"} 1"#,
        r#"berth_state_tokens_total{result="expired"} 1"#,
        r#"berth_state_requests_total{call="node",status="403"} 3"#,
        r#"berth_state_requests_total{call="resolve",status="403"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn keys_are_rotated_beneath_it_and_broken_ones_take_nothing_away() {
    let serve = Serve::start(&key_set(&[("e", Algorithm::ES256)]), "RS256,ES256");
    let old = token("berth.read");
    let new = sign(Algorithm::RS256, "r", claims("berth.read"));
    assert_eq!((serve.nodes(&old), serve.nodes(&new)), (200, 401));

    // As Kubernetes does: what the name points to is exchanged in one step.
    let next = serve.folder.path().join("next.json");
    std::fs::write(&next, both()).unwrap();
    let link = serve.folder.path().join("link");
    std::os::unix::fs::symlink(&next, &link).unwrap();
    std::fs::rename(&link, serve.keys()).unwrap();
    eventually("the new key", || serve.nodes(&new) == 200);
    assert_eq!(serve.nodes(&old), 200);

    let warnings = || serve.log().matches("those from before are kept").count();
    std::fs::write(&next, &both()[..40]).unwrap();
    eventually("the broken file", || warnings() == 1);
    assert_eq!((serve.nodes(&old), serve.nodes(&new)), (200, 200));
    std::fs::remove_file(serve.keys()).unwrap();
    eventually("the missing file", || warnings() == 2);
    assert_eq!((serve.nodes(&old), serve.nodes(&new)), (200, 200));

    std::fs::write(serve.keys(), key_set(&[("r", Algorithm::RS256)])).unwrap();
    eventually("the old key's end", || serve.nodes(&old) == 401);
    assert_eq!((serve.nodes(&new), warnings()), (200, 2));
}

#[test]
fn a_secret_shared_with_the_issuer_will_do() {
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(SECRET);
    let serve =
        Serve::start(&json!({"keys": [{"kty": "oct", "kid": "s", "k": secret}]}).to_string(), "HS256");

    assert_eq!(serve.nodes(&sign(Algorithm::HS256, "s", claims("berth.read"))), 200);
    assert_eq!(serve.nodes(&token("berth.read")), 401);
    assert!(!serve.log().contains(&secret));
}

#[test]
fn operators_commands_say_which_token_it_takes_and_the_log_says_who_did_what() {
    let serve = Serve::start(&both(), "ES256");
    let proxy = format!("Bearer {PROXIES}");
    assert_eq!(serve.ask("POST", "/v1/resolve", &resolve_body("alice"), Some(&proxy)).status, 200);
    let (read, operate) = (token("berth.read"), token("berth.operate"));
    let expired = sign(Algorithm::ES256, "e", with(claims("berth.operate"), "exp", 7));

    for (arguments, code, says) in [
        (&["nodes", "--token", &read][..], 0, ""),
        (&["nodes"], 1, "the service asks for a token: give yours with --token, --token-file or BERTH_TOKEN"),
        (
            &["drain", NODE, "--token", "else"],
            1,
            "is not accepted: get one that is for this service; give it",
        ),
        (&["drain", NODE, "--token", &expired], 1, "has expired: get a new one; give it with --token"),
        (&["drain", NODE, "--token", &read], 1, "needs a token with the scope berth.operate"),
        (&["drain", NODE, "--token", PROXIES], 1, "only set a node's cooldown_until_ms: all else needs"),
        (&["drain", NODE, "--token", &operate], 0, ""),
        (&["end", "alice", "--token", &read], 1, "needs a token with the scope berth.operate"),
        (&["end", "alice", "--token", &operate], 0, ""),
        (&["watch", "--limit", "0", "--token", &read], 0, ""),
    ] {
        let output = serve.operate(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), message.contains(says)),
            (Some(code), true),
            "{arguments:?}: {message}"
        );
    }

    let log = serve.log();
    for done in ["node changed", "session ended"] {
        let line = log.lines().find(|line| line.contains(done)).unwrap_or_else(|| panic!("{done}: {log}"));
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["subject"], "ada");
    }
    for secret in [PROXIES, &read, &operate, &expired] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn settings_that_would_open_it_or_could_verify_nothing_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("jwks.json");
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(SECRET);
    std::fs::write(&file, json!({"keys": [{"kty": "oct", "k": secret}]}).to_string()).unwrap();
    let file = file.to_str().unwrap();
    for (arguments, says) in [
        (&["--jwks", file, "--jwt-algorithms", "HS256"][..], &["would be open to everybody"][..]),
        (&["--jwks", file, "--token", "t"], &["jwt-algorithms: is missing"]),
        (
            &["--jwks", file, "--token", "t", "--jwt-algorithms", "ES256", "--redis-ca", "/no"],
            &["redis: redis-cluster"],
        ),
        (
            &["--jwks", file, "--token", "t", "--jwt-algorithms", "ES256"],
            &["jwks: ", "jwks.json: has no key that goes with jwt-algorithms"],
        ),
        (
            &[
                "--jwks",
                "/no.json",
                "--token",
                "t",
                "--jwt-algorithms",
                "ES256",
                "--tls-cert",
                "/no",
                "--tls-key",
                "/no",
            ],
            &["3 faults", "jwks: /no.json: cannot be read", "tls-cert: cannot read /no"],
        ),
    ] {
        let output = berth(&["serve", "--listen", "127.0.0.1:0"]).args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for says in says {
            assert!(message.contains(says), "{says} is not in\n{message}");
        }
        assert!(!message.contains(&secret), "{message}");
    }
}

#[test]
fn no_signature_is_looked_at_beyond_the_bound_of_requests() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, both()).unwrap();
    let issuer = Issuer::open(&file, Policy::new(vec![token::Algorithm::Es256])).unwrap();
    let access = Access { token: Some(PROXIES.to_owned()), issuer: Some(issuer), ..Access::default() };
    let service = Service::start(Limits { in_flight: 0, access, ..Limits::default() }, || {
        Arc::new(Memory::new(Keeping::default(), Arc::new(http::now)))
    });

    let header = format!("authorization: Bearer {}", by_another_key());
    assert_eq!(service.ask_with("GET", "/v1/nodes?pool=nodes", "", &[&header]).status, 429);
    // Polls have bounds of their own.
    assert_eq!(service.ask_with("GET", "/v1/changes?pool=nodes", "", &[&header]).status, 401);
    let metrics = service.ask("GET", "/metrics", "").body;
    assert!(metrics.contains(r#"berth_state_tokens_total{result="signature"} 1"#), "{metrics}");
}
