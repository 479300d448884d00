//! `docs/api.md` is true: its examples are run in order, with a shell and curl, and answer what the page shows. And
//! `docs/OPERATIONS.md` has all that the service counts.
#[path = "support/http.rs"]
mod http;
mod support;

use std::process::Command;
use std::sync::Arc;

use berth_core::token::{self, Policy};
use berth_state::issuer::Issuer;
use berth_state::store::{Keeping, Memory};
use berth_state::{Access, Limits};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use http::Service;

/// Fenced blocks in order: their first line's words, and what they hold.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((kind, body.join("\n")));
        }
    }
    blocks
}

/// The service of the chapter on access.
fn guarded() -> Service {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, support::tokens::key_set(&[("e", Algorithm::ES256)])).unwrap();
    let issuer = Issuer::open(&file, Policy::new(vec![token::Algorithm::Es256])).unwrap();
    let access = Access { token: Some("proxies".to_owned()), issuer: Some(issuer), ..Access::default() };
    Service::start(Limits { access, ..Limits::default() }, || {
        Arc::new(Memory::new(Keeping::default(), Arc::new(http::now)))
    })
}

fn jwt(scope: &str) -> String {
    support::tokens::sign(Algorithm::ES256, "e", json!({"scope": scope}))
}

#[test]
fn every_example_does_what_the_page_says() {
    let service = Service::in_memory();
    let guarded = guarded();
    let page = include_str!("../../docs/api.md").replace("http://127.0.0.1:8650", &service.url());
    let page = page.replace("http://127.0.0.1:8651", &guarded.url());
    let (reader, operator) = (jwt("berth.read"), jwt("berth.operate"));
    let blocks = blocks(&page);
    let mut shown = 0;
    let mut key = String::new();
    for (position, (kind, script)) in blocks.iter().enumerate() {
        if *kind != "sh run" {
            continue;
        }
        let output = Command::new("bash")
            .args(["-euc", script])
            .envs([("KEY", &key), ("READER", &reader), ("OPERATOR", &operator)])
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{script}\n{stdout}");
        if script.starts_with("KEY=") {
            key = stdout.trim().to_owned();
        }
        if let Some(("json", expected)) = blocks.get(position + 1).map(|(kind, body)| (*kind, body)) {
            let expected: Value = serde_json::from_str(expected).unwrap();
            same(&expected, &serde_json::from_str(&stdout).unwrap(), script);
            shown += 1;
        }
    }
    assert!(shown >= 10, "{shown}");
}

/// Equal, but for times and positions. The versions of pins are times; those of records are small.
fn same(expected: &Value, found: &Value, script: &str) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            assert!(expected.keys().eq(found.keys()), "{script}: {expected:?} is {found:?}");
            for (name, value) in expected {
                let is_time = name == "version" && value.as_u64() > Some(1 << 40);
                if is_time {
                    assert!(found[name].as_u64().is_some_and(|found| (1 << 40..1 << 53).contains(&found)));
                } else if name != "cursor" && name != "store" && !name.ends_with("_ms") {
                    same(value, &found[name], script);
                }
            }
        }
        (Value::Array(expected), Value::Array(found)) => {
            assert_eq!(expected.len(), found.len(), "{script}");
            expected.iter().zip(found).for_each(|(expected, found)| same(expected, found, script));
        }
        _ => assert_eq!(expected, found, "{script}"),
    }
}

#[test]
fn every_metric_of_the_service_is_named_with_its_labels() {
    let service = Service::in_memory();
    // Requests are counted once there was one.
    assert_eq!(service.ask("GET", "/v1/nodes?pool=nodes", "").status, 200);
    let metrics = service.ask("GET", "/metrics", "").body;
    let page = include_str!("../../docs/OPERATIONS.md");
    let heads = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let heads: Vec<(&str, &str)> = heads.collect();
    assert!(heads.len() >= 7, "{metrics}");

    for (name, kind) in heads {
        let sample = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        let labels = match sample.split_once('{') {
            // A histogram's are its own affair.
            Some((_, labels)) if kind != "histogram" => {
                let parts = labels.split_once('}').unwrap().0.split(',');
                let names: Vec<&str> = parts.map(|part| part.split_once('=').unwrap().0).collect();
                format!("{{{}}}", names.join(","))
            }
            _ => String::new(),
        };
        assert!(page.contains(&format!("`{name}{labels}`")), "OPERATIONS.md lacks {name}{labels}");
    }
}
