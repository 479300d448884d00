//! The nodes as Envoy is told of them: one EDS file for all Envoys of a world, replaced by a move.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// One entry of the EDS file.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where the node listens.
    pub address: SocketAddr,
    /// Load-balancing weight; absent unless it differs from 1, as most control planes do it.
    pub weight: u32,
    /// `health_status`: HEALTHY, DRAINING, DEGRADED, UNHEALTHY, … or UNKNOWN, which is the default.
    pub health: String,
    /// Priority; 0 is preferred.
    pub priority: u32,
    /// `metadata.filter_metadata`, or null.
    pub metadata: Value,
}

impl Endpoint {
    /// An endpoint with Envoy's defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: 1, health: "UNKNOWN".into(), priority: 0, metadata: Value::Null }
    }

    fn to_json(&self) -> Value {
        let mut endpoint = json!({
            "endpoint": {"address": {"socket_address": {
                "address": self.address.ip().to_string(), "port_value": self.address.port(),
            }}},
        });
        if self.weight != 1 {
            endpoint["load_balancing_weight"] = self.weight.into();
        }
        if self.health != "UNKNOWN" {
            endpoint["health_status"] = self.health.as_str().into();
        }
        if !self.metadata.is_null() {
            endpoint["metadata"]["filter_metadata"] = self.metadata.clone();
        }
        endpoint
    }
}

/// All endpoints, in the order of the EDS file.
pub type EndpointSet = Vec<Endpoint>;

/// Replaces the EDS file. Envoy sees the move, and never half a file.
///
/// `template` is envoy/nodes.yaml: of it only the endpoints change.
pub(crate) fn write(set: &[Endpoint], template: &Value, file: &Path) {
    let mut priorities: Vec<u32> = set.iter().map(|endpoint| endpoint.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let localities: Vec<Value> = priorities
        .iter()
        .map(|&priority| {
            let here = set.iter().filter(|endpoint| endpoint.priority == priority);
            json!({"priority": priority, "lb_endpoints": here.map(Endpoint::to_json).collect::<Vec<_>>()})
        })
        .collect();
    let mut document = template.clone();
    document["resources"][0]["endpoints"] = localities.into();
    replace(file, &document);
}

/// Writes beside the file and moves it there: the only way of change that Envoy watches for.
pub(crate) fn replace(file: &Path, document: &Value) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{document:#}\n")).unwrap();
    std::fs::rename(&new, file).unwrap();
}
