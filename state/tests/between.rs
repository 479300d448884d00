//! What pods call in their hooks, with a proxy between them and the service that answers by itself: a mesh's sidecar without a
//! healthy upstream, its policy, or an instance that hangs.
#[path = "support/between.rs"]
mod between_proxy;
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::time::{Duration, Instant};

use between_proxy::{Between, Does};
use commands::{Running, berth, failure};
use http::Service;
use serde_json::json;

use berth_core::wire::SessionKey;

const NODE: &str = "10.0.0.1:80";
/// What Envoy answers with.
const NO_UPSTREAM: Does = Does::Say(503, "no healthy upstream");
const RBAC: Does = Does::Say(403, "RBAC: access denied");

fn pin(service: &Service, id: &str) {
    let session = json!({"key": SessionKey::new("nodes", id.as_bytes()), "candidates": [NODE]});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    assert_eq!(service.ask("POST", "/v1/resolve", &body).status, 200);
}

fn end(service: &Service, id: &str) {
    let key = SessionKey::new("nodes", id.as_bytes());
    assert_eq!(service.ask("DELETE", &format!("/v1/sessions/{key}?pool=nodes"), "").status, 200);
}

fn leave(url: &str, more: &[&str]) -> std::process::Command {
    let mut command = berth(&["leave", "--server", url, "--node", NODE, "--at-least", "0s"]);
    command.args(more);
    command
}

/// A postStart hook that fails kills its container.
#[test]
fn a_node_joins_whatever_stands_between() {
    let service = Service::in_memory();
    for (does, says) in [
        (NO_UPSTREAM, "answered 503"),
        (Does::Say(502, ""), "answered 502"),
        (Does::Say(504, "upstream request timeout"), "answered 504"),
        (Does::Say(500, "<html>"), "answered 500"),
        (Does::Say(429, "local_rate_limited"), "limits requests"),
        (RBAC, "an AuthorizationPolicy of the state service must name this caller's service account"),
        (Does::Say(401, "Jwt is missing"), "other credentials"),
        (Does::Say(404, ""), "check --server"),
        (Does::Say(200, "hello"), "is not that of a state service"),
        // As the service itself writes a refusal.
        (
            Does::Say(401, r#"{"error": {"code": "unauthorized", "message": "the token has expired"}}"#),
            "asks for a token",
        ),
        (
            Does::Say(403, r#"{"error": {"code": "forbidden", "message": "another scope"}}"#),
            "another scope; give it with --token",
        ),
        (Does::Say(500, r#"{"error": {"code": "internal", "message": "broken"}}"#), "broken"),
    ] {
        let proxy = Between::start(service.address, &[], does);
        let join = ["join", "--server", &proxy.url(), "--node", NODE, "--deadline", "1s"];
        let (code, text) = failure(&berth(&join).output().unwrap());
        assert_eq!(code, Some(0), "{does:?}: {text}");
        for part in [says, "WARNING", "starts without", "run `berth join` in it again"] {
            assert!(text.contains(part), "{does:?}: {part} is not in {text}");
        }
    }
}

#[test]
fn a_node_joins_once_the_proxy_lets_it() {
    let service = Service::in_memory();
    let proxy = Between::start(service.address, &[NO_UPSTREAM, RBAC], Does::Pass);

    let output = berth(&["join", "--server", &proxy.url(), "--node", NODE, "--deadline", "20s"]).output();

    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10.0.0.1:80 is active in pool nodes\n");
}

#[test]
fn leave_drains_once_the_proxy_lets_it() {
    let service = Service::in_memory();
    pin(&service, "ada");
    let first = [NO_UPSTREAM, NO_UPSTREAM, RBAC, RBAC, Does::Say(429, ""), Does::Say(404, "")];
    let proxy = Between::start(service.address, &first, Does::Pass);

    let leaving = Running::start(&mut leave(&proxy.url(), &["--deadline", "1m"]));
    assert_eq!(leaving.line(), "10.0.0.1:80 is draining in pool nodes");
    assert!(leaving.line().starts_with("1 session left"));
    proxy.does(RBAC);
    end(&service, "ada");
    std::thread::sleep(Duration::from_millis(1500));
    proxy.does(Does::Pass);

    assert!(leaving.line().starts_with("no sessions left"));
    let (code, says) = leaving.ends();
    assert_eq!(code, Some(0), "{says}");
    assert_eq!(
        says.matches("trying again each second").count(),
        4,
        "once for each change of the kind: {says}"
    );
    assert_eq!(says.matches("the service answers again").count(), 2, "{says}");
}

#[test]
fn leave_says_at_its_deadline_what_stood_between() {
    let service = Service::in_memory();
    for (does, code, says) in [
        (NO_UPSTREAM, 3, "answered 503"),
        (RBAC, 1, "AuthorizationPolicy"),
        (Does::Hang, 3, "10.0.0.1:80 is not draining in pool nodes"),
    ] {
        let proxy = Between::start(service.address, &[], does);
        let start = Instant::now();

        let (given, text) = failure(&leave(&proxy.url(), &["--deadline", "2s"]).output().unwrap());

        assert_eq!(given, Some(code), "{does:?}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains(says) && last.contains("is not draining in pool nodes"), "{does:?}: {text}");
        assert!(start.elapsed() >= Duration::from_secs(2), "{does:?}");
    }
    // Draining, but not countable: it says why.
    pin(&service, "ada");
    let first = [Does::Pass, Does::Pass, Does::Pass];
    let proxy = Between::start(service.address, &first, NO_UPSTREAM);
    let (code, text) = failure(&leave(&proxy.url(), &["--deadline", "6s"]).output().unwrap());
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("has 1 session left; ") && text.contains("answered 503"), "{text}");
}

#[test]
fn an_instance_that_hangs_is_left_for_another() {
    let service = Service::in_memory();
    pin(&service, "ada");
    end(&service, "ada");
    service.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"self_state": "active"}"#);
    // One call of each kind hangs: the record, the change of it, the count.
    let first = [Does::Hang, Does::Pass, Does::Hang, Does::Pass, Does::Pass, Does::Hang];
    let proxy = Between::start(service.address, &first, Does::Pass);
    let start = Instant::now();

    let (code, text) = failure(&leave(&proxy.url(), &["--deadline", "1m"]).output().unwrap());

    assert_eq!(code, Some(0), "{text}");
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
    assert!(text.contains("did not answer in 3s"), "{text}");

    let proxy = Between::start(service.address, &[Does::Hang], Does::Pass);
    let join = ["join", "--server", &proxy.url(), "--node", NODE, "--deadline", "20s"];
    let output = berth(&join).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10.0.0.1:80 is active in pool nodes\n");
}

/// Other commands end with the code that says what is away.
#[test]
fn an_answer_of_a_proxy_is_not_taken_for_the_services() {
    let service = Service::in_memory();
    for (does, code) in [(NO_UPSTREAM, 3), (RBAC, 1), (Does::Say(404, "<html>"), 3), (Does::Pass, 0)] {
        let proxy = Between::start(service.address, &[], does);
        let output = berth(&["nodes", "--server", &proxy.url()]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{does:?}: {output:?}");
    }
}
