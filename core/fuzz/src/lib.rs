//! What each fuzz target checks, as plain functions of bytes.
//!
//! libFuzzer calls them through `fuzz_targets/`; `core/tests/fuzz_corpus.rs` includes this file and replays the committed
//! corpus, so that what fuzzing once found stays found under a plain `cargo test`. A new target is a module here, a line
//! in [`TARGETS`], a three-line file in `fuzz_targets/`, a `[[bin]]` and a folder in `corpus/`.

pub mod changes;
pub mod clusters;
pub mod config;
pub mod cookie;
pub mod keys;
pub mod path;
pub mod replies;
pub mod requests;
pub mod roster;
pub mod session;
pub mod testdata;
pub mod token;

/// A target's name, which is also that of its corpus folder, and what it checks: it panics if a promise is broken.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("changes", changes::check),
    ("clusters", clusters::check),
    ("config", config::check),
    ("cookie", cookie::check),
    ("keys", keys::check),
    ("path", path::check),
    ("replies", replies::check),
    ("requests", requests::check),
    ("roster", roster::check),
    ("session", session::check),
    ("token", token::check),
];

/// The parts of an input, between lines of `---`.
pub fn sections(input: &[u8]) -> Vec<Vec<u8>> {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    lines.split(|line| *line == b"---").map(|lines| lines.join(&b'\n')).collect()
}
