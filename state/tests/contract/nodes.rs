//! What is recorded of nodes: by operators, by themselves, by proxies.

use super::*;

pub(crate) async fn node_records_change_in_part_and_cooldown_only_grows(store: &dyn Store) {
    let name = pool("records");
    assert_eq!(store.nodes(&name).await.unwrap(), []);
    let before = store.head(&name).await.unwrap();
    let first = NodeChange {
        note: Some("new kernel".into()),
        weight: Some(3),
        correlation_id: Some("cid-3".into()),
        ..to_state(NodeState::Draining)
    };

    assert_eq!(change(store, "records", 2, first.clone()).await, 1);
    assert_eq!(change(store, "records", 2, first).await, 1, "what changes nothing is no new version");
    assert_eq!(change(store, "records", 2, to_state(NodeState::Active)).await, 2);
    assert_eq!(change(store, "records", 2, cooling(5000)).await, 3);
    assert_eq!(change(store, "records", 2, cooling(4000)).await, 3);
    assert_eq!(change(store, "records", 1, NodeChange::default()).await, 1);

    let records = store.nodes(&name).await.unwrap();
    assert_eq!(records.iter().map(|record| record.node.clone()).collect::<Vec<_>>(), nodes(&[1, 2]));
    let record = &records[1];
    assert_eq!((record.state, record.weight, record.version), (NodeState::Active, Some(3), 3));
    assert_eq!((record.note.as_deref(), record.cooldown_until_ms), (Some("new kernel"), Some(5000)));
    let events = store.changes(&name, &before, 100).await.unwrap().events;
    let versions: Vec<_> =
        events.iter().map(|event| (event.node.clone().unwrap(), event.version.unwrap())).collect();
    assert_eq!(versions, [(node(2), 1), (node(2), 2), (node(2), 3), (node(1), 1)]);
    assert_eq!(events[2].record.as_ref(), Some(record));
    assert_eq!((events[0].kind, events[0].correlation_id.as_deref()), (ChangeKind::Node, Some("cid-3")));

    // By the store's clock, whatever the caller's shows.
    let cooling = NodeChange { cooldown_ms: Some(60_000), ..NodeChange::default() };
    let before = store.time(&name).await.unwrap().0;
    let until = store.change_node(&name, node(2), &cooling).await.unwrap().outcome.cooldown_until_ms.unwrap();
    let after = store.time(&name).await.unwrap().0;
    assert!((before + 60_000..=after + 60_000).contains(&until), "{before} {until} {after}");

    // Many at once: every change takes effect.
    let weights = join_all((1..=4).map(|weight| {
        let change = NodeChange { weight: Some(weight * 10), ..NodeChange::default() };
        async move { store.change_node(&pool("records"), node(9), &change).await.unwrap().outcome.version }
    }));
    let mut versions = weights.await;
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
}

/// Where new sessions of all shards come to, if they may choose between two nodes.
async fn owners_of_new(store: &dyn Store, name: &str, turn: &str, candidates: &[u16]) -> BTreeSet<NodeId> {
    let ids: Vec<String> = (0..100).map(|i| format!("{turn}-{i}")).collect();
    let shards: BTreeSet<u8> = ids.iter().map(|id| key(id).as_bytes()[0] >> 4).collect();
    assert_eq!(shards.len(), 16);
    let sessions = ids.iter().map(|id| ask(id, candidates, &[])).collect();
    store.resolve(&request(name, sessions)).await.unwrap().iter().map(|pin| pin.node.clone()).collect()
}

pub(crate) async fn neither_the_operator_nor_the_node_undoes_the_others_word(store: &dyn Store) {
    let name = pool("words");
    let itself =
        |state| NodeChange { self_state: Some(state), boot_id: Some("one".into()), ..NodeChange::default() };
    let state = async || store.nodes(&name).await.unwrap()[0].state;

    // With each health check, before the drain and after it.
    assert_eq!(change(store, "words", 1, itself(NodeState::Active)).await, 1);
    assert_eq!(change(store, "words", 1, to_state(NodeState::Draining)).await, 2);
    assert_eq!(change(store, "words", 1, itself(NodeState::Active)).await, 2);
    assert_eq!(state().await, NodeState::Draining);
    assert_eq!(owners_of_new(store, "words", "drained", &[1, 2]).await, nodes(&[2]).into_iter().collect());

    change(store, "words", 1, to_state(NodeState::Active)).await;
    let start = store.head(&name).await.unwrap();
    change(store, "words", 1, itself(NodeState::Degraded)).await;
    change(store, "words", 1, to_state(NodeState::Active)).await;
    assert_eq!(owners_of_new(store, "words", "degraded", &[1, 2]).await, nodes(&[2]).into_iter().collect());
    // Proxies get the effective state.
    let record = news(store, "words", &start).await.pop().unwrap().record.unwrap();
    assert_eq!((record.state, record.operator_state()), (NodeState::Degraded, NodeState::Active));

    // Its word is no longer than its life.
    let started = NodeChange { boot_id: Some("two".into()), ..NodeChange::default() };
    change(store, "words", 1, started).await;
    assert_eq!(state().await, NodeState::Active);
    assert_eq!(owners_of_new(store, "words", "again", &[1, 2]).await, nodes(&[1]).into_iter().collect());
}

pub(crate) async fn what_is_forgotten_of_a_node_is_forgotten_in_all_shards(store: &dyn Store) {
    let name = pool("forget");
    assert!(!store.forget_node(&name, node(1), None).await.unwrap().outcome);
    assert_eq!(store.nodes(&name).await.unwrap(), []);
    let all = NodeChange {
        weight: Some(3),
        note: Some("pod games-7".into()),
        boot_id: Some("one".into()),
        self_state: Some(NodeState::Draining),
        cooldown_until_ms: Some(now_ms() + 3_600_000),
        ..to_state(NodeState::Draining)
    };
    change(store, "forget", 1, all).await;
    assert_eq!(owners_of_new(store, "forget", "before", &[1, 2]).await, nodes(&[2]).into_iter().collect());
    let start = store.head(&name).await.unwrap();

    assert!(store.forget_node(&name, node(1), Some("cid-4")).await.unwrap().outcome);
    assert!(!store.forget_node(&name, node(1), None).await.unwrap().outcome, "there is nothing left");

    // The next one at this address begins with nothing, for the store as for proxies.
    assert_eq!(owners_of_new(store, "forget", "after", &[1, 2]).await, nodes(&[1]).into_iter().collect());
    let mut events = news(store, "forget", &start).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = events.pop().unwrap();
    assert_eq!((event.kind, event.reason), (ChangeKind::Node, Reason::Deleted));
    assert_eq!((event.node, event.version), (Some(node(1)), Some(2)));
    assert_eq!(event.correlation_id.as_deref(), Some("cid-4"));
    let left = event.record.unwrap();
    assert!(left.forgotten && left.takes_new_sessions(now_ms()));
    assert_eq!((left.weight, left.boot_id.as_ref(), left.note.as_ref()), (None, None, None));
    // A proxy that missed the event finds the record here for a while.
    assert_eq!(store.nodes(&name).await.unwrap(), [left]);

    assert_eq!(change(store, "forget", 1, to_state(NodeState::Standby)).await, 3);
    let records = store.nodes(&name).await.unwrap();
    assert_eq!((records[0].state, records[0].forgotten), (NodeState::Standby, false));
}

/// All that is counted from this position on. A busy machine does it in several parts, each of which has its time.
async fn count_on(store: &dyn Store, name: &PoolName, after: Option<Cursor>) -> (CountReply, usize) {
    let (mut next, mut parts, mut sum) = (after, 0, CountReply::default());
    loop {
        let limit = if parts == 0 && next.is_none() { 10_000_000 } else { 500 };
        let part = store.count(name, next.as_ref(), limit).await.unwrap();
        assert_eq!(part.complete, part.next.is_none());
        sum.pins += part.pins;
        for (node, count) in part.nodes {
            *sum.nodes.entry(node).or_default() += count;
        }
        parts += 1;
        assert!(parts < 1000, "the walk ends");
        if part.complete {
            return (CountReply { complete: true, ..sum }, parts);
        }
        next = part.next;
    }
}

pub(crate) async fn sessions_of_each_node_are_counted_within_a_limit(store: &dyn Store) {
    // More than one step of a store that looks at a thousand keys in each.
    for first in (0..2400).step_by(200) {
        let asks = (first..first + 200)
            .map(|id| ask(&format!("counted-{id}"), &[if id % 3 == 0 { 1 } else { 2 }], &[]));
        store.resolve(&request("count", asks.collect())).await.unwrap();
    }
    store.end(&pool("count"), key("counted-0"), Millis(0), None).await.unwrap();
    store.resolve(&request("countless", vec![ask("counted-1", &[3], &[])])).await.unwrap();

    let (all, _) = count_on(store, &pool("count"), None).await;
    let part = store.count(&pool("count"), None, 1000).await.unwrap();

    let nodes = [(node(1), 799), (node(2), 1600)].into_iter().collect();
    assert_eq!(all, CountReply { pins: 2399, complete: true, nodes, next: None });
    assert!(!part.complete && part.pins < 2399, "{part:?}");
    let (none, _) = count_on(store, &pool("counted-nowhere"), None).await;
    assert_eq!(none, CountReply { complete: true, ..CountReply::default() });

    // Part by part they are the same.
    let (rest, parts) = count_on(store, &pool("count"), part.next.clone()).await;
    assert!(parts > 1, "{parts}");
    let mut sum = part;
    sum.pins += rest.pins;
    for (node, count) in rest.nodes {
        *sum.nodes.entry(node).or_default() += count;
    }
    assert_eq!((sum.pins, sum.nodes), (all.pins, all.nodes));
    // A position of another store is the beginning.
    let other: Cursor = "z-1".parse().unwrap();
    assert_eq!(count_on(store, &pool("count"), Some(other)).await.0.pins, 2399);
}
