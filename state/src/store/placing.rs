//! The rule of resolve, as a pure function.
//!
//! The memory store runs it; `redis/scripts/resolve.lua` is the same rule in Lua, because there it has to run inside the
//! server to be atomic. The model check in `state/tests/model.rs` holds the two together.
//!
//! - No pin: claimed by the first candidate that takes new sessions (not unusable, active, not in shared cooldown), else by
//!   the first that is neither unusable nor in cooldown, else by the first. In panic by the first, whatever is known.
//! - A pin whose node is neither unusable nor in shared cooldown, or any pin in panic: found.
//! - Otherwise rehomed to the candidate that the first two of these rules name. If they name none, or only the owner, the
//!   pin stays: a second home that is down as well would only mean a second move.

use berth_core::wire::{NodeId, NodeRecord, Reason, SessionAsk};

/// What to do about one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// Make a pin.
    Claim(NodeId),
    /// Leave the pin where it is.
    Keep,
    /// Move it.
    Rehome(NodeId, Reason),
}

/// Decides about one session; `record` says what is recorded of a node.
pub fn place<'r>(
    owner: Option<NodeId>,
    ask: &SessionAsk,
    panic: bool,
    now_ms: u64,
    record: impl Fn(NodeId) -> Option<&'r NodeRecord>,
) -> Placing {
    let cooling = |node| record(node).is_some_and(|record| record.is_in_cooldown(now_ms));
    let takes = |node| record(node).is_none_or(|record| record.takes_new_sessions(now_ms));
    let fit = || {
        let usable = || {
            ask.candidates.iter().copied().filter(|node| Some(*node) != owner && !ask.unusable.contains(node))
        };
        usable().find(|node| takes(*node)).or_else(|| usable().find(|node| !cooling(*node)))
    };

    let Some(owner) = owner else {
        let first = ask.candidates.first().copied();
        let target = if panic { first } else { fit().or(first) };
        return target.map_or(Placing::Keep, Placing::Claim);
    };
    let reason = if panic {
        None
    } else if ask.unusable.contains(&owner) {
        Some(Reason::Unusable)
    } else {
        cooling(owner).then_some(Reason::Cooldown)
    };
    match (reason, reason.and_then(|_| fit())) {
        (Some(reason), Some(target)) => Placing::Rehome(target, reason),
        _ => Placing::Keep,
    }
}
