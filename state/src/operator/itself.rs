//! What a node says of itself when it comes and goes, for the hooks of its pod: `berth leave` before it stops, `berth join`
//! after it started.
//!
//! Both set the node's own state, not the operator's. It ends with the next boot id, so what one pod said does not bind the
//! next one at its address. What each call of the service may fail at is tried again until the deadline.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, NodeChange, NodeId, NodeRecord, NodeState, PoolName};
use berth_state::given::{Fault, Given, Parser, filled, list, number, time};
use clap::Args;
use tokio::time::{Instant, sleep, timeout_at};

use super::arguments::{self, Service};
use super::asked::ask;
use super::client::{Client, Failure};

/// Between two calls to a service that is away: a restart takes a few of them.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

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
}

impl Itself {
    pub(super) fn speaker(&self, faults: &mut Vec<Fault>) -> Option<Speaker> {
        let (client, node) = (self.service.client(faults), self.node(faults));
        let mut pools = self.pool.clone().take(faults)?;
        pools.sort();
        pools.dedup();
        Some(Speaker { client: client?, node: node?, pools })
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
    pub(super) async fn say(&self, pool: &PoolName, change: &NodeChange) -> Result<NodeRecord, Failure> {
        ask(&self.client, &ApiRequest::change_node(pool.as_str(), &self.node, change)).await
    }
}

/// When `berth join` gives up, and what it says.
#[derive(Args)]
pub(crate) struct Joining {
    /// What tells this start of the node from others [default: a new one at each call]
    #[arg(long, value_name = "TEXT", env = "BERTH_BOOT_ID", value_parser = filled())]
    boot_id: Option<Given<String>>,
    /// How long to try if the service does not answer
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = time(Millis(1_000)..=Millis(86_400_000))
    )]
    deadline: Given<Millis>,
}

/// Says in each pool that the node has started. A service that does not answer keeps no node from starting: that is a
/// warning.
pub(super) async fn join(itself: &Itself, joining: &Joining) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let speaker = itself.speaker(&mut faults);
    let boot_id = joining.boot_id.clone().map_or_else(|| Some(new_boot_id()), |id| id.take(&mut faults));
    let deadline = joining.deadline.clone().take(&mut faults);
    let (Some(speaker), Some(boot_id), Some(deadline)) = (speaker, boot_id, deadline) else {
        return Err(Failure::Usage(faults));
    };

    let end = Instant::now() + Duration::from_millis(deadline.0);
    let started =
        NodeChange { boot_id: Some(boot_id), self_state: Some(NodeState::Active), ..NodeChange::default() };
    for pool in &speaker.pools {
        let mut reason = "no answer in time".to_owned();
        let said = timeout_at(end, async {
            loop {
                match speaker.say(pool, &started).await {
                    Err(Failure::Unreachable(why) | Failure::Busy(why)) => reason = why,
                    said => return said,
                }
                sleep(ASK_AGAIN).await;
            }
        });
        match said.await {
            Ok(said) => {
                let NodeRecord { node, state, .. } = said?;
                say(&format!("{node} is {} in pool {pool}", state.name()));
            }
            Err(_) => warn(&format!("{reason}; {} starts without", speaker.node)),
        }
    }
    Ok(())
}

/// One start of a node is nanoseconds from any other.
fn new_boot_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since.as_nanos())
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
