//! Releases: what becomes of each request or response that waited, once the state service has answered, or has not.
//!
//! All requests of a session share one lookup, but not one decision: each is judged on its own terms, and one with a newer
//! token than the lookup carried asks again. One of them tells the node what it has to know; if that request is gone by
//! then, the next one does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::Affinity;
use super::hit::{as_seen, is_only_the_rings};
use super::lookup::Lookup;
use crate::coalescer::{Join, Released};
use crate::decision::{Decision, Notice};
use crate::event::{Counter, Outcome, Reason};
use crate::owners::{PROVISIONAL, Standing};
use crate::pins::{Kind, Pin, PinKey, WireKey};
use crate::placement::{self, NoPlacement, Placement};
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::NodeId;

/// A request or a response that waits no longer. Report with [`Affinity::released`] whether its stream was still there.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    /// Its stream.
    pub stream: u32,
    /// What becomes of the request; `None` if it is a response that goes on.
    pub decision: Option<Decision>,
}

/// What is yet to be released.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// The requests of one session each.
    groups: VecDeque<Group>,
    /// Requests that have to ask again.
    again: Vec<(WireKey, u32, Rc<Lookup>)>,
    /// The session whose notice the latest release carries.
    carries: Option<(PinKey, Notice)>,
}

/// The requests that waited for one session.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: WireKey,
    pub(super) waiters: VecDeque<u32>,
    /// `None` without an answer.
    pub(super) settled: Option<Settled>,
}

/// What follows from an answer of the state service.
#[derive(Debug)]
pub(super) struct Settled {
    /// The owner that it named.
    pub(super) node: NodeId,
    /// The index of the owner, if it may serve here.
    pub(super) index: Option<usize>,
    /// What can be done with the owner.
    pub(super) standing: Standing,
    /// How long the session stays elsewhere if the owner cannot be used.
    pub(super) provisional: Millis,
    pub(super) outcome: Outcome,
    /// The version of the pin.
    pub(super) version: u64,
    /// The highest version of its token that the state service knows now.
    pub(super) session_version: u32,
    /// The highest that is known here: a lookup may have been under way when its session came with a newer one.
    pub(super) known_version: u32,
}

/// Where a request goes, and the notice for its node.
type Placed = (Result<Placement, NoPlacement>, Option<Notice>);

impl Releases {
    pub(super) fn push(&mut self, group: Group) {
        self.groups.push_back(group);
    }
}

impl Affinity {
    /// The next request that waits no longer.
    pub fn poll_release(&mut self, now: Millis) -> Option<Release> {
        let snapshot = self.snapshot.clone()?;
        loop {
            let Some(mut group) = self.releases.groups.pop_front() else {
                if self.releases.again.is_empty() {
                    return None;
                }
                self.ask_again();
                continue;
            };
            while let Some(stream) = group.waiters.pop_front() {
                let Some(own) = self.waiters.get(&stream).map(|waiter| Rc::clone(&waiter.lookup)) else {
                    continue;
                };
                let next = group
                    .settled
                    .as_ref()
                    .and_then(|settled| own.next(&settled.node, settled.standing, settled.session_version));
                if let Some(next) = next {
                    self.releases.again.push((group.key, stream, next));
                    continue;
                }
                self.waiters.remove(&stream);
                if let Some(minted) = &own.minted {
                    self.learned(&snapshot, &own, minted, group.settled.as_mut(), now);
                    self.releases.groups.push_front(group);
                    return Some(Release { stream, decision: None });
                }
                let (placement, notice) = match &mut group.settled {
                    Some(settled) => self.by_answer(&snapshot, &own, settled, now),
                    None => self.without_answer(&snapshot, &own, None, now),
                };
                self.releases.carries = notice.clone().map(|notice| (own.key, notice));
                let decision = self.decide(placement, notice);
                if !matches!(decision, Decision::Route { .. }) {
                    self.releases.carries = None;
                }
                self.releases.groups.push_front(group);
                return Some(Release { stream, decision: Some(decision) });
            }
        }
    }

    /// The latest release was delivered, or its stream was gone: then the next request of the session carries the notice.
    pub fn released(&mut self, is_delivered: bool) {
        if let Some((key, notice)) = self.releases.carries.take().filter(|_| is_delivered) {
            self.notified(key, &notice);
        }
    }

    /// Requests that waited on have another question. Those of one session share it, within the time of the one that has
    /// waited longest.
    fn ask_again(&mut self) {
        let mut again = std::mem::take(&mut self.releases.again);
        // The newest token first: its answer is one to all others.
        again.sort_unstable_by_key(|(_, _, lookup)| Reverse(lookup.ask.session_version));
        let mut began: BTreeMap<WireKey, Millis> = BTreeMap::new();
        for (key, stream, _) in &again {
            let Some(waiter) = self.waiters.get(stream) else { continue };
            let earliest = began.entry(*key).or_insert(waiter.since);
            *earliest = waiter.since.min(*earliest);
        }
        for (key, stream, lookup) in again {
            let Some(waiter) = self.waiters.get_mut(&stream) else { continue };
            waiter.lookup = Rc::clone(&lookup);
            let since = began.get(&key).copied().unwrap_or(waiter.since);
            if let Join::Refused(_) = self.lookups.join(key, stream, since, || Rc::clone(&lookup)) {
                self.release_without_answer(vec![Released { key, request: lookup, waiters: vec![stream] }]);
            }
        }
    }

    /// Where the answer of the state service sends one of the requests that waited for it.
    fn by_answer(&mut self, snapshot: &Snapshot, own: &Lookup, settled: &mut Settled, now: Millis) -> Placed {
        if own.is_latest_only && own.version < settled.known_version {
            return (Err(NoPlacement::Superseded), None);
        }
        let is_strict = own.ask.strict;
        let Some(index) = settled.index else {
            if settled.standing == Standing::Held {
                return (self.stand_in_for_vanished(snapshot, &own.id, is_strict), None);
            }
            if is_strict {
                return (Err(NoPlacement::Withheld(Reason::PinUnavailable)), None);
            }
            return self.without_answer(snapshot, own, Some(settled.provisional), now);
        };
        if self.pins.return_home(own.key) {
            self.count(Counter::Returned);
        }
        let outcome = settled.outcome;
        // The others of a session that was claimed or rehomed find it so.
        settled.outcome = Outcome::Found;
        let outcome = as_seen(snapshot, index, outcome);
        let placement = placement::pinned(snapshot, own.id.hash(), index, outcome);
        let placement = if is_strict { placement.strictly() } else { placement };
        let node = snapshot.nodes.get(index).map_or("", |node| &node.name);
        (Ok(placement), self.notices.get(own.key, node, settled.version, now))
    }

    /// Without a node that is known to be the owner: where the session was last, if that node may serve, else where the ring
    /// says; for a while. `lasts` tells how long if an owner was named; without an answer a pin of a node that is out stays as it
    /// is, so that all workers go back there when that node does.
    fn without_answer(
        &mut self,
        snapshot: &Snapshot,
        own: &Lookup,
        lasts: Option<Millis>,
        now: Millis,
    ) -> Placed {
        let own_pin = self.any_pin(own.key, now);
        let known = own_pin.or_else(|| self.any_pin(own.previous?, now));
        let session_version = known.map_or(0, |pin| pin.session_version).max(own.version);
        if own.is_latest_only && own.version < session_version {
            return (Err(NoPlacement::Superseded), None);
        }
        let is_strict = own.ask.strict;
        let last = known
            .filter(|pin| !(is_strict && is_only_the_rings(pin)))
            .and_then(|pin| Some((self.usable(&pin, snapshot)?, pin)));
        let hash = own.id.hash();
        let placement = match last {
            Some((index, _)) => {
                let outcome = as_seen(snapshot, index, Outcome::Ring);
                Ok(placement::pinned(snapshot, hash, index, outcome))
            }
            None if is_strict => Err(NoPlacement::Withheld(Reason::StateAway)),
            None => Placement::of(snapshot, hash),
        };
        let Ok(mut placement) = placement else { return (placement, None) };
        placement.reason = Reason::StateAway;
        let version = last.map_or(0, |(_, pin)| pin.version);
        let notice = last.and_then(|(_, pin)| self.notice_for(own.key, &pin, now));
        // It was the store's own, and the store did not say another.
        let is_kept = |pin: &Pin| last.is_none() && pin.version > 0 || pin.is_believed(now);
        let kept = own_pin.filter(|pin| lasts.is_none() && is_kept(pin));
        if let Some(pin) = kept {
            if last.is_some() {
                self.unanswered.note(own.key, now);
            }
            if session_version > pin.session_version {
                self.pins.supersede(own.ask.key.into(), session_version);
            }
        } else if let Some(node) = placement.nodes(snapshot).next() {
            let (node, expires) = (node.name.as_str(), now + lasts.unwrap_or(PROVISIONAL));
            let kind = Kind::Provisional;
            let pin = Pin { node, version, expires, is_doubted: false, kind, session_version };
            self.pins.insert(own.key, own.ask.key.into(), pin);
        }
        (Ok(if is_strict { placement.strictly() } else { placement }), notice)
    }
}
