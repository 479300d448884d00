//! The listeners that Istio makes (`gateway.go`, `listener.go`, `listener_builder.go`), with their HTTP connection managers.

use serde_json::{Value, json};

use super::flavour::{Flavour, Role};
use super::mesh::Mesh;
use super::routes::{gateway_route_name, http_ports};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

pub(super) fn listeners(mesh: &Mesh, flavour: &Flavour) -> Vec<Value> {
    match flavour.role {
        Role::Gateway => {
            let name = format!("0.0.0.0_{}", flavour.gateway_port);
            let manager = manager(&name, &gateway_route_name(flavour), true);
            vec![listener(&name, flavour.gateway_port, &manager)]
        }
        Role::Sidecar => {
            let of_port = |port: u16| {
                let name = format!("0.0.0.0_{port}");
                let mut listener = listener(&name, port, &manager(&name, &port.to_string(), false));
                // Clients connect to virtualOutbound, which hands the connection on.
                listener["bind_to_port"] = false.into();
                listener
            };
            let mut listeners: Vec<Value> = http_ports(mesh).into_iter().map(of_port).collect();
            // The one with the nodes first: it is the one that clients are given.
            listeners.sort_by_key(|listener| listener["name"] != "0.0.0.0_8080");
            listeners.extend([virtual_outbound(), virtual_inbound()]);
            listeners
        }
    }
}

fn listener(name: &str, port: u16, manager: &Value) -> Value {
    json!({
        "name": name,
        "address": address(port),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [network_filter(manager)]}],
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "0.0.0.0", "port_value": port}})
}

fn network_filter(manager: &Value) -> Value {
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
}

fn manager(listener: &str, route_configuration: &str, at_gateway: bool) -> Value {
    let mut manager = with_filters(&format!("outbound_{listener};"), at_gateway);
    manager["rds"] = json!({
        "config_source": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
        "route_config_name": route_configuration,
    });
    if at_gateway {
        manager["forward_client_cert_details"] = "SANITIZE_SET".into();
        manager["set_current_client_cert_details"] =
            json!({"subject": true, "cert": true, "dns": true, "uri": true});
        manager["server_name"] = "istio-envoy".into();
    }
    manager
}

fn with_filters(stat_prefix: &str, use_remote_address: bool) -> Value {
    let filter = |name: &str, message: &str| json!({"name": format!("envoy.filters.http.{name}"), "typed_config": {"@type": format!("{FILTERS}.http.{message}")}});
    json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": stat_prefix,
        "http_filters": [
            filter("grpc_stats", "grpc_stats.v3.FilterConfig"),
            filter("fault", "fault.v3.HTTPFault"),
            filter("cors", "cors.v3.Cors"),
            filter("router", "router.v3.Router"),
        ],
        "use_remote_address": use_remote_address,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    })
}

/// Where iptables sends what a client connects to.
fn virtual_outbound() -> Value {
    json!({
        "name": "virtualOutbound",
        "address": address(15001),
        "traffic_direction": "OUTBOUND",
        "use_original_dst": true,
        "filter_chains": [{
            "name": "virtualOutbound-catchall-tcp",
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": "PassthroughCluster",
                    "cluster": "PassthroughCluster",
                },
            }],
        }],
    })
}

/// Requests to the client's own pod: none of Berth's business.
fn virtual_inbound() -> Value {
    let mut manager = with_filters("inbound_0.0.0.0_8080;", false);
    manager["route_config"] = json!({
        "name": "inbound|8080||",
        "virtual_hosts": [{
            "name": "inbound|http|8080",
            "domains": ["*"],
            "routes": [{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster"}}],
        }],
        "validate_clusters": false,
    });
    json!({
        "name": "virtualInbound",
        "address": address(15006),
        "traffic_direction": "INBOUND",
        "filter_chains": [{
            "name": "0.0.0.0_8080",
            "filter_chain_match": {"destination_port": 8080},
            "filters": [network_filter(&manager)],
        }],
    })
}
