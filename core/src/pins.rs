//! The pins one VM remembers of one pool: a bounded cache, so that a session's second request asks nobody.
//!
//! It keeps what the state cluster said, or the ring in its absence, and orders it by last use. It decides neither who
//! owns a session nor whether a node may serve: the caller looks at the node's state. Three things ask for a pin: a
//! request (by a quick keyed hash of the session id), the changes feed (by the key that leaves the proxy), and the
//! touch that keeps sessions alive in the store (in passing). So an entry is in two indexes and bears both keys.
//!
//! Memory of a full cache, per pin: 56 bytes of entry and 2 × 6 of index, 6.8 MB for 100,000. Everything takes constant
//! time, but for the doubling of an index on the way there.
//!
//! ```
//! use berth_core::pins::{Kind, Limits, Lookup, Pin, Pins, WireKey};
//! use berth_core::time::Millis;
//!
//! let mut pins = Pins::new(Limits::default(), 0x5eed);
//! pins.adopt(["10.0.0.1:80", "10.0.0.2:80"].into_iter());
//! let (key, wire, now) = (pins.key(b"alice"), WireKey([7; 16]), Millis(1_000));
//! assert_eq!(pins.get(key, now), Lookup::Absent);
//!
//! let pin = Pin { node: "10.0.0.2:80", version: 1, expires: Millis(1_801_000), kind: Kind::Settled };
//! pins.insert(key, wire, pin);
//! let Lookup::Fresh(pin) = pins.get(key, now) else { panic!() };
//! assert_eq!(pins.member(pin.node), Some(1));
//!
//! assert!(pins.due_for_touch(now, 100).is_empty());
//! assert_eq!(pins.due_for_touch(Millis(61_000), 100), [wire]);
//! assert!(pins.outdate(wire, 2));
//! ```

mod hand;
mod in_use;
mod index;
mod key;
mod nodes;
mod slab;

use crate::time::Millis;

pub use in_use::{InUse, Seat};
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
    /// Grows with each rehome; 0 if the state cluster has not spoken.
    pub version: u64,
    /// From then on it is only a hint.
    pub expires: Millis,
    /// Whose word it is.
    pub kind: Kind,
}

/// Whose word a pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The state cluster's.
    Settled,
    /// The ring's, while the state cluster was away.
    Provisional,
    /// The state cluster's, and the node has yet to be told to load the session's state: see [`Pins::settle`].
    Restored,
}

/// What the cache knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A pin that holds.
    Fresh(Pin),
    /// A pin past its time: ask, and if nobody answers prefer its node to the ring's.
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
        Self { entries: 100_000, bytes: 8_000_000, touch_interval: Millis(60_000) }
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
        match entry.pin() {
            Some(pin) if !self.nodes.is_retired(pin.node) => {
                self.slab.renew(slot);
                if now < pin.expires { Lookup::Fresh(pin) } else { Lookup::Stale(pin) }
            }
            _ => {
                self.discard(slot);
                Lookup::Absent
            }
        }
    }

    /// Remembers a pin, in place of whatever was known of the session, as the latest used; a full cache gives up the
    /// one longest unused. `None`, and the session is unknown, if it cannot be kept: no capacity, or no room for one
    /// more node's name.
    pub fn insert(&mut self, key: PinKey, wire: WireKey, pin: Pin<&str>) -> Option<NodeRef> {
        let Some(node) = self.intern(pin.node) else {
            self.remove(key);
            self.remove_by_wire(wire);
            return None;
        };
        // Held before the old pin goes: that may be the node's only one.
        self.nodes.retain(node);
        let pin = Pin { node, version: pin.version, expires: pin.expires, kind: pin.kind };
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

    /// Forgets a session.
    pub fn remove(&mut self, key: PinKey) -> Option<Pin> {
        self.find(key).and_then(|slot| self.discard(slot))
    }

    /// Forgets a session that the changes feed names.
    pub fn remove_by_wire(&mut self, wire: WireKey) -> Option<Pin> {
        self.find_wire(wire).and_then(|slot| self.discard(slot))
    }

    /// Forgets a session if what is known of it is older than `version`; an event that comes late does no harm.
    pub fn outdate(&mut self, wire: WireKey, version: u64) -> bool {
        let Some(slot) = self.find_wire(wire) else { return false };
        let is_older = self.slab.get(slot).and_then(Entry::pin).is_some_and(|pin| pin.version < version);
        is_older && self.discard(slot).is_some()
    }

    /// Forgets all sessions of a node and tells how many.
    pub fn forget_node(&mut self, node: &str) -> usize {
        let Some(node) = self.nodes.find(node) else { return 0 };
        let forgotten = self.nodes.forget(node).or_else(|| {
            self.sweep();
            self.nodes.forget(node)
        });
        forgotten.unwrap_or_default() as usize
    }

    /// A touch prolonged a pin. False if there is none that the state cluster knows, or it was called past its time
    /// since: a touch says that the session lives, not where.
    pub fn prolong(&mut self, wire: WireKey, expires: Millis) -> bool {
        self.change(self.find_wire(wire), |pin| {
            (pin.kind != Kind::Provisional && pin.expires > Millis(0)).then_some(Pin { expires, ..pin })
        })
    }

    /// Changes of unknown sessions were missed: all pins are past their time.
    pub fn expire_all(&mut self) {
        self.expire(|_| true);
    }

    /// The node was started anew: its pins are past their time.
    pub fn expire_node(&mut self, node: &str) {
        if let Some(node) = self.nodes.find(node) {
            self.expire(|pin| pin.node == node);
        }
    }

    /// There may be another state cluster to ask: what the ring said without one is past its time.
    pub fn expire_provisional(&mut self) {
        self.expire(|pin| pin.kind == Kind::Provisional);
    }

    fn expire(&mut self, which: impl Fn(Pin) -> bool) {
        for slot in 0..self.slab.made() {
            self.change(Some(slot), |pin| which(pin).then_some(Pin { expires: Millis(0), ..pin }));
        }
    }

    /// The node of a restored session is about to be told. True for the one request that is to tell it.
    pub fn settle(&mut self, key: PinKey) -> bool {
        self.change(self.find(key), |pin| {
            (pin.kind == Kind::Restored).then_some(Pin { kind: Kind::Settled, ..pin })
        })
    }

    /// Up to `limit` sessions that were used and not touched for about an interval, to be asked on every tick. A hand
    /// goes round the cache once per interval; what was used since it last came by is due. A batch of `limit` means
    /// that there may be more.
    pub fn due_for_touch(&mut self, now: Millis, limit: usize) -> Vec<WireKey> {
        let mut due = Vec::new();
        self.hand.wind(now, self.slab.made());
        while due.len() < limit
            && let Some(slot) = self.hand.next(self.slab.made())
        {
            let Some(entry) = self.slab.get_mut(slot) else { continue };
            let Some(pin) = entry.pin() else { continue };
            let used = entry.take_used();
            if self.nodes.is_retired(pin.node) {
                self.discard(slot);
            } else if used && pin.kind != Kind::Provisional && now < pin.expires {
                due.extend(self.slab.get(slot).map(Entry::wire));
            }
        }
        due
    }

    /// From now on a session in use is to be touched once in this time.
    pub fn touch_every(&mut self, interval: Millis) {
        self.hand.go_round_in(interval);
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

    /// The name of a pin's node; `None` if nobody knows the number any more.
    #[must_use]
    pub fn name(&self, node: NodeRef) -> Option<&str> {
        self.nodes.name(node)
    }

    /// How many sessions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.used().saturating_sub(self.nodes.void_pins()) as usize
    }

    /// True if no session is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    fn intern(&mut self, name: &str) -> Option<NodeRef> {
        self.nodes.intern(name).or_else(|| {
            // Void pins may hold the numbers back.
            if self.nodes.void_pins() == 0 {
                return None;
            }
            self.sweep();
            self.nodes.intern(name)
        })
    }

    fn add(&mut self, entry: Entry) -> bool {
        if self.slab.used() == self.slab.capacity()
            && let Some(oldest) = self.slab.oldest()
        {
            self.discard(oldest);
        }
        self.grow_indexes();
        let Some(slot) = self.slab.add(entry) else { return false };
        self.by_key.insert(entry.key().hash(), slot);
        self.by_wire.insert(entry.wire().hash(self.seed), slot);
        true
    }

    fn change(&mut self, slot: Option<u32>, new: impl FnOnce(Pin) -> Option<Pin>) -> bool {
        let Some(entry) = slot.and_then(|slot| self.slab.get_mut(slot)) else { return false };
        let known = entry.pin().filter(|pin| !self.nodes.is_retired(pin.node));
        known.and_then(new).map(|pin| entry.set_pin(pin)).is_some()
    }

    fn grow_indexes(&mut self) {
        let (slab, seed) = (&self.slab, self.seed);
        if let Some(length) = self.by_key.wants_length(slab.used(), slab.capacity()) {
            self.by_key.rebuild(length, slab.iter().map(|(slot, entry)| (entry.key().hash(), slot)));
            self.by_wire.rebuild(length, slab.iter().map(|(slot, entry)| (entry.wire().hash(seed), slot)));
        }
    }

    /// Gives a slot up, and tells what was in it unless that was void.
    fn discard(&mut self, slot: u32) -> Option<Pin> {
        let (slab, seed) = (&self.slab, self.seed);
        let entry = *slab.get(slot)?;
        let pin = entry.pin()?;
        let key_of = |slot| slab.get(slot).map_or(0, |entry| entry.key().hash());
        self.by_key.remove(entry.key().hash(), slot, key_of);
        let wire_of = |slot| slab.get(slot).map_or(0, |entry| entry.wire().hash(seed));
        self.by_wire.remove(entry.wire().hash(seed), slot, wire_of);
        let known = !self.nodes.is_retired(pin.node);
        self.slab.release(slot);
        self.nodes.release(pin.node);
        known.then_some(pin)
    }

    /// Discards all void pins: only if numbers of nodes run out.
    fn sweep(&mut self) {
        for slot in 0..self.slab.made() {
            let pin = self.slab.get(slot).and_then(Entry::pin);
            if pin.is_some_and(|pin| self.nodes.is_retired(pin.node)) {
                self.discard(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "10.0.0.1:80";

    fn at(second: u64) -> Millis {
        Millis(1_700_000_000_000 + second * 1_000)
    }

    fn small(entries: usize) -> Pins {
        Pins::new(Limits { entries, bytes: 1 << 20, touch_interval: Millis(60_000) }, 42)
    }

    fn wire(number: u8) -> WireKey {
        WireKey([number; 16])
    }

    fn pin(node: &str, version: u64) -> Pin<&str> {
        Pin { node, version, expires: at(1_000), kind: Kind::Settled }
    }

    /// Pins session `number` to `node`.
    fn put(pins: &mut Pins, number: u8, node: &str) {
        assert!(pins.insert(pins.key(&[number]), wire(number), pin(node, 1)).is_some());
    }

    fn known(pins: &mut Pins, number: u8) -> bool {
        pins.get(pins.key(&[number]), at(0)) != Lookup::Absent
    }

    #[test]
    fn a_full_cache_gives_up_the_session_longest_unused() {
        let mut pins = small(3);
        for number in 1..=3 {
            put(&mut pins, number, NODE);
        }
        assert!(known(&mut pins, 1));

        put(&mut pins, 4, NODE);

        let left: Vec<bool> = (1..=4).map(|number| known(&mut pins, number)).collect();
        assert_eq!(left, [true, false, true, true]);
        assert_eq!(pins.len(), 3);
    }

    #[test]
    fn an_expired_pin_is_still_a_hint() {
        let mut pins = small(3);
        put(&mut pins, 1, NODE);
        let key = pins.key(&[1]);

        assert!(matches!(pins.get(key, at(999)), Lookup::Fresh(_)));

        let Lookup::Stale(pin) = pins.get(key, at(1_000)) else { panic!() };
        assert_eq!(pins.name(pin.node), Some(NODE));
    }

    #[test]
    fn the_changes_feed_ends_what_is_older_and_nothing_newer() {
        let mut pins = small(3);
        pins.insert(pins.key(&[1]), wire(1), pin(NODE, 5));

        assert!(!pins.outdate(wire(1), 5) && !pins.outdate(wire(2), 9));
        assert!(pins.outdate(wire(1), 6));

        assert!(!known(&mut pins, 1) && pins.is_empty());
        assert_eq!(pins.remove_by_wire(wire(1)), None);
    }

    #[test]
    fn forgetting_a_node_forgets_all_its_sessions_and_no_other() {
        let mut pins = small(10);
        pins.adopt([NODE, "b"].into_iter());
        for number in 0..6 {
            put(&mut pins, number, if number < 4 { NODE } else { "b" });
        }

        assert_eq!(pins.forget_node(NODE), 4);

        assert_eq!(pins.len(), 2);
        put(&mut pins, 0, NODE);
        let left: Vec<bool> = (0..6).map(|number| known(&mut pins, number)).collect();
        assert_eq!(left, [true, false, false, false, true, true]);
        assert_eq!((pins.forget_node(NODE), pins.forget_node("c")), (1, 0));
    }

    #[test]
    fn a_node_may_be_forgotten_more_often_than_there_are_numbers() {
        let mut pins = small(100_000);
        pins.adopt([NODE].into_iter());
        for number in 0..70_000_u32 {
            let key = pins.key(&number.to_le_bytes());
            let wire = WireKey(key.0.to_le_bytes());
            assert!(pins.insert(key, wire, pin(NODE, 1)).is_some());
            assert_eq!(pins.forget_node(NODE), 1);
        }

        assert!(pins.is_empty() && pins.memory_bytes() < 1 << 20);
        put(&mut pins, 1, NODE);
        assert!(known(&mut pins, 1));
    }

    #[test]
    fn a_member_that_left_and_came_back_is_the_same_node() {
        let mut pins = small(3);
        pins.adopt(["a", NODE].into_iter());
        put(&mut pins, 1, NODE);
        let Lookup::Fresh(pin) = pins.get(pins.key(&[1]), at(0)) else { panic!() };
        assert_eq!(pins.member(pin.node), Some(1));

        pins.adopt(["a"].into_iter());
        assert_eq!(pins.member(pin.node), None);
        pins.adopt(["b", "a", NODE].into_iter());

        assert_eq!((pins.member(pin.node), pins.name(pin.node)), (Some(2), Some(NODE)));
    }

    #[test]
    fn what_is_used_is_touched_once_an_interval_and_what_is_idle_is_not() {
        let mut pins = small(100);
        for number in 0..100 {
            put(&mut pins, number, NODE);
        }
        pins.due_for_touch(at(0), 1_000);
        let mut touched = [0; 100];
        for second in 1..=180 {
            for number in 0..50 {
                assert!(known(&mut pins, number));
            }
            for due in pins.due_for_touch(at(second), 1_000) {
                touched[usize::from(due.0[0])] += 1;
            }
        }

        assert!(touched[..50].iter().all(|touches| *touches == 3), "{touched:?}");
        assert!(touched[50..].iter().all(|touches| *touches == 0), "{touched:?}");
    }

    #[test]
    fn touches_come_in_batches_and_none_is_lost() {
        let mut pins = small(100);
        for number in 0..100 {
            put(&mut pins, number, NODE);
            assert!(known(&mut pins, number));
        }
        pins.due_for_touch(at(0), 7);

        let mut sizes = Vec::new();
        while let batch = pins.due_for_touch(at(60), 7)
            && !batch.is_empty()
        {
            sizes.push(batch.len());
        }

        assert_eq!((sizes.len(), sizes.iter().sum::<usize>(), sizes[0]), (15, 100, 7));
    }

    #[test]
    fn provisional_and_expired_pins_are_not_touched() {
        let mut pins = small(3);
        let provisional = Pin { kind: Kind::Provisional, ..pin(NODE, 0) };
        pins.insert(pins.key(&[1]), wire(1), provisional);
        pins.insert(pins.key(&[2]), wire(2), Pin { expires: at(30), ..pin(NODE, 1) });
        pins.due_for_touch(at(0), 10);
        assert!(known(&mut pins, 1) && known(&mut pins, 2));

        assert!(pins.due_for_touch(at(60), 10).is_empty());
    }

    #[test]
    fn a_touch_prolongs_what_the_state_cluster_knows() {
        let mut pins = small(3);
        pins.insert(pins.key(&[1]), wire(1), pin(NODE, 5));
        pins.insert(pins.key(&[2]), wire(2), Pin { kind: Kind::Provisional, ..pin(NODE, 0) });

        assert!(!pins.prolong(wire(2), at(2_000)) && !pins.prolong(wire(3), at(2_000)));
        assert!(pins.prolong(wire(1), at(2_000)));

        assert!(matches!(pins.get(pins.key(&[1]), at(1_999)), Lookup::Fresh(_)));
    }

    #[test]
    fn what_may_have_changed_unseen_is_a_hint_and_no_more() {
        let mut pins = small(3);
        (1..=3).for_each(|id| {
            pins.insert(pins.key(&[id]), wire(id), pin(NODE, 5));
        });
        pins.remove(pins.key(&[2]));

        pins.expire_all();

        let found = [1, 2, 3].map(|id| pins.get(pins.key(&[id]), at(0)));
        assert!(matches!(found, [Lookup::Stale(_), Lookup::Absent, Lookup::Stale(_)]), "{found:?}");
    }

    #[test]
    fn what_a_node_had_before_it_was_started_anew_is_a_hint_and_no_more() {
        let mut pins = small(3);
        put(&mut pins, 1, NODE);
        put(&mut pins, 2, "10.0.0.2:80");

        pins.expire_node(NODE);
        pins.expire_node("10.0.0.3:80");

        let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
        assert!(matches!(found, [Lookup::Stale(_), Lookup::Fresh(_)]), "{found:?}");
    }

    #[test]
    fn what_the_ring_said_can_be_doubted_apart_from_the_rest() {
        let mut pins = small(3);
        put(&mut pins, 1, NODE);
        pins.insert(pins.key(&[2]), wire(2), Pin { kind: Kind::Provisional, ..pin(NODE, 0) });

        pins.expire_provisional();

        let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
        assert!(matches!(found, [Lookup::Fresh(_), Lookup::Stale(_)]), "{found:?}");
    }

    #[test]
    fn a_touch_under_way_does_not_make_certain_what_became_uncertain_meanwhile() {
        let mut pins = small(3);
        put(&mut pins, 1, NODE);
        put(&mut pins, 2, "10.0.0.2:80");

        pins.expire_node(NODE);
        assert!(!pins.prolong(wire(1), at(2_000)) && pins.prolong(wire(2), at(2_000)));
        pins.expire_all();
        assert!(!pins.prolong(wire(2), at(2_000)));

        let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
        assert!(matches!(found, [Lookup::Stale(_), Lookup::Stale(_)]), "{found:?}");
    }

    #[test]
    fn one_request_of_a_restored_session_tells_its_node() {
        let mut pins = small(3);
        let key = pins.key(&[1]);
        pins.insert(key, wire(1), Pin { kind: Kind::Restored, ..pin(NODE, 5) });

        assert!(pins.settle(key) && !pins.settle(key));

        assert!(matches!(pins.get(key, at(0)), Lookup::Fresh(Pin { kind: Kind::Settled, version: 5, .. })));
    }

    #[test]
    fn a_cache_without_room_forgets_and_goes_on() {
        for limits in [
            Limits { entries: 0, ..Limits::default() },
            Limits { bytes: 0, ..Limits::default() },
            Limits { bytes: 1_000, ..Limits::default() },
        ] {
            let mut pins = Pins::new(limits, 1);
            pins.adopt([NODE].into_iter());
            assert_eq!(pins.insert(pins.key(b"a"), wire(1), pin(NODE, 1)), None);
            assert_eq!(pins.get(pins.key(b"a"), at(0)), Lookup::Absent);
            assert!(pins.due_for_touch(at(60), 10).is_empty());
        }
        let mut pins = small(3);
        put(&mut pins, 1, NODE);
        assert_eq!(pins.insert(pins.key(&[1]), wire(1), pin("", 2)), None);
        assert!(!known(&mut pins, 1), "rather nothing than what is known to be old");
    }
}
