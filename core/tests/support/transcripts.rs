//! Stories in `testdata`: each line says what is done, and after `->` what happens.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Plays every transcript of a folder. `play` returns the transcript with what happens after each `->`; it is given the
/// file's name for its own complaints.
pub(crate) fn play_all(folder: &str, play: impl Fn(&str, &str) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_transcript = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "txt");
    let mut paths: Vec<PathBuf> = paths.filter(is_transcript).collect();
    paths.sort();
    assert!(paths.len() >= 10, "only {} transcripts", paths.len());

    let mut wrong = String::new();
    for path in paths {
        let expected = fs::read_to_string(&path).unwrap();
        let happened = play(&expected, &path.display().to_string());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, happened).unwrap();
            continue;
        }
        for (index, (expected, happened)) in expected.lines().zip(happened.lines()).enumerate() {
            if expected != happened {
                let place = format!("{}:{}", path.display(), index + 1);
                writeln!(wrong, "{place}\n  expected: {expected}\n  happened: {happened}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}UPDATE=1 writes down what happened: read the diff");
}
