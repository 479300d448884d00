//! Versions of pins: a hybrid logical clock (Kulkarni et al. 2014), in microseconds of Unix time.
//!
//! The next version of a session is the store's time, or one more than the highest that is known if that is later. So it
//! needs no memory of the last one to be higher: a store that lost its latest writes, was restored from a backup or was emptied
//! gives out none that it gave before, unless its clock is set back as well; and for that each shard remembers its latest.
//! 2^53 microseconds, the last that is exact in JSON and Lua, end in the year 2255.

use berth_core::time::Millis;

/// A proxy's word that is so far ahead of the store's clock is not of this store. A day, in microseconds.
const AHEAD: u64 = 86_400_000_000;

/// The version that follows `known`, at a time.
#[must_use]
pub fn next(known: impl IntoIterator<Item = u64>, now: Millis) -> u64 {
    let after = known.into_iter().max().map_or(1, |known| known + 1);
    after.max(now.0.saturating_mul(1000))
}

/// Whether a version may have come from this store.
#[must_use]
pub fn is_plausible(version: u64, now: Millis) -> bool {
    version < now.0.saturating_mul(1000).saturating_add(AHEAD)
}

/// When a node got a session, by the version that it got it with; one that is no time counts as long ago. What was before it is not 0,
/// which has a meaning of its own.
#[must_use]
pub fn time_of(version: u64, now: Millis) -> Millis {
    Millis(version / 1000).min(now).max(Millis(2))
}

/// Whether an earlier claim may still win against one of this time. A proxy that knows the earlier one says so within a touch
/// interval, a quarter of a pin's life at most. By then the later one's node has the session's state.
#[must_use]
pub fn is_contested(claimed: Millis, ttl: Millis, now: Millis) -> bool {
    now.since(claimed).0 <= ttl.0 / 4
}
