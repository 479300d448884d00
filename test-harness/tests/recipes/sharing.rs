//! Recipes for several groups of nodes behind one proxy: tenants, and versions.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_harness::{Client, Endpoint, World, eventually};
use serde_json::json;

use crate::page::Page;
use crate::story::{homes, looked_again, running, settled, survives};
use crate::support::patience::cluster;
use crate::support::{SOON, manager, sessions, shown};

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_one_tenants_nodes_moves_no_session_of_the_other() {
    let page = Page::open("tenants.md");
    let others = World::builder().nodes(3).envoys(0).start().await;
    let endpoints: Vec<_> = others
        .nodes()
        .iter()
        .map(|node| {
            let address =
                json!({"address": node.address().ip().to_string(), "port_value": node.address().port()});
            json!({"endpoint": {"address": {"socket_address": address}}})
        })
        .collect();
    let by_host = page.envoy(0);
    // As often as shipped: requests come before a check has failed.
    let checked = running(page.plugin()).health_interval(Duration::from_secs(1));
    let world = checked.bootstrap(move |json| {
        let shipped = cluster(json, "nodes").clone();
        let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
        let mut acme = shipped.clone();
        acme["name"] = "acme".into();
        let mut globex = shipped;
        globex["name"] = "globex".into();
        globex["type"] = "STATIC".into();
        globex.as_object_mut().unwrap().remove("eds_cluster_config");
        globex["load_assignment"] =
            json!({"cluster_name": "globex", "endpoints": [{"lb_endpoints": endpoints.clone()}]});
        clusters.extend([acme, globex]);
        manager(json)["route_config"] = by_host.clone();
    });
    let world = world.start().await;
    settled(&world, "globex", &[("active", 3)]).await;
    let acme = |client: &Client, id: &str| {
        client.get("/").header("host", "acme.example.com").header("x-session-id", id)
    };
    let globex = |client: &Client, id: &str| {
        client.get("/").header("host", "eu.globex.example.com").header("cookie", format!("sid={id}"))
    };
    let ids = sessions(30);
    let before = homes(&world, &ids, globex).await;
    let theirs: BTreeSet<&String> = before.iter().collect();
    assert!(theirs.iter().all(|name| others.nodes().iter().any(|node| node.name() == **name)), "{theirs:?}");

    for host in ["acme.example.com:10000", "ACME.Example.com", "Acme.example.com:80"] {
        let answer = world.get("/").header("host", host).header("x-session-id", "ada").send().await;
        assert_eq!((answer.status.as_u16(), shown(&answer, "reason")), (200, "pin"), "{host}: {answer:?}");
    }
    for host in ["globex.example.com", "globex.example.com:10000", "EU.Globex.example.com:443"] {
        let answer = world.get("/").header("host", host).header("cookie", "sid=ada").send().await;
        assert_eq!((answer.status.as_u16(), shown(&answer, "reason")), (200, "pin"), "{host}: {answer:?}");
    }
    for host in ["evilglobex.example.com", "eu.acme.example.com"] {
        let answer = world.get("/").header("host", host).header("cookie", "sid=ada").send().await;
        assert_eq!(answer.status, 404, "{host} is no tenant's: {answer:?}");
    }

    survives(&world, ("acme", "warming"), &ids, acme).await;
    let at = homes(&world, &ids, acme).await;
    let dies = world.node_named(&at[0]);
    dies.refuse().await;
    let gone = format!("acme::{}::cx_active::0", dies.name());
    for envoy in world.envoys() {
        eventually(async || envoy.admin("/clusters").await.lines().any(|line| line == gone), SOON).await;
    }
    for (session, before) in ids.iter().zip(&at) {
        let answer = acme(&world.client(), session).send().await;
        assert_eq!(answer.status, 200, "{session} of {before}: {answer:?}");
        assert_eq!(answer.node() == before, before != dies.name(), "{session} of {before}");
    }

    assert_eq!(homes(&world, &ids, globex).await, before);
    let fresh = globex(&world.client(), "fresh").send().await;
    assert_eq!((shown(&fresh, "outcome"), shown(&fresh, "reason")), ("claimed", "pin"), "{fresh:?}");
    let stranger = world.get("/").header("host", "other.example.com").send().await;
    assert_eq!(stranger.status, 404, "no route, and no rule");
}

/// The weights of three old nodes and three new ones, and whether the old ones drain.
async fn release(world: &World, old: u32, new: u32, drains: bool) {
    let step = |set: &mut berth_harness::EndpointSet| {
        for (index, endpoint) in set.iter_mut().enumerate() {
            let endpoint: &mut Endpoint = endpoint;
            endpoint.weight = if index < 3 { old } else { new };
            endpoint.health = if index < 3 && drains { "DRAINING".into() } else { endpoint.health.clone() };
        }
    };
    world.edit_endpoints(step).await;
    for envoy in world.envoys() {
        looked_again(envoy, "shop").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stick_to_their_version_while_its_share_grows() {
    let world = running(Page::open("canary.md").plugin()).nodes(6).start().await;
    settled(&world, "shop", &[("active", 6)]).await;
    let canary: BTreeSet<String> = world.nodes()[3..].iter().map(|node| node.name().to_owned()).collect();
    let visit = |client: &Client, id: &str| client.get("/").header("x-session-id", id);
    let (mut known, mut at): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());

    for (old, new, drains, least, most) in
        [(30, 1, false, 0, 12), (10, 10, false, 30, 70), (10, 10, true, 100, 100)]
    {
        release(&world, old, new, drains).await;
        assert_eq!(
            homes(&world, &known, visit).await,
            at,
            "the weights are {old} and {new}: no session moves"
        );
        let fresh: Vec<String> = (0..100).map(|number| format!("{old}-{new}-{drains}-{number}")).collect();
        let begun = homes(&world, &fresh, visit).await;
        let share = begun.iter().filter(|node| canary.contains(*node)).count();
        assert!(
            (least..=most).contains(&share),
            "{share} of 100 at weights {old} and {new}, drained {drains}"
        );
        known.extend(fresh);
        at.extend(begun);
    }
}
