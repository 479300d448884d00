//! The algorithms that are offered, and which keys they go with.

use std::fmt;

use jsonwebtoken::Algorithm as Backend;

/// How a token is signed (RFC 7518, section 3.1; RFC 8037).
///
/// ES512, ES256K and Ed448 are not offered: the cryptography at hand does not have them. `none` is no algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256, a salt of 32 bytes.
    Ps256,
    /// RSASSA-PSS with SHA-384, a salt of 48 bytes.
    Ps384,
    /// RSASSA-PSS with SHA-512, a salt of 64 bytes.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384. In wasm its check takes some 15 ms, where the others take 1 ms or less (measured in V8):
    /// a client that sends garbage can keep a worker busy, so take ES256 if the issuer lets you choose.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// What a key is, and so which algorithms it may be used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// That many bytes shared with the issuer.
    Secret(usize),
    /// Of 2048 to 4096 bits.
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyKind {
    /// Another for each kind.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Secret(_) => 0,
            Self::Rsa => 1,
            Self::P256 => 2,
            Self::P384 => 3,
            Self::Ed25519 => 4,
        }
    }
}

impl Algorithm {
    /// All that are offered, by their registered names.
    pub const ALL: [(&'static str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// The algorithm of this name, whose case counts. `Ed25519` is EdDSA with this curve (RFC 9864), the only one here.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// True if the key that verifies can sign as well.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        self.least_secret().is_some()
    }

    /// A quarter of what a check takes in wasm, in microseconds, as `make bench` measures it: no machine is faster. Secrets are not
    /// counted: their checks cost little more than reading the token.
    pub(super) fn least_cost(self) -> u64 {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => 0,
            Self::EdDsa => 30,
            Self::Es384 => 1_000,
            _ => 175,
        }
    }

    /// Whether some of these go with secrets and others with public keys, one of which could be taken for the other.
    #[must_use]
    pub fn are_mixed(algorithms: &[Self]) -> bool {
        let symmetric = algorithms.iter().filter(|algorithm| algorithm.is_symmetric()).count();
        symmetric > 0 && symmetric < algorithms.len()
    }

    /// The shortest secret, in bytes: as long as the hash (RFC 7518, section 3.2).
    #[must_use]
    pub fn least_secret(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            _ => None,
        }
    }

    /// Whether a key of this kind may be used with it. A key of another kind never is, whatever the token says: that is
    /// how a public key would become a secret.
    pub(crate) fn fits(self, kind: KeyKind) -> bool {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => {
                matches!((kind, self.least_secret()), (KeyKind::Secret(length), Some(least)) if length >= least)
            }
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                kind == KeyKind::Rsa
            }
            Self::Es256 => kind == KeyKind::P256,
            Self::Es384 => kind == KeyKind::P384,
            Self::EdDsa => kind == KeyKind::Ed25519,
        }
    }

    pub(super) fn backend(self) -> Backend {
        match self {
            Self::Hs256 => Backend::HS256,
            Self::Hs384 => Backend::HS384,
            Self::Hs512 => Backend::HS512,
            Self::Rs256 => Backend::RS256,
            Self::Rs384 => Backend::RS384,
            Self::Rs512 => Backend::RS512,
            Self::Ps256 => Backend::PS256,
            Self::Ps384 => Backend::PS384,
            Self::Ps512 => Backend::PS512,
            Self::Es256 => Backend::ES256,
            Self::Es384 => Backend::ES384,
            Self::EdDsa => Backend::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
