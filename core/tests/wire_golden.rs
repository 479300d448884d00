//! The wire format, pinned: each type to its JSON and back. `UPDATE=1 cargo test -p berth-core --test wire_golden`
//! rewrites the files; a changed file is a changed protocol.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use berth_core::health::HealthPolicy;
use berth_core::membership::{HostFlags, Observation};
use berth_core::roster::{FORMAT, Roster};
use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, ChangesReply, Cursor, EndReply, ErrorBody, ErrorReply, Event, Fault, ForgetReply, KnownPin,
    MAX_BODY, MAX_TTL, NodeChange, NodeId, NodeRecord, NodeState, NodesReply, Outcome, Pin, PoolName, Reason,
    ResolveReply, ResolveRequest, SessionAsk, SessionKey, SessionReply, StoreId, TouchReply, TouchRequest,
    TouchedPin,
};
use serde::{Serialize, de::DeserializeOwned};

fn pool() -> PoolName {
    "nodes".parse().unwrap()
}

fn key(id: &str) -> SessionKey {
    SessionKey::new("nodes", id.as_bytes())
}

fn node(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn cursor(text: &str) -> Cursor {
    text.parse().unwrap()
}

/// Writes or compares, then hands back what the file says.
fn golden(file: &str, value: &impl Serialize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/wire").join(file);
    let now = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let then = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now, then, "{file}");
    then
}

fn reply<T: Serialize + DeserializeOwned + PartialEq + Debug>(file: &str, value: &T) {
    let text = golden(file, value);
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{file}");

    // An old reader survives a new service.
    let mut newer: serde_json::Value = serde_json::from_str(&text).unwrap();
    newer["a field of the future"] = 1.into();
    assert_eq!(&serde_json::from_value::<T>(newer).unwrap(), value, "{file}");
}

/// What VMs share: a file that changes is another [`FORMAT`], unless each release reads the other's.
#[test]
fn roster() {
    let policy = HealthPolicy::default();
    let host = |number: usize, name: Option<&str>, unhealthy: bool| Observation {
        address: format!("10.0.0.{number}:80"),
        name: name.map(str::to_owned),
        weight: 1,
        flags: HostFlags { unhealthy, ..HostFlags::default() },
        ..Observation::default()
    };
    let mut roster = Roster::default();
    let names = [Some("db-0"), Some("db-1"), Some("db-2"), Some("db-3")];
    roster.observe((0..).zip(names).map(|(n, name)| host(n, name, false)).collect(), &policy, Millis(1_000));
    roster.observe(vec![host(0, None, true), host(4, names[1], true)], &policy, Millis(2_000));

    let text = golden(&format!("roster-{FORMAT}.json"), &roster);

    assert_eq!(Roster::decode(text.as_bytes()), Some(roster));
}

#[test]
fn resolve_request() {
    let request = ResolveRequest {
        pool: pool(),
        region: Some("eu-west".parse().unwrap()),
        panic: true,
        correlation_id: Some("5f3a-11".into()),
        sessions: vec![
            SessionAsk::new(
                key("alice"),
                vec![node("10.0.0.1:8080"), node("[::1]:8080")],
                vec![node("10.0.0.3:8080")],
            ),
            SessionAsk::new(key("bob"), vec![node("10.0.0.1:8080")], vec![]),
        ],
    };
    let text = golden("resolve-request.json", &request);
    assert_eq!(ResolveRequest::parse(text.as_bytes()), Ok(request));
}

#[test]
fn resolve_request_of_a_rotated_session() {
    let bob = SessionAsk::new(key("bob"), vec![node("10.0.0.1:8080")], vec![]);
    let request = ResolveRequest {
        pool: pool(),
        region: None,
        panic: false,
        correlation_id: None,
        sessions: vec![SessionAsk {
            ttl_ms: Some(900_000),
            claim_ttl_ms: Some(60_000),
            strict: true,
            ends_ms: Some(1_767_229_200_000),
            created_ms: Some(1_767_225_600_000),
            session_version: Some(3),
            alias_of: Some(key("alice")),
            known: Some(KnownPin { version: 1_795_834_567_123_456, node: node("10.0.0.1:8080") }),
            renew: true,
            ..bob
        }],
    };
    let text = golden("resolve-rotated-request.json", &request);
    assert_eq!(ResolveRequest::parse(text.as_bytes()), Ok(request));
}

fn pin(id: &str, outcome: Outcome) -> Pin {
    Pin {
        key: key(id),
        node: node("10.0.0.1:8080"),
        version: 1,
        outcome,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: None,
        session_version: None,
        owned_ms: None,
    }
}

#[test]
fn resolve_reply() {
    let rehomed = Pin {
        version: 2,
        from: Some(node("10.0.0.3:8080")),
        durable: Some(true),
        owned_ms: Some(0),
        ..pin("alice", Outcome::Rehomed)
    };
    let restored = Pin {
        restore: true,
        owned_ms: Some(61_000),
        node: node("envoy://nodes/3"),
        ..pin("carol", Outcome::Found)
    };
    let pins = vec![rehomed, pin("bob", Outcome::Claimed), restored];
    reply(
        "resolve-reply.json",
        &ResolveReply { pins, cursor: cursor("0~lq3x9k2a-0.7~lq3x9k31-2"), ttl_ms: 1_800_000, store: None },
    );
}

#[test]
fn resolve_reply_of_a_rotated_session() {
    let inherited =
        Pin { version: 2, ttl_ms: Some(900_000), session_version: Some(3), ..pin("bob", Outcome::Found) };
    reply(
        "resolve-rotated-reply.json",
        &ResolveReply {
            pins: vec![inherited],
            cursor: cursor("7~lq3x9k31-2"),
            ttl_ms: 1_800_000,
            store: Some(StoreId::new("6f1d0c2b9a8e7d65")),
        },
    );
}

#[test]
fn touch() {
    let request = TouchRequest { pool: pool(), keys: vec![key("alice"), key("bob")], pins: Vec::new() };
    let text = golden("touch-request.json", &request);
    assert_eq!(TouchRequest::parse(text.as_bytes()), Ok(request));

    let known = KnownPin { version: 1_795_834_567_123_456, node: node("10.0.0.1:8080") };
    let pins = vec![TouchedPin { key: key("alice"), known, lives_ms: Some(1_200_000) }];
    let request = TouchRequest { pool: pool(), keys: vec![key("bob")], pins };
    let text = golden("touch-known-request.json", &request);
    assert_eq!(TouchRequest::parse(text.as_bytes()), Ok(request));

    let touched = TouchReply {
        touched: 1,
        missing: vec![key("bob")],
        changed: Vec::new(),
        written: Vec::new(),
        ttl_ms: 1_800_000,
        ttls_ms: BTreeMap::new(),
        store: None,
        unanswered: vec![],
    };
    reply("touch-reply.json", &touched);
    let ttls_ms = BTreeMap::from([(key("alice"), 900_000)]);
    reply("touch-ttls-reply.json", &TouchReply { ttls_ms, ..touched.clone() });
    let store = Some(StoreId::new("6f1d0c2b9a8e7d65"));
    let (changed, written) = (vec![key("alice")], vec![key("carol")]);
    reply("touch-known-reply.json", &TouchReply { changed, written, store, ..touched });
}

fn draining() -> NodeRecord {
    NodeRecord {
        node: node("10.0.0.3:8080"),
        state: NodeState::Draining,
        operator_state: Some(NodeState::Standby),
        self_state: Some(NodeState::Draining),
        weight: Some(2),
        boot_id: Some("2026-01-01T00:00:00Z".into()),
        note: Some("new kernel".into()),
        cooldown_until_ms: Some(1_767_225_630_000),
        version: 3,
        updated_ms: 1_767_225_600_000,
        forgotten: false,
    }
}

fn rehomed() -> Event {
    Event {
        cursor: cursor("7~lq3x9k31-2"),
        kind: ChangeKind::Rehomed,
        key: Some(key("alice")),
        node: Some(node("10.0.0.1:8080")),
        from: Some(node("10.0.0.3:8080")),
        version: Some(2),
        reason: Reason::Unusable,
        time_ms: 1_767_225_600_123,
        correlation_id: Some("5f3a-11".into()),
        session_version: None,
        record: None,
    }
}

#[test]
fn changes_reply() {
    let ended = Event {
        cursor: cursor("2~lq3x9k31-0"),
        kind: ChangeKind::Ended,
        from: None,
        reason: Reason::Deleted,
        correlation_id: None,
        ..rehomed()
    };
    let changed = Event {
        cursor: cursor("0~lq3x9k2a-0"),
        kind: ChangeKind::Node,
        key: None,
        node: Some(node("10.0.0.3:8080")),
        from: None,
        version: Some(3),
        reason: Reason::Updated,
        record: Some(draining()),
        ..rehomed()
    };
    let events = vec![rehomed(), ended, changed];
    let cursor = cursor("0~lq3x9k2a-0.2~lq3x9k31-0.7~lq3x9k31-2");
    let now_ms = Some(1_767_225_610_000);
    reply("changes-reply.json", &ChangesReply { cursor: cursor.clone(), resync: false, events, now_ms });
    let resync = ChangesReply { cursor, resync: true, events: vec![], now_ms: None };
    reply("changes-resync-reply.json", &resync);
}

#[test]
fn changes_reply_of_a_raised_session() {
    let raised = Event {
        kind: ChangeKind::Superseded,
        from: None,
        reason: Reason::Raised,
        session_version: Some(3),
        ..rehomed()
    };
    let rotated = Event { cursor: cursor("7~lq3x9k31-3"), reason: Reason::Rotated, ..raised.clone() };
    reply(
        "changes-raised-reply.json",
        &ChangesReply {
            cursor: cursor("7~lq3x9k31-3"),
            resync: false,
            events: vec![raised, rotated],
            now_ms: None,
        },
    );
}

#[test]
fn words_are_those_of_the_wire() {
    for kind in [ChangeKind::Rehomed, ChangeKind::Ended, ChangeKind::Superseded, ChangeKind::Node] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    let reasons = [Reason::Unusable, Reason::Cooldown, Reason::Deleted, Reason::Updated];
    for reason in reasons.into_iter().chain([Reason::Raised, Reason::Rotated]) {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
}

#[test]
fn kinds_of_the_future_are_skipped() {
    let text = r#"{"cursor":"a","kind":"migrated","reason":"balance","time_ms":1}"#;
    let event: Event = serde_json::from_str(text).unwrap();
    assert_eq!((event.kind, event.reason), (ChangeKind::Unknown, Reason::Unknown));
}

#[test]
fn nodes() {
    let change = NodeChange {
        state: Some(NodeState::Standby),
        self_state: Some(NodeState::Draining),
        weight: Some(2),
        boot_id: Some("2026-01-01T00:00:00Z".into()),
        note: Some("new kernel".into()),
        cooldown_until_ms: Some(1_767_225_630_000),
        cooldown_ms: Some(30_000),
        correlation_id: Some("5f3a-11".into()),
    };
    let text = golden("node-change.json", &change);
    assert_eq!(NodeChange::parse(text.as_bytes()), Ok(change));

    let forgotten = draining().without_all(1_767_225_660_000).unwrap();
    let forgotten = NodeRecord { node: node("10.0.0.4:8080"), ..forgotten };
    reply(
        "nodes-reply.json",
        &NodesReply {
            nodes: vec![NodeRecord::unknown(node("10.0.0.1:8080")), draining(), forgotten],
            now_ms: Some(1_767_225_610_000),
        },
    );
    reply("forget-reply.json", &ForgetReply { forgotten: true, durable: None });
}

#[test]
fn sessions() {
    let session = SessionReply {
        pool: pool(),
        key: key("alice"),
        node: node("10.0.0.1:8080"),
        version: 2,
        age_ms: 61_000,
        owned_ms: 1_000,
        ttl_ms: 1_799_000,
        idle_ttl_ms: None,
        ends_ms: None,
        created_ms: None,
        session_version: None,
        alias_of: None,
        owner: NodeRecord::unknown(node("10.0.0.1:8080")),
        events: vec![rehomed()],
    };
    reply("session-reply.json", &session);
    let rotated = SessionReply {
        ttl_ms: 899_000,
        idle_ttl_ms: Some(900_000),
        ends_ms: Some(1_767_229_200_000),
        created_ms: Some(1_767_225_600_000),
        session_version: Some(3),
        alias_of: Some(key("bob")),
        events: vec![],
        ..session
    };
    reply("session-rotated-reply.json", &rotated);
    reply("end-reply.json", &EndReply { ended: true, durable: None });
}

#[test]
fn errors() {
    let fault = Fault { path: "sessions[0].key".into(), message: "is missing".into() };
    let error = ErrorBody {
        code: "invalid_request".into(),
        message: "1 fault".into(),
        faults: vec![fault],
        durable: None,
    };
    reply("error-reply.json", &ErrorReply { error });
}

fn paths(result: Result<ResolveRequest, Vec<Fault>>) -> Vec<String> {
    result.unwrap_err().into_iter().map(|fault| fault.path).collect()
}

#[test]
fn every_fault_of_a_request_is_named() {
    let text = r#"{"pool": "a b", "regoin": "eu", "panic": 1, "sessions": [
        {"key": "00", "candidates": [], "unusable": ["x|y"]},
        {"candidates": ["10.0.0.1:1", "10.0.0.1:1", 7], "more": 1},
        {"key": "00000000000000000000000000000000", "candidates": ["10.0.0.1:1"], "ttl_ms": 999, "claim_ttl_ms": 999, "ends_ms": -1,
         "created_ms": "now", "session_version": 4294967296, "alias_of": "00000000000000000000000000000000"},
        {"candidates": ["10.0.0.1:1"], "ttl_ms": 2592000001, "ends_ms": 9007199254740993, "alias_of": "alice"},
        5
    ]}"#;

    let faults = paths(ResolveRequest::parse(text.as_bytes()));

    let expected = [
        "pool",
        "panic",
        "sessions[0].key",
        "sessions[0].candidates",
        "sessions[0].unusable[0]",
        "sessions[1].key",
        "sessions[1].candidates[1]",
        "sessions[1].candidates[2]",
        "sessions[1].more",
        "sessions[2].ttl_ms",
        "sessions[2].claim_ttl_ms",
        "sessions[2].ends_ms",
        "sessions[2].created_ms",
        "sessions[2].session_version",
        "sessions[2].alias_of",
        "sessions[3].key",
        "sessions[3].ttl_ms",
        "sessions[3].ends_ms",
        "sessions[3].alias_of",
        "sessions[4]",
        "regoin",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn what_is_not_a_request_is_refused() {
    for text in ["", "null", "[]", "{}", "{\"pool\":\"a\",\"sessions\":[]}", "\u{0}", &"[".repeat(100_000)] {
        assert!(ResolveRequest::parse(text.as_bytes()).is_err(), "{text}");
        assert!(TouchRequest::parse(text.as_bytes()).is_err(), "{text}");
    }
    for text in [
        r#"{"state":"up"}"#,
        r#"{"weight":0}"#,
        r#"{"boot_id":"a|b"}"#,
        r#"{"note":"a\nb"}"#,
        r#"{"cooldown_until_ms":-1}"#,
        r#"{"cooldown_ms":-1}"#,
        r#"{"cooldown_ms":3600001}"#,
    ] {
        assert_eq!(NodeChange::parse(text.as_bytes()).unwrap_err().len(), 1, "{text}");
    }
}

#[test]
fn twice_the_same_session_is_a_fault() {
    let ask = SessionAsk::new(key("alice"), vec![node("10.0.0.1:1")], vec![]);
    let request = ResolveRequest {
        pool: pool(),
        region: None,
        panic: false,
        correlation_id: None,
        sessions: vec![ask.clone(), ask],
    };
    assert_eq!(paths(ResolveRequest::parse(&serde_json::to_vec(&request).unwrap())), ["sessions[1]"]);
}

#[test]
fn the_list_of_faults_is_bounded() {
    let text = format!(r#"{{"pool":"a","keys":[{}1]}}"#, "1,".repeat(1000));
    assert_eq!(TouchRequest::parse(text.as_bytes()).unwrap_err().len(), 65);
}

#[test]
fn the_largest_requests_fit_a_body() {
    let nodes = |most: u16| {
        (1..=most).map(|port| node(&format!("[1111:2222:3333:4444:5555:6666:7777:8888]:6{port:04}")))
    };
    let sessions = (0..256)
        .map(|i| SessionAsk {
            ttl_ms: Some(MAX_TTL),
            claim_ttl_ms: Some(MAX_TTL),
            ends_ms: Some(1 << 53),
            created_ms: Some(1 << 53),
            session_version: Some(u32::MAX),
            alias_of: Some(key("alias")),
            ..SessionAsk::new(key(&i.to_string()), nodes(8).collect(), nodes(64).collect())
        })
        .collect();
    let request = ResolveRequest {
        pool: "p".repeat(128).parse().unwrap(),
        region: None,
        panic: true,
        correlation_id: Some("c".repeat(128)),
        sessions,
    };
    let text = serde_json::to_vec(&request).unwrap();
    assert!(text.len() < MAX_BODY, "{}", text.len());
    assert_eq!(ResolveRequest::parse(&text), Ok(request));
}
