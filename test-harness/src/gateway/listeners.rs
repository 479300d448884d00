//! Envoy's listener from the Gateway's, with the routes within it.

use serde_json::{Value, json};

use super::documents::{ClientTrafficPolicy, Gateway, Resource};
use super::{NameScheme, TYPES};

pub(super) fn listener(
    gateway: &Resource<Gateway>,
    clients: &ClientTrafficPolicy,
    filters: &[Value],
    routes: &[Value],
    scheme: NameScheme,
) -> Value {
    let listener = &gateway.spec.listeners[0];
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or("default");
    let path = format!("{namespace}/{}/{}", gateway.metadata.name, listener.name);
    let (name, chain, host) = match scheme {
        NameScheme::V1 => (path.clone(), path.clone(), format!("{path}/*")),
        NameScheme::V2 => (format!("tcp-{}", listener.port), format!("http-{}", listener.port), "*".into()),
    };
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": true,
        },
    });
    let removed = clients.headers.early_request_headers.remove.iter().map(|name| json!({"remove": name}));
    let port = if listener.port < 1024 { listener.port + 10000 } else { listener.port };
    let manager =
        format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    let early = format!("{TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation");
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "per_connection_buffer_limit_bytes": 32768,
        "default_filter_chain": {"name": chain, "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": manager,
                "stat_prefix": format!("http-{port}"),
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
                "http_filters": filters.iter().cloned().chain([router]).collect::<Vec<_>>(),
                "route_config": {
                    "name": chain,
                    "ignore_port_in_host_matching": true,
                    "virtual_hosts": [{"name": host, "domains": ["*"], "routes": routes}],
                },
            },
        }]},
    })
}
