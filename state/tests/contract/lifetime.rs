//! How long a pin lives.

use super::*;

async fn touch_one(store: &dyn Store, name: &str, id: &str) -> TouchReply {
    let request = TouchRequest { pool: pool(name), keys: vec![key("unknown"), key(id)], pins: vec![] };
    let reply = store.touch(&request).await.unwrap();
    assert_eq!(reply.ttl_ms, KEEPING.ttl.0);
    reply
}

pub(crate) async fn idle_times_and_ends_are_remembered(store: &dyn Store) {
    let now = now_ms();
    let lasting = |ttl_ms, ends_ms| SessionAsk { ttl_ms, ends_ms, ..ask("a", &[1, 2], &[]) };
    let with_creation = SessionAsk { created_ms: Some(now - 5_000), ..lasting(Some(3_600_000), None) };

    let claimed = resolve_one(store, "lives", with_creation).await;
    assert_eq!(claimed, Pin { ttl_ms: Some(3_600_000), ..pin("a", Outcome::Claimed, 1, 1) });
    // A resolve that says none, and a touch, keep it.
    let found = resolve_one(store, "lives", lasting(None, None)).await;
    assert_eq!(found, Pin { ttl_ms: Some(3_600_000), ..pin("a", Outcome::Found, 1, 1) });
    let touched = touch_one(store, "lives", "a").await;
    assert_eq!((touched.touched, touched.missing.len()), (1, 1));
    assert_eq!(touched.ttls_ms, [(key("a"), 3_600_000)].into());
    let session = store.session(&pool("lives"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.idle_ttl_ms, session.created_ms), (Some(3_600_000), Some(now - 5_000)));
    assert!(session.ttl_ms > 3_000_000 && session.ends_ms.is_none());

    // As long as all others is not worth a word.
    assert_eq!(
        resolve_one(store, "lives", lasting(Some(60_000), None)).await,
        pin("a", Outcome::Found, 1, 1)
    );
    assert!(touch_one(store, "lives", "a").await.ttls_ms.is_empty());

    // The earliest end counts, also where a rehome rewrites the pin.
    let ends = now + 30_000;
    for said in [Some(ends + 10_000), Some(ends), Some(ends + 20_000), None] {
        resolve_one(store, "lives", lasting(None, said)).await;
    }
    let rehomed =
        resolve_one(store, "lives", SessionAsk { unusable: nodes(&[1]), ..lasting(None, None) }).await;
    assert_eq!((rehomed.outcome, &rehomed.node), (Outcome::Rehomed, &node(2)));
    assert!(rehomed.ttl_ms.is_some_and(|life| life <= 30_000), "{rehomed:?}");
    let touched = touch_one(store, "lives", "a").await;
    assert!(touched.ttls_ms[&key("a")] <= 30_000);
    let session = store.session(&pool("lives"), key("a")).await.unwrap().unwrap();
    assert_eq!((session.ends_ms, session.idle_ttl_ms), (Some(ends), Some(60_000)));
    assert!(session.ttl_ms <= 30_000);
    // Who inherits the node inherits no time: its token says its own.
    let heir = resolve_one(store, "lives", rotated("b", "a", &[1], &[])).await;
    assert_eq!(heir, pin("b", Outcome::Found, 2, 1));
}

pub(crate) async fn a_claim_may_live_shorter_until_it_is_used(store: &dyn Store) {
    let briefly = |id| SessionAsk { claim_ttl_ms: Some(1_000), ..ask(id, &[1], &[]) };
    let (name, shortly) =
        (pool("briefly"), |id| Pin { ttl_ms: Some(1_000), ..pin(id, Outcome::Claimed, 1, 1) });
    for id in ["unused", "asked", "touched"] {
        assert_eq!(resolve_one(store, "briefly", briefly(id)).await, shortly(id));
    }
    // Longer than its idle time is as if nothing were said.
    let own = SessionAsk { ttl_ms: Some(1_000), claim_ttl_ms: Some(30_000), ..ask("own", &[1], &[]) };
    assert_eq!(resolve_one(store, "briefly", own).await, shortly("own"));

    // A question that finds the pin claims nothing, whatever it says of claims.
    assert_eq!(resolve_one(store, "briefly", briefly("asked")).await, pin("asked", Outcome::Found, 1, 1));
    assert!(touch_one(store, "briefly", "touched").await.ttls_ms.is_empty());
    eventually_async("the end of the unused", || async {
        store.session(&name, key("unused")).await.unwrap().is_none()
    })
    .await;
    for id in ["asked", "touched"] {
        let session = store.session(&name, key(id)).await.unwrap().unwrap();
        assert_eq!((session.idle_ttl_ms, session.ttl_ms > 30_000), (Some(60_000), true), "{session:?}");
    }
}

pub(crate) async fn what_has_ended_is_answered_and_not_stored(store: &dyn Store) {
    let over = |ask| SessionAsk { ends_ms: Some(1), ..ask };
    let nothing = |pin| Pin { ttl_ms: Some(0), ..pin };
    for version in 1..=2 {
        let claimed = resolve_one(store, "over", over(ask("a", &[1], &[]))).await;
        assert_eq!(claimed, nothing(pin("a", Outcome::Claimed, 1, version)));
    }
    // One that is there goes with its end.
    resolve(store, "over", "b", &[1], &[]).await;
    let found = resolve_one(store, "over", over(ask("b", &[2], &[]))).await;
    assert_eq!(found, nothing(pin("b", Outcome::Found, 1, 1)));
    for id in ["a", "b"] {
        assert_eq!(store.session(&pool("over"), key(id)).await.unwrap(), None);
        assert_eq!(touch_one(store, "over", id).await.touched, 0);
    }
    // What is remembered of an ended session is still there for the one that is stored.
    resolve(store, "over", "c", &[1], &[]).await;
    store.end(&pool("over"), key("c"), Millis(0), None).await.unwrap();
    let claimed = resolve_one(store, "over", over(ask("c", &[1], &[]))).await;
    assert_eq!(claimed, nothing(pin("c", Outcome::Claimed, 1, 2)));
    assert_eq!(resolve(store, "over", "c", &[1], &[]).await, pin("c", Outcome::Claimed, 1, 3));
}

pub(crate) async fn pins_live_no_longer_than_their_sessions(store: &dyn Store) {
    let ends = now_ms() + 1_500;
    let ending = SessionAsk { ends_ms: Some(ends), ..ask("ending", &[1], &[]) };
    let idle = SessionAsk { ttl_ms: Some(1_000), ..ask("idle", &[1], &[]) };
    store.resolve(&request("ends", vec![ending, idle])).await.unwrap();
    let touch = TouchRequest { pool: pool("ends"), keys: vec![key("ending")], pins: vec![] };

    // However much it is used.
    eventually_async("the end", || async {
        let gone = !store.touch(&touch).await.unwrap().missing.is_empty();
        assert!(gone || now_ms() <= ends + 100, "lives after its end");
        gone
    })
    .await;
    assert!(now_ms() + 100 >= ends, "ended too early");
    eventually_async("the idle time", || async {
        store.session(&pool("ends"), key("idle")).await.unwrap().is_none()
    })
    .await;
}

pub(crate) async fn an_end_that_comes_late_leaves_newer_pins_alone(store: &dyn Store) {
    let (name, old) = (pool("late-end"), Duration::from_secs(1));
    let age = async |id: &str| store.session(&name, key(id)).await.unwrap().map(|pin| Millis(pin.age_ms));
    let minute = Millis(60_000);
    assert!(!store.end(&name, key("old"), minute, None).await.unwrap().outcome, "there is no pin");
    for id in ["old", "moved"] {
        resolve(store, "late-end", id, &[1, 2], &[]).await;
    }
    let start = store.head(&name).await.unwrap();

    // Claimed after it ended: nothing changes, and it can be found where it is.
    assert!(!store.end(&name, key("old"), minute, Some("late")).await.unwrap().outcome);
    assert_eq!(news(store, "late-end", &start).await, []);
    assert_eq!(resolve(store, "late-end", "old", &[2, 1], &[]).await, pin("old", Outcome::Found, 1, 1));

    // One that was moved since is in use since, however old it is.
    tokio::time::sleep(old).await;
    let age_of_moved = age("moved").await.unwrap();
    resolve(store, "late-end", "moved", &[2], &[1]).await;
    assert!(!store.end(&name, key("moved"), age_of_moved, None).await.unwrap().outcome);
    assert_eq!(resolve(store, "late-end", "moved", &[3], &[]).await, pin("moved", Outcome::Found, 2, 2));

    // Neither a resolve nor a touch makes a pin newer than the end; and just as old is old enough.
    let touch = TouchRequest { pool: name.clone(), keys: vec![key("old")], pins: vec![] };
    store.touch(&touch).await.unwrap();
    let age_of_old = age("old").await.unwrap();
    assert!(age_of_old >= Millis(old.as_millis() as u64));
    let before = store.head(&name).await.unwrap();
    assert!(store.end(&name, key("old"), age_of_old, Some("late")).await.unwrap().outcome);
    assert_eq!(age("old").await, None);
    let events = news(store, "late-end", &before).await;
    assert_eq!((events.len(), events[0].kind, events[0].version), (1, ChangeKind::Ended, Some(1)));

    // The session that begins then is a newer one, also for an end that is said again.
    assert_eq!(resolve(store, "late-end", "old", &[3], &[]).await, pin("old", Outcome::Claimed, 3, 2));
    assert!(!store.end(&name, key("old"), age_of_old, None).await.unwrap().outcome);
    assert!(store.end(&name, key("old"), Millis(0), None).await.unwrap().outcome);
}

pub(crate) async fn pins_expire(store: &dyn Store) {
    resolve(store, "expire", "a", &[1, 2], &[]).await;
    resolve(store, "expire", "a", &[2, 3], &[1]).await;
    let touch = TouchRequest { pool: pool("expire"), keys: vec![key("a")], pins: vec![] };
    // Touched, it outlives its time.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(2 * SHORT.ttl.0) {
        assert_eq!(store.touch(&touch).await.unwrap().missing, []);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    eventually_async("expiry", || async {
        !store.touch(&touch).await.unwrap().missing.is_empty() || {
            // Asking was a touch; leave it alone for its time.
            tokio::time::sleep(Duration::from_millis(SHORT.ttl.0 + 50)).await;
            false
        }
    })
    .await;

    assert_eq!(resolve(store, "expire", "a", &[3], &[]).await, pin("a", Outcome::Claimed, 3, 3));
}
