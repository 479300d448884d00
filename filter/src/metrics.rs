//! Envoy's metrics of what was counted within the VM: a request costs no hostcall, each tick flushes.

use std::cell::Cell;

use berth_core::event::{self, Counter, RuleResult};
use berth_core::health::State;
use berth_core::proxy::{self, TOKEN_RESULTS, token_results};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

use crate::host;

/// Envoy's counters for a set of counts, by index; `None` for one that is not exported.
pub(crate) struct Metrics<const N: usize>([Option<u32>; N]);

impl<const N: usize> Metrics<N> {
    /// Defines one counter for each name.
    pub(crate) fn define(names: impl Iterator<Item = String>) -> Self {
        let mut metrics = [None; N];
        for (metric, name) in metrics.iter_mut().zip(names) {
            *metric = host::define_counter(&name);
        }
        Self(metrics)
    }

    /// Hands to Envoy what was counted.
    pub(crate) fn add(&self, counts: impl Iterator<Item = (usize, u64)>) {
        for (index, count) in counts {
            host::increment(self.0.get(index).copied().flatten(), count);
        }
    }
}

/// The counters of a rule; one that only stands for its pool's `match` has none.
pub(crate) fn rule_metrics(rule: &proxy::Rule) -> Metrics<{ RuleResult::ALL.len() }> {
    let names = RuleResult::ALL.iter().filter(|_| rule.config.is_named);
    Metrics::define(names.map(|result| result.stat(&rule.config.name)))
}

/// The counters of a token provider.
pub(crate) fn token_metrics(provider: &proxy::Provider) -> Metrics<TOKEN_RESULTS> {
    Metrics::define(token_results().map(|result| event::tokens_stat(&provider.config.name, result)))
}

/// One pool's metrics.
pub(crate) struct PoolMetrics {
    pub(crate) counters: Metrics<{ Counter::ALL.len() }>,
    nodes: [Option<u32>; State::NAMES.len()],
    panic: Option<u32>,
    membership_age: Option<u32>,
    pins: Share,
    open_breakers: Share,
}

/// A gauge to which each VM adds its own part.
struct Share {
    part: Cell<u64>,
    metric: Option<u32>,
}

impl PoolMetrics {
    pub(crate) fn define(pool: &str) -> Self {
        Self {
            counters: Metrics::define(Counter::ALL.iter().map(|counter| counter.stat(pool))),
            nodes: State::NAMES.map(|state| host::define_gauge(&event::nodes_gauge(pool, state))),
            panic: host::define_gauge(&event::panic_gauge(pool)),
            membership_age: host::define_gauge(&event::membership_age_gauge(pool)),
            pins: Share::define(&event::pins_gauge(pool)),
            open_breakers: Share::define(&event::breaker_gauge(pool)),
        }
    }

    /// Sets the gauges. Only the leader does, or each VM would set them to its own view.
    pub(crate) fn show(&self, snapshot: &Snapshot, membership_age: Millis) {
        for (metric, count) in self.nodes.iter().zip(snapshot.count_states()) {
            host::set_gauge(*metric, count);
        }
        host::set_gauge(self.panic, u64::from(snapshot.has_panic()));
        host::set_gauge(self.membership_age, membership_age.0 / 1000);
    }

    /// Adds this VM's pins, and whether its breaker is open, to those of the others.
    pub(crate) fn show_pins(&self, pins: usize, breaker_is_open: bool) {
        self.pins.show(pins as u64);
        self.open_breakers.show(u64::from(breaker_is_open));
    }
}

impl Share {
    fn define(name: &str) -> Self {
        Self { part: Cell::new(0), metric: host::define_gauge(name) }
    }

    fn show(&self, part: u64) {
        let before = self.part.replace(part);
        if let Some(metric) = self.metric
            && let (Ok(part), Ok(before)) = (i64::try_from(part), i64::try_from(before))
            && part != before
        {
            host::change_gauge(metric, part - before);
        }
    }
}

/// What a VM that ends had added is taken away, or it would stay until Envoy restarts.
impl Drop for Share {
    fn drop(&mut self) {
        self.show(0);
    }
}
