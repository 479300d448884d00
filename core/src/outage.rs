//! When to say that something which is asked again and again fails, and when that it works again: once each for an outage.
//!
//! One good answer between failures does not end an outage, or what flaps would be told of with each turn. What is said,
//! and where, is the caller's.

/// One thing that may fail.
#[derive(Debug, Default)]
pub struct Outage {
    is_on: bool,
    /// The latest answer was a good one.
    was_good: bool,
}

impl Outage {
    /// Takes in whether it failed this time. True if an outage has just begun, or is over by a second good answer in a row:
    /// that is to be told.
    pub fn note(&mut self, fails: bool) -> bool {
        let is_on = fails || self.is_on && !self.was_good;
        self.was_good = !fails;
        std::mem::replace(&mut self.is_on, is_on) != is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_its_end_once() {
        let mut outage = Outage::default();
        let mut told = |fails: &[bool]| fails.iter().map(|fails| outage.note(*fails)).collect::<Vec<_>>();

        assert_eq!(told(&[false, false]), [false, false]);
        assert_eq!(told(&[true, true, true]), [true, false, false]);
        assert_eq!(told(&[false, false, false]), [false, true, false]);
        assert_eq!(told(&[true]), [true]);
    }

    #[test]
    fn what_flaps_is_told_once() {
        let mut outage = Outage::default();

        let told = (0..100).filter(|turn| outage.note(turn % 2 == 0)).count();

        assert_eq!(told, 1);
    }
}
