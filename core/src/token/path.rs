//! The way to a claim: the names of members, from the outermost object inwards.

use std::{error, fmt};

use serde_json::{Map, Value};

/// Deeper claims are not known in the wild, and each step is a look-up per request.
const MAX_SEGMENTS: usize = 8;

/// Where a claim is: `player.id` is the member `id` of the object `player`.
///
/// Names with dots, such as `https://example.com/sid`, are given as segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Splits `text` at its dots.
    ///
    /// # Errors
    /// If a segment is empty, there are too many, or the text looks like a URL, whose dots belong to the name.
    pub fn parse(text: &str) -> Result<Self, ClaimPathError> {
        if text.contains("://") {
            return Err(ClaimPathError::Url);
        }
        Self::from_segments(text.split('.').map(str::to_owned).collect())
    }

    /// The members by their names.
    ///
    /// # Errors
    /// If a name is empty, or there is no name, or there are too many.
    pub fn from_segments(segments: Vec<String>) -> Result<Self, ClaimPathError> {
        if segments.is_empty() || segments.iter().any(String::is_empty) {
            return Err(ClaimPathError::EmptySegment);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(ClaimPathError::TooDeep);
        }
        Ok(Self(segments))
    }

    /// The names, from the outermost inwards.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    pub(super) fn find<'v>(&self, members: &'v Map<String, Value>) -> Option<&'v Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(members.get(first)?, |value, name| value.as_object()?.get(name))
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Why a path cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimPathError {
    /// No name, or one without characters.
    EmptySegment,
    /// More names than any claim has.
    TooDeep,
    /// A URL, which would be split at the dots of its host.
    Url,
}

impl fmt::Display for ClaimPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptySegment => f.write_str("name at least one member, none of them empty"),
            Self::TooDeep => write!(f, "name at most {MAX_SEGMENTS} members"),
            Self::Url => f.write_str("is split at its dots: give it as an array of one name"),
        }
    }
}

impl error::Error for ClaimPathError {}
