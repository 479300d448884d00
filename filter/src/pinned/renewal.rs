//! Renewals: the pins of sessions that are in use while nobody asks for them, such as that of a WebSocket of hours.
//!
//! A touch keeps a pin alive that the store has. One that it has lost, or never had since the session began while the
//! state cluster was away, would be given to whoever comes back first, wherever the ring has that by then. So the root
//! says where such sessions are; there is no request that waits for the answer.

use berth_core::breaker::Permit;
use berth_core::event::Counter;
use berth_core::pins::{Kind, Lookup, Pin, PinKey};
use berth_core::time::Millis;
use berth_core::wire::{NodeId, ResolveReply, ResolveRequest, SessionAsk, SessionKey};

use super::ask::BATCH;
use super::{Pinned, result_of};
use crate::host;
use crate::plugin::LivePool;

/// Nobody waits for it.
const TIMEOUT: Millis = Millis(1_000);
/// Sessions that wait for their renewal; more have their next turn.
const MAX_DOUBTFUL: usize = 10_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Renewal {
    /// Not known to the state cluster, as far as this VM knows.
    doubtful: Vec<PinKey>,
    call: Option<(u32, Vec<(PinKey, SessionKey)>)>,
    epoch: u32,
}

impl Pinned {
    /// Looks at the sessions in use whose turn it is.
    pub(super) fn note_in_use(&mut self, now: Millis) {
        for key in self.in_use.turn(now) {
            // This also has it touched.
            let is_doubtful = match self.pins.get(key, now) {
                Lookup::Fresh(pin) => pin.kind == Kind::Provisional,
                Lookup::Stale(_) => true,
                // It has ended, or was pushed out.
                Lookup::Absent => false,
            };
            if is_doubtful && self.renewal.doubtful.len() < MAX_DOUBTFUL {
                self.renewal.doubtful.push(key);
            }
        }
    }

    /// Says where they are.
    pub(super) fn renew(&mut self, pool: &LivePool, now: Millis) {
        if self.renewal.call.is_some() || self.renewal.doubtful.is_empty() {
            return;
        }
        let Some(snapshot) = pool.snapshot() else { return };
        if self.breaker.allow(now) == Permit::Deny {
            return;
        }
        let mut asked: Vec<(PinKey, SessionKey)> = Vec::new();
        let mut sessions = Vec::new();
        while sessions.len() < BATCH
            && let Some(key) = self.renewal.doubtful.pop()
        {
            let (Lookup::Fresh(pin) | Lookup::Stale(pin)) = self.pins.get(key, now) else { continue };
            let node = self.usable(&pin, &snapshot).and_then(|_| self.pins.name(pin.node)?.parse().ok());
            let (Some(node), Some(wire)) = (node, self.pins.wire(key)) else { continue };
            let wire = SessionKey::from(wire);
            if asked.iter().all(|(_, asked)| *asked != wire) {
                asked.push((key, wire));
                sessions.push(of(wire, node, pin));
            }
        }
        if sessions.is_empty() {
            return;
        }
        let request = ResolveRequest {
            pool: self.pool.clone(),
            region: None,
            panic: snapshot.panic,
            correlation_id: None,
            sessions,
        };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let call = host::call(&self.state, "POST", "/v1/resolve", &body, TIMEOUT);
        self.renewal.epoch = self.epoch;
        // Whoever is not asked about now has the next turn.
        self.renewal.call = call.map(|call| (call, asked));
    }

    /// A renewal came to its end. False if it was none.
    pub(super) fn renewal_answered(
        &mut self,
        pool: &LivePool,
        token: u32,
        body: host::Answer<'_>,
        now: Millis,
    ) -> bool {
        let Some((_, asked)) = self.renewal.call.take_if(|(call, _)| *call == token) else { return false };
        let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
        self.note_call(pool, result_of(body, reply.is_some()), now);
        let Some(reply) = reply else { return true };
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        for told in &reply.pins {
            let Some((key, _)) = asked.iter().find(|(_, wire)| *wire == told.key) else { continue };
            let must_tell = told.restore || told.from.is_some();
            if told.from.is_some() {
                pool.metrics.count(Counter::Rehomed);
            }
            let expires = told.ttl_ms.map_or(expires, |ttl| super::answer::believed_until(Millis(ttl), now));
            // What changed meanwhile makes it a hint at once; the next turn asks again.
            let expires = if self.renewal.epoch == self.epoch { expires } else { Millis(0) };
            let kind = if must_tell { Kind::Restored } else { Kind::Settled };
            let session_version = told.session_version.unwrap_or(0);
            let node = told.node.to_string();
            let pin = Pin { node: node.as_str(), version: told.version, expires, kind, session_version };
            self.pins.insert(*key, told.key.into(), pin);
        }
        true
    }
}

/// Its terms are known to nobody here, so those that were said before stay.
fn of(key: SessionKey, node: NodeId, pin: Pin) -> SessionAsk {
    let session_version = (pin.session_version > 0).then_some(pin.session_version);
    SessionAsk { session_version, ..SessionAsk::new(key, vec![node], Vec::new()) }
}
