//! `berth ring` as its users meet it: arguments in, lines and an exit code out.
#[path = "support/http.rs"]
mod http;
mod support;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use berth_core::wire::SessionKey;
use http::Service;
use serde_json::{Value, json};

/// Points of six members 127.0.0.1:90 to :95 on a ring of 12, from the tests of Envoy's own ring_hash.
const ENVOYS_POINTS: [(u64, u32); 12] = [
    (833437586790550860, 94),
    (928266305478181108, 92),
    (1033482794131418490, 90),
    (3551244743356806947, 95),
    (3851675632748031481, 93),
    (5583722120771150861, 91),
    (6311230543546372928, 91),
    (7700377290971790572, 93),
    (13144177310400110813, 95),
    (13444792449719432967, 92),
    (15516499411664133160, 94),
    (16117243373044804889, 90),
];

fn berth(arguments: &[&str]) -> Output {
    command(arguments).stdin(Stdio::null()).output().unwrap()
}

fn berth_reading(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    for name in ["POOL", "SERVER", "TOKEN", "CA", "CLIENT_CERT", "CLIENT_KEY"] {
        command.env_remove(format!("BERTH_{name}"));
    }
    command.arg("ring").args(arguments);
    command
}

/// Six members, these options, and keys.
fn six_members<'a>(options: &[&'a str], keys: &[&'a str]) -> Vec<&'a str> {
    let members =
        ["127.0.0.1:90", "127.0.0.1:91", "127.0.0.1:92", "127.0.0.1:93", "127.0.0.1:94", "127.0.0.1:95"];
    let members = members.iter().flat_map(|member| ["--member", *member]);
    members.chain(options.iter().copied()).chain(keys.iter().copied()).collect()
}

fn json_lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr_of_bad_input(arguments: &[&str]) -> String {
    let output = berth(arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "bad input got an answer");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn names_the_owner_that_envoy_would_take() {
    let keys: Vec<String> = (0..500).map(|i| format!("session-{i}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();

    let answers = json_lines(&berth(&six_members(&["--minimum-ring-size", "12", "--format", "json"], &keys)));

    assert_eq!(answers.len(), keys.len());
    let mut met = [false; 12];
    for (answer, key) in answers.iter().zip(keys) {
        let hash = answer["hash"].as_u64().unwrap();
        assert_eq!(hash, berth_core::ring::session_hash(key.as_bytes()));
        let after = ENVOYS_POINTS.partition_point(|(point, _)| *point < hash) % ENVOYS_POINTS.len();
        met[after] = true;
        assert_eq!(answer["key"], key);
        let mut in_order: Vec<String> = Vec::new();
        for step in 0..ENVOYS_POINTS.len() {
            let (_, port) = ENVOYS_POINTS[(after + step) % ENVOYS_POINTS.len()];
            let node = format!("127.0.0.1:{port}");
            if !in_order.contains(&node) {
                in_order.push(node);
            }
        }
        assert_eq!(answer["owner"], in_order[0], "hash {hash}");
        assert_eq!(answer["successors"], Value::from(&in_order[1..]), "hash {hash}");
    }
    assert_eq!(met, [true; 12], "the keys did not reach every point");
}

#[test]
fn prints_one_json_object_a_line_in_a_fixed_order() {
    let output = berth(&six_members(&["--format", "json", "--minimum-ring-size", "12"], &["a"]));

    // XXH64 of "a" by its reference implementation; the owner follows from the points above.
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"key\":\"a\",\"hash\":15154266338359012955,\"owner\":\"127.0.0.1:94\",\"successors\":[\"127.0.0.1:90\",\
         \"127.0.0.1:92\",\"127.0.0.1:95\",\"127.0.0.1:93\",\"127.0.0.1:91\"]}\n"
    );
}

#[test]
fn aligns_its_text() {
    let arguments = ["--member", "10.0.0.10:8080", "--member", "[0:0::1]:80=2", "a", "session-1"];

    let text = String::from_utf8(berth(&arguments).stdout).unwrap();

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], "KEY                        HASH  OWNER           SUCCESSORS");
    for line in &lines[1..] {
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns.len(), 4);
        assert_eq!(line.find(columns[2]), lines[0].find("OWNER"));
        assert_eq!(line.find(columns[3]), lines[0].find("SUCCESSORS"));
    }
    assert!(text.contains("[::1]:80"), "not as Envoy writes it: {text}");
}

#[test]
fn reads_keys_from_standard_input_when_none_is_given() {
    let arguments = six_members(&["--format", "json"], &[]);

    let answers = json_lines(&berth_reading(&arguments, b"one\n\ntwo words \r\nlast"));

    let keys: Vec<&Value> = answers.iter().map(|answer| &answer["key"]).collect();
    assert_eq!(keys, ["one", "two words ", "last"]);
    assert_eq!(berth_reading(&arguments, b"").status.code(), Some(0));
}

#[test]
fn answers_for_keys_that_are_no_text() {
    let bytes = b"\x00\xff\x1b[2J\\";

    let json = json_lines(&berth_reading(&six_members(&["--format", "json"], &[]), bytes));
    let text = berth_reading(&six_members(&[], &[]), bytes);

    assert_eq!(json[0]["key_hex"], "00ff1b5b324a5c");
    assert_eq!(json[0]["hash"], berth_core::ring::session_hash(bytes));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(r"\u{0}\xff\u{1b}[2J\\"), "{text}");
}

#[test]
fn takes_the_other_algorithms() {
    let maglev = ["--maglev-table-size", "7", "--format", "json"];
    let named = ["--algorithm", "maglev", "--maglev-table-size", "7", "--format", "json"];
    let rendezvous = ["--algorithm", "rendezvous", "--format", "json"];

    // XXH64 of "a" mod 7 is slot 4; the tables are those of Envoy's own maglev test.
    let slot = (15154266338359012955_u64 % 7) as usize;
    let owner = format!("127.0.0.1:{}", [92, 94, 90, 91, 95, 90, 93][slot]);
    assert_eq!(json_lines(&berth(&six_members(&maglev, &["a"])))[0]["owner"], owner);
    assert_eq!(json_lines(&berth(&six_members(&named, &["a"])))[0]["owner"], owner);
    assert_eq!(
        json_lines(&berth(&six_members(&rendezvous, &["a"])))[0]["successors"].as_array().unwrap().len(),
        5
    );
}

#[test]
fn reports_every_fault_at_once() {
    let message = stderr_of_bad_input(&[
        "--member",
        "10.0.0.1",
        "--member",
        "::1",
        "--member",
        "node:80=x",
        "--member",
        "10.0.0.2:0",
        "--member",
        "[::1]:80",
        "--member",
        "[0::1]:80=2",
        "--virtual-nodes",
        "many",
        "--minimum-ring-size",
        "5",
        "--algorithm",
        "ketama",
        "--format",
        "yaml",
        "",
    ]);

    let faults = [
        "10 faults",
        "--member 10.0.0.1: there is no port",
        "--member ::1: IPv6 needs brackets",
        "--member node:80=x: not an IP address and a port",
        "weight `x` is not a whole number",
        "--member 10.0.0.2:0: port 0 is not a port",
        "--member [0::1]:80=2: [::1]:80 is given twice",
        "--virtual-nodes: must be a whole number",
        "--virtual-nodes and --minimum-ring-size or --maximum-ring-size: exclude each other",
        "--algorithm: must be ring-hash or maglev or rendezvous, is \"ketama\"",
        "--format: must be text or json, is \"yaml\"",
        "KEY 1: is empty",
    ];
    for fault in faults {
        assert!(message.contains(fault), "{fault:?} is missing in\n{message}");
    }
}

#[test]
fn refuses_what_cannot_be_built() {
    let two: &[&str] = &["--member", "10.0.0.1:80", "--member", "10.0.0.2:80=65535", "key"];
    let cases = [
        (&[][..], &["key"][..], "--member: is missing: give at least one"),
        (&["--maglev-table-size", "65536"], two, "not a prime: take 65537"),
        (&["--minimum-ring-size", "9", "--maximum-ring-size", "8"], two, "above the maximum ring size 8"),
        (&["--virtual-nodes", "0"], two, "virtual nodes is 0: make it at least 1"),
        (&[], two, "33554432 points, the most is 8388608"),
        (
            &["--algorithm", "rendezvous", "--virtual-nodes", "9"],
            two,
            "ring sizes: are for --algorithm ring-hash",
        ),
        (
            &["--algorithm", "ring-hash", "--maglev-table-size", "7"],
            two,
            "--maglev-table-size: is for --algorithm maglev",
        ),
        (
            &["--virtual-nodes", "9", "--maglev-table-size", "7"],
            two,
            "ring sizes: are for --algorithm ring-hash",
        ),
        (&["--no-such-option"], two, "--no-such-option"),
    ];

    for (options, rest, expected) in cases {
        let message = stderr_of_bad_input(&[options, rest].concat());
        assert!(message.contains(expected), "{expected:?} is missing in\n{message}");
    }
}

#[test]
fn is_quiet_when_its_reader_goes_away() {
    for format in ["text", "json"] {
        let mut child = command(&six_members(&["--format", format], &[]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());

        // The child may be gone before it has read all: that is no fault of this test.
        let _ = child.stdin.take().unwrap().write_all(&b"key\n".repeat(100_000));
        let output = child.wait_with_output().unwrap();

        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

#[test]
fn members_may_be_internal_listeners_and_pipes() {
    let answer = |key: &str| {
        let members = ["--member", "envoy://x0/[::1]:80=2", "--member", "/run/a.sock", "--member", "@b"];
        let output =
            Command::new(env!("CARGO_BIN_EXE_berth")).arg("ring").args(members).arg(key).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all: String = ["a", "b", "c", "d", "e"].map(answer).concat();
    for name in ["envoy://x0/[::1]:80", "/run/a.sock", "@b"] {
        assert!(all.contains(name), "{all}");
    }
}

/// A service that has `ada` pinned to the ring's choice of six members, and `bob` to another one.
fn service_with_pins() -> (Service, String, &'static str) {
    let service = Service::in_memory();
    let answer = json_lines(&berth(&six_members(&["--format", "json"], &["ada", "bob"])));
    let owner = |place: usize| answer[place]["owner"].as_str().unwrap().to_owned();
    let other = if owner(1) == "127.0.0.1:90" { "127.0.0.1:91" } else { "127.0.0.1:90" };
    for (id, node) in [("ada", owner(0).as_str()), ("bob", other)] {
        let session = json!({"key": SessionKey::new("games", id.as_bytes()), "candidates": [node]});
        let body = json!({"pool": "games", "sessions": [session]}).to_string();
        assert_eq!(service.ask("POST", "/v1/resolve", &body).status, 200);
    }
    (service, owner(1), other)
}

#[test]
fn shows_where_pins_are_and_where_the_ring_would_put_them() {
    let (service, owner, other) = service_with_pins();
    let url = service.url();
    let options = ["--server", &url, "--pool", "games"];

    let output = berth(&six_members(&options, &["ada", "bob", "eve"]));
    let text = String::from_utf8(output.stdout).unwrap();

    let has = |line: &str| assert!(text.contains(line), "{line} is not in\n{text}");
    assert!(output.status.success() && output.stderr.is_empty());
    has("which is the ring's choice too");
    has(&format!("bob: pinned to {other} for "));
    has(&format!("; the ring would choose {owner}\n"));
    has("eve: no pin in pool games");
    has("A pin stays where");

    let json =
        json_lines(&berth(&six_members(&[&options[..], &["--format", "json"]].concat(), &["bob", "eve"])));
    assert_eq!((&json[0]["pin"]["node"], &json[0]["owner"]), (&json!(other), &json!(owner)));
    assert_eq!(json[1].get("pin"), Some(&Value::Null));
}

#[test]
fn says_that_a_pin_may_differ_and_answers_without_a_service() {
    let quiet = berth(&six_members(&[], &["ada"]));
    let note = String::from_utf8(quiet.stderr).unwrap();
    assert!(quiet.status.success() && note.lines().count() == 1 && note.contains("berth inspect"), "{note}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = berth(&six_members(&["--server", &format!("http://{free}")], &["ada"]));
    let complaint = String::from_utf8(away.stderr).unwrap();
    assert_eq!((away.status.code(), away.stdout), (Some(0), quiet.stdout));
    assert!(complaint.contains("no pins are shown: cannot reach"), "{complaint}");

    let wrong = stderr_of_bad_input(&six_members(&["--server", "nowhere"], &["ada"]));
    assert!(wrong.contains("--server: must be http://"), "{wrong}");
}
