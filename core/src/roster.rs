//! What the VMs of one Envoy share about a pool: its members, their health, and which priorities are in panic.
//!
//! The leader folds each poll into the roster, any worker adds its own reports, and the VM that changed it publishes it;
//! a VM that sees a new version builds a [`crate::snapshot::Snapshot`] from it. How it is published (shared data,
//! compare-and-swap) is the filter's affair.

mod gone;
pub(crate) mod node;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterFacts;
use crate::health::{Health, HealthPolicy};
use crate::levels::{self, Level};
use crate::membership::Observation;
use crate::passive::check_decides;
use crate::time::Millis;
use crate::wire::NodeRecord;

pub use node::Node;

use gone::{Former, Gone, Known};

/// The number of the published form: another one whenever a release before could misread it. All that VMs share bears it, the
/// lease of the leader too, so that each release follows a leader that writes what it can read.
pub const FORMAT: u32 = 5;

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
    /// Envoy's cluster cannot be steered: its requests are Envoy's, and no pins are made.
    #[serde(default)]
    pub unsupported: bool,
    /// Envoy's configuration has not been read for these hosts, so nodes may be called by their addresses that have names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nameless: bool,
    /// Nodes that left lately: some may be back.
    #[serde(default, skip_serializing_if = "Gone::is_empty")]
    gone: Gone,
    /// Envoy has not been seen for so long that what it last said of health is not believed any longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blind: bool,
}

impl Roster {
    /// Reads a published roster; anything else, such as one of another release, is `None` and is built again.
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

    /// As [`Self::observe_after`], without a gap.
    pub fn observe(&mut self, observations: Vec<Observation>, policy: &HealthPolicy, now: Millis) -> bool {
        self.observe_after((now, Millis(0)), observations, policy, now)
    }

    /// Folds in what Envoy says at `now`, where two looks are `pause` apart as a rule and the last was at `last_look`. A node that was
    /// unhealthy then and is not now counts as unhealthy until now, but no longer than two pauses. True if that changed
    /// anything, and with it the version.
    ///
    /// A node that comes to an empty pool does not warm up: there is no other to take sessions from little by little.
    pub fn observe_after(
        &mut self,
        (last_look, pause): (Millis, Millis),
        observations: Vec<Observation>,
        policy: &HealthPolicy,
        now: Millis,
    ) -> bool {
        let before = self.clone();
        if now < last_look {
            self.set_back(last_look.since(now));
        }
        let sick_until = now.min(last_look + pause.doubled());
        // After a long time without sight the members of then say nothing about who is new.
        let was_blind = std::mem::take(&mut self.blind);
        let is_first_look = was_blind || self.nodes.is_empty();
        let members = std::mem::take(&mut self.nodes).into_iter().map(|node| Former::new(node, now));
        let (mut members, mut gone) = (Known::new(members), Known::new(std::mem::take(&mut self.gone.nodes)));
        let mut names = BTreeSet::new();
        for seen in observations {
            // One name is one node, however often it is listed.
            if !names.insert(seen.name().to_owned()) {
                continue;
            }
            let member = members.take(&seen);
            let health = member.as_ref().map(|member| member.node.as_of(seen.priority, now));
            let former = member.or_else(|| gone.take(&seen));
            // Before the first look of all there was nothing to replace.
            if former.is_none() && before.version > 0 {
                self.gone.arrived(now);
            }
            let health = health.or_else(|| former.as_ref()?.returns(is_first_look, policy, now));
            let mut health = health.unwrap_or_else(|| {
                let new = if is_first_look { Health::established() } else { Health::joined(now) };
                new.unknown()
            });
            let former = former.map(|former| former.node);
            if former.as_ref().is_some_and(|node| node.address != seen.address) {
                health = health.moved();
            }
            let mut flags = seen.flags;
            // Outlier detection goes by requests, which one client can have fail: where there is a check, that decides.
            flags.ejected &= !check_decides(self.check_period);
            if !flags.unhealthy && !flags.ejected {
                health.lose_sight(sick_until);
            }
            health.observe(flags, policy, now);
            if let Some(period) = self.check_period {
                health.contradict(period, now);
            }
            // As a rule at the end: Envoy lists its hosts by priority.
            let place = self.nodes.partition_point(|node| node.priority <= seen.priority);
            let former = former.and_then(|node| node.former_of(&seen));
            let node = Node {
                address: seen.address,
                name: seen.name,
                former,
                priority: seen.priority,
                weight: seen.weight,
                locality: seen.locality,
                locality_weight: seen.locality_weight,
                health,
            };
            self.nodes.insert(place, node);
        }
        for node in &mut self.nodes {
            node.former.take_if(|former| names.contains(former));
        }
        let members = members.rest().map(|member| member.leaves(sick_until, policy, now));
        self.gone.update(gone, members.collect(), &names, policy, now);
        self.settle(&before, policy, now)
    }

    /// Takes in what Envoy's configuration says of the cluster, if it could be read; `is_current` if that is of the hosts that are
    /// there now. True if that changed anything, and with it the version.
    pub fn learn(&mut self, facts: Option<&ClusterFacts>, is_current: bool) -> bool {
        let (check_period, unsupported) = facts.map_or((self.check_period, self.unsupported), |facts| {
            (facts.check_period, facts.unsupported.is_some())
        });
        let news = (check_period, unsupported, facts.is_none() || !is_current);
        let changed = (self.check_period, self.unsupported, self.nameless) != news;
        (self.check_period, self.unsupported, self.nameless) = news;
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
        // One that left may be back, and what was remembered would hold until the next record.
        let gone = self.gone.nodes.iter_mut().map(|gone| &mut gone.node);
        for node in self.nodes.iter_mut().chain(gone) {
            if let Some(record) = latest.get(node.name()) {
                node.health.record(record);
            }
        }
        self.settle(&before, policy, now)
    }

    /// The members in a cooldown that an active check or EDS began here, with its end as far as is known at `now`: what to
    /// share with other proxies, as requests alone are no proof. Of a node that is still unhealthy the end moves on with `seen`, when Envoy last said so. None of a
    /// priority in panic: then it is more likely that this proxy sees wrongly than that its nodes all failed.
    pub fn cooldowns(&self, seen: Millis, now: Millis) -> impl Iterator<Item = (&str, Millis)> {
        let end = move |node: &Node| node.health.own_cooldown_end(seen.min(now)).filter(|end| now < *end);
        // Until the next look a clock that was set back has cooldowns last that are over.
        let is_right = seen <= now;
        let calm = self.nodes.iter().filter(move |node| is_right && !node.health.is_in_panic());
        calm.filter_map(move |node| Some((node.name(), end(node)?)))
    }

    fn set_back(&mut self, by: Millis) {
        let gone = self.gone.nodes.iter_mut().map(|gone| &mut gone.node);
        self.nodes.iter_mut().chain(gone).for_each(|node| node.health.set_back(by));
    }

    /// Envoy was last seen at `seen`, too long ago: what it said of its hosts' health then is not believed any longer. True
    /// if that changed anything. Its next word, in [`Self::observe`], counts again.
    pub fn lose_sight(&mut self, seen: Millis, policy: &HealthPolicy, now: Millis) -> bool {
        if self.version == 0 {
            return false;
        }
        let before = self.clone();
        self.blind = true;
        self.nodes.iter_mut().for_each(|node| node.health.lose_sight(seen));
        self.settle(&before, policy, now)
    }

    /// The members that vanished together and may be back soon: their sessions are not to be given away at `now`.
    pub fn held(&self, policy: &HealthPolicy, now: Millis) -> impl Iterator<Item = &str> {
        self.gone.held(policy, now)
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
