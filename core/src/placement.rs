//! Where a session goes: a walk along the rings that asks each node's state.
//!
//! A session that has no node yet draws a priority, as Envoy has it draw one, and walks that priority's ring first, then those
//! of the others. A session that has a node stays with it, whatever its priority.
//!
//! Without a state cluster the ring's answer *is* the placement, so an existing session and a new one look alike. The
//! walk spares existing ones: a degraded, draining or standby node keeps the sessions the ring gives it, but inherits
//! none from a node that is out, and is no node's successor.
//!
//! With one, a pin says who owns the session; the ring then only says who comes next ([`pinned`]), and where a session
//! without owner should live ([`for_new`]). Whether a pin's node may still serve is the caller's to ask.

use crate::event::{Outcome, Reason};
use crate::health::State;
use crate::snapshot::{Snapshot, SnapshotNode};

/// Owner and two successors: as many as the shipped retry policy tries.
pub const MAX_CANDIDATES: usize = 3;

/// The nodes a session may go to, best first, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    nodes: [u32; MAX_CANDIDATES],
    len: u8,
    /// What to count and to show.
    pub outcome: Outcome,
    /// Why the owner owns it.
    pub reason: Reason,
    /// Only the owner may serve it.
    pub is_strict: bool,
}

/// Why a session has no placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlacement {
    /// The pool has no members, or none whose first check has answered: Envoy may know better.
    NoMembers,
    /// Members there are, but none that may serve.
    NoUsableNode,
    /// The session stays with a node that may not serve it now, or that node is not known.
    Withheld(Reason),
    /// Its token was replaced by one of a higher version.
    Superseded,
}

impl Placement {
    /// Places the session with this hash.
    ///
    /// # Errors
    /// If no node can take it; what that means for the request is the pool's policy.
    pub fn of(snapshot: &Snapshot, hash: u64) -> Result<Self, NoPlacement> {
        let mut placement = Self::empty(Outcome::Ring, Reason::Owner);
        let level = snapshot.drawn_level(hash);
        if snapshot.is_panic_level(level) {
            placement.ignore_health(snapshot, hash, level);
        } else {
            placement.walk(snapshot, hash, level);
        }
        if let Some(owner) = placement.owner() {
            if snapshot.is_panic_at(owner) {
                placement.outcome = Outcome::Panic;
            }
            placement.spread(snapshot, hash);
        }
        placement.or_none(snapshot)
    }

    fn or_none(self, snapshot: &Snapshot) -> Result<Self, NoPlacement> {
        if self.len > 0 {
            Ok(self)
        } else if snapshot.nodes.iter().all(|node| node.state == State::Pending) {
            // No node is known to be there, and none to be ill.
            Err(NoPlacement::NoMembers)
        } else {
            Err(NoPlacement::NoUsableNode)
        }
    }

    /// The same without successors: rather no answer than another node's.
    #[must_use]
    pub fn strictly(mut self) -> Self {
        self.len = self.len.min(1);
        self.is_strict = true;
        self
    }

    /// The owner as an index into the snapshot's nodes.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        self.indexes().next()
    }

    /// The nodes as indexes into the snapshot's, owner first.
    pub fn indexes(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().take(usize::from(self.len)).map(|&index| index as usize)
    }

    /// The nodes, owner first.
    pub fn nodes<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s SnapshotNode> + 's {
        self.indexes().filter_map(|index| snapshot.nodes.get(index))
    }

    /// True if the owner may be given a session that does not exist yet.
    #[must_use]
    pub fn takes_new(&self, snapshot: &Snapshot) -> bool {
        self.owner().is_some_and(|owner| takes_new(snapshot, owner))
    }

    /// Appends the destination header's value, `ip:port,ip:port,ip:port`.
    pub fn write_destination(&self, snapshot: &Snapshot, value: &mut Vec<u8>) {
        for (position, node) in self.nodes(snapshot).enumerate() {
            if position > 0 {
                value.push(b',');
            }
            value.extend_from_slice(node.address.as_bytes());
        }
    }

    fn empty(outcome: Outcome, reason: Reason) -> Self {
        Self { nodes: [0; MAX_CANDIDATES], len: 0, outcome, reason, is_strict: false }
    }

    fn walk(&mut self, snapshot: &Snapshot, hash: u64, level: usize) {
        // A session that lost its node to cooldown is a stranger to all others, also while that node warms up again; so is
        // one that draws another priority than the best, which cannot take it. One that a new node has not taken over yet
        // is still at home with the next.
        let mut stranger = level > 0;
        for index in snapshot.places(level, hash) {
            let Some(node) = snapshot.nodes.get(index) else { continue };
            let welcome = match node.state {
                // Another level, as none of the drawn one welcomes it.
                _ if snapshot.is_panic_at(index) => {
                    node.state.serves() || self.len == 0 && node.state != State::Pending
                }
                State::Active | State::Warming(_) => takes_stranger(node, hash),
                State::Degraded | State::Draining | State::Standby => !stranger,
                State::Cooldown | State::Pending => false,
            };
            if welcome {
                self.push(index);
                stranger = true;
            } else if self.len == 0 {
                self.reason = match node.state {
                    State::Cooldown => Reason::Cooldown,
                    _ if self.reason == Reason::Owner => Reason::Warming,
                    _ => self.reason,
                };
                stranger |= node.state == State::Cooldown || node.returning;
            }
            if usize::from(self.len) == MAX_CANDIDATES {
                return;
            }
        }
        if self.len == 0 {
            // None was welcoming: rather a degraded, draining or barely warm node than none.
            self.fill(snapshot, hash, level, &|place, _| snapshot.may_serve(place));
        }
    }

    /// The owner is the node that the ring of a level in panic names, whatever is said of it.
    fn ignore_health(&mut self, snapshot: &Snapshot, hash: u64, level: usize) {
        let is_known =
            |place: &usize| snapshot.nodes.get(*place).is_some_and(|node| node.state != State::Pending);
        if let Some(owner) = snapshot.places(level, hash).find(is_known) {
            self.push(owner);
        }
        self.succeed(snapshot, hash, level);
    }

    /// After the owner those that would take its session over. Which one to try after an owner in panic is a guess in any
    /// case: those that look well are the better one, and then the others.
    fn succeed(&mut self, snapshot: &Snapshot, hash: u64, level: usize) {
        self.fill(snapshot, hash, level, &|place, node| takes_over(snapshot, place, node, hash));
        if self.owner().is_none_or(|owner| snapshot.is_panic_at(owner)) {
            self.fill(snapshot, hash, level, &|place, node| {
                snapshot.is_panic_at(place) && !node.state.serves()
            });
        }
    }

    /// The last of as many as there can be is of another priority, if one has a node that takes it: what fails two nodes of
    /// one priority at once, such as the loss of a zone, may well have failed all of them, and not be known yet.
    fn spread(&mut self, snapshot: &Snapshot, hash: u64) {
        let Some(owner) = self.owner().filter(|_| snapshot.has_levels()) else { return };
        let level = snapshot.level_of(owner);
        if usize::from(self.len) < MAX_CANDIDATES
            || self.indexes().any(|place| snapshot.level_of(place) != level)
        {
            return;
        }
        let is_taker = |place: &usize| {
            snapshot.nodes.get(*place).is_some_and(|node| takes_over(snapshot, *place, node, hash))
        };
        if let Some(other) = snapshot.places(level, hash).elsewhere().find(is_taker) {
            self.len -= 1;
            self.push(other);
        }
    }

    /// Takes as many as there is room for of the nodes that are such, in the order of [`Snapshot::places`].
    fn fill(&mut self, snapshot: &Snapshot, hash: u64, level: usize, is_such: IsSuch<'_>) {
        let owner = self.owner();
        for place in snapshot.places(level, hash) {
            if usize::from(self.len) == MAX_CANDIDATES {
                return;
            }
            if Some(place) != owner && snapshot.nodes.get(place).is_some_and(|node| is_such(place, node)) {
                self.push(place);
            }
        }
    }

    fn push(&mut self, index: usize) {
        if let (Some(slot), Ok(index)) = (self.nodes.get_mut(usize::from(self.len)), u32::try_from(index)) {
            *slot = index;
            self.len += 1;
        }
    }
}

/// The placement of a session that `owner` holds: after it those who would take the session over, in the order of its
/// priority's ring and then of the others; in panic those who look well before the others.
#[must_use]
pub fn pinned(snapshot: &Snapshot, hash: u64, owner: usize, outcome: Outcome) -> Placement {
    let mut placement = Placement::empty(outcome, Reason::Pin);
    placement.push(owner);
    placement.succeed(snapshot, hash, snapshot.level_of(owner));
    placement.spread(snapshot, hash);
    placement
}

/// Where a session goes while its owner has vanished and may be back soon: to the node that would be given it.
///
/// # Errors
/// As for [`Placement::of`].
pub fn standing_in(snapshot: &Snapshot, hash: u64) -> Result<Placement, NoPlacement> {
    let mut placement = Placement::empty(Outcome::Ring, Reason::Vanished);
    for_new(snapshot, hash, MAX_CANDIDATES).into_iter().for_each(|place| placement.push(place));
    placement.or_none(snapshot)
}

/// Where a session without owner should live, best first and at most `most`: with those who take strangers, of the priority
/// that it draws and then of the others; in panic with any whose first check has answered. Rather with a node that only
/// serves than with none.
#[must_use]
pub fn for_new(snapshot: &Snapshot, hash: u64, most: usize) -> Vec<usize> {
    let level = snapshot.drawn_level(hash);
    let takers = fitting(snapshot, hash, level, most, &|place, node| match snapshot.is_panic_at(place) {
        true => node.state != State::Pending,
        false => takes_stranger(node, hash),
    });
    if takers.is_empty() {
        return fitting(snapshot, hash, level, most, &|_, node| node.state.serves());
    }
    takers
}

/// True if the node at this place may be given a session that does not exist yet.
#[must_use]
pub fn takes_new(snapshot: &Snapshot, place: usize) -> bool {
    let state = snapshot.nodes.get(place).map(|node| node.state);
    snapshot.is_panic_at(place) || matches!(state, Some(State::Active | State::Warming(_)))
}

/// What is asked of a node and its place.
type IsSuch<'s> = &'s dyn Fn(usize, &SnapshotNode) -> bool;

/// The places of at most so many nodes that are such, in the order of [`Snapshot::places`].
fn fitting(snapshot: &Snapshot, hash: u64, level: usize, most: usize, is_such: IsSuch<'_>) -> Vec<usize> {
    let is_such = |&place: &usize| snapshot.nodes.get(place).is_some_and(|node| is_such(place, node));
    snapshot.places(level, hash).filter(is_such).take(most).collect()
}

/// Whether a node would be tried after another one: in panic also if it only serves.
fn takes_over(snapshot: &Snapshot, place: usize, node: &SnapshotNode, hash: u64) -> bool {
    if snapshot.is_panic_at(place) { node.state.serves() } else { takes_stranger(node, hash) }
}

/// Whether a node takes this session from another, or as a new one.
fn takes_stranger(node: &SnapshotNode, hash: u64) -> bool {
    match node.state {
        State::Active => true,
        State::Warming(share) => is_admitted(hash, node.key_hash, share),
        _ => false,
    }
}

/// Whether a warming node that takes `share` of [`State::WHOLE`] takes this session. As the share grows sessions are
/// only ever added. The multiplication (Knuth's, by the golden ratio) makes the draw independent of the hash's place
/// on the ring.
fn is_admitted(hash: u64, key_hash: u64, share: u16) -> bool {
    let draw = (hash ^ key_hash).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 49;
    draw < u64::from(share)
}
