//! The nodes that Envoy gets: one EDS file for all Envoys of a world, replaced by a rename.

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
    /// What it is called; empty for nothing.
    pub hostname: String,
    /// Its zone, and the load-balancing weight of that; nothing and 0 are left out.
    pub locality: (String, u32),
}

impl Endpoint {
    /// An endpoint with Envoy's defaults.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            health: "UNKNOWN".into(),
            priority: 0,
            metadata: Value::Null,
            hostname: String::new(),
            locality: (String::new(), 0),
        }
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
        if !self.hostname.is_empty() {
            endpoint["endpoint"]["hostname"] = self.hostname.as_str().into();
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
    // In the order of their first endpoints.
    let mut places: Vec<(u32, &(String, u32))> = Vec::new();
    for endpoint in set {
        let place = (endpoint.priority, &endpoint.locality);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by_key(|(priority, _)| *priority);
    let localities: Vec<Value> = places
        .iter()
        .map(|&(priority, locality)| {
            let here = set.iter().filter(|one| (one.priority, &one.locality) == (priority, locality));
            let endpoints: Vec<Value> = here.map(Endpoint::to_json).collect();
            let mut json = json!({"priority": priority, "lb_endpoints": endpoints});
            let (zone, weight) = locality;
            if !zone.is_empty() {
                json["locality"]["zone"] = zone.as_str().into();
            }
            if *weight > 0 {
                json["load_balancing_weight"] = (*weight).into();
            }
            json
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
