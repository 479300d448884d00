//! Weighted rendezvous hashing: every member bids for a hash, the highest bid wins.
//!
//! A bid is −weight / ln(u), with u in (0, 1) from XXH64 over the member's key hash and the session hash: the
//! chance to win is then exactly the weight's share, and members do not influence each other's bids. The
//! logarithm is `libm`'s, because the bids must be the same bits natively and in wasm.
use std::cmp::Reverse;

use xxhash_rust::xxh64::xxh64;

use super::{Member, normalised_weights};

/// Bids found in one pass, without a list of all: what the hot path takes.
pub(super) const BEST: usize = 3;

#[derive(Clone, Debug)]
pub(super) struct Scores {
    bidders: Vec<Bidder>,
}

#[derive(Clone, Debug)]
struct Bidder {
    member: u32,
    key_hash: u64,
    weight: f64,
}

/// A bid and its bidder. Ordered by rank: the higher bid first, the earlier member among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bid {
    /// Bids are positive, and the bits of positive doubles are in the order of their values.
    bits: Reverse<u64>,
    pub(super) member: u32,
}

impl Scores {
    pub(super) fn build(members: &[Member]) -> Self {
        let weights = normalised_weights(members);
        let bidders = (0_u32..)
            .zip(members)
            .zip(weights)
            .filter(|(_, weight)| *weight > 0.0)
            .map(|((index, member), weight)| Bidder {
                member: index,
                key_hash: xxh64(member.key.as_bytes(), 0),
                // Only how bids compare matters; whole numbers keep those of equal shares what they were.
                weight: member.locality.map_or(f64::from(member.weight), |_| weight),
            })
            .collect();
        Self { bidders }
    }

    /// How many members bid.
    pub(super) fn len(&self) -> usize {
        self.bidders.len()
    }

    /// The best bids, best first.
    pub(super) fn best(&self, hash: u64) -> [Option<Bid>; BEST] {
        let mut best = [None; BEST];
        for bid in self.bids(hash) {
            let mut bid = Some(bid);
            for place in &mut best {
                if place.is_none_or(|holder| bid.is_some_and(|bid| bid < holder)) {
                    std::mem::swap(place, &mut bid);
                }
            }
        }
        best
    }

    /// All other bids, worst first.
    pub(super) fn rest(&self, hash: u64, best: &[Option<Bid>; BEST]) -> Vec<Bid> {
        let mut rest: Vec<Bid> = self.bids(hash).filter(|bid| !best.contains(&Some(*bid))).collect();
        rest.sort_unstable_by_key(|bid| Reverse(*bid));
        rest
    }

    fn bids(&self, hash: u64) -> impl Iterator<Item = Bid> {
        let bid = move |bidder: &Bidder| Reverse(bidder.bid(hash).to_bits());
        self.bidders.iter().map(move |bidder| Bid { bits: bid(bidder), member: bidder.member })
    }
}

impl Bidder {
    fn bid(&self, hash: u64) -> f64 {
        let mut text = [0_u8; 16];
        let (key_part, session_part) = text.split_at_mut(8);
        key_part.copy_from_slice(&self.key_hash.to_le_bytes());
        session_part.copy_from_slice(&hash.to_le_bytes());
        -self.weight / libm::log(unit_interval(xxh64(&text, 0)))
    }
}

/// A number in (0, 1), both ends excluded: 52 bits and a half fill a double's 53 bits exactly.
fn unit_interval(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_every_hash_into_the_open_interval() {
        for hash in [0, 1, 1 << 12, u64::MAX / 2, u64::MAX] {
            let unit = unit_interval(hash);
            assert!(unit > 0.0 && unit < 1.0, "{hash} gives {unit}");
        }
    }

    #[test]
    fn bids_the_same_bits_on_every_platform() {
        let bidder = Bidder { member: 0, key_hash: xxh64(b"127.0.0.1:90", 0), weight: 3.0 };

        let bits = [0, 1, u64::MAX].map(|hash| bidder.bid(hash).to_bits());

        assert_eq!(bits, [4_612_303_665_111_874_296, 4_608_420_712_174_783_220, 4_610_777_824_983_954_138]);
    }
}
