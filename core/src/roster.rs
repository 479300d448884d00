//! What the VMs of one Envoy share about a pool: its members, their health, and whether there is panic.
//!
//! The leader folds each poll into the roster, any worker adds its own reports, and whoever changed it publishes it;
//! a VM that sees a new version builds a [`crate::snapshot::Snapshot`] from it. How it is published (shared data,
//! compare-and-swap) is the filter's affair.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::health::{Health, HealthPolicy};
use crate::membership::Observation;
use crate::time::Millis;
use crate::wire::NodeRecord;

/// One member of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Textual `ip:port`; also its ring key.
    pub address: String,
    /// Its weight on the ring, at least 1.
    pub weight: u32,
    /// Envoy's locality, `region/zone/sub_zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// What was observed of it.
    #[serde(flatten)]
    pub health: Health,
}

/// Whether health is believed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Panic {
    /// It is.
    #[default]
    Calm,
    /// Too few nodes are usable.
    Panicking,
    /// Enough are usable again since then; panic ends when that has held.
    Recovering(Millis),
}

impl Panic {
    /// True while health is ignored.
    #[must_use]
    pub fn is_on(&self) -> bool {
        *self != Self::Calm
    }
}

/// The members of one pool and what is known of them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Another one after every change; 0 before the first look.
    pub version: u64,
    /// In the order of Envoy's host set.
    pub nodes: Vec<Node>,
    /// Whether health is believed.
    pub panic: Panic,
    /// Nodes that left in their cooldown: a node that flaps by leaving and joining is not a new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    departed: Vec<Departed>,
}

/// A node that is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Departed {
    address: String,
    left: Millis,
    health: Health,
}

/// Addresses are reused for ever, memory is not. More than leave in one deploy; the latest are kept.
const MAX_DEPARTED: usize = 256;

impl Roster {
    /// Reads a published roster; anything else, such as one of another release, is `None` and is built anew.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes)
            .ok()
            .filter(|roster| roster.nodes.iter().all(|node| node.weight > 0))
            .filter(|roster| {
                let mut addresses = BTreeSet::new();
                roster.nodes.iter().all(|node| addresses.insert(&node.address))
            })
    }

    /// The form that is published.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Folds in what Envoy says at `now`. True if that changed anything, and with it the version.
    ///
    /// Only the best priority that has hosts is used: Berth places sessions, it does not spill over. Whoever comes to an
    /// empty pool does not warm up: there is nobody to take sessions from little by little.
    pub fn observe(&mut self, observations: Vec<Observation>, policy: &HealthPolicy, now: Millis) -> bool {
        let before = self.clone();
        let was_empty = self.nodes.is_empty();
        let best = observations.iter().map(|observation| observation.priority).min();
        let mut known = std::mem::take(&mut self.nodes);
        known.sort_by(|a, b| a.address.cmp(&b.address));
        let mut addresses = BTreeSet::new();
        for seen in observations.into_iter().filter(|seen| Some(seen.priority) == best) {
            // One address is one destination, however often it is listed.
            if !addresses.insert(seen.address.clone()) {
                continue;
            }
            let mut health = match known.binary_search_by(|node| node.address.cmp(&seen.address)) {
                Ok(index) => known.get(index).map(|node| node.health.clone()).unwrap_or_default(),
                Err(_) if was_empty => Health::established().unknown(),
                Err(_) => match self.departed.iter().position(|node| node.address == seen.address) {
                    Some(index) => self.departed.swap_remove(index).health.rejoined(now),
                    None => Health::joined(now).unknown(),
                },
            };
            health.observe(seen.flags, policy, now);
            self.nodes.push(Node {
                address: seen.address,
                weight: seen.weight,
                locality: seen.locality,
                health,
            });
        }
        let left = known.into_iter().filter(|node| !addresses.contains(&node.address));
        self.remember(left.filter_map(|node| Some((node.address, node.health.departed(now)?))), policy, now);
        self.settle(&before, policy, now)
    }

    /// Puts `address` into cooldown on a worker's word. True if that changed anything.
    pub fn report_failure(&mut self, address: &str, policy: &HealthPolicy, now: Millis) -> bool {
        // Not to be taken for the first look.
        if self.version == 0 {
            return false;
        }
        let before = self.clone();
        if let Some(node) = self.nodes.iter_mut().find(|node| node.address == address) {
            node.health.report_failure(policy, now);
        }
        self.settle(&before, policy, now)
    }

    /// Folds in what the state cluster has on record of nodes. True if that changed anything, and with it the version.
    pub fn record(&mut self, records: &[NodeRecord], policy: &HealthPolicy, now: Millis) -> bool {
        // Not to be taken for the first look.
        if self.version == 0 {
            return false;
        }
        let before = self.clone();
        let mut latest: BTreeMap<String, &NodeRecord> = BTreeMap::new();
        for record in records {
            let known = latest.entry(record.node.to_string()).or_insert(record);
            if known.version < record.version {
                *known = record;
            }
        }
        let members = self.nodes.iter_mut().map(|node| (&node.address, &mut node.health));
        // Whoever left may be back, and what was remembered would hold until the next record.
        let departed = self.departed.iter_mut().map(|node| (&node.address, &mut node.health));
        for (address, health) in members.chain(departed) {
            if let Some(record) = latest.get(address) {
                health.record(record);
            }
        }
        self.settle(&before, policy, now)
    }

    /// The members in a cooldown that was observed here, with its end as far as is known at `now`: what to share with
    /// other proxies. Of a node that is still unhealthy the end moves on with `now`.
    pub fn cooldowns(&self, now: Millis) -> impl Iterator<Item = (&str, Millis)> {
        let end = move |node: &Node| node.health.own_cooldown_end(now);
        self.nodes.iter().filter_map(move |node| Some((node.address.as_str(), end(node)?)))
    }

    /// Keeps the cooldowns of nodes that left, for as long as they can last.
    fn remember(&mut self, left: impl Iterator<Item = (String, Health)>, policy: &HealthPolicy, now: Millis) {
        self.departed.extend(left.map(|(address, health)| Departed { address, left: now, health }));
        self.departed.retain(|node| now.since(node.left) <= policy.max_cooldown);
        let surplus = self.departed.len().saturating_sub(MAX_DEPARTED);
        self.departed.drain(..surplus);
    }

    /// Looks again at what time alone has changed, when there is no news. True if that changed anything.
    pub fn reassess(&mut self, policy: &HealthPolicy, now: Millis) -> bool {
        if self.version == 0 {
            return false;
        }
        let before = self.clone();
        self.settle(&before, policy, now)
    }

    fn settle(&mut self, before: &Self, policy: &HealthPolicy, now: Millis) -> bool {
        self.panic = self.panic_at(policy, now);
        if before.panic.is_on() && !self.panic.is_on() {
            // Without this all that failed at once would warm up at once, and nearly every session would move.
            self.nodes.iter_mut().for_each(|node| node.health.end_panic(now));
        }
        // The first look counts as news even if it found nobody: "no members" is knowledge too.
        let changed = before.version == 0 || self != before;
        if changed {
            self.version = before.version.wrapping_add(1).max(1);
        }
        changed
    }

    fn panic_at(&self, policy: &HealthPolicy, now: Millis) -> Panic {
        let known = || self.nodes.iter().filter(|node| !node.health.is_pending());
        let usable = known().filter(|node| node.health.state(policy, now).serves()).count() as u64;
        let enough = usable * 100 >= u64::from(policy.panic_threshold) * known().count() as u64;
        match (&self.panic, enough) {
            (Panic::Calm, true) => Panic::Calm,
            (_, false) => Panic::Panicking,
            (Panic::Panicking, true) if policy.panic_hold == Millis(0) => Panic::Calm,
            (Panic::Panicking, true) => Panic::Recovering(now),
            (Panic::Recovering(since), true) if now.since(*since) >= policy.panic_hold => Panic::Calm,
            // A clock that was set back must not prolong it.
            (Panic::Recovering(since), true) => Panic::Recovering(now.min(*since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use crate::membership::HostFlags;
    use crate::wire::NodeState;

    const POLICY: HealthPolicy = HealthPolicy {
        cooldown: Millis(10_000),
        max_cooldown: Millis(40_000),
        warm_up: Millis(0),
        warm_up_from_percent: 10,
        passive_failures: 3,
        panic_threshold: 50,
        panic_hold: Millis(5_000),
    };

    fn seen(unhealthy: &[bool]) -> Vec<Observation> {
        let host = |(index, &unhealthy): (usize, &bool)| Observation {
            address: format!("10.0.0.{index}:80"),
            weight: 1,
            locality: String::new(),
            priority: 0,
            flags: HostFlags { unhealthy, ..HostFlags::default() },
        };
        unhealthy.iter().enumerate().map(host).collect()
    }

    fn at(seconds: u64) -> Millis {
        Millis(1_000_000 + seconds * 1000)
    }

    #[test]
    fn a_look_that_shows_nothing_new_changes_nothing() {
        let mut roster = Roster::default();

        assert!(roster.observe(seen(&[false, true]), &POLICY, at(0)));
        assert!(!roster.observe(seen(&[false, true]), &POLICY, at(1)));
        assert_eq!(roster.version, 1);
    }

    #[test]
    fn nodes_that_come_to_others_warm_up_and_the_first_of_all_do_not() {
        let policy = HealthPolicy { warm_up: Millis(30_000), ..POLICY };
        let mut roster = Roster::default();
        let states = |roster: &Roster, now| -> Vec<State> {
            roster.nodes.iter().map(|node| node.health.state(&policy, now)).collect()
        };

        roster.observe(Vec::new(), &policy, at(0));
        roster.observe(seen(&[false, false]), &policy, at(1));
        assert_eq!(states(&roster, at(1)), [State::Active; 2]);

        roster.observe(seen(&[false, false, false]), &policy, at(2));
        assert_eq!(states(&roster, at(2))[..2], [State::Active; 2]);
        assert!(matches!(states(&roster, at(2))[2], State::Warming(_)));
    }

    #[test]
    fn a_node_that_leaves_and_returns_is_still_in_its_cooldown_and_relapses() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));
        roster.observe(seen(&[false, false, true]), &POLICY, at(1));
        roster.observe(seen(&[false, false]), &POLICY, at(2));

        roster.observe(seen(&[false, false, false]), &POLICY, at(3));

        let state = |roster: &Roster, seconds| roster.nodes[2].health.state(&POLICY, at(seconds));
        assert_eq!(state(&roster, 11), State::Cooldown, "10 s after it left, when it was unhealthy");
        assert_eq!(state(&roster, 12), State::Active);

        roster.observe(seen(&[false, false, true]), &POLICY, at(20));
        roster.observe(seen(&[false, false, false]), &POLICY, at(20));
        assert_eq!(state(&roster, 39), State::Cooldown, "doubled");
        assert_eq!(Roster::decode(&roster.encode()), Some(roster));
    }

    #[test]
    fn two_of_three_down_is_panic_which_ends_only_after_it_has_held() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));
        roster.observe(seen(&[false, true, true]), &POLICY, at(1));
        assert!(roster.panic.is_on());

        // The two are well at 2 s, out of cooldown at 12 s, and calm returns at 17 s.
        let mut on = Vec::new();
        for second in 2..=18 {
            roster.observe(seen(&[false, false, false]), &POLICY, at(second));
            on.push(roster.panic.is_on());
        }

        assert_eq!(on.iter().filter(|on| **on).count(), 15, "{on:?}");
        assert_eq!(on.last(), Some(&false));
    }

    #[test]
    fn half_of_the_nodes_is_enough() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, true]), &POLICY, at(0));

        assert!(!roster.panic.is_on());
    }

    #[test]
    fn a_workers_report_reaches_the_roster_and_an_unknown_node_is_ignored() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));

        assert!(roster.report_failure("10.0.0.1:80", &POLICY, at(1)));
        assert!(!roster.report_failure("10.9.9.9:80", &POLICY, at(1)));

        assert_eq!(roster.nodes[1].health.state(&POLICY, at(2)), State::Cooldown);
    }

    fn on_record(node: u64, version: u64, state: NodeState, until: Option<u64>) -> NodeRecord {
        NodeRecord {
            state,
            cooldown_until_ms: until.map(|seconds| at(seconds).0),
            version,
            ..NodeRecord::unknown(format!("10.0.0.{node}:80").parse().unwrap())
        }
    }

    #[test]
    fn a_record_is_news_once_and_of_members_only() {
        let records = [
            on_record(1, 2, NodeState::Standby, None),
            on_record(1, 1, NodeState::Draining, None),
            on_record(9, 7, NodeState::Draining, None),
        ];
        let mut roster = Roster::default();
        assert!(!roster.record(&records, &POLICY, at(0)), "not to be taken for the first look");
        assert_eq!(roster, Roster::default());
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));

        assert!(roster.record(&records, &POLICY, at(1)));
        assert!(!roster.record(&records, &POLICY, at(2)));
        assert!(!roster.record(&[], &POLICY, at(2)));

        assert_eq!(roster.version, 2);
        let states: Vec<State> = roster.nodes.iter().map(|node| node.health.state(&POLICY, at(2))).collect();
        assert_eq!(states, [State::Active, State::Standby, State::Active]);
    }

    #[test]
    fn an_operator_cannot_cause_panic_but_shared_cooldowns_of_most_can() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));
        let all = |state, until: [Option<u64>; 3], version| {
            let record = |(node, until)| on_record(node, version, state, until);
            (0..).zip(until).map(record).collect::<Vec<_>>()
        };

        for (version, state) in (1..).zip([NodeState::Draining, NodeState::Degraded, NodeState::Standby]) {
            roster.record(&all(state, [None; 3], version), &POLICY, at(1));
            assert!(!roster.panic.is_on(), "{state:?}");
        }
        roster.record(&all(NodeState::Active, [None, Some(9), Some(9)], 4), &POLICY, at(1));

        assert!(roster.panic.is_on());
    }

    #[test]
    fn a_node_that_leaves_and_returns_is_still_in_its_shared_cooldown_as_it_was_last_extended() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, false, false]), &POLICY, at(0));
        roster.record(&[on_record(2, 1, NodeState::Active, Some(10))], &POLICY, at(1));
        roster.observe(seen(&[false, false]), &POLICY, at(2));
        roster.record(&[on_record(2, 2, NodeState::Active, Some(15))], &POLICY, at(3));

        roster.observe(seen(&[false, false, false]), &POLICY, at(4));

        let state = |seconds| roster.nodes[2].health.state(&POLICY, at(seconds));
        assert_eq!(state(14), State::Cooldown);
        assert_eq!(state(15), State::Active);
    }

    #[test]
    fn only_cooldowns_that_were_observed_here_are_shared() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false; 4]), &POLICY, at(0));
        roster.observe(seen(&[false, true, false, false]), &POLICY, at(0));
        roster.report_failure("10.0.0.2:80", &POLICY, at(1));
        roster.record(&[on_record(3, 1, NodeState::Active, Some(99))], &POLICY, at(1));

        let shared: Vec<_> = roster.cooldowns(at(5)).collect();

        assert_eq!(shared, [("10.0.0.1:80", at(15)), ("10.0.0.2:80", at(11))]);
        assert_eq!(roster.cooldowns(at(12)).count(), 1, "the other is over");
    }

    #[test]
    fn what_is_not_on_record_takes_no_room() {
        let mut roster = Roster::default();
        roster.observe(seen(&[true]), &POLICY, at(0));

        assert!(!String::from_utf8(roster.encode()).unwrap().contains("operator"));
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let mut roster = Roster::default();
        roster.observe(seen(&[false, true, false]), &POLICY, at(0));
        roster.report_failure("10.0.0.0:80", &POLICY, at(1));
        roster.record(&[on_record(2, 1, NodeState::Standby, Some(99))], &POLICY, at(1));

        assert_eq!(Roster::decode(&roster.encode()), Some(roster));
        assert_eq!(Roster::decode(b"{\"version\":1}"), None);
    }

    #[test]
    fn only_the_best_priority_that_has_hosts_takes_part() {
        let mut hosts = seen(&[false, false]);
        hosts[0].priority = 1;
        let mut roster = Roster::default();
        roster.observe(hosts, &POLICY, at(0));

        assert_eq!(roster.nodes.len(), 1);
        assert_eq!(roster.nodes[0].address, "10.0.0.1:80");
    }
}
