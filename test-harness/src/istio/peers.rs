//! Mutual TLS to the state service: the certificates that istiod would sign, and the sidecar of the service's pods with the policies
//! that are for them.
//!
//! The sidecar is a listener of the proxy's own Envoy, at a socket in the world's directory, so that no second one has to run. (Not an
//! internal listener: active checks are made by the main thread, which has none.) What goes between them is TLS, and what the sidecar
//! takes is what a sidecar of Istio takes: a certificate of the mesh (`PeerAuthentication` in mode STRICT) whose identity an
//! `AuthorizationPolicy` names.

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

use super::bootstrap::from_file;
use super::kinds::{AuthorizationPolicySpec, Object, PeerAuthenticationSpec, ServiceSpec};
use super::mesh::Mesh;

/// The sidecar's socket, which the harness puts into the world's directory.
pub(crate) const SIDECAR: &str = "berth-state-sidecar";
/// The cluster behind it, as Istio calls it.
const INBOUND: &str = "inbound|8650||";
/// The identity of the state service's pods.
const STATE_ACCOUNT: &str = "cluster.local/ns/berth/sa/berth-state";
/// What Istio's agent calls a proxy's own certificate, and the authority's.
const OWN: &str = "default";
const ROOT: &str = "ROOTCA";
const STATE_OWN: &str = "berth-state";

/// Puts the sidecar between this proxy, which runs as a service account, and the state service.
pub(super) fn install(bootstrap: &mut Value, mesh: &Mesh, account: &str) -> Result<(), String> {
    let statics = &mut bootstrap["static_resources"];
    let clusters = statics["clusters"].as_array_mut().expect("a list");
    let Some(cluster) = clusters.iter_mut().find(|cluster| is_of_state(cluster)) else {
        return Ok(());
    };
    let outbound = cluster["name"].as_str().expect("a name").to_owned();
    let Some(tls) = cluster.pointer_mut("/transport_socket/typed_config/common_tls_context") else {
        return Err(format!("{outbound}: its DestinationRule has no ISTIO_MUTUAL"));
    };
    // The agent's secrets, which are in the bootstrap here.
    for secret in [
        "/tls_certificate_sds_secret_configs/0",
        "/combined_validation_context/validation_context_sds_secret_config",
    ] {
        tls.pointer_mut(secret).and_then(Value::as_object_mut).expect("a secret").remove("sds_config");
    }
    let fields = cluster.as_object_mut().expect("a cluster");
    let protocol = fields.get("typed_extension_protocol_options").cloned();
    fields.remove("eds_cluster_config");
    fields.insert("type".into(), "STATIC".into());
    fields.insert(
        "load_assignment".into(),
        json!({
            "cluster_name": outbound,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": SIDECAR}}}}]}],
        }),
    );
    let mut inbound = json!({
        "name": INBOUND,
        "type": "EDS",
        "eds_cluster_config": {"service_name": "state", "eds_config": from_file("state.json")},
        "connect_timeout": "10s",
        "lb_policy": "ROUND_ROBIN",
    });
    if let Some(protocol) = protocol {
        inbound["typed_extension_protocol_options"] = protocol;
    }
    clusters.push(inbound);

    let service = mesh.services.iter().find(|service| outbound.ends_with(&service.metadata.host()));
    let listener = sidecar(service.ok_or("there is no Service of the state service")?, mesh)?;
    statics["listeners"].as_array_mut().expect("a list").push(listener);
    statics["secrets"] = secrets(account);
    Ok(())
}

/// Whether a cluster leads to the state service.
pub(super) fn is_of_state(cluster: &Value) -> bool {
    cluster["name"]
        .as_str()
        .is_some_and(|name| name.starts_with("outbound|") && name.contains("|berth-state."))
}

fn sidecar(service: &Object<ServiceSpec>, mesh: &Mesh) -> Result<Value, String> {
    // In the pods' namespace alone do these two act.
    let (labels, namespace) = (&service.spec.selector, &service.metadata.namespace);
    let peers = mesh
        .peer_authentications
        .iter()
        .find(|peers| &peers.spec.selector.match_labels == labels && &peers.metadata.namespace == namespace);
    let mode = peers.map_or("PERMISSIVE", |peers: &Object<PeerAuthenticationSpec>| &peers.spec.mtls.mode);
    if mode != "STRICT" {
        return Err(format!("{}: mtls.mode {mode} is not known here", service.metadata.name));
    }
    let for_it = |policy: &&Object<AuthorizationPolicySpec>| {
        &policy.spec.selector.match_labels == labels && &policy.metadata.namespace == namespace
    };
    let policies = mesh.authorization_policies.iter().filter(for_it);
    let access = policies.map(|policy| access(policy, service)).collect::<Result<Vec<_>, _>>()?;
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    Ok(json!({
        "name": "virtualInbound of the state service",
        "address": {"pipe": {"path": SIDECAR}},
        "filter_chains": [{
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": {
                        "alpn_protocols": ["h2", "http/1.1"],
                        "tls_certificate_sds_secret_configs": [{"name": STATE_OWN}],
                        "validation_context_sds_secret_config": {"name": ROOT},
                    },
                },
            },
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "inbound_0.0.0.0_8650;",
                    "stream_idle_timeout": "0s",
                    "http_filters": access.into_iter().chain([router]).collect::<Vec<_>>(),
                    "route_config": {
                        "name": INBOUND,
                        "validate_clusters": false,
                        "virtual_hosts": [{
                            "name": "inbound|http|8650",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": INBOUND, "timeout": "0s"}}],
                        }],
                    },
                },
            }],
        }],
    }))
}

/// What Istio makes of an `AuthorizationPolicy` (`builder.go`). A socket has no port: the ports of a policy must be the pods' own.
fn access(policy: &Object<AuthorizationPolicySpec>, service: &Object<ServiceSpec>) -> Result<Value, String> {
    let name = &policy.metadata.name;
    if policy.spec.action != "ALLOW" {
        return Err(format!("{name}: action {} is not known here", policy.spec.action));
    }
    let mut policies = serde_json::Map::new();
    for (index, rule) in policy.spec.rules.iter().enumerate() {
        let target = service.spec.ports.iter().map(|port| port.target_port.to_string()).collect::<Vec<_>>();
        if rule.to.iter().any(|to| to.operation.ports != target) {
            return Err(format!("{name}: rule {index} is not for the pods' ports, {target:?}"));
        }
        let accounts = rule.from.iter().flat_map(|from| &from.source.principals);
        let principals: Vec<Value> = accounts
            .map(|account| json!({"authenticated": {"principal_name": {"exact": format!("spiffe://{account}")}}}))
            .collect();
        policies.insert(
            format!("ns[{}]-policy[{name}]-rule[{index}]", policy.metadata.namespace),
            json!({"permissions": [{"any": true}], "principals": principals}),
        );
    }
    Ok(json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": policies},
        },
    }))
}

/// The certificates of both sides, signed by one authority, as Envoy's static secrets.
fn secrets(account: &str) -> Value {
    let mut authority = CertificateParams::default();
    // Another name than what it signs: those would pass for self-signed.
    authority.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let of = |name: &str, account: &str| {
        let mut certificate = CertificateParams::default();
        let identity = Ia5String::try_from(format!("spiffe://{account}")).expect("an identity of ASCII");
        certificate.subject_alt_names.push(SanType::URI(identity));
        let key = key();
        let signed = certificate.signed_by(&key, &authority).expect("a certificate");
        json!({"name": name, "tls_certificate": {
            "certificate_chain": {"inline_string": signed.pem()},
            "private_key": {"inline_string": key.serialize_pem()},
        }})
    };
    json!([
        of(OWN, account),
        of(STATE_OWN, STATE_ACCOUNT),
        {"name": ROOT, "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}},
    ])
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
