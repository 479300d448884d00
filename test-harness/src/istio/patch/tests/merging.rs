//! What a merge keeps and what it overwrites.

use super::*;

#[test]
fn messages_merge_and_lists_append() {
    let merged = merge_cluster(
        json!({"name": GAMES, "common_lb_config": {"healthy_panic_threshold": {"value": 50}}, "health_checks": [{"timeout": "1s"}]}),
        json!({"common_lb_config": {"ignore_new_hosts_until_first_hc": true}, "health_checks": [{"timeout": "2s"}]}),
    );

    assert_eq!(
        merged,
        json!({
            "name": GAMES,
            "common_lb_config": {"healthy_panic_threshold": {"value": 50}, "ignore_new_hosts_until_first_hc": true},
            "health_checks": [{"timeout": "1s"}, {"timeout": "2s"}],
        })
    );
}

#[test]
fn zero_false_empty_and_enum_zero_overwrite_nothing() {
    let before = json!({
        "name": GAMES,
        "lb_policy": "LEAST_REQUEST",
        "close_connections_on_host_health_failure": true,
        "alt_stat_name": "games",
        "health_checks": [{"timeout": "1s"}],
        "common_lb_config": {"healthy_panic_threshold": {"value": 50}},
    });

    let merged = merge_cluster(
        before.clone(),
        json!({
            "lb_policy": "ROUND_ROBIN",
            "close_connections_on_host_health_failure": false,
            "alt_stat_name": "",
            "health_checks": [],
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "metadata": null,
        }),
    );

    assert_eq!(merged, before);
}

#[test]
fn other_enum_values_overwrite() {
    let merged = merge_cluster(
        json!({"name": GAMES, "lb_policy": "LEAST_REQUEST"}),
        json!({"lb_policy": "CLUSTER_PROVIDED"}),
    );

    assert_eq!(merged["lb_policy"], "CLUSTER_PROVIDED");
}

#[test]
fn wrapper_of_zero_works_only_where_there_is_no_value() {
    let value = json!({"outlier_detection": {"enforcing_success_rate": 0, "consecutive_5xx": 0}});

    let merged = merge_cluster(json!({"name": GAMES, "outlier_detection": {"consecutive_5xx": 5}}), value);

    assert_eq!(merged["outlier_detection"], json!({"enforcing_success_rate": 0, "consecutive_5xx": 5}));
}

#[test]
fn message_of_zero_works_only_where_there_is_no_message() {
    let value = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}});

    let merged = merge_cluster(json!({"name": GAMES, "common_lb_config": {}}), value.clone());

    assert_eq!(merged["common_lb_config"], value["common_lb_config"]);
}

#[test]
fn duration_of_zero_overwrites() {
    let merged =
        merge_cluster(json!({"name": GAMES, "connect_timeout": "10s"}), json!({"connect_timeout": "0s"}));

    assert_eq!(merged["connect_timeout"], "0s");
}

#[test]
fn entry_of_a_map_is_replaced_whole() {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let typed = |fields: &Value| {
        let mut typed = json!({"@type": format!("type.googleapis.com/{OPTIONS}")});
        typed.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({OPTIONS: typed})
    };
    let mut old = typed(&json!({"explicit_http_config": {"http2_protocol_options": {}}}));
    old["other"] = json!({"@type": "type.googleapis.com/other"});
    let new = typed(&json!({"common_http_protocol_options": {"idle_timeout": "60s"}}));

    let merged = merge_cluster(
        json!({"name": GAMES, "typed_extension_protocol_options": old}),
        json!({"typed_extension_protocol_options": new}),
    );

    // HTTP/2 is lost with it.
    let options = &merged["typed_extension_protocol_options"];
    assert_eq!(options[OPTIONS], new[OPTIONS]);
    assert_eq!(options["other"], json!({"@type": "type.googleapis.com/other"}));
}

#[test]
fn any_inside_a_message_is_replaced_whole() {
    let upstream = |config: Value| json!({"upstream_config": {"name": "u", "typed_config": config}});
    let mut before = upstream(json!({"@type": "type.googleapis.com/a", "kept": 1}));
    before["name"] = GAMES.into();

    let merged = merge_cluster(before, upstream(json!({"@type": "type.googleapis.com/a", "new": 2})));

    assert_eq!(
        merged["upstream_config"]["typed_config"],
        json!({"@type": "type.googleapis.com/a", "new": 2})
    );
}

#[test]
fn field_of_a_group_unsets_the_others() {
    let merged = merge_cluster(
        json!({"name": GAMES, "common_lb_config": {"zone_aware_lb_config": {}, "update_merge_window": "1s"}, "type": "EDS"}),
        json!({"common_lb_config": {"locality_weighted_lb_config": {}}, "type": "STATIC"}),
    );

    assert_eq!(
        merged["common_lb_config"],
        json!({"locality_weighted_lb_config": {}, "update_merge_window": "1s"})
    );
    // In a group even 0 is set.
    assert_eq!(merged["type"], "STATIC");
}

#[test]
fn replacing_lists_needs_istio_1_31() {
    let value = json!({"health_checks": [{"timeout": "2s"}], "circuit_breakers": {"thresholds": [{"max_retries": 1}]}});
    let patches = json!([patch("CLUSTER", json!({}), "MERGE_AND_REPLACE_LIST", value.clone())]);
    let cluster = json!({"name": GAMES, "health_checks": [{"timeout": "1s"}], "circuit_breakers": {"thresholds": [{"max_retries": 9}]}});
    let with_cluster = || Resources { clusters: vec![cluster.clone()], ..Resources::default() };

    let mut new = with_cluster();
    apply_all(&mut new, &gateway(), patches.clone());
    let mut old = with_cluster();
    let outcome = apply_all(&mut old, &Proxy { istio_version: "1.30.2".into(), ..gateway() }, patches);

    assert_eq!(new.clusters[0]["health_checks"], value["health_checks"]);
    assert_eq!(new.clusters[0]["circuit_breakers"], value["circuit_breakers"]);
    assert_eq!(old.clusters[0], cluster);
    assert!(outcome[0].dropped.as_ref().unwrap().contains("1.30.2 does not know"));
}

#[test]
fn connection_manager_is_unpacked_one_level() {
    let mut resources = with_listener();
    let value = json!({"typed_config": {
        "@type": MANAGER_TYPE,
        "request_timeout": "30s",
        "use_remote_address": false,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }});

    let matched = json!({"context": "GATEWAY", "listener": {"filterChain": {"filter": {"name": MANAGER}}}});
    let changed = change(&mut resources, patch("NETWORK_FILTER", matched, "MERGE", value));

    assert_eq!(changed, Ok(1));
    let manager = manager(&resources);
    assert_eq!(manager["request_timeout"], "30s");
    // A wrapper of false changes nothing, and the second websocket is what Envoy refuses.
    assert_eq!(manager["use_remote_address"], true);
    assert_eq!(manager["upgrade_configs"].as_array().unwrap().len(), 2);
    assert_eq!(manager["stat_prefix"], "outbound");
}

#[test]
fn http_filter_merges_inside_and_takes_the_patchs_name() {
    let mut resources = with_listener();
    let value = json!({"name": "renamed", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "suppress_envoy_headers": true,
    }});
    let merge = patch("HTTP_FILTER", in_manager("envoy.filters.http.router"), "MERGE", value);

    let outcomes = apply_all(&mut resources, &gateway(), json!([merge, merge]));

    let filters = &manager(&resources)["http_filters"];
    assert_eq!(names(filters), ["envoy.filters.http.cors", "renamed"]);
    assert_eq!(filters[1]["typed_config"]["suppress_envoy_headers"], true);
    // The second no longer finds the filter.
    assert_eq!(outcomes.iter().map(|outcome| outcome.changed).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn filters_by_config_discovery_cannot_be_merged() {
    let mut resources = with_listener();
    let insert =
        json!({"name": "berth", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["a"]}});
    let merge = json!({"name": "berth", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"root_id": "x"}}});

    let outcomes = apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("HTTP_FILTER", in_manager("envoy.filters.http.router"), "INSERT_BEFORE", insert.clone()),
            patch("HTTP_FILTER", in_manager("berth"), "MERGE", merge),
        ]),
    );

    assert_eq!(manager(&resources)["http_filters"][1], insert);
    assert!(outcomes[1].dropped.as_ref().unwrap().contains("config_discovery"), "{outcomes:?}");
}

#[test]
fn replacing_lists_is_ignored_for_filters() {
    let mut resources = with_listener();
    let value = json!({"typed_config": {"@type": MANAGER_TYPE, "request_timeout": "30s"}});

    let dropped = change(&mut resources, patch("NETWORK_FILTER", json!({}), "MERGE_AND_REPLACE_LIST", value));

    assert!(dropped.unwrap_err().contains("ignored for filters"));
    assert_eq!(resources, with_listener());
}

#[test]
fn another_message_in_a_filter_stops_all_further_listeners() {
    let mut resources = with_listener();
    resources.listeners.push(listener("0.0.0.0_9090", 9090));
    let before = resources.clone();
    let wrong = json!({"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x"}});
    let right = json!({"typed_config": {"@type": MANAGER_TYPE, "request_timeout": "30s"}});

    let outcomes = apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("NETWORK_FILTER", json!({}), "MERGE", wrong),
            patch("NETWORK_FILTER", json!({}), "MERGE", right),
        ]),
    );

    assert_eq!(resources, before);
    assert!(outcomes[0].dropped.as_ref().unwrap().contains("cannot be merged into"), "{outcomes:?}");
}

mod transport_sockets {
    use super::*;

    const TLS: &str = "envoy.transport_sockets.tls";

    fn socket(name: &str, fields: &Value) -> Value {
        let mut config = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"});
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"name": name, "typed_config": config})
    }

    #[test]
    fn patch_merges_into_the_first_match_of_its_name() {
        let matches = json!([
            {"name": "hbone", "match": {"tunnel": "http"}, "transport_socket": {"name": "envoy.transport_sockets.internal_upstream"}},
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": socket(TLS, &json!({"sni": "old"}))},
        ]);

        let merged = merge_cluster(
            json!({"name": GAMES, "transport_socket_matches": matches}),
            json!({"transport_socket": socket(TLS, &json!({"allow_renegotiation": true}))}),
        );

        assert_eq!(merged.get("transport_socket"), None);
        assert_eq!(
            merged["transport_socket_matches"][1]["transport_socket"],
            socket(TLS, &json!({"sni": "old", "allow_renegotiation": true}))
        );
    }

    #[test]
    fn patch_is_dropped_if_no_match_has_its_name() {
        let cluster =
            json!({"name": GAMES, "transport_socket_matches": [{"transport_socket": {"name": "other"}}]});
        let mut resources = Resources { clusters: vec![cluster.clone()], ..Resources::default() };
        let value = json!({"transport_socket": socket(TLS, &json!({"sni": "new"}))});

        let dropped = change(&mut resources, patch("CLUSTER", json!({}), "MERGE", value));

        assert!(dropped.unwrap_err().contains("transport_socket_matches"));
        assert_eq!(resources.clusters[0], cluster);
    }

    #[test]
    fn socket_of_another_name_is_replaced() {
        let value = json!({"transport_socket": socket(TLS, &json!({"sni": "new"}))});

        let merged = merge_cluster(
            json!({"name": GAMES, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer"}}),
            value.clone(),
        );

        assert_eq!(merged["transport_socket"], value["transport_socket"]);
    }
}
