//! Counts that cost no call to the host: they add up here, and the metrics export takes them from time to time.

use std::cell::Cell;

/// `N` counts, each known by its index.
#[derive(Debug)]
pub struct Counters<const N: usize>([Cell<u64>; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::new(0)))
    }
}

impl<const N: usize> Counters<N> {
    /// Adds to one of them. An index that is out of range counts nothing.
    pub fn add(&self, index: usize, by: u64) {
        if let Some(count) = self.0.get(index) {
            count.set(count.get() + by);
        }
    }

    /// Every count that is not zero, with its index. Each starts from zero again.
    pub fn take(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().map(Cell::take).enumerate().filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_not_taken_again() {
        let counters = Counters::<3>::default();
        counters.add(0, 2);
        counters.add(2, 5);
        counters.add(2, 1);
        counters.add(3, 9);

        assert_eq!(counters.take().collect::<Vec<_>>(), [(0, 2), (2, 6)]);
        assert_eq!(counters.take().count(), 0);
    }
}
