//! Pins of sessions whose ids Berth issues: one place for a browser's first requests, and pins that wait for the cookie.

use berth_core::time::Millis;
use berth_harness::{State, World};
use serde_json::json;

use crate::support::issuing::{Way, begin, browser, cookie_of, issuing};
use crate::support::patience::impatient;
use crate::support::pinning::{all_see, patiently, patiently_pinned};
use crate::support::shown;

/// How long the pin of an issued id lives until its cookie comes back.
const ISSUED: Millis = Millis(60_000);

/// How long the pin of this cookie's session lives yet, and how long it lives unused once that is back.
async fn lives(world: &World, cookie: &str) -> (Millis, Millis) {
    let id = cookie.strip_prefix("sid=").unwrap();
    let pin = world.pin_of("nodes", id).await.unwrap_or_else(|| panic!("{cookie} has no pin"));
    (Millis(pin.ttl_ms), Millis(pin.idle_ttl_ms.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_session_whose_cookie_comes_back_keeps_its_pin() {
    for (ttl, full) in [(None, Millis(1_800_000)), (Some("2h"), Millis(7_200_000))] {
        let builder = issuing(impatient().nodes(6), json!({"name": "sid", "max_age": "12h"}));
        let builder = builder.configuration(move |json| json["pools"][0]["session"]["ttl"] = json!(ttl));
        let world = patiently_pinned(builder, &[]).start().await;
        all_see(&world, &[("active", 6)]).await;
        for way in [Way::AtOnce, Way::OneByOne] {
            let (cookies, node) = begin(&world, way, 6).await;
            for cookie in &cookies {
                let (life, idle) = lives(&world, cookie).await;
                assert!(life <= ISSUED && idle == full, "{life:?} of {idle:?}");
            }

            // Through whichever worker: each asks.
            let (kept, others) = cookies.split_last().unwrap();
            for worker in 0..4 {
                let next = browser(&world).get("/").header("cookie", kept).send().await;
                assert_eq!(next.node(), node);
                assert!(worker > 0 || shown(&next, "outcome") == "found", "{next:?}");
            }

            assert!(lives(&world, kept).await.0 > ISSUED);
            for cookie in others {
                assert!(lives(&world, cookie).await.0 < ISSUED);
            }
            // And the others as long as they live.
            let late = browser(&world).get("/").header("cookie", &others[0]).send().await;
            assert_eq!((late.node(), shown(&late, "outcome")), (&*node, "found"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_join_before_a_cookie_comes_back_take_no_session() {
    let builder = issuing(impatient().nodes(3), json!({"name": "sid"}));
    let world = patiently(builder, State::memory()).start().await;
    all_see(&world, &[("active", 3)]).await;
    let mut begun = Vec::new();
    for _ in 0..40 {
        begun.push(browser(&world).get("/").send().await);
    }

    world.add_node().await;
    world.add_node().await;
    all_see(&world, &[("active", 5)]).await;

    for first in begun {
        let next = browser(&world).get("/").header("cookie", cookie_of(&first)).send().await;
        assert_eq!((next.node(), shown(&next, "outcome")), (first.node(), "found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_begins_a_session_keeps_it() {
    let builder = issuing(impatient(), json!({"name": "sid"}));
    let builder = builder.configuration(|json| json["pools"][0]["session"]["ttl"] = "4s".into());
    let world = patiently(builder, State::memory()).start().await;
    all_see(&world, &[("active", 3)]).await;
    let mut socket = browser(&world).get("/chat").websocket().await;
    let cookie = socket.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();

    tokio::time::sleep(std::time::Duration::from_secs(6)).await;

    assert_eq!(socket.echo("still there").await.as_deref(), Some("still there"));
    lives(&world, &cookie).await;
    let next = browser(&world).get("/").header("cookie", &cookie).send().await;
    assert_eq!(next.node(), socket.node());
    // As long as it is there no other request asks for it.
    assert!(["hit", "found"].contains(&shown(&next, "outcome")), "{next:?}");
}
