//! How far Berth is switched on for the requests of a rule, and for which sessions.
//!
//! A session's place in the rollout is a hash of its id and of nothing else: at a given percentage it is in or out for
//! good, on every proxy, and as the percentage grows sessions are only ever added. What happens to those that are out
//! is Envoy's matter: to them it is as if Berth were not there.

use xxhash_rust::xxh64::xxh64;

use crate::session::SessionId;

/// Another seed than the ring's, so that the first percent are not all neighbours on it.
const SEED: u64 = 0x726f_6c6c_6f75_7421;

/// What is done with the sessions that are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are placed.
    #[default]
    Enforce,
    /// Their placement is decided and counted, and Envoy routes them as it would without Berth.
    Observe,
    /// Nothing: the switch is off.
    Off,
}

/// How far Berth is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// For the sessions that are in.
    pub mode: Mode,
    /// Of all sessions, 0 to 100.
    pub percent: u8,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { mode: Mode::Enforce, percent: 100 }
    }
}

impl Rollout {
    /// No session is placed.
    #[must_use]
    pub fn is_off(self) -> bool {
        self.mode == Mode::Off || self.percent == 0
    }

    /// Some sessions are out. A request without a session may then belong to one of them.
    #[must_use]
    pub fn is_partial(self) -> bool {
        self.percent < 100
    }

    /// What is done with this session.
    #[must_use]
    pub fn mode_for(self, id: &SessionId) -> Mode {
        if is_within(id, self.percent) { self.mode } else { Mode::Off }
    }
}

/// Whether a session is among the first `percent` of a hundred.
#[must_use]
pub fn is_within(id: &SessionId, percent: u8) -> bool {
    if percent >= 100 {
        return true;
    }
    // The upper half of the hash as a fraction of one, in hundredths.
    let place = ((xxh64(id.as_bytes(), SEED) >> 32) * 100) >> 32;
    place < u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::session_hash;

    fn ids() -> impl Iterator<Item = SessionId> {
        (0..20_000).map(|number| SessionId::new(format!("player-{number}").into_bytes()).unwrap())
    }

    #[test]
    fn sessions_are_only_ever_added() {
        for id in ids() {
            let first = (0..=100).find(|percent| is_within(&id, *percent)).unwrap();
            assert!(first >= 1, "at 0 percent no session is in");
            assert!((first..=100).all(|percent| is_within(&id, percent)));
        }
    }

    #[test]
    fn the_share_is_what_was_asked_for() {
        for percent in [1, 10, 50, 90] {
            let share = ids().filter(|id| is_within(id, percent)).count() as f64 / 20_000.0;
            assert!((share - f64::from(percent) / 100.0).abs() < 0.01, "{percent} %: {share}");
        }
    }

    /// The first tenth would otherwise be the sessions of one node.
    #[test]
    fn who_is_in_does_not_depend_on_the_place_on_the_ring() {
        let (mut low, mut all) = (0, 0);
        for id in ids().filter(|id| is_within(id, 10)) {
            low += usize::from(session_hash(id.as_bytes()) < u64::MAX / 4);
            all += 1;
        }
        let share = f64::from(low as u32) / f64::from(all as u32);
        assert!((0.2..0.3).contains(&share), "{share}");
    }

    #[test]
    fn a_session_that_is_out_is_left_alone_in_every_mode() {
        let id = SessionId::new(b"alice".to_vec()).unwrap();
        for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
            assert_eq!(Rollout { mode, percent: 0 }.mode_for(&id), Mode::Off);
            assert_eq!(Rollout { mode, percent: 100 }.mode_for(&id), mode);
        }
    }
}
