//! A world to test in: real Envoys with the shipped bootstrap and the built module, before fake nodes that fail on
//! command, with a state cluster if a test wants one. A test says what is there, does something to it, and looks at what
//! a client sees.
//!
//! ```no_run
//! use berth_harness::World;
//!
//! #[tokio::test]
//! async fn keeps_node_over_requests() {
//!     let world = World::builder().nodes(3).start().await;
//!
//!     let first = world.get("/").header("x-session-id", "ada").send().await;
//!     let second = world.get("/").header("x-session-id", "ada").send().await;
//!
//!     assert_eq!(first.node(), second.node());
//! }
//! ```
//!
//! `BERTH_HARNESS=process|docker|auto` says how Envoy runs, `BERTH_WASM=file` which filter instead of `target/berth.wasm`, `HARNESS_PATIENCE=4` gives slow machines time,
//! `HARNESS_KEEP=1` keeps the temporary directory with all configurations and logs. Nothing needs a fixed port. All
//! ends with the world, and with the process if that is killed; if the test panics, the last words of each Envoy and state service are shown.
//!
//! The nodes run in the test's own runtime: a test that blocks its only thread stops them too.

mod backend;
mod bootstrap;
mod browser;
mod builder;
mod client;
mod container;
mod endpoints;
mod envoy;
mod eventually;
pub mod gateway;
mod issuer;
pub mod istio;
mod leftovers;
mod listening;
mod metrics;
mod node_process;
mod process;
mod python;
mod redis;
mod relay;
mod state;
pub mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;

use bootstrap::EdsCluster;
use state::StateCluster;

pub use backend::{Backend, Mode};
pub use browser::Browser;
pub use builder::{Builder, Ports};
pub use client::{Client, RawResponse, Received, Refusal, Request, Response, WebSocket};
pub use container::{Container, Image};
pub use endpoints::{Endpoint, EndpointSet};
pub use envoy::{Envoy, Host, Nack};
pub use eventually::{Attempt, eventually};
pub use hyper::{self, StatusCode};
pub use issuer::Issuer;
pub use node_process::{NodeProcess, serve_node};
pub use python::{PythonNodes, run_python};
pub use redis::{RedisCluster, RedisServer};
pub use relay::{Cut, Relay};
pub use state::{State, StateService, berth};

/// A file that is replaced is read within milliseconds; the rest is for busy machines.
const UPDATE: Duration = Duration::from_secs(10);

/// Envoys, nodes, the endpoints that tell the ones of the others, and a state cluster if one was asked for.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: the Envoys first, their files last.
    envoys: Vec<Envoy>,
    state: Option<StateCluster>,
    service_relays: Vec<Relay>,
    backends: Mutex<Vec<Arc<Backend>>>,
    endpoints: Mutex<EndpointSet>,
    nodes_template: Value,
    eds_clusters: Vec<EdsCluster>,
    /// The port of node 0, where nodes have fixed ports.
    first_node: Option<u16>,
    /// The filter's code.
    module: PathBuf,
    directory: TempDir,
}

impl World {
    /// Describes a world; [`Builder::start`] makes it.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Keeps its files if that is wished for.
    pub(crate) fn new(mut world: Self) -> Self {
        if keeps_files() {
            eprintln!("harness: kept in {}", world.directory.path().display());
            world.directory.disable_cleanup(true);
        }
        world
    }

    /// An Envoy, counted from 0.
    pub fn envoy(&self, index: usize) -> &Envoy {
        &self.envoys[index]
    }

    /// All Envoys.
    pub fn envoys(&self) -> &[Envoy] {
        &self.envoys
    }

    /// The ways from the Envoys to the state services, in a world that has them so.
    pub fn service_relays(&self) -> &[Relay] {
        &self.service_relays
    }

    /// A node, counted from 0 in order of creation, whether or not the endpoints name it now.
    pub fn node(&self, index: usize) -> Arc<Backend> {
        Arc::clone(&self.backends.lock().unwrap()[index])
    }

    /// The node of this name (`ip:port`).
    pub fn node_named(&self, name: &str) -> Arc<Backend> {
        let backends = self.backends.lock().unwrap();
        Arc::clone(backends.iter().find(|backend| backend.name() == name).expect("a node of this world"))
    }

    /// All nodes ever made, in order of creation.
    pub fn nodes(&self) -> Vec<Arc<Backend>> {
        self.backends.lock().unwrap().clone()
    }

    /// The client of the first Envoy.
    pub fn client(&self) -> Client {
        self.envoys[0].client()
    }

    /// A GET through the first Envoy.
    pub fn get(&self, path: &str) -> Request {
        self.client().get(path)
    }

    /// Any request through the first Envoy.
    pub fn request(&self, method: Method, path: &str) -> Request {
        self.client().request(method, path)
    }

    /// Bytes to the first Envoy; see [`Client::raw`].
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> RawResponse {
        self.client().raw(bytes).await
    }

    /// The node of each session through the first Envoy; see [`Client::nodes_of`].
    pub async fn nodes_of<K: AsRef<[u8]>>(&self, sessions: &[K]) -> Vec<String> {
        self.client().nodes_of(sessions).await
    }

    /// Starts one more node and adds it to the endpoints.
    pub async fn add_node(&self) -> Arc<Backend> {
        let backend = {
            let mut backends = self.backends.lock().unwrap();
            let backend = Arc::new(Backend::start(node_port(self.first_node, backends.len())));
            backends.push(Arc::clone(&backend));
            backend
        };
        self.edit_endpoints(|set| set.push(Endpoint::new(backend.address()))).await;
        backend
    }

    /// Takes a node from the endpoints; it goes on running.
    pub async fn remove_node(&self, index: usize) {
        let address = self.node(index).address();
        self.edit_endpoints(|set| set.retain(|endpoint| endpoint.address != address)).await;
    }

    /// Adds a node that was taken from the endpoints again.
    pub async fn return_node(&self, index: usize) {
        let address = self.node(index).address();
        self.edit_endpoints(|set| set.push(Endpoint::new(address))).await;
    }

    /// Sets a node's weight in the endpoints.
    pub async fn set_weight(&self, index: usize, weight: u32) {
        self.edit_endpoint(index, |endpoint| endpoint.weight = weight).await;
    }

    /// Sets what EDS says of a node's health, such as `DRAINING` or `DEGRADED`.
    pub async fn set_eds_health(&self, index: usize, health: &str) {
        self.edit_endpoint(index, |endpoint| endpoint.health = health.into()).await;
    }

    /// Turns the order of the endpoints round.
    pub async fn reorder(&self) {
        self.edit_endpoints(|set| set.reverse()).await;
    }

    /// Gives the Envoys the filters that Istio's agent passes on for this proxy. They read them within milliseconds.
    ///
    /// # Panics
    /// If a document has what the translator does not know.
    pub fn serve_extensions(&self, proxy: &istio::Istio) {
        let rendered = proxy.render().unwrap_or_else(|fault| panic!("{fault}"));
        bootstrap::write_extensions(rendered.extensions, self.directory.path(), &self.module);
    }

    /// Edits one node's endpoint: its metadata, its priority, anything.
    pub async fn edit_endpoint(&self, index: usize, edit: impl FnOnce(&mut Endpoint)) {
        let address = self.node(index).address();
        let edit_one = |set: &mut EndpointSet| {
            let endpoint = set.iter_mut().find(|endpoint| endpoint.address == address);
            edit(endpoint.expect("the endpoints name this node"));
        };
        self.edit_endpoints(edit_one).await;
    }

    /// Edits all endpoints at once, and returns when every running Envoy has them.
    ///
    /// # Panics
    /// If an Envoy refuses them.
    pub async fn edit_endpoints(&self, edit: impl FnOnce(&mut EndpointSet)) {
        let running: Vec<&Envoy> = self.envoys.iter().filter(|envoy| envoy.runs()).collect();
        let mut before = Vec::new();
        for envoy in &running {
            before.push(envoy.endpoint_updates(&self.eds_clusters).await);
        }
        let set = {
            let mut set = self.endpoints.lock().unwrap();
            edit(&mut set);
            endpoints::write(&set, &self.nodes_template, &self.directory.path().join("nodes.json"));
            set.clone()
        };
        for (envoy, before) in running.into_iter().zip(before) {
            eventually(async || self.has_endpoints(envoy, &before, &set).await, UPDATE).await;
        }
    }

    /// Whether an Envoy has taken the last update and shows what it says.
    async fn has_endpoints(
        &self,
        envoy: &Envoy,
        before: &[(u64, u64)],
        set: &[Endpoint],
    ) -> Result<(), String> {
        let now = envoy.endpoint_updates(&self.eds_clusters).await;
        for (cluster, (before, now)) in self.eds_clusters.iter().zip(before.iter().zip(&now)) {
            let name = &cluster.name;
            assert!(now.1 == before.1, "Envoy refused the endpoints of {name}:\n{}", envoy.log());
            if now.0 == before.0 {
                return Err(format!("{name} has not read the endpoints"));
            }
        }
        let hosts = envoy.clusters().await;
        for EdsCluster { name: cluster, .. } in &self.eds_clusters {
            // A node that passes its health checks stays until it fails them: Envoy only marks it.
            let here =
                hosts.iter().filter(|host| &host.cluster == cluster && !host.has("pending_dynamic_removal"));
            let mut shown: Vec<_> = here.map(|host| (host.address.clone(), host.weight)).collect();
            let mut expected: Vec<_> = set
                .iter()
                .map(|endpoint| (endpoint.address.to_string(), u64::from(endpoint.weight)))
                .collect();
            shown.sort();
            expected.sort();
            if shown != expected {
                return Err(format!("{cluster} has {shown:?}, not yet {expected:?}"));
            }
        }
        Ok(())
    }
}

/// Whether the files of a world are to stay.
pub(crate) fn keeps_files() -> bool {
    std::env::var_os("HARNESS_KEEP").is_some()
}

/// The port of a node, counted from 0; 0 is any that is free.
pub(crate) fn node_port(first: Option<u16>, index: usize) -> u16 {
    first.map_or(0, |first| first + u16::try_from(index).expect("a few nodes"))
}

/// Ends servers, containers and folders that processes of the harness left behind when they were killed together with what
/// watches over them. Returns when their ports are free.
///
/// # Errors
/// If this cannot be found out.
pub fn sweep() -> Result<(), String> {
    leftovers::sweep()
}

/// Asks the default Envoy whether it takes a bootstrap, as `envoy --mode validate` from the top of the tree.
pub fn validate(file: impl AsRef<Path>) -> Result<(), String> {
    envoy::Launcher::choose(None)?.validate(&envoy::root().join(file))
}

/// The top of the tree: where `target/berth.wasm` and `envoy/` are.
pub fn root() -> std::path::PathBuf {
    envoy::root()
}

/// A port that was free a moment ago, for programs that need a fixed one. Prefer port 0 wherever there is a choice.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address")
}
