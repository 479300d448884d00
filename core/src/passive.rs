//! What requests say of a node: which of them blame it, and when that is enough to put it out.
//!
//! A request is evidence at the moment its response begins, and only then: how a response ends (a WebSocket, a stream, a
//! body that ends with its connection) says nothing of the node. A *connect* failure cannot be caused by a request, so a
//! few in a row are enough, even of one session. A *reset or timeout* can: it takes several sessions, and no answer to any
//! other. Failures are counted in a small record that all VMs of an Envoy share ([`Ledger`]); answers are remembered in the
//! VM that saw them ([`Answers`]), so that an answer costs no call. A suspicion waits until every VM has had time to
//! compare it with the answers that it remembers. How the record is shared is not decided here.

mod answers;
mod ledger;

use crate::time::Millis;

pub use answers::Answers;
pub use ledger::{Ledger, MAX_ROWS, Noted};

/// How far back an answer counts for the node: a node that serves others is not sick.
pub const WINDOW: Millis = Millis(10_000);
/// How long a suspicion waits for answers that other VMs remember. Eight of their longest ticks, so that
/// an overloaded worker's answers count too.
pub const OBJECTION: Millis = Millis(2_000);

/// Upstream request timeout, remote reset, connection termination, upstream protocol error: the connection was up.
const RESETS: u64 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 23;
/// Connection failure: refused, timed out, or no TLS.
const CONNECT: u64 = 1 << 5;
/// Retries are used up: said beside the failure, or alone of a bad answer.
const RETRY_LIMIT: u64 = 1 << 15;
/// The fault filter delayed the request, before it was sent.
const DELAYED: u64 = 1 << 9;

/// How a node failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There was no connection to send the request on.
    Connect,
    /// The connection was up, and no response began.
    Reset,
    /// A retry hid it: most likely there was no connection, but the filter cannot know.
    Hidden,
}

/// What a request says of the node that had it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It answered, with whatever status.
    Answered,
    /// It did not.
    Failed(Kind),
    /// Nothing: the client left (`DC`), a circuit breaker was full (`UO`), no host was healthy (`UH`), and the like.
    None,
}

/// Reads Envoy's `response.flags` as they are when the response's headers pass.
#[must_use]
pub fn evidence(flags: u64) -> Evidence {
    if flags & !(RESETS | CONNECT | RETRY_LIMIT | DELAYED) != 0 {
        Evidence::None
    } else if flags & CONNECT != 0 {
        Evidence::Failed(Kind::Connect)
    } else if flags & RESETS != 0 {
        Evidence::Failed(Kind::Reset)
    } else {
        Evidence::Answered
    }
}

/// What the same flags say of the nodes that the request was sent to before, whose failures a retry hid.
///
/// The shipped policy retries only what was never sent. If the last attempt was reset, or ended in a bad answer and no
/// retry was left, the earlier ones may have ended alike.
#[must_use]
pub fn hidden_failure(flags: u64) -> Option<Kind> {
    match evidence(flags) {
        Evidence::Answered if flags & RETRY_LIMIT != 0 => None,
        Evidence::Answered | Evidence::Failed(Kind::Connect) => Some(Kind::Hidden),
        Evidence::Failed(kind) => Some(kind),
        Evidence::None => None,
    }
}

/// One failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The hash of the node's name.
    pub node: u64,
    /// How it failed.
    pub kind: Kind,
    /// The hash of the session.
    pub session: u64,
}

/// Checks that take longer to come to a result than two minutes leave sessions with a dead node for too long to decide alone.
/// Above Envoy's default interval for clusters without traffic.
const LONGEST_CHECK: Millis = Millis(120_000);

/// True if active checks that come to a result within this time, if there are any, decide what requests only suspect.
#[must_use]
pub fn check_decides(check_period: Option<Millis>) -> bool {
    check_period.is_some_and(|period| period <= LONGEST_CHECK)
}

/// What a pool makes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many put a node out; 0 for never.
    pub limit: u32,
    /// Envoy checks the nodes itself: then all that a request could have caused is its affair.
    pub is_checked: bool,
}

impl Rules {
    /// The rules of a pool whose active checks come to a result within `check_period`, if it has any.
    #[must_use]
    pub fn new(limit: u32, check_period: Option<Millis>) -> Self {
        Self { limit, is_checked: check_decides(check_period) }
    }
}

/// What one VM knows of a pool's failures: the answers that it saw, and the shared record as it last read it.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    /// The answers.
    pub answers: Answers,
    /// The record.
    pub ledger: Ledger,
}

impl Failures {
    /// The node at this place answered. True if it has failures on record, which that puts an end to.
    pub fn answered(&mut self, place: usize, node: u64, session: u64, now: Millis) -> bool {
        self.answers.note(place, node, session, now);
        !self.ledger.is_empty() && self.ledger.has(node)
    }
}

#[cfg(test)]
mod tests;
