//! Resolving: what `redis/scripts/resolve.lua` and `raise.lua` do there.

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, Event, KnownPin, NodeId, Outcome, Pin, Reason, ResolveRequest, SessionAsk, SessionKey,
    TouchedPin,
};

use super::{Live, Pool};
use crate::store::Keeping;
use crate::store::claims::{Claims, FORMER_UNKNOWN, Former, UNSAID, other_than};
use crate::store::placing::{Placing, place};
use crate::store::versions;

impl Pool {
    /// What a session that comes under a new key has under the former one.
    pub(super) fn former(&self, ask: &SessionAsk, now: Millis) -> Option<Former> {
        let key = ask.alias_of?;
        let pin = self.live(key, now)?;
        Some(Former {
            key,
            node: pin.node.clone(),
            version: pin.version,
            session_version: pin.claims.session_version,
            boot_id: pin.boot_id.clone(),
        })
    }

    pub(super) fn resolve(
        &mut self,
        ask: &SessionAsk,
        former: Option<&Former>,
        request: &ResolveRequest,
        keeping: &Keeping,
        now: Millis,
        life: u64,
    ) -> Pin {
        let key = ask.key;
        let known = ask.known.as_ref().filter(|known| versions::is_plausible(known.version, now));
        // Written again since it was lost, or now: of what was said of the session beside its node nothing is known.
        let mut is_partly_known = false;
        if let Some(pin) = self.live_mut(key, now).filter(|pin| pin.claimed == UNSAID) {
            // Now the rest is said.
            (is_partly_known, pin.claimed) = (true, FORMER_UNKNOWN);
        }
        if let Some(known) = known {
            let may_stay = |pool: &Self| {
                request.panic || !ask.unusable.contains(&known.node) && !pool.is_cooling(&known.node, now)
            };
            self.compare(key, known, may_stay, keeping, now, life);
        }
        let there = self.live(key, now).cloned();
        let ended = self.ended(key, now);
        let is_over = |known: &&KnownPin| ended.is_some_and(|ended| known.version <= ended);
        let has_begun_again = self.pins.get(&key).is_some_and(|entry| entry.has_begun_again);
        let is_over_here = known.as_ref().map_or(ended.is_some() && !has_begun_again, is_over);
        if ask.renew && there.is_none() && is_over_here {
            let version = known.map_or(0, |known| known.version);
            let node = known.map(|known| &known.node).or(ask.candidates.first());
            let node = node.unwrap_or_else(|| unreachable!("a request has candidates")).clone();
            return answer_only(ask, node, version, now.since(versions::time_of(version, now)));
        }
        // Else that is of its former life.
        let known = known.filter(|known| !is_over(known));
        // So is the pin of its former key: that it had one was lost with its own pin, or it would have ended too.
        let ended_without = self.pins.get(&key).is_some_and(|entry| entry.ended_without);
        let is_over_too =
            |former: &&Former| ended.is_some_and(|ended| former.version <= ended) && ended_without;
        let former = former.filter(|former| there.is_some() || !is_over_too(former));
        // The whole pin was lost. It is as if it were there: who knows it has nothing to learn.
        let is_lost = there.is_none() && known.is_some();
        is_partly_known |= is_lost;
        let mut there = there.or_else(|| known.map(|known| lost(known, now)));
        if let (Some(pin), Some(former)) = (&mut there, ask.alias_of)
            && pin.claimed == FORMER_UNKNOWN
        {
            // What it had inherited was lost with it.
            pin.claims.alias_of = Some(former);
            pin.claimed = claimed_before(pin.owned, pin.owned);
        }
        self.advance(known, now);
        let owner = there.as_ref().map(|pin| pin.node.clone());
        let former_node = former.map(|former| &former.node);
        let placing =
            place(owner.as_ref(), former_node, ask, request.panic, now.0, |node| self.nodes.get(node));
        let mut moved = None;
        let (node, outcome, inherited) = match placing {
            Placing::Claim(node) if ask.find_only => return answer_only(ask, node, 0, Millis(0)),
            Placing::Claim(node) => (node, Outcome::Claimed, None),
            Placing::Inherit(node) => (node, Outcome::Found, former),
            Placing::Rehome(node, reason) => {
                // From the former key's node, or to it.
                let inherited = former.filter(|former| owner.is_none() || former.node == node);
                moved = owner.or_else(|| former_node.cloned()).map(|from| (from, reason));
                (node, Outcome::Rehomed, inherited)
            }
            Placing::Keep => {
                let owner = owner.unwrap_or_else(|| unreachable!("a request has candidates"));
                (owner, Outcome::Found, None)
            }
        };

        let is_new = there.is_none();
        let boot_id = self.boot_id(&node);
        let mut pin = there.unwrap_or_else(|| Live {
            node: node.clone(),
            version: 0,
            claimed: now,
            owned: now,
            boot_id: inherited.map_or_else(|| boot_id.clone(), |former| former.boot_id.clone()),
            claims: Claims::default(),
            expires: now,
        });
        let before = pin.claims;
        pin.claims = before.with(ask, former);
        pin.claims.alias_of = inherited.map(|former| former.key).or(before.alias_of);
        let lives = match outcome {
            Outcome::Claimed => pin.claims.life_of_claim(ask, keeping.ttl, now),
            Outcome::Found | Outcome::Rehomed => pin.claims.life(keeping.ttl, now),
        };
        pin.expires = now + lives;
        if is_new || moved.is_some() {
            let of_former = inherited.map(|former| former.version);
            let known = [Some(pin.version), Some(self.latest_version), ended, of_former];
            pin.version = versions::next(known.into_iter().flatten(), now);
            self.latest_version = pin.version;
        }
        if let Some((from, reason)) = &moved {
            (pin.node, pin.owned) = (node.clone(), now);
            pin.boot_id.clone_from(&boot_id);
            self.log_of(life, keeping, now, (key, &pin), request, |event| {
                event.kind = ChangeKind::Rehomed;
                event.from = Some(from.clone());
                event.reason = *reason;
            });
        } else if !is_new && !is_lost && pin.claims.session_version > before.session_version {
            self.log_of(life, keeping, now, (key, &pin), request, |event| {
                event.kind = ChangeKind::Superseded;
                event.session_version = Some(pin.claims.session_version);
                event.reason = Reason::Raised;
            });
        } else if !is_new && !is_partly_known && lives < before.life(keeping.ttl, now) {
            self.log_of(life, keeping, now, (key, &pin), request, |event| {
                event.kind = ChangeKind::Superseded;
                event.reason = Reason::Shortened;
            });
        }

        if outcome == Outcome::Rehomed || is_new && outcome == Outcome::Found {
            pin.claimed = claimed_before(pin.owned, pin.claimed);
        }
        let restore = matches!((&pin.boot_id, &boot_id), (Some(then), Some(now)) if then != now);
        pin.boot_id = boot_id.or(pin.boot_id);
        let answer = Pin {
            key,
            node,
            version: pin.version,
            outcome,
            from: moved.map(|(from, _)| from),
            restore,
            durable: None,
            ttl_ms: other_than(keeping.ttl, lives),
            session_version: Some(pin.claims.session_version).filter(|version| *version > 0),
            owned_ms: Some(now.since(pin.owned).0),
        };
        if lives > Millis(0) {
            if is_new || is_lost {
                self.sweep(now);
            }
            let entry = self.pins.entry(key).or_default();
            entry.live = Some(pin);
            entry.has_begun_again |= is_new;
        } else if let Some(entry) = self.pins.get_mut(&key) {
            entry.live = None;
        }
        answer
    }

    /// The version that a session had when it was ended, if that is remembered.
    fn ended(&self, key: SessionKey, now: Millis) -> Option<u64> {
        self.pins.get(&key)?.ended(now).map(|(version, _)| version)
    }

    /// What is given out from now on is newer than what a proxy knows.
    pub(super) fn advance(&mut self, known: Option<&KnownPin>, now: Millis) {
        if let Some(known) = known.filter(|known| versions::is_plausible(known.version, now)) {
            self.latest_version = self.latest_version.max(known.version);
        }
    }

    /// Whether a node is in cooldown.
    pub(super) fn is_cooling(&self, node: &NodeId, now: Millis) -> bool {
        self.nodes.get(node).is_some_and(|record| record.is_in_cooldown(now.0))
    }

    /// Compares a pin that is there with what a proxy knows. If that is newer, a write of it was lost, and it is written again. If
    /// both are claims and that is the earlier one, it was lost too, and the session goes back if `may_stay` there: the later
    /// claim's node began without its state. Unless the session ended in between, or the later claim is long ago.
    ///
    /// False if the pin is another than is known.
    pub(super) fn compare(
        &mut self,
        key: SessionKey,
        known: &KnownPin,
        may_stay: impl FnOnce(&Self) -> bool,
        keeping: &Keeping,
        now: Millis,
        life: u64,
    ) -> bool {
        let Some(pin) = self.live(key, now) else { return true };
        if (known.version, &known.node) == (pin.version, &pin.node) {
            return true;
        }
        if !versions::is_plausible(known.version, now) {
            return false;
        }
        let is_newer = known.version > pin.version;
        let is_claim = pin.claimed == pin.owned;
        let is_earlier = known.version < pin.version
            && is_claim
            && known.node != pin.node
            && versions::is_contested(pin.owned, keeping.ttl, now)
            && self.ended(key, now).is_none_or(|ended| known.version > ended)
            && may_stay(self);
        if !is_newer && !is_earlier {
            return false;
        }
        // A version has one node: the one that it had is another by now if the claim was seen.
        let known_versions = [pin.version, self.latest_version];
        let version = if is_earlier { versions::next(known_versions, now) } else { known.version };
        self.latest_version = self.latest_version.max(version);
        let boot_id = self.boot_id(&known.node);
        let Some(pin) = self.live_mut(key, now) else { return true };
        let from = std::mem::replace(&mut pin.node, known.node.clone());
        (pin.version, pin.owned) = (version, versions::time_of(known.version, now));
        pin.claimed = claimed_before(pin.owned, pin.claimed);
        if pin.claims.alias_of.is_none() && pin.claimed != UNSAID {
            // What it had inherited was lost with it.
            pin.claimed = FORMER_UNKNOWN;
        }
        if from != pin.node {
            pin.boot_id = boot_id;
            self.log(life, keeping, now, |event| {
                event.kind = ChangeKind::Rehomed;
                event.key = Some(key);
                event.node = Some(known.node.clone());
                event.from = Some(from);
                event.version = Some(version);
                event.reason = Reason::Recovered;
            });
        }
        is_newer
    }

    /// Writes a pin again that a proxy knows and that was lost, unless its session has ended. For how long, if so.
    pub(super) fn write_again(&mut self, said: &TouchedPin, ttl: Millis, now: Millis) -> Option<Millis> {
        let TouchedPin { key, known, lives_ms } = said;
        if !versions::is_plausible(known.version, now) || self.live(*key, now).is_some() {
            return None;
        }
        self.advance(Some(known), now);
        let life = lives_ms.map_or(ttl, Millis);
        let is_over = self.ended(*key, now).is_some_and(|ended| known.version <= ended);
        if is_over || life == Millis(0) {
            return None;
        }
        self.sweep(now);
        // How long the session lives is not known until a request says so.
        let boot_id = self.boot_id(&known.node);
        let pin = Live { claimed: UNSAID, boot_id, expires: now + life, ..lost(known, now) };
        self.pins.entry(*key).or_default().live = Some(pin);
        Some(life)
    }

    /// A former key's pin learns a higher session version; that is no use of it.
    pub(super) fn raise(
        &mut self,
        former: &Former,
        to: u32,
        request: &ResolveRequest,
        keeping: &Keeping,
        now: Millis,
        life: u64,
    ) {
        let Some(pin) = self.live_mut(former.key, now) else { return };
        if pin.claims.session_version < to {
            pin.claims.session_version = to;
            let pin = pin.clone();
            self.log_of(life, keeping, now, (former.key, &pin), request, |event| {
                event.kind = ChangeKind::Superseded;
                event.session_version = Some(to);
                event.reason = Reason::Rotated;
            });
        }
    }

    /// A change of a session that a resolve made.
    fn log_of(
        &mut self,
        life: u64,
        keeping: &Keeping,
        now: Millis,
        (key, pin): (SessionKey, &Live),
        request: &ResolveRequest,
        fill: impl FnOnce(&mut Event),
    ) {
        self.log(life, keeping, now, |event| {
            event.key = Some(key);
            event.node = Some(pin.node.clone());
            event.version = Some(pin.version);
            event.correlation_id.clone_from(&request.correlation_id);
            fill(event);
        });
    }
}

/// A pin of which all that is known is what a proxy says.
fn lost(known: &KnownPin, now: Millis) -> Live {
    let owned = versions::time_of(known.version, now);
    Live {
        node: known.node.clone(),
        version: known.version,
        claimed: FORMER_UNKNOWN,
        owned,
        boot_id: None,
        claims: Claims::default(),
        expires: now,
    }
}

/// When the session was claimed, of one that its node got later: by a rehome, or as far as a proxy knows. Only of a claim both are
/// the same time.
fn claimed_before(owned: Millis, claimed: Millis) -> Millis {
    claimed.min(Millis(owned.0.saturating_sub(1)))
}

/// Nothing is stored of a session that may not begin now, or ended since it was known: its node, and the version that is known of it.
/// Without one, who receives it cannot begin it.
fn answer_only(ask: &SessionAsk, node: NodeId, version: u64, owned: Millis) -> Pin {
    Pin {
        key: ask.key,
        node,
        version,
        outcome: Outcome::Found,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: Some(0),
        session_version: ask.session_version.filter(|version| *version > 0),
        owned_ms: Some(owned.0),
    }
}
