//! Envoy's MAGLEV: a table of slots, each owned by a member; a hash belongs to slot hash mod size.
//!
//! Members take turns by weight, each taking the next free slot of its own walk through the table. The walk
//! starts and steps by XXH64 of the key with seeds 0 and 1. Members are sorted by key, so their order is free.
//! Weights are doubles and compared in Envoy's order.
use xxhash_rust::xxh64::xxh64;

use super::{MAXIMUM_TABLE_SIZE, Member, normalised_weights};

/// No member has this index: `Ring::build` allows far fewer.
const FREE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The owner of each slot; empty without members, else full.
    owners: Vec<u32>,
}

impl Table {
    pub(super) fn build(members: &[Member], table_size: u32) -> Self {
        let mut walks: Vec<Walk<'_>> = (0_u32..)
            .zip(members)
            .zip(normalised_weights(members))
            .filter(|(_, weight)| *weight > 0.0)
            .map(|((index, member), weight)| Walk::new(index, &member.key, weight, table_size.into()))
            .collect();
        if walks.is_empty() {
            return Self { owners: Vec::new() };
        }
        walks.sort_unstable_by_key(|walk| (walk.key, walk.index));
        let largest = walks.iter().map(|walk| walk.weight).fold(0.0, f64::max);

        let mut owners = vec![FREE; table_size as usize];
        let mut free = table_size;
        let mut turn = 0.0;
        while free > 0 {
            turn += 1.0;
            for walk in &mut walks {
                if turn * walk.weight < walk.target {
                    continue;
                }
                walk.target += largest;
                walk.take(&mut owners);
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Self { owners }
    }

    pub(super) fn owners(&self) -> &[u32] {
        &self.owners
    }
}

/// One member's way through the table. The size is prime and the step smaller, so the way meets every slot.
struct Walk<'members> {
    index: u32,
    key: &'members str,
    weight: f64,
    target: f64,
    slot: u64,
    step: u64,
    table_size: u64,
}

impl<'members> Walk<'members> {
    fn new(index: u32, key: &'members str, weight: f64, table_size: u64) -> Self {
        let slot = xxh64(key.as_bytes(), 0) % table_size;
        // Two is the smallest prime, so the divisor is never zero.
        let step = xxh64(key.as_bytes(), 1) % (table_size - 1) + 1;
        Self { index, key, weight, target: 0.0, slot, step, table_size }
    }

    /// Takes the next free slot. The caller knows that there is one.
    fn take(&mut self, owners: &mut [u32]) {
        loop {
            let slot = self.slot as usize;
            self.slot = (self.slot + self.step) % self.table_size;
            match owners.get_mut(slot) {
                Some(owner) if *owner != FREE => {}
                Some(owner) => return *owner = self.index,
                None => return,
            }
        }
    }
}

/// The smallest prime at or above `number`, or the largest that a table may have.
pub(super) fn next_prime(number: u32) -> u32 {
    (number.max(2)..MAXIMUM_TABLE_SIZE).find(|candidate| is_prime(*candidate)).unwrap_or(MAXIMUM_TABLE_SIZE)
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_next_prime() {
        let cases = [(1, 2), (2, 2), (4, 5), (65_536, 65_537), (65_537, 65_537), (5_000_000, 5_000_011)];

        for (number, prime) in cases {
            assert_eq!(next_prime(number), prime);
        }
        assert!(is_prime(MAXIMUM_TABLE_SIZE));
    }
}
