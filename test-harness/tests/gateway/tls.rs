//! A listener with TLS, with the patches that README says for it, in a real Envoy.

use berth_core::ring::Algorithm;
use berth_harness::gateway::{NameScheme, render, shipped};
use serde_json::{Value, json};

use crate::resources::resource;
use crate::support::pinning::of;
use crate::support::{owners, places, sessions, shown};
use crate::worlds::{V1_6, V1_10, Version};

const CERTIFICATE: &str = include_str!("../../../core/testdata/token/certificate.pem");
const KEY: &str = include_str!("../../../core/testdata/token/p256.private.pem");
/// The ring in filter.yaml.
const SHIPPED: Algorithm = Algorithm::Maglev { table_size: 65_537 };
const TYPES: &str = "type.googleapis.com/envoy";

/// The shipped resources with an HTTPS listener beside the other one, and each patch for it too.
pub(crate) fn with_tls(scheme: NameScheme) -> Vec<Value> {
    let mut resources = shipped(scheme);
    let listeners = &mut resource(&mut resources, "Gateway")["spec"]["listeners"];
    let tls = json!({"mode": "Terminate", "certificateRefs": [{"name": "public"}]});
    let listener = json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls});
    listeners.as_array_mut().unwrap().push(listener);
    let patches = resource(&mut resources, "EnvoyPatchPolicy")["spec"]["jsonPatches"].as_array_mut().unwrap();
    for mut patch in patches.clone() {
        patch["name"] = match scheme {
            NameScheme::V1 => "games/public/https".into(),
            NameScheme::V2 => "tcp-443".into(),
        };
        patches.push(patch);
    }
    resources
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_have_their_nodes_behind_tls_with_1_6() {
    sessions_have_their_nodes_behind_tls(V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_have_their_nodes_behind_tls_with_1_10() {
    sessions_have_their_nodes_behind_tls(V1_10).await;
}

async fn sessions_have_their_nodes_behind_tls(version: Version) {
    let sessions = sessions(50);
    let bootstrap = render(&with_tls(version.scheme), version.scheme).unwrap();
    let world = version.ring_only(bootstrap).bootstrap(through_tls).start().await;
    places(world.envoy(0)).await;

    let nodes = world.nodes_of(&sessions).await;
    assert_eq!(nodes, owners(&world, SHIPPED, &sessions));
    let answer = of(&world.client(), &sessions[0]).send().await;
    assert_eq!(shown(&answer, "outcome"), "ring");
    let connections = world.envoy(0).admin("/stats?filter=^listener.*ssl.handshake").await;
    assert!(connections.lines().any(|line| !line.ends_with(": 0")), "requests had TLS: {connections}");
}

/// Has the world's client reach the HTTPS listener: a listener in the place of the first one adds the TLS. The certificate, which Envoy
/// Gateway would send, is part of the bootstrap.
fn through_tls(bootstrap: &mut Value) {
    // Within the network namespace, so that a container's Envoy can have it too.
    let address = json!({"pipe": {"path": format!("@berth-gateway-tls-{}", std::process::id())}});
    let statics = &mut bootstrap["static_resources"];

    let https = &mut statics["listeners"][1];
    https["address"] = address.clone();
    let context =
        https.pointer_mut("/filter_chains/0/transport_socket/typed_config/common_tls_context").unwrap();
    context.as_object_mut().unwrap().remove("tls_certificate_sds_secret_configs").expect("a certificate");
    context["tls_certificates"] =
        json!([{"certificate_chain": {"inline_string": CERTIFICATE}, "private_key": {"inline_string": KEY}}]);

    let socket = |kind: &str| format!("{TYPES}.extensions.transport_sockets.tls.v3.{kind}");
    statics["clusters"].as_array_mut().unwrap().push(json!({
        "name": "https",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "https",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls", "typed_config": {"@type": socket("UpstreamTlsContext")},
        },
    }));
    let http = &mut statics["listeners"][0];
    http["default_filter_chain"] = json!({"filters": [{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "https",
            "cluster": "https",
        },
    }]});
}
