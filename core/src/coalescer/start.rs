//! A worker's start: it knows nothing of any session yet, so the ring would be a guess.
//!
//! One bound holds for all that a starting worker waits for, the first members and the first answers alike. It counts from
//! the first request that waits, and then the start is over for good: a state cluster that is away delays the requests
//! that came first, and none after them. The first answer does not end it, since all the clients of a restarted proxy come
//! at once, and each of their sessions is as unknown as the first.

use crate::time::Millis;

/// How far a worker's start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// No request has waited yet.
    Ahead,
    /// Requests wait, the first one since then.
    Since(Millis),
    /// The bound is over.
    Over,
}

impl Start {
    /// With a bound of zero there is no start to wait for.
    pub(super) fn new(bound: Millis) -> Self {
        if bound == Millis(0) { Self::Over } else { Self::Ahead }
    }

    /// A request waits from `now` on. What is left of the bound; zero once the start is over.
    pub(super) fn wait(&mut self, bound: Millis, now: Millis) -> Millis {
        let since = match *self {
            Self::Ahead => now,
            Self::Since(since) if !bound.is_over(since, now) => since,
            Self::Since(_) | Self::Over => {
                *self = Self::Over;
                return Millis(0);
            }
        };
        *self = Self::Since(since);
        Millis(bound.0 - now.since(since).0)
    }

    /// When the first request began to wait, as long as the start lasts.
    pub(super) fn since(self) -> Option<Millis> {
        match self {
            Self::Since(since) => Some(since),
            Self::Ahead | Self::Over => None,
        }
    }
}
