//! What the VMs of one Envoy share about a pool: its members, their health, and which priorities are in panic.
//!
//! The leader folds each poll into the roster, any worker adds its own reports, and whoever changed it publishes it;
//! a VM that sees a new version builds a [`crate::snapshot::Snapshot`] from it. How it is published (shared data,
//! compare-and-swap) is the filter's affair.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::health::{Health, HealthPolicy};
use crate::levels::{self, Level};
use crate::membership::Observation;
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

    /// Its health as a node of this priority: it does not take the panic of its former one along.
    fn as_of(&self, priority: u32, now: Millis) -> Health {
        let mut health = self.health.clone();
        if self.priority != priority {
            health.set_panic(false, None, now);
        }
        health
    }
}

/// The members of one pool and what is known of them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Another one after every change; 0 before the first look.
    pub version: u64,
    /// Of all priorities, the best first; within one in the order of Envoy's host set.
    pub nodes: Vec<Node>,
    /// The time within which Envoy's active check of a member surely comes to a result; `None` if the cluster has no active
    /// checks, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_period: Option<Millis>,
    /// Nodes that left in their cooldown: a node that flaps by leaving and joining is not a new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    departed: Vec<Departed>,
}

/// A node that is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Departed {
    name: String,
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
            .filter(|roster| roster.nodes.is_sorted_by_key(|node| node.priority))
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
    /// A node that comes to an empty pool does not warm up: there is no other to take sessions from little by little.
    pub fn observe(&mut self, observations: Vec<Observation>, policy: &HealthPolicy, now: Millis) -> bool {
        let before = self.clone();
        let was_empty = self.nodes.is_empty();
        let mut known = std::mem::take(&mut self.nodes);
        known.sort_by(|a, b| a.name().cmp(b.name()));
        let mut names = BTreeSet::new();
        for seen in observations {
            let name = seen.name.as_deref().unwrap_or(&seen.address);
            // One name is one node, however often it is listed.
            if !names.insert(name.to_owned()) {
                continue;
            }
            let mut health = match known.binary_search_by(|node| node.name().cmp(name)) {
                Ok(index) => known.get(index).map(|node| node.as_of(seen.priority, now)).unwrap_or_default(),
                Err(_) if was_empty => Health::established().unknown(),
                Err(_) => match self.departed.iter().position(|node| node.name == name) {
                    Some(index) => self.departed.swap_remove(index).health.rejoined(now),
                    None => Health::joined(now).unknown(),
                },
            };
            health.observe(seen.flags, policy, now);
            // As a rule at the end: Envoy lists its hosts by priority.
            let place = self.nodes.partition_point(|node| node.priority <= seen.priority);
            let node = Node {
                address: seen.address,
                name: seen.name,
                priority: seen.priority,
                weight: seen.weight,
                locality: seen.locality,
                health,
            };
            self.nodes.insert(place, node);
        }
        let left = known.into_iter().filter(|node| !names.contains(node.name()));
        self.remember(
            left.filter_map(|node| Some((node.name().to_owned(), node.health.departed(now)?))),
            policy,
            now,
        );
        self.settle(&before, policy, now)
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
    /// other proxies. Of a node that is still unhealthy the end moves on with `now`. None of a priority in panic: then it is
    /// more likely that this proxy sees wrongly than that its nodes all failed.
    pub fn cooldowns(&self, now: Millis) -> impl Iterator<Item = (&str, Millis)> {
        let end = move |node: &Node| node.health.own_cooldown_end(now);
        let calm = self.nodes.iter().filter(|node| !node.health.is_in_panic());
        calm.filter_map(move |node| Some((node.name(), end(node)?)))
    }

    /// Keeps the cooldowns of nodes that left, for as long as they can last.
    fn remember(&mut self, left: impl Iterator<Item = (String, Health)>, policy: &HealthPolicy, now: Millis) {
        self.departed.extend(left.map(|(name, health)| Departed { name, left: now, health }));
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

    /// True if the health of some nodes is ignored.
    #[must_use]
    pub fn has_panic(&self) -> bool {
        self.nodes.iter().any(|node| node.health.is_in_panic())
    }

    fn settle(&mut self, before: &Self, policy: &HealthPolicy, now: Millis) -> bool {
        let mut levels = Level::of(&self.nodes, policy, now);
        levels::find_panic(&mut levels, policy, now);
        for level in levels {
            for node in self.nodes.get_mut(level.start..level.end).unwrap_or_default() {
                node.health.set_panic(level.is_panic, level.enough_since, now);
            }
        }
        // The first look counts as news even if it found no host: "no members" is knowledge too.
        let changed = before.version == 0 || self != before;
        if changed {
            self.version = before.version.wrapping_add(1).max(1);
        }
        changed
    }
}

#[cfg(test)]
mod tests;
