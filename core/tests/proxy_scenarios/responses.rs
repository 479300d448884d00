//! What the beginning of a response tells.

use berth_core::decision::Decision;
use berth_core::event::{Counter, Outcome};
use berth_core::passive::{Failure, Kind};
use berth_core::proxy::{Progress, Request, Response, Verdict};
use berth_core::time::Millis;
use serde_json::{Value, json};

use super::fake::{Fake, NODES, answer, counts, decide, ready, routed};

#[test]
fn a_response_of_the_owner_is_a_hit_and_no_evidence_against_it() {
    let mut proxy = ready(Value::Null);
    routed(&mut proxy, "alice", NODES[1]);
    counts(&proxy);
    let (mut request, _) = proxy.handle_request(2, None, &Fake::new(&[("x-session", "alice")]));

    let attributes =
        Fake::default().with("upstream.address", NODES[1]).with("response.flags", 0_u64.to_le_bytes());
    let response = proxy.handle_response(1, &mut request, false, &attributes);

    let node = Some(NODES[1].as_bytes().to_vec());
    assert_eq!(response, Response { node, ..Response::default() });
    assert_eq!(attributes.take_reads(), ["response.flags", "upstream.address"]);
    proxy.handle_gone(2, &mut request);
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Hit), 1)], "counted once");
}

#[test]
fn a_response_of_another_node_is_a_retry_or_another_cluster_s() {
    let successor = |request: &Request| {
        let Some(Decision::Route { placement, .. }) = &request.decision else { panic!("{request:?}") };
        NODES[placement.indexes().nth(1).unwrap()]
    };
    let mut proxy = ready(Value::Null);
    let mut request = routed(&mut proxy, "alice", NODES[1]);
    counts(&proxy);
    let attributes = Fake::default()
        .with("upstream.address", successor(&request))
        .with("response.flags", 0_u64.to_le_bytes())
        .with("upstream.request_attempt_count", 2_u64.to_le_bytes())
        .with("xds.cluster_name", "nodes");

    let response = proxy.handle_response(1, &mut request, false, &attributes);

    let snapshot = proxy.pools[0].snapshot().unwrap();
    let node = snapshot.nodes[1].key_hash;
    let session = request.session.as_ref().unwrap().hash();
    assert_eq!(response.verdicts, [Verdict::Failed(Failure { node, kind: Kind::Hidden, session })]);
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Ring), 1), (Counter::Retried, 1)]);

    let mut request = routed(&mut proxy, "bob", NODES[1]);
    counts(&proxy);
    let attributes = Fake::default()
        .with("upstream.address", "10.9.9.9:80")
        .with("response.flags", 0_u64.to_le_bytes())
        .with("xds.cluster_name", "others");
    let response = proxy.handle_response(1, &mut request, false, &attributes);
    assert!(response.verdicts.is_empty());
    assert_eq!(counts(&proxy), [(Counter::Requests(Outcome::Ring), 1), (Counter::OtherCluster, 1)]);
}

#[test]
fn a_failure_blames_the_node_and_a_strict_client_may_try_again() {
    const CONNECT: u64 = 1 << 5;
    let mut proxy = ready(json!([{"name": "strict", "pool": "nodes", "affinity": "strict"}]));
    let mut request = routed(&mut proxy, "alice", NODES[2]);
    let attributes =
        Fake::default().with("upstream.address", NODES[2]).with("response.flags", CONNECT.to_le_bytes());

    let response = proxy.handle_response(1, &mut request, false, &attributes);

    assert!(response.retry_after);
    let node = proxy.pools[0].snapshot().unwrap().nodes[2].key_hash;
    let session = request.session.as_ref().unwrap().hash();
    assert_eq!(response.verdicts, [Verdict::Failed(Failure { node, kind: Kind::Connect, session })]);
}

/// Envoy's word for the node that it could not reach is that node's address too.
#[test]
fn a_notice_is_repeated_until_its_node_has_answered() {
    const CONNECT: u64 = 1 << 5;
    const RESET: u64 = 1 << 6;
    const NO_HEALTHY_HOST: u64 = 1 << 1;
    for (node, flags, is_repeated) in [
        (Some(NODES[0]), 0, false),
        // It may have begun.
        (Some(NODES[0]), RESET, false),
        (Some(NODES[0]), CONNECT, true),
        (Some(NODES[0]), NO_HEALTHY_HOST, true),
        (Some(NODES[1]), 0, true),
        (None, NO_HEALTHY_HOST, true),
    ] {
        let mut proxy = ready(Value::Null);
        let attributes = Fake::new(&[("x-session", "alice")]);
        let (mut request, _) = proxy.handle_request(1, None, &attributes);
        let mut released = answer(&mut proxy, 1, NODES[0], &json!({"restore": true}));
        proxy.settle(&mut request, released.remove(0).1);
        let is_told = |decision: &Decision| matches!(decision, Decision::Route { notice: Some(_), .. });
        assert!(is_told(request.decision.as_ref().unwrap()));
        assert!(!is_told(&decide(&mut proxy, &attributes)), "while the first request is under way");

        let mut response = Fake::default().with("response.flags", flags.to_le_bytes());
        if let Some(node) = node {
            response = response.with("upstream.address", node);
        }
        proxy.handle_response(1, &mut request, false, &response);

        assert_eq!(is_told(&decide(&mut proxy, &attributes)), is_repeated, "{node:?}, {flags:#x}");
    }
}

/// Its client left. Whether the node has seen the request is not known.
#[test]
fn a_notice_is_repeated_if_its_request_ended_without_an_answer() {
    for has_answer in [false, true] {
        let mut proxy = ready(Value::Null);
        let attributes = Fake::new(&[("x-session", "alice")]);
        let (mut request, _) = proxy.handle_request(1, None, &attributes);
        let mut released = answer(&mut proxy, 1, NODES[0], &json!({"restore": true}));
        proxy.settle(&mut request, released.remove(0).1);
        if has_answer {
            let response = Fake::default().with("response.flags", 0u64.to_le_bytes());
            proxy.handle_response(1, &mut request, false, &response.with("upstream.address", NODES[0]));
        }

        proxy.handle_gone(1, &mut request);

        let next = decide(&mut proxy, &attributes);
        let is_told = matches!(next, Decision::Route { notice: Some(_), .. });
        assert_eq!(is_told, !has_answer);
    }
}

#[test]
fn the_backend_ends_a_session_and_the_next_request_asks() {
    let mut proxy = ready(Value::Null);
    let mut request = routed(&mut proxy, "alice", NODES[1]);

    proxy.handle_end(&mut request, Millis(1_000));

    let (_, progress) = proxy.handle_request(2, None, &Fake::new(&[("x-session", "alice")]));
    assert_eq!(progress, Progress::Waiting);
    assert!(counts(&proxy).contains(&(Counter::Ended, 1)));
}
