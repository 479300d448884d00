//! Ids that nodes mint, from the response to the next request.

use berth_core::affinity::Caller;
use berth_core::decision::Decision;
use berth_core::event::{Counter, Learned, Outcome};
use berth_core::proxy::{Proxy, Request, Response};
use serde_json::{Value, json};

use super::fake::{Fake, NODES, NOW, answer, counts, decide, of, owner, ready, routed, see_members};

/// A pool whose nodes mint ids in a header and in a cookie.
fn minting(rules: Value) -> Proxy {
    let mut config = json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [
                {"header": "mcp-session-id", "learn": true},
                {"cookie": "sid", "learn": true}
            ]},
        }],
    });
    if !rules.is_null() {
        config["rules"] = rules;
    }
    let mut proxy = of(&config);
    see_members(&mut proxy);
    proxy
}

/// A response of this node with these headers.
fn response_of(node: &str, headers: &[(&str, &str)]) -> Fake {
    Fake::new(headers).with("upstream.address", node)
}

/// What the response to a request with these headers leads to.
fn respond(proxy: &mut Proxy, request: &[(&str, &str)], response: &Fake) -> (Request, Response) {
    let (mut request, _) = proxy.handle_request(5, None, &Fake::new(request));
    let response = proxy.handle_response(5, &mut request, false, response);
    (request, response)
}

fn call(proxy: &mut Proxy) -> Option<Value> {
    let engine = proxy.pools[0].engine.as_mut().unwrap();
    let call = engine.poll_call(Caller::Root, NOW)?;
    serde_json::from_slice(&call.request.body).ok()
}

#[test]
fn a_minted_id_is_claimed_for_the_node_that_answered() {
    for headers in [[("mcp-session-id", "abc")], [("set-cookie", "sid=abc; Path=/; HttpOnly")]] {
        let mut proxy = minting(Value::Null);
        let (_, response) = respond(&mut proxy, &[], &response_of(NODES[2], &headers));
        assert!(response.waits);

        answer(&mut proxy, 5, NODES[2], &json!({"outcome": "claimed"}));

        assert!(counts(&proxy).contains(&(Counter::Learned(Learned::Pinned), 1)));
        let decision = decide(&mut proxy, &Fake::new(&[("mcp-session-id", "abc")]));
        assert_eq!(owner(&decision), NODES[2]);
        let Decision::Route { placement, .. } = decision else { panic!() };
        assert_eq!(placement.outcome, Outcome::Hit);
    }
}

#[test]
fn an_id_that_the_request_had_costs_nothing() {
    let mut proxy = minting(Value::Null);
    respond(&mut proxy, &[], &response_of(NODES[2], &[("mcp-session-id", "abc")]));
    answer(&mut proxy, 5, NODES[2], &json!({"outcome": "claimed"}));

    let response = response_of(NODES[2], &[("mcp-session-id", "abc")]).with("response.flags", [0; 8]);
    let (_, seen) = respond(&mut proxy, &[("mcp-session-id", "abc")], &response);

    assert!(!seen.waits);
    assert_eq!(response.take_reads(), ["response.flags", "upstream.address", "response mcp-session-id"]);
    assert_eq!(call(&mut proxy), None);
}

#[test]
fn a_session_may_get_a_new_id_and_keeps_the_former_one() {
    let mut proxy = minting(Value::Null);
    respond(&mut proxy, &[], &response_of(NODES[2], &[("set-cookie", "sid=anonymous")]));
    answer(&mut proxy, 5, NODES[2], &json!({"outcome": "claimed"}));

    let login = response_of(NODES[2], &[("set-cookie", "sid=alice; Path=/")]);
    let (_, response) = respond(&mut proxy, &[("cookie", "sid=anonymous")], &login);
    assert!(response.waits);
    answer(&mut proxy, 5, NODES[2], &json!({"outcome": "claimed"}));

    for id in ["sid=anonymous", "sid=alice"] {
        assert_eq!(owner(&decide(&mut proxy, &Fake::new(&[("cookie", id)]))), NODES[2], "{id}");
    }
    let logout = response_of(NODES[2], &[("set-cookie", "sid=; Max-Age=0; Path=/")]);
    let (_, response) = respond(&mut proxy, &[("cookie", "sid=alice")], &logout);
    assert!(!response.waits);
}

#[test]
fn only_nodes_of_the_pool_begin_sessions() {
    let mut proxy = minting(Value::Null);
    for response in [
        response_of("10.9.9.9:80", &[("mcp-session-id", "abc")]).with("xds.cluster_name", "others"),
        Fake::new(&[("mcp-session-id", "abc")]),
    ] {
        let (_, seen) = respond(&mut proxy, &[], &response);

        assert!(!seen.waits);
        assert_eq!(call(&mut proxy), None);
    }
}

#[test]
fn what_berth_does_not_place_it_does_not_learn() {
    for rule in [
        json!({"name": "all", "pool": "nodes", "affinity": "off"}),
        json!({"name": "all", "pool": "nodes", "rollout": {"mode": "observe"}}),
        json!({"name": "all", "pool": "nodes", "rollout": {"percent": 0}}),
        json!({"name": "all", "pool": "nodes", "match": {"path_prefixes": ["/elsewhere"]}}),
    ] {
        let mut proxy = minting(json!([rule]));
        let (_, response) = respond(&mut proxy, &[], &response_of(NODES[2], &[("mcp-session-id", "abc")]));

        assert!(!response.waits, "{rule}");
        assert_eq!(call(&mut proxy), None, "{rule}");
    }
}

#[test]
fn a_pool_without_minted_ids_asks_nothing_more_of_a_response() {
    let mut proxy = ready(Value::Null);
    routed(&mut proxy, "alice", NODES[1]);
    let response = response_of(NODES[1], &[("x-session", "bob"), ("set-cookie", "sid=bob")])
        .with("response.flags", [0; 8]);

    respond(&mut proxy, &[("x-session", "alice")], &response);

    assert_eq!(response.take_reads(), ["response.flags", "upstream.address"]);
}

#[test]
fn a_request_that_ends_takes_its_new_session_out_of_use() {
    let mut proxy = minting(Value::Null);
    let (mut request, _) = respond(&mut proxy, &[], &response_of(NODES[2], &[("mcp-session-id", "abc")]));

    proxy.handle_gone(5, &mut request);

    assert!(!proxy.has_waiters(), "it waits for nothing that was not asked yet");
}
