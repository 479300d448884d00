//! The rule of resolve, as a pure function.
//!
//! The memory store runs it; `redis/scripts/resolve.lua` is the same rule in Lua, because there it has to run inside the
//! server to be atomic. The model check in `state/tests/model` holds the two together.
//!
//! - No pin, but one under the session's former key: as if that pin were its own. It stays on that node, which may be
//!   draining, as this is an old session, or it is rehomed from there.
//! - No pin at all: claimed by the first candidate that takes new sessions (not unusable, active, not in shared cooldown), else
//!   by the first that is neither unusable nor in cooldown, else by the first. In panic by the first, whatever is known.
//! - A pin whose node is neither unusable nor in shared cooldown, or any pin in panic: found.
//! - A pin of a session that is strict: found, whatever is known of its node.
//! - Otherwise rehomed: to the former key's node if it is another and would keep a pin, else to the candidate that the
//!   first two choices of a claim name. If they name none, or only the owner, the
//!   pin stays: a second home that is down as well would only mean a second move.

use berth_core::wire::{NodeId, NodeRecord, Reason, SessionAsk};

/// What to do about one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placing {
    /// Make a pin.
    Claim(NodeId),
    /// Make a pin where the one of the former key is.
    Inherit(NodeId),
    /// Leave the pin where it is.
    Keep,
    /// Move it, or make one elsewhere than the former key's is.
    Rehome(NodeId, Reason),
}

/// Decides about one session; `former` is the node of its former key's pin, `record` says what is recorded of a node.
pub fn place<'r>(
    owner: Option<&NodeId>,
    former: Option<&NodeId>,
    ask: &SessionAsk,
    panic: bool,
    now_ms: u64,
    record: impl Fn(&NodeId) -> Option<&'r NodeRecord>,
) -> Placing {
    let cooling = |node: &NodeId| record(node).is_some_and(|record| record.is_in_cooldown(now_ms));
    let takes = |node: &NodeId| record(node).is_none_or(|record| record.takes_new_sessions(now_ms));
    let out = |node: &NodeId| {
        if panic {
            None
        } else if ask.unusable.contains(node) {
            Some(Reason::Unusable)
        } else {
            cooling(node).then_some(Reason::Cooldown)
        }
    };
    let fit = |owner: Option<&NodeId>| {
        let usable =
            || ask.candidates.iter().filter(|node| Some(*node) != owner && !ask.unusable.contains(node));
        usable().find(|node| takes(node)).or_else(|| usable().find(|node| !cooling(node))).cloned()
    };

    let Some(home) = owner.or(former) else {
        let first = ask.candidates.first().cloned();
        let target = if panic { first } else { fit(None).or(first) };
        return target.map_or(Placing::Keep, Placing::Claim);
    };
    let elsewhere = former.filter(|node| *node != home && out(node).is_none()).cloned();
    let reason = out(home).filter(|_| !ask.strict);
    match (reason, elsewhere.or_else(|| fit(Some(home)))) {
        (Some(reason), Some(target)) => Placing::Rehome(target, reason),
        _ if owner.is_some() => Placing::Keep,
        _ => Placing::Inherit(home.clone()),
    }
}
