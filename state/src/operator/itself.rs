//! A node that speaks for itself, in the hooks of its pod: which node it is, its pools, and the service that it asks. `join` and
//! `leave` are what it says.
//!
//! Both set the node's own state, not the operator's. It ends with the next boot id, so what one pod said does not bind the
//! next one at its address. What may pass by itself is tried again until a deadline: also a refusal, as tokens and a
//! mesh's policies change while a pod waits.

use std::net::IpAddr;
use std::time::Duration;

use berth_core::wire::{ApiRequest, NodeChange, NodeId, NodeRecord, PoolName};
use berth_state::given::{Fault, Given, Parser, Place, list, number};
use clap::Args;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::arguments::{self, Service};
use super::asked::ask_within;
use super::client::{Client, Failure};

/// Between two calls to a service that is away: a restart takes a few of them.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// One call with its connection. The service answers in milliseconds; one that hangs is left, and a new connection may lead to
/// another instance.
const CALL: Duration = Duration::from_secs(3);

/// Which node this is.
#[derive(Args)]
pub(crate) struct Itself {
    /// This node, as its Envoy cluster calls it [default: the address of --pod-ip and --port]
    #[arg(long, value_name = "NODE", env = "BERTH_NODE", value_parser = Parser::new(arguments::node))]
    node: Option<Given<NodeId>>,
    /// Its address, which Kubernetes says as status.podIP
    #[arg(long, value_name = "IP", env = "POD_IP", value_parser = Parser::new(address))]
    pod_ip: Option<Given<IpAddr>>,
    /// The port at which Envoy reaches it
    #[arg(long, value_name = "PORT", env = "PORT", value_parser = number(1..=u16::MAX))]
    port: Option<Given<u16>>,
    /// Each pool that it serves, with commas between them
    #[arg(
        long,
        value_name = "NAMES",
        env = "BERTH_POOL",
        default_value = "nodes",
        value_parser = list(arguments::pool)
    )]
    pool: Given<Vec<PoolName>>,
    #[command(flatten)]
    service: Service,
}

/// A node that speaks for itself: its name, its pools, and the service that it asks.
pub(super) struct Speaker {
    pub(super) client: Client,
    pub(super) node: NodeId,
    pub(super) pools: Vec<PoolName>,
    /// A flag or a variable names the pools.
    pub(super) names_pools: bool,
}

impl Itself {
    pub(super) fn speaker(&self, faults: &mut Vec<Fault>) -> Option<Speaker> {
        let (client, node) = (self.service.client(faults), self.node(faults));
        let names_pools = !matches!(self.pool.place, Place::Default(_));
        let mut pools = self.pool.clone().take(faults)?;
        pools.sort();
        pools.dedup();
        Some(Speaker { client: client?, node: node?, pools, names_pools })
    }

    fn node(&self, faults: &mut Vec<Fault>) -> Option<NodeId> {
        if let Some(node) = &self.node {
            return node.clone().take(faults);
        }
        let ip = self.pod_ip.clone().map(|ip| ip.take(faults));
        let port = self.port.clone().map(|port| port.take(faults));
        let (Some(ip), Some(port)) = (ip, port) else {
            let message = "which node is this? Give --node, or --pod-ip and --port (POD_IP and PORT)";
            faults.push(Fault::new("--node", message));
            return None;
        };
        let address = std::net::SocketAddr::new(ip?, port?).to_string();
        address.parse().map_err(|error| faults.push(Fault::new("--pod-ip", format!("{error}")))).ok()
    }
}

impl Speaker {
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: &ApiRequest) -> Result<T, Failure> {
        ask_within(&self.client, CALL, request).await
    }

    /// What is recorded of this node, if anything is.
    pub(super) async fn record(&self, pool: &PoolName) -> Result<Option<NodeRecord>, Failure> {
        match self.ask(&ApiRequest::node(pool.as_str(), &self.node)).await {
            Ok(record) => Ok(Some(record)),
            Err(Failure::Absent(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn say(&self, pool: &PoolName, change: &NodeChange) -> Result<NodeRecord, Failure> {
        self.ask(&ApiRequest::change_node(pool.as_str(), &self.node, change)).await
    }
}

/// Does something each second until that succeeds, or fails in a way that does not pass by itself. At the end its last
/// failure.
pub(super) async fn until<T>(
    end: Instant,
    attempt: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut last = Failure::Unreachable("no answer in time".to_owned());
    let attempts = timeout_at(end, async {
        loop {
            match attempt().await {
                Err(failure) if failure.may_pass() => last = failure,
                done => return done,
            }
            sleep(ASK_AGAIN).await;
        }
    });
    match attempts.await {
        Ok(done) => done,
        Err(_) => Err(last),
    }
}

pub(super) fn in_default_pool(pool: &PoolName) -> String {
    format!("in pool {pool}, as neither --pool nor BERTH_POOL names another")
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("must be an IP address, is {text:?}"))
}

/// Progress, for people. A hook goes on if its reader has gone.
pub(super) fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub(super) fn warn(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "berth: {line}");
}
