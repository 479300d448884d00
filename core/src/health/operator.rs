//! What the state cluster has on record of a node: the operator's will, and what other proxies saw of it.

use serde::{Deserialize, Serialize};

use crate::ring::session_hash;
use crate::time::Millis;
use crate::wire::{NodeRecord, NodeState};

/// A call for records takes no longer.
const CALL: Millis = Millis(1_000);

/// The latest record; what is derived from it is [`super::Health`]'s affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operator {
    pub(super) state: NodeState,
    /// Out of service until then by this proxy's clock, in one proxy's experience at least.
    pub(super) cooldown_until: Option<Millis>,
    /// By which its weight is multiplied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u32>,
    /// The hash of its boot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<u64>,
    version: u64,
    /// When it was changed, by the clock of the service that did it.
    #[serde(default)]
    updated: Millis,
}

impl Operator {
    /// True if a record says more than is `known`. Version 0 says that nothing is on record. A store that has lost its
    /// records counts from 1 again: what was said later is news whatever its version.
    pub(super) fn is_news(record: &NodeRecord, known: Option<&Self>) -> bool {
        let (version, updated) = known.map_or((0, Millis(0)), |known| (known.version, known.updated));
        record.version > version || record.version > 0 && record.updated_ms > updated.0
    }

    /// The same record was read again. The end of its cooldown was noted by this proxy's clock: if that was set since, the
    /// end is another. A difference that is no longer than a call does not count.
    pub(super) fn is_set_right_by(&self, record: &NodeRecord) -> bool {
        let is_same = (record.version, record.updated_ms) == (self.version, self.updated.0);
        let differs = |(one, other): (Millis, u64)| one.0.abs_diff(other) > CALL.0;
        is_same && self.cooldown_until.zip(record.cooldown_until_ms).is_some_and(differs)
    }
}

impl From<&NodeRecord> for Operator {
    fn from(record: &NodeRecord) -> Self {
        Self {
            state: record.state,
            cooldown_until: record.cooldown_until_ms.map(Millis),
            weight: record.weight,
            boot: record.boot_id.as_ref().map(|id| session_hash(id.as_bytes())),
            version: record.version,
            updated: Millis(record.updated_ms),
        }
    }
}
