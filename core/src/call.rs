//! Calls that the adapter makes for core: whose they are, and how they fail.

use crate::event::CallResult;

/// The context that a call belongs to: its answer is lost if that context ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A request's.
    Stream(u32),
    /// The worker's own, which does not end.
    Root,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// As it is counted.
    pub result: CallResult,
    /// The answer was 404.
    pub is_missing: bool,
    /// The answer was 400: it is not as the service wants it, perhaps since that is an older one.
    pub is_refused: bool,
    /// The length of the answer's body, in bytes; 0 without one.
    pub size: usize,
    /// For the log: the answer's status and the beginning of its body, or why there was no answer.
    pub detail: String,
}

impl CallFailure {
    /// An answer that sends the caller elsewhere, which no call follows: what is trusted stands in the configuration.
    #[must_use]
    pub fn redirected(status: &str, location: &str) -> Self {
        Self::new(&format!(
            "{status} redirects to {location:.160}, which is not followed: configure the cluster, host and path of that place"
        ))
    }

    /// A failure without an answer.
    #[must_use]
    pub fn new(detail: &str) -> Self {
        Self {
            result: CallResult::Failed,
            is_missing: false,
            is_refused: false,
            size: 0,
            detail: detail.to_owned(),
        }
    }
}
