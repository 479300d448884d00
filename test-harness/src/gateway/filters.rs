//! The HTTP filters of a listener: those of the policies, then the router, in Envoy Gateway's order, which `EnvoyProxy` may change
//! (internal/xds/translator/httpfilters.go).

use serde_json::{Value, json};

use super::TYPES;
use super::documents::{EnvoyExtensionPolicy, FilterPosition, Resource};

/// Where filters stand by default, of those that come near a wasm filter.
const ORDER: [&str; 6] = [
    "envoy.filters.http.ext_proc",
    "envoy.filters.http.wasm",
    "envoy.filters.http.rbac",
    "envoy.filters.http.local_ratelimit",
    "envoy.filters.http.ratelimit",
    ROUTER,
];
/// It is always the last one.
const ROUTER: &str = "envoy.filters.http.router";

/// The filters as the listener has them: switched off, and switched on by each route.
pub(super) fn wasm_filters<'p>(
    policies: impl IntoIterator<Item = &'p Resource<EnvoyExtensionPolicy>>,
) -> Vec<Value> {
    let mut filters = Vec::new();
    for policy in policies {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        for (index, wasm) in policy.spec.wasm.iter().enumerate() {
            let id = format!("envoyextensionpolicy/{namespace}/{}/wasm/{index}", policy.metadata.name);
            filters.push(json!({
                "name": format!("envoy.filters.http.wasm/{id}"),
                "disabled": true,
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.filters.http.wasm.v3.Wasm"),
                    "config": {
                        "name": wasm.name,
                        "root_id": wasm.root_id,
                        "configuration": {
                            "@type": "type.googleapis.com/google.protobuf.StringValue",
                            "value": Value::from(wasm.config.clone()).to_string(),
                        },
                        "vm_config": {
                            "vm_id": id,
                            "runtime": "envoy.wasm.runtime.v8",
                            "code": {"local": {"filename": "target/berth.wasm"}},
                        },
                    },
                },
            }));
        }
    }
    filters
}

/// The policies that act on a route: its own, else the Gateway's.
///
/// # Errors
/// If there are two for one target: Envoy Gateway takes the older one, and nothing here has an age.
pub(super) fn acting_on<'p>(
    policies: &'p [Resource<EnvoyExtensionPolicy>],
    gateway: &str,
    route: &str,
) -> Result<Vec<&'p Resource<EnvoyExtensionPolicy>>, String> {
    let mut acting = Vec::new();
    for (kind, name) in [("HTTPRoute", route), ("Gateway", gateway)] {
        let targets = |policy: &&Resource<EnvoyExtensionPolicy>| {
            policy.spec.target_refs.iter().any(|target| target.kind == kind && target.name == name)
        };
        let found: Vec<_> = policies.iter().filter(targets).collect();
        if let [one, other, ..] = found[..] {
            let (one, other) = (&one.metadata.name, &other.metadata.name);
            return Err(format!(
                "EnvoyExtensionPolicy {other}: {one} has attached to the {kind} {name} already"
            ));
        }
        if acting.is_empty() {
            acting = found;
        }
    }
    Ok(acting)
}

/// The filter that sends a request on.
pub(super) fn router() -> Value {
    json!({
        "name": ROUTER,
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": true,
        },
    })
}

/// The filters in the order that requests pass them.
pub(super) fn ordered(mut filters: Vec<Value>, positions: &[FilterPosition]) -> Result<Vec<Value>, String> {
    filters.sort_by_cached_key(|filter| {
        let name = filter["name"].as_str().unwrap_or_default().to_owned();
        let rank = ORDER.iter().position(|kind| is_of(filter, kind));
        // A policy's second filter comes after the first ones of all policies.
        let index = name.rsplit('/').next().and_then(|index| index.parse::<u32>().ok());
        (rank, index, name)
    });
    for position in positions {
        let (anchor, after) = match (&position.before, &position.after) {
            (Some(anchor), None) => (anchor, false),
            (None, Some(anchor)) => (anchor, true),
            _ => return Err(format!("filterOrder: {} needs before or after", position.name)),
        };
        for kind in [&position.name, anchor] {
            if !ORDER.contains(&kind.as_str()) || kind == ROUTER {
                return Err(format!("filterOrder: {kind} is not known here"));
            }
        }
        if !filters.iter().any(|filter| is_of(filter, anchor)) {
            continue;
        }
        let (moved, mut others): (Vec<_>, Vec<_>) =
            filters.into_iter().partition(|filter| is_of(filter, &position.name));
        let mut anchors = (0..others.len()).filter(|index| is_of(&others[*index], anchor));
        let place = if after { anchors.next_back().map(|last| last + 1) } else { anchors.next() };
        let place = place.ok_or_else(|| format!("filterOrder: {anchor} cannot be moved to itself"))?;
        others.splice(place..place, moved);
        filters = others;
    }
    Ok(filters)
}

fn is_of(filter: &Value, kind: &str) -> bool {
    filter["name"].as_str().is_some_and(|name| name.split('/').next() == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::super::documents::{EnvoyProxy, one};
    use super::super::{NameScheme, shipped};
    use super::*;

    const BERTH: &str = "envoy.filters.http.wasm/envoyextensionpolicy/games/berth/wasm/0";

    fn order(names: &[&str], positions: &[FilterPosition]) -> Result<Vec<String>, String> {
        let filters = names.iter().map(|name| json!({"name": name})).collect();
        let name = |filter: &Value| filter["name"].as_str().unwrap().to_owned();
        Ok(ordered(filters, positions)?.iter().map(name).collect())
    }

    fn position(name: &str, before: Option<&str>, after: Option<&str>) -> FilterPosition {
        let kind = |kind: &str| format!("envoy.filters.http.{kind}");
        FilterPosition { name: kind(name), before: before.map(kind), after: after.map(kind) }
    }

    #[test]
    fn wasm_comes_before_what_refuses_requests_by_default() {
        let [other, second] = ["aaa/wasm/0", "aaa/wasm/1"]
            .map(|policy| format!("envoy.filters.http.wasm/envoyextensionpolicy/games/{policy}"));
        let (rbac, external) = ("envoy.filters.http.rbac", "envoy.filters.http.ext_proc/policy/extproc/0");

        let found = order(&[ROUTER, rbac, &second, BERTH, external, &other], &[]).unwrap();

        assert_eq!(found, [external, &other, BERTH, &second, rbac, ROUTER]);
    }

    #[test]
    fn shipped_order_puts_berth_last_before_the_router_whatever_else_is_there() {
        let proxy = one::<EnvoyProxy>(&shipped(NameScheme::V1), "EnvoyProxy").unwrap();
        let refusing =
            ["rbac", "local_ratelimit", "ratelimit"].map(|kind| format!("envoy.filters.http.{kind}"));

        for present in 0..8 {
            let others = refusing.iter().enumerate().filter(|(bit, _)| present & (1 << bit) != 0);
            let others: Vec<&str> = others.map(|(_, name)| name.as_str()).collect();
            let all = [&[BERTH], &others[..], &[ROUTER]].concat();

            let found = order(&all, &proxy.spec.filter_order).unwrap();

            assert_eq!(found, [&others[..], &[BERTH, ROUTER]].concat());
        }
    }

    #[test]
    fn filters_move_before_the_first_and_after_the_last_of_a_kind() {
        let [first, second] =
            ["0", "1"].map(|index| format!("envoy.filters.http.ext_proc/policy/extproc/{index}"));
        let rbac = "envoy.filters.http.rbac";
        let all = [&first, &second, BERTH, rbac, ROUTER];

        let before = order(&all, &[position("rbac", Some("ext_proc"), None)]).unwrap();
        let after = order(&all, &[position("rbac", None, Some("ext_proc"))]).unwrap();

        assert_eq!(before, [rbac, &first, &second, BERTH, ROUTER]);
        assert_eq!(after, [&first, &second, rbac, BERTH, ROUTER]);
    }

    #[test]
    fn faulty_positions_are_refused() {
        for faulty in [
            position("wasm", None, None),
            position("wasm", Some("rbac"), Some("rbac")),
            position("wasm", None, Some("router")),
            position("wasm", None, Some("rbca")),
        ] {
            assert!(order(&[BERTH, ROUTER], &[faulty]).is_err());
        }
    }
}
