//! Replays the committed fuzz corpus through the fuzz targets' own checks, as `core/tests/fuzz_corpus.rs` does.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
pub mod fuzz;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_committed_input_keeps_every_promise() {
    for (target, check) in fuzz::TARGETS {
        let folder = corpus().join(target);
        let names = names_in(&folder);
        assert!(!names.is_empty(), "{} is empty: nothing was replayed", folder.display());

        // One after the other to the end: the panics' own messages do not know the file.
        let keeps_promises = |name: &String| {
            let input = fs::read(folder.join(name)).unwrap();
            std::panic::catch_unwind(|| check(&input)).is_ok()
        };
        let broken: Vec<_> = names.iter().filter(|name| !keeps_promises(name)).collect();
        assert!(broken.is_empty(), "{target}: look at {broken:?}");
    }
}

#[test]
fn every_corpus_folder_has_a_target() {
    let targets: Vec<_> = fuzz::TARGETS.iter().map(|(target, _)| *target).collect();

    assert_eq!(names_in(&corpus()), targets, "list the targets in alphabetical order");
}
