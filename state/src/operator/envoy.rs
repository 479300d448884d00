//! The nodes that one proxy has, asked of its Envoy's admin interface and read as its filter reads them.

use std::time::SystemTime;

use axum::body::Bytes;
use berth_core::membership::{HostFlags, Observation, cluster_names};
use berth_core::time::Millis;
use berth_core::watch::{Sight, Watch};
use serde::Serialize;

use super::client::{Client, Failure};

/// One call is under way at a time.
const CALL: u32 = 1;

/// A node as Envoy has it.
#[derive(Serialize)]
pub(super) struct InEnvoy {
    pub(super) health: &'static str,
    /// Where it is, if Envoy has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

impl InEnvoy {
    /// A node that is on record, and not in Envoy's cluster.
    pub(super) const ABSENT: Self = Self { health: "absent", address: None };
}

/// The nodes of a cluster by name, in Envoy's order.
pub(super) async fn nodes(admin: &Client, cluster: &str) -> Result<Vec<(String, InEnvoy)>, Failure> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let mut watch = Watch::new("admin", &[(cluster, cluster)]);
    let mut seen = None;
    watch.look();
    while let Some(call) = watch.poll_call() {
        watch.call_started(CALL);
        let body: Bytes = admin.page(&call.path).await?;
        if let Some(Sight::Look(Some(hosts))) = watch.handle_reply(CALL, Ok(&body), now) {
            seen = hosts.into_iter().next().flatten();
        }
    }
    let Some(mut hosts) = seen else {
        let page = admin.page("/clusters").await?;
        let names = cluster_names(&page).join(", ");
        if names.is_empty() {
            return Err(Failure::Refused(
                "it names no clusters: is --admin Envoy's admin interface?".to_owned(),
            ));
        }
        return Err(Failure::Refused(format!(
            "Envoy has no cluster {cluster}; name one with --cluster: {names}"
        )));
    };
    if let Some(facts) = watch.facts().and_then(|facts| facts.get(cluster)) {
        facts.apply(&mut hosts);
    }
    let named = |host: Observation| {
        let (name, health) = (host.name().to_owned(), health(host.flags));
        (name, InEnvoy { health, address: Some(host.address) })
    };
    Ok(hosts.into_iter().map(named).collect())
}

/// The worst that Envoy says of a host.
fn health(flags: HostFlags) -> &'static str {
    match flags {
        HostFlags { unhealthy: true, .. } => "unhealthy",
        HostFlags { ejected: true, .. } => "ejected",
        HostFlags { pending: true, .. } => "pending",
        HostFlags { draining: true, .. } => "draining",
        HostFlags { degraded: true, .. } => "degraded",
        _ => "healthy",
    }
}
