//! Releases: what becomes of each request that waited, once the state service has answered, or has not.
//!
//! All requests of a session share one lookup, but not one decision: each is judged on its own terms, and one with a newer
//! token than the lookup carried asks again. One of them tells the node what it has to know; if that request is gone by
//! then, the next one does.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::rc::Rc;

use super::lookup::Lookup;
use super::{Affinity, as_seen, is_only_the_rings};
use crate::decision::{Decision, Notice};
use crate::event::{Counter, Outcome, Reason};
use crate::flight::{Join, Released};
use crate::owners::{PROVISIONAL, Standing};
use crate::pins::{Kind, Lookup as Known, Pin, PinKey, WireKey};
use crate::placement::{self, NoPlacement, Placement};
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::NodeId;

/// A request that waits no longer. Report with [`Affinity::released`] whether it could be told.
#[derive(Debug, PartialEq, Eq)]
pub struct Release {
    /// Its stream.
    pub stream: u32,
    /// What becomes of it.
    pub decision: Decision,
}

/// What is yet to be released.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// The requests of one session each.
    groups: VecDeque<Group>,
    /// Requests that have to ask again.
    again: Vec<(WireKey, u32, Rc<Lookup>)>,
    /// What the latest release tells the node.
    notice: Option<Notice>,
}

/// The requests that waited for one session.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: WireKey,
    pub(super) pin_key: PinKey,
    pub(super) waiters: VecDeque<u32>,
    /// `None` without an answer.
    pub(super) settled: Option<Settled>,
}

/// What the word of the state service comes to.
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
    /// For the node, with the first request that goes there.
    pub(super) notice: Option<Notice>,
    /// The highest version of its token that is known.
    pub(super) session_version: u32,
    /// It is remembered.
    pub(super) is_kept: bool,
}

/// Where a request goes, and what the node is told.
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
                let (placement, notice) = match &mut group.settled {
                    Some(settled) => {
                        let next = own.next(&settled.node, settled.standing, settled.session_version);
                        if let Some(next) = next {
                            self.releases.again.push((group.key, stream, next));
                            continue;
                        }
                        self.by_answer(&snapshot, &own, settled, now)
                    }
                    None => self.without_answer(&snapshot, &own, PROVISIONAL, now),
                };
                self.waiters.remove(&stream);
                self.releases.notice.clone_from(&notice);
                let decision = self.decide(placement, notice);
                if !matches!(decision, Decision::Route { .. }) {
                    give_back(&mut group, self.releases.notice.take());
                }
                self.releases.groups.push_front(group);
                return Some(Release { stream, decision });
            }
            if let Some(settled) = group.settled.filter(|settled| settled.is_kept && settled.notice.is_some())
            {
                self.tell_later(group.pin_key, settled.index.is_some());
            }
        }
    }

    /// The latest release was delivered, or its stream was gone: then the next request of the session tells the node.
    pub fn released(&mut self, is_delivered: bool) {
        let Some(notice) = self.releases.notice.take() else { return };
        if !is_delivered {
            if let Some(group) = self.releases.groups.front_mut() {
                give_back(group, Some(notice));
            }
        } else if matches!(notice, Notice::Restore { .. }) {
            self.count(Counter::Restored);
        }
    }

    /// No request could tell the node what it has to know: the session's next one does. `is_back` says that the node may
    /// serve, so that a session which was elsewhere while its node was away counts as returned.
    pub(super) fn tell_later(&mut self, key: PinKey, is_back: bool) {
        if self.pins.unsettle(key) {
            return;
        }
        if self.pins.return_home(key) {
            if is_back {
                self.count(Counter::Returned);
            }
            self.pins.unsettle(key);
        }
    }

    /// Requests that waited on have another question. The time that each may take began when it first waited.
    fn ask_again(&mut self) {
        let mut again = std::mem::take(&mut self.releases.again);
        // The newest token first: its answer is one to all others.
        again.sort_unstable_by_key(|(_, _, lookup)| Reverse(lookup.ask.session_version));
        for (key, stream, lookup) in again {
            let Some(waiter) = self.waiters.get_mut(&stream) else { continue };
            waiter.lookup = Rc::clone(&lookup);
            if let Join::Refused(_) = self.lookups.join(key, stream, waiter.since, || Rc::clone(&lookup)) {
                self.release_without_answer(vec![Released { key, request: lookup, waiters: vec![stream] }]);
            }
        }
    }

    /// Where the word of the state service leads one of the requests that waited for it.
    fn by_answer(&mut self, snapshot: &Snapshot, own: &Lookup, settled: &mut Settled, now: Millis) -> Placed {
        if own.is_latest_only && own.version < settled.session_version {
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
            return self.without_answer(snapshot, own, settled.provisional, now);
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
        (Ok(placement), settled.notice.take())
    }

    /// Without an answer: where the session was last, if that node may serve, else where the ring says; for a while.
    fn without_answer(&mut self, snapshot: &Snapshot, own: &Lookup, lasts: Millis, now: Millis) -> Placed {
        let known = [Some(own.key), own.previous].into_iter().flatten().find_map(|key| {
            match self.pins.get(key, now) {
                Known::Fresh(pin) | Known::Stale(pin) => Some(pin),
                Known::Absent => None,
            }
        });
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
        if let Some(node) = placement.nodes(snapshot).next() {
            let (node, expires, kind) = (node.name.as_str(), now + lasts, Kind::Provisional);
            let pin = Pin { node, version, expires, kind, session_version };
            self.pins.insert(own.key, own.ask.key.into(), pin);
        }
        let notice = last
            .filter(|(_, pin)| pin.kind == Kind::Restored)
            .map(|(_, pin)| Notice::Restore { version: pin.version });
        (Ok(if is_strict { placement.strictly() } else { placement }), notice)
    }
}

/// The node was not told after all.
fn give_back(group: &mut Group, notice: Option<Notice>) {
    if let Some(settled) = &mut group.settled {
        settled.notice = settled.notice.take().or(notice);
    }
}
