//! Sessions that their backend ended: each is reported to the state service, and again if that fails.
//!
//! The id may be a new session's by then. A report says how long ago the session ended, so the store leaves a newer pin alone;
//! and if the new session found the old pin, through this worker, nothing is reported any more.

use std::collections::VecDeque;

use super::MAINTENANCE_TIMEOUT;
use crate::pins::PinKey;
use crate::time::Millis;
use crate::wire::{MAX_ENDED_AGO, SessionKey};

/// Ends under way at once.
const CALLS: usize = 16;
/// An end that failed so often is left to the pin's time to live.
const TRIES: u8 = 10;
/// The first report goes out with the next tick. One that is this old was held up.
const LATE: Millis = Millis(500);
/// Ends that wait while the state service is away; the oldest are left to their time to live.
const MAX_QUEUED: usize = 10_000;

/// The ends of one pool.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) queue: VecDeque<Ending>,
    pub(super) calls: Vec<(u32, Ending)>,
}

/// One session's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) key: SessionKey,
    /// Where a session that begins under the same id has its pin in this worker.
    pub(super) pin: PinKey,
    at: Millis,
    tries: u8,
}

impl Ending {
    /// True if it was reported before, without success as far as this worker knows.
    pub(super) fn is_repeated(&self) -> bool {
        self.tries > 0
    }

    /// True if requests of a new session may have come since. Within a tick or two they are the old one's last.
    pub(super) fn is_late(&self, now: Millis) -> bool {
        self.is_repeated() || LATE.is_over(self.at, now)
    }

    /// How long ago the session ended, as a call that is made now says it. If an earlier call did reach the store, a newer
    /// pin may be there. So the time of this call is included, and if the clock was set back, the longest time is said.
    pub(super) fn ago(&self, now: Millis) -> Millis {
        match self.is_repeated() {
            false => now.since(self.at),
            true if now < self.at => Millis(MAX_ENDED_AGO),
            true => now.since(self.at) + MAINTENANCE_TIMEOUT,
        }
    }
}

impl Ends {
    /// False if another one had to be given up for it.
    pub(super) fn push(&mut self, key: SessionKey, pin: PinKey, at: Millis) -> bool {
        self.queue.push_back(Ending { key, pin, at, tries: 0 });
        self.queue.len() <= MAX_QUEUED || self.queue.pop_front().is_none()
    }

    /// Takes over what has yet to be reported. A call that is under way stays with the worker that made it.
    pub(super) fn succeed(&mut self, former: &Self) {
        self.queue.clone_from(&former.queue);
    }

    /// The next end to report, if a call slot is free.
    pub(super) fn next(&mut self) -> Option<Ending> {
        if self.calls.len() < CALLS { self.queue.pop_front() } else { None }
    }

    /// The call of an end came to its end.
    pub(super) fn take(&mut self, token: u32) -> Option<Ending> {
        let index = self.calls.iter().position(|(call, _)| *call == token)?;
        Some(self.calls.swap_remove(index).1)
    }

    /// Queues the end to be reported again. False if it was tried often enough.
    pub(super) fn retry(&mut self, ending: Ending) -> bool {
        let may_retry = ending.tries < TRIES;
        if may_retry {
            self.queue.push_back(Ending { tries: ending.tries + 1, ..ending });
        }
        may_retry
    }
}
