//! What holds for every page.

use std::process::{Command, Stdio};

use berth_harness::{Client, Request, berth};
use serde_json::Value;

use crate::page::Page;
use crate::story::{homes, looked_again, patient, running, settled};

/// No service listens there: commands are read, and do nothing.
const NO_SERVER: &str = "http://127.0.0.1:1";
/// What `berth` says of a command line that it does not take.
const WRONG: i32 = 2;

fn pools(plugin: &Value) -> &[Value] {
    plugin["pools"].as_array().expect("pools")
}

#[test]
fn commands_are_such_as_berth_takes_and_name_the_pool_of_their_page() {
    for page in Page::all() {
        let plugin = page.plugin();
        for line in page.uses_of_berth() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let named = words.iter().skip_while(|word| **word != "--pool").nth(1).unwrap_or(&"nodes");
            let found = pools(&plugin).iter().any(|pool| pool["name"] == **named);
            assert!(found, "{}: `{line}` is for the pool {named}", page.name());

            let words =
                words.iter().skip(1).map(|word| if *word == "ADDRESS" { "10.0.0.1:80" } else { word });
            let mut command = Command::new(berth().unwrap());
            command.args(words).env("BERTH_SERVER", NO_SERVER).stdin(Stdio::null());
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_ne!(output.status.code(), Some(WRONG), "{}: `{line}`: {said}", page.name());
        }
    }
}

/// A request whose session this source finds.
fn named_by(client: &Client, source: &Value, id: &str) -> Request {
    let text = |name: &str| source[name].as_str();
    match (text("header"), text("cookie"), text("path")) {
        (Some(header), _, _) => client.get("/").header(header, id),
        (_, Some(cookie), _) => client.get("/").header("cookie", format!("{cookie}={id}")),
        (_, _, Some(path)) => client.get(&path.replace("{session}", id)),
        _ => panic!("{source}: a source that this test does not know"),
    }
}

/// The page for coming from `ring_hash` has another size, and a test of its own.
#[tokio::test(flavor = "multi_thread")]
async fn new_sessions_begin_where_envoys_own_ring_has_them() {
    let mut configurations = Vec::new();
    for page in Page::all().iter().filter(|page| !page.name().ends_with("from-ring-hash.md")) {
        for pool in pools(&page.plugin()) {
            let mut plugin = page.plugin();
            plugin.as_object_mut().unwrap().remove("rules");
            plugin["pools"] = Value::Array(vec![pool.clone()]);
            plugin["pools"][0]["cluster"] = "nodes".into();
            configurations.push((page.name().to_owned(), plugin));
        }
    }
    let world = running(configurations[0].1.clone()).envoys(1).start().await;
    let envoy = world.envoy(0);

    let mut begun = Vec::new();
    for (page, plugin) in &configurations {
        envoy.reload(|json| *json = patient(plugin.clone())).await.unwrap();
        let pool = plugin["pools"][0]["name"].as_str().unwrap();
        looked_again(envoy, pool).await;
        settled(&world, pool, &[("active", 4)]).await;
        let ids: Vec<String> =
            (0..60).map(|number| format!("{}-{pool}-{number}", page.replace('/', "-"))).collect();
        let source = &plugin["pools"][0]["session"]["sources"][0];
        let at = homes(&world, &ids, |client, id| named_by(client, source, id)).await;
        begun.push((page, ids, at));
    }
    // Without the filter, and without the header that it would set.
    let bare = |listener: &mut Value| {
        let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
        manager["http_filters"].as_array_mut().unwrap().retain(|filter| filter["name"] != "berth");
        let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
        assert!(route["match"].as_object_mut().unwrap().remove("headers").is_some());
    };
    envoy.reload_listener(bare).await.unwrap();

    for (page, ids, at) in begun {
        let by_envoy = homes(&world, &ids, |client, id| client.get("/").header("x-session-id", id)).await;
        let moved = at.iter().zip(&by_envoy).filter(|(one, other)| one != other).count();
        assert_eq!(moved, 0, "{page}: sessions of {} that Envoy's ring has elsewhere", ids.len());
    }
}
