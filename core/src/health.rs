//! One node's health: what was observed of it, and the state that follows from it at a given time.
//!
//! Observations are stored, states are derived. So no timer has to fire, and every VM that holds the same record and
//! the same time comes to the same state. What is wanted (by EDS as DEGRADED or DRAINING, by the operator on record in
//! the state cluster) is kept apart from what was seen. Who is asked, and when, is not decided here.

mod cooldown;
mod operator;

use serde::{Deserialize, Serialize};

use crate::membership::HostFlags;
use crate::time::Millis;
use crate::wire::{MAX_WEIGHT, NodeRecord, NodeState};

use {cooldown::Cooldown, operator::Operator};

/// How patient a pool is with its nodes; see `docs/OPERATIONS.md` for each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPolicy {
    /// How long a node stays out after it was last seen unhealthy.
    pub cooldown: Millis,
    /// Where the doubling on each relapse ends; also how long a node must behave before a failure counts as its first.
    pub max_cooldown: Millis,
    /// How long the ramp of a new or returned node takes; zero for none.
    pub warm_up: Millis,
    /// The share of its sessions that a warming node gets at once, in percent.
    pub warm_up_from_percent: u32,
    /// Consecutive failed requests after which one worker puts a node into cooldown; 0 switches this off.
    pub passive_failures: u32,
    /// Below this percentage of usable nodes health is no longer believed; 0 switches panic off.
    pub panic_threshold: u32,
    /// How long the share must be back at the threshold before panic ends.
    pub panic_hold: Millis,
    /// How long the sessions of members that vanish together are kept for them; zero for not at all.
    pub vanish_grace: Millis,
}

impl HealthPolicy {
    /// Cooldown and threshold are those that operators of game servers ask for; three failures in a row are no accident;
    /// panic holds for longer than an active check and a poll take together; a control plane that lost its endpoints has them
    /// back within ten seconds or has another fault.
    pub const DEFAULT: Self = Self {
        cooldown: Millis(30_000),
        max_cooldown: Millis(300_000),
        warm_up: Millis(30_000),
        warm_up_from_percent: 10,
        passive_failures: 3,
        panic_threshold: 50,
        panic_hold: Millis(5_000),
        vanish_grace: Millis(10_000),
    };
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a node may be given. `docs/OPERATIONS.md` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Active,
    /// Everything, for a growing share of its sessions: this many of [`State::WHOLE`].
    Warming(u16),
    /// Its sessions, no new ones.
    Degraded,
    /// Its sessions, no new ones, and it will leave.
    Draining,
    /// Nothing: it failed, and has not been well for long enough.
    Cooldown,
    /// Nothing yet: its first active check has not answered.
    Pending,
    /// Its sessions, no new ones: the operator holds it in reserve.
    Standby,
}

impl State {
    /// The share of a node that has finished warming up.
    pub const WHOLE: u16 = 1 << 15;

    /// Every state's name in metrics and headers.
    pub const NAMES: [&'static str; 7] =
        ["active", "warming", "degraded", "draining", "cooldown", "pending", "standby"];

    /// The state's place in [`State::NAMES`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Active => 0,
            Self::Warming(_) => 1,
            Self::Degraded => 2,
            Self::Draining => 3,
            Self::Cooldown => 4,
            Self::Pending => 5,
            Self::Standby => 6,
        }
    }

    /// True if the node may serve the sessions it already has.
    #[must_use]
    pub fn serves(self) -> bool {
        !matches!(self, Self::Cooldown | Self::Pending)
    }
}

/// All that was observed of one node.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Envoy calls it unhealthy now.
    unhealthy: bool,
    /// Its checks have begun, and nothing good was said of it since. Whether it was well before is another matter.
    pending: bool,
    /// Nothing good was ever said of it, here or at another address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
    degraded: bool,
    draining: bool,
    /// When it joined, or was first well since; `None` if it was there when Berth first looked, or has warmed up.
    joined: Option<Millis>,
    cooldown: Option<Cooldown>,
    /// Its priority is in panic. All nodes of one say the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    panic: bool,
    /// Enough nodes of its priority are usable again since then; the panic ends when that has held.
    #[serde(skip_serializing_if = "Option::is_none")]
    enough_since: Option<Millis>,
    /// When the last panic ended. Up to then it had all its sessions, so there is nothing left to warm up.
    panic_ended: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<Operator>,
}

impl Health {
    /// A node that was there from the start: it does not warm up.
    #[must_use]
    pub fn established() -> Self {
        Self::default()
    }

    /// A node that joined at `now`.
    #[must_use]
    pub fn joined(now: Millis) -> Self {
        Self { joined: Some(now), is_new: true, ..Self::default() }
    }

    /// A new node as it is until its first check has answered.
    #[must_use]
    pub fn unknown(self) -> Self {
        Self { is_new: true, ..self.awaited() }
    }

    /// The node as it is while its checks begin again. It was known before, so it counts as one that does not serve.
    #[must_use]
    pub fn awaited(self) -> Self {
        Self { pending: true, ..self }
    }

    /// What to remember of a node that leaves: nothing if it never failed. Unhealthy until it left counts as seen then.
    ///
    /// A shared cooldown is remembered until it is over, like its own, or a node could flap its way out of it. A state
    /// that the operator wants is not worth it by itself: the feed repeats it a second after the node is back, and every
    /// deploy leaves as many drained nodes behind as there are.
    #[must_use]
    pub fn departed(mut self, now: Millis) -> Option<Self> {
        if self.unhealthy {
            self.touch_cooldown(now);
        }
        let is_memorable = self.cooldown.is_some() || self.in_shared_cooldown(now);
        is_memorable.then(|| Self { cooldown: self.cooldown, operator: self.operator, ..Self::default() })
    }

    /// The node of which this was remembered is back: a new one, but for what is on record and what is left of its cooldown.
    #[must_use]
    pub fn rejoined(self, now: Millis) -> Self {
        let cooldown = if self.in_cooldown(now) { self.cooldown } else { None };
        Self { cooldown, operator: self.operator, ..Self::joined(now).unknown() }
    }

    /// The node goes on at another address: what was seen of the old one says nothing of it, and its checks begin again. Its
    /// place on the ring is the same, so it does not warm up again.
    #[must_use]
    pub fn moved(self) -> Self {
        let Self { operator, joined, is_new, .. } = self;
        Self { operator, joined, is_new, ..Self::default() }.awaited()
    }

    /// Takes in what Envoy says of the node at `now`.
    pub fn observe(&mut self, mut flags: HostFlags, policy: &HealthPolicy, now: Millis) {
        let is_checked = flags.unhealthy;
        flags.unhealthy |= flags.ejected;
        self.forget_the_future(now);
        // Envoy shows a host as failed until its first check is answered, and seldom says that it is only that. A node that
        // has not been well since its checks began has not failed, unless it is in a cooldown of its own.
        if self.pending && !self.in_own_cooldown(now) && flags.unhealthy {
            flags = HostFlags { unhealthy: false, pending: true, ..flags };
        }
        match (self.unhealthy, flags.unhealthy) {
            (false, true) => self.fail(true, policy, now),
            // The last sight of it unhealthy: from here the cooldown runs.
            (true, false) => self.touch_cooldown(now),
            (true, true) | (false, false) => {}
        }
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.is_checked |= is_checked && flags.unhealthy;
        }
        self.unhealthy = flags.unhealthy;
        // The first check of a new node must not eat its warm-up. One that was well before goes on with what is left of it.
        if self.is_new && self.pending && !flags.pending && self.joined.is_some() {
            self.joined = Some(now);
        }
        self.pending = flags.pending;
        self.is_new &= flags.pending;
        let has_warmed_up = |joined: &mut Millis| *joined + policy.warm_up <= now;
        if !self.is_new {
            self.joined.take_if(has_warmed_up);
        }
        self.degraded = flags.degraded;
        self.draining = flags.draining;
    }

    /// Envoy was last seen at `seen`, and nothing since says that the node is still unhealthy: its cooldown runs from then.
    pub fn lose_sight(&mut self, seen: Millis) {
        if self.unhealthy {
            self.touch_cooldown(seen);
            self.unhealthy = false;
        }
    }

    /// Envoy's active check, which comes to a result within `period`, finds the node well at `now`: what only requests said
    /// against it before that counts as never said.
    pub fn contradict(&mut self, period: Millis, now: Millis) {
        if !self.unhealthy && !self.pending {
            self.cooldown =
                self.cooldown.take().and_then(|cooldown| cooldown.unless_contradicted(period, now));
        }
    }

    /// Takes in what the state cluster has on record of the node, unless as much is known already. The end of the record's
    /// cooldown is by this proxy's clock.
    pub fn record(&mut self, record: &NodeRecord) {
        let known = self.operator.as_ref();
        if Operator::is_news(record, known) || known.is_some_and(|known| known.is_set_right_by(record)) {
            self.operator = Some(record.into());
        }
    }

    /// The operator's factor on its weight. One out of its range may come from a reply that is not checked, and with it no ring
    /// could be built.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.operator.as_ref().and_then(|operator| operator.weight).unwrap_or(1).clamp(1, MAX_WEIGHT)
    }

    /// Different after each start of the node, if it says so at all.
    #[must_use]
    pub fn boot(&self) -> Option<u64> {
        self.operator.as_ref().and_then(|operator| operator.boot)
    }

    /// A worker's own consecutive failures reached the limit.
    pub fn report_failure(&mut self, policy: &HealthPolicy, now: Millis) {
        self.forget_the_future(now);
        // In a cooldown that only others saw a reason for, this one is news.
        if self.in_own_cooldown(now) {
            self.touch_cooldown(now);
        } else {
            self.fail(false, policy, now);
        }
    }

    /// Its priority is in panic at `now`, possibly with enough usable nodes since some time, or it is not.
    pub fn set_panic(&mut self, is_panic: bool, enough_since: Option<Millis>, now: Millis) {
        if self.panic && !is_panic {
            // Without this all that failed at once would warm up at once, and nearly every session would move.
            self.panic_ended = Some(now);
        }
        self.panic = is_panic;
        self.enough_since = enough_since;
    }

    /// True if its priority is in panic.
    #[must_use]
    pub fn is_in_panic(&self) -> bool {
        self.panic
    }

    /// Since when its priority has enough usable nodes again, in a panic.
    #[must_use]
    pub fn enough_since(&self) -> Option<Millis> {
        self.enough_since
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, policy: &HealthPolicy, now: Millis) -> State {
        if self.in_cooldown(now) {
            State::Cooldown
        } else if self.pending {
            State::Pending
        } else if self.draining || self.is_wanted(NodeState::Draining) {
            State::Draining
        } else if self.degraded || self.is_wanted(NodeState::Degraded) {
            State::Degraded
        } else if self.is_wanted(NodeState::Standby) {
            State::Standby
        } else {
            self.warmth(policy, now)
        }
    }

    /// When the cooldown ends that an active check or EDS began here, as far as is known at `now`; `None` if it is in none,
    /// or only in one that others share, or that only requests gave a reason for.
    #[must_use]
    pub fn own_cooldown_end(&self, now: Millis) -> Option<Millis> {
        let cooldown = self.cooldown.as_ref().filter(|_| self.in_own_cooldown(now))?;
        if !cooldown.is_checked {
            return None;
        }
        // It may have been noted before the clock was set back.
        let latest = now + cooldown.length;
        Some(if self.unhealthy { latest } else { cooldown.end().min(latest) })
    }

    /// True if nothing is known of the node yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.pending && self.is_new && !self.unhealthy
    }

    /// True if its latest warm-up follows a cooldown: the sessions that it has not taken back yet are where the cooldown
    /// sent them.
    #[must_use]
    pub fn is_returning(&self) -> bool {
        self.cooldown_end().is_some_and(|end| self.joined <= Some(end))
    }

    /// True if the state will change by the passing of time alone.
    #[must_use]
    pub fn is_timed(&self, policy: &HealthPolicy, now: Millis) -> bool {
        self.in_cooldown(now) || matches!(self.warmth(policy, now), State::Warming(_))
    }

    fn in_cooldown(&self, now: Millis) -> bool {
        self.in_own_cooldown(now) || self.in_shared_cooldown(now)
    }

    fn in_own_cooldown(&self, now: Millis) -> bool {
        self.unhealthy || self.cooldown.as_ref().is_some_and(|cooldown| now < cooldown.end())
    }

    fn in_shared_cooldown(&self, now: Millis) -> bool {
        Some(now) < self.shared_cooldown_end()
    }

    fn shared_cooldown_end(&self) -> Option<Millis> {
        self.operator.as_ref().and_then(|operator| operator.cooldown_until)
    }

    /// The end of the latest cooldown, whether this proxy or another one saw its reason.
    fn cooldown_end(&self) -> Option<Millis> {
        self.cooldown.as_ref().map(Cooldown::end).max(self.shared_cooldown_end())
    }

    fn is_wanted(&self, state: NodeState) -> bool {
        self.operator.as_ref().is_some_and(|operator| operator.state == state)
    }

    /// A clock that was set back must not prolong anything: what was noted as later counts as now. The end of a shared
    /// cooldown was not noted by this clock.
    fn forget_the_future(&mut self, now: Millis) {
        for time in [&mut self.joined, &mut self.panic_ended].into_iter().flatten() {
            *time = now.min(*time);
        }
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.forget_the_future(now);
        }
    }

    /// The clock was set back by so much: all that was noted is as long ago as it was.
    pub fn set_back(&mut self, by: Millis) {
        let shared = self.operator.as_mut().and_then(|operator| operator.cooldown_until.as_mut());
        let own = [self.joined.as_mut(), self.panic_ended.as_mut(), self.enough_since.as_mut()];
        for time in own.into_iter().chain([shared]).flatten() {
            *time = time.earlier(by);
        }
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.set_back(by);
        }
    }

    fn touch_cooldown(&mut self, now: Millis) {
        if let Some(cooldown) = &mut self.cooldown {
            cooldown.touch(now);
        }
    }

    fn fail(&mut self, confirmed: bool, policy: &HealthPolicy, now: Millis) {
        self.cooldown = Some(Cooldown::after(self.cooldown.as_ref(), confirmed, policy, now));
    }

    fn warmth(&self, policy: &HealthPolicy, now: Millis) -> State {
        let began = self.joined.max(self.cooldown_end());
        let is_warming = |began: &Millis| now < *began + policy.warm_up && self.panic_ended < Some(*began);
        let Some(began) = began.filter(is_warming) else { return State::Active };
        let (done, from) = (now.since(began).0, u64::from(policy.warm_up_from_percent));
        // Linear from `from` percent to all of it, in parts of WHOLE.
        let percent_of_length = 100 * policy.warm_up.0;
        let parts = u64::from(State::WHOLE) * (from * policy.warm_up.0 + (100 - from.min(100)) * done);
        State::Warming(u16::try_from(parts / percent_of_length.max(1)).unwrap_or(State::WHOLE))
    }
}

#[cfg(test)]
mod tests;
