//! Nodes that are not an `ip:port` to Envoy: internal listeners (as Istio shows its HBONE endpoints) and pipes. With a state
//! cluster their sessions are pinned like any others.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_core::wire::{NodeChange, NodeId, NodesReply};
use berth_harness::{Builder, Response, World, eventually};
use serde_json::{Value, json};

use crate::support::patience::{ask, cluster, impatient, nodes_become};
use crate::support::pinning::notices;
use crate::support::{SOON, sessions, shown};

/// How one node is configured in Envoy, and how Envoy then names it. `at` is where the node really listens.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    /// `envoy://x0/127.0.0.1:9001`
    Internal,
    /// `envoy://x0/`
    InternalWithoutId,
    Pipe,
    AbstractPipe,
}

use Kind::{AbstractPipe, Internal, InternalWithoutId, Pipe, Plain};

impl Kind {
    /// The endpoint's address, and that of a listener which leads to the node, if it takes one.
    fn addresses(self, index: usize, at: &str) -> (Value, Option<Value>) {
        let listener = format!("x{index}");
        let pipe = |path: String| {
            let pipe = json!({"pipe": {"path": path}});
            (pipe.clone(), Some(json!({"address": pipe})))
        };
        // Short, as such a path must be, and its own.
        let place = format!("berth-{}", at.rsplit(':').next().unwrap());
        match self {
            Plain => {
                let (ip, port) = at.rsplit_once(':').unwrap();
                let port: u16 = port.parse().unwrap();
                (json!({"socket_address": {"address": ip, "port_value": port}}), None)
            }
            Internal => (
                json!({"envoy_internal_address": {"server_listener_name": listener, "endpoint_id": at}}),
                Some(json!({"internal_listener": {}})),
            ),
            InternalWithoutId => (
                json!({"envoy_internal_address": {"server_listener_name": listener}}),
                Some(json!({"internal_listener": {}})),
            ),
            Pipe => pipe(format!("{}/{place}.sock", std::env::temp_dir().display())),
            AbstractPipe => pipe(format!("@{place}")),
        }
    }

    fn name(self, index: usize, at: &str) -> String {
        let (address, _) = self.addresses(index, at);
        match self {
            Plain => at.to_owned(),
            Internal => format!("envoy://x{index}/{at}"),
            InternalWithoutId => format!("envoy://x{index}/"),
            Pipe | AbstractPipe => address["pipe"]["path"].as_str().unwrap().to_owned(),
        }
    }
}

/// A world whose cluster has these nodes. A node of another kind than plain is reached over a listener of the same Envoy.
fn with_nodes(builder: Builder, kinds: &'static [Kind], checks: bool) -> Builder {
    builder.nodes(kinds.len()).bootstrap(move |json| {
        let nodes = &mut cluster(json, "nodes");
        let file = nodes["eds_cluster_config"]["eds_config"]["path_config_source"]["path"].clone();
        let endpoints = std::fs::read_to_string(file.as_str().unwrap()).unwrap();
        let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
        let endpoints = endpoints.pointer("/resources/0/endpoints/0/lb_endpoints").unwrap().as_array().unwrap();
        let at = endpoints.iter().map(|endpoint| {
            let address = endpoint.pointer("/endpoint/address/socket_address").unwrap();
            format!("{}:{}", address["address"].as_str().unwrap(), address["port_value"])
        });
        let at: Vec<String> = at.collect();

        let addresses: Vec<_> = kinds.iter().zip(&at).enumerate().map(|(i, (kind, at))| kind.addresses(i, at)).collect();
        let endpoints = addresses.iter().map(|(address, _)| json!({"endpoint": {"address": address}}));
        let fields = nodes.as_object_mut().unwrap();
        fields.remove("eds_cluster_config");
        // Envoy fails the checks of internal endpoints.
        if !checks {
            fields.remove("health_checks");
        }
        fields.insert("type".into(), "STATIC".into());
        let endpoints: Vec<Value> = endpoints.collect();
        let all = json!({"cluster_name": "nodes", "endpoints": [{"lb_endpoints": endpoints}]});
        fields.insert("load_assignment".into(), all);

        for (index, ((_, listener), at)) in addresses.iter().zip(&at).enumerate() {
            let Some(listener) = listener else { continue };
            let (own, back) = (format!("x{index}"), format!("back{index}"));
            let mut listener = listener.clone();
            listener["name"] = own.as_str().into();
            listener["filter_chains"] = json!([{"filters": [{"name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": own, "cluster": back,
            }}]}]);
            let list = |json: &mut Value, name: &str, item: Value| {
                json["static_resources"][name].as_array_mut().unwrap().push(item);
            };
            list(json, "listeners", listener);
            let (address, _) = Plain.addresses(index, at);
            list(json, "clusters", json!({
                "name": back, "type": "STATIC", "connect_timeout": "1s",
                "load_assignment": {"cluster_name": back, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
            }));
        }
        json["bootstrap_extensions"] = json!([{"name": "envoy.bootstrap.internal_listener", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        }}]);
    })
}

/// What Envoy calls each node, by the node that answers.
fn names(world: &World, kinds: &[Kind]) -> BTreeMap<String, String> {
    let named = world.nodes().into_iter().zip(kinds).enumerate();
    named.map(|(index, (node, kind))| (node.name().to_owned(), kind.name(index, node.name()))).collect()
}

fn patient(builder: Builder) -> Builder {
    crate::support::pinning::patiently(builder, berth_harness::State::memory())
}

async fn ask_all(world: &World, keys: &[String]) -> Vec<Response> {
    let mut answers = Vec::new();
    for key in keys {
        answers.push(ask(world, key).await);
    }
    answers
}

/// Each session is pinned, by the name that Envoy has for its node, and no node gets more or fewer than its like.
async fn assert_pinned(world: &World, kinds: &[Kind], keys: &[String]) -> Vec<String> {
    let names = names(world, kinds);
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for (key, answer) in keys.iter().zip(ask_all(world, keys).await) {
        assert_eq!(shown(&answer, "outcome"), "claimed", "{key}");
        let name = &names[answer.node()];
        assert_eq!(shown(&answer, "node"), name);
        assert_eq!(world.pin_of("nodes", key).await.unwrap().node.as_str(), name);
        *shares.entry(name.clone()).or_default() += 1;
    }
    let even = keys.len() / kinds.len();
    for name in names.values() {
        let share = shares.get(name).copied().unwrap_or(0);
        assert!((even / 2..=even * 2).contains(&share), "{name} has {share} of {}: {shares:?}", keys.len());
    }
    let again = ask_all(world, keys).await;
    assert!(again.iter().all(|answer| shown(answer, "outcome") == "hit"));
    again.iter().map(|answer| names[answer.node()].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_nodes_of_any_kind_are_pinned_and_shared_evenly() {
    const ALL: [&[Kind]; 4] = [
        &[Internal, Internal, Internal, Internal],
        &[InternalWithoutId, InternalWithoutId, InternalWithoutId],
        &[Pipe, AbstractPipe, Pipe],
        // As an ambient roll-out has them.
        &[Internal, Plain, Internal, Plain],
    ];
    for kinds in ALL {
        let world = with_nodes(patient(impatient().concurrency(1)), kinds, false).start().await;
        nodes_become(world.envoy(0), &[("active", kinds.len() as u64)]).await;

        assert_pinned(&world, kinds, &sessions(120)).await;

        assert_eq!(world.envoy(0).wasm_failures().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_any_kind_are_drained_put_into_cooldown_and_left_by_their_names() {
    const KINDS: &[Kind] = &[Internal, Pipe, AbstractPipe, Plain];
    let world = with_nodes(patient(impatient().concurrency(1)), KINDS, false).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let keys = sessions(80);
    let homes = assert_pinned(&world, KINDS, &keys).await;
    let names = names(&world, KINDS);

    for (turn, name) in homes.iter().collect::<std::collections::BTreeSet<_>>().into_iter().enumerate() {
        let said = world.state(0).operate(&["drain", name]).await.unwrap();
        assert!(said.contains(name.as_str()) && said.contains("draining"), "{said}");
        nodes_become(world.envoy(0), &[("draining", 1), ("active", 3)]).await;
        let newcomers: Vec<String> = (0..40).map(|number| format!("newcomer-{turn}-{number}")).collect();
        for answer in ask_all(&world, &newcomers).await {
            assert_ne!(&names[answer.node()], name);
        }
        let (key, _) = keys.iter().zip(&homes).find(|(_, home)| *home == name).unwrap();
        assert_eq!(&names[ask(&world, key).await.node()], name, "it keeps its sessions");
        world.state(0).operate(&["set-state", name, "active"]).await.unwrap();
        nodes_become(world.envoy(0), &[("draining", 0), ("active", 4)]).await;
    }

    // Another proxy says that one is out.
    let out = homes.iter().find(|home| home.starts_with("envoy://")).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now + Duration::from_secs(600)).as_millis() as u64;
    let change = NodeChange { cooldown_until_ms: Some(until), ..NodeChange::default() };
    world.state(0).change_node("nodes", out, &change).await;
    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 3)]).await;
    for (key, home) in keys.iter().zip(&homes).filter(|(_, home)| *home == out) {
        let answer = ask(&world, key).await;
        assert_eq!(shown(&answer, "outcome"), "rehomed");
        let expected = (format!("rehomed; from={home}; version=N"), 1);
        assert_eq!(notices([&answer]).into_iter().collect::<Vec<_>>(), [expected]);
        assert_ne!(&names[answer.node()], home);
        assert_eq!(shown(&ask(&world, key).await, "outcome"), "hit");
    }
}

/// The leader tells the others of a node that it sees fail, whatever it is called.
#[tokio::test(flavor = "multi_thread")]
async fn cooldown_of_a_node_with_slashes_in_its_name_is_shared() {
    const KINDS: &[Kind] = &[Pipe, AbstractPipe, Plain];
    let world = with_nodes(patient(impatient().concurrency(1)), KINDS, true).start().await;
    nodes_become(world.envoy(0), &[("active", 3)]).await;

    for (index, kind) in KINDS.iter().enumerate().take(2) {
        let node = world.node(index);
        node.fail_health();
        let name: NodeId = kind.name(index, node.name()).parse().unwrap();
        let shared = async || {
            let said = world.state(0).operate(&["nodes", "--format", "json"]).await.unwrap();
            let reply = format!("{{\"nodes\": [{}]}}", said.lines().collect::<Vec<_>>().join(","));
            let reply: NodesReply = serde_json::from_str(&reply).unwrap();
            reply.nodes.iter().any(|record| record.node == name && record.cooldown_until_ms.is_some())
        };
        eventually(shared, SOON).await;
        node.serve();
        nodes_become(world.envoy(0), &[("active", 3)]).await;
    }
}
