//! What the state service is asked about a session that misses.

use std::rc::Rc;

use super::held::Held;
use super::{Affinity, ISSUED, Terms};
use crate::attributes::Attributes;
use crate::owners::Standing;
use crate::pins::PinKey;
use crate::placement;
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::{self, MAX_CANDIDATES, MAX_CORRELATION_ID, NodeId, SessionAsk, SessionKey};

/// One session's question, and what it takes to go on without an answer.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) id: SessionId,
    pub(super) key: PinKey,
    pub(super) ask: SessionAsk,
    /// Where the session is remembered under its former id.
    pub(super) previous: Option<PinKey>,
    /// The version of the token that it came with; 0 if that had none.
    pub(super) version: u32,
    /// Of its tokens only the latest counts.
    pub(super) is_latest_only: bool,
    pub(super) epoch: u32,
    /// The request's own id, for the log of changes.
    pub(super) correlation: Option<String>,
    /// The node that minted the session's id, and what it takes to claim it later; `None` if a request asks.
    pub(super) minted: Option<(String, Held)>,
}

impl Lookup {
    /// What this request has to ask after an answer that another one got: the state service does not know its token yet, or
    /// does not know yet that the named node cannot be used.
    pub(super) fn next(
        self: &Rc<Self>,
        node: &NodeId,
        standing: Standing,
        session_version: u32,
    ) -> Option<Rc<Self>> {
        // The node that answered holds the session, whatever is said of it.
        if self.minted.is_some() {
            return None;
        }
        if self.version > session_version {
            return Some(Rc::clone(self));
        }
        let is_news = standing == Standing::Unusable && !self.ask.strict && !self.ask.unusable.contains(node);
        is_news.then(|| {
            let mut lookup = Self::clone(self);
            lookup.ask.unusable.insert(0, node.clone());
            lookup.ask.unusable.truncate(wire::MAX_UNUSABLE);
            Rc::new(lookup)
        })
    }
}

impl Affinity {
    /// Where the session was last comes first: if the state service lost its pin, it stays there.
    pub(super) fn lookup(
        &mut self,
        snapshot: &Snapshot,
        id: &SessionId,
        key: PinKey,
        terms: &Terms,
        attributes: &dyn Attributes,
        now: Millis,
    ) -> Rc<Lookup> {
        let mut indexes = placement::for_new(snapshot, id.hash(), MAX_CANDIDATES);
        let version = terms.version.max(self.known_version(key, now));
        let by_header = || previous_by_header(terms, attributes).filter(|_| version.is_none());
        let previous = terms.previous.clone().or_else(by_header);
        let previous = previous.filter(|previous| previous != id);
        let former = previous.as_ref().map(|previous| self.pins.key(previous.as_bytes()));
        let known = [Some(key), former].map(|key| self.any_pin(key?, now));
        let usable = known.into_iter().flatten().find_map(|pin| self.usable(&pin, snapshot));
        if let Some(last) = usable {
            indexes.retain(|index| *index != last);
            indexes.insert(0, last);
            indexes.truncate(MAX_CANDIDATES);
        }
        // Where it was, if that is known: a session of a node that is gone is moved with its first question.
        let names = known.iter().flatten().filter_map(|pin| self.pins.name(pin.node)?.parse().ok());
        let last: Vec<NodeId> = names.collect();
        let pool = self.config.pool.as_str();
        let ask = SessionAsk::new(
            SessionKey::new(pool, id.as_bytes()),
            self.owners.names(&indexes),
            // A session of which no node is called unusable stays where it is.
            if terms.is_strict { Vec::new() } else { self.owners.unusable(&last, snapshot, now) },
        );
        let ask = SessionAsk {
            strict: terms.is_strict,
            ttl_ms: terms.session.ttl.map(|ttl| ttl.0),
            claim_ttl_ms: terms.is_issued.then_some(ISSUED.0),
            ends_ms: terms.ends.map(|ends| ends.0),
            created_ms: terms.created.map(|created| created.0),
            // The highest of all that are known: a store that lost it must not take an old token's for the latest.
            session_version: version,
            alias_of: previous.as_ref().map(|previous| SessionKey::new(pool, previous.as_bytes())),
            known: self.believed(key, now),
            ..ask
        };
        let correlation = attributes
            .header("x-request-id")
            .filter(|id| id.len() <= MAX_CORRELATION_ID && id.iter().all(u8::is_ascii_graphic))
            .and_then(|id| String::from_utf8(id).ok());
        Rc::new(Lookup {
            id: id.clone(),
            key,
            ask,
            previous: former,
            version: terms.version.unwrap_or(0),
            is_latest_only: terms.is_latest_only(),
            epoch: self.epoch,
            correlation,
            minted: None,
        })
    }
}

impl Affinity {
    /// The token version that this worker knows of a session, if it has any.
    fn known_version(&mut self, key: PinKey, now: Millis) -> Option<u32> {
        Some(self.any_pin(key, now)?.session_version).filter(|version| *version > 0)
    }
}

/// Clients can forge this header. It may say where a session was, but it is ignored for sessions with a token version,
/// since it would make the former id's tokens old ones: those name their former ids by a claim.
fn previous_by_header(terms: &Terms, attributes: &dyn Attributes) -> Option<SessionId> {
    let name = terms.session.previous_header.as_deref().filter(|_| terms.version.is_none())?;
    SessionId::new(attributes.header(name)?)
}
