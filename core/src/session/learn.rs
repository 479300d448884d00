//! Ids that nodes mint: where a response names the session that it begins.
//!
//! The counterpart of [`Source`] for responses. A node that begins a session says its id in a response header, or in a
//! cookie that it sets. A cookie that it takes away begins nothing.

use super::SessionId;
use super::expiry;
use super::extract::{trim, unquoted};
use super::source::{Part, Place, Source};
use crate::attributes::ResponseHeaders;
use crate::time::Millis;

/// A place in a response that may name a session: that of a source, and read as it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnSource(Part);

impl LearnSource {
    /// Where a response says what this source finds in later requests; `None` if there is no such place.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        let part = source.single()?;
        let is_there = match part.place() {
            Place::Header(name) => !name.starts_with(':'),
            place => matches!(place, Place::Cookie(_)),
        };
        is_there.then(|| Self(part.clone()))
    }

    fn find(&self, response: &dyn ResponseHeaders, now: &dyn Fn() -> Millis) -> Option<SessionId> {
        match self.0.place() {
            Place::Header(name) => SessionId::new(self.0.read(&response.response_header(name)?).into_owned()),
            // Clients keep the last of a name. A deletion beside it is of the same name at another path or domain.
            Place::Cookie(name) => {
                let lines = response.set_cookies();
                lines
                    .iter()
                    .rev()
                    .find_map(|line| SessionId::new(self.0.read(cookie_kept(line, name, now)?).into_owned()))
            }
            _ => None,
        }
    }
}

/// The session that a response begins: the first of `sources` that finds a usable id. The time is asked for only if a cookie
/// expires by the calendar.
pub fn learn(
    sources: &[LearnSource],
    response: &dyn ResponseHeaders,
    now: &dyn Fn() -> Millis,
) -> Option<SessionId> {
    sources.iter().find_map(|source| source.find(response, now))
}

/// The value in a `Set-Cookie` line of this name, unless it tells the client to forget the cookie (RFC 6265, section 5.2).
fn cookie_kept<'l>(line: &'l [u8], name: &str, now: &dyn Fn() -> Millis) -> Option<&'l [u8]> {
    let mut parts = line.split(|byte| *byte == b';');
    let (key, value) = pair(parts.next()?);
    if key != name.as_bytes() {
        return None;
    }
    let id = unquoted(value?);
    let (mut max_age, mut expires) = (None, None);
    for (key, value) in parts.map(pair) {
        let value = value.unwrap_or_default();
        if key.eq_ignore_ascii_case(b"max-age") {
            max_age = is_over(value).or(max_age);
        } else if key.eq_ignore_ascii_case(b"expires") {
            expires = expiry::parse(value).or(expires);
        }
    }
    let is_deleted = max_age.unwrap_or_else(|| expires.is_some_and(|expires| expires <= now()));
    (!is_deleted && !id.is_empty()).then_some(id)
}

/// A name and a value around `=`, without blanks.
fn pair(part: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut halves = part.splitn(2, |byte| *byte == b'=');
    (trim(halves.next().unwrap_or_default()), halves.next().map(trim))
}

/// Whether so many seconds from now are over already; `None` if it is not a number of seconds.
fn is_over(seconds: &[u8]) -> Option<bool> {
    let (is_negative, digits) = match seconds {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| is_negative || digits.iter().all(|digit| *digit == b'0'))
}

#[cfg(test)]
mod tests {
    use super::super::source::Reading;
    use super::*;

    /// A response with these headers.
    struct Response(&'static [(&'static str, &'static str)]);

    impl ResponseHeaders for Response {
        fn response_header(&self, name: &str) -> Option<Vec<u8>> {
            self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes().to_vec())
        }

        fn set_cookies(&self) -> Vec<Vec<u8>> {
            let lines = self.0.iter().filter(|(name, _)| *name == "set-cookie");
            lines.map(|(_, value)| value.as_bytes().to_vec()).collect()
        }
    }

    /// What is learned on 2026-11-27 at noon.
    fn learned(source: &Source, response: &'static [(&'static str, &'static str)]) -> Option<String> {
        let sources = [LearnSource::of(source).unwrap()];
        let id = learn(&sources, &Response(response), &|| Millis(1_795_780_800_000))?;
        Some(String::from_utf8(id.as_bytes().to_vec()).unwrap())
    }

    fn of_cookie(line: &'static str) -> Option<String> {
        learned(&Source::cookie("sid").unwrap(), Box::leak(Box::new([("set-cookie", line)])))
    }

    #[test]
    fn a_header_names_the_session() {
        let source = Source::header("Mcp-Session-Id").unwrap();

        assert_eq!(learned(&source, &[("mcp-session-id", " abc ")]).as_deref(), Some("abc"));
        assert_eq!(learned(&source, &[("mcp-session-id", "")]), None);
        assert_eq!(learned(&source, &[("server", "abc")]), None);
    }

    #[test]
    fn a_cookie_that_the_client_keeps_names_the_session() {
        for line in [
            "sid=abc",
            "sid=abc; Path=/; HttpOnly",
            " sid = abc ;Secure",
            "sid=\"abc\"; Max-Age=60",
            "sid=abc; Max-Age=; Expires=Fri, 27 Nov 2026 12:00:01 GMT",
            "sid=abc; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "sid=abc; expires=never",
        ] {
            assert_eq!(of_cookie(line).as_deref(), Some("abc"), "{line}");
        }
    }

    #[test]
    fn a_cookie_that_is_taken_away_names_none() {
        for line in [
            "sid=",
            "sid=\"\"; Path=/",
            "sid",
            "sid=abc; Max-Age=0",
            "sid=abc; max-age=-1",
            "sid=abc; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
            "sid=abc; Expires=Fri, 27 Nov 2026 11:59:59 GMT",
            "sid=abc; Max-Age=60; Max-Age=0",
            "SID=abc",
            "sid2=abc",
            "",
        ] {
            assert_eq!(of_cookie(line), None, "{line}");
        }
    }

    #[test]
    fn of_several_lines_the_last_that_is_kept_counts() {
        let source = Source::cookie("sid").unwrap();

        let lines = &[
            ("set-cookie", "theme=dark"),
            ("set-cookie", "sid=old; Path=/app; Max-Age=0"),
            ("set-cookie", "sid=first"),
            ("set-cookie", "sid=abc"),
            ("set-cookie", "sid=; Path=/old; Max-Age=0"),
        ];
        assert_eq!(learned(&source, lines).as_deref(), Some("abc"));
    }

    #[test]
    fn a_long_value_names_its_beginning() {
        let source = Source::cookie("sid").unwrap();
        let source = source.read_as(Reading { decode: true, until: Some(".".to_owned()) });
        let line = format!("sid=s%3Aabc.{}; Path=/", "x".repeat(2_000));

        let lines = Box::leak(Box::new([("set-cookie", &*Box::leak(line.into_boxed_str()))]));
        assert_eq!(learned(&source, lines).as_deref(), Some("s:abc"));
    }

    #[test]
    fn only_headers_and_cookies_are_in_a_response() {
        for source in [Source::query("sid"), Source::subprotocol("sid."), Source::header(":authority")] {
            assert_eq!(LearnSource::of(&source.unwrap()), None);
        }
    }
}
