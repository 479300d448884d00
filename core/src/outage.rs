//! When to say that something which is asked again and again fails, and when that it works again: once each for an outage.
//!
//! One good answer between failures does not end an outage; otherwise each turn of a flapping service would be reported.
//! What is said, and where, is up to the caller.

/// One thing that may fail.
#[derive(Debug, Default)]
pub struct Outage {
    is_on: bool,
    /// The latest answer was a good one.
    was_good: bool,
}

impl Outage {
    /// Takes in whether it failed this time. True if an outage has just begun, or is over by a second good answer in a row:
    /// the caller is to report that.
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
    fn an_outage_is_reported_once_and_its_end_once() {
        let mut outage = Outage::default();
        let mut reports = |fails: &[bool]| fails.iter().map(|fails| outage.note(*fails)).collect::<Vec<_>>();

        assert_eq!(reports(&[false, false]), [false, false]);
        assert_eq!(reports(&[true, true, true]), [true, false, false]);
        assert_eq!(reports(&[false, false, false]), [false, true, false]);
        assert_eq!(reports(&[true]), [true]);
    }

    #[test]
    fn what_flaps_is_reported_once() {
        let mut outage = Outage::default();

        let reports = (0..100).filter(|turn| outage.note(turn % 2 == 0)).count();

        assert_eq!(reports, 1);
    }
}
