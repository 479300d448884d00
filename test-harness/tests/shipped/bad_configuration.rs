//! A bad configuration never serves: at the start Envoy ends and says all that is wrong, at run time it goes on as before.

use std::collections::BTreeSet;

use crate::support::{placing, plugin, sessions};
use berth_core::config::Config;
use berth_harness::{World, root, validate};
use serde_json::{Value, json};

/// Configurations as people get them wrong, and for each how many faults it has at least.
fn mistakes() -> Vec<(&'static str, String, usize)> {
    let text = |json: Value| json.to_string();
    vec![
        ("empty", String::new(), 1),
        ("not JSON", "pools:\n- name: nodes\n".into(), 1),
        ("cut off", r#"{"v": 1, "pools": [{"name": "nodes""#.into(), 1),
        ("a list", text(json!([1, 2])), 1),
        ("only a version", text(json!({"v": 1})), 1),
        ("a version of the future", text(json!({"v": 2, "pools": [good_pool("nodes")]})), 1),
        ("misspelt", text(json!({"v": 1, "pool": [good_pool("nodes")], "pol_interval": "1s"})), 3),
        (
            "numbers without units, invalid names, a source that does not exist",
            text(json!({
                "v": 1,
                "poll_interval": 1,
                "pools": [{
                    "name": "my nodes",
                    "cluster": "nodes",
                    "members": ["10.0.0.1:80"],
                    "session": {"sources": [{"headr": "x-session-id"}, {"cookie": ""}], "missing": "drop"},
                    "health": {"cooldown": 30, "max_cooldown": "5 min"},
                    "panic_threshold": 200,
                }],
            })),
            9,
        ),
        ("two pools of one name", text(json!({"v": 1, "pools": [good_pool("a"), good_pool("a")]})), 2),
    ]
}

fn good_pool(name: &str) -> Value {
    json!({"name": name, "cluster": "nodes", "session": {"sources": [{"header": "x-session-id"}]}})
}

/// Each fault of this text, as the filter names it.
fn faults(text: &str) -> Vec<String> {
    Config::parse(text.as_bytes()).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The shipped bootstrap with this as the plugin's configuration, in a directory of its own.
fn bootstrap(configuration: Value) -> (tempfile::TempDir, std::path::PathBuf) {
    let text = std::fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap();
    let mut json: Value = serde_yaml_ng::from_str(&text).unwrap();
    plugin(&mut json["static_resources"]["listeners"][0])["configuration"] = configuration;
    let directory = tempfile::Builder::new().prefix("berth-").tempdir().unwrap();
    let file = directory.path().join("bootstrap.json");
    std::fs::write(&file, json.to_string()).unwrap();
    (directory, file)
}

fn string_value(text: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
}

fn struct_value(json: &Value) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": json})
}

#[track_caller]
fn assert_names(error: &str, faults: &[String]) {
    for fault in faults {
        assert!(error.contains(fault.as_str()), "{fault:?} is missing in:\n{error}");
    }
}

#[test]
fn envoy_does_not_start_and_names_every_fault() {
    for (name, text, count) in mistakes() {
        let faults = faults(&text);
        assert!(faults.len() >= count, "{name}: {faults:?}");

        let (_directory, file) = bootstrap(string_value(&text));
        let error = validate(&file).expect_err(name);

        assert_names(&error, &faults);
    }
}

#[test]
fn a_struct_is_refused_with_what_to_use_instead() {
    let (_directory, file) = bootstrap(struct_value(&json!({"v": 1, "pools": [good_pool("nodes")]})));

    let error = validate(&file).unwrap_err();

    assert!(error.contains("google.protobuf.StringValue"), "{error}");
}

#[test]
fn a_good_configuration_starts() {
    let text = json!({"v": 1, "pools": [good_pool("nodes")]}).to_string();
    let (_directory, file) = bootstrap(string_value(&text));

    validate(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_that_gets_it_from_its_control_plane_does_not_listen() {
    let (_, text, _) = mistakes().remove(7);
    let faults = faults(&text);
    let started = World::builder().bootstrap(move |json| {
        plugin(&mut json["static_resources"]["listeners"][0])["configuration"] = string_value(&text);
    });

    let error = started.try_start().await.unwrap_err();

    assert_names(&error, &faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_reload_is_refused_with_every_fault_and_sessions_stay() {
    let world = placing(World::builder().nodes(5)).await;
    let envoy = world.envoy(0);
    let keys = sessions(100);
    let nodes = world.nodes_of(&keys).await;
    assert!(nodes.iter().collect::<BTreeSet<_>>().len() == 5);

    for (name, text, _) in mistakes() {
        let refused = envoy.reload_listener(|listener| {
            plugin(listener)["configuration"] = string_value(&text);
        });
        let error = refused.await.expect_err(name).to_string();

        assert_names(&error, &faults(&text));
        assert_eq!(world.nodes_of(&keys).await, nodes, "{name}");
    }
    let refused = envoy.reload_listener(|listener| {
        plugin(listener)["configuration"] = struct_value(&json!({"v": 1, "pools": [good_pool("nodes")]}));
    });
    let error = refused.await.unwrap_err().to_string();
    assert!(error.contains("google.protobuf.StringValue"), "{error}");
    assert_eq!(world.nodes_of(&keys).await, nodes);

    // What is good afterwards is taken.
    envoy.reload(|json| json["debug_header"] = false.into()).await.unwrap();
    assert_eq!(world.nodes_of(&keys).await, nodes);
    assert!(world.get("/").send().await.header("x-berth").is_none());
}
