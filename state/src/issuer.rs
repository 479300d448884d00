//! Who issues the tokens of operators: what they must satisfy, and the keys that tell, from a file.
//!
//! The file is read at the start, and again whenever it changes, because mounted secrets are rotated beneath running
//! processes. One that is broken or gone takes nothing away: the keys that are known stay, and the log says so.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_core::token::{Algorithm, Keys, MAX_JWKS, Policy};
use tokio::sync::watch;

/// A withdrawn key is trusted for so long at most, beside the minute that Kubernetes may take to change the file.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An issuer of tokens.
#[derive(Clone)]
pub struct Issuer {
    /// What each token must satisfy.
    pub policy: Arc<Policy>,
    keys: watch::Receiver<Arc<Keys>>,
}

impl Issuer {
    /// Reads the keys of this file, and follows it for as long as anybody has the issuer.
    ///
    /// # Errors
    /// If it cannot be read, is no set of keys, or has none that goes with the policy. Nothing of a key is in it.
    pub fn open(file: &Path, policy: Policy) -> Result<Self, String> {
        let seen = read(file);
        let keys = keys(&seen, &policy.algorithms).map_err(|fault| format!("{}: {fault}", file.display()))?;
        tracing::info!(file = %file.display(), keys = keys.len(), "operators' tokens are verified");
        let (known, receiver) = watch::channel(Arc::new(keys));
        let followed = Followed { file: file.to_owned(), algorithms: policy.algorithms.clone(), seen, known };
        // A thread, because the file may be on a file system that hangs, and the runtime would wait for it at its end.
        std::thread::Builder::new()
            .name("jwks".to_owned())
            .spawn(move || followed.follow())
            .map_err(|error| format!("{}: cannot be followed: {error}", file.display()))?;
        Ok(Self { policy: Arc::new(policy), keys: receiver })
    }

    /// The keys that are known now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.borrow())
    }
}

struct Followed {
    file: PathBuf,
    algorithms: Vec<Algorithm>,
    seen: Result<Vec<u8>, String>,
    known: watch::Sender<Arc<Keys>>,
}

impl Followed {
    fn follow(mut self) {
        while !self.known.is_closed() {
            std::thread::sleep(LOOK_EVERY);
            self.look();
        }
    }

    /// Compares what is in it, not its times: those of a file system may be too coarse to tell two writes apart, and at
    /// most 64 KiB are read.
    fn look(&mut self) {
        let now = read(&self.file);
        if now == self.seen {
            return;
        }
        let file = self.file.display();
        match keys(&now, &self.algorithms) {
            Ok(keys) => {
                tracing::info!(%file, keys = keys.len(), "the keys have changed");
                self.known.send_replace(Arc::new(keys));
            }
            Err(fault) => tracing::warn!(%file, fault, "the keys cannot be used, those from before are kept"),
        }
        self.seen = now;
    }
}

/// One byte more than a set may have, so that a longer one is seen to be.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    let whole = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(MAX_JWKS as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    whole().map_err(|error| format!("cannot be read: {error}"))
}

fn keys(bytes: &Result<Vec<u8>, String>, algorithms: &[Algorithm]) -> Result<Keys, String> {
    let keys = Keys::from_configured_jwks(bytes.as_ref().map_err(String::clone)?)
        .map_err(|error| error.to_string())?;
    if !keys.fit_any(algorithms) {
        return Err(
            "has no key that goes with jwt-algorithms: name those that its issuer signs with".to_owned()
        );
    }
    Ok(keys)
}
