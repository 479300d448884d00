//! Why a text is not a source of session ids.

use std::{error, fmt};

/// How many parts a composite may have. One is no composite; five can hardly fit a session id, and each one costs a look
/// at the request.
pub(super) const COMPOSITE_PARTS: std::ops::RangeInclusive<usize> = 2..=4;

/// Why a source cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// Not a header's name.
    HeaderName(String),
    /// A pseudo header that says nothing about the session.
    PseudoHeader(String),
    /// A header of which only a part can name the session.
    SharedHeader {
        /// The header's name.
        name: String,
        /// The kind of source to use.
        instead: &'static str,
    },
    /// Not a cookie's name.
    CookieName(String),
    /// Not a query parameter's name.
    QueryName(String),
    /// Not a matrix parameter's name.
    MatrixName(String),
    /// Not a path template.
    PathTemplate {
        /// The template as given.
        template: String,
        /// What to do about it.
        reason: &'static str,
    },
    /// Not the beginning of a subprotocol.
    SubprotocolPrefix(String),
    /// Too few or too many parts.
    CompositeSize(usize),
    /// A part that has parts.
    CompositeInComposite,
    /// A part that is a token's.
    ClaimsInComposite,
}

impl fmt::Display for SourceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TOKEN: &str = "use letters, digits and any of !#$%&'*+-.^_`|~";
        match self {
            Self::HeaderName(name) => write!(formatter, "{name:?} is no header name: {TOKEN}"),
            Self::PseudoHeader(name) => {
                write!(formatter, "pseudo header {name:?} cannot name a session: only :authority can")
            }
            Self::SharedHeader { name, instead } => {
                write!(formatter, "header {name:?} holds more than the session: use {instead}")
            }
            Self::MatrixName(name) => write!(formatter, "{name:?} is no matrix parameter name: {TOKEN}"),
            Self::CookieName(name) => write!(formatter, "{name:?} is no cookie name: {TOKEN}"),
            Self::QueryName(name) => {
                write!(
                    formatter,
                    "{name:?} is no query parameter name: use at least one character, no control characters"
                )
            }
            Self::PathTemplate { template, reason } => {
                write!(formatter, "path template {template:?}: {reason}")
            }
            Self::SubprotocolPrefix(prefix) => {
                write!(formatter, "{prefix:?} is no subprotocol prefix: {TOKEN}")
            }
            Self::CompositeSize(parts) => {
                let (least, most) = (COMPOSITE_PARTS.start(), COMPOSITE_PARTS.end());
                write!(formatter, "a composite of {parts}: give it {least} to {most} parts")
            }
            Self::CompositeInComposite => {
                formatter.write_str("a composite within a composite: list the inner parts in the outer one")
            }
            Self::ClaimsInComposite => {
                formatter.write_str("a composite with a token: list the token's claims in a jwt source")
            }
        }
    }
}

impl error::Error for SourceError {}
