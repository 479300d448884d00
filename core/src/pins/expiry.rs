//! For how long a pin holds: which ones are due to be prolonged, and what makes one a mere hint before its time.
//!
//! A session in use is touched in the store, and its pin is prolonged by the answer. Pins that may be wrong are
//! expired; a touch does not undo that. It keeps the session alive all the same: what is in doubt here is
//! where it lives, not whether it is in use. A touch also says what is known of it, and learns if that is wrong.

use super::{Kind, NodeRef, Pin, Pins, WireKey};
use crate::time::Millis;

/// A session that is to be touched, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The session.
    pub wire: WireKey,
    /// The version of its pin.
    pub version: u64,
    /// The node of its pin; another may have its number once the pin is gone.
    pub node: NodeRef,
}

impl Pins {
    /// Up to `limit` sessions that were used and not touched for about an interval, to be asked on every tick. A hand
    /// goes round the cache once per interval; what was used since it last came by is due. A batch of `limit` means
    /// that there may be more.
    pub fn due_for_touch(&mut self, now: Millis, limit: usize) -> Vec<Touched> {
        let mut due = Vec::new();
        self.hand.wind(now, self.slab.made());
        while due.len() < limit
            && let Some(slot) = self.hand.next(self.slab.made())
        {
            let Some(entry) = self.slab.get_mut(slot) else { continue };
            let Some(pin) = entry.pin() else { continue };
            if entry.take_used() && pin.kind != Kind::Provisional {
                if now >= pin.expires {
                    // Another proxy may have claimed it since: the answer must not make it certain again.
                    entry.set_pin(Pin { expires: Millis(0), ..pin });
                }
                due.push(Touched { wire: entry.wire(), version: pin.version, node: pin.node });
            }
        }
        due
    }

    /// From now on a session in use is to be touched once in this time.
    pub fn touch_every(&mut self, interval: Millis) {
        self.hand.go_round_in(interval);
    }

    /// A touch prolonged a pin. False if the state cluster knows no such pin, or the pin was expired since: a touch says
    /// that the session lives, not where.
    pub fn prolong(&mut self, wire: WireKey, expires: Millis) -> bool {
        self.change(self.find_wire(wire), |pin| {
            (pin.kind != Kind::Provisional && pin.expires > Millis(0)).then_some(Pin { expires, ..pin })
        })
    }

    /// Whether what was gathered is still what is known.
    #[must_use]
    pub fn is_still(&self, touched: Touched) -> bool {
        let pin = self.find_wire(touched.wire).and_then(|slot| self.slab.get(slot)?.pin());
        pin.is_some_and(|pin| (pin.version, pin.node) == (touched.version, touched.node))
    }

    /// The state cluster has another pin than was touched: if that is still what is known here, it is past its time.
    pub fn doubt(&mut self, touched: Touched) -> bool {
        self.change(self.find_wire(touched.wire), |pin| {
            let is_same = (pin.version, pin.node) == (touched.version, touched.node);
            is_same.then_some(Pin { expires: Millis(0), ..pin })
        })
    }

    /// Changes of unknown sessions were missed: all pins are past their time.
    pub fn expire_all(&mut self) {
        self.expire(|_| true);
    }

    /// A session's token was replaced by one of this version, `u32::MAX` if that is not known: if less is known, its pin is
    /// past its time, and from now on older tokens are known to be old. True if so.
    pub fn supersede(&mut self, wire: WireKey, session_version: u32) -> bool {
        self.change(self.find_wire(wire), |pin| {
            let known = if session_version == u32::MAX { pin.session_version } else { session_version };
            (pin.session_version < session_version).then_some(Pin {
                expires: Millis(0),
                session_version: known,
                ..pin
            })
        })
    }

    /// The node was restarted: its pins are past their time.
    pub fn expire_node(&mut self, node: &str) {
        if let Some(node) = self.nodes.find(node) {
            self.expire(|pin| pin.node == node);
        }
    }

    /// There may be another state cluster to ask: what the ring said without one is past its time.
    pub fn expire_provisional(&mut self) {
        self.expire(|pin| pin.kind == Kind::Provisional);
    }

    fn expire(&mut self, which: impl Fn(Pin) -> bool) {
        for slot in 0..self.slab.made() {
            self.change(Some(slot), |pin| which(pin).then_some(Pin { expires: Millis(0), ..pin }));
        }
    }
}
