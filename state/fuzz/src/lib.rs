//! What each fuzz target checks, as plain functions of bytes: see `core/fuzz/src/lib.rs`, whose pattern this is.
//!
//! `state/tests/fuzz_corpus.rs` replays the committed corpus.

pub mod api;
pub mod redis;

/// A target's name, which is also that of its corpus folder, and what it checks: it panics if a promise is broken.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[("api", api::check), ("redis", redis::check)];
