//! The nodes as they are, and as each Envoy sees them: later, through its checks and its list of members.

use berth_core::membership::{HostFlags, Observation};

use crate::random::Random;
use crate::schedule::NODES;

/// A member's first check is answered after this time.
const FIRST_CHECK: u64 = 400;

/// One node from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    since: u64,
    answers: bool,
    is_listed: bool,
    /// The third number of its address.
    address: u32,
}

/// One node's history.
#[derive(Debug)]
struct Node {
    history: Vec<Truth>,
    /// How many faults keep it from answering, and from the list.
    down: u32,
    unlisted: u32,
    starts: u32,
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
}

/// How late one Envoy sees what happens to nodes.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    members: u64,
    failure: u64,
    recovery: u64,
}

impl Sight {
    /// As late as two Envoys of one fleet may differ.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        Self {
            members: random.between(0, 1_200),
            failure: random.between(300, 1_600),
            recovery: random.between(200, 900),
        }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        let truth = Truth { since: 0, answers: true, is_listed: true, address: 0 };
        let node = || Node { history: vec![truth], down: 0, unlisted: 0, starts: 0 };
        Self { nodes: (0..NODES).map(|_| node()).collect() }
    }
}

impl Nodes {
    /// The name of a node.
    #[must_use]
    pub fn name(node: usize) -> String {
        format!("db-{node}")
    }

    /// The number of the node of that name.
    #[must_use]
    pub fn number(name: &str) -> Option<usize> {
        name.strip_prefix("db-")?.parse().ok()
    }

    /// A fault that keeps a node from answering begins or ends.
    pub fn set_down(&mut self, node: usize, begins: bool, now: u64) {
        let held = &mut self.nodes[node];
        held.down = if begins { held.down + 1 } else { held.down - 1 };
        self.note(node, now);
    }

    /// A fault that keeps a node out of the list begins or ends.
    pub fn set_unlisted(&mut self, node: usize, begins: bool, now: u64) {
        let held = &mut self.nodes[node];
        held.unlisted = if begins { held.unlisted + 1 } else { held.unlisted - 1 };
        self.note(node, now);
    }

    /// The node goes on at another address.
    pub fn change_address(&mut self, node: usize, now: u64) {
        let last = *self.last(node);
        self.nodes[node].history.push(Truth { since: now, address: last.address + 1, ..last });
    }

    /// The node was started again. Returns its boot id.
    pub fn started(&mut self, node: usize) -> String {
        self.nodes[node].starts += 1;
        format!("boot-{node}-{}", self.nodes[node].starts)
    }

    /// True if a connection to the node at this address is made now.
    #[must_use]
    pub fn answers_at(&self, address: &str) -> Option<usize> {
        let is_it = |node: &usize| {
            let last = self.last(*node);
            last.answers && address == text(*node, last.address)
        };
        (0..self.nodes.len()).find(is_it)
    }

    /// True if nothing is wrong with the node.
    #[must_use]
    pub fn is_well(&self, node: usize) -> bool {
        let last = self.last(node);
        last.answers && last.is_listed
    }

    /// True if something was wrong with the node within this time.
    #[must_use]
    pub fn had_trouble(&self, node: usize, within: u64, now: u64) -> bool {
        let history = &self.nodes[node].history;
        let latest_change = history.iter().skip(1).any(|truth| truth.since + within >= now);
        latest_change || !self.is_well(node)
    }

    /// What an Envoy says of all of them.
    #[must_use]
    pub fn seen(&self, sight: Sight, now: u64) -> Vec<Observation> {
        (0..self.nodes.len()).filter_map(|node| self.seen_of(node, sight, now)).collect()
    }

    fn seen_of(&self, node: usize, sight: Sight, now: u64) -> Option<Observation> {
        let listed = self.at(node, now.saturating_sub(sight.members));
        if !listed.is_listed {
            return None;
        }
        // Since when this Envoy has this host.
        let is_other = |truth: &&Truth| !truth.is_listed || truth.address != listed.address;
        let history = &self.nodes[node].history;
        let before = history.iter().rev().skip_while(|truth| truth.since > listed.since).find(is_other);
        let joined = before.map_or(0, |before| {
            let next = history.iter().find(|truth| truth.since > before.since);
            next.map_or(0, |next| next.since + sight.members)
        });
        let pending = joined > 0 && now < joined + FIRST_CHECK;
        let had = self.at(node, now.saturating_sub(sight.recovery));
        let has = self.at(node, now.saturating_sub(sight.failure));
        // It fails once it has not answered for long enough, and is well once it has answered for long enough.
        let down_since = now.saturating_sub(sight.failure);
        let failed = !has.answers && history.iter().all(|t| t.since < down_since || !t.answers);
        let recovering = !had.answers && !has.answers;
        let flags =
            HostFlags { unhealthy: (failed || recovering) && !pending, pending, ..HostFlags::default() };
        Some(Observation {
            address: text(node, listed.address),
            name: Some(Self::name(node)),
            weight: 1,
            flags,
            ..Observation::default()
        })
    }

    fn at(&self, node: usize, time: u64) -> Truth {
        let history = &self.nodes[node].history;
        history.iter().rev().find(|truth| truth.since <= time).copied().unwrap_or(history[0])
    }

    fn last(&self, node: usize) -> &Truth {
        let history = &self.nodes[node].history;
        &history[history.len() - 1]
    }

    fn note(&mut self, node: usize, now: u64) {
        let last = *self.last(node);
        let held = &mut self.nodes[node];
        let next = Truth { since: now, answers: held.down == 0, is_listed: held.unlisted == 0, ..last };
        if (next.answers, next.is_listed) != (last.answers, last.is_listed) {
            held.history.push(next);
        }
    }
}

fn text(node: usize, address: u32) -> String {
    format!("10.0.{address}.{}:80", node + 1)
}
