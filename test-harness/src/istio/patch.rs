//! EnvoyFilters, applied as istiod does (`pilot/pkg/networking/core/envoyfilter`), on the JSON of Envoy's messages with the names of
//! the proto files (`snake_case`).
//!
//! Each object belongs to a context. All of a gateway's are GATEWAY. Of a sidecar's, SIDECAR_INBOUND are listeners whose
//! `traffic_direction` is INBOUND with the routes in them, and clusters whose names begin with `inbound|` or `Inbound`; the rest is
//! SIDECAR_OUTBOUND. Clusters of the bootstrap, such as `prometheus_stats`, are out of reach of EnvoyFilters.
//!
//! Patches act object by object: of one cluster, listener or virtual host first its own patches, then those of its parts; and of
//! one list first what adds and removes, then what merges (routes the other way round). Only among patches of one `applyTo` does the
//! order in the resource count.

mod active;
mod clusters;
mod filter;
mod filter_chains;
mod listeners;
mod merge;
mod messages;
mod routes;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use self::active::Active;
use self::filter::Context;

pub use self::filter::EnvoyFilter;

/// What istiod sends to one proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Listeners.
    pub listeners: Vec<Value>,
    /// Clusters.
    pub clusters: Vec<Value>,
    /// Route configurations that listeners ask for.
    pub routes: Vec<Value>,
    /// Filters that listeners ask for (`TypedExtensionConfig`).
    pub extensions: Vec<Value>,
}

/// What a proxy is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A gateway.
    Gateway,
    /// The proxy beside a workload.
    Sidecar,
}

/// The proxy that the resources are for.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What it is there for.
    pub role: Role,
    /// The namespace of its pod.
    pub namespace: String,
    /// The labels of its pod.
    pub labels: BTreeMap<String, String>,
    /// The version of its Istio, such as `1.31.0`.
    pub istio_version: String,
}

/// What one patch did to this proxy's resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The EnvoyFilter, `namespace/name`.
    pub filter: String,
    /// The patch's index in it.
    pub patch: usize,
    /// How many objects it changed, added or removed.
    pub changed: usize,
    /// Why it did nothing, or not all; istiod says so nowhere.
    pub dropped: Option<String>,
}

/// Applies those EnvoyFilters that select the proxy, and says what each of their patches did.
pub fn apply(resources: &mut Resources, filters: &[EnvoyFilter], proxy: &Proxy) -> Vec<Outcome> {
    let patches = active::patches(&select::in_order(filters, proxy), proxy);
    let contexts: &[Context] = match proxy.role {
        Role::Gateway => &[Context::Gateway],
        Role::Sidecar => &[Context::SidecarOutbound, Context::SidecarInbound],
    };
    clusters::patch(&mut resources.clusters, &patches, contexts);
    for configuration in &mut resources.routes {
        routes::patch(configuration, &patches, contexts[0]);
    }
    listeners::patch(&mut resources.listeners, &patches, contexts);
    listeners::add_extensions(resources, &patches);
    patches.into_iter().map(Active::outcome).collect()
}
