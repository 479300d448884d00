//! What the VMs of one Envoy share about a pool: its members, their health, and whether there is panic.
//!
//! The leader folds each poll into the roster, any worker adds its own reports, and whoever changed it publishes it;
//! a VM that sees a new version builds a [`crate::snapshot::Snapshot`] from it. How it is published (shared data,
//! compare-and-swap) is the filter's affair.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterFacts;
use crate::health::{Health, HealthPolicy};
use crate::membership::{HostFlags, Observation};
use crate::time::Millis;
use crate::wire::NodeRecord;

/// One member of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where it is now, as `override_host` knows it.
    pub address: String,
    /// What it is called, if that is not its address: see [`Node::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Envoy's priority; 0 is the first choice.
    #[serde(default)]
    pub priority: u32,
    /// Its weight on the ring, at least 1.
    pub weight: u32,
    /// Envoy's locality, `region/zone/sub_zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// What all nodes of its locality share, if the cluster weighs localities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality_weight: Option<u32>,
    /// What was observed of it.
    #[serde(flatten)]
    pub health: Health,
}

impl Node {
    /// Its ring key, the node of pins, and its name in the state cluster: its address, unless the cluster hashes by another.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }
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
    /// The time within which Envoy's active check of a member surely comes to a result; `None` if the cluster has no active
    /// checks, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_period: Option<Millis>,
    /// Envoy's cluster cannot be steered: its requests are Envoy's, and no pins are made.
    #[serde(default)]
    pub unsupported: bool,
    /// Nodes that left in their cooldown: a node that flaps by leaving and joining is not a new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    departed: Vec<Departed>,
}

/// A node that is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Departed {
    name: String,
    /// Where it was: under another address it is another process.
    #[serde(default)]
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
                let mut names = BTreeSet::new();
                roster.nodes.iter().all(|node| names.insert(node.name()))
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
        known.sort_by(|a, b| a.name().cmp(b.name()));
        let mut names = BTreeSet::new();
        for mut seen in observations.into_iter().filter(|seen| Some(seen.priority) == best) {
            let name = seen.name.as_deref().unwrap_or(&seen.address);
            // One name is one node, however often it is listed.
            if !names.insert(name.to_owned()) {
                continue;
            }
            let former = known.binary_search_by(|node| node.name().cmp(name)).ok();
            let former = former.and_then(|index| known.get(index));
            let mut health = match former {
                // Its sessions go with it. That nothing good is known of its new place yet is no reason to move them.
                Some(node) if node.address != seen.address => {
                    let health = node.health.clone().moved();
                    if seen.flags.unhealthy || seen.flags.pending {
                        seen.flags = HostFlags::default();
                    }
                    health
                }
                Some(node) => node.health.clone(),
                None if was_empty => Health::established().unknown(),
                None => match self.departed.iter().position(|node| node.name == name) {
                    Some(index) => {
                        let departed = self.departed.swap_remove(index);
                        let stays = departed.address == seen.address;
                        let health = if stays { departed.health } else { departed.health.moved() };
                        health.rejoined(now)
                    }
                    None => Health::joined(now).unknown(),
                },
            };
            health.observe(seen.flags, policy, now);
            self.nodes.push(Node {
                address: seen.address,
                name: seen.name,
                priority: seen.priority,
                weight: seen.weight,
                locality: seen.locality,
                locality_weight: seen.locality_weight,
                health,
            });
        }
        let left = known.into_iter().filter(|node| !names.contains(node.name()));
        self.remember(
            left.filter_map(|node| {
                let name = node.name().to_owned();
                let health = node.health.departed(now)?;
                Some(Departed { name, address: node.address, left: now, health })
            }),
            policy,
            now,
        );
        self.settle(&before, policy, now)
    }

    /// Takes in what Envoy's configuration says of the cluster. True if that changed anything, and with it the version.
    pub fn learn(&mut self, facts: &ClusterFacts) -> bool {
        let news = (facts.check_period, facts.unsupported.is_some());
        let changed = (self.check_period, self.unsupported) != news;
        (self.check_period, self.unsupported) = news;
        // Before the first look there is nothing to have another version of.
        if changed && self.version > 0 {
            self.version = self.version.wrapping_add(1).max(1);
        }
        changed && self.version > 0
    }

    /// True if the nodes would be others, or stand elsewhere on the ring, if nothing were known of the configuration.
    #[must_use]
    pub fn relies_on_facts(&self) -> bool {
        self.nodes.iter().any(|node| node.name.is_some() || node.locality_weight.is_some())
    }

    /// Puts the node of that name into cooldown on a worker's word. True if that changed anything.
    pub fn report_failure(&mut self, name: &str, policy: &HealthPolicy, now: Millis) -> bool {
        // Not to be taken for the first look.
        if self.version == 0 {
            return false;
        }
        let before = self.clone();
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name() == name) {
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
        let members =
            self.nodes.iter_mut().map(|node| (node.name.as_ref().unwrap_or(&node.address), &mut node.health));
        // Whoever left may be back, and what was remembered would hold until the next record.
        let departed = self.departed.iter_mut().map(|node| (&node.name, &mut node.health));
        for (name, health) in members.chain(departed) {
            if let Some(record) = latest.get(name) {
                health.record(record);
            }
        }
        self.settle(&before, policy, now)
    }

    /// The members in a cooldown that was observed here, with its end as far as is known at `now`: what to share with
    /// other proxies. Of a node that is still unhealthy the end moves on with `now`.
    pub fn cooldowns(&self, now: Millis) -> impl Iterator<Item = (&str, Millis)> {
        let end = move |node: &Node| node.health.own_cooldown_end(now);
        self.nodes.iter().filter_map(move |node| Some((node.name(), end(node)?)))
    }

    /// Keeps the cooldowns of nodes that left, for as long as they can last.
    fn remember(&mut self, left: impl Iterator<Item = Departed>, policy: &HealthPolicy, now: Millis) {
        self.departed.extend(left);
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
mod tests;
