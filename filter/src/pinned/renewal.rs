//! Renewals: the pins of sessions that are in use while nobody asks for them, such as that of a WebSocket of hours.
//!
//! A touch keeps a pin alive that the store has. One that it has lost, or never had since the session began while the
//! state cluster was away, would be given to whoever comes back first, wherever the ring has that by then. So the root
//! says where such sessions are; there is no request that waits for the answer. It claims what nobody has, and moves
//! nothing.

use berth_core::breaker::Permit;
use berth_core::pins::{Kind, Lookup, Pin, PinKey};
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{ResolveReply, ResolveRequest, SessionAsk, SessionKey};

use super::Pinned;
use super::answer::believed_until;
use super::ask::BATCH;
use super::upkeep::PAUSE;
use crate::host;
use crate::plugin::LivePool;

/// Nobody waits for it.
const TIMEOUT: Millis = Millis(1_000);
/// Sessions that wait for their renewal; more have their next turn.
const MAX_DOUBTFUL: usize = 10_000;

/// A session that a request under way holds in use.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) key: PinKey,
    pub(super) ttl: Option<Millis>,
    pub(super) ends: Option<Millis>,
    pub(super) created: Option<Millis>,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Renewal {
    /// Not known to the state cluster, as far as this VM knows.
    doubtful: Vec<Held>,
    call: Option<Call>,
}

struct Call {
    token: u32,
    asked: Vec<(PinKey, SessionKey)>,
    epoch: u32,
}

impl Renewal {
    pub(super) fn asks_about(&self, key: SessionKey) -> bool {
        self.call.as_ref().is_some_and(|call| call.asked.iter().any(|(_, asked)| *asked == key))
    }
}

impl Pinned {
    /// Looks at the sessions in use whose turn it is.
    pub(super) fn note_in_use(&mut self, now: Millis) {
        for held in self.in_use.turn(now) {
            // This also has it touched. In an outage each has its turn again and again.
            if self.is_doubtful(held.key, now)
                && self.renewal.doubtful.len() < MAX_DOUBTFUL
                && self.renewal.doubtful.iter().all(|other| other.key != held.key)
            {
                self.renewal.doubtful.push(held);
            }
        }
    }

    fn is_doubtful(&mut self, key: PinKey, now: Millis) -> bool {
        match self.pins.get(key, now) {
            Lookup::Fresh(pin) => pin.kind == Kind::Provisional,
            Lookup::Stale(_) => true,
            // It has ended, or was pushed out.
            Lookup::Absent => false,
        }
    }

    /// Says where they are.
    pub(super) fn renew(&mut self, pool: &LivePool, now: Millis) {
        if self.renewal.call.is_some() || self.renewal.doubtful.is_empty() {
            return;
        }
        let Some(snapshot) = pool.snapshot() else { return };
        let (mut asked, mut sessions) = (Vec::new(), Vec::new());
        while sessions.len() < BATCH
            && let Some(held) = self.renewal.doubtful.pop()
        {
            // Whoever asked meanwhile has settled it; and what is over stays so.
            let is_over = held.ends.is_some_and(|ends| ends <= now);
            if !is_over
                && self.is_doubtful(held.key, now)
                && let Some(session) = self.renewed(&held, &snapshot, now)
            {
                asked.push((held.key, session.key));
                sessions.push(session);
            }
        }
        if sessions.is_empty() || self.breaker.allow(now) == Permit::Deny {
            return;
        }
        let request = ResolveRequest {
            pool: self.pool.clone(),
            region: None,
            panic: snapshot.has_panic(),
            correlation_id: None,
            sessions,
        };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        match host::call(&self.state, "POST", "/v1/resolve", &body, TIMEOUT) {
            Ok(token) => self.renewal.call = Some(Call { token, asked, epoch: self.epoch }),
            // Whoever is not asked about now has the next turn.
            Err(failure) => {
                self.note_call(pool, Err(&failure), now);
                self.upkeep.not_before = now + PAUSE;
            }
        }
    }

    /// What is said of a session: it is here, if nobody has it.
    fn renewed(&mut self, held: &Held, snapshot: &Snapshot, now: Millis) -> Option<SessionAsk> {
        let (Lookup::Fresh(pin) | Lookup::Stale(pin)) = self.pins.get(held.key, now) else { return None };
        self.usable(&pin, snapshot)?;
        let node = self.pins.name(pin.node)?.parse().ok()?;
        Some(SessionAsk {
            // Whom another proxy has given it to keeps it, however he is.
            strict: true,
            ttl_ms: held.ttl.map(|ttl| ttl.0),
            ends_ms: held.ends.map(|ends| ends.0),
            created_ms: held.created.map(|created| created.0),
            session_version: (pin.session_version > 0).then_some(pin.session_version),
            ..SessionAsk::new(self.pins.wire(held.key)?.into(), vec![node], Vec::new())
        })
    }

    /// A renewal came to its end. False if it was none.
    pub(super) fn renewal_answered(
        &mut self,
        pool: &LivePool,
        token: u32,
        body: host::Answer<'_>,
        now: Millis,
    ) -> bool {
        let Some(call) = self.renewal.call.take_if(|call| call.token == token) else { return false };
        let reply = body.ok().and_then(|json| serde_json::from_slice::<ResolveReply>(json).ok());
        self.note_answer(pool, body, reply.is_some(), now);
        // What changed meanwhile is known better by now; whoever is still in doubt has the next turn.
        let Some(reply) = reply.filter(|_| call.epoch == self.epoch) else { return true };
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        for told in &reply.pins {
            let Some((key, _)) = call.asked.iter().find(|(_, wire)| *wire == told.key) else { continue };
            // A request may have asked in between.
            if !self.is_doubtful(*key, now) {
                continue;
            }
            let expires = told.ttl_ms.map_or(expires, |ttl| believed_until(Millis(ttl), now));
            let (node, session_version) = (told.node.as_str(), told.session_version.unwrap_or(0));
            let (version, kind) = (told.version, Kind::Settled);
            let pin = Pin { node, version, expires, kind, session_version };
            if self.remember(*key, told.key.into(), pin) || told.restore {
                self.pins.unsettle(*key);
            }
        }
        true
    }
}
