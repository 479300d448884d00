//! The order in which a ring offers its members for one hash.
//!
//! A request looks at three candidates at most, so three cost no allocation: which members came already is
//! remembered in place, and moves to a bitmap only when a caller goes on.
use std::iter::FusedIterator;

use super::{
    Layout, Ring,
    points::Point,
    rendezvous::{BEST, Bid, Scores},
};

/// Members remembered in place. More than the three that the hot path takes, small enough to search through.
const IN_PLACE: usize = 8;
/// Envoy's own retries hardly go further; after that a walk through the table finds the remaining members.
const MAGLEV_ATTEMPTS: u64 = 64;

/// The members for one hash, best first; from [`Ring::candidates`].
#[derive(Clone, Debug)]
pub struct Candidates<'ring> {
    walk: Walk<'ring>,
    seen: Seen,
    left: usize,
}

#[derive(Clone, Debug)]
enum Walk<'ring> {
    /// Point by point round the circle.
    Points { points: &'ring [Point], position: usize },
    /// Envoy's retries, then slot by slot round the table.
    Table { owners: &'ring [u32], hash: u64, attempt: u64 },
    /// Bid by bid; `rest` holds those after the best, worst first, once somebody asks for so many.
    Scores { scores: &'ring Scores, hash: u64, best: [Option<Bid>; BEST], asked: usize, rest: Vec<Bid> },
}

impl<'ring> Candidates<'ring> {
    pub(super) fn new(ring: &'ring Ring, hash: u64) -> Self {
        let walk = match &ring.layout {
            Layout::Points(points) => {
                Walk::Points { points: points.as_slice(), position: points.position(hash) }
            }
            Layout::Table(table) => Walk::Table { owners: table.owners(), hash, attempt: 0 },
            Layout::Scores(scores) => {
                Walk::Scores { scores, hash, best: scores.best(hash), asked: 0, rest: Vec::new() }
            }
        };
        Self { walk, seen: Seen::new(ring.member_count), left: ring.placed }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        // Also what ends the loop: while a member is left, the walk comes to it.
        self.left = self.left.checked_sub(1)?;
        loop {
            let member = self.walk.advance()?;
            if self.seen.insert(member) {
                return Some(member as usize);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Candidates<'_> {}
impl FusedIterator for Candidates<'_> {}

impl Walk<'_> {
    /// The next member of the walk, who may have come before. None only where there are no members.
    fn advance(&mut self) -> Option<u32> {
        match self {
            Self::Points { points, position } => {
                let (_, owner) = points.get(*position)?;
                *position = if *position + 1 == points.len() { 0 } else { *position + 1 };
                Some(*owner)
            }
            Self::Table { owners, hash, attempt } => {
                let size = owners.len() as u64;
                let slot = match *attempt {
                    0 => hash.checked_rem(size)?,
                    retry if retry < MAGLEV_ATTEMPTS => (*hash ^ retry.wrapping_neg()).checked_rem(size)?,
                    beyond => (hash.checked_rem(size)? + beyond - MAGLEV_ATTEMPTS + 1).checked_rem(size)?,
                };
                *attempt += 1;
                owners.get(slot as usize).copied()
            }
            Self::Scores { scores, hash, best, asked, rest } => {
                if *asked == BEST {
                    *rest = scores.rest(*hash, best);
                }
                let bid = if *asked < BEST { best.get(*asked).copied()? } else { rest.pop() };
                *asked += 1;
                bid.map(|bid| bid.member)
            }
        }
    }
}

/// Which members came already.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    member_count: usize,
    in_place: [u32; IN_PLACE],
    count: usize,
    /// One bit a member; empty until the places run out.
    bitmap: Vec<u64>,
}

impl Seen {
    pub(super) fn new(member_count: usize) -> Self {
        Self { member_count, in_place: [0; IN_PLACE], count: 0, bitmap: Vec::new() }
    }

    /// Notes a member; false if it was noted before.
    pub(super) fn insert(&mut self, member: u32) -> bool {
        if !self.bitmap.is_empty() {
            return self.mark(member);
        }
        if self.in_place.iter().take(self.count).any(|known| *known == member) {
            return false;
        }
        if let Some(place) = self.in_place.get_mut(self.count) {
            *place = member;
            self.count += 1;
            return true;
        }
        self.bitmap = vec![0; self.member_count.div_ceil(u64::BITS as usize)];
        for known in self.in_place {
            self.mark(known);
        }
        self.mark(member)
    }

    fn mark(&mut self, member: u32) -> bool {
        let Some(word) = self.bitmap.get_mut((member / u64::BITS) as usize) else {
            return false;
        };
        let bit = 1_u64 << (member % u64::BITS);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
