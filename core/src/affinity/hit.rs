//! Answers from the pins: where a session is that this worker knows.

use std::cmp::Ordering;

use super::{Affinity, Terms};
use crate::config::{OnPanic, OnVanish};
use crate::decision::Notice;
use crate::event::{Counter, Outcome, Reason};
use crate::health::State;
use crate::pins::{Kind, Lookup as Known, Pin, PinKey};
use crate::placement::{self, NoPlacement, Placement};
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::Millis;

impl Affinity {
    /// The pins know a node that may serve, or that the only one that might does not.
    pub(super) fn hit(
        &mut self,
        snapshot: &Snapshot,
        id: &SessionId,
        key: PinKey,
        terms: &Terms,
        now: Millis,
    ) -> Option<(Result<Placement, NoPlacement>, Option<Notice>)> {
        let pin = match self.pins.get(key, now) {
            Known::Fresh(pin) => pin,
            Known::Stale(pin) if self.unanswered.holds(key, now) => Pin { kind: Kind::Provisional, ..pin },
            Known::Stale(_) | Known::Absent => return None,
        };
        match terms.version.unwrap_or(0).cmp(&pin.session_version) {
            // The state service must learn the newer version.
            Ordering::Greater => return None,
            Ordering::Less if terms.is_latest_only() => return Some((Err(NoPlacement::Superseded), None)),
            _ => {}
        }
        if terms.is_strict && is_only_the_rings(&pin) {
            return None;
        }
        let Some(index) = self.usable(&pin, snapshot) else {
            if self.is_held(&pin, snapshot) {
                self.pins.send_away(key);
                return Some((self.stand_in_for_vanished(snapshot, id, terms.is_strict), None));
            }
            // An operator may have ended or moved the session of a node that left: that is worth a question. So is that of
            // one that is not known here yet, since another proxy has seen it well.
            let state = self.pins.member(pin.node).and_then(|index| Some(snapshot.nodes.get(index)?.state));
            let is_out = state.is_some_and(|state| state != State::Pending);
            let withheld = Err(NoPlacement::Withheld(Reason::PinUnavailable));
            return (terms.is_strict && is_out).then_some((withheld, None));
        };
        let outcome = as_seen(snapshot, index, Outcome::Hit);
        // One that is turned away tells the node nothing.
        let is_served = outcome != Outcome::Panic || self.config.policy.on_panic != OnPanic::Reject;
        let notice = self.notice_for(key, &pin, now).filter(|_| is_served);
        if let Some(notice) = &notice {
            self.notified(key, notice);
        }
        if is_served && pin.kind == Kind::Away && self.pins.return_home(key) {
            self.count(Counter::Returned);
        }
        let mut placement = placement::pinned(snapshot, id.hash(), index, outcome);
        if pin.kind == Kind::Provisional {
            placement.outcome = as_seen(snapshot, index, Outcome::Ring);
            placement.reason = Reason::StateAway;
        }
        Some((Ok(if terms.is_strict { placement.strictly() } else { placement }), notice))
    }

    /// What the node of this pin has yet to be notified of.
    pub(super) fn notice_for(&self, key: PinKey, pin: &Pin, now: Millis) -> Option<Notice> {
        let name = self.pins.name(pin.node)?;
        self.notices.get(key, name, pin.version, now)
    }

    /// A request carries a session's notice to its node.
    pub(super) fn notified(&mut self, key: PinKey, notice: &Notice) {
        self.notices.carry(key);
        if matches!(notice, Notice::Restore { .. }) {
            self.count(Counter::Restored);
        }
    }

    /// The index of a pin's node, if it is a member that may serve.
    pub(super) fn usable(&self, pin: &Pin, snapshot: &Snapshot) -> Option<usize> {
        self.pins.member(pin.node).filter(|index| snapshot.may_serve(*index))
    }

    /// True if the pin's node vanished together with many others and may be back soon.
    pub(super) fn is_held(&self, pin: &Pin, snapshot: &Snapshot) -> bool {
        !snapshot.held.is_empty() && self.pins.name(pin.node).is_some_and(|name| snapshot.is_held(name))
    }

    /// Where a request goes whose session's node has vanished and may be back soon. Its pin stays as it is.
    pub(super) fn stand_in_for_vanished(
        &self,
        snapshot: &Snapshot,
        id: &SessionId,
        is_strict: bool,
    ) -> Result<Placement, NoPlacement> {
        match self.config.policy.on_vanish {
            _ if is_strict => Err(NoPlacement::Withheld(Reason::PinUnavailable)),
            OnVanish::Reroute => placement::standing_in(snapshot, id.hash()),
            OnVanish::Reject => Err(NoPlacement::Withheld(Reason::Vanished)),
        }
    }
}

/// Strict affinity must not rely on where only the ring once put a session.
pub(super) fn is_only_the_rings(pin: &Pin) -> bool {
    pin.kind == Kind::Provisional && pin.version == 0
}

/// The outcome, or panic if the health of the node at this index is ignored: that is what an operator has to see.
pub(super) fn as_seen(snapshot: &Snapshot, index: usize, outcome: Outcome) -> Outcome {
    if snapshot.is_panic_at(index) { Outcome::Panic } else { outcome }
}
