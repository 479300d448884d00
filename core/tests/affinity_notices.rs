//! What a node has to know of a session reaches it, whichever request is there to carry it.

use std::rc::Rc;

use berth_core::affinity::{Admission, Affinity, AffinityConfig, Caller, Request, Terms};
use berth_core::attributes::Attributes;
use berth_core::config::{Config, StateCluster};
use berth_core::decision::{Decision, Notice, PoolPolicy};
use berth_core::membership::Observation;
use berth_core::roster::Roster;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{NodeRecord, SessionKey};

struct Nothing(Millis);

impl Attributes for Nothing {
    fn header(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn property(&self, _path: &[&str]) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> Millis {
        self.0
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _provider: usize, _now: Millis) -> bool {
        false
    }
}

fn at(millis: u64) -> Millis {
    Millis(1_000_000 + millis)
}

/// A session's node vanishes with others, is restarted and comes back. The request that asked is gone by the time of the
/// answer that says so: the next one tells the node.
#[test]
fn a_restart_is_told_though_the_session_was_elsewhere_and_the_asking_request_is_gone() {
    let json = br#"{"v": 1, "state": {"cluster": "s"}, "pools": [{"name": "nodes", "cluster": "nodes",
        "session": {"sources": [{"header": "x-session"}]}, "health": {"warm_up": "0s"}}]}"#;
    let config = Config::parse(json).unwrap();
    let pool = &config.pools[0];
    let state: Rc<StateCluster> = Rc::new(config.state.clone().unwrap());
    let policy = PoolPolicy::of(pool);
    let engine =
        AffinityConfig { pool: "nodes".parse().unwrap(), state, policy, max_calls: 8, shortest_ttl: None };
    let mut engine = Affinity::new(engine, 7);
    let mut roster = Roster::default();
    let host = |number: usize| Observation {
        address: format!("10.0.0.{number}:80"),
        weight: 1,
        ..Observation::default()
    };
    let view = |roster: &Roster, now| {
        Rc::new(Snapshot::build(roster, pool.algorithm, &pool.health, now, None).unwrap())
    };
    let id = SessionId::new(b"alice".to_vec()).unwrap();
    let terms = Terms {
        session: Rc::clone(&pool.session),
        is_strict: false,
        ends: None,
        created: None,
        version: None,
        previous: None,
    };
    let key = SessionKey::new("nodes", b"alice");
    let reply = |restore: bool| {
        let pin = format!(
            r#"{{"key":"{key}","node":"10.0.0.1:80","version":1,"outcome":"found","restore":{restore}}}"#
        );
        format!(r#"{{"pins":[{pin}],"cursor":"c","ttl_ms":1800000}}"#)
    };
    let ask = |engine: &mut Affinity, stream, now| {
        let request = Request { stream, id: &id, terms: &terms, has_waited: false };
        engine.handle_request(&request, now, &Nothing(now))
    };
    let call = |engine: &mut Affinity, token, now| {
        let call = engine.poll_call(Caller::Root, now).unwrap();
        engine.call_started(call.id, token, Caller::Root, now);
    };

    // Given: it lives at a node that vanishes with most of the others, and is served elsewhere meanwhile.
    roster.observe((1..=4).map(host).collect(), &pool.health, at(0));
    engine.handle_snapshot(view(&roster, at(0)), at(0));
    let (_, seat) = ask(&mut engine, 1, at(0));
    call(&mut engine, 1, at(0));
    assert!(engine.handle_reply(1, Ok(reply(false).as_bytes()), at(1)));
    assert!(engine.poll_release(at(1)).is_some());
    engine.released(true);
    engine.handle_gone(1, seat);
    roster.observe(vec![host(4)], &pool.health, at(60_000));
    engine.handle_snapshot(view(&roster, at(60_000)), at(60_000));
    let (admission, seat) = ask(&mut engine, 2, at(60_000));
    assert!(matches!(admission, Admission::Decided(Decision::Route { .. })));
    engine.handle_gone(2, seat);

    // When: the node is back, was restarted, and the request that asks leaves before the answer.
    roster.observe((1..=4).map(host).collect(), &pool.health, at(62_000));
    let node = "10.0.0.1:80".parse().unwrap();
    let record = NodeRecord { boot_id: Some("b".to_owned()), version: 1, ..NodeRecord::unknown(node) };
    roster.record(&[record], &pool.health, at(62_000));
    engine.handle_snapshot(view(&roster, at(62_000)), at(62_000));
    let (admission, seat) = ask(&mut engine, 3, at(62_000));
    assert_eq!(admission, Admission::Wait);
    call(&mut engine, 2, at(62_000));
    engine.handle_gone(3, seat);
    assert!(engine.handle_reply(2, Ok(reply(true).as_bytes()), at(62_001)));
    assert!(engine.poll_release(at(62_001)).is_none());

    // Then: the next one tells the node.
    let (admission, _) = ask(&mut engine, 4, at(62_002));
    let Admission::Decided(Decision::Route { notice, .. }) = admission else { panic!("{admission:?}") };
    assert_eq!(notice, Some(Notice::Restore { version: 1 }));
}
