//! Ids that Berth issues: where their sessions begin, and how long their cookies and pins live.

use std::cell::Cell;
use std::collections::BTreeSet;

use berth_core::affinity::Caller;
use berth_core::decision::Decision;
use berth_core::membership::{HostFlags, Observation};
use berth_core::proxy::{Progress, Proxy, Request};
use berth_core::time::Millis;
use serde_json::{Value, json};

use super::fake::{Fake, NODES, NOW, answer, of, see_members};

const COOKIE: &str = "sid";

/// A pool that issues a cookie with these further settings.
fn issuing(state: &Value, ring: &Value, cookie: &Value) -> Proxy {
    let mut issued = json!({"name": COOKIE});
    issued.as_object_mut().unwrap().extend(cookie.as_object().cloned().unwrap_or_default());
    of(&json!({
        "v": 1,
        "state": state,
        "pools": [{
            "name": "nodes", "cluster": "nodes", "ring": ring,
            "session": {
                "sources": [{"header": "x-session"}, {"cookie": COOKIE}],
                "missing": {"issue_cookie": issued}
            },
            "health": {"warm_up": "0s"}
        }]
    }))
}

/// By the ring alone.
fn ring_only() -> Proxy {
    let mut proxy = issuing(&Value::Null, &Value::Null, &Value::Null);
    see_members(&mut proxy);
    proxy
}

/// A first request on this connection; each that is `drawn` has its own randomness.
fn first(connection: u64, drawn: u64, later: u64) -> Fake {
    let fake = Fake::default().with("connection.id", connection.to_le_bytes());
    Fake { drawn: Cell::new(drawn << 32), later: Millis(later), ..fake }
}

fn begin(proxy: &mut Proxy, attributes: &Fake) -> (String, String) {
    let (request, progress) = proxy.handle_request(1, None, attributes);
    assert_eq!(progress, Progress::Decided);
    (id(&request), node(&request))
}

fn id(request: &Request) -> String {
    String::from_utf8(request.session.as_ref().unwrap().as_bytes().to_vec()).unwrap()
}

fn node(request: &Request) -> String {
    let Some(Decision::Route { placement, .. }) = &request.decision else { panic!("{request:?}") };
    let snapshot = request.snapshot.as_ref().unwrap();
    snapshot.nodes[placement.owner().unwrap()].name.clone()
}

fn see(proxy: &mut Proxy, hosts: Vec<Observation>, now: Millis) {
    let pool = &mut proxy.pools[0];
    let mut roster = pool.roster().clone();
    roster.observe(hosts, &pool.config.health, now);
    pool.adopt(roster, now).unwrap();
}

fn host(address: &str) -> Observation {
    Observation { address: address.to_owned(), weight: 1, ..Observation::default() }
}

/// Where the session of this cookie goes.
fn next_node(proxy: &mut Proxy, id: &str) -> String {
    let (request, _) = proxy.handle_request(2, None, &Fake::new(&[("cookie", &format!("{COOKIE}={id}"))]));
    assert_eq!(request.cookie, None);
    node(&request)
}

#[test]
fn sessions_of_one_connection_begin_on_one_node_under_ids_of_their_own() {
    let mut nodes = BTreeSet::new();
    for (connection, drawn) in (0..20).zip((0..).step_by(6)) {
        let mut proxy = ring_only();
        let (ids, places): (BTreeSet<_>, BTreeSet<_>) = (0..6)
            .map(|request| begin(&mut proxy, &first(connection, drawn + request, request * 399)))
            .unzip();

        assert_eq!((ids.len(), places.len()), (6, 1), "{places:?}");
        // Whichever the browser keeps.
        for id in &ids {
            assert!(places.contains(&next_node(&mut proxy, id)));
        }
        nodes.extend(places);
    }
    assert_eq!(nodes.len(), NODES.len(), "each connection has a place of its own: {nodes:?}");
}

#[test]
fn fifty_users_of_one_connection_are_fifty_sessions_and_not_all_on_one_node() {
    let mut proxy = ring_only();

    let begun: Vec<_> = (0..200).map(|drawn| begin(&mut proxy, &first(7, drawn, 0))).collect();

    let ids: BTreeSet<_> = begun.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 200);
    let places: Vec<BTreeSet<_>> =
        begun.chunks(32).map(|chunk| chunk.iter().map(|(_, node)| node).collect()).collect();
    assert!(places.iter().all(|nodes| nodes.len() == 1), "{places:?}");
    let nodes: BTreeSet<_> = places.iter().flatten().collect();
    assert!(nodes.len() > 1, "a CDN's new sessions are spread: {nodes:?}");
}

#[test]
fn a_place_is_shared_for_two_seconds_from_its_first_session() {
    // The same randomness leads elsewhere when the place is forgotten.
    let drawn: Vec<(u64, String)> =
        (0..40).map(|drawn| (drawn, begin(&mut ring_only(), &first(1, drawn, 0)).1)).collect();
    let (other, elsewhere) = drawn.iter().find(|(_, node)| *node != drawn[0].1).unwrap();
    for (later, expected) in [(1_999, &drawn[0].1), (2_000, elsewhere)] {
        let mut proxy = ring_only();
        begin(&mut proxy, &first(1, 0, 0));
        begin(&mut proxy, &first(1, 200, 1_000));

        assert_eq!(begin(&mut proxy, &first(1, *other, later)).1, *expected, "after {later} ms");
    }
}

#[test]
fn connections_know_nothing_of_each_other_and_the_oldest_is_forgotten() {
    let drawn: Vec<String> = (0..40).map(|drawn| begin(&mut ring_only(), &first(1, drawn, 0)).1).collect();
    let other = (0..).find(|drawn_at| drawn[*drawn_at as usize] != drawn[0]).unwrap();
    let mut proxy = ring_only();
    begin(&mut proxy, &first(1, 0, 0));
    assert_eq!(begin(&mut proxy, &first(2, other, 0)).1, drawn[other as usize]);
    // Without a number each request is by itself.
    for _ in 0..2 {
        assert_eq!(
            begin(&mut proxy, &Fake { drawn: Cell::new(other << 32), ..Fake::default() }).1,
            drawn[other as usize]
        );
    }
    assert_eq!(begin(&mut proxy, &first(1, other, 0)).1, drawn[0]);

    for connection in 3..1_026 {
        begin(&mut proxy, &first(connection, 0, 0));
    }

    assert_eq!(begin(&mut proxy, &first(1, other, 0)).1, drawn[other as usize]);
}

#[test]
fn the_next_sessions_have_another_place_when_the_first_ones_node_takes_none() {
    let states: [fn(&mut HostFlags); 2] = [|flags| flags.unhealthy = true, |flags| flags.draining = true];
    for state in states {
        let mut proxy = ring_only();
        let (_, lost) = begin(&mut proxy, &first(1, 0, 0));

        let mut hosts = NODES.map(host);
        hosts.iter_mut().filter(|host| host.address == lost).for_each(|host| state(&mut host.flags));
        see(&mut proxy, hosts.to_vec(), NOW);

        let places: BTreeSet<_> =
            (1..6).map(|drawn| begin(&mut proxy, &first(1, drawn, 100 * drawn)).1).collect();
        assert_eq!(places.len(), 1);
        assert!(!places.contains(&lost));
        // One that has left the cluster is no place either.
        let mut proxy = ring_only();
        begin(&mut proxy, &first(1, 0, 0));
        let rest = NODES.into_iter().filter(|node| *node != lost).map(host).collect();
        see(&mut proxy, rest, NOW);
        assert_ne!(begin(&mut proxy, &first(1, 1, 0)).1, lost);
    }
}

#[test]
fn rings_of_any_kind_and_weights_have_one_place_for_a_connection() {
    let rings = [
        json!({"algorithm": "ring_hash"}),
        json!({"algorithm": "maglev", "table_size": 5003}),
        json!({"algorithm": "rendezvous"}),
    ];
    for ring in rings {
        let mut proxy = issuing(&Value::Null, &ring, &Value::Null);
        let weighted = |number: u32| {
            let node = host(&format!("10.0.{}.{}:80", number / 200, number % 200));
            Observation { weight: 1 + number % 7, ..node }
        };
        see(&mut proxy, (0..150).map(weighted).collect(), NOW);
        for connection in 0..10 {
            let (ids, places): (BTreeSet<_>, BTreeSet<_>) = (0..20)
                .map(|request| begin(&mut proxy, &first(connection, request * 10 + connection, 0)))
                .unzip();
            assert_eq!((ids.len(), places.len()), (20, 1));
        }
    }
}

#[test]
fn a_node_of_little_weight_is_found_again() {
    let ready = || {
        let mut proxy = issuing(&Value::Null, &Value::Null, &Value::Null);
        see(&mut proxy, vec![Observation { weight: 40, ..host(NODES[0]) }, host(NODES[1])], NOW);
        proxy
    };
    let is_light = |drawn: &u64| begin(&mut ready(), &first(1, *drawn, 0)).1 == NODES[1];
    let light = (0..255).find(is_light).unwrap();
    let mut proxy = ready();
    begin(&mut proxy, &first(1, light, 0));

    for drawn in 0..30 {
        assert_eq!(begin(&mut proxy, &first(1, drawn, 0)).1, NODES[1]);
    }
}

#[test]
fn ids_that_other_nodes_were_not_searched_for_are_kept_for_them() {
    let mut proxy = ring_only();
    see(&mut proxy, (0..100).map(|number| host(&format!("10.0.0.{number}:80"))).collect(), NOW);
    let mut draws = |connection: u64| {
        (0..6)
            .map(|request| {
                let attributes = first(connection, connection * 6 + request, 0);
                begin(&mut proxy, &attributes);
                attributes.take_reads().iter().filter(|read| *read == "random").count()
            })
            .sum::<usize>()
    };

    assert!(draws(0) > 100, "the first has to search");
    let later: usize = (1..200).map(&mut draws).sum();
    assert!(later < 3 * 200 * 6, "{later} draws for {} ids", 200 * 6);
}

#[test]
fn kept_ids_follow_their_nodes_and_are_never_given_twice() {
    let mut proxy = ring_only();
    let hosts = |numbers: std::ops::Range<u32>| -> Vec<Observation> {
        numbers.map(|number| host(&format!("10.0.0.{number}:80"))).collect()
    };
    let mut ids = BTreeSet::new();
    for (round, members) in [0..20, 10..30, 0..40, 35..40].into_iter().enumerate() {
        see(&mut proxy, hosts(members), NOW);
        for connection in 0..50 {
            let connection = round as u64 * 50 + connection;
            let begun: Vec<_> = (0..6)
                .map(|request| begin(&mut proxy, &first(connection, connection * 6 + request, 0)))
                .collect();
            assert!(begun.iter().all(|(_, node)| *node == begun[0].1), "{begun:?}");
            ids.extend(begun.into_iter().map(|(id, _)| id));
        }
    }
    assert_eq!(ids.len(), 4 * 50 * 6);
}

#[test]
fn only_a_request_that_begins_a_session_asks_for_its_connection() {
    let mut proxy = ring_only();
    let attributes = first(1, 0, 0);
    let (id, _) = begin(&mut proxy, &attributes);
    assert_eq!(attributes.take_reads(), ["x-session", "cookie", ":method", "connection.id", "now", "random"]);

    let attributes = Fake::new(&[("cookie", &format!("{COOKIE}={id}"))]);
    proxy.handle_request(2, None, &attributes);
    assert_eq!(attributes.take_reads(), ["x-session", "cookie"]);
}

#[test]
fn a_pin_lives_briefly_until_its_cookie_comes_back() {
    let mut proxy = issuing(&json!({"cluster": "berth_state"}), &Value::Null, &Value::Null);
    see_members(&mut proxy);
    let ask = |proxy: &mut Proxy, stream, attributes: &Fake| {
        let (request, progress) = proxy.handle_request(stream, None, attributes);
        assert_eq!(progress, Progress::Waiting);
        let engine = proxy.pools[0].engine.as_mut().unwrap();
        let call = engine.poll_call(Caller::Stream(stream), NOW).unwrap();
        let body: Value = serde_json::from_slice(&call.request.body).unwrap();
        engine.call_started(call.id, stream, Caller::Stream(stream), NOW);
        (request, body["sessions"][0].clone())
    };
    let asked: Vec<(Request, Value)> =
        (1..4).map(|request| ask(&mut proxy, request, &first(1, request.into(), 0))).collect();

    // The pin is claimed where the ring has the id, so nothing else has to know of the connection.
    let places: BTreeSet<_> = asked.iter().map(|(_, ask)| ask["candidates"][0].to_string()).collect();
    assert_eq!(places.len(), 1);
    assert!(asked.iter().all(|(_, ask)| ask["claim_ttl_ms"] == 60_000 && ask["ttl_ms"].is_null()));

    let cookie = format!("{COOKIE}={}", id(&asked[0].0));
    let place = asked[0].1["candidates"][0].clone();
    let reply = json!({
        "pins": [{"key": asked[0].1["key"], "node": place, "version": 1, "outcome": "claimed", "ttl_ms": 60_000}],
        "cursor": "0", "ttl_ms": 1_800_000
    });
    let engine = proxy.pools[0].engine.as_mut().unwrap();
    assert!(engine.handle_reply(1, Ok(reply.to_string().as_bytes()), NOW));
    while engine.poll_release(NOW).is_some() {}

    let returning = Fake::new(&[("cookie", &cookie)]);
    let (_, again) = ask(&mut proxy, 11, &returning);
    assert_eq!((&again["key"], &again["candidates"][0]), (&asked[0].1["key"], &place));
    assert!(again["claim_ttl_ms"].is_null(), "{again}");
}

/// The cookie that the response to a request sets.
fn set_by(proxy: &mut Proxy, attributes: &Fake) -> Option<String> {
    let (mut request, progress) = proxy.handle_request(3, None, attributes);
    if progress == Progress::Waiting {
        let mut released = answer(proxy, 3, NODES[0], &Value::Null);
        proxy.settle(&mut request, released.remove(0).1);
    }
    proxy.handle_response(3, &mut request, false, &Fake::default());
    request.cookie.map(|cookie| String::from_utf8(cookie).unwrap())
}

#[test]
fn the_cookie_of_a_session_in_use_is_set_again_after_a_quarter_of_its_age() {
    for state in [Value::Null, json!({"cluster": "berth_state"})] {
        let mut proxy = issuing(&state, &Value::Null, &json!({"max_age": "4h"}));
        see_members(&mut proxy);
        let at = |minutes: u64| NOW + Millis(minutes * 60_000);
        let issued = set_by(&mut proxy, &first(1, 0, 0)).unwrap();
        let (pair, _) = issued.split_once(';').unwrap();
        let returning = Fake::new(&[("cookie", pair)]);

        for (minutes, is_set) in
            [(1, false), (59, false), (61, true), (62, false), (120, false), (122, true), (1_000, true)]
        {
            proxy.handle_tick(at(minutes));
            assert_eq!(
                set_by(&mut proxy, &returning),
                is_set.then(|| issued.clone()),
                "after {minutes} minutes"
            );
        }
    }
}

#[test]
fn a_renewal_that_no_response_carried_is_due_still() {
    let mut proxy = issuing(&Value::Null, &Value::Null, &json!({"max_age": "4h"}));
    see_members(&mut proxy);
    let returning = Fake::new(&[("cookie", "sid=0123456789abcdef0123456789abcdef")]);
    let due = |proxy: &mut Proxy| proxy.handle_request(3, None, &returning).0.cookie.is_some();

    assert!(due(&mut proxy) && due(&mut proxy), "another worker set it, and this one does not know when");
    assert!(set_by(&mut proxy, &returning).is_some());
    assert!(!due(&mut proxy));
}

#[test]
fn a_cookie_that_the_node_sets_or_deletes_is_not_renewed_nor_that_of_a_session_that_it_ends() {
    let mut proxy = issuing(&Value::Null, &Value::Null, &json!({"max_age": "4h"}));
    see_members(&mut proxy);
    let returning = Fake::new(&[("cookie", "sid=0123456789abcdef0123456789abcdef")]);
    let mut set_with = |line: Option<&str>, ends: bool| {
        let (mut request, _) = proxy.handle_request(3, None, &returning);
        assert!(request.cookie.is_some());
        if ends {
            proxy.handle_end(&mut request, NOW);
        }
        let lines: Vec<(&str, &str)> = line.map(|line| ("set-cookie", line)).into_iter().collect();
        proxy.handle_response(3, &mut request, false, &Fake::new(&lines));
        request.cookie.is_some()
    };
    assert!(!set_with(Some("sid=; Max-Age=0"), false), "a logout");
    assert!(!set_with(Some(" sid = another; Path=/"), false), "another id");
    assert!(!set_with(None, true), "an end");
    assert!(set_with(Some("side=b; sid=c"), false), "another cookie");
}

#[test]
fn only_its_own_cookies_are_renewed() {
    let id = "0123456789abcdef0123456789abcdef";
    let cookie = format!("{COOKIE}={id}");
    let mut proxy = issuing(&Value::Null, &Value::Null, &json!({"max_age": "4h"}));
    see_members(&mut proxy);
    let theirs = [
        vec![("x-session", id)],
        vec![("x-session", "alice"), ("cookie", &cookie)],
        vec![("cookie", "sid=alice")],
        vec![("cookie", "sid=0123456789ABCDEF0123456789ABCDEF")],
    ];
    for headers in theirs {
        assert_eq!(set_by(&mut proxy, &Fake::new(&headers)), None, "{headers:?}");
    }
    assert!(set_by(&mut proxy, &Fake::new(&[("cookie", &cookie)])).is_some());

    let mut without_age = ring_only();
    assert_eq!(set_by(&mut without_age, &Fake::new(&[("cookie", &cookie)])), None);
}

#[test]
fn ids_that_were_not_signed_name_no_session() {
    let key = |byte: &str| byte.repeat(43);
    let signing = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|byte| key(byte)).collect();
        let mut proxy = issuing(&Value::Null, &Value::Null, &json!({"signing_keys": keys}));
        see_members(&mut proxy);
        proxy
    };
    let with_cookie = |proxy: &mut Proxy, value: &str| {
        let mut fake = first(9, 900, 0);
        fake.headers.insert("cookie".to_owned(), format!("{COOKIE}={value}"));
        let (request, _) = proxy.handle_request(1, None, &fake);
        (id(&request), node(&request), request.is_issued)
    };
    let mut proxy = signing(&["A"]);
    let (session, home) = begin(&mut proxy, &first(1, 7, 0));

    assert_eq!(with_cookie(&mut proxy, &session), (session.clone(), home.clone(), false));
    for invented in [&session[..32], "alice", &"0".repeat(64), &session.to_uppercase()] {
        let (other, _, is_issued) = with_cookie(&mut proxy, invented);
        assert!(is_issued && other != invented, "{invented}");
    }
    // Keys are replaced: the new one signs, and what the old one signed counts as long as it is there.
    assert_eq!(with_cookie(&mut signing(&["I", "A"]), &session), (session.clone(), home, false));
    assert!(with_cookie(&mut signing(&["I"]), &session).2);
    // Where nothing is signed it is an id like any other.
    let mut proxy = ring_only();
    assert_eq!(with_cookie(&mut proxy, &session).0, session);
}

#[test]
fn ids_that_are_signed_have_one_place_for_each_connection_too() {
    let keys = json!({"signing_keys": ["A".repeat(43)]});
    let mut proxy = issuing(&Value::Null, &Value::Null, &keys);
    see_members(&mut proxy);
    for connection in 0..40 {
        let of_it: BTreeSet<String> =
            (0..6).map(|turn| begin(&mut proxy, &first(connection, connection * 10 + turn, 0)).1).collect();
        assert_eq!(of_it.len(), 1);
    }
}
