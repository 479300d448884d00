//! envoy/compose: its files fit each other and the shipped ones, and the composition keeps sessions through pauses, kills and
//! networks that part.
//!
//! It is played by docker-compose with images of this machine: ours as `scripts/build-images` writes them, Envoy's binary, and
//! Valkey's from PyPI with Debian's `redis-cli` in the place of `valkey-cli`, which the package lacks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use berth_harness::hyper::Method;
use berth_harness::{Client, eventually, root};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::images;

const SUBNET: &str = "10.89.77.";
/// A dozen containers start one after another.
const UP: Duration = Duration::from_secs(90);

fn text(name: &str) -> String {
    std::fs::read_to_string(root().join("envoy").join(name)).unwrap()
}

fn yaml(text: &str) -> Value {
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).unwrap();
    value.apply_merge().unwrap();
    serde_json::to_value(value).unwrap()
}

fn services(compose: &Value) -> BTreeMap<&str, &Value> {
    compose["services"].as_object().unwrap().iter().map(|(name, service)| (name.as_str(), service)).collect()
}

fn address<'c>(compose: &'c Value, service: &str) -> &'c str {
    compose["services"][service]["networks"]["berth"]["ipv4_address"].as_str().unwrap()
}

/// Takes what lists addresses of endpoints out, and returns them.
fn endpoints(assignment: &mut Value) -> Vec<String> {
    let all = assignment["endpoints"][0]["lb_endpoints"].take();
    let all = all.as_array().unwrap().iter().map(|endpoint| {
        let address = &endpoint["endpoint"]["address"]["socket_address"];
        format!("{}:{}", address["address"].as_str().unwrap(), address["port_value"])
    });
    all.collect()
}

#[test]
fn its_envoys_are_as_shipped_but_for_addresses_which_are_those_of_its_services() {
    let compose = yaml(&text("compose/compose.yaml"));
    let at = |name: &str, port: u16| format!("{}:{port}", address(&compose, name));
    let mut ours = [yaml(&text("compose/envoy.yaml")), yaml(&text("compose/nodes.yaml"))];
    let mut shipped = [yaml(&text("envoy-state.yaml")), yaml(&text("nodes.yaml"))];

    let [bootstrap, nodes] = &mut ours;
    let listener = bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"].take();
    assert_eq!(listener, json!({"address": "0.0.0.0", "port_value": 10000}));
    let state = endpoints(&mut bootstrap["static_resources"]["clusters"][3]["load_assignment"]);
    assert_eq!(state, [at("berth-1", 8650), at("berth-2", 8650)]);
    let listed = endpoints(&mut nodes["resources"][0]);
    assert_eq!(listed, ["node-1", "node-2", "node-3"].map(|name| at(name, 8080)));

    let [bootstrap, nodes] = &mut shipped;
    bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"].take();
    endpoints(&mut bootstrap["static_resources"]["clusters"][3]["load_assignment"]);
    endpoints(&mut nodes["resources"][0]);
    assert_eq!(ours, shipped);
}

#[test]
fn its_images_have_versions_and_those_that_we_build_have_ours() {
    let compose = yaml(&text("compose/compose.yaml"));
    for (name, service) in services(&compose) {
        let image = service["image"].as_str().unwrap();
        let (image, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no version"));
        assert!(tag.contains('.') && tag != "latest", "{name}: {image}:{tag}");
        if image.starts_with("berth") {
            assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{name}");
        }
    }
    // Where there is docker-compose, it accepts the file.
    if Command::new("docker-compose").arg("version").output().is_ok() {
        let file = root().join("envoy/compose/compose.yaml");
        let output =
            Command::new("docker-compose").arg("-f").arg(file).args(["config", "-q"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// The composition as it runs here; ends when dropped.
struct Running {
    folder: TempDir,
    project: String,
    subnet: String,
}

impl Running {
    /// The files with images of this machine, a subnet of this process, and no ports of the host.
    fn up(images: &[(&str, String)]) -> Self {
        let id = std::process::id();
        let folder = TempDir::new().unwrap();
        // Mounted whole, and Envoy's user is not root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let subnet = format!("10.89.{}.", id % 200);
        for name in ["envoy.yaml", "nodes.yaml"] {
            let text = text(&format!("compose/{name}")).replace(SUBNET, &subnet);
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut compose = yaml(&text("compose/compose.yaml").replace(SUBNET, &subnet));
        for service in compose["services"].as_object_mut().unwrap().values_mut() {
            let image = service["image"].as_str().unwrap().to_owned();
            let name = image.rsplit_once(':').unwrap().0;
            service["image"] = images.iter().find(|(of, _)| *of == name).unwrap().1.clone().into();
            service.as_object_mut().unwrap().remove("ports");
            let volumes = service.get_mut("volumes").and_then(Value::as_array_mut);
            for volume in volumes.into_iter().flatten() {
                let tree = root().display().to_string();
                *volume = volume.as_str().unwrap().replace("../../", &format!("{tree}/")).into();
            }
        }
        for extension in ["x-berth", "x-node", "x-envoy"] {
            compose.as_object_mut().unwrap().remove(extension);
        }
        std::fs::write(folder.path().join("compose.yaml"), compose.to_string()).unwrap();
        let running = Self { folder, project: format!("berthtest{id}"), subnet };
        // The third one joins later.
        let third = address(&compose, "node-3").to_owned();
        running.list_nodes(|address| address != third);
        running.compose(&["up", "-d"]);
        running
    }

    /// Lists these nodes only, as its README says.
    fn list_nodes(&self, keep: impl Fn(&str) -> bool) {
        let mut nodes = yaml(&text("compose/nodes.yaml").replace(SUBNET, &self.subnet));
        let endpoints =
            nodes.pointer_mut("/resources/0/endpoints/0/lb_endpoints").unwrap().as_array_mut().unwrap();
        endpoints.retain(|one| {
            keep(one.pointer("/endpoint/address/socket_address/address").unwrap().as_str().unwrap())
        });
        let new = self.folder.path().join("nodes.new");
        std::fs::write(&new, nodes.to_string()).unwrap();
        std::fs::rename(new, self.folder.path().join("nodes.yaml")).unwrap();
    }

    /// What a command of the operator prints.
    fn berth(&self, service: &str, arguments: &[&str]) -> String {
        let mut command = self.command(&["exec", "-T", service, "/usr/bin/berth"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn compose(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().expect("docker-compose");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker-compose {arguments:?}: {said}\n{}", self.log());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command.arg("-f").arg(self.folder.path().join("compose.yaml"));
        command.args(["-p", &self.project]).args(arguments);
        command
    }

    fn log(&self) -> String {
        let output = self.command(&["logs", "--no-color", "--tail", "20"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    /// Parts a service from the network of all others, or joins it again at its address.
    fn network(&self, verb: &str, service: &str) {
        let compose = yaml(&text("compose/compose.yaml").replace(SUBNET, &self.subnet));
        let mut command = Command::new("docker");
        command.args(["network", verb]);
        if verb == "connect" {
            command.args(["--ip", address(&compose, service), "--alias", service]);
        }
        command.arg(format!("{}_berth", self.project)).arg(format!("{}_{service}_1", self.project));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn envoys(&self) -> [SocketAddr; 2] {
        [31, 32].map(|host| format!("{}{host}:10000", self.subnet).parse().unwrap())
    }

    /// What the filter of this proxy says of a request.
    async fn outcome(&self, envoy: SocketAddr, session: &str) -> String {
        let request = Client::new(envoy).request(Method::GET, "/").header("x-session-id", session);
        let response = request.try_send().await.ok();
        let shown = response.as_ref().and_then(|response| response.header("x-berth")).unwrap_or_default();
        let outcome = shown.split("; ").find_map(|field| field.strip_prefix("outcome="));
        outcome.unwrap_or("none").to_owned()
    }

    /// Where each session is, by the proxy at this address. `None` for one that got no answer of a node.
    async fn places(&self, envoy: SocketAddr, sessions: &[String]) -> Vec<Option<String>> {
        let mut places = Vec::new();
        for session in sessions {
            let request = Client::new(envoy).request(Method::GET, "/").header("x-session-id", session);
            let response = request.try_send().await.ok().filter(|response| response.status == 200);
            places.push(response.and_then(|response| response.header("x-node").map(str::to_owned)));
        }
        places
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.command(&["down", "--volumes", "--timeout", "0"]).output();
    }
}

/// An image FROM scratch with these programs, by the names that they are to have, and the libraries that they need.
fn image(name: &str, programs: &[(&Path, &str)]) {
    let folder = TempDir::new().unwrap();
    let put = |from: &Path, to: &str| {
        let to = folder.path().join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    for (program, called) in programs {
        put(program, &format!("/usr/local/bin/{called}"));
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            put(Path::new(library), library);
        }
    }
    let script = "tar -C \"$0\" -c . | docker import --change 'ENV PATH=/usr/local/bin' --change 'WORKDIR /data' - \"$1\"";
    let output = Command::new("sh").args(["-c", script]).arg(folder.path()).arg(name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What a script of the tree prints.
fn script(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(root().join("scripts").join(name)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an engine of Docker and docker-compose: make test-compose"]
async fn the_composition_keeps_sessions_through_pauses_kills_and_partings() {
    let out = TempDir::new().unwrap();
    let tag = images::tag() + "-compose";
    let (_loaded, archives) = images::archives(&out, &tag, &["berth", "berth-node"]);
    for archive in &archives {
        let output = Command::new("docker").args(["load", "--input"]).arg(archive).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let valkey = format!("berth-valkey:{tag}");
    let _valkey = images::Loaded(vec![valkey.clone()]);
    let [server, cli] = [script("get-valkey", &[]), "/usr/bin/redis-cli".to_owned()];
    image(&valkey, &[(Path::new(&server), "valkey-server"), (Path::new(&cli), "valkey-cli")]);
    let envoy = script("envoy-image", &[&script("get-envoy", &[])]);
    let running = Running::up(&[
        ("berth", format!("berth:{tag}")),
        ("berth-node", format!("berth-node:{tag}")),
        ("envoyproxy/envoy", envoy),
        ("valkey/valkey", valkey),
    ]);
    let [first, second] = running.envoys();
    let sessions: Vec<String> = (0..30).map(|index| format!("s{index}")).collect();
    let answers = async || {
        running.places(first, &sessions[..1]).await[0].is_some()
            && running.places(second, &sessions[..1]).await[0].is_some()
    };
    eventually(answers, UP).await;
    // New sessions until one is at this node, by both proxies.
    let gets_new = async |node: &str| {
        for envoy in [first, second] {
            let mut number = 0;
            let is_there = async || {
                number += 1;
                let session = [format!("{node}-{envoy}-{number}")];
                running.places(envoy, &session).await[0].as_deref() == Some(node)
            };
            eventually(is_there, UP).await;
        }
    };
    // Until a proxy sees both well, sessions begin at the other one.
    for node in ["node-1", "node-2"] {
        gets_new(node).await;
    }

    let began = running.places(first, &sessions).await;
    let nodes: std::collections::BTreeSet<_> = began.iter().flatten().collect();
    assert_eq!(nodes.len(), 2, "{began:?}");
    let stay = async |when: &str| {
        assert_eq!(running.places(first, &sessions).await, began, "{when}");
        assert_eq!(running.places(second, &sessions).await, began, "{when}, by the other proxy");
    };
    // Sessions that begin meanwhile are pinned, as soon as the proxies know what is left; both then agree.
    let begin = async |when: &str| {
        let mut number = 0;
        let is_pinned = async || {
            number += 1;
            let session = format!("{when} {number}");
            let outcome = running.outcome(first, &session).await;
            if outcome != "claimed" {
                return Err(outcome);
            }
            let session = [session];
            assert_eq!(
                running.places(first, &session).await,
                running.places(second, &session).await,
                "{when}"
            );
            Ok(())
        };
        eventually(is_pinned, UP).await;
    };
    stay("at first").await;

    running.compose(&["pause", "berth-1"]);
    stay("a state service hangs").await;
    begin("a state service hangs").await;
    running.compose(&["unpause", "berth-1"]);
    running.network("disconnect", "berth-2");
    stay("a state service is cut off").await;
    begin("a state service is cut off").await;
    running.network("connect", "berth-2");
    running.compose(&["kill", "valkey-replica"]);
    stay("the replica is gone").await;
    begin("the replica is gone").await;
    running.compose(&["start", "valkey-replica"]);
    running.compose(&["kill", "valkey"]);
    stay("the store is gone").await;
    running.compose(&["start", "valkey"]);
    stay("the store is back").await;
    begin("the store is back").await;
    // It came back with what it had promised.
    let inspected = running.berth("berth-2", &["inspect", &sessions[0]]);
    assert!(inspected.contains(&format!("{}2", running.subnet)), "{inspected}");

    running.list_nodes(|_| true);
    gets_new("node-3").await;
    stay("a node joins").await;

    // A node that is cut off loses its sessions, once; the others keep theirs, and it gets none of its own back.
    running.network("disconnect", "node-2");
    let mut moved = Vec::new();
    let settled = async || {
        let [one, two] = [running.places(first, &sessions).await, running.places(second, &sessions).await];
        moved.clone_from(&one);
        one == two && one.iter().all(|place| place.as_deref().is_some_and(|place| place != "node-2"))
    };
    eventually(settled, UP).await;
    for (before, after) in began.iter().zip(&moved) {
        assert!(before == after || before.as_deref() == Some("node-2"), "{before:?} went to {after:?}");
    }
    running.network("connect", "node-2");
    gets_new("node-2").await;
    assert_eq!(running.places(first, &sessions).await, moved, "it is back");
    assert_eq!(running.places(second, &sessions).await, moved, "it is back");
}
