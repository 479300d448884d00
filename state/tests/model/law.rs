//! The invariants.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::time::Millis;
use berth_core::wire::{
    KnownPin, NodeId, Outcome, Pin, ResolveRequest, SessionKey, TouchReply, TouchRequest,
};

use super::history::Said;
use super::{HALF, KEEPING};

/// The pins of each session that were answered or said, in that order, each once; and those that were answered and not stored,
/// which no proxy keeps.
#[derive(Default)]
pub(super) struct Versions {
    seen: BTreeMap<SessionKey, Vec<KnownPin>>,
    not_stored: BTreeSet<(SessionKey, u64)>,
    /// After how many ends each version was given out.
    given: BTreeMap<(SessionKey, u64), usize>,
    ends: usize,
}

impl Versions {
    pub(super) fn note(&mut self, key: SessionKey, pin: KnownPin) {
        self.given.entry((key, pin.version)).or_insert(self.ends);
        let seen = self.seen.entry(key).or_default();
        if let Some(same) = seen.iter().find(|seen| seen.version == pin.version) {
            assert_eq!(same.node, pin.node, "a version is given to two nodes");
        } else {
            seen.push(pin);
        }
    }

    pub(super) fn highest(&self, key: SessionKey) -> u64 {
        self.seen.get(&key).into_iter().flatten().map(|pin| pin.version).max().unwrap_or(0)
    }

    pub(super) fn said(&mut self, key: SessionKey, said: &Said) -> Option<KnownPin> {
        match said {
            Said::Nothing => None,
            Said::Answered(ago) => {
                let kept = |pin: &&KnownPin| !self.not_stored.contains(&(key, pin.version));
                self.seen.get(&key)?.iter().rev().filter(kept).nth(*ago).cloned()
            }
            Said::Lost(node) => {
                let highest = Some(self.highest(key)).filter(|highest| *highest > 0)?;
                // An end that came since is later than it, whichever session's it was.
                if self.given[&(key, highest)] < self.ends {
                    return None;
                }
                let known = KnownPin { version: highest + 7, node: node.clone() };
                self.note(key, known.clone());
                Some(known)
            }
        }
    }

    /// Which of the session's versions it is.
    pub(super) fn rank(&self, key: SessionKey, version: u64) -> u64 {
        if version == 0 {
            return 0;
        }
        self.seen[&key].iter().position(|seen| seen.version == version).unwrap() as u64 + 1
    }
}

/// What must hold whatever happens.
#[derive(Default)]
pub(super) struct Law {
    pub(super) versions: Versions,
    pub(super) pins: BTreeMap<SessionKey, Known>,
    /// Those whose pin no one had known before.
    pub(super) claims: BTreeSet<SessionKey>,
    /// Those that a touch has written again, and how long they live: no request has said the rest since.
    pub(super) rewritten: BTreeMap<SessionKey, u64>,
    /// Those that were lost and written again, and whose former key no request has said since.
    pub(super) orphans: BTreeSet<SessionKey>,
    /// Those whose end found no pin.
    pub(super) ended_without: BTreeSet<SessionKey>,
    /// Those that have begun again since their end.
    pub(super) begun: BTreeSet<SessionKey>,
    /// Those that ended, with the number of that end.
    pub(super) remembered: BTreeMap<SessionKey, usize>,
    /// Those of which the end is remembered, though it is older than all that is known of them.
    pub(super) remembered_late: BTreeSet<SessionKey>,
    /// In cooldown until the node's record is forgotten.
    pub(super) cooling: BTreeSet<NodeId>,
    pub(super) now: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) node: NodeId,
    pub(super) version: u64,
    pub(super) session_version: u32,
    pub(super) ttl: u64,
    pub(super) ends: Option<u64>,
    pub(super) alias_of: Option<SessionKey>,
}

impl Known {
    /// How long it lives: time went on since the histories began.
    pub(super) fn lives(&self, life: u64, now: u64) {
        self.lives_at_most(self.ttl, life, now);
    }

    /// The same of one that was claimed for so long, or of any that is used.
    pub(super) fn lives_at_most(&self, most: u64, life: u64, now: u64) {
        let idle = self.ttl.min(most);
        let expected = self.ends.map_or(idle, |ends| idle.min(ends.saturating_sub(now)));
        assert!(life <= expected && expected - life <= HALF, "{self:?} lives {life}");
    }
}

impl Law {
    pub(super) fn cools(&self, node: &NodeId) -> bool {
        self.cooling.contains(node)
    }

    pub(super) fn resolved(&mut self, request: &ResolveRequest, pins: &[Pin]) {
        assert_eq!(pins.len(), request.sessions.len());
        let formers: Vec<Option<Known>> =
            request.sessions.iter().map(|ask| self.pins.get(&ask.alias_of?).cloned()).collect();
        for ((ask, pin), former) in request.sessions.iter().zip(pins).zip(&formers) {
            assert_eq!(pin.key, ask.key);
            let highest = self.versions.highest(ask.key);
            let was_there = self.pins.contains_key(&ask.key);
            self.remake(ask.key, ask.known.as_ref());
            self.recover(ask.key, ask.known.as_ref());
            if let Some(known) = ask.known.as_ref().filter(|known| self.is_earlier(ask.key, known))
                && (request.panic || !ask.unusable.contains(&known.node) && !self.cools(&known.node))
            {
                assert_eq!(pin.outcome, Outcome::Found);
                assert!(pin.version > highest, "{pin:?}");
                assert_eq!(pin.node, known.node);
                self.went_back(ask.key, pin.version, &pin.node);
            }
            let before = self.pins.get(&ask.key).cloned();
            let ended = self.remembered.contains_key(&ask.key) || self.remembered_late.contains(&ask.key);
            let is_over = ended && (ask.known.is_some() || !self.begun.contains(&ask.key));
            self.rewritten.remove(&ask.key);
            if before.is_none() && ask.renew && is_over {
                let known =
                    ask.known.as_ref().map_or((&ask.candidates[0], 0), |known| (&known.node, known.version));
                assert_eq!(((&pin.node, pin.version), pin.ttl_ms), (known, Some(0)));
                continue;
            }
            // What its former key has is over too, if it is older than the end.
            let end = (!was_there).then(|| self.remembered.get(&ask.key)).flatten();
            let is_over = |former: &Known| {
                let former_key = ask.alias_of.unwrap();
                end.is_some_and(|end| self.versions.given[&(former_key, former.version)] < *end)
                    && self.ended_without.contains(&ask.key)
            };
            let former = former.as_ref().filter(|former| !is_over(former));
            // Of a pin that was not there.
            let is_next = |pin: &Pin| pin.version > highest;
            let mut alias_of = before.as_ref().and_then(|before| before.alias_of);
            if before.is_some() && ask.alias_of.is_some() && self.orphans.remove(&ask.key) {
                alias_of = ask.alias_of;
            }
            match (&before, pin.outcome) {
                (None, Outcome::Claimed) => {
                    assert!(is_next(pin), "{pin:?}");
                    assert!(ask.candidates.contains(&pin.node));
                    assert!(former.is_none(), "a session with a former pin is not a new one");
                }
                (None, Outcome::Found) => {
                    let former = former.expect("found, but neither was there");
                    assert_eq!(pin.node, former.node);
                    assert!(is_next(pin), "{pin:?}");
                    let fit = |node: &NodeId| *node != pin.node && !ask.unusable.contains(node);
                    let may_stay = request.panic || ask.strict || !ask.unusable.contains(&pin.node);
                    // It stays also where it may not, if it cannot go elsewhere.
                    let stuck = ask.candidates.iter().filter(|node| fit(node)).all(|node| self.cools(node));
                    assert!(may_stay || stuck);
                    alias_of = ask.alias_of;
                }
                (Some(before), Outcome::Found) => {
                    assert_eq!((pin.node.clone(), pin.version), (before.node.clone(), before.version));
                }
                (None, Outcome::Rehomed) => {
                    let former = former.expect("rehomed, but neither was there");
                    assert!(!request.panic && !ask.strict);
                    assert_eq!(pin.from, Some(former.node.clone()));
                    assert!(is_next(pin), "{pin:?}");
                    assert!(pin.node != former.node && ask.candidates.contains(&pin.node));
                    assert!(!ask.unusable.contains(&pin.node));
                    assert!(ask.unusable.contains(&former.node) || self.cools(&former.node));
                    alias_of = ask.alias_of;
                }
                (Some(before), Outcome::Rehomed) => {
                    assert!(!request.panic && !ask.strict, "a pin was rewritten");
                    assert_eq!(pin.from, Some(before.node.clone()));
                    assert!(pin.version > highest, "{pin:?}");
                    let inherits = former.is_some_and(|former| former.node == pin.node);
                    assert!(pin.node != before.node && (inherits || ask.candidates.contains(&pin.node)));
                    assert!(!ask.unusable.contains(&pin.node));
                    alias_of = if inherits { ask.alias_of } else { alias_of };
                }
                other => panic!("{other:?} cannot be"),
            }
            assert!(!pin.restore || pin.outcome == Outcome::Found);
            self.versions.note(ask.key, KnownPin { version: pin.version, node: pin.node.clone() });
            match (&before, pin.outcome) {
                (None, Outcome::Claimed) => _ = self.claims.insert(ask.key),
                (Some(_), Outcome::Rehomed) => _ = self.claims.remove(&ask.key),
                _ => {}
            }

            // Versions of sessions only grow, ends only come nearer, and what was said last of the idle time holds.
            let seen = [before.as_ref(), former].into_iter().flatten().map(|pin| pin.session_version);
            let known = Known {
                node: pin.node.clone(),
                version: pin.version,
                session_version: seen.chain(ask.session_version).max().unwrap_or(0),
                ttl: ask.ttl_ms.or(before.as_ref().map(|before| before.ttl)).unwrap_or(KEEPING.ttl.0),
                ends: before.as_ref().and_then(|before| before.ends).into_iter().chain(ask.ends_ms).min(),
                alias_of,
            };
            assert_eq!(pin.session_version.unwrap_or(0), known.session_version);
            let claim = ask.claim_ttl_ms.filter(|_| pin.outcome == Outcome::Claimed);
            known.lives_at_most(claim.unwrap_or(u64::MAX), pin.ttl_ms.unwrap_or(KEEPING.ttl.0), self.now);
            if pin.ttl_ms == Some(0) {
                self.versions.not_stored.insert((ask.key, pin.version));
                self.pins.remove(&ask.key);
                self.claims.remove(&ask.key);
                self.orphans.remove(&ask.key);
            } else {
                if before.is_none() {
                    self.begun.insert(ask.key);
                }
                self.pins.insert(ask.key, known);
            }
        }
        // Afterwards the former keys know what heirs know that showed a version themselves.
        for ((ask, pin), former) in request.sessions.iter().zip(pins).zip(formers) {
            if let (Some(_), Some(key), Some(_)) = (former, ask.alias_of, ask.session_version)
                && let Some(known) = self.pins.get_mut(&key)
            {
                known.session_version = known.session_version.max(pin.session_version.unwrap_or(0));
            }
        }
    }

    /// Who knows a pin that was lost has it written again, unless it ended.
    pub(super) fn remake(&mut self, key: SessionKey, known: Option<&KnownPin>) {
        if let Some(known) = known.filter(|known| !self.is_over(key, known)) {
            if !self.pins.contains_key(&key) {
                self.orphans.insert(key);
            }
            self.pins.entry(key).or_insert_with(|| Known {
                node: known.node.clone(),
                version: known.version,
                session_version: 0,
                ttl: KEEPING.ttl.0,
                ends: None,
                alias_of: None,
            });
        }
    }

    /// Who knows a newer pin than the store has it written again.
    pub(super) fn recover(&mut self, key: SessionKey, known: Option<&KnownPin>) {
        if let (Some(pin), Some(known)) = (self.pins.get_mut(&key), known)
            && known.version > pin.version
        {
            (pin.node, pin.version) = (known.node.clone(), known.version);
            self.claims.remove(&key);
            if pin.alias_of.is_none() {
                self.orphans.insert(key);
            }
        }
    }

    /// What is known of a session is of before its end.
    pub(super) fn is_over(&self, key: SessionKey, known: &KnownPin) -> bool {
        self.remembered.get(&key).is_some_and(|end| self.versions.given[&(key, known.version)] < *end)
    }

    /// Who knows an earlier pin of a session that was claimed since, and did not end, has it go back.
    pub(super) fn is_earlier(&self, key: SessionKey, known: &KnownPin) -> bool {
        let is_claim = self.claims.contains(&key) && !self.is_over(key, known);
        let is_other = |pin: &Known| known.version < pin.version && known.node != pin.node;
        is_claim && self.pins.get(&key).is_some_and(is_other)
    }

    pub(super) fn went_back(&mut self, key: SessionKey, version: u64, node: &NodeId) {
        assert!(version > self.versions.highest(key));
        self.versions.note(key, KnownPin { version, node: node.clone() });
        self.claims.remove(&key);
        let pin = self.pins.get_mut(&key).unwrap();
        (pin.node, pin.version) = (node.clone(), version);
        if pin.alias_of.is_none() {
            self.orphans.insert(key);
        }
    }

    /// An end found no pin: an earlier one may have, unless the session began again in between.
    pub(super) fn found_none(&mut self, key: SessionKey) {
        let was_ended = self.remembered.contains_key(&key) || self.remembered_late.contains(&key);
        if self.begun.remove(&key) || !was_ended {
            self.ended_without.insert(key);
        }
    }

    /// Returns those that went back to an earlier node.
    pub(super) fn touched(&mut self, request: &TouchRequest, reply: &TouchReply) -> Vec<SessionKey> {
        let (mut changed, mut written, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for (key, pin) in request.sessions() {
            let (said, was_there) = (pin.map(|pin| &pin.known), self.pins.contains_key(&key));
            self.remake(key, said);
            self.recover(key, said);
            back.extend(said.filter(|said| self.is_earlier(key, said)).map(|_| key));
            let known = self.pins.get(&key);
            assert_eq!(reply.missing.contains(&key), known.is_none());
            if let Some(known) = known {
                let life = reply.ttls_ms.get(&key).copied().unwrap_or(reply.ttl_ms);
                let is_other =
                    said.is_some_and(|said| (said.version, &said.node) != (known.version, &known.node));
                let least = pin.and_then(|pin| pin.lives_ms);
                let rewritten = self.rewritten.get(&key).copied();
                let rewritten = if was_there {
                    rewritten.map(|life| life.max(least.unwrap_or(0)))
                } else {
                    Some(least.unwrap_or(KEEPING.ttl.0))
                };
                if let Some(most) = rewritten {
                    self.rewritten.insert(key, most);
                    assert!(life <= most && most - life <= HALF, "{life} of {most}");
                    written.extend((!is_other).then_some(key));
                } else {
                    known.lives(life, self.now);
                }
                changed.extend(is_other.then_some(key));
            }
        }
        changed.sort();
        written.sort();
        assert_eq!((changed, written), (reply.changed.clone(), reply.written.clone()));
        back
    }

    pub(super) fn ended(&mut self, key: SessionKey, ago: Millis, ended: bool) {
        if ago > Millis(0) {
            assert!(!ended, "each pin is newer");
            let (mut names, mut last) = (vec![key], key);
            while let Some(former) = self.pins.get(&last).and_then(|pin| pin.alias_of)
                && !names.contains(&former)
            {
                names.push(former);
                last = former;
            }
            for key in names {
                if self.pins.contains_key(&key) {
                    self.begun.insert(key);
                } else {
                    self.found_none(key);
                }
                self.remembered_late.insert(key);
            }
            return;
        }
        assert_eq!(ended, self.pins.contains_key(&key));
        // With all the names that it had. One that leads back to a later one is gone by then.
        self.versions.ends += 1;
        let mut next = Some(key);
        while let Some(key) = next {
            let before = self.pins.remove(&key);
            self.claims.remove(&key);
            self.rewritten.remove(&key);
            match before {
                // What it was called before was lost with it.
                Some(_) if self.orphans.remove(&key) => _ = self.ended_without.insert(key),
                Some(_) => _ = self.ended_without.remove(&key),
                None => self.found_none(key),
            }
            self.begun.remove(&key);
            next = before.as_ref().and_then(|before| before.alias_of);
            self.remembered.insert(key, self.versions.ends);
        }
    }
}
