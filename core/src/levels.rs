//! How a pool's priority levels share its new sessions, and which of them are in panic.
//!
//! This is Envoy's computation, in its integers, so that Berth draws the same priority for a session as Envoy's ring_hash
//! and maglev would: `LoadBalancerBase` in Envoy v1.40,
//! `source/extensions/load_balancing_policies/common/load_balancer_impl.cc`. Three things differ, on purpose:
//!
//! - Envoy counts healthy hosts, Berth counts the nodes that take new sessions: a node in cooldown, in standby or drained
//!   by the operator does not count, although Envoy may call it healthy.
//! - Panic is about who may serve the sessions that it has. An operator who drains nodes neither begins a panic nor ends one.
//! - Where Envoy gives a level in panic no load at all, because none of its hosts is available while another level is
//!   well enough, Berth does not call it a panic: no request would be sent there, so its sessions are rehomed.
//!
//! Hosts count equally, whatever their weights: `weighted_priority_health` is not read.

use crate::health::{HealthPolicy, State};
use crate::roster::node::Node;
use crate::time::Millis;

/// Envoy's overprovisioning factor, in percent, for load assignments that set none: a level of which 72 % are healthy is
/// fully available. Others are not read: the admin interface shows the factor only in a configuration dump.
const OVERPROVISIONING: u64 = 140;
/// All sessions, in percent.
const WHOLE: u64 = 100;

/// The nodes of one priority: how many can do what, and what follows from it for all of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Level {
    /// Envoy's number of it; 0 is the first choice.
    pub priority: u32,
    /// The places of its nodes: from `start` to before `end`.
    pub start: usize,
    /// The place after its last node.
    pub end: usize,
    /// Nodes of which something is known; the others are Envoy's excluded hosts.
    pub known: u64,
    /// Those that may serve the sessions they have.
    pub serving: u64,
    /// Those that take new sessions: Envoy's healthy hosts.
    pub healthy: u64,
    /// Those that are degraded, as in Envoy.
    pub degraded: u64,
    /// Its nodes' health is ignored.
    pub is_panic: bool,
    /// It has enough usable nodes again since then; the panic ends when that has held.
    pub enough_since: Option<Millis>,
    /// The share of the sessions that it gets for its healthy nodes, and then for its degraded ones, in percent.
    pub loads: [u64; 2],
}

impl Level {
    /// The levels of these nodes, which are in the order of their priorities, as they are at `now`; in panic if their nodes
    /// say so.
    #[must_use]
    pub fn of(nodes: &[Node], policy: &HealthPolicy, now: Millis) -> Vec<Self> {
        let mut levels: Vec<Self> = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            let priority = node.priority;
            if levels.last().is_none_or(|level| level.priority != priority) {
                levels.push(Self { priority, start: place, ..Self::default() });
            }
            let Some(level) = levels.last_mut() else { continue };
            level.end = place + 1;
            level.is_panic |= node.health.is_in_panic();
            level.enough_since = level.enough_since.or(node.health.enough_since());
            if !node.health.is_pending() {
                let state = node.health.state(policy, now);
                level.known += 1;
                level.serving += u64::from(state.serves());
                level.healthy += u64::from(matches!(state, State::Active | State::Warming(_)));
                level.degraded += u64::from(state == State::Degraded);
            }
        }
        levels
    }

    fn available(&self, nodes: u64) -> u64 {
        (OVERPROVISIONING * nodes).checked_div(self.known).unwrap_or(0).min(WHOLE)
    }

    fn is_below(&self, threshold: u32) -> bool {
        self.serving * 100 < u64::from(threshold) * self.known
    }
}

/// Finds the levels that have too few serving nodes at `now` to believe what health says: none if the availability of all
/// levels together is 100, else those below the threshold. Panic begins at once, and ends when there have been enough for a
/// while.
pub fn find_panic(levels: &mut [Level], policy: &HealthPolicy, now: Millis) {
    let threshold = policy.panic_threshold;
    let available: u64 = levels.iter().map(|level| level.available(level.serving)).sum();
    // Nothing is known of a level without known nodes, and it gets no load.
    let everywhere = levels.iter().all(|level| level.known == 0 || level.is_below(threshold));
    for level in levels {
        let gets_some = everywhere || level.available(level.serving) > 0;
        let is_short = available < WHOLE && gets_some && level.is_below(threshold);
        // A clock that was set back must not prolong it.
        let since = level.enough_since.map_or(now, |since| now.min(since));
        let is_fading = level.is_panic && !is_short && now.since(since) < policy.panic_hold;
        level.enough_since = is_fading.then_some(since);
        level.is_panic = is_short || is_fading;
    }
}

/// Shares the sessions out: first as far as each level's healthy nodes go, and in a second round as far as its degraded ones
/// go. In a panic of all levels by their numbers of nodes.
pub fn share_out(levels: &mut [Level]) {
    let all_panic = levels.iter().all(|level| level.is_panic || level.known == 0);
    let mut sum = 0;
    for level in levels.iter_mut() {
        level.loads = match all_panic {
            true => [level.known, 0],
            false => [level.healthy, level.degraded].map(|nodes| level.available(nodes)),
        };
        sum += level.loads.iter().sum::<u64>();
    }
    let whole = if all_panic { sum } else { sum.min(WHOLE) };
    let (mut left, mut first) = (WHOLE, None);
    for round in [0, 1] {
        for (index, level) in levels.iter_mut().enumerate() {
            let Some(load) = level.loads.get_mut(round) else { continue };
            if *load > 0 {
                first = first.or(Some((index, round)));
            }
            *load = (*load * 100).checked_div(whole).unwrap_or(0).min(left);
            left -= *load;
        }
    }
    // What rounding left over. If no node is available the first level has it all, for want of a better one.
    let (index, round) = first.unwrap_or((0, 0));
    if let Some(load) = levels.get_mut(index).and_then(|level| level.loads.get_mut(round)) {
        *load += left;
    }
}

/// Which of the levels the session with this hash draws.
#[must_use]
pub fn draw(levels: &[Level], hash: u64) -> usize {
    let drawn = hash % 100 + 1;
    let mut sum = 0;
    for round in [0, 1] {
        for (index, level) in levels.iter().enumerate() {
            sum += level.loads.get(round).copied().unwrap_or(0);
            if drawn <= sum {
                return index;
            }
        }
    }
    0
}

#[cfg(test)]
mod tests;
