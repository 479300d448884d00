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
        "guard": "listener",
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
    vm.answer(*token, &json!({"pins": [pin], "cursor": "0", "ttl_ms": 60_000}));
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
fn a_hit_of_a_pin_makes_four_calls_and_takes_no_more_memory() {
    let mut vm = Vm::start(&with_pins(&json!([{"header": "x-session-id"}])));
    pin_alice(&mut vm);
    let mut hit = || {
        let (stream, calls) = vm.request(&ALICE);
        assert_eq!(calls, PLACED);
        assert_eq!(vm.respond(stream, NODES[1], &GOOD), SEEN);
        vm.memory_size()
    };
    let before = hit();
    let after = (0..200).map(|_| hit()).last();
    assert_eq!(Some(before), after);
}

/// The calls of the hits from the second one on, of a request and its response.
fn hits(configuration: &Value, count: usize) -> Vec<Vec<String>> {
    let mut vm = Vm::start(configuration);
    pin_alice(&mut vm);
    let mut hit = |_| {
        let (stream, mut calls) = vm.request(&ALICE);
        calls.extend(vm.respond(stream, NODES[1], &GOOD));
        calls
    };
    (0..count).map(&mut hit).collect()
}

#[test]
fn ends_cost_a_hit_one_call_where_nodes_may_send_them() {
    let mut configuration = with_pins(&json!([{"header": "x-session-id"}]));
    configuration["pools"][0]["end_header"] = true.into();
    let [session, destination] = PLACED;
    let [flags, address] = SEEN;
    let expected = [session, destination, "get_header_map_value x-berth-end", flags, address];
    assert!(hits(&configuration, 100).iter().all(|calls| *calls == expected));
}

#[test]
fn behind_a_listener_one_hit_in_256_pays_for_a_check_of_each_half() {
    let all = hits(&with_pins(&json!([{"header": "x-session-id"}])), 1024);
    let checked = all.iter().filter(|calls| calls.contains(&"get_header_map_pairs".to_owned()));
    assert_eq!(checked.count(), 4);
    assert_eq!(all.iter().filter(|calls| calls.len() == 4).count(), 1020);
    let total: usize = all.iter().map(Vec::len).sum();
    assert!(total <= 4 * 1024 + 4 * 3, "{total}");
}

#[test]
fn where_the_filter_guards_a_hit_makes_four_calls_more() {
    let mut configuration = with_pins(&json!([{"header": "x-session-id"}]));
    configuration["guard"] = "filter".into();
    let [session, destination] = PLACED;
    let [flags, address] = SEEN;
    let remove = |name: &str| format!("remove_header_map_value {name}");
    let [hash_key, notice] = ["x-berth-hash-key", "x-berth-session"].map(remove);
    let [debug, end] = ["x-berth", "x-berth-end"].map(remove);
    let expected =
        [session, &hash_key, &notice, destination, &debug, &end, flags, address].map(str::to_owned);
    assert!(hits(&configuration, 300).iter().all(|calls| *calls == expected));
}

#[test]
fn only_where_ids_are_learned_are_responses_searched_for_them() {
    let look = |learned: Value| {
        let mut vm = Vm::start(&with_pins(&json!([{"header": "x-session-id"}, learned])));
        pin_alice(&mut vm);
        let (stream, calls) = vm.request(&ALICE);
        assert_eq!(calls, PLACED);
        let calls = vm.respond(stream, NODES[1], &GOOD);
        calls.into_iter().filter(|call| !SEEN.contains(&call.as_str())).collect::<Vec<_>>()
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
fn calls_of_requests_that_end_while_they_ask_are_bounded_and_their_tokens_may_come_again() {
    let mut vm = Vm::start(&with_pins(&json!([{"header": "x-session-id"}])));
    vm.fail_calls();
    for round in 0..3 {
        vm.wrap_tokens();
        for number in 0..100 {
            let id = format!("new-{round}-{number}");
            let (stream, _) = vm.request(&[("x-session-id", &id), (":path", "/")]);
            vm.reset(stream);
        }
        // What the streams asked goes on, within the limit of a worker: Envoy answers all of it.
        assert!((1..=64).contains(&vm.under_way()), "{}", vm.under_way());
        vm.fail_calls();
    }
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
    // Without any cookie there is nothing else to look at, but for headers of Berth's own.
    let (_, calls) = vm.request(&[(":path", "/")]);
    assert_eq!(calls, [get, "get_header_map_pairs"]);
}
