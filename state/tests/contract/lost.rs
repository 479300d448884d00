//! What becomes of writes that the store lost, and that a proxy still knows: of two versions the newer one stays, of two claims the
//! earlier one.

use berth_core::wire::{KnownPin, TouchedPin};

use super::*;

fn known(version: u64, number: u16) -> KnownPin {
    KnownPin { version, node: node(number) }
}

pub(crate) fn knowing(ask: SessionAsk, version: u64, number: u16) -> SessionAsk {
    SessionAsk { known: Some(known(version, number)), ..ask }
}

async fn touch(store: &dyn Store, name: &str, id: &str, known: KnownPin) -> TouchReply {
    let pins = vec![TouchedPin { key: key(id), known, lives_ms: Some(600_000) }];
    store.touch(&TouchRequest { pool: pool(name), keys: vec![], pins }).await.unwrap()
}

pub(crate) async fn owner(store: &dyn Store, name: &str, id: &str) -> Option<KnownPin> {
    let session = store.session(&pool(name), key(id)).await.unwrap()?;
    Some(KnownPin { version: session.version, node: session.node })
}

pub(crate) async fn a_touch_brings_back_what_was_lost(store: &dyn Store) {
    let claimed = resolve(store, "lost", "a", &[1], &[]).await.version;
    let start = store.head(&pool("lost")).await.unwrap();

    // What is as new is the same, or has changed.
    assert_eq!(touch(store, "lost", "a", known(claimed, 1)).await.changed, []);
    assert_eq!(touch(store, "lost", "a", known(claimed, 2)).await.changed, [key("a")]);
    assert_eq!(owner(store, "lost", "a").await, Some(known(claimed, 1)));
    assert_eq!(news(store, "lost", &start).await, []);

    // What is newer was lost. All others learn of it, also those who knew the owner before.
    let reply = touch(store, "lost", "a", known(claimed + 7, 2)).await;
    assert_eq!((reply.touched, reply.changed), (1, vec![]));
    assert_eq!(owner(store, "lost", "a").await, Some(known(claimed + 7, 2)));
    let events = news(store, "lost", &start).await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].reason), (ChangeKind::Rehomed, Reason::Recovered));
    assert_eq!((events[0].node.clone(), events[0].version), (Some(node(2)), Some(claimed + 7)));
    assert_eq!(touch(store, "lost", "a", known(claimed, 1)).await.changed, [key("a")]);

    // The next is newer than all that were known.
    let rehomed = resolve(store, "lost", "a", &[3], &[2]).await;
    assert!(rehomed.version > claimed + 7 && rehomed.node == node(3), "{rehomed:?}");
    // One that comes from another clock is not believed.
    let foreign = (now_ms() + 2 * 86_400_000) * 1000;
    assert_eq!(touch(store, "lost", "a", known(foreign, 1)).await.changed, [key("a")]);
    assert_eq!(owner(store, "lost", "a").await, Some(known(rehomed.version, 3)));
    // One that is not there is as it was known, for all others too; and as any that is there when it is said again.
    // Until a request has said how long it lives it lives no longer for that, and each who touches it is to know.
    for _ in 0..2 {
        let reply = touch(store, "lost", "b", known(claimed, 1)).await;
        let written = (reply.touched, reply.missing, reply.changed, reply.written);
        assert_eq!(written, (1, vec![], vec![], vec![key("b")]));
        assert_eq!(owner(store, "lost", "b").await, Some(known(claimed, 1)));
        let left = store.session(&pool("lost"), key("b")).await.unwrap().unwrap().ttl_ms;
        assert!((590_000..=600_000).contains(&left), "{left}");
    }
    // For as long as is said, and not for the service's own time: how long the session lives was lost as well.
    assert_eq!(touch(store, "lost", "brief", known(claimed, 1)).await.written, [key("brief")]);
    let brief = store.session(&pool("lost"), key("brief")).await.unwrap().unwrap();
    assert!((590_000..=600_000).contains(&brief.ttl_ms), "{brief:?}");
    assert!(brief.age_ms < 60_000 && brief.age_ms >= brief.owned_ms, "{brief:?}");
    let found = resolve(store, "lost", "b", &[2], &[]).await;
    assert_eq!(found, pin("b", Outcome::Found, 1, claimed));
    assert_eq!(touch(store, "lost", "b", known(claimed, 1)).await.written, []);
    // Also one of a service that counted versions from 1.
    assert_eq!(touch(store, "lost", "old", known(1, 1)).await.touched, 1);
    assert_eq!(owner(store, "lost", "old").await, Some(known(1, 1)));
    let old = vec![knowing(ask("older", &[2], &[]), 1, 1)];
    let found = store.resolve(&request("lost", old)).await.unwrap().remove(0);
    assert_eq!((found.outcome, found.node, found.version), (Outcome::Found, node(1), 1));
    assert_eq!(owner(store, "lost", "older").await, Some(known(1, 1)));
    // A request has said the rest of it.
    assert_eq!(touch(store, "lost", "older", known(1, 1)).await.written, []);
    // How long it lives was lost: that it is short is no news.
    touch(store, "lost", "short", known(claimed, 1)).await;
    let start = store.head(&pool("lost")).await.unwrap();
    let lives = SessionAsk { ttl_ms: Some(20_000), ..ask("short", &[1], &[]) };
    assert_eq!(resolve_one(store, "lost", lives).await.version, claimed);
    assert_eq!(news(store, "lost", &start).await, []);
    // Of one that is from another clock nothing is known.
    assert_eq!(touch(store, "lost", "c", known(foreign, 1)).await.missing, [key("c")]);
    // One that has ended stays so.
    store.end(&pool("lost"), key("b"), Millis(0), None).await.unwrap();
    assert_eq!(touch(store, "lost", "b", known(claimed, 1)).await.missing, [key("b")]);
    assert_eq!(owner(store, "lost", "b").await, None);
}

pub(crate) async fn a_question_brings_back_what_was_lost(store: &dyn Store) {
    let claimed = resolve(store, "known", "a", &[1], &[]).await.version;

    let found = resolve_one(store, "known", knowing(ask("a", &[2], &[]), claimed + 7, 3)).await;
    assert_eq!(found, pin("a", Outcome::Found, 3, claimed + 7));
    let rehomed = resolve_one(store, "known", knowing(ask("a", &[4], &[5]), claimed + 9, 5)).await;
    assert_eq!((rehomed.from, rehomed.node, rehomed.version > claimed + 9), (Some(node(5)), node(4), true));
    let found = resolve_one(store, "known", knowing(ask("a", &[2], &[]), claimed, 1)).await;
    assert_eq!(found, pin("a", Outcome::Found, 4, rehomed.version));

    // A pin that is not there stays where it was, and those who know it learn nothing.
    let here = resolve_one(store, "known", knowing(ask("b", &[2, 1], &[]), claimed, 1)).await;
    assert_eq!(here, pin("b", Outcome::Found, 1, claimed));
    // As any pin it is moved only if its node is out, and with a word about it.
    change(store, "known", 1, to_state(NodeState::Draining)).await;
    let drained = resolve_one(store, "known", knowing(ask("c", &[2], &[]), claimed, 1)).await;
    assert_eq!(drained, pin("c", Outcome::Found, 1, claimed));
    let start = store.head(&pool("known")).await.unwrap();
    let out = resolve_one(store, "known", knowing(ask("d", &[2], &[1]), claimed, 1)).await;
    assert!(out.from == Some(node(1)) && out.node == node(2) && out.version > claimed, "{out:?}");
    assert_eq!(news(store, "known", &start).await.len(), 1);
    let strict = SessionAsk { strict: true, ..knowing(ask("e", &[2], &[1]), claimed, 1) };
    assert_eq!(resolve_one(store, "known", strict).await, pin("e", Outcome::Found, 1, claimed));
    // And before what a former key says.
    resolve(store, "known", "old", &[3], &[]).await;
    let heir = knowing(rotated("f", "old", &[2], &[]), claimed, 1);
    assert_eq!(resolve_one(store, "known", heir).await, pin("f", Outcome::Found, 1, claimed));
}

/// A session's pin is lost, and a proxy that does not know the session claims it elsewhere. Another proxy knows the pin.
pub(crate) async fn the_earlier_of_two_claims_stays(store: &dyn Store) {
    let earlier = now_ms() * 1000 - 5_000_000;
    for (id, touches) in [("a", true), ("b", false)] {
        let claimed = resolve(store, "twice", id, &[2], &[]).await.version;
        let start = store.head(&pool("twice")).await.unwrap();

        if touches {
            assert_eq!(touch(store, "twice", id, known(earlier, 1)).await.changed, [key(id)]);
        } else {
            let found = resolve_one(store, "twice", knowing(ask(id, &[3], &[]), earlier, 1)).await;
            assert_eq!((found.outcome, found.node), (Outcome::Found, node(1)));
        }
        let back = owner(store, "twice", id).await.unwrap();
        assert!(back.node == node(1) && back.version > claimed, "{back:?}");
        let events = news(store, "twice", &start).await;
        let said: Vec<_> =
            events.iter().map(|event| (event.reason, event.node.clone(), event.version)).collect();
        assert_eq!(said, [(Reason::Recovered, Some(node(1)), Some(back.version))]);

        // It goes back once: that is no claim.
        assert_eq!(touch(store, "twice", id, known(earlier - 7, 3)).await.changed, [key(id)]);
        assert_eq!(owner(store, "twice", id).await, Some(back));
    }
    // Neither is what was rehomed since.
    resolve(store, "twice", "c", &[2], &[]).await;
    let rehomed = resolve(store, "twice", "c", &[3], &[2]).await.version;
    assert_eq!(touch(store, "twice", "c", known(earlier, 1)).await.changed, [key("c")]);
    assert_eq!(owner(store, "twice", "c").await, Some(known(rehomed, 3)));
    // It does not go where it may not be.
    let claimed = resolve(store, "twice", "d", &[2], &[]).await.version;
    let found = resolve_one(store, "twice", knowing(ask("d", &[3], &[1]), earlier, 1)).await;
    assert_eq!(found, pin("d", Outcome::Found, 2, claimed));
    let down = NodeChange { cooldown_ms: Some(3_600_000), ..NodeChange::default() };
    change(store, "twice", 4, down).await;
    let found = resolve_one(store, "twice", knowing(ask("d", &[3], &[]), earlier, 4)).await;
    assert_eq!(found, pin("d", Outcome::Found, 2, claimed));
    assert_eq!(touch(store, "twice", "d", known(earlier, 4)).await.changed, [key("d")]);
    assert_eq!(owner(store, "twice", "d").await, Some(known(claimed, 2)));
    // Nor is one that inherited its node: its former key was known.
    resolve(store, "twice", "former", &[2], &[]).await;
    let heir = resolve_one(store, "twice", rotated("heir", "former", &[3], &[])).await;
    assert_eq!(touch(store, "twice", "heir", known(earlier, 1)).await.changed, [key("heir")]);
    assert_eq!(owner(store, "twice", "heir").await, Some(known(heir.version, 2)));
    // What began again after its end is not the session of before.
    let first = resolve(store, "twice", "e", &[1], &[]).await.version;
    store.end(&pool("twice"), key("e"), Millis(0), None).await.unwrap();
    let again = resolve(store, "twice", "e", &[2], &[]).await.version;
    assert_eq!(touch(store, "twice", "e", known(first, 1)).await.changed, [key("e")]);
    let found = resolve_one(store, "twice", knowing(ask("e", &[3], &[]), first, 1)).await;
    assert_eq!(found, pin("e", Outcome::Found, 2, again));
}

pub(crate) async fn who_missed_an_end_begins_nothing_again(store: &dyn Store) {
    let claimed = resolve(store, "over-again", "a", &[1], &[]).await.version;
    store.end(&pool("over-again"), key("a"), Millis(0), None).await.unwrap();

    let renewed = SessionAsk { renew: true, ..knowing(ask("a", &[1], &[]), claimed, 1) };
    let over = resolve_one(store, "over-again", renewed.clone()).await;
    assert_eq!((over.ttl_ms, over.version), (Some(0), claimed));
    assert_eq!(owner(store, "over-again", "a").await, None);

    // A request of its client does; and what is known of its former life says nothing of the new one.
    let begun = resolve_one(store, "over-again", knowing(ask("a", &[1], &[]), claimed, 1)).await;
    assert!(begun.outcome == Outcome::Claimed && begun.version > claimed, "{begun:?}");
    let renewed = resolve_one(store, "over-again", renewed).await;
    assert_eq!(renewed, pin("a", Outcome::Found, 1, begun.version));
    // One that was lost, and not ended, is begun again.
    let lost = SessionAsk { renew: true, ..knowing(ask("b", &[1], &[]), claimed, 1) };
    assert_eq!(resolve_one(store, "over-again", lost).await, pin("b", Outcome::Found, 1, claimed));
    // An end says that all is over that was before it, also what was lost.
    let last = resolve(store, "over-again", "c", &[1], &[]).await.version;
    tokio::time::sleep(Duration::from_millis(5)).await;
    store.end(&pool("over-again"), key("c"), Millis(0), None).await.unwrap();
    let lost = SessionAsk { renew: true, ..knowing(ask("c", &[1], &[]), last + 1_000, 2) };
    assert_eq!(resolve_one(store, "over-again", lost).await.ttl_ms, Some(0));
    // It is said again when the session has begun again since, also if that pin was lost.
    let store_lost = knowing(ask("g", &[1], &[]), claimed, 1);
    store.end(&pool("over-again"), key("g"), Millis(0), None).await.unwrap();
    let ends = SessionAsk { ends_ms: Some(now_ms() + 30), ..store_lost };
    resolve_one(store, "over-again", ends).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let start = store.head(&pool("over-again")).await.unwrap();
    for _ in 0..2 {
        store.end(&pool("over-again"), key("g"), Millis(0), None).await.unwrap();
    }
    assert_eq!(news(store, "over-again", &start).await.len(), 1);
    // Also that of a session whose pin was lost, or has never been there. It is said once.
    let start = store.head(&pool("over-again")).await.unwrap();
    for _ in 0..2 {
        assert!(!store.end(&pool("over-again"), key("d"), Millis(2), Some("cid")).await.unwrap().outcome);
    }
    let events = news(store, "over-again", &start).await;
    let said: Vec<_> = events.iter().map(|event| (event.kind, event.key, event.node.as_ref())).collect();
    assert_eq!(said, [(ChangeKind::Ended, Some(key("d")), None)]);
    let unclaimed = SessionAsk { renew: true, ..ask("d", &[1], &[]) };
    let lost = knowing(unclaimed.clone(), claimed, 1);
    for renewed in [unclaimed, lost] {
        let pins = store.resolve(&request("over-again", vec![renewed])).await.unwrap();
        assert_eq!(pins[0].ttl_ms, Some(0));
    }
    assert_eq!(owner(store, "over-again", "d").await, None);
    let begun = resolve_one(store, "over-again", ask("d", &[1], &[])).await;
    assert_eq!(begun.outcome, Outcome::Claimed);
}

pub(crate) async fn a_shorter_life_is_news(store: &dyn Store) {
    let start = store.head(&pool("shorter")).await.unwrap();
    let lives = |ttl_ms, ends_ms| SessionAsk { ttl_ms, ends_ms, ..ask("a", &[1], &[]) };
    let version = resolve_one(store, "shorter", lives(Some(50_000), None)).await.version;
    resolve_one(store, "shorter", lives(Some(55_000), None)).await;
    resolve_one(store, "shorter", lives(None, None)).await;
    resolve_one(store, "shorter", lives(None, Some(now_ms() + 3_600_000))).await;
    assert_eq!(news(store, "shorter", &start).await, []);

    resolve_one(store, "shorter", lives(Some(20_000), None)).await;
    resolve_one(store, "shorter", lives(Some(20_000), None)).await;
    resolve_one(store, "shorter", lives(None, Some(now_ms() + 10_000))).await;

    let events = news(store, "shorter", &start).await;
    let kinds: Vec<_> = events.iter().map(|event| (event.kind, event.reason, event.version)).collect();
    assert_eq!(kinds, [(ChangeKind::Superseded, Reason::Shortened, Some(version)); 2]);
}
