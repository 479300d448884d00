//! Nodes that are members no longer, one entry each, and what follows when such a node is back.
//!
//! *Vanished.* Members that disappear without an announcement are gone, or the control plane has lost them. A node that was
//! drained first, or was out already, is simply gone. Of the others the number decides. If few vanish, as when a pod is
//! deleted, each is gone at once and its sessions are rehomed. If so many vanish together that the rest would be panic,
//! and no new members replace them, then most likely the list is wrong: they are *held*. Nothing that a held node owns is
//! given away until the grace time is over. Envoy cannot reach a held node, so its requests go elsewhere meanwhile; that
//! is the caller's matter.
//!
//! *Failed.* A node that left in a cooldown, or had one lately, is still in it when it is back: a node that flaps by leaving
//! and joining is not a new one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Node;
use crate::health::{Health, HealthPolicy, State};
use crate::membership::Observation;
use crate::ring::session_hash;
use crate::time::Millis;

/// What happens within this time happens together. A rollout step and its replacement are closer than this, and a poll of
/// the default interval sees both.
const TOGETHER: Millis = Millis(5_000);
/// Failed nodes that are remembered: addresses are reused without end, memory is not. More than leave in one deploy; the
/// latest are kept.
const MAX_FAILED: usize = 256;

/// The nodes that left lately.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Gone {
    /// In the order in which they left.
    pub(super) nodes: Vec<Former>,
    /// When each new member came that may replace one of those that vanished.
    arrivals: Vec<Millis>,
}

/// A node that is a member no longer, or one of the last look that may be none now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    /// As it was when it left; later only what is to be remembered of it.
    pub(super) node: Node,
    left: Millis,
    /// It served, and disappeared without an announcement.
    has_vanished: bool,
    is_held: bool,
}

impl Gone {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.arrivals.is_empty()
    }

    /// A member that was not there before.
    pub(super) fn arrived(&mut self, now: Millis) {
        self.arrivals.push(now);
    }

    /// Remembers, after a look that found members of these `names`, those that were `gone` already and the rest of the
    /// members before it, `left`. Decides which are held.
    pub(super) fn update(
        &mut self,
        gone: Known,
        left: Vec<Former>,
        names: &BTreeSet<String>,
        policy: &HealthPolicy,
        now: Millis,
    ) {
        let is_gone = |former: &Former| !names.contains(former.node.name());
        self.nodes.extend(gone.rest().filter(is_gone));
        self.nodes.extend(left);
        for time in self.nodes.iter_mut().map(|gone| &mut gone.left).chain(&mut self.arrivals) {
            // A clock that was set back must not prolong anything.
            *time = now.min(*time);
        }
        self.arrivals.retain(|time| is_recent(*time, now));
        self.hold(names.len(), policy, now);
        self.forget(policy, now);
    }

    fn hold(&mut self, members: usize, policy: &HealthPolicy, now: Millis) {
        let is_recent = |gone: &&mut Former| gone.has_vanished && is_recent(gone.left, now);
        let gone = self.nodes.iter_mut().filter(is_recent).count();
        let before = (members + gone).saturating_sub(self.arrivals.len());
        let lost = gone.saturating_sub(self.arrivals.len());
        // The share below which health is not believed either.
        if (before - lost.min(before)) as u64 * 100 < u64::from(policy.panic_threshold) * before as u64 {
            self.nodes.iter_mut().filter(is_recent).for_each(|gone| gone.is_held = true);
        }
    }

    /// Of those that vanished long enough ago, as of those that failed before they left, only the failure is remembered, for
    /// as long as cooldowns can last.
    fn forget(&mut self, policy: &HealthPolicy, now: Millis) {
        self.nodes.retain_mut(|gone| {
            gone.has_vanished &= is_recent(gone.left, now) || gone.is_held_at(policy, now);
            if gone.has_vanished {
                return true;
            }
            let memory = gone.memory();
            let is_remembered = memory.is_some() && now.since(gone.left) <= policy.max_cooldown;
            gone.node.health = memory.unwrap_or_default();
            is_remembered
        });
        let failed = self.nodes.iter().filter(|gone| !gone.has_vanished).count();
        let mut surplus = failed.saturating_sub(MAX_FAILED);
        self.nodes.retain(|gone| {
            let stays = gone.has_vanished || surplus == 0;
            surplus -= usize::from(!stays);
            stays
        });
    }

    /// The nodes whose sessions are not to be given away at `now`, also by what else pins may bear.
    pub(super) fn held(&self, policy: &HealthPolicy, now: Millis) -> impl Iterator<Item = &str> {
        let held = self.nodes.iter().filter(move |gone| gone.is_held_at(policy, now));
        held.flat_map(|gone| std::iter::once(gone.node.name()).chain(gone.node.alias()))
    }
}

impl Former {
    /// A member, as it is at `now`.
    pub(super) fn new(node: Node, now: Millis) -> Self {
        Self { node, left: now, has_vanished: false, is_held: false }
    }

    /// The member is not in the list any longer. If it was unhealthy, then it was so until `sick_until`.
    pub(super) fn leaves(mut self, sick_until: Millis, policy: &HealthPolicy, now: Millis) -> Self {
        let health = &mut self.node.health;
        // A panic is of its priority, and stays there.
        health.set_panic(false, None, now);
        // One that is out, or was announced to leave, has not vanished.
        let is_out = matches!(health.state(policy, now), State::Cooldown | State::Draining);
        self.has_vanished = !is_out && !health.is_pending();
        health.lose_sight(sick_until);
        self
    }

    /// Its health when it is back; `None` if it is a new node.
    pub(super) fn returns(&self, is_first_look: bool, policy: &HealthPolicy, now: Millis) -> Option<Health> {
        if self.is_held_at(policy, now) {
            // The node is not new, but its checks begin again.
            return Some(self.node.health.clone().awaited());
        }
        self.memory().filter(|_| !is_first_look).map(|health| health.rejoined(now))
    }

    fn memory(&self) -> Option<Health> {
        self.node.health.clone().departed(self.left)
    }

    fn is_held_at(&self, policy: &HealthPolicy, now: Millis) -> bool {
        self.is_held && now.since(self.left) < policy.vanish_grace
    }
}

fn is_recent(time: Millis, now: Millis) -> bool {
    now.since(time) < TOGETHER
}

/// Nodes until they are found again by name or by address.
pub(super) struct Known {
    nodes: Vec<Option<Former>>,
    /// The hashes of both with the node's place, in order.
    index: Vec<(u64, u32)>,
}

impl Known {
    pub(super) fn new(nodes: impl IntoIterator<Item = Former>) -> Self {
        let nodes: Vec<Option<Former>> = nodes.into_iter().map(Some).collect();
        let mut index = Vec::new();
        for (place, former) in (0..).zip(nodes.iter().flatten()) {
            let texts = [former.node.name(), &former.node.address];
            index.extend(texts.map(|text| (session_hash(text.as_bytes()), place)));
        }
        index.sort_unstable();
        Self { nodes, index }
    }

    /// The node that this host is: the one of its name, or else the one at its address.
    pub(super) fn take(&mut self, seen: &Observation) -> Option<Former> {
        let texts = [seen.name(), &seen.address];
        texts.into_iter().find_map(|text| {
            let hash = session_hash(text.as_bytes());
            let start = self.index.partition_point(|(other, _)| *other < hash);
            let mut same = self.index.iter().skip(start).take_while(|(other, _)| *other == hash);
            same.find_map(|(_, place)| {
                self.nodes.get_mut(*place as usize)?.take_if(|former| former.node.is(seen))
            })
        })
    }

    /// Those that were not found.
    pub(super) fn rest(self) -> impl Iterator<Item = Former> {
        self.nodes.into_iter().flatten()
    }
}
