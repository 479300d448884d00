//! What a test asks for before its world starts.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::backend::Backend;
use crate::bootstrap::{self, Bootstrap, read_yaml};
use crate::endpoints::{self, Endpoint};
use crate::envoy::{Envoy, Launcher, Options, root};
use crate::istio::Istio;
use crate::relay::Relay;
use crate::state::{State, StateService};
use crate::{World, keeps_files, leftovers, node_port};

/// `main` lists every extension at the start: pages that hide what a failed test needs.
const LOG: &str = "main:warning";

/// Fixed ports of 127.0.0.1, for a world that people talk to. Tests use any that are free.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Of the ingress listener.
    pub proxy: u16,
    /// Of Envoy's admin interface.
    pub admin: u16,
    /// Of node 0; the next nodes follow.
    pub first_node: u16,
    /// Of the first state service, where the world has a state cluster.
    pub state: Option<u16>,
}

type Edit = Box<dyn Fn(&mut Value) + Send>;

/// Describes a [`World`]. What is not said is as the shipped bootstrap has it.
#[must_use = "a builder does nothing before `start`"]
pub struct Builder {
    nodes: usize,
    elsewhere: Vec<SocketAddr>,
    envoys: usize,
    concurrency: u32,
    file: String,
    rendered: Option<Value>,
    extensions: Vec<Value>,
    version: Option<String>,
    filter: bool,
    previous_filters: Vec<usize>,
    http2_nodes: bool,
    health_interval: Option<Duration>,
    state: Option<State>,
    ports: Option<Ports>,
    clusters: Vec<(String, SocketAddr)>,
    log: String,
    own_addresses: bool,
    relayed_services: bool,
    environment: Vec<(usize, (String, String))>,
    configure: Vec<Edit>,
    edit: Vec<Edit>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            nodes: 3,
            elsewhere: Vec::new(),
            envoys: 1,
            concurrency: 2,
            file: "envoy.yaml".into(),
            rendered: None,
            extensions: Vec::new(),
            version: None,
            filter: true,
            previous_filters: Vec::new(),
            http2_nodes: false,
            health_interval: None,
            state: None,
            ports: None,
            clusters: Vec::new(),
            log: LOG.into(),
            own_addresses: false,
            relayed_services: false,
            environment: Vec::new(),
            configure: Vec::new(),
            edit: Vec::new(),
        }
    }

    /// How many nodes there are at first. Default: 3.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Names these addresses in the endpoints too, after the world's own nodes: processes of the caller, or ways to them.
    pub fn nodes_at(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.elsewhere.extend(addresses);
        self
    }

    /// How many Envoys stand before the same nodes. Default: 1.
    pub fn envoys(mut self, envoys: usize) -> Self {
        self.envoys = envoys;
        self
    }

    /// Worker threads of each Envoy. Default: 2.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Which file of envoy/ is the bootstrap. Default: envoy.yaml.
    pub fn file(mut self, name: &str) -> Self {
        self.file = name.into();
        self
    }

    /// Takes this bootstrap instead of a file of envoy/: one that was put together as a control plane does it. Like those files
    /// it reads its nodes from `envoy/nodes.yaml` and the filter from `target/berth.wasm`.
    pub fn rendered(mut self, bootstrap: Value) -> Self {
        self.rendered = Some(bootstrap);
        self
    }

    /// Runs what Istio would make of this proxy, on the Envoy that its flavour names.
    ///
    /// # Panics
    /// If a document has what the translator does not know.
    pub fn istio(mut self, proxy: &Istio) -> Self {
        let rendered = proxy.render().unwrap_or_else(|fault| panic!("{fault}"));
        self.extensions = rendered.extensions;
        self.envoy_version(rendered.envoy).rendered(rendered.bootstrap)
    }

    /// Runs this version of Envoy, one that scripts/get-envoy pins, instead of the default one.
    pub fn envoy_version(mut self, version: &str) -> Self {
        self.version = Some(version.into());
        self
    }

    /// With `false` the wasm filter is left out: for comparing with plain Envoy.
    pub fn filter(mut self, present: bool) -> Self {
        self.filter = present;
        self
    }

    /// Gives an Envoy, counted from 0, the previous filter, the one that `scripts/build-previous` has built. Fields of the plugin
    /// that it does not know yet are left out.
    pub fn previous_filter(mut self, envoy: usize) -> Self {
        self.previous_filters.push(envoy);
        self
    }

    /// Speaks HTTP/2 to the nodes, as gRPC needs it.
    pub fn http2_nodes(mut self) -> Self {
        self.http2_nodes = true;
        self
    }

    /// Checks health this often, for tests that wait for its verdict.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.health_interval = Some(interval);
        self
    }

    /// Starts a state cluster, and Envoy with `envoy-state.yaml`, whose cluster `berth_state` is all its services.
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self.file("envoy-state.yaml")
    }

    /// Uses these ports instead of any that are free. For one Envoy.
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Points a cluster of the bootstrap that has static endpoints to this address alone, a state cluster too.
    pub fn cluster_address(mut self, cluster: &str, address: SocketAddr) -> Self {
        self.clusters.push((cluster.into(), address));
        self
    }

    /// Adds a cluster of this one address, such as an issuer's.
    pub fn add_cluster(self, name: &str, address: SocketAddr) -> Self {
        let name = name.to_owned();
        self.bootstrap(move |json| bootstrap::add_cluster(json, &name, address))
    }

    /// Has Envoy's own `jwt_authn` verify tokens, by this provider, before any other filter. `requests` is a
    /// `RouteMatch`: the others pass as they are.
    pub fn jwt_authn(self, provider: Value, requests: Value) -> Self {
        self.bootstrap(move |json| bootstrap::add_jwt_authn(json, &provider, &requests))
    }

    /// Levels for parts of Envoy's log, such as `wasm:debug,http:trace`. Default: info for all but the start's lists.
    pub fn log(mut self, components: &str) -> Self {
        self.log = format!("{LOG},{components}");
        self
    }

    /// Has each Envoy reach nodes and services from an address of its own, [`Builder::source`], by which a way between the two can
    /// tell one Envoy from the other.
    pub fn own_addresses(mut self) -> Self {
        self.own_addresses = true;
        self
    }

    /// Puts a way that can be cut between the Envoys and each state service: [`World::service_relays`].
    pub fn relayed_services(mut self) -> Self {
        self.relayed_services = true;
        self
    }

    /// Where an Envoy, counted from 0, connects from with [`Builder::own_addresses`].
    pub fn source(envoy: usize) -> IpAddr {
        let last = u8::try_from(envoy + 11).expect("a few Envoys");
        IpAddr::from([127, 0, 0, last])
    }

    /// Variables in the environment of this Envoy alone, counted from 0. As a process, not in a container.
    pub fn environment_of(mut self, envoy: usize, variables: &[(String, String)]) -> Self {
        self.environment.extend(variables.iter().map(|variable| (envoy, variable.clone())));
        self
    }

    /// Edits the plugin's configuration: `json["pools"][0]["health"]["cooldown"] = "2s".into()`.
    pub fn configuration(mut self, edit: impl Fn(&mut Value) + Send + 'static) -> Self {
        self.configure.push(Box::new(edit));
        self
    }

    /// Edits the whole bootstrap, after everything else: clusters, routes, anything.
    pub fn bootstrap(mut self, edit: impl Fn(&mut Value) + Send + 'static) -> Self {
        self.edit.push(Box::new(edit));
        self
    }

    /// Starts nodes, state services and Envoys, and returns when every Envoy serves.
    ///
    /// # Panics
    /// If that fails, with the reason and Envoy's last words.
    pub async fn start(self) -> World {
        self.try_start().await.unwrap_or_else(|failure| panic!("the world does not start: {failure}"))
    }

    /// As [`Builder::start`], with the failure as a value: for configurations that Envoy must refuse.
    pub async fn try_start(self) -> Result<World, String> {
        let root = root();
        let module = module(&root);
        if self.filter && !module.exists() {
            return Err(format!("{} is missing: run `make wasm`", module.display()));
        }
        let launcher = Arc::new(Launcher::choose(self.version.as_deref())?);

        let directory =
            tempfile::Builder::new().prefix("berth-").tempdir().map_err(|error| error.to_string())?;
        if !keeps_files() {
            leftovers::note_folder(directory.path())?;
        }
        let nodes_file = directory.path().join("nodes.json");
        let nodes_template = read_yaml(&root.join("envoy/nodes.yaml"));
        let first_node = self.ports.map(|ports| ports.first_node);
        let backends: Vec<Arc<Backend>> =
            (0..self.nodes).map(|index| Arc::new(Backend::start(node_port(first_node, index)))).collect();
        let own = backends.iter().map(|backend| backend.address());
        let set: Vec<Endpoint> = own.chain(self.elsewhere).map(Endpoint::new).collect();
        endpoints::write(&set, &nodes_template, &nodes_file);

        let state = match self.state {
            Some(state) => {
                Some(state.start(directory.path(), self.ports.and_then(|ports| ports.state)).await?)
            }
            None => None,
        };
        let shipped = || read_yaml(&root.join("envoy").join(&self.file));
        let json = self.rendered.unwrap_or_else(shipped);
        let mut bootstrap = Bootstrap::new(json, &self.file, &nodes_file, &module);
        bootstrap.read_extensions(self.extensions, directory.path());
        if !self.filter {
            bootstrap.remove_filter();
        }
        if self.http2_nodes {
            bootstrap.speak_http2(&nodes_file);
        }
        if let Some(ports) = self.ports {
            bootstrap.listen_on(ports.proxy);
            bootstrap.admin_port = Some(ports.admin);
        }
        if let Some(interval) = self.health_interval {
            bootstrap.check_health_every(interval);
        }
        let mut service_relays = Vec::new();
        if let Some(state) = &state {
            let mut addresses: Vec<SocketAddr> = state.services.iter().map(StateService::address).collect();
            if self.relayed_services {
                for address in &mut addresses {
                    let relay = Relay::start(*address).await;
                    *address = relay.address();
                    service_relays.push(relay);
                }
            }
            if !bootstrap.find_state(&addresses, directory.path()) {
                bootstrap.point("berth_state", &addresses);
            }
        } else {
            bootstrap.find_state(&[], directory.path());
        }
        for (cluster, address) in &self.clusters {
            bootstrap.point(cluster, &[*address]);
        }
        self.configure.iter().for_each(|edit| bootstrap.configure(edit));
        self.edit.iter().for_each(|edit| bootstrap.edit(edit));
        bootstrap.finish(&nodes_file, directory.path(), &module);

        let mut envoys = Vec::new();
        for index in 0..self.envoys {
            let own_folder = directory.path().join(format!("envoy{index}"));
            let launcher = Arc::clone(&launcher);
            let mut bootstrap = if self.previous_filters.contains(&index) {
                bootstrap.with_previous_filter(&module, &previous("berth.wasm")?)
            } else {
                bootstrap.clone()
            };
            if self.own_addresses {
                bootstrap.connect_from(Self::source(index));
            }
            let own = self.environment.iter().filter(|(envoy, _)| *envoy == index);
            let options = Options {
                concurrency: self.concurrency,
                log: self.log.clone(),
                environment: own.map(|(_, variable)| variable.clone()).collect(),
            };
            envoys.push(Envoy::start(launcher, &own_folder, &bootstrap, options).await?);
        }
        Ok(World::new(World {
            envoys,
            state,
            service_relays,
            backends: Mutex::new(backends),
            endpoints: Mutex::new(set),
            nodes_template,
            eds_clusters: bootstrap.eds_clusters,
            first_node,
            module,
            directory,
        }))
    }
}

/// The filter to load: the built one, or the one that `BERTH_WASM` names.
fn module(root: &Path) -> PathBuf {
    root.join(std::env::var_os("BERTH_WASM").unwrap_or_else(|| "target/berth.wasm".into()))
}

/// What `scripts/build-previous` has built: `berth` or `berth.wasm`.
pub(crate) fn previous(file: &str) -> Result<PathBuf, String> {
    let path = root().join("target/previous").join(file);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is missing: run `scripts/build-previous`", path.display()))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("nodes", &self.nodes)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
