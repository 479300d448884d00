//! What each fuzz target checks, as plain functions of bytes.
//!
//! libFuzzer calls them through `fuzz_targets/`; `core/tests/fuzz_corpus.rs` includes this file and replays the committed
//! corpus, so that what fuzzing once found stays found under a plain `cargo test`. A new target is a module here, a line
//! in [`TARGETS`], a three-line file in `fuzz_targets/`, a `[[bin]]` and a folder in `corpus/`.

pub mod clusters;
pub mod config;
pub mod roster;
pub mod session;

/// A target's name, which is also that of its corpus folder, and what it checks: it panics if a promise is broken.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("clusters", clusters::check),
    ("config", config::check),
    ("roster", roster::check),
    ("session", session::check),
];
