//! Replays the committed fuzz corpus through the fuzz targets' own checks.

use std::path::Path;

#[path = "support/corpus.rs"]
mod corpus;
#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

#[test]
fn every_committed_input_keeps_every_promise() {
    corpus::replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus"), fuzz::TARGETS);
}
