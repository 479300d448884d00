//! Cookies that Berth issues: sessions that begin together have one place, and a cookie lasts as long as its session.

use std::collections::{BTreeMap, BTreeSet};

use berth_harness::{Response, World, eventually};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::issuing::{Way, begin, browser, cookie_of, issuing};
use crate::support::patience::{impatient, nodes_become};
use crate::support::{SOON, placing, shown};

#[tokio::test(flavor = "multi_thread")]
async fn whichever_cookie_a_browser_keeps_of_its_first_requests_leads_to_the_node_that_answered_them() {
    let builder = || issuing(World::builder().nodes(6), json!({"name": "sid", "max_age": "12h"}));
    // The oldest Envoy numbers its connections, too.
    let oldest = placing(builder().envoy_version("1.36.2")).await;
    begin(&oldest, Way::AtOnce, 6).await;
    let world = placing(builder()).await;
    for way in [Way::AtOnce, Way::OneByOne] {
        let mut places = BTreeSet::new();
        for _ in 0..15 {
            let (cookies, node) = begin(&world, way, 6).await;
            // Through whichever worker.
            for cookie in &cookies {
                let next = browser(&world).get("/").header("cookie", cookie).send().await;
                assert_eq!((next.node(), shown(&next, "reason")), (&*node, "owner"), "{way:?}");
            }
            places.insert(node);
        }
        assert!(places.len() > 2, "browsers are spread over the nodes: {places:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_users_of_one_connection_have_a_session_each() {
    let world = placing(issuing(World::builder().nodes(6), json!({"name": "sid"}))).await;
    let proxy = browser(&world);

    let answers = join_all((0..50).map(|_| proxy.get("/").http2().send())).await;

    let homes: BTreeMap<String, &str> =
        answers.iter().map(|answer| (cookie_of(answer), answer.node())).collect();
    assert_eq!(homes.len(), 50);
    for (cookie, home) in homes {
        let next = proxy.get("/").http2().header("cookie", cookie).send().await;
        assert_eq!((next.node(), next.header("set-cookie")), (home, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_begin_after_their_place_failed_have_another_one_together() {
    let world = issuing(impatient().nodes(4), json!({"name": "sid"})).start().await;
    nodes_become(world.envoy(0), &[("active", 4)]).await;
    let browser = browser(&world);
    let first = browser.get("/").http2().send().await;

    world.node_named(first.node()).fail_health();
    nodes_become(world.envoy(0), &[("cooldown", 1)]).await;
    let others = join_all((0..5).map(|_| browser.get("/").http2().send())).await;

    let nodes: BTreeSet<&str> = others.iter().map(Response::node).collect();
    assert!(nodes.len() == 1 && !nodes.contains(first.node()), "{} then {nodes:?}", first.node());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_use_keeps_its_id_beyond_the_age_of_its_cookie() {
    let cookie = json!({"name": "__Secure-sid", "max_age": "12s", "secure": true, "same_site": "none",
                        "domain": "example.com", "partitioned": true});
    let builder = World::builder().concurrency(1).configuration(move |json| {
        json["pools"][0]["session"] =
            json!({"sources": [{"cookie": "__Secure-sid"}], "missing": {"issue_cookie": cookie}});
    });
    let world = placing(builder).await;
    let first = world.get("/").send().await;
    let (set, kept) = (first.header("set-cookie").unwrap(), cookie_of(&first));
    assert_eq!(
        set.strip_prefix(&kept).unwrap(),
        "; Path=/; Domain=example.com; Max-Age=12; SameSite=None; Secure; HttpOnly; Partitioned"
    );
    let next = async || world.get("/").header("cookie", &kept).send().await;

    assert_eq!(next().await.header("set-cookie"), None, "it was set just now");
    // A quarter of the age later it is set again, and not with each answer.
    let renewed = async || next().await.header("set-cookie") == Some(set);
    eventually(renewed, SOON).await;
    let after = next().await;
    assert_eq!((after.header("set-cookie"), shown(&after, "reason")), (None, "owner"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_worker_renews_a_cookie_that_it_has_not_set_once() {
    let world = placing(issuing(World::builder(), json!({"name": "sid", "max_age": "12h"}))).await;
    let first = world.get("/").send().await;
    let cookie = cookie_of(&first);

    let mut set = 0;
    for _ in 0..48 {
        let answer = browser(&world).get("/").header("cookie", &cookie).send().await;
        assert_eq!((answer.node(), shown(&answer, "reason")), (first.node(), "owner"));
        set += answer
            .headers
            .get_all("set-cookie")
            .iter()
            .map(|_| assert_eq!(cookie_of(&answer), cookie))
            .count();
    }
    // One of two workers has issued it.
    assert_eq!(set, 1);
    // A session that came in some other way is not Berth's to renew.
    let theirs = browser(&world).get("/").header("cookie", "sid=alice").send().await;
    assert_eq!(theirs.header("set-cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_cookies_name_no_session_where_ids_are_signed() {
    let keys = ["A".repeat(43), "I".repeat(43)];
    let builder = issuing(World::builder().nodes(4), json!({"name": "sid", "signing_keys": keys}));
    let world = placing(builder).await;
    let first = browser(&world).get("/").send().await;
    let cookie = cookie_of(&first);
    assert_eq!(cookie.len(), "sid=".len() + 64);

    // Through either worker.
    for _ in 0..8 {
        let next = browser(&world).get("/").header("cookie", &cookie).send().await;
        assert_eq!((next.node(), next.header("set-cookie")), (first.node(), None));
    }
    let mut changed = cookie.clone().into_bytes();
    changed[10] = if changed[10] == b'0' { b'1' } else { b'0' };
    for invented in ["sid=alice", &cookie[..36], std::str::from_utf8(&changed).unwrap()] {
        let next = browser(&world).get("/").header("cookie", invented).send().await;
        assert_ne!(cookie_of(&next), cookie, "another session begins");
        assert_ne!(cookie_of(&next), invented);
    }
    // One of another path or domain stands before it, and browsers send it for as long as it lives.
    for both in [format!("sid=junk; {cookie}"), format!("{cookie}; sid=junk")] {
        let next = browser(&world).get("/").header("cookie", &both).send().await;
        assert_eq!((next.node(), next.header("set-cookie")), (first.node(), None));
    }
}
