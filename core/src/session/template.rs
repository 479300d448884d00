//! A path template: which segment of a path names the session.
//!
//! It matches whole segments from the front, so `/ws/{session}` finds `abc` in `/ws/abc` and in `/ws/abc/events`, and
//! nothing in `/wsx/abc`. Other segments are compared percent-decoded, but split before: an encoded slash never separates.
//! No `.` or `..` is resolved here; Envoy's `normalize_path` does that before any filter runs.

use std::fmt;

use super::error::SourceError;
use super::extract::percent_decoded;

/// The segment that stands for the session id.
const SESSION: &str = "{session}";

/// A template that holds `{session}` exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Session,
    Any,
    /// Percent-decoded.
    Literal(Vec<u8>),
}

impl PathTemplate {
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let fault = |reason| SourceError::PathTemplate { template: text.to_owned(), reason };
        let segments = text.strip_prefix('/').ok_or(fault("start it with `/`"))?;
        let segments =
            segments.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>().map_err(fault)?;
        match segments.iter().filter(|segment| **segment == Segment::Session).count() {
            1 => Ok(Self { text: text.to_owned(), segments }),
            0 => Err(fault("add the segment `{session}`")),
            _ => Err(fault("keep only one `{session}`")),
        }
    }

    /// The segment that stands where the template has `{session}`, as it is written; `path` is without its query.
    pub(super) fn session<'h>(&self, path: &'h [u8]) -> Option<&'h [u8]> {
        let mut actual = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
        let mut found = None;
        for expected in &self.segments {
            let actual = actual.next()?;
            let matches = match expected {
                Segment::Session => {
                    found = Some(actual);
                    true
                }
                Segment::Any => !actual.is_empty(),
                Segment::Literal(literal) => percent_decoded(actual).eq(literal.iter().copied()),
            };
            if !matches {
                return None;
            }
        }
        found
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            SESSION => Ok(Self::Session),
            "*" => Ok(Self::Any),
            "" => Err("remove the empty segment (`//`, or `/` at the end)"),
            _ if text.contains(SESSION) => Err("make `{session}` a whole segment"),
            _ if text.contains(['{', '}']) => Err("use no braces but those of `{session}`"),
            _ if text.contains('*') => Err("make `*` a whole segment, or write %2a for the character"),
            _ if text.contains(['?', '#']) => {
                Err("end it before `?` or `#`: a template matches the path only")
            }
            _ if text.contains(|letter: char| letter.is_control() || letter == ' ') => {
                Err("write blanks and control characters percent-encoded")
            }
            _ => Ok(Self::Literal(percent_decoded(text.as_bytes()).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(template: &str, path: &str) -> Option<Vec<u8>> {
        PathTemplate::parse(template).unwrap().session(path.as_bytes()).map(<[u8]>::to_vec)
    }

    fn reason(template: &str) -> &'static str {
        match PathTemplate::parse(template) {
            Err(SourceError::PathTemplate { reason, .. }) => reason,
            other => panic!("{template}: {other:?}"),
        }
    }

    #[test]
    fn template_matches_whole_segments_from_the_front() {
        for path in ["/ws/abc", "/ws/abc/", "/ws/abc/more/still"] {
            assert_eq!(session("/ws/{session}", path), Some(b"abc".to_vec()), "{path}");
        }
        for path in ["", "/", "/ws", "/wsx/abc", "/x/ws/abc", "ws/abc", "//ws/abc", "/WS/abc"] {
            assert_eq!(session("/ws/{session}", path), None, "{path}");
        }
    }

    #[test]
    fn segments_after_the_session_must_match_too() {
        assert_eq!(session("/{session}/events", "/abc/events/7"), Some(b"abc".to_vec()));
        assert_eq!(session("/{session}/events", "/abc"), None);
        assert_eq!(session("/{session}/events", "/abc/event"), None);
    }

    #[test]
    fn star_matches_exactly_one_segment() {
        assert_eq!(session("/t/*/{session}", "/t/acme/abc"), Some(b"abc".to_vec()));
        assert_eq!(session("/t/*/{session}", "/t//abc"), None);
        assert_eq!(session("/t/*/{session}", "/t/abc"), None);
    }

    #[test]
    fn segments_are_compared_decoded_but_split_encoded() {
        assert_eq!(session("/ws/{session}", "/%77s/a%2Fb"), Some(b"a%2Fb".to_vec()));
        assert_eq!(session("/caf%C3%A9/{session}", "/café/a"), Some(b"a".to_vec()));
        assert_eq!(session("/a/{session}", "/a%2Fb"), None);
        assert_eq!(session("/%2a/{session}", "/*/a"), Some(b"a".to_vec()));
        assert_eq!(session("/%2a/{session}", "/x/a"), None);
    }

    #[test]
    fn a_bad_template_is_refused_with_what_to_do() {
        for (template, advice) in [
            ("", "start it with `/`"),
            ("ws/{session}", "start it with `/`"),
            ("/ws", "add the segment"),
            ("/", "remove the empty segment"),
            ("/ws/{session}/", "remove the empty segment"),
            ("//{session}", "remove the empty segment"),
            ("/{session}/{session}", "keep only one"),
            ("/ws-{session}", "a whole segment"),
            ("/ws/{id}", "no braces"),
            ("/ws/*x/{session}", "make `*` a whole segment"),
            ("/ws/{session}/x?y", "end it before"),
            ("/ws/{session}/x#y", "end it before"),
            ("/w s/{session}", "percent-encoded"),
            ("/w\ns/{session}", "percent-encoded"),
        ] {
            assert!(reason(template).contains(advice), "{template:?}: {}", reason(template));
        }
    }
}
