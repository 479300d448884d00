//! What istiod knows: the documents by kind, and which of them count for a proxy.

use super::documents::Documents;
use super::flavour::Flavour;
use super::kinds::{
    AuthorizationPolicySpec, DestinationRuleSpec, GatewaySpec, Kind, Object, PeerAuthenticationSpec,
    ServiceSpec, Subset, TrafficPolicy, VirtualServiceSpec,
};
use super::kubernetes;

/// Istio's own namespace, whose rules are the last resort.
const ROOT_NAMESPACE: &str = "istio-system";

#[derive(Clone, Debug, Default)]
pub(super) struct Mesh {
    pub(super) services: Vec<Object<ServiceSpec>>,
    rules: Vec<Object<DestinationRuleSpec>>,
    pub(super) routes: Vec<Object<VirtualServiceSpec>>,
    pub(super) gateways: Vec<Object<GatewaySpec>>,
    pub(super) peer_authentications: Vec<Object<PeerAuthenticationSpec>>,
    pub(super) authorization_policies: Vec<Object<AuthorizationPolicySpec>>,
}

impl Mesh {
    pub(super) fn new(documents: &Documents) -> Result<Self, String> {
        let mut mesh = Self::default();
        for kind in documents.kinds()? {
            match kind {
                Kind::Service(service) => mesh.services.push(service),
                Kind::DestinationRule(rule) => mesh.rules.push(rule),
                Kind::VirtualService(routes) => mesh.routes.push(routes),
                Kind::Gateway(gateway) => mesh.gateways.push(gateway),
                Kind::KubernetesGateway(gateway) => mesh.gateways.push(kubernetes::gateway(gateway)),
                Kind::KubernetesRoute(route) => mesh.routes.push(kubernetes::routes(route)?),
                Kind::PeerAuthentication(peers) => mesh.peer_authentications.push(peers),
                Kind::AuthorizationPolicy(policy) => mesh.authorization_policies.push(policy),
                Kind::EnvoyFilter | Kind::ConfigMap(_) | Kind::Other => {}
            }
        }
        Ok(mesh)
    }

    /// The policy and the subsets for a Service: of the first namespace that has a rule for it, the proxy's, the Service's and
    /// Istio's. Of several rules there, the first one's policy and the subsets of all (`mergeDestinationRule`).
    pub(super) fn rule_for(
        &self,
        service: &Object<ServiceSpec>,
        flavour: &Flavour,
    ) -> (TrafficPolicy, Vec<Subset>) {
        let host = service.metadata.host();
        for namespace in [flavour.namespace(), &service.metadata.namespace, ROOT_NAMESPACE] {
            let here = |rule: &&Object<DestinationRuleSpec>| rule.metadata.namespace == namespace;
            let rules = self.rules.iter().filter(here).filter(|rule| rule.spec.host == host);
            let mut policy = None;
            let mut subsets: Vec<Subset> = Vec::new();
            let mut found = false;
            for rule in rules {
                found = true;
                policy = policy.or_else(|| rule.spec.traffic_policy.clone());
                for subset in &rule.spec.subsets {
                    if subsets.iter().all(|known| known.name != subset.name) {
                        subsets.push(subset.clone());
                    }
                }
            }
            if found {
                return (policy.unwrap_or_default(), subsets);
            }
        }
        (TrafficPolicy::default(), Vec::new())
    }
}
