//! For how long a pin holds: which ones are due to be prolonged, and what makes one a mere hint before its time.
//!
//! A session in use is touched in the store, and its pin is prolonged by the answer. Pins that may be wrong are
//! doubted; a touch does not undo that. It keeps the session alive all the same: what is in doubt here is
//! where it lives, not whether it is in use. A touch also says what is known of it, and learns if that is wrong.
//!
//! A store that lost its pins gets them back by touches. So after changes were missed each pin is touched that the store
//! must have, whether or not its session was used lately.

use super::slab::Entry;
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
    /// What the latest call said of it.
    pub saying: Saying,
}

/// What a touch says of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// That it is in use.
    Use,
    /// And which pin it has.
    Pin,
    /// That it is in use. Its pin is believed, and not said since its node is out here.
    Withheld,
}

impl Pin {
    fn refuted(self) -> Self {
        Self { is_doubted: true, expires: Millis(0), ..self }
    }
}

impl Touched {
    fn is(self, pin: &Pin) -> bool {
        (self.version, self.node) == (pin.version, pin.node)
    }
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
                    entry.set_pin(Pin { is_doubted: true, ..pin });
                }
                due.push(Touched {
                    wire: entry.wire(),
                    version: pin.version,
                    node: pin.node,
                    saying: Saying::Use,
                });
            }
        }
        due
    }

    /// From now on a session in use is to be touched once in this time.
    pub fn touch_every(&mut self, interval: Millis) {
        self.hand.go_round_in(interval);
    }

    /// A touch prolonged a pin. False if no such pin is known here, or it was doubted since: a touch says
    /// that the session lives, not where.
    pub fn prolong(&mut self, wire: WireKey, expires: Millis) -> bool {
        let mut is_certain = false;
        self.change(self.find_wire(wire), |pin| {
            is_certain = pin.kind != Kind::Provisional && !pin.is_doubted;
            // One in doubt stays so, and is not believed for longer than the state cluster has it.
            let expires = if pin.is_doubted { expires.min(pin.expires) } else { expires };
            (pin.kind != Kind::Provisional).then_some(Pin { expires, ..pin })
        });
        is_certain
    }

    /// What was gathered, if it is still what is known.
    #[must_use]
    pub fn still(&self, touched: Touched) -> Option<Pin> {
        let pin = self.find_wire(touched.wire).and_then(|slot| self.slab.get(slot)?.pin());
        pin.filter(|pin| touched.is(pin))
    }

    /// If that is still what is known here, the next request asks.
    pub fn doubt(&mut self, touched: Touched) -> bool {
        let entry = self.find_wire(touched.wire).and_then(|slot| self.slab.get_mut(slot));
        let entry = entry.filter(|entry| entry.pin().is_some_and(|pin| touched.is(&pin)));
        entry.map(Entry::doubt).is_some()
    }

    /// The state cluster has another pin than was said, or none since the session has ended: if that is still what is known here, it
    /// is believed no longer.
    pub fn refute(&mut self, touched: Touched) -> bool {
        self.change(self.find_wire(touched.wire), |pin| touched.is(&pin).then(|| pin.refuted()))
    }

    /// It could not be touched now: it is touched in the next round.
    pub fn touch_later(&mut self, touched: Touched) {
        if let Some(entry) = self.find_wire(touched.wire).and_then(|slot| self.slab.get_mut(slot)) {
            entry.mark_used();
        }
    }

    /// The state cluster has no such pin, and nothing was said of it: the next touch says it, as long as it is believed.
    pub fn touch_again(&mut self, touched: Touched, now: Millis) {
        self.doubt(touched);
        if let Some(entry) = self.find_wire(touched.wire).and_then(|slot| self.slab.get_mut(slot))
            && entry.pin().is_some_and(|pin| pin.is_believed(now))
        {
            entry.mark_used();
        }
    }

    /// Changes of unknown sessions were missed: all pins are in doubt, and those that the store must have are to be touched
    /// within the next interval.
    pub fn doubt_all(&mut self, now: Millis) {
        for slot in 0..self.slab.made() {
            if let Some(entry) = self.slab.get_mut(slot)
                && let Some(pin) = entry.pin()
            {
                entry.doubt();
                if pin.is_believed(now) {
                    entry.mark_used();
                }
            }
        }
    }

    /// The clock is another: how long any pin lives is not known.
    pub fn expire_all(&mut self) {
        self.change_all(|pin| Some(pin.refuted()));
    }

    /// A session's token was replaced by one of this version: if less is known, its pin is in doubt, and from now on older tokens are
    /// known to be old. True if so. `u32::MAX` is other news: how long the session lives is not known any longer.
    pub fn supersede(&mut self, wire: WireKey, session_version: u32) -> bool {
        self.change(self.find_wire(wire), |pin| {
            if session_version == u32::MAX {
                return Some(pin.refuted());
            }
            (pin.session_version < session_version).then_some(Pin {
                is_doubted: true,
                session_version,
                ..pin
            })
        })
    }

    /// The node was restarted: its pins are in doubt. It has lost the sessions' state, so none of them is worth more than a pin that
    /// the state cluster has by now.
    pub fn refute_node(&mut self, node: &str) {
        if let Some(node) = self.nodes.find(node) {
            self.mark_those(Entry::refute, |pin| pin.node == node);
        }
    }

    /// The node says for the first time with which start it runs: its pins are in doubt.
    pub fn doubt_node(&mut self, node: &str) {
        if let Some(node) = self.nodes.find(node) {
            self.mark_those(Entry::doubt, |pin| pin.node == node);
        }
    }

    /// There may be another state cluster to ask: what the ring said without one is in doubt.
    pub fn doubt_provisional(&mut self) {
        self.mark_those(Entry::doubt, |pin| pin.kind == Kind::Provisional);
    }

    /// They are touched all the same, if that is due.
    fn mark_those(&mut self, mark: fn(&mut Entry), which: impl Fn(Pin) -> bool) {
        for slot in 0..self.slab.made() {
            if let Some(entry) = self.slab.get_mut(slot)
                && entry.pin().is_some_and(&which)
            {
                mark(entry);
            }
        }
    }

    fn change_all(&mut self, new: impl Fn(Pin) -> Option<Pin>) {
        for slot in 0..self.slab.made() {
            self.change(Some(slot), &new);
        }
    }
}
