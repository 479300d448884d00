//! Members as Envoy has them, across modules: what its configuration says, what follows for a node's state, and what that
//! means for the owner that a pin names.

mod checks;
mod clusters;
mod movers;
mod names;

use berth_core::cluster::Clusters;
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::{HostFlags, Observation};
use berth_core::placement::Placement;
use berth_core::ring::{Algorithm, RingSize, session_hash};
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

const GOOD: HostFlags =
    HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };

const BAD: HostFlags = HostFlags { unhealthy: true, ..GOOD };

fn at(seconds: u64) -> Millis {
    Millis(1_000_000 + seconds * 1000)
}

fn host(address: &str, name: Option<&str>, flags: HostFlags) -> Observation {
    Observation {
        address: address.into(),
        name: name.map(str::to_owned),
        weight: 1,
        flags,
        ..Observation::default()
    }
}

fn named(number: usize, at: usize, flags: HostFlags) -> Observation {
    host(&format!("10.0.{at}.{number}:80"), Some(&format!("db-{number}")), flags)
}

fn snapshot(roster: &Roster, policy: &HealthPolicy, now: Millis) -> Snapshot {
    Snapshot::build(roster, Algorithm::RingHash(RingSize::VirtualNodes(3)), policy, now, None).unwrap()
}

fn state(roster: &Roster, name: &str, policy: &HealthPolicy, now: Millis) -> State {
    roster.nodes.iter().find(|node| node.name() == name).unwrap().health.state(policy, now)
}

fn clusters(checks: &str) -> Clusters {
    let json = format!(
        r#"{{"configs":[{{"dynamic_active_clusters":[{{"cluster":{{"name":"nodes","type":"EDS","health_checks":[{checks}]}}}}]}}]}}"#
    );
    Clusters::read(json.as_bytes()).unwrap()
}

/// Which node each of 1,000 sessions has by the ring alone.
fn homes(roster: &Roster, policy: &HealthPolicy, now: Millis) -> Vec<String> {
    let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(512));
    let view = Snapshot::build(roster, algorithm, policy, now, None).unwrap();
    let home = |number: u32| {
        let placement = Placement::of(&view, session_hash(&number.to_le_bytes())).unwrap();
        placement.nodes(&view).next().unwrap().name.clone()
    };
    (0..1000).map(home).collect()
}
