//! Who issues the tokens of operators: what they must satisfy, and the keys that tell, from a file.
//!
//! The file is read at the start, and again whenever it changes, because mounted secrets are rotated beneath running
//! processes. One that is broken or gone takes nothing away: the keys that are known stay, and the log says so.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_core::token::{Algorithm, JwksError, Keys, MAX_JWKS, Policy};
use tokio::sync::watch;

/// A withdrawn key is trusted for so long at most, beside the minute that Kubernetes may take to change the file.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why keys cannot be used. Nothing of a key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysFault {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is not a set of keys.
    #[error(transparent)]
    Unusable(#[from] JwksError),
    /// The file is a set of keys, but no key fits the configured algorithms.
    #[error("has no key that goes with jwt-algorithms: name those that its issuer signs with")]
    NoneFits,
    /// There is no thread that could read it again.
    #[error("cannot be followed: {0}")]
    NotFollowed(String),
}

/// The file whose keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct IssuerError {
    file: PathBuf,
    #[source]
    fault: KeysFault,
}

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
    pub fn open(file: &Path, policy: Policy) -> Result<Self, IssuerError> {
        let of_file = |fault| IssuerError { file: file.to_owned(), fault };
        let (issuer, followed) = Self::begin(file, policy).map_err(of_file)?;
        tracing::info!(file = %file.display(), keys = issuer.keys().len(), "operators' tokens are verified");
        // A thread, because the file may be on a file system that hangs, and the runtime would wait for it at its end.
        std::thread::Builder::new()
            .name("jwks".to_owned())
            .spawn(move || followed.follow())
            .map_err(|error| of_file(KeysFault::NotFollowed(error.to_string())))?;
        Ok(issuer)
    }

    fn begin(file: &Path, policy: Policy) -> Result<(Self, Followed), KeysFault> {
        let seen = read(file);
        let keys = keys(&seen, &policy.algorithms)?;
        let (known, receiver) = watch::channel(Arc::new(keys));
        let followed = Followed { file: file.to_owned(), algorithms: policy.algorithms.clone(), seen, known };
        Ok((Self { policy: Arc::new(policy), keys: receiver }, followed))
    }

    /// The keys that are known now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.borrow())
    }
}

struct Followed {
    file: PathBuf,
    algorithms: Vec<Algorithm>,
    seen: Result<Vec<u8>, KeysFault>,
    known: watch::Sender<Arc<Keys>>,
}

impl Followed {
    fn follow(mut self) {
        while !self.known.is_closed() {
            std::thread::sleep(LOOK_EVERY);
            let looked = self.look();
            let file = self.file.display();
            match looked {
                None => {}
                Some(Ok(keys)) => tracing::info!(%file, keys, "the keys have changed"),
                Some(Err(fault)) => {
                    tracing::warn!(%file, %fault, "the keys cannot be used, those from before are kept");
                }
            }
        }
    }

    /// If the file has changed, how many keys are known now, or why they are as before.
    ///
    /// Compares what is in it, not its times: those of a file system may be too coarse to tell two writes apart, and at
    /// most 64 KiB are read.
    fn look(&mut self) -> Option<Result<usize, KeysFault>> {
        let now = read(&self.file);
        if now == self.seen {
            return None;
        }
        let keys = keys(&now, &self.algorithms);
        self.seen = now;
        Some(keys.map(|keys| {
            let count = keys.len();
            self.known.send_replace(Arc::new(keys));
            count
        }))
    }
}

/// One byte more than a set may have, so that a longer one is seen to be.
fn read(file: &Path) -> Result<Vec<u8>, KeysFault> {
    let whole = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(MAX_JWKS as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    whole().map_err(|error| KeysFault::Unreadable(error.to_string()))
}

fn keys(bytes: &Result<Vec<u8>, KeysFault>, algorithms: &[Algorithm]) -> Result<Keys, KeysFault> {
    let keys = Keys::from_configured_jwks(bytes.as_ref().map_err(KeysFault::clone)?)?;
    if keys.fit_any(algorithms) { Ok(keys) } else { Err(KeysFault::NoneFits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn a_file_that_is_broken_or_gone_is_told_once_and_costs_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        std::fs::write(&file, ONE).unwrap();
        let (issuer, mut followed) = Issuer::begin(&file, Policy::new(vec![Algorithm::EdDsa])).unwrap();
        let first = issuer.keys();
        assert_eq!(followed.look(), None);

        let broken = [
            (Some("{"), "is not a JSON object"),
            (Some(""), "is not a JSON object"),
            (Some(r#"{"keys": []}"#), "has no usable key"),
            (None, "cannot be read"),
        ];
        for (text, says) in broken {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            let message = followed.look().unwrap().unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
            assert_eq!(followed.look(), None, "{says}");
            assert_eq!(issuer.keys(), first, "{says}");
        }

        std::fs::write(&file, ONE.replace(r#""a""#, r#""b""#)).unwrap();
        assert_eq!(followed.look(), Some(Ok(1)));
        assert_ne!(issuer.keys(), first);
    }

    #[test]
    fn keys_that_could_verify_nothing_are_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Issuer::begin(&file, Policy::new(vec![Algorithm::Rs256])).map(|_| ()).unwrap_err().to_string()
        };

        assert!(refused(ONE).contains("no key that goes with jwt-algorithms"));
        assert!(refused(&" ".repeat(MAX_JWKS + 1)).contains("is larger than"));
    }
}
