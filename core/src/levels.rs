//! How a pool's priority levels share its new sessions, and which of them are in panic.
//!
//! This is Envoy's computation, in its integers, so that Berth draws the same priority for a session as Envoy's ring_hash
//! and maglev would: `LoadBalancerBase` in Envoy v1.40,
//! `source/extensions/load_balancing_policies/common/load_balancer_impl.cc`. Three things differ, on purpose:
//!
//! - Envoy counts healthy hosts, Berth counts the nodes that take new sessions: a node in cooldown, in standby or drained
//!   by the operator is none of them, although Envoy may call it healthy.
//! - Panic is about who may serve the sessions that it has. An operator who drains nodes neither begins a panic nor ends one.
//! - Where Envoy gives a level in panic no load at all, because none of its hosts is available while another level is
//!   well enough, Berth does not call it a panic: no request would be sent there, so its sessions are rehomed.
//!
//! Hosts count equally, whatever their weights: `weighted_priority_health` is not read.

use crate::health::{HealthPolicy, State};
use crate::roster::Node;
use crate::time::Millis;

/// Envoy's overprovisioning factor, in percent, for load assignments that set none: a level of which 72 % are healthy is
/// fully available. Others are not read: the admin interface shows the factor only in a configuration dump.
const OVERPROVISIONING: u64 = 140;
/// All sessions, in percent.
const WHOLE: u64 = 100;

/// How many nodes of one priority level can do what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Headcount {
    /// Nodes of which something is known; the others are Envoy's excluded hosts.
    pub known: u64,
    /// Those that may serve the sessions they have.
    pub serving: u64,
    /// Those that take new sessions: Envoy's healthy hosts.
    pub healthy: u64,
    /// Those that are degraded, as in Envoy.
    pub degraded: u64,
}

impl Headcount {
    /// Counts these nodes as they are at `now`.
    #[must_use]
    pub fn of(nodes: &[Node], policy: &HealthPolicy, now: Millis) -> Self {
        let mut count = Self::default();
        for node in nodes.iter().filter(|node| !node.health.is_pending()) {
            let state = node.health.state(policy, now);
            count.known += 1;
            count.serving += u64::from(state.serves());
            count.healthy += u64::from(matches!(state, State::Active | State::Warming(_)));
            count.degraded += u64::from(state == State::Degraded);
        }
        count
    }

    fn available(&self, nodes: u64) -> u64 {
        (OVERPROVISIONING * nodes).checked_div(self.known).unwrap_or(0).min(WHOLE)
    }

    fn is_below(&self, threshold: u32) -> bool {
        self.serving * 100 < u64::from(threshold) * self.known
    }
}

/// Which levels have too few serving nodes for their health to be believed, by a threshold in percent: none if the
/// availability of all levels together is 100, else those below the threshold.
#[must_use]
pub fn short_of_nodes(counts: &[Headcount], threshold: u32) -> Vec<bool> {
    let available = |count: &Headcount| count.available(count.serving);
    let is_enough = counts.iter().map(available).sum::<u64>() >= WHOLE;
    // Nothing is known of a level without known nodes, and it gets no load.
    let is_everywhere = counts.iter().all(|count| count.known == 0 || count.is_below(threshold));
    let is_short = |count: &Headcount| {
        !is_enough && count.is_below(threshold) && (is_everywhere || available(count) > 0)
    };
    counts.iter().map(is_short).collect()
}

/// What share of the sessions each level gets, in percent: first as far as its healthy nodes go, and in a second round,
/// which follows in the same list, as far as its degraded nodes go. In a panic of all levels by their numbers of nodes.
#[must_use]
pub fn loads(counts: &[Headcount], all_panic: bool) -> Vec<u64> {
    let healthy = |count: &Headcount| if all_panic { count.known } else { count.available(count.healthy) };
    let degraded = |count: &Headcount| if all_panic { 0 } else { count.available(count.degraded) };
    let shares: Vec<u64> = counts.iter().map(healthy).chain(counts.iter().map(degraded)).collect();
    let sum: u64 = shares.iter().sum();
    let whole = if all_panic { sum } else { sum.min(WHOLE) };
    let mut left = WHOLE;
    let mut give = |share: &u64| {
        let load = (share * 100).checked_div(whole).unwrap_or(0).min(left);
        left -= load;
        load
    };
    let mut loads: Vec<u64> = shares.iter().map(&mut give).collect();
    // What rounding left over. If nobody is available the first level has it all, for want of a better one.
    let first = shares.iter().position(|share| *share > 0).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        *load += left;
    }
    loads
}

/// The level that the session with this hash draws; of [`loads`].
#[must_use]
pub fn draw(loads: &[u64], hash: u64) -> usize {
    let drawn = hash % 100 + 1;
    let mut sum = 0;
    let round = loads.iter().position(|load| {
        sum += load;
        drawn <= sum
    });
    round.unwrap_or(0).checked_rem(loads.len() / 2).unwrap_or(0)
}

#[cfg(test)]
mod tests;
