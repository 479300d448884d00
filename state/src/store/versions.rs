//! Versions of pins: a hybrid logical clock (Kulkarni et al. 2014), in microseconds of Unix time.
//!
//! The next version of a session is the store's time, or one more than the highest that is known if that is later. So it
//! needs no memory of the last one to be higher: a store that lost its latest writes, was restored from a backup or was emptied
//! gives out none that it gave before, unless its clock is set back as well; and for that each shard remembers its latest.
//! 2^53 microseconds, the last that is exact in JSON and Lua, end in the year 2255.

use berth_core::time::Millis;
use berth_core::wire::TOUCH_INTERVAL;

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

/// When a node got a session, by the version that it got it with; one that is no time counts as long ago. What was before it is not one of
/// the marks of `claims`.
#[must_use]
pub fn time_of(version: u64, now: Millis) -> Millis {
    Millis(version / 1000).min(now).max(Millis(3))
}

/// A touch may come so much later than its interval, in milliseconds: a gap in the changes is found within 8 s, a breaker asks again
/// within 5 s, and calls fail.
const LATE: u64 = 20_000;

/// Whether an earlier claim may still win against one of this time. A proxy that knows the earlier one says so within a touch interval.
/// By then the later one's node has the session's state.
#[must_use]
pub fn is_contested(claimed: Millis, ttl: Millis, now: Millis) -> bool {
    now.since(claimed).0 <= TOUCH_INTERVAL.min(ttl.0 / 4) + LATE
}
