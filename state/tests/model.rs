//! Random histories of resolves, touches, expiries, ends, node changes and what is forgotten of nodes, against the
//! invariants, and the same on memory and Redis with the same answers. Time is no part of a history: a pin expires when the
//! history says so, and cooldowns are endless or over. Sessions end long ago, or so late that an hour more or less is known.
//! Versions are times as well: each store's own are compared by their order. Some requests say what is known of a pin: what
//! was last answered, what was answered before that, or a later write that the store has lost.
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, KnownPin, NodeChange, NodeId, NodeState, Outcome, Pin, PoolName, ResolveRequest, SessionAsk,
    SessionKey, TouchReply, TouchRequest, TouchedPin,
};
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};

use support::RedisServer;

const HISTORIES: u64 = 60;
const STEPS: usize = 80;
const SESSIONS: u64 = 5;
const NODES: u64 = 5;
const HOUR: u64 = 3_600_000;
/// What a history may take at most: lives have so much above full hours, and are compared in full hours.
const HALF: u64 = HOUR / 2;
const KEEPING: Keeping =
    Keeping { ttl: Millis(20 * HOUR + HALF), ended: Millis(20 * HOUR), changes: 100_000 };
const FAR: u64 = 1 << 50;

/// A small generator with a seed, so that a failure can be repeated: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn nodes(&mut self, least: u64, most: u64) -> Vec<NodeId> {
        let count = least + self.below(most - least + 1);
        let mut all: Vec<u64> = (0..NODES).collect();
        (0..count).map(|_| node(all.swap_remove(self.below(all.len() as u64) as usize))).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Resolve(ResolveRequest, Vec<Said>),
    Touch(Vec<(SessionKey, Said)>),
    Expire(SessionKey),
    End(SessionKey, Millis),
    Node(NodeId, NodeChange),
    Forget(NodeId),
}

/// What a request says of a pin: versions are only known when the history is played.
#[derive(Debug, Clone)]
enum Said {
    Nothing,
    /// So many answers ago.
    Answered(usize),
    /// That it went to this node, which the store has lost.
    Lost(NodeId),
}

fn said(random: &mut Random) -> Said {
    match random.below(6) {
        0 | 1 => Said::Answered(0),
        2 => Said::Answered(1),
        3 if random.below(3) == 0 => Said::Lost(node(random.below(NODES))),
        _ => Said::Nothing,
    }
}

fn node(number: u64) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

fn key(number: u64) -> SessionKey {
    SessionKey::new("model", &number.to_le_bytes())
}

/// What a session brings besides, each seldom.
fn lasting(random: &mut Random, ask: SessionAsk, now: u64) -> SessionAsk {
    SessionAsk {
        ttl_ms: (random.below(4) == 0).then(|| (5 + random.below(4) * 10) * HOUR + HALF),
        claim_ttl_ms: (random.below(4) == 0).then(|| (1 + random.below(60)) * HOUR + HALF),
        ends_ms: (random.below(4) == 0).then(|| match random.below(6) {
            0 => 1 + random.below(2),
            // Not as long as any idle time, by minutes.
            far => now + far * 7 * HOUR + HALF + 300_000,
        }),
        created_ms: (random.below(4) == 0).then(|| random.below(3)),
        session_version: (random.below(3) == 0).then(|| random.below(4) as u32),
        strict: random.below(4) == 0,
        alias_of: (random.below(3) == 0).then(|| key(random.below(SESSIONS))).filter(|key| *key != ask.key),
        renew: random.below(3) == 0,
        ..ask
    }
}

fn step(random: &mut Random, pool: &PoolName, now: u64) -> Step {
    match random.below(20) {
        0 => Step::Expire(key(random.below(SESSIONS))),
        // Of now, or of before the history began.
        1 => Step::End(key(random.below(SESSIONS)), Millis(random.below(2) * HOUR)),
        2..4 => {
            let keys: Vec<u64> = (0..SESSIONS).filter(|_| random.below(2) == 0).collect();
            Step::Touch(keys.into_iter().map(|number| (key(number), said(random))).collect())
        }
        4 if random.below(3) == 0 => Step::Forget(node(random.below(NODES))),
        4..8 => {
            let mut change = NodeChange::default();
            match random.below(5) {
                // All but standby, the last.
                4 => change.self_state = Some(NodeState::ALL[random.below(3) as usize].1),
                0 => change.state = Some(NodeState::ALL[random.below(4) as usize].1),
                1 => change.boot_id = Some(format!("boot-{}", random.below(3))),
                2 => change.weight = Some(1 + random.below(3) as u32),
                // Rarely endless: only forgetting the node ends it.
                _ => change.cooldown_until_ms = Some(if random.below(4) == 0 { FAR } else { 1 }),
            }
            Step::Node(node(random.below(NODES)), change)
        }
        _ => {
            let first = random.below(SESSIONS);
            let count = 1 + random.below(SESSIONS);
            let sessions = (0..count).map(|i| {
                let key = key((first + i) % SESSIONS);
                let ask = SessionAsk::new(key, random.nodes(1, 3), random.nodes(0, 2));
                lasting(random, ask, now)
            });
            let request = ResolveRequest {
                pool: pool.clone(),
                region: None,
                sessions: sessions.collect(),
                panic: random.below(5) == 0,
                correlation_id: None,
            };
            let said = request.sessions.iter().map(|_| said(random)).collect();
            Step::Resolve(request, said)
        }
    }
}

/// What each step of a history was answered, in words that can be compared.
async fn play(
    store: &dyn Store,
    pool: &PoolName,
    history: &[Step],
    expire: &dyn Fn(SessionKey),
    now: u64,
) -> (Vec<String>, Versions) {
    let mut answers = Vec::new();
    let mut law = Law { now, ..Law::default() };
    for step in history {
        answers.push(match step {
            Step::Resolve(request, said) => {
                let mut request = request.clone();
                for (ask, said) in request.sessions.iter_mut().zip(said) {
                    ask.known = law.versions.said(ask.key, said);
                }
                let mut pins = store.resolve(&request).await.unwrap();
                law.resolved(&request, &pins);
                for pin in &mut pins {
                    let owned = pin.owned_ms.take().unwrap();
                    assert!(
                        (owned <= HALF || pin.version == 0)
                            && (owned == 0 || pin.outcome != Outcome::Rehomed)
                    );
                    pin.ttl_ms = pin.ttl_ms.map(|life| life / HOUR);
                    pin.version = law.versions.rank(pin.key, pin.version);
                }
                format!("{pins:?}")
            }
            Step::Touch(keys) if keys.is_empty() => String::new(),
            Step::Touch(sessions) => {
                let mut request = TouchRequest { pool: pool.clone(), keys: vec![], pins: vec![] };
                for (key, said) in sessions {
                    match law.versions.said(*key, said) {
                        Some(known) => {
                            let lives_ms = (*key == self::key(0)).then_some(7 * HOUR + HALF);
                            request.pins.push(TouchedPin { key: *key, known, lives_ms });
                        }
                        None => request.keys.push(*key),
                    }
                }
                let mut reply = store.touch(&request).await.unwrap();
                reply.missing.sort();
                reply.changed.sort();
                reply.written.sort();
                for key in law.touched(&request, &reply) {
                    let pin = store.session(pool, key).await.unwrap().unwrap();
                    law.went_back(key, pin.version, &pin.node);
                }
                reply.ttls_ms.values_mut().for_each(|life| *life /= HOUR);
                // Of one whose life is not known what is left of it is said, a moment less than all.
                reply.ttls_ms.retain(|_, hours| *hours != KEEPING.ttl.0 / HOUR);
                format!("{reply:?}")
            }
            Step::Expire(key) => {
                expire(*key);
                law.pins.remove(key);
                law.claims.remove(key);
                law.rewritten.remove(key);
                String::new()
            }
            Step::End(key, ago) => {
                let ended = store.end(pool, *key, *ago, None).await.unwrap().outcome;
                law.ended(*key, *ago, ended);
                ended.to_string()
            }
            Step::Node(node, change) => {
                let mut record = store.change_node(pool, node.clone(), change).await.unwrap().outcome;
                record.updated_ms = 0;
                law.cooling.extend((record.cooldown_until_ms == Some(FAR)).then_some(node.clone()));
                format!("{record:?}")
            }
            Step::Forget(node) => {
                law.cooling.remove(node);
                store.forget_node(pool, node.clone(), None).await.unwrap().outcome.to_string()
            }
        });
    }
    let mut records = store.nodes(pool).await.unwrap();
    records.iter_mut().for_each(|record| record.updated_ms = 0);
    answers.push(format!("{records:?}"));
    for number in 0..SESSIONS {
        let pin = store.session(pool, key(number)).await.unwrap();
        let known = pin.as_ref().map(|pin| Known {
            node: pin.node.clone(),
            version: pin.version,
            session_version: pin.session_version.unwrap_or(0),
            ttl: pin.idle_ttl_ms.unwrap(),
            ends: pin.ends_ms,
            alias_of: pin.alias_of,
        });
        assert_eq!(known.as_ref(), law.pins.get(&key(number)));
        let known =
            known.map(|known| Known { version: law.versions.rank(key(number), known.version), ..known });
        let rest = pin.map(|pin| (pin.owner.version, pin.created_ms, pin.ttl_ms / HOUR));
        answers.push(format!("{known:?} {rest:?}"));
    }
    (answers, law.versions)
}

/// The pins of each session that were answered or said, in that order, each once; and those that were answered and not stored,
/// which no proxy keeps.
#[derive(Default)]
struct Versions {
    seen: BTreeMap<SessionKey, Vec<KnownPin>>,
    not_stored: BTreeSet<(SessionKey, u64)>,
    /// After how many ends each version was given out.
    given: BTreeMap<(SessionKey, u64), usize>,
    ends: usize,
}

impl Versions {
    fn note(&mut self, key: SessionKey, pin: KnownPin) {
        self.given.entry((key, pin.version)).or_insert(self.ends);
        let seen = self.seen.entry(key).or_default();
        if let Some(same) = seen.iter().find(|seen| seen.version == pin.version) {
            assert_eq!(same.node, pin.node, "a version is given to two nodes");
        } else {
            seen.push(pin);
        }
    }

    fn highest(&self, key: SessionKey) -> u64 {
        self.seen.get(&key).into_iter().flatten().map(|pin| pin.version).max().unwrap_or(0)
    }

    fn said(&mut self, key: SessionKey, said: &Said) -> Option<KnownPin> {
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
    fn rank(&self, key: SessionKey, version: u64) -> u64 {
        if version == 0 {
            return 0;
        }
        self.seen[&key].iter().position(|seen| seen.version == version).unwrap() as u64 + 1
    }
}

/// What must hold whatever happens.
#[derive(Default)]
struct Law {
    versions: Versions,
    pins: BTreeMap<SessionKey, Known>,
    /// Those whose pin no one had known before.
    claims: BTreeSet<SessionKey>,
    /// Those that a touch has written again, and how long they live: no request has said the rest since.
    rewritten: BTreeMap<SessionKey, u64>,
    /// Those whose end found no pin.
    ended_without: BTreeSet<SessionKey>,
    /// Those that have begun again since their end.
    begun: BTreeSet<SessionKey>,
    /// Those that ended, with the number of that end.
    remembered: BTreeMap<SessionKey, usize>,
    /// Those of which the end is remembered, though it is older than all that is known of them.
    remembered_late: BTreeSet<SessionKey>,
    /// In cooldown until the node's record is forgotten.
    cooling: BTreeSet<NodeId>,
    now: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    node: NodeId,
    version: u64,
    session_version: u32,
    ttl: u64,
    ends: Option<u64>,
    alias_of: Option<SessionKey>,
}

impl Known {
    /// How long it lives: time went on since the histories began.
    fn lives(&self, life: u64, now: u64) {
        self.lives_at_most(self.ttl, life, now);
    }

    /// The same of one that was claimed for so long, or of any that is used.
    fn lives_at_most(&self, most: u64, life: u64, now: u64) {
        let idle = self.ttl.min(most);
        let expected = self.ends.map_or(idle, |ends| idle.min(ends.saturating_sub(now)));
        assert!(life <= expected && expected - life <= HALF, "{self:?} lives {life}");
    }
}

impl Law {
    fn cools(&self, node: &NodeId) -> bool {
        self.cooling.contains(node)
    }

    fn resolved(&mut self, request: &ResolveRequest, pins: &[Pin]) {
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
    fn remake(&mut self, key: SessionKey, known: Option<&KnownPin>) {
        if let Some(known) = known.filter(|known| !self.is_over(key, known)) {
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
    fn recover(&mut self, key: SessionKey, known: Option<&KnownPin>) {
        if let (Some(pin), Some(known)) = (self.pins.get_mut(&key), known)
            && known.version > pin.version
        {
            (pin.node, pin.version) = (known.node.clone(), known.version);
            self.claims.remove(&key);
        }
    }

    /// What is known of a session is of before its end.
    fn is_over(&self, key: SessionKey, known: &KnownPin) -> bool {
        self.remembered.get(&key).is_some_and(|end| self.versions.given[&(key, known.version)] < *end)
    }

    /// Who knows an earlier pin of a session that was claimed since, and did not end, has it go back.
    fn is_earlier(&self, key: SessionKey, known: &KnownPin) -> bool {
        let is_claim = self.claims.contains(&key) && !self.is_over(key, known);
        let is_other = |pin: &Known| known.version < pin.version && known.node != pin.node;
        is_claim && self.pins.get(&key).is_some_and(is_other)
    }

    fn went_back(&mut self, key: SessionKey, version: u64, node: &NodeId) {
        assert!(version > self.versions.highest(key));
        self.versions.note(key, KnownPin { version, node: node.clone() });
        self.claims.remove(&key);
        let pin = self.pins.get_mut(&key).unwrap();
        (pin.node, pin.version) = (node.clone(), version);
    }

    /// An end found no pin: an earlier one may have, unless the session began again in between.
    fn found_none(&mut self, key: SessionKey) {
        let was_ended = self.remembered.contains_key(&key) || self.remembered_late.contains(&key);
        if self.begun.remove(&key) || !was_ended {
            self.ended_without.insert(key);
        }
    }

    /// Returns those that went back to an earlier node.
    fn touched(&mut self, request: &TouchRequest, reply: &TouchReply) -> Vec<SessionKey> {
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

    fn ended(&mut self, key: SessionKey, ago: Millis, ended: bool) {
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
                Some(_) => _ = self.ended_without.remove(&key),
                None => self.found_none(key),
            }
            self.begun.remove(&key);
            next = before.as_ref().and_then(|before| before.alias_of);
            self.remembered.insert(key, self.versions.ends);
        }
    }
}

/// The log, without what differs by nature: cursors, times, and the order between sessions.
async fn log(
    store: &dyn Store,
    pool: &PoolName,
    start: &berth_core::wire::Cursor,
    versions: &Versions,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut cursor = start.clone();
    loop {
        let reply = store.changes(pool, &cursor, 1000).await.unwrap();
        assert!(!reply.resync);
        if reply.events.is_empty() {
            break;
        }
        lines.extend(reply.events.into_iter().map(|event| {
            assert!(event.kind != ChangeKind::Unknown);
            let state = event
                .record
                .map(|record| (record.state, record.boot_id, record.cooldown_until_ms, record.forgotten));
            let version = match event.key {
                // Of an end without a pin it is the end's own.
                Some(_) if event.kind == ChangeKind::Ended && event.node.is_none() => {
                    event.version.map(|version| u64::from(version > 0))
                }
                Some(key) => event.version.map(|version| versions.rank(key, version)),
                None => event.version,
            };
            let about = (event.key, event.node, version);
            let raised = event.session_version;
            format!("{about:?} {:?} {:?} {:?} {raised:?} {state:?}", event.kind, event.from, event.reason)
        }));
        cursor = reply.cursor;
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn memory_and_redis_agree_on_every_history() {
    let server = RedisServer::start(&[]);
    let options = Options {
        urls: vec![server.url()],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_secs(5),
        keeping: KEEPING,
    };
    let redis = Redis::open(&options).unwrap();
    let raw = redis::Client::open(server.url()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let memory = Memory::new(KEEPING, Arc::new(move || Millis(now)));

    for seed in 0..HISTORIES {
        let pool: PoolName = format!("model-{seed}").parse().unwrap();
        let mut random = Random(seed);
        let history: Vec<Step> = (0..STEPS).map(|_| step(&mut random, &pool, now)).collect();
        let starts = (memory.head(&pool).await.unwrap(), redis.head(&pool).await.unwrap());

        let (in_memory, of_memory) =
            play(&memory, &pool, &history, &|key| memory.expire(&pool, key), now).await;
        let (in_redis, of_redis) = play(
            &redis,
            &pool,
            &history,
            &|key| {
                // What expiry does, at the history's moment.
                let mut connection = raw.get_connection().unwrap();
                redis::cmd("DEL").arg(Redis::pin_key(&pool, key)).exec(&mut connection).unwrap();
            },
            now,
        )
        .await;

        for (turn, (memory, redis)) in in_memory.iter().zip(&in_redis).enumerate() {
            assert_eq!(memory, redis, "seed {seed}, step {turn}: {:?}", history.get(turn));
        }
        let in_memory = log(&memory, &pool, &starts.0, &of_memory).await;
        let in_redis = log(&redis, &pool, &starts.1, &of_redis).await;
        assert_eq!(in_memory, in_redis, "seed {seed}");
    }
}
