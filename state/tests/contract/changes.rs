//! The log of changes, and positions in it.

use super::*;

pub(crate) async fn the_origin_is_before_all_changes(store: &dyn Store) {
    let nothing = store.changes(&pool("origin"), &store.origin(), 100).await.unwrap();
    assert!(!nothing.resync && nothing.events.is_empty());
    resolve(store, "origin", "a", &[1], &[]).await;
    resolve(store, "origin", "a", &[2], &[1]).await;

    assert_eq!(news(store, "origin", &store.origin()).await.len(), 1);
    // A long log has lost its beginning.
    let reply = store.changes(&pool("resync-origin"), &store.origin(), 100).await.unwrap();
    assert!(!reply.resync);
    for turn in 0..400 {
        let (to, from) = if turn % 2 == 0 { (2, 1) } else { (1, 2) };
        resolve(store, "resync-origin", "a", &[to], &[from]).await;
    }
    assert!(store.changes(&pool("resync-origin"), &store.origin(), 100).await.unwrap().resync);
}

pub(crate) async fn changes_are_read_on_from_a_cursor(store: &dyn Store) {
    let name = pool("changes");
    let start = store.head(&name).await.unwrap();
    let nothing = store.changes(&name, &start, 100).await.unwrap();
    assert_eq!((nothing.cursor == start, nothing.resync, nothing.events.len()), (true, false, 0));

    let ids: Vec<String> = (0..40).map(|i| format!("changes-{i}")).collect();
    let sessions =
        |candidates: &[u16], unusable: &[u16]| ids.iter().map(|id| ask(id, candidates, unusable)).collect();
    store.resolve(&request("changes", sessions(&[1, 2], &[]))).await.unwrap();
    store.resolve(&request("changes", sessions(&[2, 3], &[1]))).await.unwrap();

    // A few at a time, each exactly once.
    let mut cursor = start;
    let mut seen = Vec::new();
    loop {
        let reply = store.changes(&name, &cursor, 16).await.unwrap();
        assert!(!reply.resync);
        if reply.events.is_empty() {
            break;
        }
        assert!(reply.events.len() <= 16);
        seen.extend(reply.events.iter().map(|event| event.key.unwrap()));
        cursor = reply.cursor;
    }
    assert_eq!(cursor, store.head(&name).await.unwrap());
    let mut expected: Vec<SessionKey> = ids.iter().map(|id| key(id)).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

pub(crate) async fn claims_are_no_news_and_leave_cursors_good(store: &dyn Store) {
    let name = pool("quiet");
    let start = store.head(&name).await.unwrap();
    for turn in 0..3 {
        let sessions = (0..100).map(|i| ask(&format!("quiet-{turn}-{i}"), &[1, 2], &[])).collect();
        store.resolve(&request("quiet", sessions)).await.unwrap();
    }

    let head = store.head(&name).await.unwrap();
    // A poll that waits need not look again and again: after one answer the position is the newest.
    for (after, limit) in [(&start, 100), (&start, 1), (&head, 100)] {
        let reply = store.changes(&name, after, limit).await.unwrap();
        assert_eq!((reply.cursor == head, reply.resync, reply.events), (true, false, vec![]));
    }
    resolve(store, "quiet", "quiet-0-0", &[2], &[1]).await;
    for after in [&start, &head] {
        let reply = store.changes(&name, after, 1).await.unwrap();
        assert_eq!((reply.resync, reply.events.len()), (false, 1));
        assert_eq!(reply.events[0].key, Some(key("quiet-0-0")));
    }
}

pub(crate) async fn a_cursor_that_fell_off_gets_resync(store: &dyn Store) {
    let name = pool("resync");
    resolve(store, "resync", "a", &[1, 2], &[]).await;
    let start = store.head(&name).await.unwrap();
    // Redis drops changes by the hundred.
    for turn in 0..400 {
        let (to, from) = if turn % 2 == 0 { (2, 1) } else { (1, 2) };
        resolve(store, "resync", "a", &[to], &[from]).await;
    }

    let reply = store.changes(&name, &start, 100).await.unwrap();
    assert!(reply.resync && reply.events.is_empty());

    let reply = store.changes(&name, &reply.cursor, 100).await.unwrap();
    assert!(!reply.resync && reply.events.is_empty());
    let pin = resolve(store, "resync", "a", &[3], &[1]).await;
    assert_eq!((pin.version, pin.outcome), (402, Outcome::Rehomed));
    let reply = store.changes(&name, &reply.cursor, 100).await.unwrap();
    assert_eq!((reply.resync, reply.events.len()), (false, 1));
}

pub(crate) async fn foreign_cursors_get_resync(store: &dyn Store) {
    for text in ["0", "r.g~1-1", "m0000000000000000-0", "r.3~zzzzzzzzz-0", "~"] {
        let reply = store.changes(&pool("foreign"), &text.parse().unwrap(), 10).await.unwrap();
        assert!(reply.resync, "{text}");
        assert_eq!(reply.cursor, store.head(&pool("foreign")).await.unwrap());
    }
}
