//! How a pool's ring is built, and how patient it is with its nodes.

use super::fields::{Faults, Fields, show_duration};
use crate::health::HealthPolicy;
use crate::ring::{
    Algorithm, DEFAULT_MINIMUM_RING_SIZE, DEFAULT_TABLE_SIZE, DEFAULT_VIRTUAL_NODES, MAXIMUM_TABLE_SIZE,
    RingError, RingSize,
};
use crate::time::Millis;

/// What panic means for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// It goes where it would if all nodes were healthy.
    IgnoreHealth,
    /// It is answered with 503.
    Reject,
}

/// What a request gets whose session's node vanished and may be back soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnVanish {
    /// The node that would be next, until then.
    Reroute,
    /// 503: its session is nowhere else.
    Reject,
}

/// Envoy's limit of both ring sizes; `ring::MAXIMUM_POINTS` as the type they are read in.
const MAXIMUM_RING_SIZE: u32 = 8_388_608;
/// Long enough for any deploy, short enough that a slip such as hours for seconds is noticed.
const LONGEST: Millis = Millis(24 * 3_600_000);
/// Less would be over before the next look at the membership.
const SHORTEST_COOLDOWN: Millis = Millis(100);

#[derive(Clone, Copy)]
enum Kind {
    RingHash,
    Maglev,
    Rendezvous,
}

pub(super) fn read_ring(fields: &mut Fields<'_>, faults: &mut Faults) -> Algorithm {
    let Some(value) = fields.value("ring") else { return Algorithm::default() };
    let path = fields.path_of("ring");
    let mut fields = Fields::of(value, &path, faults);
    let kinds = [("ring_hash", Kind::RingHash), ("maglev", Kind::Maglev), ("rendezvous", Kind::Rendezvous)];
    let kind = fields.choice("algorithm", &kinds, faults);
    let ring = match kind {
        Some(Kind::RingHash) => {
            refuse(&mut fields, &["table_size"], "algorithm ring_hash", faults);
            Algorithm::RingHash(read_ring_size(&mut fields, faults))
        }
        Some(Kind::Maglev) => {
            refuse(&mut fields, &SIZES, "algorithm maglev", faults);
            read_maglev(&mut fields, faults)
        }
        Some(Kind::Rendezvous) => {
            refuse(&mut fields, &SIZES, "algorithm rendezvous", faults);
            refuse(&mut fields, &["table_size"], "algorithm rendezvous", faults);
            Algorithm::Rendezvous
        }
        // Which of these belong here only the algorithm tells, but each can be wrong in itself.
        None => {
            read_ring_size(&mut fields, faults);
            read_maglev(&mut fields, faults);
            Algorithm::default()
        }
    };
    fields.finish(faults);
    ring
}

/// The fields that size a ring.
const SIZES: [&str; 3] = ["virtual_nodes", "minimum_ring_size", "maximum_ring_size"];

fn read_ring_size(fields: &mut Fields<'_>, faults: &mut Faults) -> RingSize {
    let virtual_nodes = fields.number("virtual_nodes", 1..=65_536, faults);
    let minimum = fields.number("minimum_ring_size", 1..=MAXIMUM_RING_SIZE, faults);
    let maximum = fields.number("maximum_ring_size", 1..=MAXIMUM_RING_SIZE, faults);
    let is_envoys = fields.value("minimum_ring_size").or(fields.value("maximum_ring_size")).is_some();
    if !is_envoys {
        return RingSize::VirtualNodes(virtual_nodes.unwrap_or(DEFAULT_VIRTUAL_NODES));
    }
    if fields.value("virtual_nodes").is_some() {
        faults.add(
            &fields.path_of("virtual_nodes"),
            "does not go with minimum_ring_size or maximum_ring_size: give a size per node, \
             or Envoy's for the whole ring",
        );
    }
    if let Some(maximum) = maximum {
        let (smallest, whose) = match (minimum, fields.value("minimum_ring_size")) {
            (Some(minimum), _) => (minimum.into(), ""),
            (None, None) => (DEFAULT_MINIMUM_RING_SIZE, " by default"),
            // It has a fault of its own.
            (None, Some(_)) => (0, ""),
        };
        if u64::from(maximum) < smallest {
            faults.add(
                &fields.path_of("maximum_ring_size"),
                format!("must not be below minimum_ring_size, which is {smallest}{whose}, is {maximum}"),
            );
        }
    }
    RingSize::Envoy {
        minimum: minimum.map_or(DEFAULT_MINIMUM_RING_SIZE, u64::from),
        maximum: maximum.unwrap_or(MAXIMUM_RING_SIZE).into(),
    }
}

fn read_maglev(fields: &mut Fields<'_>, faults: &mut Faults) -> Algorithm {
    let table_size =
        fields.number("table_size", 2..=MAXIMUM_TABLE_SIZE, faults).unwrap_or(DEFAULT_TABLE_SIZE);
    let maglev = Algorithm::Maglev { table_size };
    if let Err(RingError::TableNotPrime { table_size, prime }) = maglev.validate() {
        let message = format!("must be a prime number, is {table_size}: take {prime}");
        faults.add(&fields.path_of("table_size"), message);
    }
    maglev
}

fn refuse(fields: &mut Fields<'_>, names: &[&'static str], beside: &str, faults: &mut Faults) {
    for name in names {
        if fields.value(name).is_some() {
            faults.add(&fields.path_of(name), format!("does not go with {beside}: leave it out"));
        }
    }
}

pub(super) fn read_health(fields: &mut Fields<'_>, faults: &mut Faults) -> (HealthPolicy, OnPanic, OnVanish) {
    let panic_threshold = fields.number("panic_threshold", 0..=100, faults);
    let panic_hold = fields.duration("panic_hold", Millis(0)..=LONGEST, faults);
    let choices = [("ignore_health", OnPanic::IgnoreHealth), ("reject", OnPanic::Reject)];
    let on_panic = fields.choice("on_panic", &choices, faults).unwrap_or(OnPanic::IgnoreHealth);
    let vanish_grace = fields.duration("vanish_grace", Millis(0)..=LONGEST, faults);
    let choices = [("reroute", OnVanish::Reroute), ("reject", OnVanish::Reject)];
    let on_vanish = fields.choice("on_vanish", &choices, faults).unwrap_or(OnVanish::Reroute);
    let default = HealthPolicy::default();
    let mut policy = HealthPolicy {
        panic_threshold: panic_threshold.unwrap_or(default.panic_threshold),
        panic_hold: panic_hold.unwrap_or(default.panic_hold),
        vanish_grace: vanish_grace.unwrap_or(default.vanish_grace),
        ..default
    };
    if let Some(value) = fields.value("health") {
        let mut fields = Fields::of(value, &fields.path_of("health"), faults);
        read_cooldown(&mut fields, &mut policy, faults);
        let warm_up = fields.duration("warm_up", Millis(0)..=LONGEST, faults);
        policy.warm_up = warm_up.unwrap_or(policy.warm_up);
        let from_percent = fields.number("warm_up_from_percent", 0..=100, faults);
        policy.warm_up_from_percent = from_percent.unwrap_or(policy.warm_up_from_percent);
        let passive_failures = fields.number("passive_failures", 0..=1000, faults);
        policy.passive_failures = passive_failures.unwrap_or(policy.passive_failures);
        fields.finish(faults);
    }
    (policy, on_panic, on_vanish)
}

fn read_cooldown(fields: &mut Fields<'_>, policy: &mut HealthPolicy, faults: &mut Faults) {
    let cooldown = fields.duration("cooldown", SHORTEST_COOLDOWN..=LONGEST, faults);
    let max_cooldown = fields.duration("max_cooldown", SHORTEST_COOLDOWN..=LONGEST, faults);
    // One that cannot be read has its fault already, and nothing to compare.
    let is_comparable = cooldown.is_some() || fields.value("cooldown").is_none();
    let whose = if cooldown.is_none() { " by default" } else { "" };
    policy.cooldown = cooldown.unwrap_or(policy.cooldown);
    policy.max_cooldown = max_cooldown.unwrap_or(policy.max_cooldown.max(policy.cooldown));
    if is_comparable && policy.max_cooldown < policy.cooldown {
        let (least, found) = (show_duration(policy.cooldown), show_duration(policy.max_cooldown));
        faults.add(
            &fields.path_of("max_cooldown"),
            format!("must not be below cooldown, which is {least}{whose}, is {found}"),
        );
    }
}
