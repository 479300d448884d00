//! One member of a pool, as the roster has it.

use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::membership::Observation;
use crate::time::Millis;

/// One member of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where it is now, as `override_host` knows it.
    pub address: String,
    /// What it is called, if that is not its address: see [`Node::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it was called before, as pins may call it: the name that it had, if it has none any longer; if it has one and has moved
    /// since, the address at which it got that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) former: Option<String>,
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
    #[serde(default)]
    pub health: Health,
}

impl Node {
    /// Its ring key, the node of pins, and its name in the state cluster: its address, unless the cluster hashes by another.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }

    /// What pins may bear in place of its name: the address at which it got that, or the name that it had.
    #[must_use]
    pub fn alias(&self) -> Option<&str> {
        self.former.as_deref().or(self.name.is_some().then_some(&self.address))
    }

    /// True if this host is the node: the names are equal, or the name has become known, or there is no name any longer.
    pub(super) fn is(&self, seen: &Observation) -> bool {
        self.name() == seen.name()
            || self.address == seen.address && self.name.is_some() != seen.name.is_some()
    }

    /// The [`Self::former`] of the node that it is now.
    pub(super) fn former_of(self, seen: &Observation) -> Option<String> {
        match (self.name, &seen.name) {
            (name, None) => name.or(self.former),
            (None, Some(_)) => None,
            (Some(_), Some(_)) => self.former.or((self.address != seen.address).then_some(self.address)),
        }
    }

    /// Its health as a node of this priority: it does not take the panic of its former one along.
    pub(super) fn as_of(&self, priority: u32, now: Millis) -> Health {
        let mut health = self.health.clone();
        if self.priority != priority {
            health.set_panic(false, None, now);
        }
        health
    }
}
