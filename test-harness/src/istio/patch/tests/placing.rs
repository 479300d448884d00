//! Which clusters, listeners and filters are matched, and where new ones go.

use super::*;

fn router() -> Value {
    in_manager("envoy.filters.http.router")
}

fn added() -> Value {
    http_filter("added", "rbac.v3.RBAC")
}

fn filters_after(matched: Value, operation: &str) -> Vec<String> {
    let mut resources = with_listener();
    let _ = change(&mut resources, patch("HTTP_FILTER", matched, operation, added()));
    let names = names(&manager(&resources)["http_filters"]).into_iter();
    names.map(|name| name.trim_start_matches("envoy.filters.http.").to_owned()).collect()
}

#[test]
fn http_filters_go_where_the_operation_says() {
    assert_eq!(filters_after(router(), "INSERT_BEFORE"), ["cors", "added", "router"]);
    assert_eq!(filters_after(router(), "INSERT_AFTER"), ["cors", "router", "added"]);
    assert_eq!(filters_after(router(), "INSERT_FIRST"), ["added", "cors", "router"]);
    assert_eq!(filters_after(router(), "ADD"), ["cors", "router", "added"]);
    assert_eq!(filters_after(router(), "REPLACE"), ["cors", "added"]);
    assert_eq!(filters_after(router(), "REMOVE"), ["cors"]);
}

#[test]
fn without_a_filter_match_an_insertion_goes_to_an_end() {
    assert_eq!(filters_after(json!({}), "INSERT_BEFORE"), ["added", "cors", "router"]);
    // Behind the router: Envoy refuses that.
    assert_eq!(filters_after(json!({}), "INSERT_AFTER"), ["cors", "router", "added"]);
}

#[test]
fn insertion_beside_an_absent_filter_does_nothing_silently() {
    for operation in ["INSERT_BEFORE", "INSERT_AFTER", "REPLACE", "REMOVE"] {
        let mut resources = with_listener();

        let dropped =
            change(&mut resources, patch("HTTP_FILTER", in_manager("envoy.router"), operation, added()));

        assert_eq!(dropped, Err("nothing matches".into()), "{operation}");
        assert_eq!(resources, with_listener());
    }
}

#[test]
fn merge_of_a_filter_sees_what_was_inserted() {
    let mut resources = with_listener();
    let merge = json!({"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules_stat_prefix": "x"}});

    let outcomes = apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("HTTP_FILTER", in_manager("added"), "MERGE", merge),
            patch("HTTP_FILTER", router(), "INSERT_BEFORE", added()),
        ]),
    );

    // Although it is written first.
    assert_eq!(outcomes[0].changed, 1);
    assert_eq!(manager(&resources)["http_filters"][1]["typed_config"]["rules_stat_prefix"], "x");
}

#[test]
fn cluster_matches_are_exact() {
    let clusters = [GAMES, SUBSET, "outbound|81||games.default.svc.cluster.local", "prometheus_stats"];
    let matched_by = |matched: Value| -> Vec<usize> {
        let named = clusters.map(|name| json!({"name": name}));
        let mut resources = Resources { clusters: named.to_vec(), ..Resources::default() };
        let value = json!({"close_connections_on_host_health_failure": true});
        let _ = change(&mut resources, patch("CLUSTER", json!({"cluster": matched}), "MERGE", value));
        let is_changed = |index: &usize| resources.clusters[*index] != named[*index];
        (0..named.len()).filter(is_changed).collect()
    };

    assert_eq!(matched_by(json!({"name": GAMES})), [0]);
    assert_eq!(matched_by(json!({"name": GAMES, "subset": "ignored"})), [0], "a name ends the match");
    // An empty subset means any: only the name hits the default cluster alone.
    assert_eq!(matched_by(json!({"service": "games.default.svc.cluster.local", "portNumber": 80})), [0, 1]);
    assert_eq!(matched_by(json!({"subset": "berth"})), [1]);
    assert_eq!(matched_by(json!({"service": "*.default.svc.cluster.local"})), [0; 0], "no wildcards");
    assert_eq!(matched_by(json!({})), [0, 1, 2], "a cluster of the bootstrap is out of reach");
}

#[test]
fn cluster_add_ignores_its_cluster_match() {
    let mut resources = Resources::default();
    let value = json!({"name": "state"});

    let changed =
        change(&mut resources, patch("CLUSTER", json!({"cluster": {"name": "absent"}}), "ADD", value));

    assert_eq!(changed, Ok(1));
    assert_eq!(resources.clusters, [json!({"name": "state"})]);
}

#[test]
fn insertion_of_a_cluster_is_an_addition_once_and_not_inbound() {
    let mut resources = Resources::default();

    apply_all(
        &mut resources,
        &sidecar(),
        json!([patch("CLUSTER", json!({}), "INSERT_BEFORE", json!({"name": "state"}))]),
    );

    assert_eq!(resources.clusters.len(), 1);
}

#[test]
fn clusters_can_be_removed_by_context() {
    let remove = |context: &str| patch("CLUSTER", json!({"context": context}), "REMOVE", Value::Null);
    let left = |context: &str| {
        let clusters = [GAMES, "inbound|8080||", "InboundPassthroughCluster", "PassthroughCluster"];
        let clusters = clusters.iter().map(|name| json!({"name": name})).collect();
        let mut resources = Resources { clusters, ..Resources::default() };
        apply_all(&mut resources, &sidecar(), json!([remove(context)]));
        resources
            .clusters
            .iter()
            .map(|cluster| cluster["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };

    assert_eq!(left("SIDECAR_OUTBOUND"), ["inbound|8080||", "InboundPassthroughCluster"]);
    assert_eq!(left("SIDECAR_INBOUND"), [GAMES, "PassthroughCluster"]);
    assert_eq!(left("GATEWAY").len(), 4);
    assert_eq!(left("ANY").len(), 0);
}

#[test]
fn listeners_are_matched_by_name_port_and_context() {
    let mut inbound = listener("virtualInbound", 15006);
    inbound["traffic_direction"] = "INBOUND".into();
    inbound["filter_chains"][0]["filter_chain_match"] = json!({"destination_port": 8080});
    let listeners = vec![listener("0.0.0.0_8080", 8080), listener("0.0.0.0_9090", 9090), inbound];
    let changed_by = |context: &str, matched: Value| -> Vec<usize> {
        let mut resources = Resources { listeners: listeners.clone(), ..Resources::default() };
        let matched = json!({"context": context, "listener": matched});
        let insert = patch("HTTP_FILTER", matched, "INSERT_FIRST", added());
        apply_all(&mut resources, &sidecar(), json!([insert]));
        (0..3).filter(|&index| resources.listeners[index] != listeners[index]).collect()
    };

    assert_eq!(changed_by("ANY", json!({})), [0, 1, 2]);
    assert_eq!(changed_by("SIDECAR_OUTBOUND", json!({})), [0, 1]);
    assert_eq!(changed_by("SIDECAR_OUTBOUND", json!({"portNumber": 9090})), [1]);
    assert_eq!(changed_by("SIDECAR_OUTBOUND", json!({"name": "0.0.0.0_8080"})), [0]);
    // In the virtual listeners it is the port of the chain.
    assert_eq!(changed_by("SIDECAR_INBOUND", json!({"portNumber": 8080})), [2]);
    assert_eq!(changed_by("SIDECAR_INBOUND", json!({"portNumber": 15006})), [0; 0]);
}

#[test]
fn filter_chains_are_matched_by_all_that_is_named() {
    let mut resources = with_listener();
    resources.listeners[0]["filter_chains"][0]["name"] = "tls".into();
    resources.listeners[0]["filter_chains"][0]["filter_chain_match"] = json!({
        "server_names": ["games.example.com"],
        "transport_protocol": "tls",
        "application_protocols": ["h2", "http/1.1"],
    });
    let hits = |matched: Value| {
        let matched = json!({"listener": {"filterChain": matched}});
        change(&mut resources.clone(), patch("FILTER_CHAIN", matched, "MERGE", json!({"name": "x"}))).is_ok()
    };

    assert!(hits(json!({"name": "tls", "sni": "games.example.com", "transportProtocol": "tls"})));
    assert!(hits(json!({"applicationProtocols": "h2,http/1.1"})));
    assert!(!hits(json!({"applicationProtocols": "h2,istio"})));
    assert!(!hits(json!({"sni": "*.example.com"})));
    assert!(!hits(json!({"name": "other"})));
    assert!(!hits(json!({"destinationPort": 443})));
}

#[test]
fn removing_the_last_chain_leaves_a_listener_without_chains() {
    let mut resources = with_listener();

    let changed = change(&mut resources, patch("FILTER_CHAIN", json!({}), "REMOVE", Value::Null));

    assert_eq!(changed, Ok(1));
    assert_eq!(resources.listeners[0].get("filter_chains"), None);
}

#[test]
fn extension_is_sent_only_if_a_filter_asks_for_it() {
    let asks =
        json!({"name": "berth", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["a"]}});
    let extension = json!({"name": "berth", "typed_config": {"@type": "type.googleapis.com/a"}});
    // The context of the extension's patch counts for nothing.
    let matched = json!({"context": "SIDECAR_INBOUND"});
    let add = patch("EXTENSION_CONFIG", matched, "ADD", extension.clone());

    let mut alone = with_listener();
    let dropped = change(&mut alone, add.clone());
    let mut both = with_listener();
    apply_all(&mut both, &gateway(), json!([add, patch("HTTP_FILTER", router(), "INSERT_BEFORE", asks)]));

    assert!(dropped.unwrap_err().contains("no filter asks"));
    assert_eq!(alone.extensions, [json!(null); 0]);
    assert_eq!(both.extensions, [extension]);
}
