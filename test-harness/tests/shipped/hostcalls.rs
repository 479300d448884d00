//! What requests cost in calls to Envoy, each of which copies and most of which look something up. A new one on the way of a
//! hit shows here, and needs a reason.

use serde_json::{Value, json};

use crate::host::Vm;

const NODES: [&str; 2] = ["10.0.0.1:80", "10.0.0.2:80"];
const ALICE: [(&str, &str); 2] = [("x-session-id", "alice"), (":path", "/")];
const GOOD: [(&str, &str); 1] = [(":status", "200")];

/// Of a request that names its session.
const PLACED: [&str; 2] =
    ["get_header_map_value x-session-id", "replace_header_map_value x-berth-destination"];
/// Of a response: which node answered, and whether one failed.
const SEEN: [&str; 2] = ["get_property response.flags", "get_property upstream.address"];

fn ring_only(sources: &Value) -> Value {
    json!({
        "v": 1,
        "admin_cluster": "berth_admin",
        "pools": [{"name": "nodes", "members": NODES, "session": {"sources": sources}}],
    })
}

fn with_pins(sources: &Value) -> Value {
    let mut configuration = ring_only(sources);
    configuration["state"] = json!({"cluster": "berth_state"});
    configuration
}

/// Has alice's session pinned to the second node, by a first request.
fn pin_alice(vm: &mut Vm) {
    vm.sent();
    let (first, _) = vm.request(&ALICE);
    let asked = vm.sent();
    let [(token, path, body)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(path, "/v1/resolve");
    let pin =
        json!({"key": body["sessions"][0]["key"], "node": NODES[1], "version": 1, "outcome": "claimed"});
    vm.answer(&first, *token, &json!({"pins": [pin], "cursor": "0", "ttl_ms": 60_000}));
    vm.respond(first, NODES[1], &GOOD);
}

#[test]
fn a_hit_of_the_ring_makes_four_calls() {
    let mut vm = Vm::start(&ring_only(&json!([{"header": "x-session-id"}])));
    let (stream, calls) = vm.request(&ALICE);
    assert_eq!(calls, PLACED);
    let destination = vm.header("x-berth-destination").unwrap().to_owned();
    assert!(NODES.iter().all(|node| destination.contains(node)), "{destination}");
    assert_eq!(vm.respond(stream, &destination, &GOOD), SEEN);
}

#[test]
fn a_hit_of_a_pin_makes_five_calls_and_takes_no_more_memory() {
    let mut vm = Vm::start(&with_pins(&json!([{"header": "x-session-id"}])));
    pin_alice(&mut vm);
    let mut hit = || {
        let (stream, calls) = vm.request(&ALICE);
        assert_eq!(calls, PLACED);
        // A node may say that it ended the session.
        let [flags, address] = SEEN;
        let calls = vm.respond(stream, NODES[1], &GOOD);
        assert_eq!(calls, ["get_header_map_value x-berth-end", flags, address]);
        vm.memory_size()
    };
    let before = hit();
    let after = (0..500).map(|_| hit()).last();
    assert_eq!(Some(before), after);
}

#[test]
fn only_where_ids_are_learned_are_responses_searched_for_them() {
    let look = |learned: Value| {
        let mut vm = Vm::start(&with_pins(&json!([{"header": "x-session-id"}, learned])));
        pin_alice(&mut vm);
        let (stream, calls) = vm.request(&ALICE);
        assert_eq!(calls, PLACED);
        let calls = vm.respond(stream, NODES[1], &GOOD);
        calls.into_iter().filter(|call| !SEEN.contains(&call.as_str())).skip(1).collect::<Vec<_>>()
    };
    assert!(look(json!({"header": "mcp-session-id"})).is_empty());
    assert_eq!(
        look(json!({"header": "mcp-session-id", "learn": true})),
        ["get_header_map_value mcp-session-id"]
    );
    // There may be several lines, and the SDK gives the first only.
    assert_eq!(look(json!({"cookie": "sid", "learn": true})), ["get_header_map_pairs"]);
}

#[test]
fn further_lines_of_a_header_are_read_only_if_the_first_has_no_id() {
    let mut vm = Vm::start(&ring_only(&json!([{"cookie": "sid"}])));
    let get = "get_header_map_value cookie";
    let set = "replace_header_map_value x-berth-destination";
    let (_, calls) = vm.request(&[("cookie", "a=b; sid=alice"), ("cookie", "c=d")]);
    assert_eq!(calls, [get, set]);
    let (_, calls) = vm.request(&[("cookie", "c=d"), ("cookie", "sid=alice")]);
    assert_eq!(calls, [get, "get_header_map_pairs", set]);
    // Without any cookie there is nothing else to look at.
    let (_, calls) = vm.request(&[(":path", "/")]);
    assert_eq!(calls[0], get);
    assert!(!calls.contains(&"get_header_map_pairs".to_owned()), "{calls:?}");
}
