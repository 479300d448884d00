//! Who gets a session, who keeps it, and when it moves.

use super::*;
use crate::lost::{knowing, owner};

pub(crate) async fn claims_and_finds(store: &dyn Store) {
    assert_eq!(resolve(store, "claims", "a", &[1, 2], &[]).await, pin("a", Outcome::Claimed, 1, 1));
    assert_eq!(resolve(store, "claims", "a", &[2, 1], &[]).await, pin("a", Outcome::Found, 1, 1));

    let session = store.session(&pool("claims"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.node, session.version, session.events), (node(1), 1, vec![]));
    assert!(session.age_ms < 30_000 && session.ttl_ms > 30_000 && session.ttl_ms <= 60_000);
    assert_eq!(session.owner.state, NodeState::Active);
    assert_eq!(store.session(&pool("claims"), key("b")).await.unwrap(), None);
}

pub(crate) async fn racing_claimers_agree(services: &[Arc<dyn Store>]) {
    let ids: Vec<String> = (0..50).map(|i| format!("race-{i}")).collect();
    let ask = |turn: u16| {
        let sessions = ids.iter().map(|id| ask(id, &[turn, turn + 1], &[])).collect();
        let store = &services[usize::from(turn) % services.len()];
        async move { store.resolve(&request("race", sessions)).await.unwrap() }
    };

    let answers = join_all((1..=8).map(ask)).await;

    for session in 0..ids.len() {
        let of_all: Vec<&Pin> = answers.iter().map(|pins| &pins[session]).collect();
        assert!(
            of_all.iter().all(|pin| (pin.node.clone(), pin.version) == (of_all[0].node.clone(), 1)),
            "{of_all:?}"
        );
        assert_eq!(of_all.iter().filter(|pin| pin.outcome == Outcome::Claimed).count(), 1);
    }
}

pub(crate) async fn rehomes_once(store: &dyn Store) {
    resolve(store, "rehome", "a", &[1, 2], &[]).await;

    let rehomed = resolve(store, "rehome", "a", &[2, 3], &[1]).await;
    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 2) });

    // The other proxy lost the race, and a late one does not move it back.
    assert_eq!(resolve(store, "rehome", "a", &[3, 2], &[1]).await, pin("a", Outcome::Found, 2, 2));
    assert_eq!(resolve(store, "rehome", "a", &[1, 2], &[]).await, pin("a", Outcome::Found, 2, 2));

    let events = events_of(store, "rehome", "a").await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((event.kind, event.reason), (ChangeKind::Rehomed, Reason::Unusable));
    assert_eq!(
        (event.node.clone(), event.from.clone(), event.version),
        (Some(node(2)), Some(node(1)), Some(2))
    );
    assert_eq!(event.correlation_id.as_deref(), Some("cid-1"));
    assert!(now_ms().abs_diff(event.time_ms) < 30_000);
}

pub(crate) async fn rehomes_to_what_is_fit_or_not_at_all(store: &dyn Store) {
    resolve(store, "fit", "a", &[1], &[]).await;
    // A candidate may be unusable itself, or the owner.
    assert_eq!(resolve(store, "fit", "a", &[1, 2], &[1, 2]).await, pin("a", Outcome::Found, 1, 1));
    assert_eq!(resolve(store, "fit", "a", &[1, 2, 3], &[1, 2]).await.node, node(3));
    // A new one always gets an answer.
    assert_eq!(resolve(store, "fit", "b", &[1, 2], &[1, 2]).await, pin("b", Outcome::Claimed, 1, 1));
    assert_eq!(resolve(store, "fit", "c", &[1, 2], &[1]).await, pin("c", Outcome::Claimed, 2, 1));
}

pub(crate) async fn shared_cooldown_rehomes_without_being_told(store: &dyn Store) {
    resolve(store, "cooldown", "a", &[1, 2], &[]).await;
    change(store, "cooldown", 1, cooling(now_ms() + 3_600_000)).await;

    let rehomed = resolve(store, "cooldown", "a", &[1, 2], &[]).await;

    assert_eq!(rehomed, Pin { from: Some(node(1)), ..pin("a", Outcome::Rehomed, 2, 2) });
    assert_eq!(events_of(store, "cooldown", "a").await[0].reason, Reason::Cooldown);
    assert_eq!(resolve(store, "cooldown", "b", &[1, 2], &[]).await, pin("b", Outcome::Claimed, 2, 1));
    // One that is over is over.
    change(store, "cooldown", 3, cooling(now_ms() - 1)).await;
    assert_eq!(resolve(store, "cooldown", "c", &[3, 2], &[]).await, pin("c", Outcome::Claimed, 3, 1));
}

pub(crate) async fn strict_sessions_stay_whatever_becomes_of_their_node(store: &dyn Store) {
    let strict = |id: &str, unusable: &[u16]| SessionAsk { strict: true, ..ask(id, &[1, 2], unusable) };
    assert_eq!(resolve_one(store, "strict", strict("a", &[])).await, pin("a", Outcome::Claimed, 1, 1));
    change(store, "strict", 1, cooling(now_ms() + 3_600_000)).await;

    assert_eq!(resolve_one(store, "strict", strict("a", &[])).await, pin("a", Outcome::Found, 1, 1));
    assert_eq!(resolve_one(store, "strict", strict("a", &[1])).await, pin("a", Outcome::Found, 1, 1));
    assert!(events_of(store, "strict", "a").await.is_empty());
    // A new one is claimed as any other is.
    assert_eq!(resolve_one(store, "strict", strict("b", &[])).await, pin("b", Outcome::Claimed, 2, 1));
    // It is the request that is strict, not the pin.
    let moved = resolve(store, "strict", "a", &[1, 2], &[]).await;
    assert_eq!((moved.outcome, moved.node), (Outcome::Rehomed, node(2)));
}

pub(crate) async fn new_sessions_avoid_what_operators_took_out(store: &dyn Store) {
    resolve(store, "states", "old", &[1], &[]).await;
    for (number, state) in [(1, NodeState::Draining), (2, NodeState::Degraded), (3, NodeState::Standby)] {
        change(store, "states", number, to_state(state)).await;
    }

    assert_eq!(resolve(store, "states", "old", &[4], &[]).await, pin("old", Outcome::Found, 1, 1));
    let new = resolve(store, "states", "new", &[1, 2, 3, 4], &[]).await;
    assert_eq!(new, pin("new", Outcome::Claimed, 4, 1));
    // Better there than nowhere.
    let last = resolve(store, "states", "last", &[2, 3], &[]).await;
    assert_eq!(last, pin("last", Outcome::Claimed, 2, 1));

    let session = store.session(&pool("states"), key("old")).await.unwrap().unwrap();
    assert_eq!(session.owner.state, NodeState::Draining);
}

pub(crate) async fn panic_rewrites_nothing(store: &dyn Store) {
    resolve(store, "panic", "a", &[1, 2], &[]).await;
    change(store, "panic", 1, cooling(now_ms() + 3_600_000)).await;
    let panic = |id, candidates: &[u16], unusable: &[u16]| ResolveRequest {
        panic: true,
        ..request("panic", vec![ask(id, candidates, unusable)])
    };

    let found = untimed(store.resolve(&panic("a", &[2, 3], &[1])).await.unwrap());
    assert_eq!(found, [pin("a", Outcome::Found, 1, 1)]);
    assert_eq!(events_of(store, "panic", "a").await, []);
    // One without a pin gets the ring's choice.
    let claimed = untimed(store.resolve(&panic("b", &[1, 2], &[1])).await.unwrap());
    assert_eq!(claimed, [pin("b", Outcome::Claimed, 1, 1)]);
}

pub(crate) async fn answers_in_order_and_pools_are_apart(store: &dyn Store) {
    let ids: Vec<String> = (0..200).map(|i| format!("order-{i}")).collect();
    let sessions = |turn: usize| {
        let ask = |(i, id): (usize, &String)| ask(id, &[1 + ((i + turn) % 7) as u16], &[]);
        ids.iter().enumerate().map(ask).collect()
    };

    for (name, turn) in [("order", 0), ("disorder", 1), ("order", 2)] {
        let pins = store.resolve(&request(name, sessions(turn))).await.unwrap();

        let shift = usize::from(name == "disorder");
        for (i, (pin, id)) in pins.iter().zip(&ids).enumerate() {
            assert_eq!((pin.key, pin.node.clone()), (key(id), node(1 + ((i + shift) % 7) as u16)));
        }
    }
}

pub(crate) async fn touches(store: &dyn Store) {
    resolve(store, "touch", "a", &[1], &[]).await;
    let request =
        TouchRequest { pool: pool("touch"), keys: vec![key("b"), key("a"), key("c")], pins: vec![] };
    let mut missing = store.touch(&request).await.unwrap().missing;
    missing.sort();
    let mut expected = vec![key("b"), key("c")];
    expected.sort();
    assert_eq!(missing, expected);
}

pub(crate) async fn a_pin_says_since_when_its_owner_has_it(store: &dyn Store) {
    let owned = async |candidates: &[u16], unusable: &[u16]| {
        let request = request("owned", vec![ask("a", candidates, unusable)]);
        store.resolve(&request).await.unwrap()[0].owned_ms.unwrap()
    };
    assert_eq!(owned(&[1], &[]).await, 0);
    // Neither a resolve nor a touch begins the time again.
    let touch = TouchRequest { pool: pool("owned"), keys: vec![key("a")], pins: vec![] };
    let is_long = async || {
        store.touch(&touch).await.unwrap();
        owned(&[2], &[]).await >= 50
    };
    eventually_async("the time to go on", is_long).await;
    let session = store.session(&pool("owned"), key("a")).await.unwrap().unwrap();
    assert!((50..30_000).contains(&session.owned_ms) && session.owned_ms <= owned(&[2], &[]).await);

    assert_eq!(owned(&[2], &[1]).await, 0);
}

/// What Envoy calls its hosts beside `ip:port`: internal listeners, pipes, host names.
pub(crate) async fn nodes_of_any_name_are_nodes_like_others(store: &dyn Store) {
    let longest = format!("envoy://{}/", "x".repeat(MAX_NODE_NAME - 9));
    let names = [
        "envoy://x0/127.0.0.1:80",
        "envoy://x0/[::1]:80",
        "/run/node.sock",
        "@node",
        "db-0.db:80",
        "%d-",
        &longest,
    ];
    let all: Vec<NodeId> = names.iter().map(|name| name.parse().unwrap()).collect();
    for (at, (node, next)) in all.iter().zip(all.iter().cycle().skip(1)).enumerate() {
        let (name, id) = ("named", format!("session-{at}"));
        let start = store.head(&pool(name)).await.unwrap();
        let asked = async |unusable: Vec<NodeId>| {
            let candidates = vec![node.clone(), next.clone()];
            resolve_one(store, name, SessionAsk::new(key(&id), candidates, unusable)).await
        };
        let claimed = asked(vec![]).await;
        assert_eq!((&claimed.node, claimed.outcome), (node, Outcome::Claimed));
        assert_eq!(
            (asked(vec![]).await.node, asked(vec![next.clone()]).await.node),
            (node.clone(), node.clone())
        );
        let rehomed = asked(vec![node.clone()]).await;
        assert_eq!((&rehomed.node, &rehomed.from, rehomed.version), (next, &Some(node.clone()), 2));

        let record =
            store.change_node(&pool(name), next.clone(), &cooling(now_ms() + 60_000)).await.unwrap().outcome;
        assert_eq!(&record.node, next);
        let session = store.session(&pool(name), key(&id)).await.unwrap().unwrap();
        assert_eq!((&session.node, &session.owner), (next, &record));
        assert_eq!(session.events.last().unwrap().from.as_ref(), Some(node));
        assert_eq!(&asked(vec![]).await.node, node);
        assert!(store.forget_node(&pool(name), next.clone(), None).await.unwrap().outcome);
        assert!(store.end(&pool(name), key(&id), Millis(0), None).await.unwrap().outcome);

        let events = store.changes(&pool(name), &start, 100).await.unwrap().events;
        let ended = events.iter().find(|event| event.kind == ChangeKind::Ended).unwrap();
        assert_eq!((ended.node.as_ref(), ended.version), (Some(node), Some(3)));
        let of_node = events.iter().find(|event| event.kind == ChangeKind::Node).unwrap();
        assert_eq!((of_node.node.as_ref(), of_node.record.as_ref()), (Some(next), Some(&record)));
    }
    let records = store.nodes(&pool("named")).await.unwrap();
    assert_eq!(records.len(), all.len());
    assert!(
        records.is_sorted_by_key(|record| record.node.clone())
            && records.iter().all(|record| record.forgotten)
    );
}

pub(crate) async fn what_may_not_begin_is_only_found(store: &dyn Store) {
    let there = resolve(store, "limited", "there", &[1], &[]).await;
    let only = |id: &str| SessionAsk { find_only: true, ..ask(id, &[2], &[]) };
    let heir = SessionAsk { find_only: true, ..rotated("heir", "there", &[2], &[]) };
    let lost = SessionAsk { find_only: true, ..knowing(ask("lost", &[2], &[]), there.version + 1, 3) };

    let asks = vec![only("new"), only("there"), heir, lost, ask("begins", &[2], &[])];
    let pins = store.resolve(&request("limited", asks)).await.unwrap();

    let found: Vec<_> = pins.iter().map(|pin| (pin.key, pin.node.clone())).collect();
    let expected = [("new", 2), ("there", 1), ("heir", 1), ("lost", 3), ("begins", 2)];
    assert_eq!(found, expected.map(|(id, place)| (key(id), node(place))));
    assert_eq!(owner(store, "limited", "new").await, None);
    // Where it would begin, with nothing that could make it begin.
    assert_eq!((pins[0].outcome, pins[0].ttl_ms), (Outcome::Found, Some(0)));
    assert!(pins[1..].iter().all(|pin| pin.ttl_ms != Some(0)));
}

pub(crate) async fn ends_and_continues_versions(store: &dyn Store) {
    resolve(store, "end", "a", &[1, 2], &[]).await;
    resolve(store, "end", "a", &[2], &[1]).await;
    let before = store.head(&pool("end")).await.unwrap();

    assert!(store.end(&pool("end"), key("a"), Millis(0), Some("cid-2")).await.unwrap().outcome);
    assert!(!store.end(&pool("end"), key("a"), Millis(0), None).await.unwrap().outcome);
    assert_eq!(store.session(&pool("end"), key("a")).await.unwrap(), None);
    let touched = TouchRequest { pool: pool("end"), keys: vec![key("a")], pins: vec![] };
    assert_eq!(store.touch(&touched).await.unwrap().missing, [key("a")]);

    let events = store.changes(&pool("end"), &before, 100).await.unwrap().events;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].reason), (ChangeKind::Ended, Reason::Deleted));
    assert_eq!((events[0].key, events[0].version), (Some(key("a")), Some(2)));
    assert_eq!(events[0].correlation_id.as_deref(), Some("cid-2"));

    assert_eq!(resolve(store, "end", "a", &[3], &[]).await, pin("a", Outcome::Claimed, 3, 3));
}

pub(crate) async fn restores_once_after_a_restart(store: &dyn Store) {
    let boot = |id: &str| NodeChange { boot_id: Some(id.into()), ..NodeChange::default() };
    resolve(store, "restore", "early", &[1], &[]).await;
    change(store, "restore", 1, boot("one")).await;
    resolve(store, "restore", "a", &[1], &[]).await;
    // The first boot id that a node ever names says nothing of a restart.
    assert_eq!(resolve(store, "restore", "early", &[1], &[]).await, pin("early", Outcome::Found, 1, 1));

    change(store, "restore", 1, boot("two")).await;
    for id in ["a", "early"] {
        let restored = Pin { restore: true, ..pin(id, Outcome::Found, 1, 1) };
        assert_eq!(resolve(store, "restore", id, &[1], &[]).await, restored);
        assert_eq!(resolve(store, "restore", id, &[1], &[]).await, pin(id, Outcome::Found, 1, 1));
    }
    assert_eq!(resolve(store, "restore", "new", &[1], &[]).await, pin("new", Outcome::Claimed, 1, 1));
}
