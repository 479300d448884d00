//! Why a token is refused, for metrics, for the client and for the code that fetches keys.

use std::{error, fmt};

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Not a signed token in compact form, or its claims are no JSON object.
    Malformed,
    /// Longer than [`MAX_TOKEN`](super::MAX_TOKEN), or its `kid` is longer than any.
    TooLarge,
    /// Its algorithm is not allowed, or does not fit the key that it names.
    Algorithm,
    /// No key is known that it could be signed with: newer keys may have it.
    UnknownKey,
    /// It does not name its key, and several could have signed it.
    AmbiguousKey,
    /// Not signed by the key it names.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not come, or it was issued in the future.
    NotYetValid,
    /// Made by another issuer.
    Issuer,
    /// Made for others.
    Audience,
    /// It demands that an extension is understood.
    Critical,
    /// A claim is missing that must be there.
    ClaimMissing,
    /// A claim is not of its type, such as an `exp` that is no number.
    ClaimType,
}

impl Refusal {
    /// Every reason, for a metric per reason.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::TooLarge,
        Self::Algorithm,
        Self::UnknownKey,
        Self::AmbiguousKey,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Critical,
        Self::ClaimMissing,
        Self::ClaimType,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Critical => "critical",
            Self::ClaimMissing => "claim_missing",
            Self::ClaimType => "claim_type",
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3). An honest client needs to know that its token has expired;
    /// everything else would only help to try out what is accepted.
    #[must_use]
    pub fn challenge(self) -> &'static str {
        match self {
            Self::Expired => r#"Bearer error="invalid_token", error_description="the token has expired""#,
            _ => r#"Bearer error="invalid_token", error_description="the token is not accepted""#,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl error::Error for Refusal {}
