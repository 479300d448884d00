//! The entries of a cache: slots in chunks, threaded on two lists, each from the latest used to the longest unused.
//!
//! Ids are free for clients to invent, so what was never asked for again must not push out what is in use (segmented LRU:
//! Karedla, Love, Wherry, "Caching strategies to improve disk system performance", 1994). A new entry is on trial; its second use
//! keeps it; the kept ones that are longest unused are on trial again if there are too many. What is on trial goes first.
//!
//! Chunks never move, so growing costs one allocation and no copy, and a slot's number is its name for good. Slots
//! that were given up are used again before new ones are made.

use crate::pins::{Kind, Pin, PinKey, WireKey, nodes::NodeRef};
use crate::time::Millis;

/// Slots of one chunk: 56 KB, little enough to be made within a request.
const CHUNK: u32 = 1 << CHUNK_SHIFT;
const CHUNK_SHIFT: u32 = 10;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// One pin with all that is needed to find, order and touch it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    word: Word,
    version: u64,
    wire: WireKey,
    /// In parts: a `u128` would align the entry to 16 bytes and make it 64 long.
    key: [u32; 3],
    session_version: u32,
    newer: u32,
    /// In a slot that was given up: the next such slot.
    older: u32,
}

const _: () = assert!(size_of::<Entry>() == 56);

/// Node (16 bits), used since the last touch (1), kept (1), kind (2, none of them 0), doubted (1), expiry (43: until the year 2248).
#[derive(Debug, Clone, Copy)]
struct Word(u64);

impl Word {
    const EXPIRES: u64 = (1 << 43) - 1;
    const DOUBTED: u64 = 1 << 43;
    const KIND_SHIFT: u32 = 44;
    const KEPT: u64 = 1 << 46;
    const USED: u64 = 1 << 47;
    const NODE_SHIFT: u32 = 48;
    const FREE: Self = Self(0);

    fn new(pin: Pin) -> Self {
        let kind = match pin.kind {
            Kind::Settled => 1,
            Kind::Provisional => 2,
            Kind::Away => 3_u64,
        };
        let doubted = if pin.is_doubted { Self::DOUBTED } else { 0 };
        let expires = pin.expires.0.min(Self::EXPIRES);
        Self(u64::from(pin.node.0) << Self::NODE_SHIFT | kind << Self::KIND_SHIFT | doubted | expires)
    }

    fn kind(self) -> Option<Kind> {
        match self.0 >> Self::KIND_SHIFT & 3 {
            0 => None,
            1 => Some(Kind::Settled),
            2 => Some(Kind::Provisional),
            _ => Some(Kind::Away),
        }
    }
}

impl Entry {
    pub(super) fn new(key: PinKey, wire: WireKey, pin: Pin) -> Self {
        let mut entry = Self {
            word: Word::FREE,
            version: 0,
            wire,
            key: parts(key),
            session_version: 0,
            newer: NONE,
            older: NONE,
        };
        entry.set_pin(pin);
        entry
    }

    pub(super) fn key(&self) -> PinKey {
        let [low, middle, high] = self.key;
        PinKey(u128::from(high) << 64 | u128::from(middle) << 32 | u128::from(low))
    }

    pub(super) fn is(&self, key: PinKey) -> bool {
        self.key == parts(key)
    }

    pub(super) fn wire(&self) -> WireKey {
        self.wire
    }

    /// The pin; `None` if the slot is not in use.
    pub(super) fn pin(&self) -> Option<Pin> {
        let kind = self.word.kind()?;
        let node = NodeRef((self.word.0 >> Word::NODE_SHIFT) as u16);
        let expires = Millis(self.word.0 & Word::EXPIRES);
        let is_doubted = self.word.0 & Word::DOUBTED != 0;
        Some(Pin {
            node,
            version: self.version,
            expires,
            is_doubted,
            kind,
            session_version: self.session_version,
        })
    }

    /// Another pin for the same session: as good as touched.
    pub(super) fn set_pin(&mut self, pin: Pin) {
        self.version = pin.version;
        self.session_version = pin.session_version;
        let kept = self.word.0 & Word::KEPT;
        self.word = Word(Word::new(pin).0 | kept);
    }

    fn is_kept(&self) -> bool {
        self.word.0 & Word::KEPT != 0
    }

    /// It is only a hint from now on. That is no touch.
    pub(super) fn doubt(&mut self) {
        self.word.0 |= Word::DOUBTED;
    }

    /// It is not even believed from now on. That is no touch either.
    pub(super) fn refute(&mut self) {
        self.word.0 = self.word.0 & !Word::EXPIRES | Word::DOUBTED;
    }

    pub(super) fn mark_used(&mut self) {
        self.word.0 |= Word::USED;
    }

    /// Whether it was used since this was last asked.
    pub(super) fn take_used(&mut self) -> bool {
        let used = self.word.0 & Word::USED != 0;
        self.word.0 &= !Word::USED;
        used
    }
}

fn parts(key: PinKey) -> [u32; 3] {
    [key.0 as u32, (key.0 >> 32) as u32, (key.0 >> 64) as u32]
}

/// All slots of one cache.
#[derive(Debug, Clone)]
pub(super) struct Slab {
    chunks: Vec<Vec<Entry>>,
    /// Slots made so far, in use or not.
    made: u32,
    used: u32,
    capacity: u32,
    on_trial: List,
    kept: List,
    free: u32,
}

/// The ends of a list, and how long it is.
#[derive(Debug, Clone, Copy)]
struct List {
    newest: u32,
    oldest: u32,
    length: u32,
}

impl List {
    const EMPTY: Self = Self { newest: NONE, oldest: NONE, length: 0 };
}

impl Slab {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            chunks: Vec::new(),
            made: 0,
            used: 0,
            capacity,
            on_trial: List::EMPTY,
            kept: List::EMPTY,
            free: NONE,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn made(&self) -> u32 {
        self.made
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// The slot to give up first.
    pub(super) fn oldest(&self) -> Option<u32> {
        [self.on_trial.oldest, self.kept.oldest].into_iter().find(|slot| *slot != NONE)
    }

    /// Room that those on trial always have: enough for a session's second request to find it, whatever comes between.
    fn kept_at_most(&self) -> u32 {
        self.capacity - self.capacity / 8
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.chunks.get((slot >> CHUNK_SHIFT) as usize)?.get((slot & (CHUNK - 1)) as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.chunks.get_mut((slot >> CHUNK_SHIFT) as usize)?.get_mut((slot & (CHUNK - 1)) as usize)
    }

    /// Every slot in use, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(self.chunks.iter().flatten()).filter(|(_, entry)| entry.word.kind().is_some())
    }

    /// Puts an entry into a slot, on trial, as the latest used; `None` if all are taken.
    pub(super) fn add(&mut self, entry: Entry) -> Option<u32> {
        let slot = if self.free != NONE {
            let slot = self.free;
            let place = self.get_mut(slot)?;
            let next = place.older;
            *place = entry;
            self.free = next;
            slot
        } else {
            if self.made == self.capacity {
                return None;
            }
            if self.made & (CHUNK - 1) == 0 {
                self.chunks.push(Vec::with_capacity(CHUNK.min(self.capacity - self.made) as usize));
            }
            self.chunks.last_mut()?.push(entry);
            self.made += 1;
            self.made - 1
        };
        self.used += 1;
        self.link(slot, false);
        Some(slot)
    }

    /// Gives a slot up.
    pub(super) fn release(&mut self, slot: u32) {
        self.unlink(slot);
        let free = self.free;
        if let Some(entry) = self.get_mut(slot) {
            entry.word = Word::FREE;
            entry.older = free;
            self.free = slot;
            self.used -= 1;
        }
    }

    /// Makes a slot the latest of its list.
    pub(super) fn renew(&mut self, slot: u32) {
        let Some(is_kept) = self.get(slot).map(Entry::is_kept) else { return };
        if slot != self.list(is_kept).newest {
            self.unlink(slot);
            self.link(slot, is_kept);
        }
    }

    /// It is used once more: from now on it is kept, and the latest of those.
    pub(super) fn keep(&mut self, slot: u32) {
        if slot == self.kept.newest {
            return;
        }
        self.unlink(slot);
        self.link(slot, true);
        if self.kept.length > self.kept_at_most() {
            let oldest = self.kept.oldest;
            self.unlink(oldest);
            self.link(oldest, false);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // Only the last chunk may be shorter than the others.
        let last = self.chunks.last().map_or(0, Vec::capacity);
        let others = self.chunks.len().saturating_sub(1) * CHUNK as usize;
        self.chunks.capacity() * size_of::<Vec<Entry>>() + (others + last) * size_of::<Entry>()
    }

    fn list(&mut self, is_kept: bool) -> &mut List {
        if is_kept { &mut self.kept } else { &mut self.on_trial }
    }

    fn link(&mut self, slot: u32, is_kept: bool) {
        let second = self.list(is_kept).newest;
        if let Some(entry) = self.get_mut(slot) {
            entry.newer = NONE;
            entry.older = second;
            entry.word.0 = entry.word.0 & !Word::KEPT | if is_kept { Word::KEPT } else { 0 };
        }
        match self.get_mut(second) {
            Some(entry) => entry.newer = slot,
            None => self.list(is_kept).oldest = slot,
        }
        let list = self.list(is_kept);
        list.newest = slot;
        list.length += 1;
    }

    fn unlink(&mut self, slot: u32) {
        let Some(&Entry { newer, older, word, .. }) = self.get(slot) else { return };
        let is_kept = word.0 & Word::KEPT != 0;
        match self.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.list(is_kept).newest = older,
        }
        match self.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.list(is_kept).oldest = newer,
        }
        self.list(is_kept).length -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u128) -> Entry {
        let (node, expires) = (NodeRef(1), Millis(1));
        let pin =
            Pin { node, version: 1, expires, is_doubted: false, kind: Kind::Settled, session_version: 0 };
        Entry::new(PinKey(number), WireKey([0; 16]), pin)
    }

    fn order(slab: &Slab) -> Vec<u128> {
        let mut slots = Vec::new();
        let mut slot = slab.on_trial.newest;
        while let Some(entry) = slab.get(slot) {
            slots.push(entry.key().0);
            slot = entry.older;
        }
        slots
    }

    #[test]
    fn keeps_the_order_of_use() {
        let mut slab = Slab::new(4);
        for number in 0..4 {
            assert_eq!(slab.add(entry(number)), Some(number as u32));
        }
        assert_eq!(slab.add(entry(9)), None);

        slab.renew(1);
        slab.renew(3);
        slab.renew(3);
        assert_eq!(order(&slab), [3, 1, 2, 0]);

        slab.release(2);
        assert_eq!(order(&slab), [3, 1, 0]);
        assert_eq!(slab.add(entry(7)), Some(2));
        assert_eq!(order(&slab), [7, 3, 1, 0]);
        assert_eq!((slab.oldest(), slab.used()), (Some(0), 4));
    }

    #[test]
    fn what_was_never_used_again_goes_first() {
        let mut slab = Slab::new(16);
        for number in 0..16 {
            slab.add(entry(number));
        }
        for slot in [3, 5, 3] {
            slab.keep(slot);
        }
        let mut gone = Vec::new();
        for number in 100..200 {
            let oldest = slab.oldest().unwrap();
            gone.push(slab.get(oldest).unwrap().key().0);
            slab.release(oldest);
            slab.add(entry(number));
        }
        assert!(!gone.contains(&3) && !gone.contains(&5));
        assert!(gone.contains(&0) && gone.contains(&150));
        assert_eq!((slab.kept.length, slab.on_trial.length), (2, 14));

        // All in use: an eighth stays for those that come.
        for slot in 0..16 {
            slab.keep(slot);
        }
        assert_eq!((slab.kept.length, slab.on_trial.length), (14, 2));
        for slot in 0..16 {
            slab.release(slot);
        }
        assert_eq!((slab.kept.length, slab.on_trial.length, slab.oldest()), (0, 0, None));
    }

    #[test]
    fn an_entry_gives_back_what_was_put_in() {
        let (key, wire) = (PinKey((1 << 96) - 5), WireKey([7; 16]));
        let kinds = [Kind::Settled, Kind::Provisional, Kind::Away];
        for (kind, is_doubted) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let pin = Pin {
                is_doubted,
                node: NodeRef(u16::MAX),
                version: (1 << 53) - 7,
                expires: Millis(1_900_000_000_123),
                kind,
                session_version: u32::MAX - 1,
            };
            let mut entry = Entry::new(key, wire, pin);
            assert!(entry.is(key) && entry.key() == key && entry.wire() == wire);
            assert_eq!(entry.pin(), Some(pin));

            entry.mark_used();
            assert_eq!(entry.pin(), Some(pin));
            assert!(entry.take_used() && !entry.take_used());
        }
    }

    #[test]
    fn an_expiry_beyond_all_is_the_last_there_is() {
        let (node, kind) = (NodeRef(3), Kind::Provisional);
        let (version, expires, is_doubted) = (u64::MAX, Millis(u64::MAX), false);
        let pin = Pin { node, version, expires, is_doubted, kind, session_version: 7 };

        let stored = Entry::new(PinKey(1), WireKey([0; 16]), pin).pin().unwrap();

        assert_eq!(stored, Pin { expires: Millis(Word::EXPIRES), ..pin });
    }
}
