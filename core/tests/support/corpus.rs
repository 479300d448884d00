//! Replays committed fuzz corpora: one folder for each target, one file for each input.

use std::fs;
use std::path::Path;

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// It panics if a promise is broken.
type Check = fn(&[u8]);

/// Gives each input to its target. The folders have to be the targets', in alphabetical order.
pub(crate) fn replay(corpus: &Path, targets: &[(&str, Check)]) {
    let known: Vec<_> = targets.iter().map(|(target, _)| *target).collect();
    assert_eq!(names_in(corpus), known, "list the targets in alphabetical order");
    for (target, check) in targets {
        let folder = corpus.join(target);
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
