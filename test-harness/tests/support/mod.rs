//! What several test files need: sessions, a world that places them, and reading what it says of that.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod fake_admin;
pub(crate) mod fake_state;
pub(crate) mod issuing;
pub(crate) mod listening;
pub(crate) mod native;
pub(crate) mod patience;
pub(crate) mod pinning;
pub(crate) mod state_away;
pub(crate) mod tokens;

use std::collections::BTreeSet;
use std::time::Duration;

use berth_core::ring::{Algorithm, MAXIMUM_POINTS, Member, Ring, RingSize, session_hash};
use berth_harness::{Builder, Client, Envoy, RawResponse, Response, World, eventually};
use futures_util::future::join_all;
use serde_json::Value;

/// More than anything here takes on a machine that does nothing else.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Connections of their own that a worker may get: that one of two gets none of 24 happens once in eight million runs.
const PROBES: usize = 24;

/// Sessions that differ.
pub(crate) fn sessions(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("session-{number}")).collect()
}

/// The pool of a plugin configuration.
pub(crate) fn pool(json: &mut Value) -> &mut Value {
    &mut json["pools"][0]
}

/// The plugin's own place in a listener.
pub(crate) fn plugin(listener: &mut Value) -> &mut Value {
    let filters = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters");
    let filters = filters.and_then(Value::as_array_mut).expect("a listener with HTTP filters");
    let berth = filters.iter_mut().find(|filter| filter["name"] == "berth").expect("the berth filter");
    &mut berth["typed_config"]["config"]
}

/// The connection manager of a bootstrap.
pub(crate) fn manager(bootstrap: &mut Value) -> &mut Value {
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    bootstrap.pointer_mut(manager).expect("a listener with a connection manager")
}

/// The routes of a bootstrap, in order.
pub(crate) fn routes(bootstrap: &mut Value) -> &mut Vec<Value> {
    let routes = &mut manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"];
    routes.as_array_mut().expect("routes")
}

/// Looks at the membership five times a second.
pub(crate) fn quick(builder: Builder) -> Builder {
    builder.configuration(|json| json["poll_interval"] = "200ms".into())
}

/// Starts a world, and returns once every worker places sessions by the members it has.
pub(crate) async fn placing(builder: Builder) -> World {
    let world = quick(builder).start().await;
    for envoy in world.envoys() {
        places(envoy).await;
    }
    world
}

/// Waits until every worker knows the members.
pub(crate) async fn places(envoy: &Envoy) {
    let placed = async || {
        let probes = (0..PROBES).map(|_| async {
            let answer = Client::new(envoy.address()).get("/").header("x-session-id", "probe").send().await;
            shown(&answer, "reason").to_owned()
        });
        let reasons: BTreeSet<String> = join_all(probes).await.into_iter().collect();
        let unplaced =
            |reason: &&String| matches!(reason.as_str(), "no_snapshot" | "no_members" | "unknown_cluster");
        reasons.iter().find(unplaced).map_or(Ok(()), |reason| Err(reason.clone()))
    };
    eventually(placed, SOON).await;
}

/// The value of this field in the debug header; empty if the header has no such field.
#[track_caller]
pub(crate) fn shown<'r>(answer: &'r Response, name: &str) -> &'r str {
    let header = answer.header("x-berth").unwrap_or_else(|| panic!("no x-berth: {answer:?}"));
    let mut fields = header.split("; ").filter_map(|field| field.split_once('='));
    fields.find(|(field, _)| *field == name).map_or("", |(_, value)| value)
}

/// A header of a raw response, the first of this lower-case name.
pub(crate) fn raw_header(answer: &RawResponse, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let head = text.split("\r\n\r\n").next()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    headers.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

/// The ring that the files in envoy/ configure.
pub(crate) const SHIPPED_RING: Algorithm =
    Algorithm::RingHash(RingSize::Envoy { minimum: 3072, maximum: MAXIMUM_POINTS });

/// Berth's own ring, whose points of one node do not depend on the number of nodes, in place of the shipped one.
pub(crate) fn own_ring(json: &mut Value) {
    pool(json)["ring"] = serde_json::json!({"virtual_nodes": 512});
}

/// The node that owns each session when all of these are well, by the ring alone.
pub(crate) fn owners<K: AsRef<[u8]>>(world: &World, algorithm: Algorithm, sessions: &[K]) -> Vec<String> {
    let nodes = world.nodes();
    let member = |name: &str| Member::new(name, 1);
    let members: Vec<Member> = nodes.iter().map(|node| member(node.name())).collect();
    let ring = Ring::build(&members, algorithm).unwrap();
    let owner = |session: &K| ring.candidates(session_hash(session.as_ref())).next().unwrap();
    sessions.iter().map(|session| members[owner(session)].key.clone()).collect()
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn one_of<'a, T: ?Sized>(&mut self, choice: &[&'a T]) -> &'a T {
        choice[self.below(choice.len())]
    }
}
