//! Resolving: what `redis/scripts/resolve.lua` and `raise.lua` do there.

use berth_core::time::Millis;
use berth_core::wire::{ChangeKind, Event, Outcome, Pin, Reason, ResolveRequest, SessionAsk, SessionKey};

use super::{Entry, Live, Pool};
use crate::store::Keeping;
use crate::store::claims::{Claims, Former, other_than};
use crate::store::placing::{Placing, place};

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
        let there = self.live(key, now).cloned();
        let owner = there.as_ref().map(|pin| pin.node.clone());
        let former_node = former.map(|former| &former.node);
        let placing =
            place(owner.as_ref(), former_node, ask, request.panic, now.0, |node| self.nodes.get(node));
        let mut moved = None;
        let (node, outcome, inherited) = match placing {
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
            version: self.next_version(key, now).max(inherited.map_or(1, |former| former.version)),
            claimed: now,
            owned: now,
            boot_id: inherited.map_or_else(|| boot_id.clone(), |former| former.boot_id.clone()),
            claims: Claims::default(),
            expires: now,
        });
        let known = pin.claims;
        pin.claims = known.with(ask, former);
        pin.claims.alias_of = inherited.map(|former| former.key).or(known.alias_of);
        let lives = match outcome {
            Outcome::Claimed => pin.claims.life_of_claim(ask, keeping.ttl, now),
            Outcome::Found | Outcome::Rehomed => pin.claims.life(keeping.ttl, now),
        };
        pin.expires = now + lives;
        if let Some((from, reason)) = &moved {
            (pin.node, pin.version, pin.owned) = (node.clone(), pin.version + 1, now);
            pin.boot_id.clone_from(&boot_id);
            self.log_of(life, keeping, now, (key, &pin), request, |event| {
                event.kind = ChangeKind::Rehomed;
                event.from = Some(from.clone());
                event.reason = *reason;
            });
        } else if !is_new && pin.claims.session_version > known.session_version {
            self.log_of(life, keeping, now, (key, &pin), request, |event| {
                event.kind = ChangeKind::Superseded;
                event.session_version = Some(pin.claims.session_version);
                event.reason = Reason::Raised;
            });
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
            if is_new {
                self.sweep(now);
            }
            self.pins.insert(key, Entry::Live(pin));
        } else if !is_new {
            self.pins.remove(&key);
        }
        answer
    }

    /// The version of a pin that is not there.
    fn next_version(&self, key: SessionKey, now: Millis) -> u64 {
        match self.pins.get(&key) {
            Some(Entry::Ended(version, until)) if *until > now => version + 1,
            _ => 1,
        }
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
