//! Envoy's RING_HASH: points on a circle, each owned by a member; a hash belongs to the next point.
//!
//! Point j of a member is XXH64 of the text `<key>_<j>`, seed 0. How many points a member gets follows from a
//! running target in doubles, member by member; the order of operations is Envoy's and may not change.
//!
//! Above the sorted points lies an index by the leading bits of the hash, one bucket for one or two points. So a
//! lookup is a jump and a short search, two cache lines in all, and the successors are next to the owner.
//! Point hashes are uniform, so buckets stay small; if they were not, the search within one is still binary.
use xxhash_rust::xxh64::xxh64;

use super::{MAXIMUM_POINTS, Member, RingError, RingSize, normalised_weights};

/// A point's hash and its owner.
pub(super) type Point = (u64, u32);

#[derive(Clone, Debug)]
pub(super) struct Points {
    points: Vec<Point>,
    /// Per bucket the index of its first point, and one more entry: the number of points.
    starts: Vec<u32>,
    /// A hash shifted right by this is its bucket.
    shift: u32,
}

impl Points {
    pub(super) fn build(members: &[Member], size: RingSize) -> Result<Self, RingError> {
        let weights = normalised_weights(members);
        let scale = scale(members, &weights, size);
        if scale > MAXIMUM_POINTS as f64 {
            return Err(RingError::TooManyPoints { points: scale.ceil() as u64, limit: MAXIMUM_POINTS });
        }

        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let mut emitted = 0.0;
        let mut target = 0.0;
        for ((index, member), weight) in (0_u32..).zip(members).zip(weights) {
            target += scale * weight;
            let mut text = PointText::new(&member.key);
            while emitted < target {
                points.push((text.hash(), index));
                text.advance();
                emitted += 1.0;
            }
        }
        // By owner too: equal hashes must not depend on the sort.
        points.sort_unstable();

        let shift = u64::BITS - points.len().checked_ilog2().unwrap_or(0).max(1);
        let starts = bucket_starts(&points, shift);
        Ok(Self { points, starts, shift })
    }

    pub(super) fn as_slice(&self) -> &[Point] {
        &self.points
    }

    /// The index of the first point at or after `hash`, round the circle; 0 on an empty ring.
    pub(super) fn position(&self, hash: u64) -> usize {
        let bucket = (hash >> self.shift) as usize;
        let (Some(&start), Some(&end)) = (self.starts.get(bucket), self.starts.get(bucket + 1)) else {
            return 0;
        };
        let (start, end) = (start as usize, end as usize);
        let bucket = self.points.get(start..end).unwrap_or_default();
        let before = bucket.partition_point(|(point, _)| *point < hash);
        let position = start + before;
        if position == self.points.len() { 0 } else { position }
    }
}

/// How many points the whole ring should have; a fraction is meant.
fn scale(members: &[Member], weights: &[f64], size: RingSize) -> f64 {
    if members.is_empty() {
        return 0.0;
    }
    // A member without a share has no part in this.
    let smallest = weights.iter().filter(|weight| **weight > 0.0).fold(1.0_f64, |one, other| one.min(*other));
    let size = match size {
        // Weights of localities may differ by a factor of a million: then as many points as Envoy would make of it.
        RingSize::VirtualNodes(count) if members.iter().any(|member| member.locality.is_some()) => {
            let minimum = (u64::from(count) * members.len() as u64).min(MAXIMUM_POINTS);
            RingSize::Envoy { minimum, maximum: MAXIMUM_POINTS }
        }
        size => size,
    };
    match size {
        RingSize::VirtualNodes(count) => f64::from(count) / smallest,
        RingSize::Envoy { minimum, maximum } => {
            ((smallest * minimum as f64).ceil() / smallest).min(maximum as f64)
        }
    }
}

fn bucket_starts(points: &[Point], shift: u32) -> Vec<u32> {
    let buckets = 1_u64 << (u64::BITS - shift);
    let mut starts = Vec::with_capacity(buckets as usize + 1);
    let mut start = 0;
    let mut rest = points.iter().peekable();
    for bucket in 0..buckets {
        while rest.next_if(|(hash, _)| hash >> shift < bucket).is_some() {
            start += 1;
        }
        starts.push(start);
    }
    starts.push(points.len() as u32);
    starts
}

/// The text `<key>_<j>`, counted up in place: a ring of half a million points should not allocate as many texts.
struct PointText {
    text: Vec<u8>,
    digits_at: usize,
}

impl PointText {
    fn new(key: &str) -> Self {
        let mut text = Vec::with_capacity(key.len() + "_8388608".len());
        text.extend_from_slice(key.as_bytes());
        text.push(b'_');
        let digits_at = text.len();
        text.push(b'0');
        Self { text, digits_at }
    }

    fn hash(&self) -> u64 {
        xxh64(&self.text, 0)
    }

    fn advance(&mut self) {
        for digit in self.text.iter_mut().skip(self.digits_at).rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.text.insert(self.digits_at, b'1');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_point_texts_as_decimal_numbers() {
        let mut text = PointText::new("10.0.0.1:80");

        for j in 0..1_234 {
            assert_eq!(String::from_utf8_lossy(&text.text), format!("10.0.0.1:80_{j}"));
            text.advance();
        }
    }

    #[test]
    fn finds_the_same_position_as_a_plain_search() {
        for count in [1_u32, 2, 3, 5, 64, 200] {
            let members: Vec<Member> =
                (0..count).map(|port| Member::new(format!("10.0.0.1:{port}"), 1)).collect();
            for virtual_nodes in [1, 3, 64] {
                let points = Points::build(&members, RingSize::VirtualNodes(virtual_nodes)).unwrap();
                let on_points = points.points.iter().map(|(hash, _)| *hash);
                let beside = on_points.clone().flat_map(|hash| [hash.wrapping_sub(1), hash.wrapping_add(1)]);
                let spread = (0..1_000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));

                for hash in on_points.clone().chain(beside).chain(spread).chain([0, u64::MAX]) {
                    let plain =
                        points.points.partition_point(|(point, _)| *point < hash) % points.points.len();
                    assert_eq!(points.position(hash), plain, "hash {hash} among {}", points.points.len());
                }
            }
        }
    }
}
