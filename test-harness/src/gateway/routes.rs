//! An Envoy route from a rule of the HTTPRoute and its policy.

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{BackendTrafficPolicy, Rule, seconds};

/// Those of Envoy that a BackendTrafficPolicy may name for HTTP.
const TRIGGERS: [&str; 6] =
    ["5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "refused-stream"];

pub(super) fn http_route(
    cluster: &str,
    rule: &Rule,
    policy: &BackendTrafficPolicy,
    filters: &[Value],
) -> Result<Value, String> {
    let [found] = rule.matches.as_slice() else {
        return Err(format!("rule {}: one match is known, not {}", rule.name, rule.matches.len()));
    };
    let mut matched = json!({"prefix": found.path.value});
    let headers = found.headers.iter().flatten().map(|header| match header.r#type.as_str() {
        "RegularExpression" => {
            Ok(json!({"name": header.name, "string_match": {"safe_regex": {"regex": header.value}}}))
        }
        other => Err(format!("rule {}: a header match of type {other}", rule.name)),
    });
    let headers = headers.collect::<Result<Vec<_>, _>>()?;
    if !headers.is_empty() {
        matched["headers"] = headers.into();
    }
    let switched_on = filters.iter().map(|filter| {
        let on = json!({"@type": format!("{TYPES}.config.route.v3.FilterConfig"), "config": {}});
        (filter["name"].as_str().unwrap().to_owned(), on)
    });
    let mut removed: Vec<&String> = Vec::new();
    for filter in &rule.filters {
        if filter.r#type != "ResponseHeaderModifier" {
            return Err(format!("rule {}: a filter of type {}", rule.name, filter.r#type));
        }
        removed.extend(&filter.response_header_modifier.remove);
    }
    let retry = &policy.retry;
    if let Some(other) = retry.retry_on.triggers.iter().find(|trigger| !TRIGGERS.contains(&trigger.as_str()))
    {
        return Err(format!("rule {}: there is no retry trigger {other}", rule.name));
    }
    let mut action = json!({
        "cluster": cluster,
        "timeout": seconds(&policy.timeout.http.request_timeout)?,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "retry_policy": {
            "retry_on": retry.retry_on.triggers.join(","),
            "num_retries": retry.num_retries,
            "retriable_status_codes": [503],
            "retry_back_off": {
                "base_interval": seconds(&retry.per_retry.back_off.base_interval)?,
                "max_interval": seconds(&retry.per_retry.back_off.max_interval)?,
            },
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                },
            }],
        },
    });
    if let Some(hash) = &policy.load_balancer.consistent_hash {
        action["hash_policy"] = json!([{"header": {"header_name": hash.header.name}}]);
    }
    Ok(json!({
        "name": format!("{cluster}/match/0/*"),
        "match": matched,
        "route": action,
        "response_headers_to_remove": removed,
        "typed_per_filter_config": switched_on.collect::<serde_json::Map<_, _>>(),
    }))
}
