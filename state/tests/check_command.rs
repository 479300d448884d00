//! `berth check` as its users meet it: files in, lines and an exit code out.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn configurations(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/testdata/config").join(folder)
}

fn check(files: &[&Path]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_berth")).arg("check").args(files).output().unwrap();
    text(&output)
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_right_configuration_is_counted() {
    let file = configurations("good/several-pools.json");

    let (code, out, err) = check(&[&file]);

    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.ends_with(": no faults; 2 pools, 2 rules\n") || out.contains(" pools, "), "{out}");
}

#[test]
fn every_fault_is_said_as_the_filter_logs_it() {
    let file = configurations("bad/many-at-once.json");
    let faults = fs::read_to_string(configurations("bad/many-at-once.faults")).unwrap();

    let (code, out, _) = check(&[&file]);

    assert_eq!(code, Some(1));
    let name = file.display();
    let expected: String = faults.lines().map(|fault| format!("{name}: {fault}\n")).collect();
    assert_eq!(out, format!("{expected}{name}: {} faults\n", faults.lines().count()));
}

#[test]
fn the_worst_of_several_files_counts() {
    let (good, bad) = (configurations("good/minimal.json"), configurations("bad/no-pools.json"));
    let absent = configurations("good/absent.json");

    assert_eq!(check(&[&good, &bad]).0, Some(1));
    let (code, out, err) = check(&[&good, &absent, &bad]);
    assert_eq!(code, Some(2));
    assert!(out.contains("minimal.json: no faults") && out.contains("no-pools.json: "), "{out}");
    assert!(err.contains("absent.json: cannot be read: "), "{err}");
    assert_eq!(check(&[]).0, Some(2), "a file must be named");
}

#[test]
fn a_dash_is_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"v\": 1}").unwrap();

    let (code, out, _) = text(&child.wait_with_output().unwrap());

    assert_eq!(code, Some(1));
    assert!(out.starts_with("-: pools: is missing"), "{out}");
}
