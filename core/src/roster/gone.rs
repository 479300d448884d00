//! Members that disappear from Envoy's cluster without an announcement: are they gone, or has the control plane lost them?
//!
//! A node that was drained first, or was out already, is simply gone. Of the others the number decides. If few vanish, as
//! when a pod is deleted, each is gone at once and its sessions are rehomed. If so many vanish together that the rest
//! would be panic, and no new members replace them, then most likely the list is wrong: they are *held*. Nothing that a
//! held node owns is given away until the grace time is over. Envoy cannot reach a held node, so its requests go elsewhere
//! meanwhile; that is the caller's matter.

use serde::{Deserialize, Serialize};

use super::Node;
use crate::health::HealthPolicy;
use crate::membership::Observation;
use crate::time::Millis;

/// What happens within this time happens together. A rollout step and its replacement are closer than this, and a poll of
/// the default interval sees both.
const TOGETHER: Millis = Millis(5_000);

/// The members that vanished lately.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Vanished {
    nodes: Vec<Gone>,
    /// When each new member came that may replace one of them.
    arrivals: Vec<Millis>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Gone {
    /// As it was: a node that is back in time is no new one.
    node: Node,
    left: Millis,
    is_held: bool,
}

impl Vanished {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.arrivals.is_empty()
    }

    /// A member that served is not in the list any longer.
    pub(super) fn left(&mut self, node: Node, now: Millis) {
        self.nodes.push(Gone { node, left: now, is_held: false });
    }

    /// A member that was not there before.
    pub(super) fn arrived(&mut self, now: Millis) {
        self.arrivals.push(now);
    }

    /// The held node that this host is, if it is back.
    pub(super) fn take(&mut self, seen: &Observation, policy: &HealthPolicy, now: Millis) -> Option<Node> {
        let place = self.nodes.iter().position(|gone| gone.node.is(seen) && gone.is_held_at(policy, now))?;
        Some(self.nodes.swap_remove(place).node)
    }

    /// Decides, after a look that found `members` members.
    pub(super) fn judge(&mut self, members: usize, policy: &HealthPolicy, now: Millis) {
        for time in self.nodes.iter_mut().map(|gone| &mut gone.left).chain(&mut self.arrivals) {
            // A clock that was set back must not prolong anything.
            *time = now.min(*time);
        }
        let is_recent = |time: &Millis| now.since(*time) < TOGETHER;
        self.nodes.retain(|gone| is_recent(&gone.left) || gone.is_held_at(policy, now));
        self.arrivals.retain(is_recent);
        let gone = self.nodes.iter().filter(|gone| is_recent(&gone.left)).count();
        let before = (members + gone).saturating_sub(self.arrivals.len());
        let lost = gone.saturating_sub(self.arrivals.len());
        // The share below which health is not believed either.
        if (before - lost.min(before)) as u64 * 100 < u64::from(policy.panic_threshold) * before as u64 {
            for gone in self.nodes.iter_mut().filter(|gone| is_recent(&gone.left)) {
                gone.is_held = true;
            }
        }
    }

    /// The nodes whose sessions are not to be given away at `now`, also by what else pins may bear.
    pub(super) fn held(&self, policy: &HealthPolicy, now: Millis) -> impl Iterator<Item = &str> {
        let held = self.nodes.iter().filter(move |gone| gone.is_held_at(policy, now));
        held.flat_map(|gone| std::iter::once(gone.node.name()).chain(gone.node.alias()))
    }

    /// All of them, as they were.
    pub(super) fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().map(|gone| &mut gone.node)
    }
}

impl Gone {
    fn is_held_at(&self, policy: &HealthPolicy, now: Millis) -> bool {
        self.is_held && now.since(self.left) < policy.vanish_grace
    }
}
