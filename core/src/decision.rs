//! Where a session goes: a walk along the ring that asks each node's state.
//!
//! Without a state cluster the ring's answer *is* the placement, so an existing session and a new one look alike. The
//! walk is kind to existing ones: a degraded, draining or standby node keeps the sessions the ring gives it, but inherits
//! none from a node that is out, and serves as nobody's successor.
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
    /// Nobody but the owner is to serve it.
    pub is_strict: bool,
}

/// Why a session has no placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlacement {
    /// The pool has no members, or none whose first check has answered: Envoy may know better.
    NoMembers,
    /// Members there are, but none that may serve.
    NoUsableNode,
    /// The session stays with a node that may not serve it now, or nobody can say which node that is.
    Withheld(Reason),
    /// Its token was replaced by one of a higher version.
    Superseded,
}

impl Placement {
    /// Places the session with this hash.
    ///
    /// # Errors
    /// If nobody can take it; what that means for the request is the pool's policy.
    pub fn of(snapshot: &Snapshot, hash: u64) -> Result<Self, NoPlacement> {
        let mut placement = Self::empty(Outcome::Ring, Reason::Owner);
        if snapshot.panic {
            placement.outcome = Outcome::Panic;
            placement.ignore_health(snapshot, hash);
        } else {
            placement.walk(snapshot, hash);
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
        snapshot.panic || self.nodes(snapshot).next().is_some_and(|owner| takes_strangers(owner.state))
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

    fn walk(&mut self, snapshot: &Snapshot, hash: u64) {
        // A session that lost its node to cooldown is a stranger to all others, also while that node warms up again; one
        // that a new node has not taken over yet is still at home with the next.
        let mut stranger = false;
        for index in snapshot.ring().candidates(hash) {
            let Some(node) = snapshot.nodes.get(index) else { continue };
            let welcome = match node.state {
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
            self.take_any(snapshot, hash);
        }
    }

    /// The owner is whom the ring names, whatever is said of it.
    fn ignore_health(&mut self, snapshot: &Snapshot, hash: u64) {
        let owner = in_ring_order(snapshot, hash, |node| node.state != State::Pending).next();
        owner.into_iter().for_each(|owner| self.push(owner));
        self.succeed_in_panic(snapshot, hash);
    }

    /// Whom to try after the owner is a guess in any case, and those who look well are the better one.
    fn succeed_in_panic(&mut self, snapshot: &Snapshot, hash: u64) {
        let owner = self.indexes().next();
        let serving = in_ring_order(snapshot, hash, |node| node.state.serves());
        let others = in_ring_order(snapshot, hash, |node| !node.state.serves());
        self.fill(serving.chain(others).filter(|&index| Some(index) != owner));
    }

    /// Nobody was welcoming: rather a degraded, draining or barely warm node than none.
    fn take_any(&mut self, snapshot: &Snapshot, hash: u64) {
        self.fill(in_ring_order(snapshot, hash, |node| node.state.serves()));
    }

    /// Takes as many as there is room for.
    fn fill(&mut self, indexes: impl Iterator<Item = usize>) {
        let room = MAX_CANDIDATES - usize::from(self.len);
        indexes.take(room).for_each(|index| self.push(index));
    }

    fn push(&mut self, index: usize) {
        if let (Some(slot), Ok(index)) = (self.nodes.get_mut(usize::from(self.len)), u32::try_from(index)) {
            *slot = index;
            self.len += 1;
        }
    }
}

/// The placement of a session that `owner` holds: after it those who would take the session over, in ring order; in
/// panic those who look well before the others.
#[must_use]
pub fn pinned(snapshot: &Snapshot, hash: u64, owner: usize, outcome: Outcome) -> Placement {
    let mut placement = Placement::empty(outcome, Reason::Pin);
    placement.push(owner);
    if snapshot.panic {
        placement.succeed_in_panic(snapshot, hash);
    } else {
        let takers = in_ring_order(snapshot, hash, |node| takes_stranger(node, hash));
        placement.fill(takers.filter(|&index| index != owner));
    }
    placement
}

/// Where a session goes while its owner has vanished and may be back soon: to the node that would be given it.
///
/// # Errors
/// As for [`Placement::of`].
pub fn standing_in(snapshot: &Snapshot, hash: u64) -> Result<Placement, NoPlacement> {
    let mut placement = Placement::empty(Outcome::Ring, Reason::Vanished);
    placement.fill(for_new(snapshot, hash, MAX_CANDIDATES).into_iter());
    placement.or_none(snapshot)
}

/// Where a session without owner should live, best first and at most `most`: with those who take strangers, in panic
/// with anybody whose first check has answered. Rather with a node that only serves than with none.
#[must_use]
pub fn for_new(snapshot: &Snapshot, hash: u64, most: usize) -> Vec<usize> {
    let is_welcoming = |node: &SnapshotNode| {
        if snapshot.panic { node.state != State::Pending } else { takes_stranger(node, hash) }
    };
    let takers: Vec<usize> = in_ring_order(snapshot, hash, is_welcoming).take(most).collect();
    if takers.is_empty() {
        return in_ring_order(snapshot, hash, |node| node.state.serves()).take(most).collect();
    }
    takers
}

/// The nodes that are such, in ring order.
fn in_ring_order(
    snapshot: &Snapshot,
    hash: u64,
    is_such: impl Fn(&SnapshotNode) -> bool,
) -> impl Iterator<Item = usize> {
    snapshot.ring().candidates(hash).filter(move |&index| snapshot.nodes.get(index).is_some_and(&is_such))
}

/// Whether a node takes this session from another, or as a new one.
fn takes_stranger(node: &SnapshotNode, hash: u64) -> bool {
    match node.state {
        State::Active => true,
        State::Warming(share) => is_admitted(hash, node.key_hash, share),
        _ => false,
    }
}

fn takes_strangers(state: State) -> bool {
    matches!(state, State::Active | State::Warming(_))
}

/// Whether a warming node that takes `share` of [`State::WHOLE`] takes this session. As the share grows sessions are
/// only ever added. The multiplication (Knuth's, by the golden ratio) makes the draw independent of the hash's place
/// on the ring.
fn is_admitted(hash: u64, key_hash: u64, share: u16) -> bool {
    let draw = (hash ^ key_hash).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 49;
    draw < u64::from(share)
}
