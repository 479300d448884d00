//! Ids that nodes mint: the node that answered keeps the session that its response begins.
//!
//! The session is claimed for that node before the response goes on, so that the client's next request finds it, through
//! whichever worker or proxy it comes. If the state service does not answer in time, this worker remembers the node and
//! claims the session for it as soon as that service is back.

use std::rc::Rc;

use super::held::Held;
use super::lookup::Lookup;
use super::refresh::is_uncertain;
use super::release::Settled;
use super::{Affinity, PAUSE, Terms};
use crate::event::{Counter, Learned, Outcome};
use crate::pins::{InUseHandle, Kind, Lookup as Known, MINTED, Pin, PinKey};
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::{Millis, Timer};
use crate::wire::{SessionAsk, SessionKey};

/// Sessions that are yet to be claimed; of more, later requests say where they are.
const MAX_UNCLAIMED: usize = 1_000;
/// A client that sent nothing for so long may as well go where the ring says.
const CLAIM_WITHIN: Millis = Millis(10 * 60_000);

/// A session that a node's response begins.
#[derive(Debug, Clone, Copy)]
pub struct Minted<'m> {
    /// The stream whose response is held until it is released.
    pub stream: u32,
    /// The session.
    pub id: &'m SessionId,
    /// On what terms.
    pub terms: &'m Terms,
    /// The address of the node that answered.
    pub node: &'m [u8],
    /// The route led to the pool's cluster: if the node is not known here, it has just joined.
    pub is_pools: bool,
}

/// What was minted in an outage.
#[derive(Debug, Clone)]
pub(super) struct Unclaimed {
    sessions: Vec<(Held, Millis)>,
    /// When they are to be claimed again.
    next: Timer,
}

impl Default for Unclaimed {
    fn default() -> Self {
        Self { sessions: Vec::new(), next: Timer::new(PAUSE) }
    }
}

impl Affinity {
    /// A response names a session that its node minted, which is in use from now on until [`Self::handle_gone`]. True if the
    /// response waits for a [`Release`](super::Release), which may be there already. `None` if no node of the pool answered.
    pub fn handle_minted(&mut self, minted: &Minted<'_>, now: Millis) -> Option<(bool, InUseHandle)> {
        let Minted { stream, id, terms, node, is_pools } = *minted;
        let snapshot = self.snapshot.clone();
        if snapshot.as_ref().is_some_and(|snapshot| snapshot.unsupported) {
            return None;
        }
        let nodes = snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.nodes);
        let index = nodes.iter().position(|known| known.address.as_bytes() == node);
        let (name, candidates) = match index.and_then(|index| Some((index, nodes.get(index)?))) {
            Some((index, known)) => (known.name.clone(), self.owners.names(&[index])),
            None if is_pools => {
                let address = std::str::from_utf8(node).ok()?;
                (address.to_owned(), vec![address.parse().ok()?])
            }
            None => return None,
        };
        let key = self.pins.key(id.as_bytes());
        let held = Held { key, ttl: terms.session.ttl, ends: terms.ends, created: terms.created };
        let handle = self.in_use.enter(held.clone());
        let session = SessionKey::new(self.config.pool.as_str(), id.as_bytes());
        let Some(snapshot) = snapshot else {
            let learned = self.remember_minted(key, session, &name, &held, now);
            self.count(Counter::Learned(learned));
            return Some((false, handle));
        };
        let known = match self.pins.get(key, now) {
            Known::Fresh(pin) if pin.kind != Kind::Provisional => self.usable(&pin, &snapshot),
            _ => None,
        };
        if known.is_some() {
            if known != index {
                self.count(Counter::Learned(Learned::Elsewhere));
            }
            return Some((false, handle));
        }
        let ask = SessionAsk {
            // A pin that names another node stays, whatever is thought of that node's health.
            strict: true,
            ttl_ms: terms.session.ttl.map(|ttl| ttl.0),
            ends_ms: terms.ends.map(|ends| ends.0),
            created_ms: terms.created.map(|created| created.0),
            known: self.believed(key, now),
            ..SessionAsk::new(session, candidates, Vec::new())
        };
        let lookup = Lookup {
            id: id.clone(),
            key,
            ask,
            previous: None,
            version: 0,
            is_latest_only: false,
            epoch: self.epoch,
            correlation: None,
            minted: Some((name, held)),
        };
        self.miss(stream, false, Rc::new(lookup), now);
        Some((true, handle))
    }

    /// What came of the claim for the node that minted this session.
    pub(super) fn learned(
        &mut self,
        snapshot: &Snapshot,
        own: &Lookup,
        (minter, held): &(String, Held),
        settled: Option<&mut Settled>,
        now: Millis,
    ) {
        let learned = match settled {
            Some(settled) => {
                // The others of this session find it so.
                settled.outcome = Outcome::Found;
                let owner = settled.index.and_then(|index| snapshot.nodes.get(index));
                match owner {
                    Some(owner) if owner.name == *minter => Learned::Pinned,
                    // It is not known here yet.
                    None if settled.node.as_str() == minter => Learned::Pinned,
                    _ => Learned::Elsewhere,
                }
            }
            None => self.remember_minted(own.key, own.ask.key, minter, held, now),
        };
        self.count(Counter::Learned(learned));
    }

    /// Without an answer: the node is remembered here, and claimed later. What was known of the session before comes from the state
    /// service, or from the node that minted it first.
    fn remember_minted(
        &mut self,
        key: PinKey,
        session: SessionKey,
        node: &str,
        held: &Held,
        now: Millis,
    ) -> Learned {
        if let Some(before) = self.any_pin(key, now).filter(|pin| pin.version > 0) {
            let is_same = self.pins.name(before.node) == Some(node);
            return if is_same { Learned::StateAway } else { Learned::Elsewhere };
        }
        // Unlike a place that the ring gave, this one is sure.
        let (expires, kind) = (now + held.ttl.unwrap_or(CLAIM_WITHIN).min(CLAIM_WITHIN), Kind::Settled);
        let pin = Pin { node, version: MINTED, expires, is_doubted: true, kind, session_version: 0 };
        self.pins.insert(key, session.into(), pin);
        self.unanswered.note(key, now);
        let sessions = &mut self.unclaimed.sessions;
        if sessions.len() < MAX_UNCLAIMED && sessions.iter().all(|(other, _)| other.key != key) {
            sessions.push((held.clone(), now));
        }
        Learned::StateAway
    }

    /// Has the next refresh claim what was minted in an outage.
    pub(super) fn note_unclaimed(&mut self, now: Millis) {
        let Self { unclaimed, pins, refresh, .. } = self;
        if unclaimed.sessions.is_empty() || !unclaimed.next.is_due(now) {
            return;
        }
        unclaimed.next.set(now, PAUSE);
        unclaimed.sessions.retain(|(held, since)| {
            let is_due = !CLAIM_WITHIN.is_over(*since, now) && is_uncertain(pins, held.key, now);
            if is_due {
                refresh.note(held);
            }
            is_due
        });
    }
}
