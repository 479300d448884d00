//! The cooldown that follows a failure observed here: how long it is, and from when it runs.

use serde::{Deserialize, Serialize};

use super::HealthPolicy;
use crate::time::Millis;

/// The latest cooldown, over or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cooldown {
    /// Its length from the last unhealthy sight on.
    pub(super) length: Millis,
    last_unhealthy: Millis,
    /// Envoy has said so too: its next healthy-to-unhealthy change is another failure, not news of this one.
    confirmed: bool,
    /// And not by what requests came to, which one client can cause: by an active check, or EDS.
    #[serde(default)]
    pub(super) is_checked: bool,
    /// Until Envoy says so too: the cooldown before it, in case that its check contradicts.
    #[serde(default)]
    before: Option<Millis>,
    #[serde(default)]
    before_length: Millis,
}

impl Cooldown {
    /// The cooldown that a failure at `now` begins, after the `last` one: longer with each relapse.
    pub(super) fn after(last: Option<&Self>, confirmed: bool, policy: &HealthPolicy, now: Millis) -> Self {
        let length = match last {
            None => policy.cooldown,
            // Envoy's own check confirms what a worker reported: the same failure, not a relapse.
            Some(last) if now < last.end() && confirmed && !last.confirmed => last.length,
            Some(last) if now.since(last.end()) <= policy.max_cooldown => {
                last.length.doubled().min(policy.max_cooldown).max(policy.cooldown)
            }
            Some(_) => policy.cooldown,
        };
        let (before, before_length) = match last.filter(|_| !confirmed) {
            // One that Envoy has not confirmed either is part of the same suspicion.
            Some(last) if !last.confirmed => (last.before, last.before_length),
            Some(last) => (Some(last.last_unhealthy), last.length),
            None => (None, Millis(0)),
        };
        Self { length, last_unhealthy: now, confirmed, is_checked: false, before, before_length }
    }

    /// What is left of it after an active check that takes `period` at most has found the node well at `now`: nothing, if
    /// only requests spoke against the node, and before that check began.
    pub(super) fn unless_contradicted(self, period: Millis, now: Millis) -> Option<Self> {
        if self.confirmed || now.since(self.last_unhealthy) <= period {
            return Some(self);
        }
        let (length, before) = (self.before_length, self.before?);
        Some(Self { length, last_unhealthy: before, confirmed: true, before: None, ..self })
    }

    pub(super) fn end(&self) -> Millis {
        self.last_unhealthy + self.length
    }

    /// It was seen unhealthy at `now`.
    pub(super) fn touch(&mut self, now: Millis) {
        self.last_unhealthy = self.last_unhealthy.max(now);
    }

    /// The clock was set back by so much.
    pub(super) fn set_back(&mut self, by: Millis) {
        self.last_unhealthy = self.last_unhealthy.earlier(by);
        self.before = self.before.map(|before| before.earlier(by));
    }

    /// What was noted as later than `now` counts as now.
    pub(super) fn forget_the_future(&mut self, now: Millis) {
        self.last_unhealthy = self.last_unhealthy.min(now);
    }
}
