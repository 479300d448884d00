//! A pool's shared records and metrics.

use std::cell::Cell;

use berth_core::config::{HashKey, Membership, Pool, StateCluster};

use crate::metrics::PoolMetrics;
use crate::shared::{ChangesKey, FailuresKey, RosterKey};

/// What connects a pool of this VM with that of the other VMs.
pub(crate) struct Link {
    /// The cluster that Envoy is asked about; `None` for members of the configuration.
    pub(crate) cluster: Option<String>,
    pub(crate) roster: RosterKey,
    pub(super) failures: FailuresKey,
    pub(super) changes: Option<ChangesKey>,
    pub(crate) metrics: PoolMetrics,
    pub(super) hash_key: HashKey,
    /// Its nodes may end sessions with a response header.
    pub(super) reads_ends: bool,
    /// What has been said of the cluster, and is not said again.
    pub(super) warned: Cell<[bool; 2]>,
}

impl Link {
    pub(super) fn new(config: &Pool, state: Option<&StateCluster>) -> Self {
        let mut polled = None;
        let source = match &config.membership {
            Membership::Cluster(cluster) => polled.insert(cluster.clone()).clone(),
            Membership::Static(members) => {
                // Another list is another source: health of the old one must not be taken for the new one's.
                let text: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
                format!("static/{:x}", berth_core::ring::session_hash(text.join(",").as_bytes()))
            }
        };
        Self {
            cluster: polled,
            roster: RosterKey::new(&config.name, &source),
            failures: FailuresKey::new(&config.name, &source),
            changes: state.map(|state| ChangesKey::new(&config.name, &state.cluster)),
            metrics: PoolMetrics::define(&config.name),
            hash_key: config.hash_key,
            reads_ends: config.end_header,
            warned: Cell::default(),
        }
    }
}
