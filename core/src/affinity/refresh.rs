//! Lease refresh: the pins of sessions that are in use while no request asks for them, such as a WebSocket of hours.
//!
//! A touch keeps a pin alive that the store has. A pin that the store has lost, or never had because the session began
//! while the state service was away, would go to the first proxy that asks, wherever its ring has the session by then. So
//! the worker says where such sessions are. The question claims what no node has, and moves nothing; no request waits for
//! the answer.

use super::held::Held;
use super::reply::Reported;
use super::{Affinity, BATCH, believed_until};
use crate::owners::Standing;
use crate::pins::{Kind, Lookup as Known, PinKey, Pins};
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::{ResolveReply, SessionAsk, SessionKey};

/// Sessions that wait for their refresh; more have their next turn.
const MAX_UNCERTAIN: usize = 10_000;

/// The refreshes of one pool.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    /// Not known to the state service, as far as this worker knows.
    uncertain: Vec<Held>,
    pub(super) call: Option<(u32, Asked)>,
}

/// What a call asked.
#[derive(Debug)]
pub(super) struct Asked {
    keys: Vec<(PinKey, SessionKey)>,
    epoch: u32,
}

impl Refresh {
    /// Has this session asked about.
    pub(super) fn note(&mut self, held: &Held) {
        if self.uncertain.len() < MAX_UNCERTAIN && self.uncertain.iter().all(|other| other.key != held.key) {
            self.uncertain.push(held.clone());
        }
    }

    pub(super) fn asks_about(&self, key: SessionKey) -> bool {
        self.call.as_ref().is_some_and(|(_, asked)| asked.keys.iter().any(|(_, asked)| *asked == key))
    }
}

impl Affinity {
    /// Looks at the sessions in use whose turn it is.
    pub(super) fn note_in_use(&mut self, now: Millis) {
        for held in self.in_use.turn(now) {
            // Looking also has it touched. In an outage each has its turn again and again.
            if is_uncertain(&mut self.pins, held.key, now) {
                self.refresh.note(&held);
            }
        }
    }

    /// What the next call is to say.
    pub(super) fn sessions_to_refresh(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
    ) -> (Asked, Vec<SessionAsk>) {
        let (mut keys, mut sessions) = (Vec::new(), Vec::new());
        while sessions.len() < BATCH
            && let Some(held) = self.refresh.uncertain.pop()
        {
            // A request may have asked meanwhile; and a session that is over stays over.
            let is_over = held.ends.is_some_and(|ends| ends <= now);
            if !is_over
                && is_uncertain(&mut self.pins, held.key, now)
                && let Some(session) = self.refresh_of(&held, snapshot, now)
            {
                keys.push((held.key, session.key));
                sessions.push(session);
            }
        }
        (Asked { keys, epoch: self.epoch }, sessions)
    }

    /// What is said of a session: it is here, if no node has it.
    fn refresh_of(&mut self, held: &Held, snapshot: &Snapshot, now: Millis) -> Option<SessionAsk> {
        let (Known::Fresh(pin) | Known::Stale(pin)) = self.pins.get(held.key, now) else { return None };
        self.usable(&pin, snapshot)?;
        let node = self.pins.name(pin.node)?.parse().ok()?;
        Some(SessionAsk {
            renew: self.stores.compares(),
            known: self.believed(held.key, now),
            // If another proxy has reassigned the session, the new node keeps it regardless of its health.
            strict: true,
            ttl_ms: held.ttl.map(|ttl| ttl.0),
            ends_ms: held.ends.map(|ends| ends.0),
            created_ms: held.created.map(|created| created.0),
            session_version: (pin.session_version > 0).then_some(pin.session_version),
            ..SessionAsk::new(self.pins.wire(held.key)?.into(), vec![node], Vec::new())
        })
    }

    /// What was asked has been answered.
    pub(super) fn refreshed(
        &mut self,
        snapshot: &Snapshot,
        asked: &Asked,
        reply: &ResolveReply,
        now: Millis,
    ) {
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        for pin in &reply.pins {
            let Some((key, _)) = asked.keys.iter().find(|(_, wire)| *wire == pin.key) else { continue };
            let expires = pin.ttl_ms.map_or(expires, |ttl| believed_until(Millis(ttl), now));
            let (standing, name) = self.judge(pin, snapshot, now);
            self.keep_notice(*key, pin, name.as_deref(), expires);
            // What changed meanwhile, or was asked by a request, is known better by now. Sessions that are still uncertain have
            // their next turn.
            if asked.epoch != self.epoch || !is_uncertain(&mut self.pins, *key, now) {
                continue;
            }
            if pin.ttl_ms == Some(0) {
                // It is over: what is under way ends by itself, and a request that comes begins it again.
                self.pins.remove(*key);
                continue;
            }
            // An owner that cannot be used here is no hint for the next question either: that judges it by its age.
            let Some(node) = &name else { continue };
            let reported = Reported {
                node,
                version: pin.version,
                expires,
                is_doubted: false,
                kind: if standing == Standing::Held { Kind::Away } else { Kind::Settled },
                session_version: pin.session_version.unwrap_or(0),
            };
            self.remember(*key, pin.key.into(), reported);
        }
    }
}

/// True if the state service may not know where this session is.
pub(super) fn is_uncertain(pins: &mut Pins, key: PinKey, now: Millis) -> bool {
    match pins.get(key, now) {
        Known::Fresh(pin) => pin.kind == Kind::Provisional,
        Known::Stale(_) => true,
        // It has ended, or was evicted.
        Known::Absent => false,
    }
}
