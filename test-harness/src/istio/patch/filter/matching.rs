//! What a patch can name to say which objects it is for. Empty and 0 mean any.

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::istio::patch) struct ClusterMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) service: String,
    pub(in crate::istio::patch) subset: String,
    pub(in crate::istio::patch) port_number: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::istio::patch) struct ListenerMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) port_number: u32,
    pub(in crate::istio::patch) filter_chain: Option<FilterChainMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::istio::patch) struct FilterChainMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) sni: String,
    pub(in crate::istio::patch) transport_protocol: String,
    pub(in crate::istio::patch) application_protocols: String,
    pub(in crate::istio::patch) destination_port: u32,
    pub(in crate::istio::patch) filter: Option<FilterMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio::patch) struct FilterMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) sub_filter: Option<SubFilterMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::istio::patch) struct SubFilterMatch {
    pub(in crate::istio::patch) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::istio::patch) struct RouteConfigurationMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) port_number: u32,
    pub(in crate::istio::patch) port_name: String,
    pub(in crate::istio::patch) gateway: String,
    pub(in crate::istio::patch) vhost: Option<VirtualHostMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(in crate::istio::patch) struct VirtualHostMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) domain_name: String,
    pub(in crate::istio::patch) route: Option<RouteMatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::istio::patch) struct RouteMatch {
    pub(in crate::istio::patch) name: String,
    pub(in crate::istio::patch) action: Action,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio::patch) enum Action {
    #[default]
    Any,
    Route,
    Redirect,
    DirectResponse,
}
