//! What is to happen to a request. A decision is data: it names every effect and has none.
//!
//! The adapter applies it: it writes the headers, lets the request go on, or answers it. What to count follows from the
//! decision too, so two adapters cannot count differently.

use std::borrow::Cow;
use std::fmt;

use crate::config::{OnPanic, OnVanish, Pool};
use crate::event::{Outcome, Reason, RuleResult, Unplaced};
use crate::placement::{NoPlacement, Placement};
use crate::token::Refusal;
use crate::wire::NodeId;

/// What is to happen to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes to these nodes.
    Route {
        /// The nodes, best first.
        placement: Placement,
        /// The notice about the session for the first of them.
        notice: Option<Notice>,
    },
    /// It goes where Envoy's own ring sends its session id.
    Fallback {
        /// Why Berth could not place it.
        why: Unplaced,
        /// The same, for the debug header.
        reason: Reason,
    },
    /// It goes on as if Berth were not there.
    Pass {
        /// Why.
        reason: Reason,
        /// The address of the node that Berth would have chosen, if it only observes.
        would: Option<String>,
    },
    /// Berth answers it.
    Reply(Reply),
    /// No rule takes it.
    Bypass,
}

/// An answer of Berth's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// For the debug header.
    pub reason: Reason,
    /// Text for people.
    pub body: Cow<'static, str>,
    /// The value of `www-authenticate`.
    pub challenge: Option<&'static str>,
    /// The value of `retry-after`, in seconds.
    pub retry_after: Option<u64>,
    /// The value of `set-cookie`: it deletes the cookie that would be refused again.
    pub set_cookie: Option<Box<str>>,
    /// Only one node could have answered, and it cannot now.
    pub is_withheld: bool,
}

/// The notice to a node about a session that it does not hold yet: the value of the header `x-berth-session`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Another node had it until now.
    Rehomed {
        /// That node.
        from: NodeId,
        /// The pin's version.
        version: u64,
    },
    /// This node had it before it was restarted.
    Restore {
        /// The pin's version.
        version: u64,
    },
}

impl Notice {
    /// The version of the session's pin.
    #[must_use]
    pub fn version(&self) -> u64 {
        match self {
            Self::Rehomed { version, .. } | Self::Restore { version } => *version,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rehomed { from, version } => write!(f, "rehomed; from={from}; version={version}"),
            Self::Restore { version } => write!(f, "restore; version={version}"),
        }
    }
}

/// What a pool's configuration says of requests that cannot be placed as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPolicy {
    /// What panic means.
    pub on_panic: OnPanic,
    /// What it means that the session's node vanished together with many others.
    pub on_vanish: OnVanish,
    /// When a client that is turned away for a time should come back, in seconds.
    pub retry_after: u64,
}

impl PoolPolicy {
    /// That of a configured pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Self {
        let Pool { on_panic, on_vanish, health, .. } = pool;
        let retry_after = health.panic_hold.0.div_ceil(1000).max(1);
        Self { on_panic: *on_panic, on_vanish: *on_vanish, retry_after }
    }

    /// The decision for a placement, or for the lack of one.
    #[must_use]
    pub fn decide(&self, placement: Result<Placement, NoPlacement>, notice: Option<Notice>) -> Decision {
        match placement {
            Ok(placement) if placement.outcome == Outcome::Panic && self.on_panic == OnPanic::Reject => {
                self.unavailable(Reason::NoUsableNode, "berth: too few nodes are usable; try again\n")
            }
            Ok(placement) => Decision::Route { placement, notice },
            Err(NoPlacement::NoMembers) => {
                Decision::Fallback { why: Unplaced::NoMembers, reason: Reason::NoMembers }
            }
            Err(NoPlacement::NoUsableNode) => {
                self.unavailable(Reason::NoUsableNode, "berth: no node is usable; try again\n")
            }
            Err(NoPlacement::Superseded) => {
                Decision::challenge(Reason::Superseded, Refusal::Signature.challenge())
            }
            Err(NoPlacement::Withheld(reason)) => self.withhold(reason),
        }
    }

    /// No answer is better than another node's.
    #[must_use]
    pub fn withhold(&self, reason: Reason) -> Decision {
        let body = "berth: the node of this session cannot serve it now; try again\n";
        match self.unavailable(reason, body) {
            Decision::Reply(reply) => Decision::Reply(Reply { is_withheld: true, ..reply }),
            other => other,
        }
    }

    /// 503 for now.
    #[must_use]
    pub fn unavailable(&self, reason: Reason, body: &'static str) -> Decision {
        let retry_after = Some(self.retry_after);
        Decision::Reply(Reply { retry_after, ..Reply::new(503, reason, Cow::Borrowed(body)) })
    }
}

impl Reply {
    /// An answer with a body and no headers of its own.
    #[must_use]
    pub fn new(status: u16, reason: Reason, body: Cow<'static, str>) -> Self {
        Self {
            status,
            reason,
            body,
            challenge: None,
            retry_after: None,
            set_cookie: None,
            is_withheld: false,
        }
    }
}

impl Decision {
    /// As if Berth were not there.
    #[must_use]
    pub fn pass(reason: Reason) -> Self {
        Self::Pass { reason, would: None }
    }

    /// The client is to come with a token that can be believed.
    #[must_use]
    pub fn challenge(reason: Reason, challenge: &'static str) -> Self {
        let body = Cow::Borrowed("berth: this request needs a valid token\n");
        Self::Reply(Reply { challenge: Some(challenge), ..Reply::new(401, reason, body) })
    }

    /// True if the request goes on now.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !matches!(self, Self::Reply(_))
    }

    /// What its rule counts of it; `None` if that depends on which node answers.
    #[must_use]
    pub fn rule_result(&self) -> Option<RuleResult> {
        Some(match self {
            Self::Bypass | Self::Pass { reason: Reason::Observed, .. } => return None,
            Self::Pass { reason: Reason::AffinityOff, .. } => RuleResult::AffinityOff,
            Self::Pass { reason: Reason::NotRolledOut, .. } => RuleResult::NotRolledOut,
            Self::Pass { .. } => RuleResult::Sessionless,
            Self::Route { .. } | Self::Fallback { .. } => RuleResult::Enforced,
            Self::Reply(reply) if reply.is_withheld => RuleResult::Withheld,
            Self::Reply(_) => RuleResult::Rejected,
        })
    }
}
