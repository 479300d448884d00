//! Asking: what is said to the state cluster of a session that misses, and the calls.

use std::rc::Rc;

use berth_core::pins::{Lookup, PinKey};
use berth_core::placement;
use berth_core::session::SessionId;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{MAX_CANDIDATES, MAX_CORRELATION_ID, NodeId, ResolveRequest, SessionAsk, SessionKey};

use super::{Home, Pinned, Terms};
use crate::host;
use crate::plugin::{LivePool, Plugin};

/// Sessions of one call: a quarter of what the service takes, so that no call holds up others.
pub(super) const BATCH: usize = 64;

/// One session's question, and what it takes to go on without an answer.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) id: SessionId,
    pub(super) key: PinKey,
    pub(super) session: SessionAsk,
    /// Where the session is remembered under its former id.
    pub(super) previous: Option<PinKey>,
    /// The version of the token that it came with; 0 if that had none.
    pub(super) version: u32,
    /// Of its tokens only the latest counts.
    pub(super) is_latest_only: bool,
    pub(super) epoch: u32,
    /// The request's own id, for the log of changes.
    correlation: Option<String>,
}

impl Pinned {
    /// Where the session was last comes first: if the state cluster lost its pin, it stays there.
    pub(super) fn ask(
        &mut self,
        snapshot: &Snapshot,
        id: &SessionId,
        key: PinKey,
        terms: &Terms,
        now: Millis,
    ) -> Rc<Ask> {
        let mut places = placement::for_new(snapshot, id.hash(), MAX_CANDIDATES);
        let previous = terms.previous.clone().or_else(|| previous_by_header(terms));
        let previous = previous.filter(|previous| previous != id);
        let former = previous.as_ref().map(|previous| self.pins.key(previous.as_bytes()));
        let known = [Some(key), former].map(|key| match self.pins.get(key?, now) {
            Lookup::Fresh(pin) | Lookup::Stale(pin) => Some(pin),
            Lookup::Absent => None,
        });
        let known_version = known.first().copied().flatten().map_or(0, |pin| pin.session_version);
        let usable = known.into_iter().flatten().find_map(|pin| self.usable(&pin, snapshot));
        if let Some(last) = usable {
            places.retain(|place| *place != last);
            places.insert(0, last);
            places.truncate(MAX_CANDIDATES);
        }
        // Where it was, if that is known: a session of a node that is gone is moved with its first question.
        let names = known.iter().flatten().filter_map(|pin| self.pins.name(pin.node)?.parse().ok());
        let last: Vec<NodeId> = names.collect();
        let ask = SessionAsk::new(
            SessionKey::new(self.pool.as_str(), id.as_bytes()),
            self.owners.names(&places),
            // What no proxy calls unusable stays.
            if terms.is_strict { Vec::new() } else { self.owners.unusable(&last, snapshot, now) },
        );
        let session = SessionAsk {
            strict: terms.is_strict,
            ttl_ms: terms.session.ttl.map(|ttl| ttl.0),
            ends_ms: terms.ends.map(|ends| ends.0),
            created_ms: terms.created.map(|created| created.0),
            // Of all that are known the highest: a store that lost it must not take an old token's for the latest.
            session_version: terms.version.map(|own| own.max(known_version)),
            alias_of: previous
                .as_ref()
                .map(|previous| SessionKey::new(self.pool.as_str(), previous.as_bytes())),
            ..ask
        };
        let correlation = host::request_header("x-request-id")
            .filter(|id| id.len() <= MAX_CORRELATION_ID && id.iter().all(u8::is_ascii_graphic))
            .and_then(|id| String::from_utf8(id).ok());
        Rc::new(Ask {
            id: id.clone(),
            key,
            session,
            previous: former,
            version: terms.version.unwrap_or(0),
            is_latest_only: terms.is_latest_only(),
            epoch: self.epoch,
            correlation,
        })
    }

    /// Calls for what is queued, as far as calls are free.
    pub(super) fn send(&mut self, plugin: &Plugin, pool: &LivePool, home: Home, now: Millis) {
        let Some(snapshot) = pool.snapshot() else { return };
        while let Some(batch) = self.flights.take_batch(now, BATCH) {
            let asks: Vec<&Rc<Ask>> =
                batch.keys().iter().filter_map(|key| self.flights.request(*key)).collect();
            let request = ResolveRequest {
                pool: self.pool.clone(),
                region: None,
                panic: snapshot.has_panic(),
                correlation_id: asks.first().and_then(|ask| ask.correlation.clone()),
                sessions: asks.iter().map(|ask| ask.session.clone()).collect(),
            };
            let body = serde_json::to_vec(&request).unwrap_or_default();
            let timeout = self.flights.call_timeout(now);
            match host::call(&self.state, "POST", "/v1/resolve", &body, timeout) {
                Ok(token) => self.flights.sent(batch, token, home.stream, now),
                Err(failure) => {
                    self.note_call(pool, Err(&failure), now);
                    let released = self.flights.not_sent(batch, now);
                    self.release(plugin, pool, released, None, home, now);
                }
            }
        }
    }
}

/// A header is anybody's word. It may say where a session was, and no more: with a version it would make the former id's
/// tokens old ones, so who has versions names former ids by a claim.
fn previous_by_header(terms: &Terms) -> Option<SessionId> {
    let name = terms.session.previous_header.as_deref().filter(|_| terms.version.is_none())?;
    SessionId::new(host::request_header(name)?)
}
