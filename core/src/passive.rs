//! What one worker learns from its own requests: which failures are a node's fault, and how many came in a row.

use std::collections::BTreeMap;

/// Envoy's `response.flags` bits that blame the node: upstream request timeout, remote reset, connection failure,
/// connection termination. Not among them: a client that left (`DC`), a full circuit breaker (`UO`), no healthy
/// host (`UH`), a local reset (`LR`).
const BLAME_THE_NODE: u64 = TIMEOUT | REMOTE_RESET | CONNECTION_FAILURE | CONNECTION_TERMINATION;
const TIMEOUT: u64 = 1 << 2;
const REMOTE_RESET: u64 = 1 << 4;
const CONNECTION_FAILURE: u64 = 1 << 5;
const CONNECTION_TERMINATION: u64 = 1 << 6;
/// The client ended the request: whatever else is flagged may be the consequence.
const DOWNSTREAM_TERMINATION: u64 = 1 << 14;

/// True if a request that ended with these flags says something bad of the node that had it.
#[must_use]
pub fn blames_node(flags: u64) -> bool {
    flags & BLAME_THE_NODE != 0 && flags & DOWNSTREAM_TERMINATION == 0
}

/// Consecutive failures by node. Nodes without any are not in it, so it is nearly always empty.
#[derive(Debug, Default)]
pub struct Failures {
    consecutive: BTreeMap<String, u32>,
}

impl Failures {
    /// The node answered: its count starts anew.
    pub fn succeeded(&mut self, node: &str) {
        if !self.consecutive.is_empty() {
            self.consecutive.remove(node);
        }
    }

    /// The node failed. True if that was the `limit`th time in a row (0: never); the count then starts anew.
    pub fn failed(&mut self, node: &str, limit: u32) -> bool {
        if limit == 0 {
            return false;
        }
        let count = match self.consecutive.get_mut(node) {
            Some(count) => count,
            None => self.consecutive.entry(node.to_owned()).or_default(),
        };
        *count += 1;
        let reached = *count >= limit;
        if reached {
            self.consecutive.remove(node);
        }
        reached
    }

    /// Forgets nodes that are no longer members.
    pub fn retain(&mut self, is_member: impl Fn(&str) -> bool) {
        self.consecutive.retain(|node, _| is_member(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_disconnects_and_overflow_never_blame_the_node() {
        assert!(blames_node(CONNECTION_FAILURE | 1 << 15));
        assert!(blames_node(TIMEOUT));
        assert!(!blames_node(DOWNSTREAM_TERMINATION));
        assert!(!blames_node(DOWNSTREAM_TERMINATION | CONNECTION_TERMINATION));
        assert!(!blames_node(1 << 7), "overflow");
        assert!(!blames_node(0));
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let mut failures = Failures::default();
        assert!(!failures.failed("a", 3));
        assert!(!failures.failed("a", 3));
        failures.succeeded("a");
        assert!(!failures.failed("a", 3));
        assert!(!failures.failed("a", 3));
        assert!(!failures.failed("b", 3));
        assert!(failures.failed("a", 3));
        assert!(!failures.failed("a", 3), "starts anew after it was reported");
    }

    #[test]
    fn a_limit_of_zero_switches_it_off() {
        assert!((0..10).all(|_| !Failures::default().failed("a", 0)));
    }
}
