//! Envoy's listeners, one for each of the Gateway's, with the routes within it. Several Gateway listeners on one port, which Envoy
//! Gateway puts into one of Envoy's, are not known here, nor are hostnames.

use serde_json::{Value, json};

use super::documents::{ClientTrafficPolicy, Gateway, Listener, Resource};
use super::{NameScheme, TYPES};

/// The listeners of a Gateway, before its patches.
pub(super) fn listeners(
    gateway: &Resource<Gateway>,
    clients: &ClientTrafficPolicy,
    filters: &[Value],
    routes: &[Value],
    scheme: NameScheme,
) -> Result<Vec<Value>, String> {
    let listeners = &gateway.spec.listeners;
    for (index, listener) in listeners.iter().enumerate() {
        if listeners[..index].iter().any(|other| other.port == listener.port) {
            return Err(format!("two listeners on port {}: one is known here", listener.port));
        }
    }
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or("default");
    let of_gateway = |listener: &Listener| {
        let path = format!("{namespace}/{}/{}", gateway.metadata.name, listener.name);
        let manager = |chain: &str| manager(listener, clients, filters, routes, chain, &path, scheme);
        let mut made = json!({
            "name": match scheme {
                NameScheme::V1 => path.clone(),
                NameScheme::V2 => format!("tcp-{}", listener.port),
            },
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": own_port(listener)}},
            "per_connection_buffer_limit_bytes": 32768,
        });
        match (listener.protocol.as_str(), &listener.tls) {
            ("HTTP", None) => {
                let chain = match scheme {
                    NameScheme::V1 => path.clone(),
                    NameScheme::V2 => format!("http-{}", listener.port),
                };
                made["default_filter_chain"] = json!({"name": chain, "filters": [manager(&chain)]});
            }
            // By both schemes its chain has the listener's path for a name.
            ("HTTPS", Some(tls)) if tls.mode == "Terminate" => {
                let secrets =
                    tls.certificate_refs.iter().map(|secret| format!("{namespace}/{}", secret.name));
                let secrets: Vec<Value> = secrets.map(|name| secret(&name)).collect();
                made["filter_chains"] = json!([
                    {"name": path, "filters": [manager(&path)], "transport_socket": transport_socket(&secrets)},
                ]);
            }
            (protocol, _) => {
                let what = "HTTP without, and HTTPS with tls of mode Terminate are known here";
                return Err(format!("listener {}: {protocol}: {what}", listener.name));
            }
        }
        Ok(made)
    };
    listeners.iter().map(of_gateway).collect()
}

/// The port that Envoy listens on, without privileges.
fn own_port(listener: &Listener) -> u16 {
    if listener.port < 1024 { listener.port + 10000 } else { listener.port }
}

fn manager(
    listener: &Listener,
    clients: &ClientTrafficPolicy,
    filters: &[Value],
    routes: &[Value],
    chain: &str,
    path: &str,
    scheme: NameScheme,
) -> Value {
    let removed = clients.headers.early_request_headers.remove.iter().map(|name| json!({"remove": name}));
    let (host, port) = match scheme {
        NameScheme::V1 => (format!("{path}/*"), own_port(listener)),
        NameScheme::V2 => ("*".into(), listener.port),
    };
    let manager =
        format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    let early = format!("{TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation");
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": manager,
            "stat_prefix": format!("{}-{port}", listener.protocol.to_lowercase()),
            "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
            "http2_protocol_options": {
                "initial_connection_window_size": 1_048_576,
                "initial_stream_window_size": 65536,
                "max_concurrent_streams": 100,
            },
            "early_header_mutation_extensions": [{
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {"@type": early, "mutations": removed.collect::<Vec<_>>()},
            }],
            "request_timeout": clients.timeout.http.request_received_timeout,
            "merge_slashes": true,
            "normalize_path": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
            "server_header_transformation": "PASS_THROUGH",
            "use_remote_address": true,
            "http_filters": filters,
            "route_config": {
                "name": chain,
                "ignore_port_in_host_matching": true,
                "virtual_hosts": [{"name": host, "domains": ["*"], "routes": routes}],
            },
        },
    })
}

/// A certificate, which the proxy gets from Envoy Gateway.
fn secret(name: &str) -> Value {
    json!({"name": name, "sds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}})
}

fn transport_socket(secrets: &[Value]) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"], "tls_certificate_sds_secret_configs": secrets,
            },
            "disable_stateful_session_resumption": true,
            "disable_stateless_session_resumption": true,
        },
    })
}
