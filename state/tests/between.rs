//! What pods call in their hooks, with a proxy between them and the service that answers by itself: a mesh's sidecar without a
//! healthy upstream, its policy, or an instance that hangs.
#[path = "support/between.rs"]
mod between_proxy;
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use between_proxy::{Between, Does};
use commands::{Running, berth, failure};
use http::Service;
use serde_json::json;
use support::eventually;

use berth_core::wire::SessionKey;

const NODE: &str = "10.0.0.1:80";
/// What Envoy answers with.
const NO_UPSTREAM: Does = Does::Say(503, "no healthy upstream");
const RBAC: Does = Does::Say(403, "RBAC: access denied");

/// A part of a large store, without sessions.
const PART: Does = Does::Say(200, r#"{"pins": 0, "complete": false, "nodes": {}, "next": "s1.5.0"}"#);
/// A service that cannot go on with a count, as it says so.
const NO_AFTER: Does = Does::Say(
    400,
    r#"{"error": {"code": "invalid", "message": "the request is wrong", "faults": [{"path": "after", "message": "is not a parameter"}]}}"#,
);

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
    let all = [
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
    ]
    .into_iter()
    .map(|(does, says)| {
        let proxy = Between::start(service.address, &[], does);
        let mut join = berth(&["join", "--server", &proxy.url(), "--node", NODE, "--deadline", "5s"]);
        let joining = join.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        (joining, proxy, does, says)
    });
    for (joining, _proxy, does, says) in all.collect::<Vec<_>>() {
        let (code, text) = failure(&joining.wait_with_output().unwrap());
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
    let before = proxy.requests().len();
    // The first may have been on its way.
    eventually("two refusals", || proxy.requests().len() > before + 1);
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

/// While services are updated, a count may begin at a new one and go on at an old one.
#[test]
fn no_answer_to_a_count_ends_leave_before_its_deadline() {
    let service = Service::in_memory();
    pin(&service, "ada");
    let absent = Does::Say(404, r#"{"error": {"code": "not_found", "message": "there is no such path"}}"#);
    let page = Does::Say(200, "<html>maintenance</html>");
    let first = [Does::Pass, PART, NO_AFTER, page, absent];
    let proxy = Between::of("/v1/counts", service.address, &first, Does::Pass);

    let leaving = Running::start(&mut leave(&proxy.url(), &["--deadline", "1m"]));
    leaving.line();
    assert!(leaving.line().starts_with("1 session left"));
    end(&service, "ada");

    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(leaving.ends().0, Some(0));
    let counts = proxy.requests().into_iter().filter(|line| line.contains("/v1/counts"));
    let goes_on: Vec<bool> = counts.map(|line| line.contains("after=")).collect();
    assert_eq!(goes_on.iter().filter(|goes_on| **goes_on).count(), 1, "it began again: {goes_on:?}");

    // Where nothing else comes, the deadline says so.
    pin(&service, "ben");
    let proxy = Between::of("/v1/counts", service.address, &[], NO_AFTER);
    let (code, text) = failure(&leave(&proxy.url(), &["--deadline", "10s"]).output().unwrap());
    assert_eq!(code, Some(4), "{text}");
    assert!(text.lines().last().unwrap().contains("is not a parameter"), "{text}");
}

/// It looks through so many keys as one call may, since it cannot go on.
#[test]
fn a_service_of_before_counts_in_one_call() {
    let service = Service::in_memory();
    pin(&service, "ada");
    end(&service, "ada");
    service.ask("PUT", &format!("/v1/nodes/{NODE}?pool=nodes"), r#"{"self_state": "active"}"#);
    let sample = Does::Say(200, r#"{"pins": 0, "complete": false, "nodes": {}}"#);
    let proxy = Between::of("limit=200000", service.address, &[], sample);

    let output = leave(&proxy.url(), &["--deadline", "20s"]).output().unwrap();

    assert_eq!(failure(&output), (Some(0), String::new()));
    assert!(proxy.requests().iter().any(|line| line.contains("limit=10000000")), "{:?}", proxy.requests());

    // The blank ends the limit.
    let proxy = Between::of("limit=1000000 ", service.address, &[], sample);
    let nodes = berth(&["nodes", "--count", "--server", &proxy.url()]).output().unwrap();
    let text = String::from_utf8_lossy(&nodes.stdout);
    assert!(proxy.requests().iter().any(|line| line.contains("limit=10000000 ")), "{text}");
    assert!(nodes.status.success() && !text.contains("sample"), "{text}");
}

/// A count that takes long is repeated less often, and the record is looked at all the same.
#[test]
fn leave_sees_the_last_session_end_although_counts_are_slow() {
    let service = Service::in_memory();
    pin(&service, "ada");
    let proxy = Between::of("/v1/counts", service.address, &[], Does::Late(5000));
    let leaving = Running::start(&mut leave(&proxy.url(), &["--deadline", "2m"]));
    leaving.line();
    assert!(leaving.line().starts_with("1 session left"));

    let path = format!("/v1/nodes/{NODE}?pool=nodes");
    service.ask("DELETE", &path, "");
    eventually("the node drains again", || {
        let record = service.ask("GET", &path, "");
        record.status == 200 && record.json()["state"] == "draining"
    });
    end(&service, "ada");

    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(leaving.ends().0, Some(0));
}

/// The record was lost while a count was under way, and the node got a session.
#[test]
fn a_count_is_believed_only_if_the_node_was_draining_meanwhile() {
    let service = Service::in_memory();
    let path = format!("/v1/nodes/{NODE}?pool=nodes");
    service.ask("PUT", &path, r#"{"self_state": "active"}"#);
    let proxy = Between::of("/v1/counts", service.address, &[Does::Late(4000)], Does::Pass);
    let leaving = Running::start(&mut leave(&proxy.url(), &["--deadline", "1m"]));
    leaving.line();
    eventually("a count", || proxy.requests().iter().any(|line| line.contains("/v1/counts")));
    // The count is answered at once and held back.
    std::thread::sleep(Duration::from_secs(1));

    assert_eq!(service.ask("DELETE", &path, "").status, 200);
    pin(&service, "ada");

    let mut line = leaving.line();
    if line.starts_with("no sessions left") {
        line = leaving.line();
    }
    assert!(line.starts_with("1 session left"), "{line}");
    end(&service, "ada");
    assert!(leaving.line().starts_with("no sessions left"));
    assert_eq!(leaving.ends().0, Some(0));
}

#[test]
fn leave_says_at_its_deadline_what_stood_between() {
    let service = Service::in_memory();
    let all = [
        (NO_UPSTREAM, 3, "answered 503"),
        (RBAC, 1, "AuthorizationPolicy"),
        (Does::Hang, 3, "10.0.0.1:80 is not draining in pool nodes"),
    ]
    .map(|(does, code, says)| {
        let proxy = Between::start(service.address, &[], does);
        let mut leave = leave(&proxy.url(), &["--deadline", "8s"]);
        let leaving = leave.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        (leaving, Instant::now(), proxy, does, code, says)
    });
    for (leaving, start, _proxy, does, code, says) in all {
        let (given, text) = failure(&leaving.wait_with_output().unwrap());

        assert_eq!(given, Some(code), "{does:?}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains(says) && last.contains("is not draining in pool nodes"), "{does:?}: {text}");
        assert!(start.elapsed() >= Duration::from_secs(7), "{does:?}");
    }
    // Draining, but not countable: it says why.
    pin(&service, "ada");
    let first = [Does::Pass, Does::Pass, Does::Pass];
    let proxy = Between::start(service.address, &first, NO_UPSTREAM);
    let (code, text) = failure(&leave(&proxy.url(), &["--deadline", "10s"]).output().unwrap());
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
