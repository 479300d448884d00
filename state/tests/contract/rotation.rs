//! Sessions under a new key, and the versions of their tokens.

use berth_core::wire::{KnownPin, TouchedPin};

use super::*;

pub(crate) async fn new_keys_inherit_from_former_ones(store: &dyn Store) {
    resolve(store, "heirs", "old", &[1, 2], &[]).await;
    resolve(store, "heirs", "old", &[2], &[1]).await;
    let start = store.head(&pool("heirs")).await.unwrap();

    // Also from a node that takes no new sessions: this is an old one.
    change(store, "heirs", 2, to_state(NodeState::Draining)).await;
    let inherited = resolve_one(store, "heirs", rotated("new", "old", &[3, 1], &[])).await;
    assert_eq!(inherited, pin("new", Outcome::Found, 2, 1));
    // Replaying the old one moves nothing, nor does the new one need it any more.
    assert_eq!(resolve(store, "heirs", "old", &[3], &[]).await, pin("old", Outcome::Found, 2, 2));
    let again = resolve_one(store, "heirs", rotated("new", "old", &[3], &[])).await;
    assert_eq!(again, pin("new", Outcome::Found, 2, 1));
    assert!(store.end(&pool("heirs"), key("old"), Millis(0), None).await.unwrap().outcome);
    assert_eq!(resolve(store, "heirs", "new", &[3], &[]).await, pin("new", Outcome::Found, 2, 1));

    let session = store.session(&pool("heirs"), key("new")).await.unwrap().unwrap();
    assert_eq!((session.alias_of, session.session_version), (Some(key("old")), None));
    let kinds: Vec<_> = news(store, "heirs", &start).await.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds.iter().filter(|kind| **kind != ChangeKind::Node).collect::<Vec<_>>(),
        [&ChangeKind::Ended]
    );

    // Without a pin to inherit it is a new session, as is one whose former key comes in the same request.
    let claimed = resolve_one(store, "heirs", rotated("b", "old", &[3], &[])).await;
    assert_eq!(claimed, pin("b", Outcome::Claimed, 3, 1));
    let both = vec![ask("c", &[4], &[]), rotated("d", "c", &[5], &[])];
    let pins = untimed(store.resolve(&request("heirs", both)).await.unwrap());
    assert_eq!(pins, [pin("c", Outcome::Claimed, 4, 1), pin("d", Outcome::Claimed, 5, 1)]);
    let session = store.session(&pool("heirs"), key("d")).await.unwrap().unwrap();
    assert_eq!(session.alias_of, None);
}

pub(crate) async fn all_names_of_a_session_end_with_it(store: &dyn Store) {
    resolve(store, "names", "a", &[1], &[]).await;
    resolve_one(store, "names", rotated("b", "a", &[2], &[])).await;
    resolve_one(store, "names", rotated("c", "b", &[2], &[])).await;
    let start = store.head(&pool("names")).await.unwrap();

    assert!(store.end(&pool("names"), key("c"), Millis(0), None).await.unwrap().outcome);

    let events = news(store, "names", &start).await;
    let mut ended: Vec<_> = events.iter().filter_map(|event| event.key).collect();
    let mut all = ["a", "b", "c"].map(key);
    ended.sort();
    all.sort();
    assert_eq!(ended, all);
    // A token from before begins a new session, wherever that may be.
    let begun = resolve_one(store, "names", rotated("d", "b", &[3], &[])).await;
    assert_eq!(begun, pin("d", Outcome::Claimed, 3, 1));
    assert!(!store.end(&pool("names"), key("c"), Millis(0), None).await.unwrap().outcome);
}

pub(crate) async fn an_end_without_a_pin_is_also_that_of_the_former_key(store: &dyn Store) {
    resolve(store, "lost-heir", "old", &[1], &[]).await;
    // Its own pin was lost, and with it that it had a former key.
    assert!(!store.end(&pool("lost-heir"), key("new"), Millis(0), None).await.unwrap().outcome);

    let begun = resolve_one(store, "lost-heir", rotated("new", "old", &[2], &[])).await;
    assert_eq!(begun, pin("new", Outcome::Claimed, 2, 1));

    // One that had a pin says nothing of another key: the next session under this name inherits.
    resolve(store, "lost-heir", "user", &[5], &[]).await;
    resolve(store, "lost-heir", "anonymous", &[6], &[]).await;
    for had_pin in [true, false] {
        let ended = store.end(&pool("lost-heir"), key("user"), Millis(0), None).await.unwrap();
        assert_eq!(ended.outcome, had_pin);
    }
    let inherited = resolve_one(store, "lost-heir", rotated("user", "anonymous", &[7], &[])).await;
    assert_eq!((inherited.outcome, inherited.node), (Outcome::Found, node(6)));

    // What the former key got since is newer.
    assert!(store.end(&pool("lost-heir"), key("new"), Millis(0), None).await.unwrap().outcome);
    assert!(store.end(&pool("lost-heir"), key("old"), Millis(0), None).await.unwrap().outcome);
    resolve(store, "lost-heir", "old", &[3], &[]).await;
    let inherited = resolve_one(store, "lost-heir", rotated("new", "old", &[4], &[])).await;
    assert_eq!(inherited, pin("new", Outcome::Found, 3, 2));
}

/// A touch, or a question, has written its pin again, and what it had inherited was lost with it.
pub(crate) async fn an_heir_whose_pin_was_lost_ends_with_its_former_key(store: &dyn Store) {
    let name = "lost-alias";
    let version = resolve(store, name, "old", &[1], &[]).await.version;
    let known = KnownPin { version, node: node(1) };
    let written = async |id: &str| {
        let pins = vec![TouchedPin { key: key(id), known: known.clone(), lives_ms: Some(30_000) }];
        store.touch(&TouchRequest { pool: pool(name), keys: vec![], pins }).await.unwrap()
    };

    // A later request says what it was called before; not the lease's renewal.
    assert_eq!(written("a").await.written, [key("a")]);
    resolve_one(store, name, SessionAsk { renew: true, strict: true, ..ask("a", &[1], &[]) }).await;
    resolve_one(store, name, rotated("a", "old", &[2], &[])).await;
    let asked = SessionAsk { known: Some(known.clone()), ..rotated("b", "old", &[2], &[]) };
    resolve_one(store, name, asked).await;
    for id in ["a", "b"] {
        let session = store.session(&pool(name), key(id)).await.unwrap().unwrap();
        assert_eq!((session.node, session.alias_of), (node(1), Some(key("old"))), "{id}");
    }

    // Ended before that, it does not begin again where the former key is.
    for (id, is_renewed) in [("c", false), ("d", true)] {
        written(id).await;
        if is_renewed {
            resolve_one(store, name, SessionAsk { renew: true, strict: true, ..ask(id, &[1], &[]) }).await;
        }
        assert!(store.end(&pool(name), key(id), Millis(0), None).await.unwrap().outcome);
        let begun = resolve_one(store, name, rotated(id, "old", &[2], &[])).await;
        assert_eq!((begun.outcome, begun.node), (Outcome::Claimed, node(2)), "{id}");
    }
    // Nor if another proxy had claimed it in between.
    for id in ["f", "g"] {
        let later = resolve_one(store, name, rotated(id, "nothing", &[2], &[])).await;
        assert_eq!(later.outcome, Outcome::Claimed);
        assert_eq!(written(id).await.changed, [key(id)]);
    }
    resolve_one(store, name, rotated("f", "old", &[2], &[])).await;
    let session = store.session(&pool(name), key("f")).await.unwrap().unwrap();
    assert_eq!((session.node, session.alias_of), (node(1), Some(key("old"))));
    assert!(store.end(&pool(name), key("g"), Millis(0), None).await.unwrap().outcome);
    let begun = resolve_one(store, name, rotated("g", "old", &[2], &[])).await;
    assert_eq!((begun.outcome, begun.node), (Outcome::Claimed, node(2)));
    // Also if the former key's pin was lost as well, and comes back later.
    let asked = SessionAsk { known: Some(known.clone()), ..rotated("e", "older", &[2], &[]) };
    resolve_one(store, name, asked).await;
    written("older").await;
    assert!(store.end(&pool(name), key("e"), Millis(0), None).await.unwrap().outcome);
    assert!(store.session(&pool(name), key("older")).await.unwrap().is_none());

    assert!(store.end(&pool(name), key("b"), Millis(0), None).await.unwrap().outcome);
    assert!(store.session(&pool(name), key("old")).await.unwrap().is_none());
}

pub(crate) async fn heirs_of_a_node_that_is_out_are_rehomed_from_it(store: &dyn Store) {
    resolve(store, "out", "old", &[1, 2], &[]).await;
    let start = store.head(&pool("out")).await.unwrap();

    let unusable = resolve_one(store, "out", rotated("a", "old", &[1, 2], &[1])).await;
    assert_eq!(unusable, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 1) });
    change(store, "out", 1, cooling(now_ms() + 3_600_000)).await;
    let cooling = resolve_one(store, "out", rotated("b", "old", &[1, 2], &[])).await;
    assert_eq!(cooling, Pin { from: Some(node(1)), ..pin("b", Outcome::Rehomed, 2, 1) });

    // Said once, and logged as any rehome.
    let again = resolve_one(store, "out", rotated("a", "old", &[1, 2], &[1])).await;
    assert_eq!(again, pin("a", Outcome::Found, 2, 1));
    let session = store.session(&pool("out"), key("b")).await.unwrap().unwrap();
    assert_eq!((session.version, session.alias_of), (1, Some(key("old"))));
    let mut events = news(store, "out", &start).await;
    events.retain(|event| event.kind != ChangeKind::Node);
    for (id, reason) in [("a", Reason::Unusable), ("b", Reason::Cooldown)] {
        let of_it: Vec<_> = events.iter().filter(|event| event.key == Some(key(id))).collect();
        assert_eq!(of_it.len(), 1, "{of_it:?}");
        assert_eq!((of_it[0].kind, of_it[0].reason), (ChangeKind::Rehomed, reason));
        assert_eq!(
            (of_it[0].node.clone(), of_it[0].from.clone(), of_it[0].version),
            (Some(node(2)), Some(node(1)), Some(1))
        );
    }
    assert_eq!(events.len(), 2, "{events:?}");

    // As for any pin: if no candidate is fit either, a move would only be the first of two.
    let stays = resolve_one(store, "out", rotated("c", "old", &[1, 3], &[1, 3])).await;
    assert_eq!(stays, pin("c", Outcome::Found, 1, 1));
    // In panic the store ignores that it is down.
    let panic = request("out", vec![rotated("d", "old", &[2], &[1])]);
    let pins = untimed(store.resolve(&ResolveRequest { panic: true, ..panic }).await.unwrap());
    assert_eq!(pins, [pin("d", Outcome::Found, 1, 1)]);
}

pub(crate) async fn strict_heirs_inherit_whatever_becomes_of_the_node(store: &dyn Store) {
    let strict = |id, unusable: &[u16]| SessionAsk { strict: true, ..rotated(id, "old", &[2, 3], unusable) };
    resolve(store, "strict-heirs", "old", &[1], &[]).await;
    let start = store.head(&pool("strict-heirs")).await.unwrap();

    let unusable = resolve_one(store, "strict-heirs", strict("a", &[1])).await;
    assert_eq!(unusable, pin("a", Outcome::Found, 1, 1));
    change(store, "strict-heirs", 1, cooling(now_ms() + 3_600_000)).await;
    assert_eq!(resolve_one(store, "strict-heirs", strict("b", &[])).await, pin("b", Outcome::Found, 1, 1));

    let events = news(store, "strict-heirs", &start).await;
    assert!(events.iter().all(|event| event.kind == ChangeKind::Node), "{events:?}");
    // Without anything to inherit it is claimed as any other.
    let orphan = SessionAsk { alias_of: Some(key("unknown")), ..strict("c", &[]) };
    assert_eq!(resolve_one(store, "strict-heirs", orphan).await, pin("c", Outcome::Claimed, 2, 1));
}

pub(crate) async fn rehomes_to_the_former_keys_node_first(store: &dyn Store) {
    resolve(store, "home", "old", &[1], &[]).await;
    resolve(store, "home", "new", &[2], &[]).await;

    // A pin of its own is found, whatever the former key has.
    let found = resolve_one(store, "home", rotated("new", "old", &[3], &[])).await;
    assert_eq!(found, pin("new", Outcome::Found, 2, 1));
    let rehomed = resolve_one(store, "home", rotated("new", "old", &[3], &[2])).await;
    assert_eq!(rehomed, Pin { from: Some(node(2)), ..pin("new", Outcome::Rehomed, 1, 2) });
    let session = store.session(&pool("home"), key("new")).await.unwrap().unwrap();
    assert_eq!(session.alias_of, Some(key("old")));
    // And not to where it cannot be.
    let rehomed = resolve_one(store, "home", rotated("new", "old", &[3], &[1])).await;
    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("new", Outcome::Rehomed, 3, 3) });
}

pub(crate) async fn inherited_pins_know_of_restarts(store: &dyn Store) {
    let boot = |id: &str| NodeChange { boot_id: Some(id.into()), ..NodeChange::default() };
    change(store, "reborn", 1, boot("one")).await;
    resolve(store, "reborn", "old", &[1], &[]).await;
    change(store, "reborn", 1, boot("two")).await;

    let inherited = resolve_one(store, "reborn", rotated("new", "old", &[2], &[])).await;
    assert_eq!(inherited, Pin { restore: true, ..pin("new", Outcome::Found, 1, 1) });
    let again = resolve_one(store, "reborn", rotated("new", "old", &[2], &[])).await;
    assert_eq!(again, pin("new", Outcome::Found, 1, 1));
}

pub(crate) async fn racing_heirs_agree(services: &[Arc<dyn Store>]) {
    let ids: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    let old = ids.iter().enumerate().map(|(i, id)| ask(&format!("old-{id}"), &[1 + (i % 7) as u16], &[]));
    let old = services[0].resolve(&request("heir-race", old.collect())).await.unwrap();
    let ask = |turn: u16| {
        let ask = |id: &String| SessionAsk {
            session_version: Some(turn.into()),
            ..rotated(&format!("new-{id}"), &format!("old-{id}"), &[turn + 10], &[])
        };
        let sessions = ids.iter().map(ask).collect();
        let store = &services[usize::from(turn) % services.len()];
        async move { store.resolve(&request("heir-race", sessions)).await.unwrap() }
    };

    let answers = join_all((1..=8).map(ask)).await;

    for pins in answers {
        for (pin, old) in pins.iter().zip(&old) {
            assert_eq!((pin.node.clone(), pin.version, pin.outcome), (old.node.clone(), 1, Outcome::Found));
        }
    }
    for id in &ids {
        for id in [format!("old-{id}"), format!("new-{id}")] {
            let session = services[0].session(&pool("heir-race"), key(&id)).await.unwrap().unwrap();
            assert_eq!(session.session_version, Some(8), "{id}");
        }
    }
}

pub(crate) async fn session_versions_grow_and_say_so(store: &dyn Store) {
    let with = |ask, version| SessionAsk { session_version: Some(version), ..ask };
    let versioned = |pin, version| Pin { session_version: Some(version), ..pin };
    let a = || ask("a", &[1], &[]);
    let found = || pin("a", Outcome::Found, 1, 1);
    let claimed = resolve_one(store, "versions", with(a(), 2)).await;
    assert_eq!(claimed, versioned(pin("a", Outcome::Claimed, 1, 1), 2));
    let start = store.head(&pool("versions")).await.unwrap();

    // A request with a lower version, or without one, gets its pin and the highest version.
    for lower in [with(a(), 1), with(a(), 0), a(), with(a(), 2)] {
        assert_eq!(resolve_one(store, "versions", lower).await, versioned(found(), 2));
    }
    assert_eq!(news(store, "versions", &start).await, []);
    assert_eq!(resolve_one(store, "versions", with(a(), u32::MAX)).await, versioned(found(), u32::MAX));

    let events = news(store, "versions", &start).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((event.kind, event.reason), (ChangeKind::Superseded, Reason::Raised));
    assert_eq!((event.key, event.node.clone(), event.version), (Some(key("a")), Some(node(1)), Some(1)));
    assert_eq!((event.session_version, event.correlation_id.as_deref()), (Some(u32::MAX), Some("cid-1")));
    // A rehome is news enough.
    resolve_one(store, "versions", with(ask("b", &[1], &[]), 1)).await;
    let start = store.head(&pool("versions")).await.unwrap();
    let rehomed = resolve_one(store, "versions", with(ask("b", &[2], &[1]), 2)).await;
    assert_eq!((rehomed.outcome, rehomed.session_version), (Outcome::Rehomed, Some(2)));
    let kinds: Vec<_> = news(store, "versions", &start).await.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [ChangeKind::Rehomed]);

    // The former key learns of the new one's version, once, and the new key of the former's.
    let start = store.head(&pool("versions")).await.unwrap();
    for outcome in [Outcome::Found, Outcome::Found] {
        let heir = resolve_one(store, "versions", with(rotated("c", "b", &[1], &[]), 3)).await;
        assert_eq!(heir, versioned(pin("c", outcome, 2, 1), 3));
    }
    let events = news(store, "versions", &start).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].kind, events[0].reason), (ChangeKind::Superseded, Reason::Rotated));
    assert_eq!((events[0].key, events[0].session_version), (Some(key("b")), Some(3)));
    let old = resolve_one(store, "versions", with(ask("b", &[1], &[]), 2)).await;
    assert_eq!(old, versioned(pin("b", Outcome::Found, 2, 2), 3));
    let heir = resolve_one(store, "versions", rotated("d", "c", &[1], &[])).await;
    assert_eq!(heir, versioned(pin("d", Outcome::Found, 2, 1), 3));
    // Not from somebody who shows no version, whatever his session once had.
    resolve_one(store, "versions", with(ask("m", &[1], &[]), 1000)).await;
    let start = store.head(&pool("versions")).await.unwrap();
    resolve_one(store, "versions", rotated("m", "b", &[1], &[])).await;
    assert_eq!(news(store, "versions", &start).await, []);
    assert_eq!(resolve_one(store, "versions", ask("b", &[1], &[])).await.session_version, Some(3));
}
