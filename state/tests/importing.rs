//! `berth import` as it is used: files, logs that are followed, services that go away, and lines that are wrong.
#[path = "support/between.rs"]
mod between_proxy;
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_core::wire::SessionKey;
use serde_json::{Value, json};

use between_proxy::{Between, Does};
use commands::{Running, berth, failure};
use http::Service;
use support::{eventually, free_ports};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

fn import(url: &str, more: &[&str]) -> Command {
    let mut command = berth(&["import", "--server", url, "--format", "json"]);
    command.args(more).stdin(Stdio::piped());
    command
}

/// Imports these lines.
fn import_text(service: &Service, text: &str, more: &[&str]) -> Output {
    let mut child =
        import(&service.url(), more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn summary(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn session(service: &Service, id: &str) -> Option<Value> {
    let key = SessionKey::new("nodes", id.as_bytes());
    let reply = service.ask("GET", &format!("/v1/sessions/{key}?pool=nodes"), "");
    (reply.status == 200).then(|| reply.json())
}

#[test]
fn pins_live_as_long_as_the_pool_says() {
    let service = Service::in_memory();
    import_text(&service, &format!("ada {A}\n"), &[]);
    assert_eq!(session(&service, "ada").unwrap()["idle_ttl_ms"], 1_800_000);

    // Also a pin that is there.
    let output = import_text(&service, &format!("ada {A}\nben {A}\n"), &["--ttl", "2h"]);

    assert!(output.status.success(), "{output:?}");
    for id in ["ada", "ben"] {
        let session = session(&service, id).unwrap();
        assert_eq!(session["idle_ttl_ms"], 7_200_000, "{session}");
        assert!(session["ttl_ms"].as_u64().unwrap() > 7_000_000, "{session}");
    }
    let text = berth(&["inspect", "ben", "--server", &service.url()]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("idle ttl 2h00m"), "{text:?}");
    for (ttl, says) in [("5", "--ttl: must be a time with its unit"), ("1ms", "--ttl: must be"), ("31h", "")]
    {
        let (code, text) = failure(&import_text(&service, "", &["--ttl", ttl]));
        assert_eq!(code, Some(if says.is_empty() { 0 } else { 2 }), "{ttl}: {text}");
        assert!(text.contains(says), "{text}");
    }
}

/// Lines come without a pause, of fewer sessions than make a batch.
#[test]
fn a_log_that_never_pauses_is_imported_as_it_grows() {
    let service = Service::in_memory();
    let mut importing = Running::start(&mut import(&service.url(), &[]));
    let mut log = importing.child.stdin.take().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                writeln!(log, "user{} {A}", line % 50).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // The lines go on meanwhile.
        let all = (0..50).map(|id| format!("user{id}")).collect::<Vec<_>>();
        let start = std::time::Instant::now();
        while !all.iter().all(|id| session(&service, id).is_some()) && start.elapsed().as_secs() < 20 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let found = all.iter().filter(|id| session(&service, id).is_some()).count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(found, 50, "sessions have a pin while lines come");
    });
    drop(log);
    let summary: Value = serde_json::from_str(&importing.line()).unwrap();
    assert_eq!(summary["claimed"], 50);
    assert_eq!(importing.ends(), (Some(0), String::new()));
}

#[test]
fn a_signal_ends_an_import_with_what_was_read_and_a_summary() {
    let service = Service::in_memory();
    for (signal, code, name, id) in [("-TERM", 143, "SIGTERM", "ada"), ("-INT", 130, "SIGINT", "ben")] {
        let proxy = Between::start(service.address, &[], Does::Pass);
        let mut importing = Running::start(&mut import(&proxy.url(), &[]));
        let mut log = importing.child.stdin.take().unwrap();
        writeln!(log, "warm-{id} {A}").unwrap();
        eventually("the first line", || session(&service, &format!("warm-{id}")).is_some());
        proxy.does(Does::Say(503, "no healthy upstream"));
        let before = proxy.requests().len();
        writeln!(log, "{id} {A}").unwrap();
        eventually("a failure", || proxy.requests().len() > before);
        // It was read, and waits to be tried again.
        proxy.does(Does::Pass);

        importing.signal(signal);

        let summary: Value = serde_json::from_str(&importing.line()).unwrap();
        assert_eq!(summary["claimed"], 2);
        let (given, says) = importing.ends();
        assert_eq!(given, Some(code));
        assert!(says.ends_with(&format!("berth: {name}: stopped reading lines\n")), "{says}");
        assert!(session(&service, id).is_some());
        drop(log);
    }
}

#[test]
fn replace_moves_sessions_that_have_another_pin() {
    let service = Service::in_memory();
    import_text(&service, &format!("ada {A}\nben {B}\n"), &["--ttl", "1h"]);
    let lines = format!("ada {B}\nben {B}\ncleo {B}\n");
    let kept = summary(&import_text(&service, &lines, &[]));
    assert_eq!([&kept["elsewhere"], &kept["found"], &kept["claimed"]], [1, 1, 1]);
    assert_eq!(session(&service, "ada").unwrap()["node"], A);

    let output = import_text(&service, &lines, &["--replace"]);

    let moved = summary(&output);
    let expected = json!({"claimed": 0, "found": 2, "rehomed": 1, "elsewhere": 0, "skipped": 0, "faulty": 0});
    assert_eq!(moved, expected);
    let ada = session(&service, "ada").unwrap();
    assert_eq!(ada["node"], B);
    assert_eq!((&ada["events"][0]["kind"], &ada["events"][0]["from"]), (&json!("rehomed"), &json!(A)));
    assert_eq!(ada["idle_ttl_ms"], 3_600_000, "what was said of it stays");
    // A node that may get no sessions gets none: the pin stays.
    service.ask("PUT", &format!("/v1/nodes/{A}?pool=nodes"), r#"{"cooldown_ms": 60000}"#);
    let stays = summary(&import_text(&service, &format!("ada {A}\n"), &["--replace"]));
    assert_eq!((&stays["rehomed"], &stays["elsewhere"]), (&json!(0), &json!(1)));
}

#[test]
fn a_service_that_goes_away_and_comes_back_costs_no_line() {
    let service = Service::in_memory();
    let proxy = Between::start(service.address, &[], Does::Pass);
    let mut importing = Running::start(&mut import(&proxy.url(), &["--replace"]));
    let mut log = importing.child.stdin.take().unwrap();
    writeln!(log, "first {A}").unwrap();
    eventually("the first line", || session(&service, "first").is_some());

    for (round, does) in [Does::Say(503, "no healthy upstream"), Does::Say(429, ""), Does::Say(403, "RBAC")]
        .into_iter()
        .enumerate()
    {
        proxy.does(does);
        let before = proxy.requests().len();
        // More than a batch, and more than are read ahead.
        for line in 0..2000 {
            writeln!(log, "s{round}-{line} {A}").unwrap();
            if line == 700 {
                eventually("a failure", || proxy.requests().len() > before);
                proxy.does(Does::Pass);
            }
        }
        // The pipe has room for the lines of a round.
        eventually("the last line", || session(&service, &format!("s{round}-1999")).is_some());
    }
    drop(log);

    let summary: Value = serde_json::from_str(&importing.line()).unwrap();
    assert_eq!(summary["claimed"], 6001, "{summary}");
    let (code, says) = importing.ends();
    assert_eq!(code, Some(0), "{says}");
    assert!(says.contains("trying again each second") && says.contains("answers again"), "{says}");
}

/// A log that is followed may have no line for long. The time that a service has for its first answer begins with the first call.
#[test]
fn a_first_line_that_comes_late_waits_for_a_service_that_restarts() {
    let service = Service::in_memory();
    let proxy = Between::start(service.address, &[], Does::Say(503, "no healthy upstream"));
    let mut importing = Running::start(&mut import(&proxy.url(), &[]));
    let mut log = importing.child.stdin.take().unwrap();
    std::thread::sleep(Duration::from_millis(10_500));

    writeln!(log, "ada {A}").unwrap();
    eventually("a failure", || !proxy.requests().is_empty());
    proxy.does(Does::Pass);

    eventually("the line", || session(&service, "ada").is_some());
    drop(log);
    assert_eq!(importing.ends().0, Some(0));
}

#[test]
fn a_signal_while_the_service_is_away_says_how_much_was_read() {
    let service = Service::in_memory();
    let proxy = Between::start(service.address, &[], Does::Pass);
    let mut importing = Running::start(&mut import(&proxy.url(), &[]));
    let mut log = importing.child.stdin.take().unwrap();
    writeln!(log, "first {A}").unwrap();
    eventually("the first line", || session(&service, "first").is_some());
    proxy.does(Does::Say(503, "no healthy upstream"));
    // More than a batch, and less than is read ahead.
    for line in 0..700 {
        writeln!(log, "s{line} {A}").unwrap();
    }
    let before = proxy.requests().len();
    eventually("a failure", || proxy.requests().len() > before + 1);

    importing.signal("-TERM");

    let (code, says) = importing.ends();
    assert_eq!(code, Some(143), "{says}");
    assert!(says.contains("700 sessions were read and are not imported"), "{says}");
}

#[test]
fn a_line_without_an_end_is_left_out() {
    let service = Service::in_memory();
    let text = format!("{}\nada {A}\n{} {A}", "x".repeat(200_000), "y".repeat(200_000));
    let output = import_text(&service, &text, &[]);
    let (code, says) = failure(&output);
    assert_eq!((code, &summary(&output)["claimed"]), (Some(1), &json!(1)), "{says}");
    assert!(says.contains("line 1: is too long") && says.contains("line 3: is too long"), "{says}");
}

/// It may be starting; but one that is not there at all ends the import, and the summary says what became of the lines.
#[test]
fn a_service_that_never_answers_ends_an_import_with_its_summary() {
    let nowhere = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let mut importing = Running::start(&mut import(&nowhere, &[]));
    writeln!(importing.child.stdin.take().unwrap(), "ada {A}\n- {A}").unwrap();

    let summary: Value = serde_json::from_str(&importing.line()).unwrap();
    assert_eq!((&summary["claimed"], &summary["skipped"]), (&json!(0), &json!(1)));
    let (code, says) = importing.ends();
    assert_eq!(code, Some(3), "{says}");
    assert!(says.contains("1 sessions were read and are not imported"), "{says}");
}

#[test]
fn lines_that_would_pin_something_else_are_refused_by_number() {
    let service = Service::in_memory();
    let syslog = "<134>Nov 27 11:02:19 lb haproxy[1]:";
    let long = "x".repeat(513);
    let lines = format!(
        "ada {A}\n{syslog} ben {A}\n{long} {A}\ncleo fd00::1:8080\ntwo words {A}\ntwo words\t{A}\n{} {A}\n",
        &long[1..]
    );

    let output = import_text(&service, &lines, &[]);

    let (code, says) = failure(&output);
    assert_eq!(code, Some(1), "{says}");
    assert_eq!((&summary(&output)["claimed"], &summary(&output)["faulty"]), (&json!(3), &json!(4)));
    for part in [
        "line 2: begins with the prefix of syslog: cut it off",
        "line 3: its id has 513 bytes",
        "line 4: must be ip:port or [ipv6]:port",
        "needs brackets, as in [fd00::1]:8080",
        "line 5: is more than SESSION NODE",
        "line 6: its id has blanks inside",
        "4 lines were left out",
    ] {
        assert!(says.contains(part), "{part} is not in\n{says}");
    }
    assert!(session(&service, "two words").is_some());
    assert!(session(&service, &format!("{syslog} ben")).is_none());

    // A log of nothing else does not flood the terminal.
    let (_, says) = failure(&import_text(&service, &format!("{syslog} ben {A}\n").repeat(1000), &[]));
    assert_eq!(says.matches("the prefix of syslog").count(), 20);
    assert!(says.contains("further wrong lines are only counted") && says.contains("1000 lines"), "{says}");
}
