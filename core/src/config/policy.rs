//! How a pool's ring is built, and how patient it is with its nodes.

use super::fields::{Faults, Fields};
use super::pool::OnPanic;
use crate::health::HealthPolicy;
use crate::ring::{Algorithm, RingSize};
use crate::time::Millis;

/// Long enough for any deploy, short enough that a slip such as hours for seconds is noticed.
const LONGEST: Millis = Millis(24 * 3_600_000);

pub(super) fn read_ring(fields: &mut Fields<'_>, faults: &mut Faults) -> Algorithm {
    let default = Algorithm::default();
    let Some(value) = fields.value("ring") else { return default };
    let path = fields.path_of("ring");
    let mut fields = Fields::of(value, &path, faults);
    let algorithm = fields.string("algorithm", faults).unwrap_or("ring_hash");
    let virtual_nodes = fields.number("virtual_nodes", 1..=65_536, faults);
    let minimum = fields.number("minimum_ring_size", 1..=8_388_608, faults);
    let maximum = fields.number("maximum_ring_size", 1..=8_388_608, faults);
    let table_size = fields.number("table_size", 2..=5_000_011, faults);
    let has_size = virtual_nodes.is_some() || minimum.is_some() || maximum.is_some();
    let misplaced = |what: &str, faults: &mut Faults| {
        faults.add(&path, format!("{what} does not go with algorithm {algorithm:?}"));
    };
    let ring = match algorithm {
        "ring_hash" => {
            if table_size.is_some() {
                misplaced("table_size", faults);
            }
            if virtual_nodes.is_some() && (minimum.is_some() || maximum.is_some()) {
                faults.add(
                    &path,
                    "virtual_nodes and minimum_ring_size or maximum_ring_size exclude each other: a size per node, or Envoy's for the whole ring",
                );
            }
            if minimum.is_some() || maximum.is_some() {
                Algorithm::RingHash(RingSize::Envoy {
                    minimum: minimum.unwrap_or(1024),
                    maximum: maximum.unwrap_or(8_388_608),
                })
            } else {
                virtual_nodes
                    .and_then(|nodes| u32::try_from(nodes).ok())
                    .map_or(default, |nodes| Algorithm::RingHash(RingSize::VirtualNodes(nodes)))
            }
        }
        "maglev" => {
            if has_size {
                misplaced("a ring size", faults);
            }
            let table_size = table_size.and_then(|size| u32::try_from(size).ok()).unwrap_or(65_537);
            Algorithm::Maglev { table_size }
        }
        "rendezvous" => {
            if has_size {
                misplaced("a ring size", faults);
            }
            if table_size.is_some() {
                misplaced("table_size", faults);
            }
            Algorithm::Rendezvous
        }
        other => {
            faults.add(
                &fields.path_of("algorithm"),
                format!("must be \"ring_hash\", \"maglev\" or \"rendezvous\", is {other:?}"),
            );
            default
        }
    };
    if let Err(error) = ring.validate() {
        faults.add(&path, error.to_string());
    }
    fields.finish(faults);
    ring
}

pub(super) fn read_health(fields: &mut Fields<'_>, faults: &mut Faults) -> (HealthPolicy, OnPanic) {
    let panic_threshold = fields.number("panic_threshold", 0..=100, faults).unwrap_or(50);
    let panic_hold = fields.duration("panic_hold", Millis(5000), Millis(0)..=LONGEST, faults);
    let on_panic = match fields.string("on_panic", faults) {
        None | Some("ignore_health") => OnPanic::IgnoreHealth,
        Some("reject") => OnPanic::Reject,
        Some(other) => {
            faults.add(
                &fields.path_of("on_panic"),
                format!("must be \"ignore_health\" or \"reject\", is {other:?}"),
            );
            OnPanic::IgnoreHealth
        }
    };
    let mut policy = HealthPolicy {
        cooldown: Millis(30_000),
        max_cooldown: Millis(300_000),
        warm_up: Millis(30_000),
        warm_up_from_percent: 10,
        passive_failures: 3,
        panic_threshold: u32::try_from(panic_threshold).unwrap_or(50),
        panic_hold,
    };
    let path = fields.path_of("health");
    if let Some(value) = fields.value("health") {
        let mut fields = Fields::of(value, &path, faults);
        policy.cooldown = fields.duration("cooldown", policy.cooldown, Millis(100)..=LONGEST, faults);
        let max_default = policy.max_cooldown.max(policy.cooldown);
        policy.max_cooldown = fields.duration("max_cooldown", max_default, Millis(100)..=LONGEST, faults);
        if policy.max_cooldown < policy.cooldown {
            faults.add(&fields.path_of("max_cooldown"), "must not be below cooldown");
        }
        policy.warm_up = fields.duration("warm_up", policy.warm_up, Millis(0)..=LONGEST, faults);
        let percent =
            |number: Option<u64>, default| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        policy.warm_up_from_percent =
            percent(fields.number("warm_up_from_percent", 0..=100, faults), policy.warm_up_from_percent);
        policy.passive_failures =
            percent(fields.number("passive_failures", 0..=1000, faults), policy.passive_failures);
        fields.finish(faults);
    }
    (policy, on_panic)
}
