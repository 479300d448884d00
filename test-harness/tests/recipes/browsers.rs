//! The recipe for pages in browsers.

use berth_harness::{Client, hyper::Method};
use serde_json::{Value, json};

use crate::page::Page;
use crate::story::{running, settled, survives};
use crate::support::issuing::cookie_of;
use crate::support::{manager, pool};

const ORIGIN: &str = "https://app.example.com";

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_keeps_a_cookie_and_pages_of_the_named_origin_may_ask() {
    let page = Page::open("browsers.md");
    let (filter, policy) = (page.envoy(0), page.envoy(1));
    let world = running(page.plugin()).bootstrap(move |json| {
        manager(json)["http_filters"].as_array_mut().unwrap().insert(0, filter.clone());
        manager(json)["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = policy.clone();
    });
    let world = world.start().await;
    settled(&world, "web", &[("active", 4)]).await;
    let served = || world.nodes().iter().map(|node| node.requests()).sum::<u64>();

    let before = served();
    let preflight = world.request(Method::OPTIONS, "/cart").header("origin", ORIGIN);
    let preflight = preflight.header("access-control-request-method", "PUT").send().await;
    assert_eq!((preflight.status.as_u16(), served()), (200, before), "{preflight:?}");
    assert_eq!(preflight.header("access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(preflight.header("access-control-allow-credentials"), Some("true"));
    let stranger = world.get("/").header("origin", "https://evil.example").send().await;
    assert_eq!(stranger.header("access-control-allow-origin"), None);

    let first = world.get("/").header("origin", ORIGIN).send().await;
    let set = first.header("set-cookie").unwrap();
    assert!(set.contains("Secure") && set.contains("Max-Age=43200"), "{set}");
    assert_eq!(first.header("access-control-allow-origin"), Some(ORIGIN));
    let mut visitors = vec![cookie_of(&first)];
    for _ in 0..20 {
        visitors.push(cookie_of(&Client::new(world.envoy(0).address()).get("/").send().await));
    }
    let visit = |client: &Client, cookie: &str| client.get("/").header("cookie", cookie);
    let again = visit(&world.envoy(1).client(), &visitors[0]).send().await;
    assert_eq!(again.node(), first.node(), "through another proxy");
    survives(&world, ("web", "warming"), &visitors, visit).await;

    // An answer of Berth's own, which the page may read.
    let reject = |json: &mut Value| pool(json)["session"]["missing"] = json!("reject");
    world.envoy(0).reload(reject).await.unwrap();
    let refused = world.get("/").header("origin", ORIGIN).send().await;
    assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (400, Some(ORIGIN)));
}
