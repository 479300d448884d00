//! Route configurations, virtual hosts and routes.

use super::*;

fn route(name: &str) -> Value {
    json!({"name": name, "match": {"prefix": "/"}, "route": {"cluster": GAMES, "timeout": "0s"}})
}

fn with_routes(configuration: &str) -> Resources {
    Resources {
        routes: vec![json!({"name": configuration, "virtual_hosts": [
            {"name": "games.example.com:80", "domains": ["games.example.com"], "routes": [route("first"), route("second")]},
            {"name": "other.example.com:80", "domains": ["other.example.com"], "routes": [route("first")]},
        ]})],
        ..Resources::default()
    }
}

fn gateway_routes() -> Resources {
    with_routes("http.8080")
}

fn route_names(resources: &Resources, host: usize) -> Vec<&str> {
    names(&resources.routes[0]["virtual_hosts"][host]["routes"])
}

fn vhost(vhost: Value) -> Value {
    json!({"routeConfiguration": {"vhost": vhost}})
}

fn routes_after(matched: Value, operation: &str) -> [Vec<String>; 2] {
    let mut resources = gateway_routes();
    let _ = change(&mut resources, patch("HTTP_ROUTE", matched, operation, route("added")));
    [0, 1].map(|host| route_names(&resources, host).into_iter().map(str::to_owned).collect())
}

#[test]
fn without_a_route_match_every_matching_host_gets_it_at_an_end() {
    for operation in ["INSERT_FIRST", "INSERT_BEFORE"] {
        let [games, other] = routes_after(json!({}), operation);
        assert_eq!(games, ["added", "first", "second"]);
        assert_eq!(other, ["added", "first"]);
    }
    for operation in ["INSERT_AFTER", "ADD"] {
        let [games, other] = routes_after(vhost(json!({"name": "games.example.com:80"})), operation);
        assert_eq!(games, ["first", "second", "added"]);
        assert_eq!(other, ["first"]);
    }
}

#[test]
fn with_a_route_match_insert_first_still_goes_to_the_top() {
    let second = || vhost(json!({"route": {"name": "second"}}));

    assert_eq!(routes_after(second(), "INSERT_FIRST")[0], ["added", "first", "second"]);
    assert_eq!(routes_after(second(), "INSERT_BEFORE")[0], ["first", "added", "second"]);
    assert_eq!(routes_after(second(), "INSERT_AFTER")[0], ["first", "second", "added"]);
    // The other host has no such route.
    assert_eq!(routes_after(second(), "INSERT_FIRST")[1], ["first"]);
    assert_eq!(routes_after(second(), "REMOVE"), [vec!["first"], vec!["first"]]);
}

#[test]
fn merge_of_routes_never_sees_an_inserted_route() {
    let mut resources = gateway_routes();
    let value = json!({"route": {"timeout": "5s"}});

    apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("HTTP_ROUTE", json!({}), "INSERT_FIRST", route("added")),
            patch("HTTP_ROUTE", json!({}), "MERGE", value),
        ]),
    );

    let timeouts = [0, 1].map(|index| {
        resources.routes[0]["virtual_hosts"][0]["routes"][index]["route"]["timeout"].as_str().unwrap()
    });
    assert_eq!(timeouts, ["0s", "5s"]);
}

#[test]
fn another_action_replaces_the_routes_own() {
    let mut resources = gateway_routes();
    let matched = vhost(json!({"route": {"action": "ROUTE", "name": "second"}}));

    let changed = change(
        &mut resources,
        patch("HTTP_ROUTE", matched, "MERGE", json!({"direct_response": {"status": 503}})),
    );

    assert_eq!(changed, Ok(1));
    let route = &resources.routes[0]["virtual_hosts"][0]["routes"][1];
    assert_eq!(
        *route,
        json!({"name": "second", "match": {"prefix": "/"}, "direct_response": {"status": 503}})
    );
}

#[test]
fn port_name_and_gateway_never_match_plain_http() {
    let hits = |configuration: &str, matched: Value| {
        let matched = json!({"context": "GATEWAY", "routeConfiguration": matched});
        let value = json!({"validate_clusters": true});
        change(&mut with_routes(configuration), patch("ROUTE_CONFIGURATION", matched, "MERGE", value)).is_ok()
    };
    const SECURE: &str = "https.8443.https.main.ingress";

    for matched in [json!({"portName": "https"}), json!({"gateway": "ingress/main"})] {
        assert!(!hits("http.8080", matched.clone()), "{matched}");
        assert!(hits(SECURE, matched));
    }
    assert!(!hits(SECURE, json!({"gateway": "default/main"})));
    // The port of the Service, not the target port that is in the name.
    assert!(hits("http.8080", json!({"portNumber": 80})));
    assert!(!hits("http.8080", json!({"portNumber": 8080})));
    assert!(hits("http.8080", json!({"name": "http.8080"})));
}

#[test]
fn sidecars_match_routes_by_name_and_port() {
    let hits = |matched: Value| {
        let matched = json!({"context": "SIDECAR_OUTBOUND", "routeConfiguration": matched});
        let value = json!({"validate_clusters": true});
        let patches = json!([patch("ROUTE_CONFIGURATION", matched, "MERGE", value)]);
        apply_all(&mut with_routes("8080"), &sidecar(), patches)[0].changed > 0
    };

    assert!(hits(json!({"portNumber": 8080})));
    assert!(!hits(json!({"portNumber": 80})));
    assert!(hits(json!({"name": "8080"})));
}

#[test]
fn inline_routes_of_an_inbound_listener_are_inbound() {
    let mut inbound = listener("virtualInbound", 15006);
    inbound["traffic_direction"] = "INBOUND".into();
    let manager = inbound.pointer_mut("/filter_chains/0/filters/0/typed_config").unwrap();
    manager["route_config"] = with_routes("inbound|8080||").routes.remove(0);
    let mut resources = Resources { listeners: vec![inbound], ..Resources::default() };
    let matched = json!({"context": "SIDECAR_INBOUND", "routeConfiguration": {"portNumber": 8080}});

    let outcomes = apply_all(
        &mut resources,
        &sidecar(),
        json!([patch("HTTP_ROUTE", matched, "INSERT_FIRST", route("added"))]),
    );

    assert_eq!(outcomes[0].changed, 2);
}

#[test]
fn virtual_hosts_are_matched_by_name_and_domain() {
    let hits = |matched: Value| {
        let merge =
            patch("VIRTUAL_HOST", vhost(matched), "MERGE", json!({"include_request_attempt_count": true}));
        change(&mut gateway_routes(), merge).unwrap_or(0)
    };

    assert_eq!(hits(json!({})), 2);
    assert_eq!(hits(json!({"name": "games.example.com:80"})), 1);
    assert_eq!(hits(json!({"domainName": "games.example.com"})), 1);
    assert_eq!(hits(json!({"domainName": "*.example.com"})), 0);
}

#[test]
fn removing_and_adding_a_host_of_one_name_removes_both() {
    let mut resources = gateway_routes();
    let host = json!({"name": "games.example.com:80", "domains": ["games.example.com"]});

    apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("VIRTUAL_HOST", vhost(json!({"name": "games.example.com:80"})), "REMOVE", Value::Null),
            patch("VIRTUAL_HOST", json!({}), "ADD", host),
        ]),
    );

    assert_eq!(names(&resources.routes[0]["virtual_hosts"]), ["other.example.com:80"]);
}

#[test]
fn patches_of_routes_act_on_a_replaced_host() {
    let mut resources = gateway_routes();
    let host = json!({"name": "games.example.com:80", "domains": ["*"], "routes": [route("replaced")]});
    let games = vhost(json!({"name": "games.example.com:80"}));

    // Kinds go object by object: the route's patch acts after its host's, although it is written first.
    apply_all(
        &mut resources,
        &gateway(),
        json!([
            patch("HTTP_ROUTE", games.clone(), "ADD", route("added")),
            patch("VIRTUAL_HOST", games, "REPLACE", host),
        ]),
    );

    assert_eq!(route_names(&resources, 0), ["replaced", "added"]);
}
