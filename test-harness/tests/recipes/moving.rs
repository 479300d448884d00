//! Recipes for coming from something else: each session is where it was before, at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use berth_harness::{Client, Envoy, Response, World, berth, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::page::Page;
use crate::story::{homes, looked_again, patient, running, settled};
use crate::support::patience::cluster;
use crate::support::{manager, plugin, routes, sessions};

/// Envoy writes access logs each ten seconds.
const FLUSHED: Duration = Duration::from_secs(30);
/// Sessions that `stateful_session` begins.
const VISITORS: usize = 60;

fn with_cookie(name: &'static str) -> impl Fn(&Client, &str) -> berth_harness::Request {
    move |client, id| client.get("/").header("cookie", format!("theme=dark; {name}={id}"))
}

/// The same configuration, switched on so far.
fn rolled_out(plugin: &Value, rollout: &Value) -> Value {
    let mut plugin = patient(plugin.clone());
    let pool = plugin["pools"][0]["name"].clone();
    plugin["rules"] = json!([{"name": "all", "pool": pool, "rollout": rollout}]);
    plugin
}

async fn configure(world: &World, pool: &str, plugin: &Value) {
    for envoy in world.envoys() {
        envoy.reload(|json| *json = plugin.clone()).await.unwrap();
        looked_again(envoy, pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_ring_hash_stay_at_every_step() {
    let page = Page::open("from-ring-hash.md");
    let (before, route) = (page.envoy(0), page.envoy(1));
    let plugin = page.plugin();
    let size = plugin["pools"][0]["ring"]["minimum_ring_size"].clone();
    assert_eq!(size, before["ring_hash_lb_config"]["minimum_ring_size"]);
    let off = rolled_out(&plugin, &json!({"mode": "off"}));
    let world = running(off).bootstrap(move |json| {
        let nodes = cluster(json, "nodes");
        let mut yours = nodes.clone();
        let fallback =
            "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy/policies/0";
        let ring = nodes.pointer_mut(fallback).unwrap();
        ring["typed_extension_config"]["typed_config"]["minimum_ring_size"] = size.clone();
        yours["name"] = "yours".into();
        yours.as_object_mut().unwrap().remove("load_balancing_policy");
        for (field, value) in before.as_object().unwrap() {
            yours[field] = value.clone();
        }
        json["static_resources"]["clusters"].as_array_mut().unwrap().push(yours);
        *routes(json).last_mut().unwrap() = route.clone();
    });
    let world = world.start().await;
    settled(&world, "web", &[("active", 4)]).await;
    let (ids, ask) = (sessions(200), with_cookie("sid"));
    let at = homes(&world, &ids, &ask).await;

    // As the page has it: observe.
    configure(&world, "web", &patient(plugin.clone())).await;
    assert_eq!(homes(&world, &ids, &ask).await, at);
    for envoy in world.envoys() {
        let result = async |name: &str| {
            envoy.stat(&format!("wasmcustom.berth_rule_requests_total.rule.all.result.{name}")).await
        };
        eventually(async || result("observed_same").await == 200, Duration::from_secs(10)).await;
        assert_eq!(result("observed_moved").await, 0);
    }
    for percent in [10, 50, 100] {
        configure(&world, "web", &rolled_out(&plugin, &json!({"percent": percent}))).await;
        assert_eq!(homes(&world, &ids, &ask).await, at, "at {percent} %");
    }
    world.add_node().await;
    settled(&world, "web", &[("active", 4), ("warming", 1)]).await;
    assert_eq!(homes(&world, &ids, &ask).await, at, "a node was added");
}

/// Runs a page's commands in this directory, with `berth` at hand.
async fn run(world: &World, directory: &Path, commands: String) -> String {
    let binary = berth().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-euc", &commands]).current_dir(directory);
    command.env("PATH", format!("{}:{path}", binary.parent().unwrap().display()));
    command.env("BERTH_SERVER", format!("http://{}", world.state(0).address()));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    // That an id has blanks inside is a warning.
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.lines().filter(|line| !line.contains("blanks inside")).collect();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Commands that follow a log, for a log that is complete.
fn once(commands: &str) -> String {
    let once = commands.replace("tail -n +1 -F", "cat");
    assert_ne!(once, commands, "the page follows a log");
    once
}

/// The cookie of this name that a response sets, as clients keep it.
fn cookie(answer: &Response, name: &str) -> Option<String> {
    let lines = answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.filter_map(|line| line.split(';').next()?.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_stateful_session_stay_by_the_cookie_that_they_have() {
    let page = Page::open("from-stateful-session.md");
    let (filter, log) = (page.envoy(0), page.envoy(1));
    let after = page.plugin();
    let off = rolled_out(&after, &json!({"mode": "off"}));
    let world = running(off).bootstrap(move |json| {
        manager(json)["http_filters"].as_array_mut().unwrap().insert(0, filter.clone());
        manager(json)["access_log"] = json!([log]);
    });
    let world = world.start().await;
    settled(&world, "web", &[("active", 4)]).await;
    // Many in each second, so that some of a node's have the same cookie.
    let (mut cookies, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..VISITORS {
        let first = world.envoy(number % 2).client().get("/").send().await;
        cookies.push(cookie(&first, "route").unwrap_or_else(|| panic!("no cookie: {first:?}")));
        nodes.push(first.node().to_owned());
    }
    let different: BTreeSet<&String> = cookies.iter().collect();
    assert!(different.len() < VISITORS, "the page says that visitors share cookies");
    assert_eq!(homes(&world, &cookies, with_cookie("route")).await, nodes, "stateful_session has them");

    let directory = TempDir::new().unwrap();
    let logged = async || {
        let log: String = world.envoys().iter().map(Envoy::log).collect();
        let missing = cookies.iter().filter(|cookie| !log.contains(cookie.trim_matches('"'))).count();
        std::fs::write(directory.path().join("envoy.log"), log).unwrap();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are not in the log")) }
    };
    eventually(logged, FLUSHED).await;
    let said = run(&world, directory.path(), once(page.commands(0))).await;
    assert!(said.starts_with(&format!("{} claimed", different.len())), "{said}");

    for envoy in world.envoys() {
        let switch = |listener: &mut Value| {
            let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
            let filters = manager["http_filters"].as_array_mut().unwrap();
            filters.retain(|filter| filter["name"] != "envoy.filters.http.stateful_session");
            plugin(listener)["configuration"]["value"] = patient(after.clone()).to_string().into();
        };
        envoy.reload_listener(switch).await.unwrap();
        looked_again(envoy, "web").await;
    }
    assert_eq!(homes(&world, &cookies, with_cookie("route")).await, nodes, "Berth has them");
    world.add_node().await;
    settled(&world, "web", &[("active", 4), ("warming", 1)]).await;
    assert_eq!(homes(&world, &cookies, with_cookie("route")).await, nodes, "a node was added");
    let new = world.get("/").send().await;
    let value = cookie(&new, "route").expect("a cookie of Berth's own");
    assert_eq!(value.len(), 32, "{value} says nothing of nodes");
}

/// Ids of about a hundred bytes, as signed ones are.
fn long_ids() -> impl Iterator<Item = String> {
    (0..4).map(|number| format!("{number}-{}", "0123456789abcdef".repeat(6)))
}

/// What HAProxy 2.6 prints for a table with keys of at most so many bytes, and these servers.
fn exported(world: &World, at: &BTreeMap<String, usize>, length: usize) -> (String, String) {
    let mut table = format!("# table: games, type: string, size:1048576, used:{}\n", at.len());
    for (key, server) in at {
        let key = key[..key.len().min(length)].replace('=', "\\=").replace(' ', "\\ ");
        let id = server + 1;
        table += &format!("0x564b87960ab0: key={key} use=0 exp=1799931 server_id={id} server_key=s{id}\n");
    }
    let mut servers = String::from("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state and others\n");
    for (index, node) in world.nodes().iter().enumerate() {
        let (ip, port, id) = (node.address().ip(), node.address().port(), index + 1);
        servers += &format!("3 games {id} s{id} {ip} 2 0 1 1 1 1 0 2 0 0 0 0 - {port} - 0 0 - - 0\n");
    }
    (table + "\n", servers + "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_stick_table_stay_when_berth_takes_over() {
    let page = Page::open("from-haproxy.md");
    let world = running(page.plugin()).start().await;
    settled(&world, "games", &[("active", 4)]).await;
    // HAProxy took the servers in turn.
    let mut ids = sessions(53);
    ids.extend(["b%3Ac", "with space", "\"e=f\""].map(str::to_owned));
    ids.extend(long_ids());
    let at: BTreeMap<String, usize> = ids.into_iter().zip((0..4).cycle()).collect();
    let length = page.numbers("stick-table type string len ")[0];
    let directory = TempDir::new().unwrap();
    let export = |at: &BTreeMap<String, usize>| {
        let (table, servers) = exported(&world, at, length);
        std::fs::write(directory.path().join("table"), table).unwrap();
        std::fs::write(directory.path().join("servers"), servers).unwrap();
    };

    // Twice, with sessions that began meanwhile.
    let early: BTreeMap<String, usize> = at.clone().into_iter().take(40).collect();
    export(&early);
    let first = run(&world, directory.path(), page.commands(0).to_owned()).await;
    export(&at);
    let second = run(&world, directory.path(), page.commands(0).to_owned()).await;

    assert!(first.starts_with("40 claimed, 0 had"), "{first}");
    assert!(second.starts_with("20 claimed, 40 had"), "{second}");
    let ids: Vec<String> = at.keys().cloned().collect();
    let servers: Vec<String> = at.values().map(|index| world.node(*index).name().to_owned()).collect();
    assert_eq!(homes(&world, &ids, with_cookie("sid")).await, servers);
    world.add_node().await;
    settled(&world, "games", &[("active", 4), ("warming", 1)]).await;
    assert_eq!(homes(&world, &ids, with_cookie("sid")).await, servers, "a node was added");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_haproxys_log_stay_whatever_stands_before_its_lines() {
    let page = Page::open("from-haproxy.md");
    let world = running(page.plugin()).start().await;
    settled(&world, "games", &[("active", 4)]).await;
    let length = page.numbers("http-request capture req.cook(sid) len ")[0];
    let mut ids = sessions(53);
    ids.extend(["with space", "\"e=f\""].map(str::to_owned));
    ids.extend(long_ids());
    let servers: Vec<String> =
        (0..ids.len()).map(|number| world.node(number % 4).name().to_owned()).collect();
    let fronts = [
        "",
        "<134>Nov 27 23:48:34 haproxy[6294]: ",
        "Nov 27 23:48:34 edge-1 haproxy[6294]: ",
        "<134>1 2026-11-27T23:48:34.1+00:00 edge-1 haproxy 6294 - - ",
    ];
    let line = |(number, (id, server)): (usize, (&String, &String))| {
        format!("{}placed {} {server}\n", fronts[number % 4], &id[..id.len().min(length)])
    };
    let mut log: String = ids.iter().zip(&servers).enumerate().map(line).collect();
    // No cookie, no server, and something else.
    log += &format!("placed - {}\nplaced ada -:-\nProxy games started.\n", servers[0]);
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("haproxy.log"), log).unwrap();

    let said = run(&world, directory.path(), once(page.commands(1))).await;

    assert!(said.starts_with(&format!("{} claimed", ids.len())), "{said}");
    assert_eq!(homes(&world, &ids, with_cookie("sid")).await, servers);
}

#[test]
fn addresses_of_ipv6_servers_have_brackets() {
    let page = Page::open("from-haproxy.md");
    let directory = TempDir::new().unwrap();
    for (file, text) in [
        (
            "servers",
            "1\n# be_id and others\n3 games 1 s1 fd00::1 2 0 1 1 1 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0\n",
        ),
        ("table", "0x564b87960ab0: key=ada use=0 exp=1799931 server_id=1 server_key=s1\n"),
        ("haproxy.log", "placed ada fd00::1:8080\n"),
    ] {
        std::fs::write(directory.path().join(file), text).unwrap();
    }

    for commands in [page.commands(0).to_owned(), once(page.commands(1))] {
        let (prints, _) = commands.split_once("| berth import").expect("it imports");
        let mut command = Command::new("sh");
        let output = command.args(["-euc", prints]).current_dir(directory.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).replace('\t', " ");
        assert_eq!(said, "ada [fd00::1]:8080\n", "{prints}");
    }
}
