//! Who issues the tokens of operators: what they must satisfy, and the keys that tell, from a file that is followed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_core::token::{Algorithm, JwksError, Keys, MAX_JWKS, Policy};
use tokio::sync::watch;

use crate::follow::{Files, follow};

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

impl From<io::Error> for KeysFault {
    fn from(error: io::Error) -> Self {
        Self::NotFollowed(error.to_string())
    }
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
        let load = Self::load(file, &policy);
        let keys = follow(files(file), load).map_err(|fault| IssuerError { file: file.to_owned(), fault })?;
        let issuer = Self { policy: Arc::new(policy), keys };
        tracing::info!(file = %file.display(), keys = issuer.keys().len(), "operators' tokens are verified");
        Ok(issuer)
    }

    fn load(file: &Path, policy: &Policy) -> impl Fn() -> Result<Keys, KeysFault> + use<> {
        let (file, algorithms) = (file.to_owned(), policy.algorithms.clone());
        move || keys(&read(&file)?, &algorithms)
    }

    /// The keys that are known now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.borrow())
    }
}

fn files(file: &Path) -> Files {
    Files { name: "jwks", what: "keys", paths: vec![file.to_owned()], certificates: Vec::new() }
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

fn keys(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Keys, KeysFault> {
    let keys = Keys::from_configured_jwks(bytes)?;
    if keys.fit_any(algorithms) { Ok(keys) } else { Err(KeysFault::NoneFits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::Followed;

    const ONE: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn a_file_that_is_broken_or_gone_is_told_once_and_costs_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        std::fs::write(&file, ONE).unwrap();
        let load = Issuer::load(&file, &Policy::new(vec![Algorithm::EdDsa]));
        let (known, mut followed) = Followed::begin(files(&file), load).unwrap();
        let first = Arc::clone(&known.borrow());
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
            assert_eq!(*known.borrow(), first, "{says}");
        }

        std::fs::write(&file, ONE.replace(r#""a""#, r#""b""#)).unwrap();
        assert_eq!(followed.look(), Some(Ok(())));
        assert_ne!(*known.borrow(), first);
    }

    #[test]
    fn keys_that_could_verify_nothing_are_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Issuer::load(&file, &Policy::new(vec![Algorithm::Rs256]))().unwrap_err().to_string()
        };

        assert!(refused(ONE).contains("no key that goes with jwt-algorithms"));
        assert!(refused(&" ".repeat(MAX_JWKS + 1)).contains("is larger than"));
    }
}
