//! `berth join`: what a pod says after its node has started.
//!
//! Nothing but a wrong command line is a failure: a postStart hook that fails kills its container, and a pod without Berth's
//! records serves its sessions all the same. So whatever the service or a proxy in between answers is a warning.

use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeState, PoolName};
use berth_state::given::{Fault, Given, filled, time};
use clap::Args;
use tokio::time::{Instant, timeout_at};

use super::client::Failure;
use super::itself::{Itself, Speaker, in_default_pool, say, until, warn};
use super::known::Known;

/// When `berth join` gives up, and what it says.
#[derive(Args)]
pub(crate) struct Joining {
    /// What tells this start of the node from others [default: a new one at each call]
    #[arg(long, value_name = "TEXT", env = "BERTH_BOOT_ID", value_parser = filled())]
    boot_id: Option<Given<String>>,
    /// How long to try if the service does not answer, or refuses
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = time(Millis(1_000)..=Millis(86_400_000))
    )]
    deadline: Given<Millis>,
}

/// Says in each pool that the node has started.
///
/// # Errors
/// [`Failure::Usage`] only.
pub(super) async fn join(itself: &Itself, joining: &Joining) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let speaker = itself.speaker(&mut faults);
    let started = joining.change(&mut faults);
    let deadline = joining.deadline.clone().take(&mut faults);
    let (Some(speaker), Some(started), Some(deadline)) = (speaker, started, deadline) else {
        return Err(Failure::Usage(faults));
    };

    let end = Instant::now() + Duration::from_millis(deadline.0);
    let node = &speaker.node;
    for pool in &speaker.pools {
        match until(end, async || speaker.say(pool, &started).await).await {
            Ok(record) => {
                say(&format!("{node} is {} in pool {pool}", record.state.name()));
                if record.version == 1 {
                    // As long as the hook may take anyway; without an answer there is nothing to say.
                    let _ = timeout_at(end, doubt(&speaker, pool)).await;
                }
            }
            Err(failure) => warn(&format!(
                "WARNING: {failure}; {node} starts without a record of it in pool {pool}: if a former node at its address \
                 left it draining, it gets no new sessions. Once that is mended, run `berth join` in it again"
            )),
        }
    }
    Ok(())
}

impl Joining {
    fn change(&self, faults: &mut Vec<Fault>) -> Option<NodeChange> {
        let place = self.boot_id.as_ref().map_or_else(String::new, |given| given.place.to_string());
        let boot_id = self.boot_id.clone().map_or_else(|| Some(new_boot_id()), |id| id.take(faults))?;
        let change = NodeChange {
            boot_id: Some(boot_id),
            self_state: Some(NodeState::Active),
            ..NodeChange::default()
        };
        // By the service's own rule, so that a fault is one of the command line and not a refusal.
        let written = serde_json::to_vec(&change).unwrap_or_default();
        let read = NodeChange::parse(&written);
        read.map_err(|all| faults.extend(all.into_iter().map(|fault| Fault::new(&place, fault.message)))).ok()
    }
}

/// Says what is odd about a node of which this is the first that is recorded: any pool may be written to, and any name.
async fn doubt(speaker: &Speaker, pool: &PoolName) {
    if !speaker.names_pools {
        warn(&in_default_pool(pool));
    }
    let Ok(known) = Known::of(speaker, pool).await else { return };
    if known.is_nothing() {
        warn(&format!("nothing else is known of pool {pool}. {}", known.advice(pool)));
    } else if known.is_unlike(&speaker.node) {
        warn(&format!("{} is not named as other nodes are. {}", speaker.node, known.advice(pool)));
    }
}

/// One start of a node is nanoseconds from any other.
fn new_boot_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since.as_nanos())
}
