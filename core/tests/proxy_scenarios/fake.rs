//! A worker's proxy, its requests and responses, and the state service, as tests describe them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use berth_core::affinity::Caller;
use berth_core::attributes::{Attributes, ResponseHeaders};
use berth_core::config::Config;
use berth_core::decision::{Decision, Reply};
use berth_core::event::{Counter, RuleResult};
use berth_core::membership::Observation;
use berth_core::proxy::{Progress, Proxy, Request};
use berth_core::roster::Roster;
use berth_core::time::Millis;
use serde_json::{Value, json};

pub(crate) const NOW: Millis = Millis(1_000_000_000);
pub(crate) const NODES: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// A request as a test describes it, which notes each look at it.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) headers: BTreeMap<String, String>,
    /// What there is beside these, of headers with several lines.
    pub(crate) lines: Vec<(String, String)>,
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
    pub(crate) keys_are_coming: bool,
    /// Where its randomness stands.
    pub(crate) drawn: Cell<u64>,
    /// How long after [`NOW`] it comes.
    pub(crate) later: Millis,
    pub(crate) reads: RefCell<Vec<String>>,
}

impl Fake {
    pub(crate) fn new(headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { headers: headers.collect(), ..Self::default() }
    }

    pub(crate) fn with(mut self, property: &str, value: impl AsRef<[u8]>) -> Self {
        self.properties.insert(property.to_owned(), value.as_ref().to_vec());
        self
    }

    pub(crate) fn note(&self, read: impl Into<String>) {
        self.reads.borrow_mut().push(read.into());
    }

    pub(crate) fn take_reads(&self) -> Vec<String> {
        self.reads.take()
    }
}

impl Attributes for Fake {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.note(name);
        self.headers.get(name).map(|value| value.clone().into_bytes())
    }

    fn header_lines(&self, name: &str) -> Vec<Vec<u8>> {
        self.note(format!("all {name}"));
        self.lines
            .iter()
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value.clone().into_bytes())
            .collect()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.note(path.join("."));
        self.properties.get(&path.join(".")).cloned()
    }

    fn now(&self) -> Millis {
        self.note("now");
        NOW + self.later
    }

    fn random(&self) -> Option<[u8; 16]> {
        self.note("random");
        self.drawn.set(self.drawn.get() + 1);
        // splitmix64 (Steele et al. 2014).
        let half = |number: u64| {
            let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        let (first, second) = (half(2 * self.drawn.get()), half(2 * self.drawn.get() + 1));
        Some((u128::from(first) << 64 | u128::from(second)).to_le_bytes())
    }

    fn wants_keys(&self, _: usize, _: Millis) -> bool {
        self.note("wants keys");
        self.keys_are_coming
    }
}

impl ResponseHeaders for Fake {
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        self.note(format!("response {name}"));
        self.headers.get(name).map(|value| value.clone().into_bytes())
    }

    fn set_cookies(&self) -> Vec<Vec<u8>> {
        self.note("response set-cookie");
        self.headers.get("set-cookie").map(|value| value.clone().into_bytes()).into_iter().collect()
    }
}

/// One pool with a state service, its session in `x-session`, and these rules.
pub(crate) fn proxy(rules: Value) -> Proxy {
    let mut config = json!({
        "v": 1,
        "state": {"cluster": "berth_state"},
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"header": "x-session"}]},
            "health": {"passive_failures": 3}
        }],
    });
    if !rules.is_null() {
        config["rules"] = rules;
    }
    of(&config)
}

pub(crate) fn of(config: &Value) -> Proxy {
    Proxy::new(Config::parse(config.to_string().as_bytes()).unwrap(), || 7, NOW)
}

/// The same with members.
pub(crate) fn ready(rules: Value) -> Proxy {
    let mut proxy = proxy(rules);
    see_members(&mut proxy);
    proxy
}

pub(crate) fn see_members(proxy: &mut Proxy) {
    let host =
        |address: &str| Observation { address: address.to_owned(), weight: 1, ..Observation::default() };
    for pool in &mut proxy.pools {
        let mut roster = Roster::default();
        roster.observe(NODES.into_iter().map(host).collect(), &pool.config.health, NOW);
        pool.adopt(roster, NOW).unwrap();
    }
}

/// The state service answers all that is asked: this node has it.
pub(crate) fn answer(proxy: &mut Proxy, stream: u32, node: &str, extra: &Value) -> Vec<(u32, Decision)> {
    let engine = proxy.pools[0].engine.as_mut().unwrap();
    let call = engine.poll_call(Caller::Stream(stream), NOW).expect("a call");
    let question: Value = serde_json::from_slice(&call.request.body).unwrap();
    engine.call_started(call.id, 1, Caller::Stream(stream), NOW);
    let pins = question["sessions"].as_array().unwrap().iter().map(|ask| {
        let mut pin = json!({"key": ask["key"], "node": node, "version": 1, "outcome": "found"});
        pin.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        pin
    });
    let reply = json!({"pins": pins.collect::<Vec<_>>(), "cursor": "0", "ttl_ms": 1_800_000});
    assert!(engine.handle_reply(1, Ok(reply.to_string().as_bytes()), NOW));
    let mut released = Vec::new();
    while let Some(release) = engine.poll_release(NOW) {
        engine.released(true);
        released.extend(release.decision.map(|decision| (release.stream, decision)));
    }
    released
}

/// A request of this session that is routed to `node`, which its pin names from then on.
pub(crate) fn routed(proxy: &mut Proxy, session: &str, node: &str) -> Request {
    let (mut request, progress) = proxy.handle_request(1, None, &Fake::new(&[("x-session", session)]));
    assert_eq!(progress, Progress::Waiting);
    let mut released = answer(proxy, 1, node, &Value::Null);
    proxy.settle(&mut request, released.remove(0).1);
    request
}

pub(crate) fn decide(proxy: &mut Proxy, attributes: &Fake) -> Decision {
    let (request, progress) = proxy.handle_request(9, None, attributes);
    assert_eq!(progress, Progress::Decided);
    request.decision.unwrap()
}

pub(crate) fn owner(decision: &Decision) -> &str {
    match decision {
        Decision::Route { placement, .. } => NODES[placement.owner().unwrap()],
        other => panic!("{other:?}"),
    }
}

pub(crate) fn reply(decision: Decision) -> Reply {
    match decision {
        Decision::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn counts(proxy: &Proxy) -> Vec<(Counter, u64)> {
    proxy.pools[0].take_counts().map(|(index, count)| (Counter::ALL[index], count)).collect()
}

pub(crate) fn rule_counts(proxy: &Proxy, rule: usize) -> Vec<(RuleResult, u64)> {
    proxy.rules[rule].take_counts().map(|(index, count)| (RuleResult::ALL[index], count)).collect()
}
