//! The state cluster: whom to ask who owns a session, how patiently, and how many answers to keep.

use std::fmt;
use std::ops::RangeInclusive;

use super::fields::{Faults, Fields};
use crate::pins;
use crate::time::Millis;

/// A request waits that long at most. Less is below what a busy host takes to answer; more, and users would rather have
/// the ring's answer at once.
const TIMEOUT: RangeInclusive<Millis> = Millis(5)..=Millis(5_000);
/// Twenty answers of 1 ms in a row fit into it.
const DEFAULT_TIMEOUT: Millis = Millis(50);
/// Envoy's default limit of requests under way to a cluster, which all workers share.
const MAX_CALLS: RangeInclusive<usize> = 1..=1024;
/// With 1 ms an answer these are 48,000 a second; 20 workers still fit into Envoy's default limit.
const DEFAULT_MAX_CALLS: usize = 48;
/// What a cache's indexes can tell apart.
const PINS: RangeInclusive<usize> = 1..=16_777_214;
/// Below, hardly a thousand pins fit beside the names of their nodes; above is more than a worker should ever have.
const PIN_BYTES: RangeInclusive<usize> = 100_000..=1 << 30;

/// The Envoy cluster of `berth serve` instances, and how each worker deals with it.
#[derive(Clone, PartialEq, Eq)]
pub struct StateCluster {
    /// Its name.
    pub cluster: String,
    /// When a call counts as unanswered.
    pub timeout: Millis,
    /// Calls of one worker that may be under way at once.
    pub max_calls: usize,
    /// The bearer token that the service asks for.
    pub token: Option<String>,
    /// How many pins one worker keeps of each pool.
    pub pins: pins::Limits,
}

impl StateCluster {
    pub(super) fn read(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Self> {
        let value = fields.value("state")?;
        let mut fields = Fields::of(value, &fields.path_of("state"), faults);
        let advice = "name the Envoy cluster of the berth serve instances";
        let cluster = fields.required_string("cluster", advice, faults);
        let timeout = fields.duration("timeout", TIMEOUT, faults).unwrap_or(DEFAULT_TIMEOUT);
        let max_calls = fields.number("max_calls", MAX_CALLS, faults).unwrap_or(DEFAULT_MAX_CALLS);
        let token = read_token(&mut fields, faults);
        let default = pins::Limits::default();
        let pins = pins::Limits {
            entries: fields.number("max_pins", PINS, faults).unwrap_or(default.entries),
            bytes: fields.number("max_pin_bytes", PIN_BYTES, faults).unwrap_or(default.bytes),
            ..default
        };
        fields.finish(faults);
        Some(Self { cluster: cluster?.to_owned(), timeout, max_calls, token, pins })
    }
}

/// Configurations are logged; tokens must not be.
impl fmt::Debug for StateCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, timeout, max_calls, token, pins } = self;
        f.debug_struct("StateCluster")
            .field("cluster", cluster)
            .field("timeout", timeout)
            .field("max_calls", max_calls)
            .field("token", &token.as_ref().map(|_| "(secret)"))
            .field("pins", pins)
            .finish()
    }
}

/// A secret, so no fault repeats it.
fn read_token(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    let value = fields.value("token")?;
    let fits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let token = value.as_str().filter(fits);
    if token.is_none() {
        let message = "must be a string of visible ASCII characters without spaces";
        faults.add(&fields.path_of("token"), message);
    }
    token.map(str::to_owned)
}
