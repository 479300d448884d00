//! The Lua that runs inside Redis. Each file says its KEYS and ARGV, and why it is not a transaction.

use std::sync::LazyLock;

/// A script and the hash that Redis knows it by.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// A script that reads what has a format.
macro_rules! reads {
    ($file:literal) => {
        concat!(include_str!("scripts/format.lua"), include_str!($file))
    };
}

/// A script that logs changes.
macro_rules! logs {
    ($file:literal) => {
        concat!(include_str!("scripts/log.lua"), include_str!($file))
    };
}

/// A script that does both.
macro_rules! reads_and_logs {
    ($file:literal) => {
        concat!(include_str!("scripts/format.lua"), include_str!("scripts/log.lua"), include_str!($file))
    };
}

/// A script that compares versions as well.
macro_rules! compares {
    ($file:literal) => {
        concat!(
            include_str!("scripts/format.lua"),
            include_str!("scripts/log.lua"),
            include_str!("scripts/versions.lua"),
            include_str!($file)
        )
    };
}

/// A script that is hashed once.
pub(super) type Named = LazyLock<Script>;

/// Finds, claims, inherits or rehomes one session.
pub(super) static RESOLVE: Named = Named::new(|| Script::new(compares!("scripts/resolve.lua")));
/// Lets a former key's pin learn a higher session version.
pub(super) static RAISE: Named = Named::new(|| Script::new(reads_and_logs!("scripts/raise.lua")));
/// Gives pins their time again.
pub(super) static TOUCH: Named = Named::new(|| Script::new(compares!("scripts/touch.lua")));
/// Ends one session.
pub(super) static END: Named = Named::new(|| Script::new(reads_and_logs!("scripts/end.lua")));
/// Writes a node's record.
pub(super) static CHANGE_NODE: Named = Named::new(|| Script::new(logs!("scripts/change_node.lua")));
/// Copies a node's record into one more shard.
pub(super) static COPY_NODE: Named = Named::new(|| Script::new(reads!("scripts/copy_node.lua")));
/// Drops a node's record, or a copy of it.
pub(super) static DROP_NODE: Named = Named::new(|| Script::new(include_str!("scripts/drop_node.lua")));
/// Reads one shard's changes.
pub(super) static CHANGES: Named = Named::new(|| Script::new(include_str!("scripts/changes.lua")));
/// Whether a shard takes writes.
pub(super) static PROBE: Named = Named::new(|| Script::new(include_str!("scripts/probe.lua")));
