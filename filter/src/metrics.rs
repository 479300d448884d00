//! Counting within the VM: a request costs no hostcall, each tick flushes.

use std::cell::Cell;

use berth_core::event::{self, Counter};
use berth_core::health::State;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

use crate::host;

/// One pool's metrics.
pub(crate) struct PoolMetrics {
    counters: [(Cell<u64>, Option<u32>); Counter::ALL.len()],
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
            counters: Counter::ALL.map(|counter| (Cell::new(0), host::define_counter(&counter.stat(pool)))),
            nodes: State::NAMES.map(|state| host::define_gauge(&event::nodes_gauge(pool, state))),
            panic: host::define_gauge(&event::panic_gauge(pool)),
            membership_age: host::define_gauge(&event::membership_age_gauge(pool)),
            pins: Share::define(&event::pins_gauge(pool)),
            open_breakers: Share::define(&event::breaker_gauge(pool)),
        }
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn add(&self, counter: Counter, by: u64) {
        if let Some((value, _)) = self.counters.get(counter.index()) {
            value.set(value.get() + by);
        }
    }

    /// Hands what was counted since the last flush to Envoy.
    pub(crate) fn flush(&self) {
        for (value, metric) in &self.counters {
            let by = value.take();
            if by > 0 {
                host::increment(*metric, by);
            }
        }
    }

    /// Sets the gauges. Only the leader does, or each VM would set them to its own view.
    pub(crate) fn show(&self, snapshot: &Snapshot) {
        for (metric, count) in self.nodes.iter().zip(snapshot.count_states()) {
            host::set_gauge(*metric, count);
        }
        host::set_gauge(self.panic, u64::from(snapshot.has_panic()));
    }

    /// Shows how long ago Envoy was last seen; also only the leader.
    pub(crate) fn show_membership_age(&self, age: Millis) {
        host::set_gauge(self.membership_age, age.0 / 1000);
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

/// What a VM that ends had added is taken away, or it would stay for ever.
impl Drop for Share {
    fn drop(&mut self) {
        self.show(0);
    }
}
