//! Which proxy of which Istio: what differs between them.

/// A proxy as one version of Istio configures it, and the Envoy that it is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavour {
    /// What the proxy is.
    pub role: Role,
    /// Istio's version.
    pub istio: &'static str,
    /// The version of Envoy that comes nearest to it, of those that scripts/get-envoy pins.
    pub envoy: &'static str,
    /// Whether pods that are not ready are endpoints (UNHEALTHY), which also ends Envoy's panic mode: by default from 1.31 on.
    pub sends_unhealthy: bool,
    /// The port that a gateway listens on for the server's port 80: the target port of its Service.
    pub gateway_port: u16,
}

/// What a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An ingress gateway.
    Gateway,
    /// A sidecar of a client.
    Sidecar,
}

impl Flavour {
    /// A gateway of the oldest Istio whose Envoy runs Berth. It listens on 8080, as that of the former chart.
    pub const GATEWAY_1_28: Self = Self {
        role: Role::Gateway,
        istio: "1.28.0",
        envoy: "1.36.2",
        sends_unhealthy: false,
        gateway_port: 8080,
    };
    /// A gateway since Istio sends endpoints that are not ready.
    pub const GATEWAY_1_31: Self = Self {
        role: Role::Gateway,
        istio: "1.31.0",
        envoy: "1.40.0",
        sends_unhealthy: true,
        gateway_port: 80,
    };
    /// The sidecar of a client.
    pub const SIDECAR: Self = Self { role: Role::Sidecar, ..Self::GATEWAY_1_31 };
    /// All of them.
    pub const ALL: [Self; 3] = [Self::GATEWAY_1_28, Self::GATEWAY_1_31, Self::SIDECAR];

    /// The overlay that is for this proxy.
    pub fn overlay(&self) -> &'static str {
        match self.role {
            Role::Gateway => "gateway",
            Role::Sidecar => "sidecar",
        }
    }

    /// The namespace that the proxy's pod is in, as the shipped documents have it.
    pub fn namespace(&self) -> &'static str {
        match self.role {
            Role::Gateway => "istio-ingress",
            Role::Sidecar => "games",
        }
    }

    /// The service account that it runs as.
    pub fn account(&self) -> &'static str {
        match self.role {
            Role::Gateway => "cluster.local/ns/istio-ingress/sa/istio-ingressgateway",
            Role::Sidecar => "cluster.local/ns/games/sa/client",
        }
    }

    /// The labels of its pod.
    pub fn labels(&self) -> &'static [(&'static str, &'static str)] {
        match self.role {
            // The second one is what a gateway of the Gateway API has.
            Role::Gateway => {
                &[("istio", "ingressgateway"), ("gateway.networking.k8s.io/gateway-name", "games")]
            }
            Role::Sidecar => &[("app", "client")],
        }
    }
}
