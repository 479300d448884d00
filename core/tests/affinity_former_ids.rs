//! A header names a session's former id. Clients can forge it, so it must not make another session's tokens old ones.

mod support;

use std::rc::Rc;

use berth_core::affinity::{Affinity, AffinityConfig, Caller, Request, Terms};
use berth_core::config::Config;
use berth_core::decision::PoolPolicy;
use berth_core::membership::Observation;
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::SessionKey;

use support::attributes::Headers;

/// Mallory shows a token of a high version, waits until her pin is past its time, and comes back without the token.
#[test]
fn a_former_id_by_a_header_never_goes_with_a_version_that_is_known_here() {
    let json = br#"{"v": 1, "state": {"cluster": "s"}, "pools": [{"name": "nodes", "cluster": "nodes",
        "session": {"sources": [{"header": "x-session"}], "previous_header": "x-former"}}]}"#;
    let config = Config::parse(json).unwrap();
    let pool = &config.pools[0];
    let state = Rc::new(config.state.clone().unwrap());
    let policy = PoolPolicy::of(pool);
    let engine =
        AffinityConfig { pool: "nodes".parse().unwrap(), state, policy, max_calls: 8, shortest_ttl: None };
    let mut engine = Affinity::new(engine, 7);
    let mut roster = Roster::default();
    let host = Observation { address: "10.0.0.1:80".to_owned(), weight: 1, ..Observation::default() };
    roster.observe(vec![host], &pool.health, Millis(1));
    let snapshot = Snapshot::build(&roster, pool.algorithm, &pool.health, Millis(1), None).unwrap();
    engine.handle_snapshot(Rc::new(snapshot), Millis(1));
    let id = SessionId::new(b"mallory".to_vec()).unwrap();
    let terms = |version| Terms {
        session: Rc::clone(&pool.session),
        is_strict: false,
        ends: None,
        created: None,
        version,
        previous: None,
        is_issued: false,
    };
    let ask = |engine: &mut Affinity, stream, version, now| {
        let terms = terms(version);
        let request = Request { stream, id: &id, terms: &terms, has_waited: false };
        let _ = engine.handle_request(&request, Millis(now), &Headers(&[("x-former", "ada")], Millis(now)));
        let call = engine.poll_call(Caller::Root, Millis(now)).unwrap();
        engine.call_started(call.id, stream, Caller::Root, Millis(now));
        String::from_utf8(call.request.body).unwrap()
    };

    let first = ask(&mut engine, 1, Some(9_999), 1_000);
    let key = SessionKey::new("nodes", b"mallory");
    let pin = format!(r#"{{"key":"{key}","node":"10.0.0.1:80","version":1,"outcome":"claimed"}}"#);
    let reply = format!(r#"{{"pins":[{pin}],"cursor":"c","ttl_ms":4000}}"#);
    assert!(engine.handle_reply(1, Ok(reply.as_bytes()), Millis(1_001)));
    while engine.poll_release(Millis(1_001)).is_some() {
        engine.released(true);
    }
    let without_token = ask(&mut engine, 2, None, 10_000);

    assert!(!first.contains("alias_of"), "{first}");
    assert!(without_token.contains(r#""session_version":9999"#), "{without_token}");
    assert!(!without_token.contains("alias_of"), "{without_token}");
}
