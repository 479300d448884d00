//! What was said of a session beside where it should live: how long it lives, when it ends, its version, its former key.
//!
//! The memory store runs this; `redis/scripts/resolve.lua` is the same in Lua. `state/tests/model` holds the two together.

use berth_core::time::Millis;
use berth_core::wire::{NodeId, SessionAsk, SessionKey};

/// In the place of the time of a claim: a touch wrote the lost pin again, and no request has said anything since.
pub const UNSAID: Millis = Millis(0);
/// The same: the pin was lost and written again, and no request has said yet what the session was called before.
pub const FORMER_UNKNOWN: Millis = Millis(1);

/// What is remembered of a session with its pin.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// How long it lives unused; absent is the service's own time.
    pub ttl: Option<Millis>,
    /// When it ends however much it is used.
    pub ends: Option<Millis>,
    /// When it began, by its token.
    pub created: Option<Millis>,
    /// The highest that was ever said.
    pub session_version: u32,
    /// The key whose pin it inherited.
    pub alias_of: Option<SessionKey>,
}

impl Claims {
    /// What is known after `ask`: of the idle time and the creation what was said last, of ends the earliest, of versions the
    /// highest, the former key's among them.
    #[must_use]
    pub fn with(self, ask: &SessionAsk, former: Option<&Former>) -> Self {
        let said = ask.session_version.unwrap_or(0).max(former.map_or(0, |former| former.session_version));
        Self {
            ttl: ask.ttl_ms.map(Millis).or(self.ttl),
            ends: self.ends.into_iter().chain(ask.ends_ms.map(Millis)).min(),
            created: ask.created_ms.map(Millis).or(self.created),
            session_version: self.session_version.max(said),
            alias_of: self.alias_of,
        }
    }

    /// How long a pin lives that `ask` claims.
    #[must_use]
    pub fn life_of_claim(&self, ask: &SessionAsk, ttl: Millis, now: Millis) -> Millis {
        let life = self.life(ttl, now);
        ask.claim_ttl_ms.map_or(life, |claim| life.min(Millis(claim)))
    }

    /// How long a pin lives that is used now; zero if its session has ended.
    #[must_use]
    pub fn life(&self, ttl: Millis, now: Millis) -> Millis {
        let idle = self.ttl.unwrap_or(ttl);
        self.ends.map_or(idle, |ends| idle.min(ends.since(now)))
    }
}

/// A life as replies say it: only where it is not the one that they say of all.
#[must_use]
pub fn other_than(ttl: Millis, life: Millis) -> Option<u64> {
    (life != ttl).then_some(life.0)
}

/// The pin under the key that a session had before its identifier was rotated, as it was when the request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// That key.
    pub key: SessionKey,
    /// Its owner.
    pub node: NodeId,
    /// The pin's version.
    pub version: u64,
    /// The highest that was ever said.
    pub session_version: u32,
    /// What the pin knew its owner's boot id to be.
    pub boot_id: Option<String>,
}
