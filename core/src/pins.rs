//! The pins one VM remembers of one pool: a bounded cache, so that a session's second request needs no call.
//!
//! It keeps what the state cluster said, or the ring in its absence, and orders it by use. It decides neither who
//! owns a session nor whether a node may serve: the caller looks at the node's state. Three things ask for a pin: a
//! request (by a quick keyed hash of the session id), the changes feed (by the key that leaves the proxy), and the
//! touch that keeps sessions alive in the store (in passing). So an entry is in two indexes and bears both keys.
//!
//! Memory of a full cache, per pin: 56 bytes of entry and 2 × 6 of index, 6.8 MB for 100,000. Everything takes constant
//! time, but for the doubling of an index on the way there.
//!
//! ```
//! use berth_core::changelog::digest;
//! use berth_core::pins::{Kind, Limits, Lookup, Pin, Pins, WireKey};
//! use berth_core::time::Millis;
//!
//! let mut pins = Pins::new(Limits::default(), 0x5eed);
//! pins.adopt(["10.0.0.1:80", "10.0.0.2:80"].into_iter());
//! let (key, wire, now) = (pins.key(b"alice"), WireKey([7; 16]), Millis(1_000));
//! assert_eq!(pins.get(key, now), Lookup::Absent);
//!
//! let node = "10.0.0.2:80";
//! let (expires, kind) = (Millis(1_801_000), Kind::Settled);
//! let pin = Pin { node, version: 1, expires, is_doubted: false, kind, session_version: 0 };
//! pins.insert(key, wire, pin);
//! let Lookup::Fresh(pin) = pins.get(key, now) else { panic!() };
//! assert_eq!(pins.member(pin.node), Some(1));
//!
//! assert!(pins.due_for_touch(now, 100).is_empty());
//! assert_eq!(pins.due_for_touch(Millis(61_000), 100)[0].wire, wire);
//! assert!(pins.outdate(wire, 2, digest("10.0.0.1:80")));
//! ```

mod expiry;
mod hand;
mod in_use;
mod index;
mod key;
mod nodes;
mod slab;

use std::cmp::Ordering;

use crate::changelog::digest;
use crate::time::Millis;
use crate::wire::TOUCH_INTERVAL;

pub use expiry::{Saying, Touched};
pub use in_use::{InUse, InUseHandle};
pub use key::{PinKey, WireKey};
pub use nodes::NodeRef;

use hand::Hand;
use index::Index;
use nodes::Nodes;
use slab::{Entry, Slab};

/// Which node holds a session, and how sure that is. `N` is a name on the way in and a number on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin<N = NodeRef> {
    /// The node.
    pub node: N,
    /// Grows with each change of the owner; 0 if the state cluster has never spoken. So a provisional pin with a version is where
    /// the session was when it last did.
    pub version: u64,
    /// From then on it is only a hint, since the session may have expired in the store.
    pub expires: Millis,
    /// It is only a hint already: something else may have happened to the session.
    pub is_doubted: bool,
    /// Whose word it is.
    pub kind: Kind,
    /// The highest version of its token that is known; 0 if it has none.
    pub session_version: u32,
}

/// The version of a pin that no store has given: the session's node named it while the state cluster was away. Services of before gave it
/// too.
pub const MINTED: u64 = 1;

impl Pin {
    /// Whether the store must have this pin, or has lost it: it was there, and cannot have expired since.
    #[must_use]
    pub fn is_believed(&self, now: Millis) -> bool {
        self.kind != Kind::Provisional && now < self.expires
    }
}

/// Whose word a pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The state cluster's.
    Settled,
    /// The ring's, while the state cluster was away.
    Provisional,
    /// The state cluster's, but the node vanished and another one served the session meanwhile: see [`Pins::return_home`].
    Away,
}

/// What the cache knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A pin that holds.
    Fresh(Pin),
    /// A pin past its time, or in doubt: ask, and if no answer comes prefer its node to the ring's.
    Stale(Pin),
    /// Nothing.
    Absent,
}

/// How large a cache may become and how often it has sessions touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pins at most; beyond 16,777,214 it is that.
    pub entries: usize,
    /// All memory together, names of nodes included. Whichever limit is reached first holds.
    pub bytes: usize,
    /// A session in use is touched once in this time.
    pub touch_interval: Millis,
}

impl Default for Limits {
    /// 100,000 sessions in 8 MB; a touch a minute is 30 within the store's default time to live.
    fn default() -> Self {
        Self { entries: 100_000, bytes: 8_000_000, touch_interval: Millis(TOUCH_INTERVAL) }
    }
}

/// The share of the bytes that names of nodes may take: of 8 MB, enough for 6,000.
const NODES_SHARE: usize = 16;
/// The cache itself, and what rounds up in a small one.
const FIXED_BYTES: usize = 1_024;
/// 56 of entry and 12 of index, and its share of the list of chunks.
const BYTES_PER_PIN: usize = 69;

/// The cache.
#[derive(Debug, Clone)]
pub struct Pins {
    slab: Slab,
    by_key: Index,
    by_wire: Index,
    nodes: Nodes,
    seed: u64,
    hand: Hand,
    dropped: u64,
    looked: Millis,
}

impl Pins {
    /// An empty cache that allocates as it fills. The seed must be random and the VM's own.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        let for_nodes = limits.bytes / NODES_SHARE;
        let for_pins = (limits.bytes - for_nodes).saturating_sub(FIXED_BYTES) / BYTES_PER_PIN;
        let capacity = limits.entries.min(for_pins).min(index::MAX_SLOTS as usize - 1);
        Self {
            slab: Slab::new(u32::try_from(capacity).unwrap_or(0)),
            by_key: Index::default(),
            by_wire: Index::default(),
            nodes: Nodes::new(for_nodes),
            seed,
            hand: Hand::new(limits.touch_interval),
            dropped: 0,
            looked: Millis(0),
        }
    }

    /// The key of a session id.
    #[must_use]
    pub fn key(&self, id: &[u8]) -> PinKey {
        PinKey::of(self.seed, id)
    }

    /// What is known of a session that is being used now.
    pub fn get(&mut self, key: PinKey, now: Millis) -> Lookup {
        let Some(slot) = self.find(key) else { return Lookup::Absent };
        let Some(entry) = self.slab.get_mut(slot) else { return Lookup::Absent };
        entry.mark_used();
        let Some(pin) = entry.pin() else { return Lookup::Absent };
        self.slab.keep(slot);
        if now < pin.expires && !pin.is_doubted { Lookup::Fresh(pin) } else { Lookup::Stale(pin) }
    }

    /// Remembers a pin, in place of whatever was known of the session; a full cache gives up one that was never asked for
    /// again, else the one longest unused. `None`, and the session is unknown, if it cannot be kept: no capacity, or no room for one
    /// more node's name.
    pub fn insert(&mut self, key: PinKey, wire: WireKey, pin: Pin<&str>) -> Option<NodeRef> {
        let Some(node) = self.nodes.intern(pin.node) else {
            self.remove(key);
            self.remove_by_wire(wire);
            self.dropped += 1;
            return None;
        };
        // Held before the old pin goes: that may be the node's only one.
        self.nodes.retain(node);
        let Pin { version, expires, is_doubted, kind, session_version, .. } = pin;
        let pin = Pin { node, version, expires, is_doubted, kind, session_version };
        let (by_key, by_wire) = (self.find(key), self.find_wire(wire));
        if let Some(slot) = by_key
            && by_wire == by_key
            && let Some(entry) = self.slab.get_mut(slot)
        {
            let before = entry.pin();
            entry.set_pin(pin);
            self.slab.renew(slot);
            if let Some(before) = before {
                self.nodes.release(before.node);
            }
            return Some(node);
        }
        // One id has one key on the wire, so two entries here mean a caller at fault: the latest word stands.
        for slot in [by_key, by_wire].into_iter().flatten() {
            self.discard(slot);
        }
        self.add(Entry::new(key, wire, pin)).then_some(node).or_else(|| {
            self.nodes.release(node);
            None
        })
    }

    /// The key that leaves the proxy, of a session that is known.
    #[must_use]
    pub fn wire(&self, key: PinKey) -> Option<WireKey> {
        self.slab.get(self.find(key)?).map(Entry::wire)
    }

    /// Forgets a session.
    pub fn remove(&mut self, key: PinKey) -> Option<Pin> {
        self.find(key).and_then(|slot| self.discard(slot))
    }

    /// Forgets a session that the changes feed names.
    pub fn remove_by_wire(&mut self, wire: WireKey) -> Option<Pin> {
        self.find_wire(wire).and_then(|slot| self.discard(slot))
    }

    /// Forgets a session if what is known of it is older than `version`, or as old and of another node than the one with this
    /// [`digest`]; an event that comes late does no harm.
    pub fn outdate(&mut self, wire: WireKey, version: u64, node: u64) -> bool {
        let Some(slot) = self.find_wire(wire) else { return false };
        let Some(pin) = self.slab.get(slot).and_then(Entry::pin) else { return false };
        let is_news = match pin.version.cmp(&version) {
            Ordering::Less => true,
            Ordering::Equal => self.nodes.name(pin.node).is_none_or(|name| digest(name) != node),
            Ordering::Greater => false,
        };
        is_news && self.discard(slot).is_some()
    }

    /// The node has vanished for now, and another one serves the session.
    pub fn send_away(&mut self, key: PinKey) {
        self.change(self.find(key), |pin| {
            (pin.kind == Kind::Settled).then_some(Pin { kind: Kind::Away, ..pin })
        });
    }

    /// The node is back and serves the session. True if another one had served it meanwhile.
    pub fn return_home(&mut self, key: PinKey) -> bool {
        self.change(self.find(key), |pin| {
            (pin.kind == Kind::Away).then_some(Pin { kind: Kind::Settled, ..pin })
        })
    }

    /// Takes note of the members of a new snapshot, in its order. Pins of others stay: who asks for them sees that
    /// their node is no [`Self::member`].
    pub fn adopt<'m>(&mut self, members: impl Iterator<Item = &'m str> + Clone) {
        self.nodes.adopt(members);
    }

    /// The place of a pin's node in the latest snapshot adopted; `None` if it is not in it.
    #[must_use]
    pub fn member(&self, node: NodeRef) -> Option<usize> {
        self.nodes.member(node)
    }

    /// The name of a pin's node; `None` if the number is no longer known.
    #[must_use]
    pub fn name(&self, node: NodeRef) -> Option<&str> {
        self.nodes.name(node)
    }

    /// How many sessions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.used() as usize
    }

    /// True if no session is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many pins a limit cost since this was last asked: pushed out though they had not expired by then, or not kept at
    /// all. To be asked on each tick.
    pub fn take_dropped(&mut self, now: Millis) -> u64 {
        self.looked = now;
        std::mem::take(&mut self.dropped)
    }

    /// How many sessions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slab.capacity() as usize
    }

    /// All memory in use: the capacity of every allocation, and the cache itself.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.slab.memory_bytes()
            + self.by_key.memory_bytes()
            + self.by_wire.memory_bytes()
            + self.nodes.memory_bytes()
    }

    fn find(&self, key: PinKey) -> Option<u32> {
        self.by_key.find(key.hash(), |slot| self.slab.get(slot).is_some_and(|entry| entry.is(key)))
    }

    fn find_wire(&self, wire: WireKey) -> Option<u32> {
        let is = |slot| self.slab.get(slot).is_some_and(|entry| entry.wire() == wire);
        self.by_wire.find(wire.hash(self.seed), is)
    }

    fn add(&mut self, entry: Entry) -> bool {
        if self.slab.used() == self.slab.capacity()
            && let Some(oldest) = self.slab.oldest()
            && let Some(pin) = self.discard(oldest)
        {
            self.dropped += u64::from(pin.expires > self.looked);
        }
        self.grow_indexes();
        let Some(slot) = self.slab.add(entry) else {
            self.dropped += 1;
            return false;
        };
        self.by_key.insert(entry.key().hash(), slot);
        self.by_wire.insert(entry.wire().hash(self.seed), slot);
        true
    }

    fn change(&mut self, slot: Option<u32>, new: impl FnOnce(Pin) -> Option<Pin>) -> bool {
        let Some(entry) = slot.and_then(|slot| self.slab.get_mut(slot)) else { return false };
        entry.pin().and_then(new).map(|pin| entry.set_pin(pin)).is_some()
    }

    fn grow_indexes(&mut self) {
        let (slab, seed) = (&self.slab, self.seed);
        if let Some(length) = self.by_key.wants_length(slab.used(), slab.capacity()) {
            self.by_key.rebuild(length, slab.iter().map(|(slot, entry)| (entry.key().hash(), slot)));
            self.by_wire.rebuild(length, slab.iter().map(|(slot, entry)| (entry.wire().hash(seed), slot)));
        }
    }

    /// Gives a slot up, and tells what was in it.
    fn discard(&mut self, slot: u32) -> Option<Pin> {
        let (slab, seed) = (&self.slab, self.seed);
        let entry = *slab.get(slot)?;
        let pin = entry.pin()?;
        let key_of = |slot| slab.get(slot).map_or(0, |entry| entry.key().hash());
        self.by_key.remove(entry.key().hash(), slot, key_of);
        let wire_of = |slot| slab.get(slot).map_or(0, |entry| entry.wire().hash(seed));
        self.by_wire.remove(entry.wire().hash(seed), slot, wire_of);
        self.slab.release(slot);
        self.nodes.release(pin.node);
        Some(pin)
    }
}

#[cfg(test)]
mod tests;
