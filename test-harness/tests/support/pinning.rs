//! Tests of pins on several Envoys: many sessions through all of them, all workers of one, and what the store says.

use std::collections::BTreeMap;

use berth_harness::{Builder, Client, Envoy, Request, Response, State, World};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::patience::{cluster, nodes_become};

/// Requests under way at once: enough to keep two cores busy.
const CONCURRENCY: usize = 32;

/// Connections so many that each of four workers has one of them: one of 40 million runs is less lucky.
const CONNECTIONS: usize = 64;

/// Pins in a Redis, and all the time it needs: what happens without its answer is another file's matter, and a test's
/// machine is busier than any that serves users. More flags of `berth serve` in pairs.
pub(crate) fn patiently_pinned(builder: Builder, flags: &[(&str, &str)]) -> Builder {
    let state = State::redis().flag("--store-timeout", "4s");
    patiently(builder, flags.iter().fold(state, |state, (name, value)| state.flag(name, value)))
}

/// The same patience of the filter, with any state cluster.
pub(crate) fn patiently(builder: Builder, state: State) -> Builder {
    builder.state(state).configuration(|json| json["state"]["timeout"] = "5s".into()).bootstrap(|json| {
        let services = cluster(json, "berth_state");
        services["connect_timeout"] = "5s".into();
        services["health_checks"][0]["timeout"] = "5s".into();
    })
}

/// Waits until every Envoy says that so many of its nodes are in each of these states, and its workers know.
pub(crate) async fn all_see(world: &World, states: &[(&str, u64)]) {
    join_all(world.envoys().iter().map(|envoy| nodes_become(envoy, states))).await;
}

/// The node of each session, which is asked for through all Envoys at the same moment and must be one.
pub(crate) async fn agreed_nodes_of(world: &World, sessions: &[String]) -> Vec<String> {
    let clients: Vec<Client> = world.envoys().iter().map(Envoy::client).collect();
    let ask = async |session: &String| {
        let answers = join_all(clients.iter().map(|client| of(client, session).send())).await;
        let is_split = answers.iter().any(|answer| answer.node() != answers[0].node());
        let headers: Vec<Option<&str>> = answers.iter().map(|answer| answer.header("x-berth")).collect();
        assert!(!is_split, "{session} is split: {headers:?}");
        answers[0].node().to_owned()
    };
    let asks: Vec<_> = sessions.iter().map(ask).collect();
    stream::iter(asks).buffered(CONCURRENCY).collect().await
}

/// A request of this session.
pub(crate) fn of(client: &Client, session: &str) -> Request {
    client.get("/").header("x-session-id", session)
}

/// Clients with a connection each, so many that every worker has some of them.
pub(crate) fn workers(envoy: &Envoy) -> Vec<Client> {
    (0..CONNECTIONS).map(|_| Client::new(envoy.address())).collect()
}

/// One answer for this session from each of these clients, asked at once.
pub(crate) async fn from_each(clients: &[Client], session: &str) -> Vec<Response> {
    join_all(clients.iter().map(|client| of(client, session).send())).await
}

/// The session notices that the nodes received with these requests, and how often each occurred. A version, which is a time,
/// is shown as N.
pub(crate) fn notices<'a>(answers: impl IntoIterator<Item = &'a Response>) -> BTreeMap<String, usize> {
    let mut notices = BTreeMap::new();
    for answer in answers {
        for (_, value) in answer.received().headers.iter().filter(|(name, _)| name == "x-berth-session") {
            let notice = String::from_utf8_lossy(value);
            let (said, version) = notice.split_once("version=").expect("a notice says its version");
            assert!(version.parse::<u64>().is_ok_and(|version| (1..1 << 53).contains(&version)), "{notice}");
            *notices.entry(format!("{said}version=N")).or_default() += 1;
        }
    }
    notices
}

/// The sessions that are elsewhere than before.
pub(crate) fn moved<'s>(sessions: &'s [String], before: &[String], after: &[String]) -> Vec<&'s String> {
    assert_eq!((sessions.len(), sessions.len()), (before.len(), after.len()));
    let pairs = sessions.iter().zip(before.iter().zip(after));
    pairs.filter(|(_, (before, after))| before != after).map(|(session, _)| session).collect()
}

/// How many sessions each node has.
pub(crate) fn shares(nodes: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for node in nodes {
        *shares.entry(node.as_str()).or_default() += 1;
    }
    shares
}
