//! The state cluster of a world: its store, and the services that share it. Started before the Envoys, ended after them.

mod service;

use std::path::Path;
use std::sync::Arc;

use berth_core::wire::{NodeChange, NodeState, SessionKey, SessionReply};

use self::service::Start;
pub use self::service::{StateService, berth};
use crate::World;
use crate::builder::previous;
use crate::redis::{RedisCluster, RedisServer};

/// The pool of the shipped configurations.
const POOL: &str = "nodes";

/// Describes a state cluster, for [`crate::Builder::state`].
///
/// ```no_run
/// # use berth_harness::{State, World};
/// # async fn test() {
/// let state = State::redis().services(2).flag("--ttl", "60s");
/// let world = World::builder().state(state).start().await;
///
/// world.state(1).kill();
/// world.redis().pause();
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a description does nothing before the world starts"]
pub struct State {
    kind: Kind,
    services: usize,
    previous: Vec<usize>,
    flags: Vec<String>,
    own_flags: Vec<(usize, [String; 2])>,
    own_environment: Vec<(usize, (String, String))>,
    token: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    Redis,
    RedisCluster,
    Elsewhere,
}

impl State {
    /// Pins in the memory of the service. Several of them know nothing of each other.
    pub fn memory() -> Self {
        Self::new(Kind::Memory)
    }

    /// Pins in one private Redis.
    pub fn redis() -> Self {
        Self::new(Kind::Redis)
    }

    /// Pins in a private Redis Cluster. Takes a few seconds longer to start.
    pub fn redis_cluster() -> Self {
        Self::new(Kind::RedisCluster)
    }

    /// Pins in a store of the caller's, which flags name.
    pub fn elsewhere() -> Self {
        Self::new(Kind::Elsewhere)
    }

    /// How many services there are. Default: 1.
    pub fn services(mut self, services: usize) -> Self {
        self.services = services;
        self
    }

    /// Makes one of the services, counted from 0, the previous version: the one that `scripts/build-previous` has built.
    pub fn previous(mut self, service: usize) -> Self {
        self.previous.push(service);
        self
    }

    /// One more flag of `berth serve` for each service, such as `("--durability", "quorum")`. What is not said is as
    /// shipped.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// One more flag of this service alone, counted from 0.
    pub fn flag_of(mut self, service: usize, name: &str, value: &str) -> Self {
        self.own_flags.push((service, [name.to_owned(), value.to_owned()]));
        self
    }

    /// Variables in the environment of this service alone, counted from 0.
    pub fn environment_of(mut self, service: usize, variables: &[(String, String)]) -> Self {
        self.own_environment.extend(variables.iter().map(|variable| (service, variable.clone())));
        self
    }

    /// Services answer those only who bring this token. The helpers here do.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            services: 1,
            previous: Vec::new(),
            flags: Vec::new(),
            own_flags: Vec::new(),
            own_environment: Vec::new(),
            token: None,
        }
    }

    /// Starts the store, then the services; the first one on this port, if it must be one.
    pub(crate) async fn start(self, directory: &Path, port: Option<u16>) -> Result<StateCluster, String> {
        let kind = self.kind;
        let store = tokio::task::spawn_blocking(move || match kind {
            Kind::Memory => Store::Memory,
            Kind::Redis => Store::Redis(RedisServer::start(&[])),
            Kind::RedisCluster => Store::RedisCluster(RedisCluster::start()),
            Kind::Elsewhere => Store::Elsewhere,
        });
        let store = Arc::new(store.await.map_err(|_| "the store does not start; the reason is above")?);
        let mut arguments = store.flags();
        arguments.extend(self.flags);
        let mut services = Vec::new();
        for index in 0..self.services {
            let port = port.filter(|_| index == 0).unwrap_or(0);
            let log = directory.join(format!("state{index}.log"));
            let program = if self.previous.contains(&index) { previous("berth")? } else { berth()? };
            let own = self.own_flags.iter().filter(|(service, _)| *service == index);
            let arguments = arguments.iter().chain(own.flat_map(|(_, flag)| flag)).cloned().collect();
            let own = self.own_environment.iter().filter(|(service, _)| *service == index);
            let start = Start {
                program,
                port,
                log,
                arguments,
                environment: own.map(|(_, variable)| variable.clone()).collect(),
                token: self.token.clone(),
            };
            services.push(StateService::start(start, Arc::clone(&store)).await?);
        }
        Ok(StateCluster { services, store })
    }
}

/// A running state cluster.
#[derive(Debug)]
pub(crate) struct StateCluster {
    pub(crate) services: Vec<StateService>,
    store: Arc<Store>,
}

#[derive(Debug)]
pub(crate) enum Store {
    Memory,
    Redis(RedisServer),
    RedisCluster(RedisCluster),
    Elsewhere,
}

impl Store {
    /// Whether a service that starts now can become ready.
    fn is_well(&self) -> bool {
        match self {
            // Of one elsewhere the caller knows.
            Self::Memory | Self::Elsewhere => true,
            Self::Redis(server) => server.runs(),
            Self::RedisCluster(cluster) => cluster.primaries().len() == 3,
        }
    }

    fn flags(&self) -> Vec<String> {
        match self {
            Self::Memory | Self::Elsewhere => Vec::new(),
            Self::Redis(server) => vec!["--redis".into(), server.url()],
            Self::RedisCluster(cluster) => {
                vec!["--redis".into(), cluster.urls().join(","), "--redis-cluster".into(), "true".into()]
            }
        }
    }
}

/// The state cluster, in a world that has one. Questions go to the first service that is neither killed nor paused.
impl World {
    /// A state service, counted from 0.
    pub fn state(&self, index: usize) -> &StateService {
        &self.states()[index]
    }

    /// All state services.
    pub fn states(&self) -> &[StateService] {
        &self.state_cluster().services
    }

    /// The Redis behind them, which can be killed, paused and asked.
    pub fn redis(&self) -> &RedisServer {
        match &*self.state_cluster().store {
            Store::Redis(server) => server,
            other => panic!("the store is no single Redis: {other:?}"),
        }
    }

    /// The Redis Cluster behind them.
    pub fn redis_cluster(&self) -> &RedisCluster {
        match &*self.state_cluster().store {
            Store::RedisCluster(cluster) => cluster,
            other => panic!("the store is no Redis Cluster: {other:?}"),
        }
    }

    /// The server of [`World::redis_cluster`] that has a session's pin, while there is one.
    pub fn redis_primary_of(&self, pool: &str, session: impl AsRef<[u8]>) -> Option<usize> {
        let key = SessionKey::new(pool, session.as_ref()).to_string();
        // The hash tag that state/src/store/redis/layout.rs gives to all keys of a shard.
        self.redis_cluster().primary_of(&format!("{{{pool}/{}}}", &key[..1]))
    }

    /// Where a session is pinned, if it is.
    pub async fn pin_of(&self, pool: &str, session: impl AsRef<[u8]>) -> Option<SessionReply> {
        self.running_state().pin_of(pool, session).await
    }

    /// Ends a session, as at logout; says whether there was one.
    pub async fn end_session(&self, pool: &str, session: impl AsRef<[u8]>) -> bool {
        self.running_state().end_session(pool, session).await
    }

    /// Sets what is wanted of a node of the pool `nodes`, by its name: `active`, `degraded`, `draining` or `standby`.
    pub async fn set_node_state(&self, node: &str, state: &str) {
        let state = NodeState::from_name(state).unwrap_or_else(|| panic!("{state}: no state of a node"));
        let change = NodeChange { state: Some(state), ..Default::default() };
        self.running_state().change_node(POOL, node, &change).await;
    }

    /// The sum of a metric over its series with these labels and over all services that run.
    pub async fn state_metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for service in self.states().iter().filter(|service| service.runs()) {
            sum += service.metric(name, labels).await;
        }
        sum
    }

    fn running_state(&self) -> &StateService {
        self.states().iter().find(|service| service.runs()).expect("a state service that runs")
    }

    fn state_cluster(&self) -> &StateCluster {
        self.state.as_ref().expect("this world has no state cluster: see Builder::state")
    }
}
