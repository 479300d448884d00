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
use super::{Affinity, Terms};
use crate::event::{Counter, Learned, Outcome};
use crate::owners::PROVISIONAL;
use crate::pins::{InUseHandle, Kind, Lookup as Known, Pin, PinKey};
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::Millis;
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
}

/// What was minted in an outage.
#[derive(Debug, Clone, Default)]
pub(super) struct Unclaimed(Vec<(Held, Millis)>);

impl Affinity {
    /// A response names a session that its node minted, which is in use from now on until [`Self::handle_gone`]. True if the
    /// response waits for a [`Release`](super::Release), which may be there already. `None` if no node of the pool answered.
    pub fn handle_minted(&mut self, minted: &Minted<'_>, now: Millis) -> Option<(bool, InUseHandle)> {
        let Minted { stream, id, terms, node } = *minted;
        let snapshot = self.snapshot.clone()?;
        let index = snapshot.nodes.iter().position(|known| known.address.as_bytes() == node)?;
        let name = snapshot.nodes.get(index)?.name.clone();
        let key = self.pins.key(id.as_bytes());
        let held = Held { key, ttl: terms.session.ttl, ends: terms.ends, created: terms.created };
        let handle = self.in_use.enter(held.clone());
        let known = match self.pins.get(key, now) {
            Known::Fresh(pin) if pin.kind != Kind::Provisional => self.pins.member(pin.node),
            _ => None,
        };
        if known == Some(index) {
            return Some((false, handle));
        }
        let pool = self.config.pool.as_str();
        let session = SessionKey::new(pool, id.as_bytes());
        let ask = SessionAsk {
            strict: terms.is_strict,
            ttl_ms: terms.session.ttl.map(|ttl| ttl.0),
            ends_ms: terms.ends.map(|ends| ends.0),
            created_ms: terms.created.map(|created| created.0),
            ..SessionAsk::new(session, self.owners.names(&[index]), Vec::new())
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
                let owner = settled.index.and_then(|index| snapshot.nodes.get(index));
                // The others of this session find it so.
                settled.outcome = Outcome::Found;
                if owner.is_some_and(|owner| owner.name == *minter) {
                    Learned::Pinned
                } else {
                    Learned::Elsewhere
                }
            }
            // What it knew before comes from the state service.
            None if self.is_settled(own.key, now) => Learned::Elsewhere,
            None => {
                let (node, expires, kind) = (minter.as_str(), now + PROVISIONAL, Kind::Provisional);
                let pin = Pin { node, version: 0, expires, kind, session_version: 0 };
                self.pins.insert(own.key, own.ask.key.into(), pin);
                if self.unclaimed.0.len() < MAX_UNCLAIMED {
                    self.unclaimed.0.push((held.clone(), now));
                }
                Learned::StateAway
            }
        };
        self.count(Counter::Learned(learned));
    }

    fn is_settled(&mut self, key: PinKey, now: Millis) -> bool {
        match self.pins.get(key, now) {
            Known::Fresh(pin) | Known::Stale(pin) => pin.kind != Kind::Provisional,
            Known::Absent => false,
        }
    }

    /// Has the next refresh claim what was minted in an outage.
    pub(super) fn note_unclaimed(&mut self, now: Millis) {
        let Self { unclaimed, pins, refresh, .. } = self;
        unclaimed.0.retain(|(held, since)| {
            let is_due = !CLAIM_WITHIN.is_over(*since, now) && is_uncertain(pins, held.key, now);
            if is_due {
                refresh.note(held);
            }
            is_due
        });
    }
}
