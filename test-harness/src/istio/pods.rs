//! What becomes of a pod, as endpoints: Kubernetes' EndpointSlices and istiod's reading of them (`endpoint_builder.go`).

use super::Istio;
use super::kinds::{Kind, Object, ServiceSpec};
use crate::World;

/// The Service's pods in a world: each node is one.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'w> {
    world: &'w World,
    sends_unhealthy: bool,
    keeps_terminating: bool,
}

impl Istio {
    /// The pods of the Service `nodes`, as this proxy learns of them.
    ///
    /// # Panics
    /// If there is no such Service.
    pub fn pods<'w>(&self, world: &'w World) -> Pods<'w> {
        let kinds = self.documents.kinds().expect("known documents");
        let service = kinds.into_iter().find_map(|kind| match kind {
            Kind::Service(service) if service.metadata.name == "nodes" => Some(service),
            _ => None,
        });
        let service = service.expect("a Service nodes");
        Pods {
            world,
            sends_unhealthy: self.flavour.sends_unhealthy,
            keeps_terminating: keeps_terminating(&service),
        }
    }
}

/// Endpoints are filtered by the cookie's label alone. `persistent-session-header` makes a pod that terminates DRAINING, and the
/// filter drops it then (istio/istio#52256).
fn keeps_terminating(service: &Object<ServiceSpec>) -> bool {
    service.metadata.labels.contains_key("istio.io/persistent-session")
}

impl Pods<'_> {
    /// The pod fails its readiness probe.
    pub async fn unready(&self, index: usize) {
        if self.sends_unhealthy {
            self.world.set_eds_health(index, "UNHEALTHY").await;
        } else {
            self.world.remove_node(index).await;
        }
    }

    /// The pod is ready again.
    pub async fn ready(&self, index: usize) {
        if self.sends_unhealthy {
            self.world.set_eds_health(index, "HEALTHY").await;
        } else {
            self.world.return_node(index).await;
        }
    }

    /// The pod is deleted, and serves until its grace period is over.
    pub async fn terminating(&self, index: usize) {
        if self.keeps_terminating {
            self.world.set_eds_health(index, "DRAINING").await;
        } else {
            self.world.remove_node(index).await;
        }
    }

    /// The pod has ended.
    pub async fn gone(&self, index: usize) {
        if self.keeps_terminating {
            self.world.remove_node(index).await;
        }
        self.world.node(index).refuse().await;
    }

    /// Another pod has the address of one that has ended.
    pub async fn reused(&self, index: usize) {
        self.world.node(index).restart().await;
        self.world.return_node(index).await;
    }
}
