//! A session in use, with what it takes to say of it that it is there.

use crate::pins::PinKey;
use crate::time::Millis;

/// A session that a request under way holds in use, or that is yet to be claimed for its node.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: PinKey,
    pub(super) ttl: Option<Millis>,
    pub(super) ends: Option<Millis>,
    pub(super) created: Option<Millis>,
}
