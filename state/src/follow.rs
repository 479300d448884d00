//! Files that are read at the start, and again whenever they change, because mounted secrets are rotated beneath running
//! processes.
//!
//! What is broken or gone takes nothing away: what was read before stays, and the log and a metric say so. Files that belong
//! together, such as a certificate and its key, are read together: between the two writes they do not fit, which is the same
//! as broken, and heals at the second.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::expiry;
use crate::lock::lock;

/// What is withdrawn is used for so long at most, beside the minute that Kubernetes may take to change the file.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Larger than any key set, bundle of authorities or list of tokens.
const MAX_FILE: u64 = 4 << 20;

/// All that this process follows, for its metrics.
static FOLLOWED: Mutex<Vec<Weak<Status>>> = Mutex::new(Vec::new());

/// Files that are read together, and what they are called.
pub(crate) struct Files {
    /// In metrics.
    pub(crate) name: &'static str,
    /// In the log; in the plural.
    pub(crate) what: &'static str,
    pub(crate) paths: Vec<PathBuf>,
    /// Those of them with certificates, by the setting that names each.
    pub(crate) certificates: Vec<(&'static str, PathBuf, Kind)>,
}

/// When certificates in one file are over.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// With the first: all of them are needed.
    Chain,
    /// With the last: one is enough.
    Authorities,
}

/// How files are.
pub(crate) struct Status {
    pub(crate) name: &'static str,
    is_current: AtomicBool,
    expiries: Mutex<Vec<(&'static str, u64)>>,
}

impl Status {
    /// What is in the files is used.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current.load(Ordering::Relaxed)
    }

    /// When the certificates that are used are over, in seconds since 1970, by setting.
    pub(crate) fn expiries(&self) -> Vec<(&'static str, u64)> {
        lock(&self.expiries).clone()
    }
}

/// All that is followed now.
pub(crate) fn all() -> Vec<Arc<Status>> {
    let mut followed = lock(&FOLLOWED);
    followed.retain(|status| status.strong_count() > 0);
    followed.iter().filter_map(Weak::upgrade).collect()
}

/// Loads files, and again whenever one of them changes, as long as anybody has what this returns.
///
/// # Errors
/// Why they cannot be loaded, or that there is no thread to follow them.
pub(crate) fn follow<T: Send + Sync + 'static, E: Display + From<io::Error> + 'static>(
    files: Files,
    load: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, E> {
    let name = files.name;
    let (known, followed) = Followed::begin(files, load)?;
    // A thread, because the file may be on a file system that hangs, and the runtime would wait for it at its end.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || followed.follow())?;
    Ok(known)
}

pub(crate) struct Followed<T, L> {
    files: Files,
    seen: Vec<Result<Vec<u8>, io::ErrorKind>>,
    load: L,
    known: watch::Sender<Arc<T>>,
    status: Arc<Status>,
}

impl<T, E: Display, L: Fn() -> Result<T, E>> Followed<T, L> {
    pub(crate) fn begin(files: Files, load: L) -> Result<(watch::Receiver<Arc<T>>, Self), E> {
        // Before they are loaded: what changes meanwhile is loaded once more.
        let seen = read(&files.paths);
        let (known, receiver) = watch::channel(Arc::new(load()?));
        let status = Arc::new(Status {
            name: files.name,
            is_current: AtomicBool::new(true),
            expiries: Mutex::new(expiries(&files)),
        });
        lock(&FOLLOWED).push(Arc::downgrade(&status));
        Ok((receiver, Self { files, seen, load, known, status }))
    }

    fn follow(mut self) {
        while !self.known.is_closed() {
            std::thread::sleep(LOOK_EVERY);
            let looked = self.look();
            let what = self.files.what;
            match looked {
                None => {}
                Some(Ok(())) => tracing::info!(files = ?self.files.paths, "the {what} have changed"),
                Some(Err(fault)) => tracing::warn!(
                    files = ?self.files.paths, %fault,
                    "the {what} cannot be used, those from before are kept"
                ),
            }
        }
    }

    /// If a file has changed, whether what is in them now is used, or why what was there before still is.
    ///
    /// Compares what is in them, not their times: those of a file system may be too coarse to tell two writes apart. What could not
    /// be used is tried at each look, because the fault may not have been in the files; only its success is worth a word.
    pub(crate) fn look(&mut self) -> Option<Result<(), E>> {
        let now = read(&self.files.paths);
        let has_changed = now != self.seen;
        if !has_changed && self.status.is_current() {
            return None;
        }
        self.seen = now;
        let loaded = (self.load)();
        if !has_changed && loaded.is_err() {
            return None;
        }
        self.status.is_current.store(loaded.is_ok(), Ordering::Relaxed);
        Some(loaded.map(|value| {
            *lock(&self.status.expiries) = expiries(&self.files);
            self.known.send_replace(Arc::new(value));
        }))
    }
}

fn read(paths: &[PathBuf]) -> Vec<Result<Vec<u8>, io::ErrorKind>> {
    let one = |path: &PathBuf| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    paths.iter().map(|path| one(path).map_err(|error| error.kind())).collect()
}

fn expiries(files: &Files) -> Vec<(&'static str, u64)> {
    let over = |(setting, path, kind): &(&'static str, PathBuf, Kind)| {
        let all = expiry::of_file(path);
        let over = match kind {
            Kind::Chain => all.into_iter().min(),
            Kind::Authorities => all.into_iter().max(),
        };
        over.map(|over| (*setting, over))
    };
    files.certificates.iter().filter_map(over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such as a limit of open files that was reached.
    #[test]
    fn files_that_could_not_be_used_are_tried_again_though_they_do_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        std::fs::write(&path, "1").unwrap();
        let (is_well, files) = (Arc::new(AtomicBool::new(true)), path.clone());
        let is_well_now = Arc::clone(&is_well);
        let load = move || -> Result<String, String> {
            let text = std::fs::read_to_string(&files).map_err(|error| error.to_string())?;
            if is_well_now.load(Ordering::Relaxed) { Ok(text) } else { Err("no memory".to_owned()) }
        };
        let files = Files { name: "t", what: "texts", paths: vec![path.clone()], certificates: Vec::new() };
        let (known, mut followed) = Followed::begin(files, load).unwrap();
        is_well.store(false, Ordering::Relaxed);
        std::fs::write(&path, "2").unwrap();
        assert_eq!(followed.look(), Some(Err("no memory".to_owned())));
        assert_eq!((followed.look(), followed.status.is_current()), (None, false));

        is_well.store(true, Ordering::Relaxed);

        assert_eq!((followed.look(), followed.status.is_current()), (Some(Ok(())), true));
        assert_eq!(**known.borrow(), "2");
        assert_eq!(followed.look(), None);
    }

    #[test]
    fn files_that_belong_together_are_used_once_they_fit_and_kept_while_they_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "other"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, "1").unwrap();
        }
        let (one, other) = (paths[0].clone(), paths[1].clone());
        let load = move || -> Result<String, String> {
            let read = |path| std::fs::read_to_string(path).map_err(|error| error.to_string());
            let (one, other) = (read(&one)?, read(&other)?);
            if one == other { Ok(one) } else { Err(format!("{one} is not {other}")) }
        };
        let files = Files { name: "t", what: "texts", paths: paths.to_vec(), certificates: Vec::new() };
        let (known, mut followed) = Followed::begin(files, load).unwrap();
        assert_eq!(followed.look(), None);

        std::fs::write(&paths[0], "2").unwrap();
        assert_eq!(followed.look(), Some(Err("2 is not 1".to_owned())));
        assert_eq!((followed.look(), followed.status.is_current()), (None, false));
        assert_eq!(**known.borrow(), "1");

        std::fs::write(&paths[1], "2").unwrap();
        assert_eq!((followed.look(), followed.status.is_current()), (Some(Ok(())), true));
        assert_eq!(**known.borrow(), "2");

        std::fs::remove_file(&paths[1]).unwrap();
        assert!(followed.look().unwrap().is_err());
        assert_eq!(**known.borrow(), "2");
    }
}
