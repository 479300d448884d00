//! How long connections of either kind may take.

use std::time::Duration;

/// Connecting may take longer than a call: calls give up on their own, and the attempt serves the next ones.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that vanished without a word is given up after this time without an acknowledgement.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(2);
