//! Members that disappear from Envoy's cluster without an announcement: are they gone, or has the control plane lost them?
//!
//! A node that was drained first, or was out already, is simply gone. Of the others the number decides. If few vanish, as
//! when a pod is deleted, each is gone at once and its sessions are rehomed. If so many vanish together that the rest
//! would be panic, and no new members replace them, then most likely the list is wrong: they are *held*. Nothing that a
//! held node owns is given away until the grace time is over. Envoy cannot reach a held node, so its requests go elsewhere
//! meanwhile; that is the caller's matter.

use serde::{Deserialize, Serialize};

use crate::health::{Health, HealthPolicy};
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
    name: String,
    address: String,
    left: Millis,
    is_held: bool,
    /// As it was: a node that is back in time is no new one.
    health: Health,
}

impl Vanished {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.arrivals.is_empty()
    }

    /// A member that served is not in the list any longer.
    pub(super) fn left(&mut self, name: String, address: String, health: Health, now: Millis) {
        self.nodes.push(Gone { name, address, left: now, is_held: false, health });
    }

    /// A member that was not there before.
    pub(super) fn arrived(&mut self, now: Millis) {
        self.arrivals.push(now);
    }

    /// What was known of a held node that is back, and where it was.
    pub(super) fn take(
        &mut self,
        name: &str,
        policy: &HealthPolicy,
        now: Millis,
    ) -> Option<(Health, String)> {
        let is_it = |gone: &Gone| gone.name == name && gone.is_held_at(policy, now);
        let place = self.nodes.iter().position(is_it)?;
        let Gone { health, address, .. } = self.nodes.swap_remove(place);
        Some((health, address))
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

    /// The nodes whose sessions are not to be given away at `now`, also by the addresses of those that have names: a pin may
    /// be older than the name.
    pub(super) fn held(&self, policy: &HealthPolicy, now: Millis) -> impl Iterator<Item = &str> {
        let held = self.nodes.iter().filter(move |gone| gone.is_held_at(policy, now));
        held.flat_map(|gone| {
            let address = (gone.address != gone.name).then_some(gone.address.as_str());
            std::iter::once(gone.name.as_str()).chain(address)
        })
    }

    /// Their names with what was known of them.
    pub(super) fn healths(&mut self) -> impl Iterator<Item = (&String, &mut Health)> {
        self.nodes.iter_mut().map(|gone| (&gone.name, &mut gone.health))
    }
}

impl Gone {
    fn is_held_at(&self, policy: &HealthPolicy, now: Millis) -> bool {
        self.is_held && now.since(self.left) < policy.vanish_grace
    }
}
